/*
 * The emulation assist: lets a Linux guest run on a KVM that emulates supervisor mode in software
 * and lacks some instructions (README.md in vmm/monitor has the facts). Armed only where
 * kvm_probe.h found such a KVM; elsewhere none of this runs.
 *
 * One entry point per exit reason. Each belongs to its vCPU's thread, between two KVM_RUNs.
 * Trust: registers, page tables and instruction bytes are the guest's. Whatever they say, only the
 * guest's own state and memory (through guest_memory.h) are read and changed.
 */
#ifndef MAYFLY_MONITOR_ASSIST_H
#define MAYFLY_MONITOR_ASSIST_H

#include "common/error.h"
#include "monitor/guest_memory.h"
#include "monitor/vcpu_state.h"

struct assist;

/* What it did, for `status`: exits handled since the vCPU was made. */
struct assist_counters {
    uint64_t instructions;
    uint64_t system_calls;
    uint64_t page_faults;
};

/*
 * assist_new - @vcpu_fd and @memory are borrowed and must outlive it.
 */
int assist_new(int vcpu_fd, const struct guest_memory *memory, struct assist **ret_assist,
               struct error *err);
void assist_free(struct assist *assist);

/*
 * assist_on_internal_error - KVM_EXIT_INTERNAL_ERROR with KVM_INTERNAL_ERROR_EMULATION: do the
 * instruction at RIP that KVM's emulator lacks.
 * Returns 0 when the vCPU can run on, -ENOTSUP (the text has RIP and bytes) for one unknown here.
 */
int assist_on_internal_error(struct assist *assist, struct error *err);

/* assist_on_debug - KVM_EXIT_DEBUG: the guest reached its page-fault handler. */
int assist_on_debug(struct assist *assist, struct error *err);

/*
 * assist_on_io - after any port or MMIO exit: finds out when the guest has set up its page-fault
 * handler and system-call entry, and arms the breakpoint. Cheap once that has happened.
 */
int assist_on_io(struct assist *assist, struct error *err);

/*
 * assist_restored - the vCPU has got @state of another guest, whose memory is in place. One that is
 * @alone stands at the freeze point, and the breakpoint can wait for assist_on_io() after the first
 * exit, which is that port's; of several, others stand elsewhere in the kernel and have no such
 * exit.
 */
int assist_restored(struct assist *assist, const struct vcpu_state *state, bool alone,
                    struct error *err);

struct assist_counters assist_get_counters(const struct assist *assist);

#endif
