/* Split virtqueues: good chains, every class of broken one, notification suppression, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "monitor/devices/virtqueue.h"
#include "virtio_driver.h"

enum { SIZE = 16 };

struct fixture {
    struct test_guest guest;
    struct test_ring ring;
    struct virtqueue queue;
    struct virtqueue_chain chain;
};

static void start(struct fixture *f, bool event_idx)
{
    test_guest_init(&f->guest);
    test_ring_init(&f->ring, &f->guest, 0, SIZE);
    virtqueue_init(&f->queue, &f->guest.memory, SIZE);
    f->queue.at.size = SIZE;
    f->queue.at.desc_gpa = f->ring.desc;
    f->queue.at.driver_gpa = f->ring.avail;
    f->queue.at.device_gpa = f->ring.used;
    assert_int_equal(virtqueue_enable(&f->queue, event_idx), 0);
}

/* Offers what the descriptors say, and expects the ring to be called broken, and left alone. */
static void expect_broken(struct fixture *f, uint16_t head)
{
    test_ring_offer(&f->ring, head);
    assert_int_equal(virtqueue_pop(&f->queue, &f->chain), -EPROTO);
    assert_int_equal(f->queue.in_flight, 0);
    assert_int_equal(f->queue.at.next_avail, 0);
    test_guest_done(&f->guest);
}

static void good_chain(void **state)
{
    struct fixture f;
    uint8_t out[200];
    uint32_t id, len;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 5, GUEST_DATA, 100, DESC_NEXT, 2);
    test_ring_desc(&f.ring, 2, GUEST_DATA + 100, 50, DESC_NEXT, 9);
    test_ring_desc(&f.ring, 9, GUEST_DATA + 8192, 70, DESC_NEXT | DESC_WRITE, 1);
    test_ring_desc(&f.ring, 1, GUEST_DATA + 9000, 30, DESC_WRITE, 0);
    for (unsigned i = 0; i < 150; i++)
        test_guest_at(&f.guest, GUEST_DATA)[i] = (uint8_t)i;
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 0);
    test_ring_offer(&f.ring, 5);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    assert_int_equal(f.chain.head, 5);
    assert_int_equal(f.chain.readable_bytes, 150);
    assert_int_equal(f.chain.writable_bytes, 100);

    assert_true(virtqueue_chain_read(&f.chain, 90, out, 60));
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(out[i], 90 + i);
    assert_false(virtqueue_chain_read(&f.chain, 91, out, 60));
    assert_false(virtqueue_chain_read(&f.chain, UINT32_MAX, out, 2));
    memset(out, 7, sizeof(out));
    assert_true(virtqueue_chain_write(&f.chain, 60, out, 40));
    assert_false(virtqueue_chain_write(&f.chain, 60, out, 41));
    assert_int_equal(test_guest_at(&f.guest, GUEST_DATA + 8192)[59], 0);
    assert_int_equal(test_guest_at(&f.guest, GUEST_DATA + 8192)[69], 7);
    assert_int_equal(test_guest_at(&f.guest, GUEST_DATA + 9000)[29], 7);

    virtqueue_push(&f.queue, f.chain.head, 100);
    assert_true(test_ring_used(&f.ring, &id, &len));
    assert_int_equal(id, 5);
    assert_int_equal(len, 100);
    assert_false(test_ring_used(&f.ring, &id, &len));
    assert_int_equal(f.queue.in_flight, 0);
    test_guest_done(&f.guest);
}

static void unpop_gives_back(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 3, GUEST_DATA, 8, 0, 0);
    test_ring_offer(&f.ring, 3);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 0);
    virtqueue_unpop(&f.queue);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    assert_int_equal(f.chain.head, 3);
    test_guest_done(&f.guest);
}

static void self_loop(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, DESC_NEXT, 0);
    expect_broken(&f, 0);
}

static void cycle(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    for (uint16_t i = 0; i < 4; i++)
        test_ring_desc(&f.ring, i, GUEST_DATA, 8, DESC_NEXT, (uint16_t)((i + 1) % 4));
    expect_broken(&f, 0);
}

static void longest_chain_passes(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    for (uint16_t i = 0; i < SIZE; i++)
        test_ring_desc(&f.ring, i, GUEST_DATA, 8, i + 1 < SIZE ? DESC_NEXT : 0, (uint16_t)(i + 1));
    test_ring_offer(&f.ring, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    assert_int_equal(f.chain.n_readable, SIZE);
    test_guest_done(&f.guest);
}

static void head_out_of_range(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    expect_broken(&f, SIZE);
}

static void next_out_of_range(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, DESC_NEXT, 0xffff);
    expect_broken(&f, 0);
}

/* One bad descriptor for each row. */
static void bad_descriptors(void **state)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
    } rows[] = {
        {GUEST_DATA, 0, 0},                                     /* zero length */
        {GUEST_DATA, UINT32_MAX, 0},                            /* 4 GiB */
        {GUEST_RAM_START, GUEST_RAM_BYTES, 0},                  /* more than a chain may have */
        {UINT64_MAX - 3, 8, 0},                                 /* addr + len wraps */
        {UINT64_MAX, 1, DESC_WRITE},                            /* likewise */
        {GUEST_RAM_START - 4, 8, 0},                            /* begins before memory */
        {GUEST_RAM_START + GUEST_RAM_BYTES - 4, 8, DESC_WRITE}, /* ends behind it */
        {0, 8, 0},                                              /* a hole */
        {GUEST_ROM_START, 8, DESC_WRITE},                       /* writes read-only memory */
        {GUEST_DATA, 64, DESC_INDIRECT},                        /* not offered */
        {GUEST_DATA, 64, 0x8000},                               /* no such flag */
    };
    (void)state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;

        start(&f, false);
        test_ring_desc(&f.ring, 0, rows[i].addr, rows[i].len, rows[i].flags, 0);
        expect_broken(&f, 0);
    }
}

static void read_only_memory_is_readable(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_ROM_START, 8, 0, 0);
    test_ring_offer(&f.ring, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    test_guest_done(&f.guest);
}

static void readable_after_writable(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, DESC_WRITE | DESC_NEXT, 1);
    test_ring_desc(&f.ring, 1, GUEST_DATA, 8, 0, 0);
    expect_broken(&f, 0);
}

static void total_is_bounded(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    for (uint16_t i = 0; i < SIZE; i++)
        test_ring_desc(&f.ring, i, GUEST_RAM_START, 1 << 20, i + 1 < SIZE ? DESC_NEXT : 0,
                       (uint16_t)(i + 1));
    expect_broken(&f, 0);
}

static void index_runs_away(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
    f.ring.avail_idx = SIZE;
    expect_broken(&f, 0);
}

/* A driver that offers a head again while we have it cannot make us hold more than the queue. */
static void in_flight_is_bounded(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        test_ring_offer(&f.ring, 0);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    }
    test_ring_offer(&f.ring, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), -EPROTO);
    test_guest_done(&f.guest);
}

static void areas_are_checked(void **state)
{
    static const struct virtqueue_state bad[] = {
        {.size = 0, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = 0x22000},
        {.size = 3, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = 0x22000},
        {.size = 32, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = 0x22000},
        {.size = 16, .desc_gpa = 0x20008, .driver_gpa = 0x21000, .device_gpa = 0x22000},
        {.size = 16, .desc_gpa = 0x20000, .driver_gpa = 0x21001, .device_gpa = 0x22000},
        {.size = 16, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = 0x22002},
        {.size = 16, .desc_gpa = 0, .driver_gpa = 0x21000, .device_gpa = 0x22000},
        {.size = 16, .desc_gpa = 0x20000, .driver_gpa = 0x60fff0, .device_gpa = 0x22000},
        {.size = 16, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = ~UINT64_C(3)},
        {.size = 16, .desc_gpa = 0x20000, .driver_gpa = 0x21000, .device_gpa = GUEST_ROM_START},
    };
    struct fixture f;
    (void)state;

    start(&f, false);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct virtqueue_state wanted = bad[i];

        wanted.ready = true;
        assert_int_equal(virtqueue_set_state(&f.queue, &wanted, false), -EINVAL);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 0);
    }
    test_guest_done(&f.guest);
}

static void interrupts_by_flag(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, false);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
    for (unsigned wanted = 0; wanted < 2; wanted++) {
        test_guest_at(&f.guest, f.ring.avail)[0] = !wanted; /* NO_INTERRUPT */
        test_ring_offer(&f.ring, 0);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
        virtqueue_push(&f.queue, 0, 0);
        assert_int_equal(virtqueue_should_notify(&f.queue), wanted);
        assert_false(virtqueue_should_notify(&f.queue)); /* nothing new */
    }
    test_guest_done(&f.guest);
}

/* The event index against all positions, over the wrap of the free-running counters. */
static void interrupts_by_event_index(void **state)
{
    struct fixture f;
    (void)state;

    start(&f, true);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
    f.queue.at.next_avail = f.queue.at.next_used = f.queue.at.signalled_used = 0xfff8;
    f.ring.avail_idx = 0xfff8;
    for (uint32_t i = 0; i < 16; i++) {
        uint16_t before = f.queue.at.next_used;
        int distance = (int)(i % 3) - 1; /* the event: just passed, due, or one later */

        test_ring_set_used_event(&f.ring, (uint16_t)(before + distance));
        test_ring_offer(&f.ring, 0);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
        virtqueue_push(&f.queue, 0, 0);
        assert_int_equal(virtqueue_should_notify(&f.queue), distance == 0);
    }
    test_guest_done(&f.guest);
}

static void kicks(void **state)
{
    (void)state;

    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct fixture f;

        start(&f, event_idx);
        test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
        virtqueue_disable_kicks(&f.queue);
        if (!event_idx)
            assert_int_equal(test_ring_used_flags(&f.ring), 1);
        assert_false(virtqueue_enable_kicks(&f.queue));
        assert_int_equal(test_ring_used_flags(&f.ring), 0);
        /* One that comes between the last pop and this is noticed. */
        virtqueue_disable_kicks(&f.queue);
        test_ring_offer(&f.ring, 0);
        assert_true(virtqueue_enable_kicks(&f.queue));
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
        assert_false(virtqueue_enable_kicks(&f.queue));
        if (event_idx)
            assert_int_equal(test_ring_avail_event(&f.ring), 1);
        test_guest_done(&f.guest);
    }
}

static void state_round_trip(void **state)
{
    struct fixture f;
    struct virtqueue other;
    (void)state;

    start(&f, true);
    test_ring_desc(&f.ring, 0, GUEST_DATA, 8, 0, 0);
    test_ring_offer(&f.ring, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), 1);
    virtqueue_push(&f.queue, 0, 0);
    test_ring_offer(&f.ring, 0);
    virtqueue_init(&other, &f.guest.memory, SIZE);
    assert_int_equal(virtqueue_set_state(&other, &f.queue.at, true), 0);
    assert_int_equal(virtqueue_pop(&other, &f.chain), 1);
    assert_int_equal(virtqueue_pop(&other, &f.chain), 0);
    test_guest_done(&f.guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_chain),
        cmocka_unit_test(unpop_gives_back),
        cmocka_unit_test(self_loop),
        cmocka_unit_test(cycle),
        cmocka_unit_test(longest_chain_passes),
        cmocka_unit_test(head_out_of_range),
        cmocka_unit_test(next_out_of_range),
        cmocka_unit_test(bad_descriptors),
        cmocka_unit_test(read_only_memory_is_readable),
        cmocka_unit_test(readable_after_writable),
        cmocka_unit_test(total_is_bounded),
        cmocka_unit_test(index_runs_away),
        cmocka_unit_test(in_flight_is_bounded),
        cmocka_unit_test(areas_are_checked),
        cmocka_unit_test(interrupts_by_flag),
        cmocka_unit_test(interrupts_by_event_index),
        cmocka_unit_test(kicks),
        cmocka_unit_test(state_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
