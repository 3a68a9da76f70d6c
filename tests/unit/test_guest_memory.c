/* Guest memory's bounds, the bus, and what is written there before a boot. */
#include <asm/bootparam.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "monitor/boot_linux.h"
#include "monitor/bus.h"
#include "monitor/command_line.h"
#include "monitor/guest_memory.h"
#include "monitor/layout.h"
#include "monitor/mptable.h"

enum { LOW = 2 << 20, HIGH = 1 << 20 };

struct rig {
    uint8_t *low, *high;
    struct guest_memory memory;
};

static int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    rig->low = calloc(1, LOW);
    rig->high = calloc(1, HIGH);
    guest_memory_add(&rig->memory, (struct guest_region){0, LOW, rig->low, 0});
    guest_memory_add(&rig->memory, (struct guest_region){LAYOUT_RAM_HIGH, HIGH, rig->high, 1});
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;

    free(rig->low);
    free(rig->high);
    free(rig);
    return 0;
}

static void accesses_stay_inside(void **state)
{
    struct rig *rig = *state;
    uint8_t byte[16] = {1};

    assert_int_equal(guest_memory_write(&rig->memory, gpa(LOW - 16), byte, 16), 0);
    assert_int_equal(guest_memory_write(&rig->memory, gpa(LOW - 15), byte, 16), -EFAULT);
    assert_int_equal(guest_memory_read(&rig->memory, gpa(LOW), byte, 1), -EFAULT);
    assert_int_equal(guest_memory_read(&rig->memory, gpa(UINT64_MAX), byte, 2), -EFAULT);
    assert_int_equal(guest_memory_read(&rig->memory, gpa(UINT64_MAX - 7), byte, 16), -EFAULT);
    assert_int_equal(guest_memory_read(&rig->memory, gpa(LAYOUT_RAM_HIGH - 1), byte, 2), -EFAULT);
    assert_null(guest_memory_window(&rig->memory, gpa(0), SIZE_MAX, 0));
    assert_null(guest_memory_window(&rig->memory, gpa(4096), 0, 0));
}

static void read_only_regions_are_not_written(void **state)
{
    struct rig *rig = *state;
    uint8_t byte = 1;

    assert_int_equal(guest_memory_read(&rig->memory, gpa(LAYOUT_RAM_HIGH), &byte, 1), 0);
    assert_int_equal(guest_memory_write(&rig->memory, gpa(LAYOUT_RAM_HIGH), &byte, 1), -EFAULT);
}

static void overlapping_regions_are_refused(void **state)
{
    struct rig *rig = *state;
    struct guest_region wraps = {UINT64_MAX - 10, 4096, rig->low, 0};
    struct guest_region overlaps = {LOW - 1, 2, rig->low, 0};

    assert_int_equal(guest_memory_add(&rig->memory, wraps), -EINVAL);
    assert_int_equal(guest_memory_add(&rig->memory, overlaps), -EEXIST);
}

static uint8_t sum(const uint8_t *bytes, size_t len)
{
    uint8_t total = 0;

    while (len-- > 0)
        total = (uint8_t)(total + *bytes++);
    return total;
}

static void mp_table_adds_up(void **state)
{
    struct rig *rig = *state;

    for (unsigned vcpus = 1; vcpus <= LAYOUT_VCPUS_MAX; vcpus++) {
        assert_int_equal(mptable_write(&rig->memory, vcpus), 0);
        const uint8_t *pointer = rig->low + LAYOUT_MP_TABLE, *table = pointer + 16;
        assert_memory_equal(pointer, "_MP_", 4);
        assert_int_equal(sum(pointer, 16), 0);
        assert_memory_equal(table, "PCMP", 4);
        assert_int_equal(sum(table, load_le16(table + 4)), 0);
        assert_int_equal(load_le16(table + 34), vcpus + 1 + 1 + 24 + 2);
    }
}

static void boot_parameters_describe_the_memory(void **state)
{
    struct rig *rig = *state;
    struct boot_params params;
    struct error err;

    assert_int_equal(boot_linux_write_parameters(&rig->memory, "quiet", &err), 0);
    memcpy(&params, rig->low + LAYOUT_BOOT_PARAMS, sizeof(params));
    assert_int_equal(params.e820_entries, 3);
    assert_int_equal(params.e820_table[0].size, LAYOUT_LOW_END);
    assert_int_equal(params.e820_table[1].addr, LAYOUT_HIGH_START);
    assert_int_equal(params.e820_table[1].size, LOW - LAYOUT_HIGH_START);
    assert_int_equal(params.e820_table[2].addr, LAYOUT_RAM_HIGH);
    assert_string_equal((char *)rig->low + LAYOUT_COMMAND_LINE, "quiet");
}

static void long_command_line_is_refused(void **state)
{
    struct rig *rig = *state;
    char line[LAYOUT_COMMAND_LINE_MAX + 1];
    struct error err = {0};

    memset(line, 'x', sizeof(line));
    line[LAYOUT_COMMAND_LINE_MAX] = 0;
    assert_int_equal(boot_linux_write_parameters(&rig->memory, line, &err), -E2BIG);
    struct command_line_config config = {.n_virtio = 3, .extra = line};
    char built[LAYOUT_COMMAND_LINE_MAX];
    assert_int_equal(command_line_build(&config, built, sizeof(built), &err), -E2BIG);
}

static void command_line_names_the_devices(void **state)
{
    struct command_line_config config = {.n_virtio = 2, .pmem_root = true, .tsc_khz = 2600000};
    char built[LAYOUT_COMMAND_LINE_MAX];
    struct error err;

    (void)state;
    assert_int_equal(command_line_build(&config, built, sizeof(built), &err), 0);
    assert_non_null(strstr(built, "virtio_mmio.device=4K@0xd0000000:5 "));
    assert_non_null(strstr(built, "virtio_mmio.device=4K@0xd0001000:6 "));
    assert_non_null(strstr(built, "root=/dev/pmem0"));
    assert_non_null(strstr(built, "tsc_early_khz=2600000"));
    assert_null(strstr(built, "clearcpuid"));
}

static void remember_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    uint64_t *seen = device;

    *seen = offset << 16 | (uint64_t)len << 8 | data[0];
}

static void read_offset(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    (void)device;
    (void)len;
    data[0] = (uint8_t)offset;
}

static void bus_finds_the_range(void **state)
{
    static const struct bus_ops ops = {read_offset, remember_write};
    struct bus bus = {0};
    uint64_t seen = 0;
    uint8_t data[8] = {7};

    (void)state;
    assert_int_equal(bus_add(&bus, (struct bus_range){0x100, 16, &ops, &seen}), 0);
    bus_write(&bus, 0x10f, data, 1);
    assert_int_equal(seen, 0xf << 16 | 1 << 8 | 7);
    bus_write(&bus, 0x10f, data, 2); /* sticks out: nobody's */
    assert_int_equal(seen, 0xf << 16 | 1 << 8 | 7);
    bus_read(&bus, 0x104, data, 1);
    assert_int_equal(data[0], 4);
    bus_read(&bus, 0xfff, data, 4);
    assert_int_equal(load_le32(data), 0xffffffff);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(accesses_stay_inside),
        CASE(read_only_regions_are_not_written),
        CASE(overlapping_regions_are_refused),
        CASE(mp_table_adds_up),
        CASE(boot_parameters_describe_the_memory),
        CASE(long_command_line_is_refused),
        cmocka_unit_test(command_line_names_the_devices),
        cmocka_unit_test(bus_finds_the_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
