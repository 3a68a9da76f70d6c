/*
 * The jail of a monitor: everything that is between a monitor that its guest has taken over and
 * this host, but for the system calls it may make (monitor/seccomp_filter.h). What each part is
 * for, and in which order, is in jail_child.c.
 */
#ifndef MAYFLY_HYPERVISOR_JAIL_H
#define MAYFLY_HYPERVISOR_JAIL_H

#include "hypervisor.h"
#include "cgroup.h"
#include "jail_child.h"

struct jail;

struct jail_config {
    enum vm_jail mode;
    const char *name;                    /* the VM's: of its control group */
    uint32_t memory_mib, cpu_mib, vcpus; /* as in vm_config */
    enum vm_cpu cpu;
    bool seccomp_trap; /* see vm_config */
    bool is_behind;    /* its share is a part of what it will have: until jail_prefer() */
};

/*
 * jail_new - get what needs this process's privileges: a user, a control group with its limits.
 * *ret_jail is owned. Returns 0; -errno, with JAIL_REQUIRED also for what is missing. Any thread.
 */
int jail_new(const struct jail_config *config, struct jail **ret_jail, struct error *err);

/* jail_plan - what the child is to do; borrowed. */
struct jail_plan *jail_plan(struct jail *jail);

/* jail_note - one more part that could not be had, and why. */
void jail_note(struct jail *jail, const char *what, int code);

/* jail_missing - "" for a whole jail, else one line that says what is not in place. Borrowed. */
const char *jail_missing(const struct jail *jail);

/* jail_room_for_file - let the monitor's memory limit grow by a file that it is about to write:
 * where that file lives in memory, it is the writer's. */
int jail_room_for_file(struct jail *jail, uint64_t bytes, struct error *err);

/*
 * jail_room_back - that file is gone: the limit is what it was. Where its memory is still in use,
 * the next call tries again; nothing is lost but that the monitor may have it.
 */
void jail_room_back(struct jail *jail);

/* jail_cpu_limits - what a VM of that size may have of the CPUs, before jail_prefer() and then;
 * pure. Fills the cpu_ members. */
void jail_cpu_limits(const struct jail_config *config, bool is_preferred,
                     struct cgroup_limits *limits);

/* jail_prefer - it has started: its whole share, and the quota if it is to have one. What cannot be
 * set, stays as it is. Once is enough. */
void jail_prefer(struct jail *jail);

/* jail_free - after the monitor was reaped: its user is free again, its control group goes. */
void jail_free(struct jail *jail);

/*
 * jail_try - put a monitor that does nothing in a jail, and say what was missing: for
 * `mayfly doctor`. Returns 0 with *missing, or why not even that went.
 */
int jail_try(const char *monitor_path, char *missing, size_t size, struct error *err);

#endif
