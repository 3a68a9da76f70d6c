/* The child's half of starting a monitor: from clone() to its execution. */
#ifndef MAYFLY_HYPERVISOR_JAIL_CHILD_H
#define MAYFLY_HYPERVISOR_JAIL_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"

/* What may go wrong, by the words that jail_step_text() has for it. */
enum jail_step {
    STEP_CGROUP,
    STEP_DESCRIPTORS,
    STEP_USER_MAP,
    STEP_MOUNT_NAMESPACE,
    STEP_IPC_NAMESPACE,
    STEP_UTS_NAMESPACE,
    STEP_NET_NAMESPACE,
    STEP_EMPTY_ROOT,
    STEP_LIMITS,
    STEP_BOUNDING_SET,
    STEP_GROUPS,
    STEP_USER,
    STEP_CAPABILITIES,
    STEP_NO_NEW_PRIVILEGES,
    STEP_PARENT_DEATH,
    STEP_EXECUTE,
    N_STEPS,
};

/* One part that failed, as the child tells its parent over a pipe. */
struct jail_report {
    uint8_t step;  /* enum jail_step */
    uint8_t fatal; /* the child is gone */
    uint16_t code; /* errno */
};

struct jail_plan {
    bool confine;    /* false: only what every child gets (JAIL_NONE) */
    bool required;   /* each missing part is the end */
    bool trap;       /* for tests: a forbidden system call is told before it is the end */
    bool dumpable;   /* its /proc files stay this user's */
    bool namespaces; /* it may be made its own: root, or in a user namespace of its own */
    char user_map[32], group_map[32]; /* of the user namespace; "": there is none */
    uid_t user;                       /* also its group; 0: stays what it is */
    size_t n_cgroups;
    int cgroups[CGROUP_MAX_HIERARCHIES]; /* cgroup.procs files; borrowed */
    uint64_t file_bytes;                 /* none it writes may be larger */
    uint32_t descriptors, tasks;
};

/* Descriptors of the child before it takes its place; all above every number it will have. */
struct jail_descriptors {
    int null, output, control, program, reports;
};

/*
 * jail_child_run - become the monitor. Runs in the new process, with all signals blocked; calls
 * nothing but system calls, as other threads of the parent may hold any lock. Never returns.
 */
void jail_child_run(const struct jail_plan *plan, const struct jail_descriptors *descriptors,
                    char *const *arguments) __attribute__((noreturn));

const char *jail_step_text(enum jail_step step);

#endif
