/*
 * A machine's state as bytes, and back: what control.c's Snapshot and Restore do. The format is
 * snapshot/machine_state.proto. On the way back it is hostile: sizes are checked here, contents by
 * KVM and by each device, and a machine that refused it must not be run.
 */
#ifndef MAYFLY_MONITOR_MACHINE_SNAPSHOT_H
#define MAYFLY_MONITOR_MACHINE_SNAPSHOT_H

#include <stdint.h>

#include "machine.h"

/* Borrowed. */
struct machine_snapshot_fds {
    int memory;  /* a new, empty file: every page that differs from what the machine was restored
                    from (from zeros, if it was booted) is written at its place, the rest stays a
                    hole */
    int state;   /* the serialised state is written there */
    int pagemap; /* this process's /proc/self/pagemap: it has no /proc itself */
};

/*
 * machine_snapshot - of a paused machine, which can go on afterwards.
 * @kept_host_port: the vsock stream to carry over.
 * Returns 0, -EBUSY while that stream or a device has work under way, or what writing gave.
 */
int machine_snapshot(struct machine *machine, const struct machine_snapshot_fds *fds,
                     uint32_t kept_host_port, struct error *err);

/* Durations in nanoseconds. */
struct restore_times {
    uint64_t map_ns;      /* memory mapped */
    uint64_t restored_ns; /* from the call until just before the first KVM_RUN */
};

/*
 * machine_restore - into a shell (a machine made without a kernel, never run): the guest runs when
 * it returns 0. @memory_fd: all of RAM, mapped copy-on-write; it must not shrink while the machine
 * lives. @state_fd: what machine_snapshot() wrote. @agent_fd: the host's end of the kept stream.
 * Fds are borrowed; @err is not NULL.
 * Errors: -EBADMSG for a state that contradicts itself or this machine, -ENOTSUP for another
 * processor, -EINVAL for what KVM refused.
 */
int machine_restore(struct machine *machine, int memory_fd, int state_fd, int agent_fd,
                    struct restore_times *ret_times, struct error *err);

/*
 * machine_working_set - write the list of pages that the guest has touched since it was restored to
 * @fd. It may run meanwhile. @pagemap: /proc/PID/pagemap of this process. Fds are borrowed.
 */
int machine_working_set(const struct machine *machine, int pagemap, int fd, struct error *err);

#endif
