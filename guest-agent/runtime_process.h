/* Starting the function's process: unprivileged, in its cgroup, with exactly the files it needs. */
#ifndef MAYFLY_AGENT_RUNTIME_PROCESS_H
#define MAYFLY_AGENT_RUNTIME_PROCESS_H

#include <sys/types.h>

#include "guest-agent/agent.h"

struct spawn_plan {
    const char *const *programs; /* paths, NULL at the end: the first that exists is executed */
    char *const *arguments;      /* from argv[1] on, NULL at the end */
    char *const *environment;
    uint32_t memory_mib; /* what the function has, for interpreters that want to know */
    int files[5];        /* become fds 0 to 4; -1 ends the list; close-on-exec, files[i] above i */
    int cgroup_fd;       /* directory of the cgroup to start in; -1 none */
};

/*
 * runtime_process_spawn - returns once the program runs, or cannot.
 * @ret_pid: to be reaped by the caller; set only on success.
 * Returns 0; -ENOENT if none of the programs exists; another -errno with *failure saying what.
 */
int runtime_process_spawn(const struct spawn_plan *plan, pid_t *ret_pid, struct failure *failure);

#endif
