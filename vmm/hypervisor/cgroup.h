/*
 * The control-group leaf of one monitor, on cgroup v1, v2 or a mix of both: what the kernel lets
 * the process and its kernel memory have, whatever it does. Leaves are <hierarchy>/mayfly/<name>;
 * whoever made one holds a lock on it, so that what a killed host left can be told from what is in
 * use.
 */
#ifndef MAYFLY_HYPERVISOR_CGROUP_H
#define MAYFLY_HYPERVISOR_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct cgroup_leaf;

enum { CGROUP_MAX_HIERARCHIES = 4 };

struct cgroup_limits {
    uint64_t memory_bytes; /* page tables, page cache that it brings in and the like included */
    uint32_t cpu_share;    /* thousandths of a CPU: what it competes with when CPUs are short */
    uint32_t cpu_quota_us; /* processor time in a period, whatever the CPUs have to do */
    uint32_t cpu_period_us;
    uint32_t cpu_burst_us; /* saved up while it had less to do; at most the quota */
    uint32_t tasks;        /* threads */
};

/*
 * cgroup_leaf_new - make the leaf in every hierarchy that has one of the controllers memory, pids,
 * cpu; sweeps what is orphaned the first time in a process.
 * @mountinfo: normally "/proc/self/mountinfo". @name: no '/'.
 * @ret_leaf: owned; also set when some limit could not be set: @missing (of @size bytes) then says
 * which and why, else it is "". Any thread.
 */
int cgroup_leaf_new(const char *mountinfo, const char *name, const struct cgroup_limits *limits,
                    struct cgroup_leaf **ret_leaf, char *missing, size_t size, struct error *err);

/*
 * cgroup_leaf_procs - the cgroup.procs files, borrowed: a process that writes "0" to all of them is
 * in the leaf. Returns how many.
 */
size_t cgroup_leaf_procs(const struct cgroup_leaf *leaf, int fds[CGROUP_MAX_HIERARCHIES]);

/*
 * cgroup_leaf_set_memory - another memory limit. A smaller one than is in use is -EBUSY: then what
 * was, stays, and nothing is killed for it.
 */
int cgroup_leaf_set_memory(struct cgroup_leaf *leaf, uint64_t memory_bytes, struct error *err);

/* cgroup_leaf_set_cpu - other cpu_ limits; @with_quota: not only the share. What the kernel refuses
 * stays as it was. */
void cgroup_leaf_set_cpu(struct cgroup_leaf *leaf, const struct cgroup_limits *limits,
                         bool with_quota);

/*
 * cgroup_sweep - end and remove what hosts that are gone left behind: leaves that nobody has
 * locked, with the processes in them. Takes up to 2 s if those are slow to die. *ret_left: leaves
 * that are there still. Any thread.
 */
int cgroup_sweep(const char *mountinfo, unsigned *ret_left, struct error *err);

/* cgroup_leaf_free - remove the leaf, which must be without processes; takes NULL. */
void cgroup_leaf_free(struct cgroup_leaf *leaf);

#endif
