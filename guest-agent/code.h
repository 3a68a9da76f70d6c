/* The function's code: files that the host sends, stored below /var/task. */
#ifndef MAYFLY_AGENT_CODE_H
#define MAYFLY_AGENT_CODE_H

#include <stdbool.h>

#include "agent.pb-c.h"
#include "guest-agent/agent.h"

enum { TASK_CODE_PATH_MAX = 1024 };

struct task_code {
    int root_fd;                         /* owned: the directory that nothing may leave */
    int parent_fd;                       /* owned, or -1: the directory of the last entry */
    char parent[TASK_CODE_PATH_MAX + 1]; /* its path */
    bool has_libraries; /* some file is called *.so or *.so.*: the loader must look here */
};

/*
 * task_code_path_valid - is @path relative, of TASK_CODE_PATH_MAX characters at most, with parts
 * of 1 to 255 characters none of which is "." or ".."?
 */
bool task_code_path_valid(const char *path);

/* task_code_open - @directory: where the code goes. Returns 0 or -errno. */
int task_code_open(struct task_code *code, const char *directory, struct failure *failure);

/*
 * task_code_store - create, or append to, what @entry says; missing directories above it are made.
 * The path comes from outside and never leaves the root: no part of it is followed if it is a link.
 * Everything is readable by the function and writable by root only.
 * Returns 0 or -errno; a file may then be there in part.
 */
int task_code_store(struct task_code *code, const Mayfly__Agent__CodeEntry *entry,
                    struct failure *failure);

void task_code_close(struct task_code *code);

#endif
