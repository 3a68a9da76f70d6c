/* Which processor a snapshot was taken on, and whether a guest would notice another. */
#ifndef MAYFLY_COMMON_CPU_IDENTITY_H
#define MAYFLY_COMMON_CPU_IDENTITY_H

#include <stdint.h>

#include "error.h"

enum { CPU_FEATURE_WORDS = 9 };

struct cpu_identity {
    char vendor[13];
    uint32_t family, model, stepping;
    uint32_t features[CPU_FEATURE_WORDS];
    uint32_t xsave_bytes; /* of all components that the processor has enabled */
};

/* cpu_identity_read - this processor. CPUID may trap under a hypervisor: read it once, ahead. */
void cpu_identity_read(struct cpu_identity *ret_identity);

/*
 * cpu_identity_check - may a guest that was started on @was go on here, on @here? It may not if it
 * could have seen a feature that is missing here, or another vendor or XSAVE layout.
 * Returns 0, or -ENOTSUP with the differences by name.
 */
int cpu_identity_check(const struct cpu_identity *was, const struct cpu_identity *here,
                       struct error *err);

#endif
