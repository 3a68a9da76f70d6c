/* The function's cgroup: its limits, what it used, and the way to end all of it at once. */
#ifndef MAYFLY_AGENT_FUNCTION_CGROUP_H
#define MAYFLY_AGENT_FUNCTION_CGROUP_H

#include <stdbool.h>

#include "guest-agent/agent.h"

struct function_cgroup {
    int dir_fd;      /* owned; -1: the guest has no cgroup tree */
    int peak_fd;     /* owned; -1: no memory controller */
    int kill_fd;     /* owned; -1 */
    bool is_limited; /* function_cgroup_limit() was called */
};

/*
 * function_cgroup_create - at boot. Never fails: what the guest's kernel lacks is told to the
 * console and done without.
 */
void function_cgroup_create(struct function_cgroup *cgroup);

/*
 * function_cgroup_limit - set the limits for a function of @memory_mib, once its code is stored.
 * The agent keeps for itself and the kernel 4 MiB and a 64th of the memory, of what is free now or
 * used by the function already. May be called again: the memory limit then changes.
 */
void function_cgroup_limit(struct function_cgroup *cgroup, uint32_t memory_mib);

/* function_cgroup_memory_limit - the rule of the above, in bytes; 0 is no limit. */
uint64_t function_cgroup_memory_limit(uint64_t memory_mib, uint64_t total_bytes,
                                      uint64_t free_bytes);

/* function_cgroup_kill - SIGKILL for every process of the function, forks in flight included. */
void function_cgroup_kill(const struct function_cgroup *cgroup);

/* function_cgroup_peak - most memory used since the start, in bytes; 0 if unknown. One system call.
 */
uint64_t function_cgroup_peak(const struct function_cgroup *cgroup);

/* function_cgroup_oom_kills - how many processes were killed for want of memory; 0 if unknown. */
uint64_t function_cgroup_oom_kills(const struct function_cgroup *cgroup);

#endif
