/*
 * The system calls that a monitor's threads may make, once its guest can run: an allow-list for
 * each kind of thread. Whatever a guest makes of a bug in here, it has no call that opens a file,
 * makes a socket, starts a thread or a program, or maps memory that can be executed.
 */
#ifndef MAYFLY_MONITOR_SECCOMP_FILTER_H
#define MAYFLY_MONITOR_SECCOMP_FILTER_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* What a forbidden call leads to. */
enum seccomp_way {
    SECCOMP_KILL, /* the end of the process, at once (SIGSYS) */
    SECCOMP_TRAP, /* for tests: SIGSYS to a handler that says which call it was, then the end */
    SECCOMP_OFF,  /* debugging only: no filter */
};

enum seccomp_role {
    SECCOMP_CONTROL_THREAD, /* the loop: control socket, devices, snapshots */
    SECCOMP_VCPU_THREAD,    /* KVM_RUN and its exits */
};

/* One allowed call: any arguments, but for those that are pinned. */
struct seccomp_rule {
    int call;             /* SYS_… of this architecture */
    unsigned argument;    /* the pinned one, if `mask` is not 0 */
    uint64_t mask, value; /* it must be: argument & mask == value */
    const char *why;
};

/* seccomp_filter_rules - the list of @role; static. */
const struct seccomp_rule *seccomp_filter_rules(enum seccomp_role role, size_t *ret_n);

/* seccomp_filter_make - the list as a program, owned: free(ret_program->filter). Any thread. */
int seccomp_filter_make(enum seccomp_role role, enum seccomp_way way,
                        struct sock_fprog *ret_program, struct error *err);

/*
 * seccomp_filter_install - on the calling thread, for good; threads that it makes have it as well.
 * Sets no_new_privs. Makes no other call, so that a thread with a filter may narrow itself.
 */
int seccomp_filter_install(const struct sock_fprog *program, struct error *err);

/* seccomp_filter_tell - the handler of SECCOMP_TRAP, process-wide; before any filter. */
void seccomp_filter_tell(void);

#endif
