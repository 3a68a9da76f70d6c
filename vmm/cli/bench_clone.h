/*
 * One clone of ours while it is measured, at the level of the hypervisor's operations: a monitor
 * process that holds a shell, then a restored guest. Process: the CLI. One thread at a time per
 * clone; the thread that starts one must outlive it (see hypervisor/monitor_spawn.h).
 */
#ifndef MAYFLY_CLI_BENCH_CLONE_H
#define MAYFLY_CLI_BENCH_CLONE_H

#include "bench_source.h"
#include "host/instance/agent_client.h"
#include "hypervisor/hypervisor.h"

struct bench_clone {
    struct vm *vm;              /* owned */
    struct agent_client *agent; /* owned; there from the restore on */
    struct vm_restore_times times;
};

/* bench_clone_start - a shell for @subject. @directory: for its sockets, its own meanwhile. */
int bench_clone_start(const struct bench_subject *subject, const char *directory,
                      struct bench_clone *ret_clone, struct error *err);

/* bench_clone_restore - fill the shell; ->times are the monitor's. @interrupt_fd: for what follows.
 */
int bench_clone_restore(const struct bench_subject *subject, int interrupt_fd,
                        struct bench_clone *clone, struct error *err);

/* One of these tells the restored guest who it is: alone, not waiting for it; … */
int bench_clone_tell(struct bench_clone *clone, struct error *err);
/* … waiting until its agent answers; … */
int bench_clone_awaken(struct bench_clone *clone, struct error *err);
/* … or with an event, waiting for the result. */
int bench_clone_invoke(struct bench_clone *clone, struct error *err);

/* bench_clone_status - of a clone that lives; else its end is the error. */
int bench_clone_status(struct bench_clone *clone, struct vm_status *ret_status, struct error *err);

/* bench_clone_first_exit - waits for it: ->first_exit_ns of the status is set. */
int bench_clone_first_exit(struct bench_clone *clone, struct vm_status *ret_status,
                           struct error *err);

void bench_clone_end(struct bench_clone *clone); /* takes an empty one */

#endif
