/* Starting one mayfly-vmm process, in its jail: the only place that knows how. */
#ifndef MAYFLY_HYPERVISOR_MONITOR_SPAWN_H
#define MAYFLY_HYPERVISOR_MONITOR_SPAWN_H

#include <sys/types.h>

#include "common/error.h"
#include "jail.h"

struct monitor_process {
    pid_t pid;
    int pidfd;   /* owned: readable once the process ended */
    int control; /* owned: our end of the SOCK_SEQPACKET pair; the monitor has the other as fd 3 */
    int output;  /* owned: non-blocking read end of what the monitor writes to stderr */
};

/*
 * monitor_spawn - run `@path --control-fd 3 [--seccomp WAY] --name @name`.
 * The child has its own session (no Ctrl-C of our terminal), an empty environment, fds 0 to 3 and
 * no others, and is killed when the calling thread ends: call it from a thread that lives on.
 * @name: what `ps` shows; may be NULL. @jail: borrowed until the process was reaped; what of it
 * could not be had is noted there. NULL: none. Returns 0 with *ret filled (owned), or -errno, e.g.
 * -ENOENT when there is no such program, and nothing left.
 */
int monitor_spawn(const char *path, const char *name, struct jail *jail,
                  struct monitor_process *ret, struct error *err);

/*
 * monitor_reap - wait at most @timeout_ms for the process to end and collect it.
 * Returns 0 with the wait status in *ret_status (as waitpid(2) gives it), or -ETIMEDOUT.
 */
int monitor_reap(const struct monitor_process *process, int timeout_ms, int *ret_status);

#endif
