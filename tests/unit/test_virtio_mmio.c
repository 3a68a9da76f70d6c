/* The virtio-mmio transport: the register matrix, the status machine, interrupts, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/pmem.h"
#include "monitor/devices/rng.h"
#include "virtio_driver.h"

static void begin(struct test_driver *d)
{
    const struct virtio_pmem_config config = {.start_gpa = 0x40000000, .size_bytes = 0x123000};

    test_driver_init(d);
    assert_int_equal(
        virtio_pmem_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL), 0);
}

static void begin_rng(struct test_driver *d)
{
    const struct virtio_rng_config config = {.bytes_per_second = UINT32_C(1) << 30};

    test_driver_init(d);
    assert_int_equal(
        virtio_rng_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL), 0);
}

static void identity(void **state)
{
    struct test_driver d;
    (void)state;

    begin(&d);
    assert_int_equal(test_read(d.mmio, 0x00), 0x74726976);
    assert_int_equal(test_read(d.mmio, 0x04), 2);
    assert_int_equal(test_read(d.mmio, 0x08), 27);
    assert_int_equal(test_read(d.mmio, 0x34), 16);
    test_write(d.mmio, 0x14, 1);
    assert_int_equal(test_read(d.mmio, 0x10), 1); /* VERSION_1 */
    test_write(d.mmio, 0x14, 0);
    assert_int_equal(test_read(d.mmio, 0x10), FEATURE_EVENT_IDX);
    test_write(d.mmio, 0x14, 2);
    assert_int_equal(test_read(d.mmio, 0x10), 0);
    assert_int_equal(test_read(d.mmio, 0xb0), 0xffffffff); /* no shared memory */
    test_write(d.mmio, 0x30, 1);
    assert_int_equal(test_read(d.mmio, 0x34), 0); /* no such queue */
    assert_int_equal(virtio_mmio_n_queues(d.mmio), 1);
    assert_true(virtio_mmio_notify_fd(d.mmio, 0) >= 0);
    assert_int_equal(virtio_mmio_notify_fd(d.mmio, 1), -1);
    test_driver_done(&d);
}

static void config_space(void **state)
{
    struct test_driver d;
    uint8_t data[8];
    (void)state;

    begin(&d);
    assert_int_equal(test_read(d.mmio, 0x100), 0x40000000);
    assert_int_equal(test_read(d.mmio, 0x108), 0x123000);
    virtio_mmio_read(d.mmio, 0x108, data, 8);
    assert_int_equal(load_le64(data), 0x123000);
    virtio_mmio_read(d.mmio, 0x109, data, 1);
    assert_int_equal(data[0], 0x30);
    virtio_mmio_read(d.mmio, 0x103, data, 2);
    assert_int_equal(load_le16(data), 0x40);
    assert_int_equal(test_read(d.mmio, 0x110), 0); /* behind the end */
    memset(data, 0xff, sizeof(data));
    virtio_mmio_read(d.mmio, 0x1fd, data, 8); /* out of the window */
    assert_int_equal(load_le64(data), 0);
    virtio_mmio_write(d.mmio, 0x100, (const uint8_t[8]){1, 2, 3, 4, 5, 6, 7, 8}, 8);
    assert_int_equal(test_read(d.mmio, 0x100), 0x40000000); /* read-only */
    test_driver_done(&d);
}

static void bring_up(void **state)
{
    struct test_driver d;
    (void)state;

    begin(&d);
    assert_int_equal(test_driver_start(&d, FEATURE_EVENT_IDX), DRIVER_STATUS_OK);
    assert_int_equal(test_read(d.mmio, 0x44), 1);
    test_driver_done(&d);
}

static void features_are_checked(void **state)
{
    struct test_driver d;
    (void)state;

    begin(&d);
    for (unsigned i = 0; i < 2; i++) {
        test_write(d.mmio, 0x70, 0);
        test_write(d.mmio, 0x70, 1);
        test_write(d.mmio, 0x70, 3);
        test_write(d.mmio, 0x24, i); /* first without VERSION_1, then with what is not offered */
        test_write(d.mmio, 0x20, i ? 0x81 : 0);
        test_write(d.mmio, 0x70, 11);
        assert_int_equal(test_read(d.mmio, 0x70), 3);
        test_write(d.mmio, 0x70, 15); /* nor can it be skipped */
        assert_int_equal(test_read(d.mmio, 0x70), 3);
    }
    test_driver_done(&d);
}

static void status_machine(void **state)
{
    struct test_driver d;
    (void)state;

    begin(&d);
    test_write(d.mmio, 0x70, 2); /* DRIVER without ACKNOWLEDGE */
    assert_int_equal(test_read(d.mmio, 0x70), 0);
    test_write(d.mmio, 0x70, 64); /* not the driver's to set */
    assert_int_equal(test_read(d.mmio, 0x70), 0);
    assert_int_equal(test_driver_start(&d, 0), 15);
    test_write(d.mmio, 0x70, 3); /* bits are not taken away */
    assert_int_equal(test_read(d.mmio, 0x70), 15);
    test_write(d.mmio, 0x70, 15 | 128);
    assert_int_equal(test_read(d.mmio, 0x70), 15 | 128);
    test_write(d.mmio, 0x70, 15);
    assert_int_equal(test_read(d.mmio, 0x70), 15 | 128);
    test_write(d.mmio, 0x70, 0);
    assert_int_equal(test_read(d.mmio, 0x70), 0);
    assert_int_equal(test_read(d.mmio, 0x44), 0);
    assert_int_equal(test_driver_start(&d, 0), 15);
    test_driver_done(&d);
}

static void queue_setup_after_driver_ok_is_ignored(void **state)
{
    static const uint16_t registers[] = {0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x44};
    struct test_driver d;
    struct virtio_mmio_state before, after;
    (void)state;

    begin(&d);
    test_driver_start(&d, 0);
    assert_int_equal(virtio_mmio_get_state(d.mmio, &before, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(registers); i++)
        test_write(d.mmio, registers[i], 1);
    test_write(d.mmio, 0x20, 0);
    assert_int_equal(virtio_mmio_get_state(d.mmio, &after, NULL), 0);
    assert_memory_equal(&before, &after, sizeof(before));
    /* A driver may stop a queue; then it stays stopped until a reset. */
    test_write(d.mmio, 0x44, 0);
    assert_int_equal(test_read(d.mmio, 0x44), 0);
    test_write(d.mmio, 0x44, 1);
    assert_int_equal(test_read(d.mmio, 0x44), 0);
    test_driver_done(&d);
}

static void queue_outside_memory_is_not_ready(void **state)
{
    struct test_driver d;
    (void)state;

    begin(&d);
    test_write(d.mmio, 0x70, 1);
    test_write(d.mmio, 0x70, 3);
    test_write(d.mmio, 0x24, 1);
    test_write(d.mmio, 0x20, 1);
    test_write(d.mmio, 0x70, 11);
    test_write(d.mmio, 0x38, 16);
    test_write(d.mmio, 0x44, 1); /* all three areas at 0 */
    assert_int_equal(test_read(d.mmio, 0x44), 0);
    test_driver_setup_queue(&d, 0);
    assert_int_equal(test_read(d.mmio, 0x44), 1);
    test_write(d.mmio, 0x44, 0);
    test_write(d.mmio, 0x38, 0x10010); /* not to be cut down to 16 */
    test_write(d.mmio, 0x44, 1);
    assert_int_equal(test_read(d.mmio, 0x44), 0);
    test_driver_done(&d);
}

/* Brings the device to one of the ways a status can be. */
static void go_to(struct test_driver *d, uint32_t status)
{
    test_driver_start(d, 0);
    if (status == (DRIVER_STATUS_OK | DRIVER_NEEDS_RESET)) {
        d->rings[0].avail_idx = 5000; /* a broken ring */
        test_ring_offer(&d->rings[0], 0);
        test_driver_kick(d, 0);
        test_driver_settle(d);
        return;
    }
    if (status & 128) {
        test_write(d->mmio, 0x70, status);
        return;
    }
    if (status == DRIVER_STATUS_OK)
        return;
    test_write(d->mmio, 0x70, 0);
    if (status >= 1)
        test_write(d->mmio, 0x70, 1);
    if (status >= 3)
        test_write(d->mmio, 0x70, 3);
    test_write(d->mmio, 0x24, 1);
    test_write(d->mmio, 0x20, 1);
    if (status >= 11)
        test_write(d->mmio, 0x70, 11);
}

/* security.md figure 3. Only aligned 4-byte accesses may change anything; afterwards the device
 * always answers, and can be started again. */
static void register_matrix(void **state)
{
    static const uint32_t statuses[] = {0, 1, 3, 11, 15, 15 | 64, 15 | 128};
    static const unsigned widths[] = {1, 2, 4, 8};
    struct test_driver d;
    struct virtio_mmio_state before, after;
    uint8_t data[8];
    (void)state;

    begin_rng(&d);
    for (size_t s = 0; s < ARRAY_LEN(statuses); s++) {
        go_to(&d, statuses[s]);
        assert_int_equal(test_read(d.mmio, 0x70), statuses[s]);
        for (uint64_t offset = 0; offset < VIRTIO_MMIO_SIZE_BYTES; offset++) {
            for (size_t w = 0; w < ARRAY_LEN(widths); w++) {
                bool reaches = widths[w] == 4 && offset % 4 == 0 && offset < 0x100;

                memset(data, 0x5a, sizeof(data));
                virtio_mmio_read(d.mmio, offset, data, widths[w]);
                if (widths[w] < 8)
                    assert_int_equal(data[widths[w]], 0x5a); /* not a byte too many */
                if (!reaches)
                    for (unsigned i = 0; i < widths[w]; i++)
                        assert_int_equal(data[i], 0);
                assert_int_equal(virtio_mmio_get_state(d.mmio, &before, NULL), 0);
                memset(data, (int)(offset * 7), sizeof(data));
                virtio_mmio_write(d.mmio, offset, data, widths[w]);
                test_driver_settle(&d);
                assert_int_equal(virtio_mmio_get_state(d.mmio, &after, NULL), 0);
                if (!reaches)
                    assert_memory_equal(&before, &after, sizeof(before));
                if (statuses[s] & 4 && offset >= 0x80 && offset < 0xb0)
                    assert_memory_equal(before.queues, after.queues, sizeof(before.queues));
                if (after.status != statuses[s])
                    go_to(&d, statuses[s]);
            }
        }
        assert_int_equal(test_driver_start(&d, 0), DRIVER_STATUS_OK);
    }
    test_driver_done(&d);
}

static void offer_rng(struct test_driver *d)
{
    test_ring_desc(&d->rings[0], 0, GUEST_DATA, 64, DESC_WRITE, 0);
    test_ring_offer(&d->rings[0], 0);
    test_driver_kick(d, 0);
    test_driver_settle(d);
}

static void interrupt_status(void **state)
{
    struct test_driver d;
    (void)state;

    begin_rng(&d);
    test_driver_start(&d, 0);
    offer_rng(&d);
    assert_int_equal(d.interrupts, 1);
    assert_int_equal(test_read(d.mmio, 0x60), 1);
    offer_rng(&d); /* not acknowledged: no second edge */
    assert_int_equal(d.interrupts, 1);
    test_write(d.mmio, 0x64, 1);
    assert_int_equal(test_read(d.mmio, 0x60), 0);
    offer_rng(&d);
    assert_int_equal(d.interrupts, 2);
    usleep(20000); /* an edge that got lost is repeated */
    offer_rng(&d);
    assert_int_equal(d.interrupts, 3);
    test_driver_done(&d);
}

static void broken_ring_needs_reset(void **state)
{
    struct test_driver d;
    (void)state;

    begin_rng(&d);
    test_driver_start(&d, 0);
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 64, DESC_NEXT, 0);
    test_ring_offer(&d.rings[0], 0);
    test_driver_kick(&d, 0);
    test_driver_settle(&d);
    assert_int_equal(test_read(d.mmio, 0x70), DRIVER_STATUS_OK | DRIVER_NEEDS_RESET);
    assert_int_equal(test_read(d.mmio, 0x60) & 2, 2);
    assert_int_equal(d.interrupts, 1);
    assert_false(test_ring_used(&d.rings[0], NULL, NULL));
    test_driver_kick(&d, 0);
    test_driver_settle(&d);
    assert_int_equal(d.interrupts, 1); /* it does nothing more */
    assert_int_equal(test_driver_start(&d, 0), DRIVER_STATUS_OK);
    offer_rng(&d);
    assert_true(test_ring_used(&d.rings[0], NULL, NULL));
    test_driver_done(&d);
}

static unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void *run_loop(void *opaque)
{
    loop_run(opaque);
    return NULL;
}

/* security.md figure 5, with the loop on a thread of its own: 1,000 resets under I/O. */
static void resets_under_io(void **state)
{
    struct test_driver d;
    pthread_t thread;
    (void)state;

    begin_rng(&d);
    pthread_create(&thread, NULL, run_loop, d.loop);
    unsigned fds = open_fds();
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(test_driver_start(&d, i % 2 ? FEATURE_EVENT_IDX : 0), DRIVER_STATUS_OK);
        test_ring_desc(&d.rings[0], 0, GUEST_DATA, 64, DESC_WRITE, 0);
        for (unsigned n = 0; n < i % 5; n++)
            test_ring_offer(&d.rings[0], 0);
        test_driver_kick(&d, 0);
    }
    assert_int_equal(test_driver_start(&d, 0), DRIVER_STATUS_OK);
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 64, DESC_WRITE, 0);
    test_ring_offer(&d.rings[0], 0);
    test_driver_kick(&d, 0);
    uint64_t until = clock_now_ns() + UINT64_C(5000000000);
    while (!test_ring_used(&d.rings[0], NULL, NULL) && clock_now_ns() < until)
        usleep(100);
    assert_true(clock_now_ns() < until);
    loop_stop(d.loop, 0);
    pthread_join(thread, NULL);
    assert_in_range(open_fds(), fds - 1, fds + 1); /* the rng's timer may be running */
    test_driver_done(&d);
}

static void state_is_restored(void **state)
{
    struct test_driver d;
    struct virtio_mmio_state saved;
    (void)state;

    begin_rng(&d);
    test_driver_start(&d, FEATURE_EVENT_IDX);
    offer_rng(&d);
    assert_true(test_ring_used(&d.rings[0], NULL, NULL));
    /* Offered, but the notification is lost with the old process. */
    test_ring_offer(&d.rings[0], 0);
    assert_int_equal(virtio_mmio_get_state(d.mmio, &saved, NULL), 0);
    virtio_mmio_free(d.mmio);
    const struct virtio_rng_config config = {0};
    assert_int_equal(
        virtio_rng_new(&config, d.loop, &d.guest.memory, test_driver_irq(&d), &d.mmio, NULL), 0);
    assert_int_equal(virtio_mmio_set_state(d.mmio, &saved, NULL), 0);
    assert_int_equal(virtio_mmio_set_state(d.mmio, &saved, NULL), -EBUSY);
    test_driver_settle(&d);
    assert_true(test_ring_used(&d.rings[0], NULL, NULL));
    assert_int_equal(test_read(d.mmio, 0x70), DRIVER_STATUS_OK);
    test_driver_done(&d);
}

static void bad_state_is_refused(void **state)
{
    struct test_driver d;
    struct virtio_mmio_state good, bad;
    struct error err;
    (void)state;

    begin_rng(&d);
    test_driver_start(&d, 0);
    assert_int_equal(virtio_mmio_get_state(d.mmio, &good, NULL), 0);
    test_write(d.mmio, 0x70, 0);
    test_driver_settle(&d);
    for (unsigned i = 0; i < 10; i++) {
        bad = good;
        switch (i) {
        case 0:
            bad.device_id = 2;
            break;
        case 1:
            bad.n_queues = 4;
            break;
        case 2:
            bad.status |= 0x100;
            break;
        case 3:
            bad.status = 4;
            break;
        case 4:
            bad.driver_features |= 1;
            break;
        case 5:
            bad.driver_features = 0;
            break;
        case 6:
            bad.interrupt_status = 4;
            break;
        case 7:
            bad.queues[0].size = 7;
            break;
        case 8:
            bad.queues[0].device_gpa = GUEST_ROM_START;
            break;
        default:
            bad.status = 3;
            break;
        }
        assert_int_equal(virtio_mmio_set_state(d.mmio, &bad, &err), -EINVAL);
        assert_int_equal(test_read(d.mmio, 0x70), 0);
    }
    assert_int_equal(virtio_mmio_set_state(d.mmio, &good, NULL), 0);
    test_driver_done(&d);
}

/* EVENT_IDX against flags: how often a driver that offers a burst would have to notify. */
static void event_index_cuts_kicks(void **state)
{
    struct test_driver d;
    (void)state;

    begin_rng(&d);
    test_driver_start(&d, FEATURE_EVENT_IDX);
    test_ring_desc(&d.rings[0], 0, GUEST_DATA, 64, DESC_WRITE, 0);
    for (unsigned burst = 0; burst < 4; burst++) {
        unsigned kicks = 0;

        for (unsigned i = 0; i < 8; i++) {
            uint16_t old = d.rings[0].avail_idx;

            test_ring_offer(&d.rings[0], 0);
            kicks += test_ring_avail_event(&d.rings[0]) == old;
        }
        assert_int_equal(kicks, 1);
        test_driver_kick(&d, 0);
        test_driver_settle(&d);
        while (test_ring_used(&d.rings[0], NULL, NULL))
            ;
    }
    test_driver_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),
        cmocka_unit_test(config_space),
        cmocka_unit_test(bring_up),
        cmocka_unit_test(features_are_checked),
        cmocka_unit_test(status_machine),
        cmocka_unit_test(queue_setup_after_driver_ok_is_ignored),
        cmocka_unit_test(queue_outside_memory_is_not_ready),
        cmocka_unit_test(register_matrix),
        cmocka_unit_test(interrupt_status),
        cmocka_unit_test(broken_ring_needs_reset),
        cmocka_unit_test(resets_under_io),
        cmocka_unit_test(state_is_restored),
        cmocka_unit_test(bad_state_is_refused),
        cmocka_unit_test(event_index_cuts_kicks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
