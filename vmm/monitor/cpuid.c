/* The guest's CPUID: see cpuid.h. */
#include "cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "common/fd.h"

enum { MAX_ENTRIES = 256 };

/* Leaf numbers: Intel SDM 2A "CPUID"; AMD APM 3 appendix E for those above 0x80000000. */
static void adjust(struct kvm_cpuid_entry2 *entry, unsigned index, unsigned count)
{
    switch (entry->function) {
    case 1:
        entry->ebx = (entry->ebx & 0xffffu) | (index << 24) | ((count & 0xffu) << 16);
        entry->ecx |= 1u << 31; /* a hypervisor is present */
        entry->ecx |= 1u << 24; /* the local APIC has a TSC-deadline timer */
        break;
    case 0xb: /* every vCPU is a core of one package */
    case 0x1f:
        entry->edx = index;
        entry->eax = entry->index == 0 ? 0 : 5;
        entry->ebx = entry->index == 0 ? 1 : count;
        entry->ecx = entry->index | (entry->index < 2 ? (entry->index + 1) << 8 : 0);
        break;
    case 0x8000001e:
        entry->eax = index;
        entry->ebx = index;
        entry->ecx = 0;
        break;
    default:
        break;
    }
}

int cpuid_set(int kvm_fd, int vcpu_fd, unsigned index, unsigned count, struct error *err)
{
    AUTO_FREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));

    if (!cpuid)
        return error_set(err, ENOMEM, "CPUID table");
    cpuid->nent = MAX_ENTRIES;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        return error_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    for (unsigned i = 0; i < cpuid->nent; i++)
        adjust(&cpuid->entries[i], index, count);
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
        return error_set(err, errno, "KVM_SET_CPUID2");
    return 0;
}
