/* Page faults taken before a snapshot, see prefault.h. */
#include "guest-agent/prefault.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum {
    LIMIT_PAGES = 2048, /* of one process: an interpreter, not a function's model */
    PAGE = 4096,
};

/* A file's mapping that nobody writes to: pages of others are there already. */
static bool is_code(const char *permissions, unsigned long inode)
{
    return permissions[0] == 'r' && permissions[1] == '-' && inode != 0;
}

/* Reading a process's memory faults it in like the process itself would (proc(5), "mem"). */
static unsigned touch_range(int memory_fd, unsigned long from, unsigned long upto, unsigned limit)
{
    unsigned n = 0;
    char byte;

    for (; from < upto && n < limit; from += PAGE, n++)
        if (pread(memory_fd, &byte, 1, (off_t)from) != 1)
            break;
    return n;
}

void prefault_code(pid_t pid)
{
    unsigned long from, upto, inode;
    char path[32], permissions[5];
    unsigned left = LIMIT_PAGES;

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    int memory_fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    while (memory_fd >= 0 && maps && left > 0 &&
           fscanf(maps, "%lx-%lx %4s %*s %*s %lu%*[^\n]", &from, &upto, permissions, &inode) == 4)
        if (is_code(permissions, inode))
            left -= touch_range(memory_fd, from, upto, left);
    if (maps)
        fclose(maps);
    if (memory_fd >= 0)
        close(memory_fd);
}
