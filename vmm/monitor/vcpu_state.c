/* The state of a vCPU: see vcpu_state.h. */
#include "vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/fd.h"

#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u

enum { MAX_INDICES = 1024 };

/* KVM names some MSRs that it then refuses to read on this CPU: those are left out. */
int vcpu_state_read_msrs(int kvm_fd, int vcpu_fd, struct msr_list *ret_msrs, struct error *err)
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

int vcpu_state_get(int kvm_fd, int vcpu_fd, const struct msr_list *baseline,
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
    int r = transfer_all(vcpu_fd, list, sizeof(list) / sizeof(list[0]), err);

    if (r == 0)
        r = vcpu_state_read_msrs(kvm_fd, vcpu_fd, &ret_state->msrs, err);
    if (r == 0)
        drop_unchanged(&ret_state->msrs, baseline);
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

/* Takes the deadline out of @msrs: it means nothing before the local APIC is in deadline mode. */
static struct msr_list take_deadline(struct msr_list *msrs)
{
    struct msr_list deadline = {.header.nmsrs = 0};
    unsigned n = 0;

    for (unsigned i = 0; i < msrs->header.nmsrs; i++) {
        if (msrs->entries[i].index == MSR_TSC_DEADLINE)
            deadline.entries[deadline.header.nmsrs++] = msrs->entries[i];
        else
            msrs->entries[n++] = msrs->entries[i];
    }
    msrs->header.nmsrs = n;
    return deadline;
}

int vcpu_state_set(int vcpu_fd, const struct vcpu_state *state, struct error *err)
{
    const struct transfer before[] = {
        {KVM_SET_SREGS, "KVM_SET_SREGS", &state->sregs},
        {KVM_SET_XCRS, "KVM_SET_XCRS", &state->xcrs},
        {KVM_SET_XSAVE, "KVM_SET_XSAVE", &state->xsave},
        {KVM_SET_REGS, "KVM_SET_REGS", &state->regs},
    };
    const struct transfer after[] = {
        {KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", &state->events},
        {KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", &state->debugregs},
        {KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state->mp_state},
    };
    const struct transfer lapic = {KVM_SET_LAPIC, "KVM_SET_LAPIC", &state->lapic};
    struct msr_list msrs = state->msrs;
    struct msr_list deadline = take_deadline(&msrs);
    int r = transfer_all(vcpu_fd, before, sizeof(before) / sizeof(before[0]), err);

    if (r == 0)
        r = set_msrs(vcpu_fd, &msrs, err);
    if (r == 0)
        r = transfer_all(vcpu_fd, &lapic, 1, err);
    if (r == 0)
        r = set_msrs(vcpu_fd, &deadline, err);
    return r < 0 ? r : transfer_all(vcpu_fd, after, sizeof(after) / sizeof(after[0]), err);
}
