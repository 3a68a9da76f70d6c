/*
 * The driver interface: what the host asks of a hypervisor. Two drivers: `kvm` spawns one
 * mayfly-vmm process a VM; `libvirt` (later) drives QEMU domains. The host knows no KVM ioctl.
 *
 * Threads: one thread at a time per struct vm.
 */
#ifndef MAYFLY_HYPERVISOR_H
#define MAYFLY_HYPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct vm; /* opaque: one microVM */

enum { VM_MAX_DISKS = 4 };

struct vm_disk {
    const char *path; /* an uncompressed image, read-only */
    bool pmem;        /* else virtio-blk */
};

/* How much of the jail around a monitor has to be there. */
enum vm_jail {
    JAIL_BEST_EFFORT = 0, /* all that this host allows; vm_status.jail_missing says what is not */
    JAIL_REQUIRED,        /* all of it, or start() fails */
    JAIL_NONE,            /* debugging only: a guest's escape is then this user's */
};

/*
 * What a VM has of the host's CPUs once it has started (see prefer): cpu_mib/1769 of one, as
 * Lambda's 1 vCPU at 1,769 MB. See README.md for what either costs.
 */
enum vm_cpu {
    CPU_SHARE = 0, /* as a weight: where others want them, too. Idle CPUs are anybody's */
    CPU_QUOTA,     /* and never more than that, over a period */
};

struct vm_config {
    const char *monitor_path; /* mayfly-vmm; NULL: beside the running program */
    const char *kernel_path;  /* ELF vmlinux, or zstd of one; NULL: a shell, for restore() */
    const char *directory;    /* exists, private to this VM: sockets are made in it */
    const char *console_path; /* where the guest's console goes; NULL: <directory>/console.log */
    const char *command_line; /* appended to the machine's own; may be NULL */
    enum vm_jail jail;
    enum vm_cpu cpu;
    bool seccomp_trap; /* for tests: the monitor names a forbidden system call before it ends */
    const char *cpu_template; /* common/cpu_template.h; NULL or "": the host's CPU */
    uint32_t memory_mib;
    uint32_t cpu_mib; /* the function's memory, which its part of the CPUs is for; 0: memory_mib */
    uint32_t vcpus;
    size_t n_disks;
    struct vm_disk disks[VM_MAX_DISKS];
};

/* Why a VM is no more. */
enum vm_end {
    VM_ALIVE = 0,
    VM_END_SHUTDOWN, /* the guest powered off */
    VM_END_PANIC,    /* the guest kernel panicked */
    VM_END_TRIPLE_FAULT,
    VM_END_RESET,
    VM_END_INTERNAL, /* the hypervisor could not go on */
    VM_END_KILLED,   /* the monitor process died */
};

struct vm_status {
    enum vm_end end;
    char end_text[320];       /* what a person needs to know of it */
    bool emulates_supervisor; /* KVM here emulates guest kernel mode */
    uint64_t create_us;       /* until the first guest instruction */
    uint64_t kernel_load_us;  /* part of create_us */
    uint64_t boot_tsc;        /* guest TSC at the first instruction */
    uint32_t tsc_khz;
    uint64_t private_bytes; /* the monitor's own memory, without the guest's */
    uint64_t guest_bytes;   /* guest memory that this VM alone has: not the snapshot's pages */
    uint64_t cpu_us;        /* processor time of monitor and guest so far */
    uint64_t first_exit_ns; /* CLOCK_MONOTONIC, after restore(); 0 before */
    char jail_missing[400]; /* "": the jail is whole */
};

/* How long a restore took, in nanoseconds from the monitor's taking the request. */
struct vm_restore_times {
    uint64_t began_ns;    /* that moment, CLOCK_MONOTONIC */
    uint64_t map_ns;      /* mapping memory */
    uint64_t restored_ns; /* all of it, until just before the first guest instruction */
};

struct hypervisor_ops {
    const char *name;
    /* create + boot, or create only (a shell). On failure nothing of the VM is left. *ret_vm is
     * owned: destroy() it. -ENOTSUP for a CPU template that cannot be kept here. */
    int (*start)(const struct vm_config *config, struct vm **ret_vm, struct error *err);
    /*
     * accept_agent - wait for the agent's own connection (guest port 1024 → host).
     * @interrupt_fd: readable means give up with -EINTR (Ctrl-C); may be -1.
     * Returns 0 with an owned blocking stream socket, -ETIMEDOUT, -EINTR, or -ECONNRESET with the
     * reason when the VM ended first.
     */
    int (*accept_agent)(struct vm *vm, uint64_t timeout_ms, int interrupt_fd, int *ret_fd,
                        struct error *err);
    /* connect - a stream to a port that something in the guest listens on. */
    int (*connect)(struct vm *vm, uint32_t port, int *ret_fd, struct error *err);
    int (*pause)(struct vm *vm, struct error *err);
    int (*resume)(struct vm *vm, struct error *err);
    /*
     * freeze - wait until the guest has come to its freeze point, which its agent is bound for;
     * then it is paused. -ETIMEDOUT if it does not come.
     */
    int (*freeze)(struct vm *vm, uint64_t timeout_ms, struct error *err);
    /*
     * snapshot - of a frozen VM with nothing under way on the agent's connection; it can be resumed
     * afterwards. @memory_fd: an empty file; pages that differ from what the VM was restored from
     * (from zeros, if it was booted) are written, the rest stays a hole. @state_fd: an empty file.
     */
    int (*snapshot)(struct vm *vm, int memory_fd, int state_fd, struct error *err);
    /*
     * restore - into a shell; the guest runs when it returns 0, with *ret_agent_fd (owned) as the
     * agent's connection, still open. @memory_fd: all of RAM, never to shrink while the VM lives.
     * -EBADMSG for a damaged state, -ENOTSUP for one of another processor. A shell that refused
     * can only be destroyed.
     */
    int (*restore)(struct vm *shell, int memory_fd, int state_fd, int *ret_agent_fd,
                   struct vm_restore_times *ret_times, struct error *err);
    /*
     * prefer - a shell, and what is restored into it, stands behind other VMs where CPUs are short,
     * so that a burst of starts does not slow down what runs already. From here on it is one of
     * those, with the part of the CPUs that goes with its memory. Costs one or two writes the
     * first time; a failure costs only proportion.
     */
    void (*prefer)(struct vm *vm);
    /*
     * working_set - which pages of RAM a restored VM has touched so far. @fd: a file whose offset
     * is at its start; a list as of snapshot/snapshot_extents.h is written there, and is to be
     * checked as anything that a monitor says.
     */
    int (*working_set)(struct vm *vm, int fd, struct error *err);
    /* status - asks a living VM, or says how a dead one ended; never blocks for over 5 s. */
    int (*status)(struct vm *vm, struct vm_status *ret_status, struct error *err);
    /* end_fd - readable once the VM has ended by itself: for poll(). Borrowed. */
    int (*end_fd)(struct vm *vm);
    /* sweep - end and remove what hosts that were killed left behind on this machine: monitors that
     * outlived them, control groups. Takes no more than 2 s. What is in use is let alone. */
    int (*sweep)(struct error *err);
    /* destroy - ends the VM and its process, removes its sockets; takes NULL. */
    void (*destroy)(struct vm *vm);
};

extern const struct hypervisor_ops hypervisor_kvm;

#endif
