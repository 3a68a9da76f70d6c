/* virtio-blk, virtio-rng and virtio-pmem: what they answer, and what they refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/blk.h"
#include "monitor/devices/freeze_point.h"
#include "monitor/devices/pmem.h"
#include "monitor/devices/rng.h"
#include "virtio_driver.h"

enum {
    SECTORS = 64,
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    TYPE_DISCARD = 11,
};

#define STATUS_AT (GUEST_DATA + UINT64_C(0xf000))
#define PAYLOAD_AT (GUEST_DATA + UINT64_C(0x1000))

struct disk {
    struct test_driver driver;
    int fd; /* the test's own descriptor of the image */
};

static void begin_disk(struct disk *disk, bool read_only)
{
    struct virtio_blk_config config = {.read_only = read_only, .id = "root"};

    test_driver_init(&disk->driver);
    disk->fd = memfd_create("disk", MFD_CLOEXEC);
    config.fd = dup(disk->fd);
    assert_int_equal(ftruncate(disk->fd, SECTORS * 512 + 100), 0);
    for (unsigned i = 0; i < SECTORS; i++)
        assert_int_equal(pwrite(disk->fd, &i, sizeof(i), i * 512), sizeof(i));
    assert_int_equal(virtio_blk_new(&config, disk->driver.loop, &disk->driver.guest.memory,
                                    test_driver_irq(&disk->driver), &disk->driver.mmio, NULL),
                     0);
    assert_int_equal(test_driver_start(&disk->driver, 0), DRIVER_STATUS_OK);
}

static void end_disk(struct disk *disk)
{
    test_driver_done(&disk->driver);
    close(disk->fd);
}

/* Runs one request; returns its status byte, 0xff if none was written. */
static uint8_t request(struct disk *disk, uint32_t type, uint64_t sector, uint32_t len,
                       uint32_t *ret_used)
{
    struct test_ring *ring = &disk->driver.rings[0];
    uint8_t *header = test_guest_at(&disk->driver.guest, GUEST_DATA);
    uint16_t data_flags = (uint16_t)(DESC_NEXT | (type == TYPE_OUT ? 0 : DESC_WRITE));

    store_le32(header, type);
    store_le64(header + 8, sector);
    *test_guest_at(&disk->driver.guest, STATUS_AT) = 0xff;
    test_ring_desc(ring, 0, GUEST_DATA, 16, DESC_NEXT, len ? 1 : 2);
    test_ring_desc(ring, 1, PAYLOAD_AT, len, data_flags, 2);
    test_ring_desc(ring, 2, STATUS_AT, 1, DESC_WRITE, 0);
    test_ring_offer(ring, 0);
    test_driver_kick(&disk->driver, 0);
    test_driver_settle(&disk->driver);
    uint32_t used = 0;
    assert_true(test_ring_used(ring, NULL, &used));
    if (ret_used)
        *ret_used = used;
    return *test_guest_at(&disk->driver.guest, STATUS_AT);
}

static void blk_reads_and_writes(void **state)
{
    struct disk disk;
    uint32_t used;
    (void)state;

    begin_disk(&disk, false);
    assert_int_equal(test_read(disk.driver.mmio, 0x100), SECTORS);
    assert_int_equal(request(&disk, TYPE_IN, 7, 1024, &used), 0);
    assert_int_equal(used, 1025);
    assert_int_equal(load_le32(test_guest_at(&disk.driver.guest, PAYLOAD_AT)), 7);
    assert_int_equal(load_le32(test_guest_at(&disk.driver.guest, PAYLOAD_AT + 512)), 8);
    store_le32(test_guest_at(&disk.driver.guest, PAYLOAD_AT), 4711);
    assert_int_equal(request(&disk, TYPE_OUT, 63, 512, &used), 0);
    assert_int_equal(used, 1);
    uint32_t stored = 0;
    assert_int_equal(pread(disk.fd, &stored, 4, 63 * 512), 4);
    assert_int_equal(stored, 4711);
    assert_int_equal(request(&disk, TYPE_FLUSH, 0, 0, NULL), 0);
    end_disk(&disk);
}

static void blk_bounds(void **state)
{
    struct disk disk;
    (void)state;

    begin_disk(&disk, false);
    assert_int_equal(request(&disk, TYPE_IN, 63, 1024, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, 64, 512, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, UINT64_MAX, 512, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, UINT64_MAX / 512 + 1, 512, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, 0, 511, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, 0, 0, NULL), 1);
    assert_int_equal(request(&disk, TYPE_OUT, 64, 512, NULL), 1);
    assert_int_equal(lseek(disk.fd, 0, SEEK_END), SECTORS * 512 + 100); /* it never grows */
    assert_int_equal(request(&disk, TYPE_DISCARD, 0, 512, NULL), 2);
    end_disk(&disk);
}

static void blk_read_only(void **state)
{
    struct disk disk;
    (void)state;

    begin_disk(&disk, true);
    assert_int_equal(test_read(disk.driver.mmio, 0x10) & 0x20, 0x20);
    assert_int_equal(request(&disk, TYPE_OUT, 0, 512, NULL), 1);
    assert_int_equal(request(&disk, TYPE_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(request(&disk, TYPE_IN, 0, 512, NULL), 0);
    end_disk(&disk);
}

static void blk_id(void **state)
{
    struct disk disk;
    uint32_t used;
    (void)state;

    begin_disk(&disk, false);
    assert_int_equal(request(&disk, TYPE_GET_ID, 0, 20, &used), 0);
    assert_int_equal(used, 21);
    assert_memory_equal(test_guest_at(&disk.driver.guest, PAYLOAD_AT), "root\0\0", 6);
    assert_int_equal(request(&disk, TYPE_GET_ID, 0, 19, NULL), 1);
    end_disk(&disk);
}

/* The owner of the image cuts it short: an I/O error, no signal. */
static void blk_truncated_in_use(void **state)
{
    struct disk disk;
    (void)state;

    begin_disk(&disk, false);
    assert_int_equal(ftruncate(disk.fd, 10 * 512), 0);
    assert_int_equal(request(&disk, TYPE_IN, 9, 512, NULL), 0);
    assert_int_equal(request(&disk, TYPE_IN, 9, 1024, NULL), 1);
    assert_int_equal(request(&disk, TYPE_IN, 30, 512, NULL), 1);
    end_disk(&disk);
}

static void blk_short_chains(void **state)
{
    struct disk disk;
    struct test_ring *ring;
    uint32_t used;
    (void)state;

    begin_disk(&disk, false);
    ring = &disk.driver.rings[0];
    test_ring_desc(ring, 0, GUEST_DATA, 16, 0, 0); /* no room for a status */
    test_ring_offer(ring, 0);
    test_ring_desc(ring, 1, GUEST_DATA, 15, DESC_NEXT, 2); /* no whole header */
    test_ring_desc(ring, 2, STATUS_AT, 1, DESC_WRITE, 0);
    test_ring_offer(ring, 1);
    test_ring_desc(ring, 3, STATUS_AT, 1, DESC_WRITE, 0); /* no header at all */
    test_ring_offer(ring, 3);
    test_driver_kick(&disk.driver, 0);
    test_driver_settle(&disk.driver);
    assert_true(test_ring_used(ring, NULL, &used));
    assert_int_equal(used, 0);
    assert_true(test_ring_used(ring, NULL, &used));
    assert_int_equal(used, 1);
    assert_true(test_ring_used(ring, NULL, &used));
    assert_int_equal(test_read(disk.driver.mmio, 0x70), DRIVER_STATUS_OK);
    end_disk(&disk);
}

/* More than one turn's worth is all done, in several turns. */
static void blk_many_requests(void **state)
{
    struct disk disk;
    struct test_ring *ring;
    unsigned n = 0;
    (void)state;

    begin_disk(&disk, false);
    ring = &disk.driver.rings[0];
    store_le32(test_guest_at(&disk.driver.guest, GUEST_DATA), TYPE_FLUSH);
    test_ring_desc(ring, 0, GUEST_DATA, 16, DESC_NEXT, 1);
    test_ring_desc(ring, 1, STATUS_AT, 1, DESC_WRITE, 0);
    for (unsigned i = 0; i < ring->size; i++)
        test_ring_offer(ring, 0);
    test_driver_kick(&disk.driver, 0);
    test_driver_settle(&disk.driver);
    while (test_ring_used(ring, NULL, NULL))
        n++;
    assert_int_equal(n, ring->size);
    end_disk(&disk);
}

static void blk_empty_image(void **state)
{
    struct test_driver d;
    struct virtio_blk_config config = {.fd = memfd_create("disk", MFD_CLOEXEC)};
    struct error err;
    (void)state;

    test_driver_init(&d);
    assert_int_equal(
        virtio_blk_new(&config, d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, &err),
        -EINVAL);
    close(config.fd);
    test_driver_done(&d);
}

/* ---- rng ---- */

static void rng_fills(void **state)
{
    const struct virtio_rng_config config = {0};
    struct test_driver d;
    uint8_t zeroes[64] = {0};
    uint32_t len;
    (void)state;

    test_driver_init(&d);
    assert_int_equal(
        virtio_rng_new(&config, d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, NULL), 0);
    test_driver_start(&d, 0);
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 64, DESC_WRITE, 0);
    test_ring_desc(&d.rings[0], 1, GUEST_DATA + 4096, 1 << 20, DESC_WRITE, 0);
    test_ring_desc(&d.rings[0], 2, GUEST_DATA, 64, 0, 0);
    for (uint16_t i = 0; i < 3; i++)
        test_ring_offer(&d.rings[0], i);
    test_driver_kick(&d, 0);
    test_driver_settle(&d);
    assert_true(test_ring_used(&d.rings[0], NULL, &len));
    assert_int_equal(len, 64);
    assert_memory_not_equal(test_guest_at(&d.guest, GUEST_DATA), zeroes, 64);
    assert_true(test_ring_used(&d.rings[0], NULL, &len));
    assert_int_equal(len, 256); /* a request is bounded */
    assert_memory_equal(test_guest_at(&d.guest, GUEST_DATA + 4096 + 256), zeroes, 64);
    assert_true(test_ring_used(&d.rings[0], NULL, &len));
    assert_int_equal(len, 0); /* nothing to write to */
    test_driver_done(&d);
}

static void rng_is_rate_limited(void **state)
{
    const struct virtio_rng_config config = {.bytes_per_second = 10240};
    struct test_driver d;
    uint32_t len, total = 0;
    (void)state;

    test_driver_init(&d);
    assert_int_equal(
        virtio_rng_new(&config, d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, NULL), 0);
    test_driver_start(&d, 0);
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 256, DESC_WRITE, 0);
    uint64_t start_ns = clock_now_ns();
    while (total < 5 * 1024) {
        test_ring_offer(&d.rings[0], 0);
        test_driver_kick(&d, 0);
        while (!test_ring_used(&d.rings[0], NULL, &len))
            loop_turn(d.loop, 1000);
        total += len;
    }
    /* 1 KiB at once and then one each 100 ms. */
    assert_true(clock_now_ns() - start_ns >= UINT64_C(350000000));
    test_driver_done(&d);
}

/* ---- pmem ---- */

static void pmem_flush(void **state)
{
    const struct virtio_pmem_config config = {.start_gpa = 0x40000000, .size_bytes = 4096};
    struct test_driver d;
    uint32_t len;
    (void)state;

    test_driver_init(&d);
    assert_int_equal(
        virtio_pmem_new(&config, d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, NULL), 0);
    test_driver_start(&d, 0);
    for (uint32_t type = 0; type < 2; type++) {
        store_le32(test_guest_at(&d.guest, GUEST_DATA), type);
        store_le32(test_guest_at(&d.guest, GUEST_DATA + 8), 0xffffffff);
        test_ring_desc(&d.rings[0], 0, GUEST_DATA, 4, DESC_NEXT, 1);
        test_ring_desc(&d.rings[0], 1, GUEST_DATA + 8, 4, DESC_WRITE, 0);
        test_ring_offer(&d.rings[0], 0);
        test_driver_kick(&d, 0);
        test_driver_settle(&d);
        assert_true(test_ring_used(&d.rings[0], NULL, &len));
        assert_int_equal(len, 4);
        assert_int_equal(load_le32(test_guest_at(&d.guest, GUEST_DATA + 8)), type); /* 1: error */
    }
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 3, DESC_NEXT, 1);
    test_ring_desc(&d.rings[0], 1, GUEST_DATA + 8, 3, DESC_WRITE, 0);
    test_ring_offer(&d.rings[0], 0);
    test_driver_kick(&d, 0);
    test_driver_settle(&d);
    assert_true(test_ring_used(&d.rings[0], NULL, &len));
    assert_int_equal(len, 0);
    test_driver_done(&d);
}

static void pmem_bad_region(void **state)
{
    static const struct virtio_pmem_config bad[] = {{.start_gpa = 4096, .size_bytes = 0},
                                                    {.start_gpa = 4096, .size_bytes = -4095ULL}};
    struct test_driver d;
    (void)state;

    test_driver_init(&d);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(
            virtio_pmem_new(&bad[i], d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, NULL),
            -EINVAL);
    test_driver_done(&d);
}

static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

/* A guest reads what passed since it came there, once; before and afterwards nothing did. */
static void freeze_point(void **state)
{
    int calls = 0;
    const struct freeze_point_config config = {
        .has_host_tsc = true, .reached = count_call, .opaque = &calls};
    struct freeze_point *point;
    (void)state;

    assert_int_equal(freeze_point_new(&config, &point, NULL), 0);
    assert_false(freeze_point_is_reached(point));
    assert_int_equal(freeze_point_read(point, 0) | freeze_point_read(point, 4), 0);
    freeze_point_write(point);
    assert_int_equal(calls, 1);
    assert_true(freeze_point_is_reached(point));
    uint64_t tsc = freeze_point_get_tsc(point);
    freeze_point_set_tsc(point, tsc - (UINT64_C(5) << 32)); /* frozen long ago */
    assert_true(freeze_point_missed_cycles(point) >= INT64_C(5) << 32);
    (void)freeze_point_read(point, 0);
    assert_int_equal(freeze_point_read(point, 4),
                     5); /* the rest of this test takes under a second */
    assert_int_equal(freeze_point_read(point, 3), UINT32_MAX);
    assert_false(freeze_point_is_reached(point));
    freeze_point_set_tsc(point, tsc + (UINT64_C(1) << 62)); /* on a host that was rebooted since */
    assert_true(freeze_point_missed_cycles(point) < 0);
    freeze_point_free(point);
}

/* Where a restore sets the guest's TSC, no time passes without the guest. */
static void freeze_point_of_hardware(void **state)
{
    int calls = 0;
    const struct freeze_point_config config = {.reached = count_call, .opaque = &calls};
    struct freeze_point *point;
    (void)state;

    assert_int_equal(freeze_point_new(&config, &point, NULL), 0);
    freeze_point_set_tsc(point, 0);
    assert_int_equal(freeze_point_missed_cycles(point), 0);
    freeze_point_free(point);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blk_reads_and_writes),
        cmocka_unit_test(blk_bounds),
        cmocka_unit_test(blk_read_only),
        cmocka_unit_test(blk_id),
        cmocka_unit_test(blk_truncated_in_use),
        cmocka_unit_test(blk_short_chains),
        cmocka_unit_test(blk_many_requests),
        cmocka_unit_test(blk_empty_image),
        cmocka_unit_test(rng_fills),
        cmocka_unit_test(rng_is_rate_limited),
        cmocka_unit_test(pmem_flush),
        cmocka_unit_test(pmem_bad_region),
        cmocka_unit_test(freeze_point),
        cmocka_unit_test(freeze_point_of_hardware),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
