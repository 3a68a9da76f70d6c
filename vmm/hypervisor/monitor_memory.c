/* Reading /proc/PID/smaps: see monitor_memory.h. The kernel's own text, trusted. */
#include "monitor_memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The name that machine_memory.c gives to guest memory. */
static const char guest_name[] = "mayfly-guest";

/* Is @line the head of a mapping ("start-end perms ... name")? Then says whose it is. */
static bool parse_head(const char *line, uint64_t guest_bytes, bool *ret_guest)
{
    uint64_t start, end;
    char permissions[8];

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, permissions) != 3)
        return false;
    *ret_guest = strstr(line, guest_name) || end - start >= guest_bytes;
    return true;
}

void monitor_memory_read(pid_t pid, uint64_t guest_bytes, struct monitor_memory *ret_memory)
{
    char path[64], line[512];
    uint64_t kib;
    bool guest = false;

    *ret_memory = (struct monitor_memory){0};
    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof(line), file)) {
        if (parse_head(line, guest_bytes, &guest))
            continue;
        /* A snapshot's page that is yet to reach the disk is dirty, and "private" if just one guest
         * maps it; "anonymous" are only a guest's own copies. */
        if (guest && sscanf(line, "Anonymous: %" SCNu64 " kB", &kib) == 1)
            ret_memory->guest_bytes += kib * 1024;
        else if (!guest && sscanf(line, "Private_Dirty: %" SCNu64 " kB", &kib) == 1)
            ret_memory->own_bytes += kib * 1024;
    }
    fclose(file);
}
