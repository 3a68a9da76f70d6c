/* The processor of a snapshot: see cpu_identity.h. */
#include "cpu_identity.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

/* The order is part of the snapshot format: add at the end only (Cpu.features). */
static const struct feature_word {
    uint32_t leaf, subleaf;
    int reg;
    const char *name;
    uint32_t ignore; /* bits that say something of the moment or of one core, not of the model */
} words[CPU_FEATURE_WORDS] = {
    {0x1, 0, REG_ECX, "1.ecx", 1u << 27 /* OSXSAVE */},
    {0x1, 0, REG_EDX, "1.edx", 0},
    {0x7, 0, REG_EBX, "7.ebx", 0},
    {0x7, 0, REG_ECX, "7.ecx", 1u << 4 /* OSPKE */},
    {0x7, 0, REG_EDX, "7.edx", 0},
    {0x7, 1, REG_EAX, "7.1.eax", 0},
    {0xd, 1, REG_EAX, "d.1.eax", 0},
    {0x80000001, 0, REG_ECX, "80000001.ecx", 0},
    {0x80000001, 0, REG_EDX, "80000001.edx", 0},
};

static void read_leaf(uint32_t leaf, uint32_t subleaf, uint32_t ret[4])
{
    memset(ret, 0, 4 * sizeof(ret[0]));
    __get_cpuid_count(leaf, subleaf, &ret[REG_EAX], &ret[REG_EBX], &ret[REG_ECX], &ret[REG_EDX]);
}

/* Intel SDM 2A "CPUID", leaf 1: the extended fields count for families 6 and 15. */
static void read_model(uint32_t signature, struct cpu_identity *identity)
{
    identity->family = (signature >> 8) & 0xf;
    identity->model = (signature >> 4) & 0xf;
    identity->stepping = signature & 0xf;
    if (identity->family == 6 || identity->family == 15)
        identity->model |= ((signature >> 16) & 0xf) << 4;
    if (identity->family == 15)
        identity->family += (signature >> 20) & 0xff;
}

void cpu_identity_read(struct cpu_identity *ret_identity)
{
    uint32_t regs[4];

    memset(ret_identity, 0, sizeof(*ret_identity));
    read_leaf(0, 0, regs);
    memcpy(ret_identity->vendor, &regs[REG_EBX], 4);
    memcpy(ret_identity->vendor + 4, &regs[REG_EDX], 4);
    memcpy(ret_identity->vendor + 8, &regs[REG_ECX], 4);
    read_leaf(1, 0, regs);
    read_model(regs[REG_EAX], ret_identity);
    for (unsigned i = 0; i < CPU_FEATURE_WORDS; i++) {
        read_leaf(words[i].leaf, words[i].subleaf, regs);
        ret_identity->features[i] = regs[words[i].reg] & ~words[i].ignore;
    }
    read_leaf(0xd, 0, regs);
    ret_identity->xsave_bytes = regs[REG_EBX];
}

int cpu_identity_check(const struct cpu_identity *was, const struct cpu_identity *here,
                       struct error *err)
{
    char missing[256] = "";
    size_t used = 0;

    if (strcmp(was->vendor, here->vendor) != 0)
        return error_say(err, ENOTSUP, "snapshot of a %s processor; this one is %s", was->vendor,
                         here->vendor);
    for (unsigned i = 0; i < CPU_FEATURE_WORDS; i++) {
        uint32_t lost = was->features[i] & ~here->features[i];

        if (lost && used < sizeof(missing))
            used += (size_t)snprintf(missing + used, sizeof(missing) - used, " %s:%#x",
                                     words[i].name, lost);
    }
    if (used > 0)
        return error_say(err, ENOTSUP,
                         "snapshot of another processor (family %u model %u): this one lacks the "
                         "CPUID features%s",
                         was->family, was->model, missing);
    if (was->xsave_bytes != here->xsave_bytes)
        return error_say(err, ENOTSUP,
                         "snapshot of a processor whose XSAVE area has %u bytes; here %u",
                         was->xsave_bytes, here->xsave_bytes);
    return 0;
}
