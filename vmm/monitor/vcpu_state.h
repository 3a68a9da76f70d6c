/*
 * The state of a vCPU, out of KVM and back into it. What goes back is hostile (a snapshot file):
 * KVM checks each structure, and an error says which one it refused.
 */
#ifndef MAYFLY_MONITOR_VCPU_STATE_H
#define MAYFLY_MONITOR_VCPU_STATE_H

#include <linux/kvm.h>
#include <stddef.h>

#include "common/error.h"

enum { VCPU_MAX_MSRS = 256 };

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

/*
 * vcpu_state_read_msrs - every MSR that KVM says it saves, as they are now. Of a new vCPU it is the
 * baseline for vcpu_state_get().
 */
int vcpu_state_read_msrs(int kvm_fd, int vcpu_fd, struct msr_list *ret_msrs, struct error *err);

/*
 * vcpu_state_get - of a vCPU that is out of KVM_RUN, any thread. Only MSRs that differ from
 * @baseline are kept: a restore into a new vCPU sets no others.
 */
int vcpu_state_get(int kvm_fd, int vcpu_fd, const struct msr_list *baseline,
                   struct vcpu_state *ret_state, struct error *err);

/*
 * vcpu_state_set - into a new vCPU that is out of KVM_RUN, any thread.
 * The order is KVM's: control registers before XSAVE, the TSC before the local APIC, and the
 * deadline of its timer after both.
 */
int vcpu_state_set(int vcpu_fd, const struct vcpu_state *state, struct error *err);

#endif
