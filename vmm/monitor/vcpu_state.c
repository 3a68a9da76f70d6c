/* The state of a vCPU: see vcpu_state.h. */
#include "vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"
#include "common/fd.h"

#define MSR_APIC_BASE 0x1bu

enum { MAX_INDICES = 1024 };

/* KVM names some MSRs that it then refuses to read on this CPU: those are left out. */
static int read_msrs(int kvm_fd, int vcpu_fd, struct msr_list *ret_msrs, struct error *err)
{
    AUTO_FREE struct kvm_msr_list *indices =
        calloc(1, sizeof(*indices) + MAX_INDICES * sizeof(indices->indices[0]));

    if (!indices)
        return error_set(err, ENOMEM, "MSR list");
    indices->nmsrs = MAX_INDICES;
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, indices) < 0)
        return error_set(err, errno, "KVM_GET_MSR_INDEX_LIST");
    unsigned n = 0;
    for (unsigned i = 0; i < indices->nmsrs && n < VCPU_MAX_MSRS; i++) {
        struct {
            struct kvm_msrs header;
            struct kvm_msr_entry entry;
        } one = {.header.nmsrs = 1, .entry.index = indices->indices[i]};

        if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) == 1)
            ret_msrs->entries[n++] = one.entry;
    }
    ret_msrs->header = (struct kvm_msrs){.nmsrs = n};
    return 0;
}

static const struct kvm_msr_entry *find(const struct msr_list *list, uint32_t index)
{
    for (unsigned i = 0; i < list->header.nmsrs; i++)
        if (list->entries[i].index == index)
            return &list->entries[i];
    return NULL;
}

static void drop_unchanged(struct msr_list *msrs, const struct msr_list *baseline)
{
    unsigned n = 0;

    for (unsigned i = 0; i < msrs->header.nmsrs; i++) {
        const struct kvm_msr_entry *was = find(baseline, msrs->entries[i].index);

        if (!was || was->data != msrs->entries[i].data)
            msrs->entries[n++] = msrs->entries[i];
    }
    msrs->header.nmsrs = n;
}

struct transfer {
    unsigned long request;
    const char *name;
    const void *data;
};

static int transfer_all(int vcpu_fd, const struct transfer *list, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (ioctl(vcpu_fd, list[i].request, list[i].data) < 0)
            return error_set(err, errno, "%s", list[i].name);
    return 0;
}

int vcpu_state_baseline(int kvm_fd, int vcpu_fd, struct vcpu_baseline *ret_baseline,
                        struct error *err)
{
    const struct transfer list[] = {
        {KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &ret_baseline->mp_state},
        {KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &ret_baseline->events},
        {KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &ret_baseline->debugregs},
        {KVM_GET_XCRS, "KVM_GET_XCRS", &ret_baseline->xcrs},
    };
    struct kvm_sregs sregs;
    int r = transfer_all(vcpu_fd, list, ARRAY_LEN(list), err);

    if (r == 0 && ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        r = error_set(err, errno, "KVM_GET_SREGS");
    if (r < 0)
        return r;
    ret_baseline->apic_base = sregs.apic_base;
    return read_msrs(kvm_fd, vcpu_fd, &ret_baseline->msrs, err);
}

void vcpu_state_expect(int vcpu_fd, uint64_t xcr0, struct vcpu_baseline *baseline)
{
    const struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = xcr0}};

    if (ioctl(vcpu_fd, KVM_SET_XCRS, &xcrs) == 0 &&
        ioctl(vcpu_fd, KVM_GET_XCRS, &baseline->xcrs) < 0)
        baseline->xcrs = (struct kvm_xcrs){0}; /* nothing is like it: it will be set */
}

int vcpu_state_get(int kvm_fd, int vcpu_fd, const struct vcpu_baseline *baseline,
                   struct vcpu_state *ret_state, struct error *err)
{
    /* The multiprocessor state first: reading it makes KVM settle a pending INIT or SIPI. */
    const struct transfer list[] = {
        {KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &ret_state->mp_state},
        {KVM_GET_REGS, "KVM_GET_REGS", &ret_state->regs},
        {KVM_GET_SREGS, "KVM_GET_SREGS", &ret_state->sregs},
        {KVM_GET_XSAVE, "KVM_GET_XSAVE", &ret_state->xsave},
        {KVM_GET_XCRS, "KVM_GET_XCRS", &ret_state->xcrs},
        {KVM_GET_LAPIC, "KVM_GET_LAPIC", &ret_state->lapic},
        {KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &ret_state->events},
        {KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &ret_state->debugregs},
    };
    int r = transfer_all(vcpu_fd, list, ARRAY_LEN(list), err);

    if (r == 0)
        r = read_msrs(kvm_fd, vcpu_fd, &ret_state->msrs, err);
    if (r == 0)
        drop_unchanged(&ret_state->msrs, &baseline->msrs);
    return r;
}

static int set_msrs(int vcpu_fd, const struct msr_list *msrs, struct error *err)
{
    int n = msrs->header.nmsrs > 0 ? ioctl(vcpu_fd, KVM_SET_MSRS, msrs) : 0;

    if (n < 0)
        return error_set(err, errno, "KVM_SET_MSRS");
    if ((unsigned)n != msrs->header.nmsrs)
        return error_say(err, EINVAL, "KVM_SET_MSRS: KVM refused MSR %#x = %#llx",
                         msrs->entries[n].index, (unsigned long long)msrs->entries[n].data);
    return 0;
}

/*
 * The APIC base, which KVM keeps among the registers, is wanted before the local APIC's state; most
 * guests leave it as a new vCPU has it.
 */
static int set_apic_base(int vcpu_fd, const struct vcpu_baseline *baseline,
                         const struct vcpu_state *state, struct error *err)
{
    struct msr_list base = {.header.nmsrs = 1};

    if (state->sregs.apic_base == baseline->apic_base)
        return 0;
    base.entries[0] =
        (struct kvm_msr_entry){.index = MSR_APIC_BASE, .data = state->sregs.apic_base};
    return set_msrs(vcpu_fd, &base, err);
}

/* The MSRs in one call, the timer's deadline last: after the TSC that it is measured by. */
static int set_all_msrs(int vcpu_fd, const struct vcpu_state *state, struct error *err)
{
    struct msr_list ordered;
    unsigned n = 0;

    for (int deadline = 0; deadline <= 1; deadline++)
        for (unsigned i = 0; i < state->msrs.header.nmsrs; i++)
            if ((state->msrs.entries[i].index == MSR_TSC_DEADLINE) == deadline)
                ordered.entries[n++] = state->msrs.entries[i];
    ordered.header = (struct kvm_msrs){.nmsrs = n};
    return set_msrs(vcpu_fd, &ordered, err);
}

/* KVM_SET_SREGS and the like now, or by way of kvm_run. */
static int set_registers(int vcpu_fd, struct kvm_run *run, const struct vcpu_state *state,
                         struct error *err)
{
    const struct transfer list[] = {
        {KVM_SET_SREGS, "KVM_SET_SREGS", &state->sregs},
        {KVM_SET_REGS, "KVM_SET_REGS", &state->regs},
        {KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state->events},
    };

    if (!run)
        return transfer_all(vcpu_fd, list, ARRAY_LEN(list), err);
    run->s.regs.regs = state->regs;
    run->s.regs.sregs = state->sregs;
    run->s.regs.events = state->events;
    run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    return 0;
}

static int set_unusual(int vcpu_fd, const struct vcpu_baseline *baseline,
                       const struct vcpu_state *state, struct error *err)
{
    const struct transfer debugregs = {KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &state->debugregs};
    const struct transfer mp_state = {KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state->mp_state};
    int r = 0;

    if (memcmp(&state->debugregs, &baseline->debugregs, sizeof(state->debugregs)) != 0)
        r = transfer_all(vcpu_fd, &debugregs, 1, err);
    if (r == 0 && state->mp_state.mp_state != baseline->mp_state.mp_state)
        r = transfer_all(vcpu_fd, &mp_state, 1, err);
    return r;
}

int vcpu_state_set(int vcpu_fd, struct kvm_run *run, const struct vcpu_baseline *baseline,
                   const struct vcpu_state *state, struct error *err)
{
    const struct transfer xcrs = {KVM_SET_XCRS, "KVM_SET_XCRS", &state->xcrs};
    const struct transfer xsave = {KVM_SET_XSAVE, "KVM_SET_XSAVE", &state->xsave};
    const struct transfer lapic = {KVM_SET_LAPIC, "KVM_SET_LAPIC", &state->lapic};
    int r = set_registers(vcpu_fd, run, state, err);

    if (r == 0 && memcmp(&state->xcrs, &baseline->xcrs, sizeof(state->xcrs)) != 0)
        r = transfer_all(vcpu_fd, &xcrs, 1, err);
    if (r == 0)
        r = transfer_all(vcpu_fd, &xsave, 1, err);
    if (r == 0)
        r = set_apic_base(vcpu_fd, baseline, state, err);
    if (r == 0)
        r = transfer_all(vcpu_fd, &lapic, 1, err);
    if (r == 0)
        r = set_all_msrs(vcpu_fd, state, err);
    return r < 0 ? r : set_unusual(vcpu_fd, baseline, state, err);
}
