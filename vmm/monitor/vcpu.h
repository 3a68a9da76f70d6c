/*
 * A vCPU: a thread that runs KVM_RUN and dispatches its exits, nothing else.
 *
 * The guest decides every exit. What it cannot do is end this process: whatever cannot be handled
 * stops the VM through vcpu_host.stopped.
 */
#ifndef MAYFLY_MONITOR_VCPU_H
#define MAYFLY_MONITOR_VCPU_H

#include <linux/filter.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>

#include "bus.h"
#include "common/cpu_template.h"
#include "common/error.h"
#include "guest_memory.h"
#include "vcpu_state.h"

struct vcpu;

enum { VCPU_KICK_SIGNAL = SIGUSR1 }; /* takes a vCPU's thread out of KVM_RUN */

enum vcpu_stop {
    VCPU_STOP_RESET,        /* the guest asked for a reboot (keyboard controller) */
    VCPU_STOP_SHUTDOWN,     /* KVM_EXIT_SYSTEM_EVENT: power off */
    VCPU_STOP_TRIPLE_FAULT, /* KVM_EXIT_SHUTDOWN */
    VCPU_STOP_INTERNAL,     /* KVM or the assist could not go on */
};

/* What the vCPUs of a VM share: set up before the first of them, constant afterwards. */
struct vcpu_host {
    int kvm_fd, vm_fd;                       /* borrowed */
    const struct bus *ports, *mmio;          /* borrowed */
    const struct guest_memory *memory;       /* borrowed */
    bool assist;                             /* arm the emulation assist */
    const struct cpu_template *cpu_template; /* NULL: the host's CPU */
    unsigned count;                          /* vCPUs of this VM */
    const struct sock_fprog *filter;         /* borrowed: of each vCPU's thread; NULL: none */
    /* Called once, on the thread of the first vCPU that stops; must not block. */
    void (*stopped)(void *opaque, enum vcpu_stop why, const char *text);
    /* Should KVM have done this access itself? Any vCPU's thread. */
    bool (*is_memory)(void *opaque, uint64_t address, unsigned len_bytes, bool is_write);
    void *opaque;
};

struct vcpu_counters {
    uint64_t exits, port_exits, mmio_exits, assist_instructions, assist_system_calls,
        assist_page_faults;
};

/* vcpu_new - create the vCPU with its CPUID; no thread yet. @host is borrowed. */
int vcpu_new(const struct vcpu_host *host, unsigned index, struct vcpu **ret_vcpu,
             struct error *err);
/* vcpu_free - ends and joins the thread if there is one; takes NULL. */
void vcpu_free(struct vcpu *vcpu);

/* vcpu_boot - put it at @entry in the 64-bit boot protocol's state (the boot processor only). */
int vcpu_boot(struct vcpu *vcpu, gpa_t entry, struct error *err);

/* vcpu_expect_restore - of a shell: do ahead what a restore probably would. No thread yet. */
void vcpu_expect_restore(struct vcpu *vcpu);

/* vcpu_start - make the thread, which puts its filter on and waits, paused. */
int vcpu_start(struct vcpu *vcpu, struct error *err);

/* vcpu_pause - returns once the vCPU is out of KVM_RUN with its exit completed. Idempotent. */
void vcpu_pause(struct vcpu *vcpu);
/* vcpu_ask_pause - as vcpu_pause(), but returns at once; any thread, also the vCPU's own. */
void vcpu_ask_pause(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);

/* vcpu_get_state, vcpu_set_state - of and into a vCPU that is paused; the latter never ran. */
int vcpu_get_state(struct vcpu *vcpu, struct vcpu_state *ret_state, struct error *err);
int vcpu_set_state(struct vcpu *vcpu, const struct vcpu_state *state, struct error *err);

/* vcpu_first_exit_ns - CLOCK_MONOTONIC of the first exit after vcpu_set_state(); 0 before it. */
uint64_t vcpu_first_exit_ns(const struct vcpu *vcpu);

/* vcpu_tsc_khz - guest TSC frequency, 0 if KVM does not say. */
uint32_t vcpu_tsc_khz(const struct vcpu *vcpu);
/* vcpu_read_tsc - the guest's TSC now. */
uint64_t vcpu_read_tsc(const struct vcpu *vcpu);

/* vcpu_count - read without a lock: each number is right, together they may be of two moments. */
struct vcpu_counters vcpu_count(const struct vcpu *vcpu);

#endif
