/* Reading /proc/PID: see monitor_memory.h. The kernel's own text, trusted. */
#include "monitor_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/fd.h"

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
        /* A file's page that is yet to reach the disk counts as private and dirty if just one
         * process maps it; "anonymous" are only a process's own copies. */
        if (sscanf(line, "Anonymous: %" SCNu64 " kB", &kib) != 1)
            continue;
        if (guest)
            ret_memory->guest_bytes += kib * 1024;
        else
            ret_memory->own_bytes += kib * 1024;
    }
    fclose(file);
}

/* This thread's capabilities; a pid of 0 means the caller. */
static int get_capabilities(struct __user_cap_data_struct set[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return syscall(SYS_capget, &header, set) < 0 ? -errno : 0;
}

static int set_capabilities(const struct __user_cap_data_struct set[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return syscall(SYS_capset, &header, set) < 0 ? -errno : 0;
}

/*
 * Whoever opens a pagemap with CAP_SYS_ADMIN lets its reader see physical addresses, and the reader
 * will be the monitor. So this thread does without for a moment (pagemap.rst, "bits 0-54").
 */
int monitor_memory_open_pagemap(pid_t pid, int *ret_fd, struct error *err)
{
    struct __user_cap_data_struct before[2], without[2];
    char path[64];
    int r = get_capabilities(before);

    if (r < 0)
        return error_set(err, -r, "read this process's capabilities");
    memcpy(without, before, sizeof(without));
    without[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~(uint32_t)CAP_TO_MASK(CAP_SYS_ADMIN);
    r = set_capabilities(without);
    if (r < 0)
        return error_set(err, -r, "lay down CAP_SYS_ADMIN");
    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    r = fd < 0 ? error_set(err, errno, "open %s", path) : 0;
    int back = set_capabilities(before);
    if (back < 0)
        return error_set(err, -back, "take CAP_SYS_ADMIN up again");
    if (r == 0)
        *ret_fd = fd_steal(&fd);
    return r;
}
