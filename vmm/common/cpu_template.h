/*
 * Portable CPU templates: a guest that is shown only what a level of the x86-64 psABI promises (and
 * no vendor's extras) can be restored on any processor of its vendor that has that level.
 * Source: System V psABI for x86-64, "Micro-Architecture Levels"; bits: Intel SDM 2A "CPUID",
 * AMD APM 3 appendix E.
 */
#ifndef MAYFLY_COMMON_CPU_TEMPLATE_H
#define MAYFLY_COMMON_CPU_TEMPLATE_H

#include <stdint.h>

#include "cpu_identity.h"

struct cpu_model {
    const char *vendor;
    uint32_t family, model, stepping; /* as displayed: with the extended fields */
};

struct cpu_template {
    const char *name;
    uint32_t features[CPU_FEATURE_WORDS]; /* all of these are there, and nothing else */
    uint64_t xcr0;                        /* XSAVE components; 0: no XSAVE */
    uint32_t xsave_bytes;
    const struct cpu_model *models; /* what it claims to be; ends with a NULL vendor */
};

/* cpu_template_find - NULL for a name that is none. "portable" is x86-64-v2. */
const struct cpu_template *cpu_template_find(const char *name);

/* cpu_template_names - all of them, for a message. */
const char *cpu_template_names(void);

/* cpu_template_model - what to claim towards a guest of @vendor; NULL: the host's own. */
const struct cpu_model *cpu_template_model(const struct cpu_template *template, const char *vendor);

/*
 * cpu_template_apply - make of a processor what a guest with @template sees of it.
 * -ENOTSUP with the features it lacks; then *identity is as it was.
 */
int cpu_template_apply(const struct cpu_template *template, struct cpu_identity *identity,
                       struct error *err);

#endif
