/*
 * A microVM: memory, vCPUs and devices, put together and taken apart. Belongs to the loop's thread;
 * only the vCPU threads it makes run beside it.
 */
#ifndef MAYFLY_MONITOR_MACHINE_H
#define MAYFLY_MONITOR_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "vcpu.h"

struct machine;

enum { MACHINE_MAX_DISKS = 8 };

struct machine_disk {
    int fd; /* borrowed during machine_new() */
    bool pmem, read_only;
};

struct machine_config {
    uint32_t memory_mib;
    uint32_t vcpus;
    const char *command_line;                /* appended to the machine's own */
    int kvm_fd, console_fd, vsock_listen_fd; /* borrowed for the machine's life */
    int kernel_fd; /* borrowed during machine_new(); -1: a shell, for machine_restore() */
    const char *vsock_path;
    uint64_t console_limit_bytes;
    uint32_t guest_cid;
    size_t n_disks;
    struct machine_disk disks[MACHINE_MAX_DISKS];
};

enum machine_end {
    MACHINE_SHUTDOWN,
    MACHINE_RESET,
    MACHINE_PANIC,
    MACHINE_TRIPLE_FAULT,
    MACHINE_INTERNAL
};

/* Called once, on the loop's thread; the vCPUs have been paused. @text is one line. */
typedef void machine_ended(void *opaque, enum machine_end how, const char *text);

struct machine_status {
    bool emulates_supervisor;
    uint64_t create_us;      /* machine_new(), kernel included */
    uint64_t kernel_load_us; /* of which the kernel */
    uint64_t boot_tsc;       /* guest TSC when machine_start() was called */
    uint32_t tsc_khz;
    uint64_t console_bytes, console_dropped_bytes;
    struct vcpu_counters vcpus; /* summed */
    uint64_t first_exit_ns;     /* CLOCK_MONOTONIC, of the first vCPU after a restore; 0 before */
};

/*
 * machine_new - make the VM and load the kernel; nothing runs yet.
 * Errors: -EINVAL for a size out of range, what KVM said, -ENOEXEC and the like for the kernel.
 */
int machine_new(const struct machine_config *config, struct loop *loop, machine_ended *ended,
                void *opaque, struct machine **ret_machine, struct error *err);
void machine_free(struct machine *machine);

/*
 * machine_start - make the vCPUs' threads. A machine with a kernel runs then; a shell's threads
 * wait, so that a restore only has to wake them.
 */
int machine_start(struct machine *machine, struct error *err);

/* machine_pause - all vCPUs are out of the guest when it returns. */
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);

/* machine_is_at_freeze_point - has the guest come to where it can be frozen (freeze_point.h)? */
bool machine_is_at_freeze_point(const struct machine *machine);

void machine_get_status(const struct machine *machine, struct machine_status *ret_status);

#endif
