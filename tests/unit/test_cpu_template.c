/* Portable CPU templates: what is shown, what is refused, and what this KVM makes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cpu_template.h"
#include "monitor/cpuid.h"
#include "monitor/kvm_probe.h"

enum { WORD_1_ECX, WORD_1_EDX, WORD_7_EBX };

static const struct cpu_template *find(const char *name)
{
    const struct cpu_template *template = cpu_template_find(name);

    assert_non_null(template);
    return template;
}

/* A processor that has everything. */
static struct cpu_identity rich(const char *vendor)
{
    struct cpu_identity identity = {.family = 6, .model = 143, .stepping = 8, .xsave_bytes = 11008};

    strcpy(identity.vendor, vendor);
    memset(identity.features, 0xff, sizeof(identity.features));
    return identity;
}

static void a_snapshot_moves_between_processors_of_a_vendor(void **state)
{
    struct cpu_identity one = rich("GenuineIntel"), other = rich("GenuineIntel");
    struct error err;

    (void)state;
    other.features[WORD_7_EBX] &= ~(1u << 16); /* no AVX-512 */
    other.model = 79;
    other.xsave_bytes = 832;
    assert_int_equal(cpu_identity_check(&one, &other, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "7.ebx:0x10000"));
    assert_int_equal(cpu_template_apply(find("portable-v3"), &one, &err), 0);
    assert_int_equal(cpu_template_apply(find("portable-v3"), &other, &err), 0);
    assert_int_equal(cpu_identity_check(&one, &other, &err), 0);
    assert_int_equal(cpu_identity_check(&other, &one, &err), 0);
    assert_int_equal(one.model, other.model);
}

static void another_vendor_is_refused(void **state)
{
    struct cpu_identity one = rich("GenuineIntel"), other = rich("AuthenticAMD");
    struct error err;

    (void)state;
    assert_int_equal(cpu_template_apply(find("portable"), &one, &err), 0);
    assert_int_equal(cpu_template_apply(find("portable"), &other, &err), 0);
    assert_int_equal(cpu_identity_check(&one, &other, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "GenuineIntel"));
    assert_non_null(strstr(err.text, "AuthenticAMD"));
}

static void a_processor_below_the_level_is_named(void **state)
{
    struct cpu_identity old = rich("GenuineIntel"), before;
    struct error err;

    (void)state;
    old.features[WORD_7_EBX] &= ~(1u << 5); /* no AVX2 */
    before = old;
    assert_int_equal(cpu_template_apply(find("portable-v3"), &old, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "portable-v3"));
    assert_non_null(strstr(err.text, "7.ebx:0x20"));
    assert_memory_equal(&old, &before, sizeof(old));
    assert_int_equal(cpu_template_apply(find("portable"), &old, &err), 0);
    assert_null(cpu_template_find("skylake"));
    assert_null(cpu_template_find(""));
}

/* The compiler's own test for the levels, on what the template leaves of a rich table. */
static void a_table_keeps_the_level_and_nothing_else(void **state)
{
    static const struct kvm_cpuid_entry2 full[] = {
        {.function = 0, .eax = 0x20},
        {.function = 1, .eax = 0x806f8, .ebx = 0x800, .ecx = UINT32_MAX, .edx = UINT32_MAX},
        {.function = 7, .eax = 2, .ebx = UINT32_MAX, .ecx = UINT32_MAX, .edx = UINT32_MAX},
        {.function = 7, .index = 1, .eax = UINT32_MAX, .ebx = UINT32_MAX},
        {.function = 0xd, .eax = 0x2e7, .ebx = 11008, .ecx = 11008},
        {.function = 0xd, .index = 1, .eax = 0x1f, .ebx = 11008},
        {.function = 0xd, .index = 2, .eax = 256, .ebx = 576},
        {.function = 0xd, .index = 5, .eax = 64, .ebx = 1088},
        {.function = 0x14, .eax = 1, .ebx = 15},
        {.function = 0x80000001, .ecx = UINT32_MAX, .edx = UINT32_MAX},
        {.function = 0x80000008, .eax = 0x3034, .ebx = UINT32_MAX},
        {.function = 0x40000001, .eax = UINT32_MAX},
    };
    enum { N = sizeof(full) / sizeof(full[0]) };
    struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + sizeof(full));
    const struct kvm_cpuid_entry2 *at = table->entries;

    (void)state;
    table->nent = N;
    memcpy(table->entries, full, sizeof(full));
    cpuid_reduce(table, find("portable-v3"), "GenuineIntel");
    assert_int_equal(at[0].eax, 0xd);
    assert_int_equal(at[1].eax, 0x306f2); /* family 6, model 63, stepping 2 */
    assert_int_equal(at[1].ecx & (bit_FMA | bit_AVX | bit_MOVBE | bit_F16C | bit_XSAVE),
                     bit_FMA | bit_AVX | bit_MOVBE | bit_F16C | bit_XSAVE);
    assert_int_equal(at[1].ecx & (bit_AES | bit_PCLMUL | bit_RDRND), 0);
    assert_true(at[1].ecx & 1u << 24); /* the TSC-deadline timer is KVM's own */
    assert_int_equal(at[2].ebx, bit_AVX2 | bit_BMI | bit_BMI2);
    assert_int_equal(at[2].eax | at[2].ecx | at[2].edx | at[3].eax | at[3].ebx, 0);
    assert_int_equal(at[4].eax, 7);
    assert_int_equal(at[4].ecx, 832);
    assert_int_equal(at[5].eax | at[5].ebx, 0);
    assert_int_equal(at[6].eax, 256);
    assert_int_equal(at[7].eax | at[7].ebx | at[8].eax | at[8].ebx, 0);
    assert_int_equal(at[9].ecx, bit_LAHF_LM | bit_LZCNT);
    assert_int_equal(at[10].eax, 48 << 8 | 39);
    assert_int_equal(at[10].ebx, 0);
    assert_int_equal(at[11].eax, 1u << 0 | 1u << 3 | 1u << 24);

    memcpy(table->entries, full, sizeof(full));
    cpuid_reduce(table, find("portable"), "AuthenticAMD");
    assert_int_equal(at[1].eax, 0x600f20); /* family 0x15, model 2 */
    assert_int_equal(at[1].ecx & (bit_AVX | bit_XSAVE), 0);
    assert_int_equal(at[1].ecx & (bit_SSE4_2 | bit_POPCNT), bit_SSE4_2 | bit_POPCNT);
    assert_int_equal(at[2].ebx | at[4].eax | at[6].eax, 0);
    free(table);
}

/* Whether it is kept depends on the KVM; where it is not, the guest saw the processor's own name.
 */
static void this_kvm_says_whether_it_keeps_them(void **state)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    bool is_kept = false;
    struct kvm_probe probe;
    struct error err = {0};

    (void)state;
    if (kvm < 0) {
        print_message("no usable /dev/kvm\n");
        skip();
    }
    assert_int_equal(kvm_probe_cpuid(kvm, &is_kept, &err), 0);
    assert_int_equal(kvm_probe_supervisor(kvm, &probe, &err), 0);
    /* Hardware virtualisation intercepts CPUID always: Intel SDM 3C 26.1.2, AMD APM 2 15.9. */
    assert_true(is_kept || probe.emulates_supervisor);
    close(kvm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_moves_between_processors_of_a_vendor),
        cmocka_unit_test(another_vendor_is_refused),
        cmocka_unit_test(a_processor_below_the_level_is_named),
        cmocka_unit_test(a_table_keeps_the_level_and_nothing_else),
        cmocka_unit_test(this_kvm_says_whether_it_keeps_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
