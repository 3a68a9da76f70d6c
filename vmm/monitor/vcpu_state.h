/*
 * The state of a vCPU, out of KVM and back into it. What goes back is hostile (a snapshot file):
 * KVM checks each structure, and an error says which one it refused.
 */
#ifndef MAYFLY_MONITOR_VCPU_STATE_H
#define MAYFLY_MONITOR_VCPU_STATE_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { VCPU_MAX_MSRS = 256 };

#define MSR_TSC_DEADLINE 0x6e0u /* Intel SDM 4, table 2-2 */

/* What KVM_GET_MSRS and KVM_SET_MSRS take. */
struct msr_list {
    struct kvm_msrs header;
    struct kvm_msr_entry entries[VCPU_MAX_MSRS];
};

struct vcpu_state {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_mp_state mp_state;
    struct msr_list msrs;
};

/* What KVM gave a new vCPU: a snapshot need not keep it, a restore need not set it. */
struct vcpu_baseline {
    struct msr_list msrs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_mp_state mp_state;
    struct kvm_xcrs xcrs;
    uint64_t apic_base;
};

/* vcpu_state_baseline - of a vCPU that never ran. */
int vcpu_state_baseline(int kvm_fd, int vcpu_fd, struct vcpu_baseline *ret_baseline,
                        struct error *err);

/*
 * vcpu_state_expect - give the vCPU of a shell the XCR0 that its guest has probably set, so that
 * the restore need not. A wrong guess costs the call it would have saved.
 */
void vcpu_state_expect(int vcpu_fd, uint64_t xcr0, struct vcpu_baseline *baseline);

/* vcpu_state_get - of a vCPU that is out of KVM_RUN, any thread; MSRs as in the baseline left out.
 */
int vcpu_state_get(int kvm_fd, int vcpu_fd, const struct vcpu_baseline *baseline,
                   struct vcpu_state *ret_state, struct error *err);

/*
 * vcpu_state_set - into a new vCPU that is out of KVM_RUN, any thread.
 * An ioctl on a vCPU costs microseconds each, so what a new vCPU has already is left alone, and
 * where @run is not NULL (KVM_CAP_SYNC_REGS) the registers go through it: KVM takes them, and
 * checks them, at the next KVM_RUN (KVM api.rst 5, "kvm_dirty_regs").
 * The order is KVM's: the APIC base before the local APIC, its timer's deadline after it and the
 * TSC.
 */
int vcpu_state_set(int vcpu_fd, struct kvm_run *run, const struct vcpu_baseline *baseline,
                   const struct vcpu_state *state, struct error *err);

#endif
