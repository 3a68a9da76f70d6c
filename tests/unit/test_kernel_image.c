/* Loading kernels that are what they should be, and many that are not. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include <cmocka.h>

#include "monitor/guest_memory.h"
#include "monitor/kernel_image.h"

enum { RAM = 4 << 20, LOAD_AT = 0x200000, CODE_LEN = 64 };

struct kernel {
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    uint8_t code[CODE_LEN];
};

struct rig {
    uint8_t *ram;
    struct guest_memory memory;
    struct kernel kernel;
    struct error err;
    gpa_t entry;
};

static int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    rig->ram = calloc(1, RAM);
    guest_memory_add(&rig->memory, (struct guest_region){0, RAM, rig->ram, 0});
    memcpy(rig->kernel.header.e_ident, ELFMAG, SELFMAG);
    rig->kernel.header.e_ident[EI_CLASS] = ELFCLASS64;
    rig->kernel.header.e_ident[EI_DATA] = ELFDATA2LSB;
    rig->kernel.header.e_machine = EM_X86_64;
    rig->kernel.header.e_type = ET_EXEC;
    rig->kernel.header.e_phentsize = sizeof(Elf64_Phdr);
    rig->kernel.header.e_phnum = 1;
    rig->kernel.header.e_phoff = offsetof(struct kernel, segment);
    rig->kernel.header.e_entry = LOAD_AT + 8;
    rig->kernel.segment = (Elf64_Phdr){.p_type = PT_LOAD,
                                       .p_offset = offsetof(struct kernel, code),
                                       .p_paddr = LOAD_AT,
                                       .p_filesz = CODE_LEN,
                                       .p_memsz = 4096};
    memset(rig->kernel.code, 0x5a, CODE_LEN);
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;

    free(rig->ram);
    free(rig);
    return 0;
}

static int load(struct rig *rig, const void *bytes, size_t len)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);

    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    int r = kernel_image_load(fd, &rig->memory, &rig->entry, &rig->err);
    close(fd);
    return r;
}

static int load_kernel(struct rig *rig)
{
    return load(rig, &rig->kernel, sizeof(rig->kernel));
}

static void good_kernel_lands_where_it_says(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(load_kernel(rig), 0);
    assert_int_equal(rig->entry.value, LOAD_AT + 8);
    assert_int_equal(rig->ram[LOAD_AT], 0x5a);
    assert_int_equal(rig->ram[LOAD_AT + CODE_LEN - 1], 0x5a);
    assert_int_equal(rig->ram[LOAD_AT + CODE_LEN], 0);
}

static void zstd_kernel_is_decompressed(void **state)
{
    struct rig *rig = *state;
    uint8_t packed[4096];
    size_t n = ZSTD_compress(packed, sizeof(packed), &rig->kernel, sizeof(rig->kernel), 3);

    assert_false(ZSTD_isError(n));
    assert_int_equal(load(rig, packed, n), 0);
    assert_int_equal(rig->ram[LOAD_AT], 0x5a);
    /* Cut anywhere, it must be refused. */
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(load(rig, packed, cut), -ENOEXEC);
}

static void truncated_kernel_is_refused_everywhere(void **state)
{
    struct rig *rig = *state;

    for (size_t cut = 0; cut < sizeof(rig->kernel); cut++)
        assert_int_equal(load(rig, &rig->kernel, cut), -ENOEXEC);
}

static void other_machines_are_named(void **state)
{
    struct rig *rig = *state;

    rig->kernel.header.e_machine = EM_AARCH64;
    assert_int_equal(load_kernel(rig), -ENOEXEC);
    assert_non_null(strstr(rig->err.text, "another machine"));
}

static void segments_outside_memory_are_refused(void **state)
{
    struct rig *rig = *state;
    const uint64_t bad[] = {0, 0x1000, RAM - 4095, RAM, UINT64_MAX - 10};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig->kernel.segment.p_paddr = bad[i];
        assert_int_equal(load_kernel(rig), -EFAULT);
    }
    rig->kernel.segment.p_paddr = LOAD_AT;
    rig->kernel.segment.p_memsz = UINT64_MAX - 5;
    assert_int_equal(load_kernel(rig), -EFAULT);
}

static void wild_headers_are_refused(void **state)
{
    struct rig *rig = *state;

    rig->kernel.segment.p_filesz = 8192; /* over memsz, and over the file */
    assert_int_equal(load_kernel(rig), -ENOEXEC);
    rig->kernel.segment.p_filesz = CODE_LEN;
    rig->kernel.segment.p_offset = UINT64_MAX - 3;
    assert_int_equal(load_kernel(rig), -ENOEXEC);
    rig->kernel.segment.p_offset = offsetof(struct kernel, code);
    rig->kernel.header.e_entry = 0x10;
    assert_int_equal(load_kernel(rig), -ENOEXEC);
    rig->kernel.header.e_phoff = UINT64_MAX - 3;
    assert_int_equal(load_kernel(rig), -ENOEXEC);
    rig->kernel.header.e_phnum = 0xffff;
    assert_int_equal(load_kernel(rig), -ENOEXEC);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(good_kernel_lands_where_it_says),        CASE(zstd_kernel_is_decompressed),
        CASE(truncated_kernel_is_refused_everywhere), CASE(other_machines_are_named),
        CASE(segments_outside_memory_are_refused),    CASE(wild_headers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
