/*
 * The function's cgroup. Process: mayfly-agent. The agent itself stays in the root group, outside
 * of every limit, so that a function that takes all it may have cannot starve it. Source:
 * Documentation/admin-guide/cgroup-v2.rst.
 */
#include "guest-agent/function_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define ROOT_DIR "/sys/fs/cgroup"
#define FUNCTION_DIR ROOT_DIR "/function"

enum { SHARE_BYTES = 4 << 20, SHARE_FRACTION = 64, LIMIT_MIN_BYTES = 8 << 20 };

static int write_text(int dir_fd, const char *name, const char *text)
{
    int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC);
    int result = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        result = -errno;
    close(fd);
    return result;
}

static void write_number(int dir_fd, const char *name, uint64_t number)
{
    char text[24];
    int result;

    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    result = write_text(dir_fd, name, text);
    if (result < 0)
        agent_say("cgroup limit %s=%s not set: %s", name, text, strerrordesc_np(-result));
}

void function_cgroup_create(struct function_cgroup *cgroup)
{
    int result;

    cgroup->dir_fd = cgroup->peak_fd = cgroup->kill_fd = -1;
    result = write_text(AT_FDCWD, ROOT_DIR "/cgroup.subtree_control", "+memory +pids");
    if (result < 0)
        agent_say("no memory and pids controllers, the function is not limited: %s",
                  strerrordesc_np(-result));
    if (mkdir(FUNCTION_DIR, 0755) < 0 && errno != EEXIST)
        return;
    cgroup->dir_fd = open(FUNCTION_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup->dir_fd < 0)
        return;
    cgroup->peak_fd = openat(cgroup->dir_fd, "memory.peak", O_RDONLY | O_CLOEXEC);
    cgroup->kill_fd = openat(cgroup->dir_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);
}

uint64_t function_cgroup_memory_limit(uint64_t memory_mib, uint64_t total_bytes,
                                      uint64_t free_bytes)
{
    uint64_t share = SHARE_BYTES + total_bytes / SHARE_FRACTION;
    uint64_t limit = free_bytes > share ? free_bytes - share : 0;

    if (memory_mib == 0)
        return 0;
    if (memory_mib < limit >> 20)
        limit = memory_mib << 20;
    return limit < LIMIT_MIN_BYTES ? LIMIT_MIN_BYTES : limit;
}

static uint64_t read_number(int dir_fd, const char *name)
{
    char text[24];
    ssize_t len;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0)
        return 0;
    text[len] = '\0';
    return strtoull(text, NULL, 10);
}

void function_cgroup_limit(struct function_cgroup *cgroup, uint32_t memory_mib)
{
    bool is_again = cgroup->is_limited;
    struct sysinfo info;
    uint64_t used = 0;
    uint64_t limit;

    if (cgroup->peak_fd < 0) /* no controllers: said at boot */
        return;
    cgroup->is_limited = true;
    if (is_again) {
        used = read_number(cgroup->dir_fd, "memory.current");
    } else {
        write_number(cgroup->dir_fd, "pids.max", AGENT_PIDS_MAX);
        /* One process killed for memory leaves a function in a state that nobody designed: all go.
         */
        write_number(cgroup->dir_fd, "memory.oom.group", 1);
    }
    if (sysinfo(&info) < 0)
        return;
    limit = function_cgroup_memory_limit(memory_mib, (uint64_t)info.totalram * info.mem_unit,
                                         (uint64_t)info.freeram * info.mem_unit + used);
    if (limit > 0)
        write_number(cgroup->dir_fd, "memory.max", limit);
    else if (is_again)
        (void)write_text(cgroup->dir_fd, "memory.max", "max");
}

void function_cgroup_kill(const struct function_cgroup *cgroup)
{
    if (cgroup->kill_fd >= 0 && write(cgroup->kill_fd, "1", 1) == 1)
        return;
    /* Whatever runs beside PID 1 belongs to the function. */
    kill(-1, SIGKILL);
}

uint64_t function_cgroup_peak(const struct function_cgroup *cgroup)
{
    char text[24];
    ssize_t len;

    if (cgroup->peak_fd < 0)
        return 0;
    len = pread(cgroup->peak_fd, text, sizeof(text) - 1, 0);
    if (len <= 0)
        return 0;
    text[len] = '\0';
    return strtoull(text, NULL, 10);
}

uint64_t function_cgroup_oom_kills(const struct function_cgroup *cgroup)
{
    char text[256];
    const char *found;
    ssize_t len;
    int fd;

    if (cgroup->peak_fd < 0)
        return 0;
    fd = openat(cgroup->dir_fd, "memory.events", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    len = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (len <= 0)
        return 0;
    text[len] = '\0';
    found = strstr(text, "\noom_kill ");
    return found ? strtoull(found + strlen("\noom_kill "), NULL, 10) : 0;
}
