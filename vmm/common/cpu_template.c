/* Portable CPU templates: see cpu_template.h. Tables only; nothing here runs CPUID. */
#include "cpu_template.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"

#define BIT(n) (1u << (n))

/* CPUID 1 EDX: what every x86-64 processor has (FPU … PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2).
 */
#define BASE_1_EDX                                                                                 \
    (BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) |     \
     BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) |     \
     BIT(24) | BIT(25) | BIT(26))
#define BASE_EXTENDED_EDX (BIT(11) | BIT(20) | BIT(29)) /* SYSCALL, NX, LM */

/* v2: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT. */
#define V2_1_ECX (BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))
#define V2_EXTENDED_ECX BIT(0) /* LAHF */

/* v3: FMA, MOVBE, XSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT. */
#define V3_1_ECX (V2_1_ECX | BIT(12) | BIT(22) | BIT(26) | BIT(28) | BIT(29))
#define V3_7_EBX (BIT(3) | BIT(5) | BIT(8))
#define V3_EXTENDED_ECX (V2_EXTENDED_ECX | BIT(5))

/* The oldest server of the level: software that tunes itself by model errs on the safe side. */
static const struct cpu_model v2_models[] = {
    {"GenuineIntel", 6, 44, 2}, {"AuthenticAMD", 0x15, 2, 0}, {NULL, 0, 0, 0}};
static const struct cpu_model v3_models[] = {
    {"GenuineIntel", 6, 63, 2}, {"AuthenticAMD", 0x17, 1, 2}, {NULL, 0, 0, 0}};

/* Words in the order of cpu_identity.c: 1.ecx 1.edx 7.ebx 7.ecx 7.edx 7.1.eax d.1.eax 8…1.ecx .edx
 */
static const struct cpu_template templates[] = {
    {.name = "portable",
     .features = {V2_1_ECX, BASE_1_EDX, 0, 0, 0, 0, 0, V2_EXTENDED_ECX, BASE_EXTENDED_EDX},
     .models = v2_models},
    {.name = "portable-v3",
     .features = {V3_1_ECX, BASE_1_EDX, V3_7_EBX, 0, 0, 0, 0, V3_EXTENDED_ECX, BASE_EXTENDED_EDX},
     .xcr0 = 7,          /* x87, SSE, AVX */
     .xsave_bytes = 832, /* 512 + 64 of header + 256 */
     .models = v3_models},
};

const struct cpu_template *cpu_template_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(templates); i++)
        if (strcmp(templates[i].name, name) == 0)
            return &templates[i];
    return NULL;
}

const char *cpu_template_names(void)
{
    return "portable (x86-64-v2), portable-v3 (x86-64-v3)";
}

const struct cpu_model *cpu_template_model(const struct cpu_template *template, const char *vendor)
{
    for (const struct cpu_model *model = template->models; model->vendor; model++)
        if (strcmp(model->vendor, vendor) == 0)
            return model;
    return NULL;
}

int cpu_template_apply(const struct cpu_template *template, struct cpu_identity *identity,
                       struct error *err)
{
    const struct cpu_model *model = cpu_template_model(template, identity->vendor);
    struct cpu_identity wanted = *identity;

    memcpy(wanted.features, template->features, sizeof(wanted.features));
    int r = cpu_identity_check(&wanted, identity, err);
    if (r < 0)
        return error_wrap(err, "CPU template '%s'", template->name);
    wanted.xsave_bytes = template->xsave_bytes;
    if (model) {
        wanted.family = model->family;
        wanted.model = model->model;
        wanted.stepping = model->stepping;
    }
    *identity = wanted;
    return 0;
}
