/* The guest's CPUID: see cpuid.h. */
#include "cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
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

/* --- templates ------------------------------------------------------------------------------- */

/* What KVM makes, on whatever processor. */
#define KVM_1_ECX (1u << 21 | 1u << 24 | 1u << 31) /* x2APIC, TSC-deadline timer, hypervisor */
#define KVM_ARAT (1u << 2)                         /* the local APIC's timer never stops */
#define INVARIANT_TSC (1u << 8)
/* Linux Documentation/virt/kvm/x86/cpuid.rst: the clock in both forms, and that it is stable. */
#define KVM_CLOCK (1u << 0 | 1u << 3 | 1u << 24)

enum { ADDRESS_BITS = 39, LINEAR_BITS = 48 }; /* what the smallest processor of the level has */

/* Where each word of a template goes: the order of cpu_identity.c. */
enum { WORD_1_ECX, WORD_1_EDX, WORD_7_EBX, WORD_EXTENDED_ECX = 7, WORD_EXTENDED_EDX };

static uint32_t signature_of(const struct cpu_model *model, uint32_t host)
{
    if (!model)
        return host;
    uint32_t family = model->family < 15 ? model->family : 15;
    uint32_t signature = family << 8 | (model->family - family) << 20;

    return signature | (model->model & 0xf) << 4 | (model->model >> 4) << 16 | model->stepping;
}

/* Intel SDM 1 13.2: leaf 0xd describes the standard format, component by component. */
static void reduce_xsave(struct kvm_cpuid_entry2 *entry, const struct cpu_template *template)
{
    const bool is_avx = entry->index == 2 && (template->xcr0 & 4);

    if (entry->index == 0 && template->xcr0) {
        entry->eax = (uint32_t) template->xcr0;
        entry->ebx = entry->ecx = template->xsave_bytes;
        entry->edx = 0;
    } else if (!is_avx) {
        entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
    }
}

static void reduce(struct kvm_cpuid_entry2 *entry, const struct cpu_template *template,
                   const struct cpu_model *model)
{
    const uint32_t *words = template->features;

    switch (entry->function) {
    case 0: /* how far the leaves go, and the vendor */
        entry->eax = 0xd;
        return;
    case 0x80000000:
        entry->eax = 0x80000008;
        return;
    case 4: /* caches, the processor's name, topology, KVM's signature: no features */
    case 0xb:
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
    case 0x40000000:
        return;
    case 1:
        entry->eax = signature_of(model, entry->eax);
        entry->ecx &= words[WORD_1_ECX] | KVM_1_ECX;
        entry->edx &= words[WORD_1_EDX];
        return;
    case 7:
        entry->ebx &= entry->index == 0 ? words[WORD_7_EBX] : 0;
        entry->eax = entry->ecx = entry->edx = 0;
        return;
    case 0xd:
        reduce_xsave(entry, template);
        return;
    case 0x80000001:
        entry->eax = signature_of(model, entry->eax);
        entry->ebx = 0;
        entry->ecx &= words[WORD_EXTENDED_ECX];
        entry->edx &= words[WORD_EXTENDED_EDX];
        return;
    case 0x80000008:
        entry->eax = LINEAR_BITS << 8 | ADDRESS_BITS;
        entry->ebx = entry->ecx = entry->edx = 0;
        return;
    case 6:
        entry->eax &= KVM_ARAT;
        entry->ebx = entry->ecx = entry->edx = 0;
        return;
    case 0x40000001:
        entry->eax &= KVM_CLOCK;
        entry->ebx = entry->ecx = entry->edx = 0;
        return;
    case 0x80000007:
        entry->edx &= INVARIANT_TSC;
        entry->eax = entry->ebx = entry->ecx = 0;
        return;
    default:
        entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
    }
}

void cpuid_reduce(struct kvm_cpuid2 *cpuid, const struct cpu_template *template, const char *vendor)
{
    const struct cpu_model *model = cpu_template_model(template, vendor);

    for (uint32_t i = 0; i < cpuid->nent; i++)
        reduce(&cpuid->entries[i], template, model);
}

/* --------------------------------------------------------------------------------------------- */

int cpuid_set(int kvm_fd, int vcpu_fd, const struct cpu_template *template, unsigned index,
              unsigned count, struct error *err)
{
    struct cpu_identity host;

    AUTO_FREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));

    if (!cpuid)
        return error_set(err, ENOMEM, "CPUID table");
    cpuid->nent = MAX_ENTRIES;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        return error_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    if (template) {
        cpu_identity_read(&host);
        cpuid_reduce(cpuid, template, host.vendor);
    }
    for (unsigned i = 0; i < cpuid->nent; i++)
        adjust(&cpuid->entries[i], index, count);
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
        return error_set(err, errno, "KVM_SET_CPUID2");
    return 0;
}
