/*
 * security.md figures 1 and 2 at device level: malformed chains by the hundred thousand for each
 * device, and descriptors that a second thread rewrites while the device parses them.
 * MAYFLY_CHAINS sets the chains a device (figure: 1000000), MAYFLY_FLIP_SECONDS the time (60).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/blk.h"
#include "monitor/devices/pmem.h"
#include "monitor/devices/rng.h"
#include "monitor/devices/vsock.h"
#include "virtio_driver.h"

enum { DISK_BYTES = 1 << 20 };

typedef int make_device(struct test_driver *d);

static int make_pmem(struct test_driver *d)
{
    const struct virtio_pmem_config config = {.start_gpa = 0x40000000, .size_bytes = 4096};

    return virtio_pmem_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL);
}

static int make_rng(struct test_driver *d)
{
    const struct virtio_rng_config config = {.bytes_per_second = UINT32_MAX};

    return virtio_rng_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL);
}

static int make_blk(struct test_driver *d)
{
    struct virtio_blk_config config = {.fd = memfd_create("disk", MFD_CLOEXEC), .id = "disk"};

    assert_int_equal(ftruncate(config.fd, DISK_BYTES), 0);
    return virtio_blk_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL);
}

static int make_vsock(struct test_driver *d)
{
    const struct virtio_vsock_config config = {.guest_cid = 3, .listen_fd = -1};

    return virtio_vsock_new(&config, d->loop, &d->guest.memory, test_driver_irq(d), &d->mmio, NULL);
}

/* Plausible bytes where requests are read from, so that some get beyond the first check. */
static void scribble(struct test_driver *d, struct test_random *random)
{
    uint8_t *at = test_guest_at(&d->guest, GUEST_DATA);

    store_le32(at, test_random_next(random) % 12); /* a request type; a CID */
    store_le32(at + 4, 0);
    store_le64(at + 8, test_random_next(random) % 3 ? 2 : test_random_next(random));
    store_le32(at + 16, test_random_next(random) % 4);
    store_le32(at + 20, test_random_next(random) % 4);
    store_le32(at + 24, test_random_next(random) % 200);
    store_le16(at + 28, test_random_next(random) % 8 ? 1 : 2);
    store_le16(at + 30, (uint16_t)(test_random_next(random) % 9));
}

/* Every chain either breaks the ring, or comes back with no more than its writable part. */
static void throw_chains(make_device *make)
{
    unsigned long n = test_count_from_env("MAYFLY_CHAINS", 100000);
    struct test_random random = {.state = 1};
    struct test_driver d;
    uint64_t slowest_ns = 0;
    unsigned long broken = 0, used = 0;

    test_driver_init(&d);
    assert_int_equal(make(&d), 0);
    test_driver_start(&d, FEATURE_EVENT_IDX);
    for (unsigned long i = 0; i < n; i++) {
        unsigned queue = test_random_next(&random) % virtio_mmio_n_queues(d.mmio);
        uint32_t len;

        if (i % 64 == 0)
            scribble(&d, &random);
        test_offer_malformed(&d.rings[queue], &random);
        uint64_t start_ns = clock_now_ns();
        test_driver_kick(&d, queue);
        test_driver_settle(&d);
        uint64_t took_ns = clock_now_ns() - start_ns;
        if (took_ns > slowest_ns)
            slowest_ns = took_ns;
        while (test_ring_used(&d.rings[queue], NULL, &len)) {
            assert_true(len <= VIRTQUEUE_MAX_CHAIN_BYTES);
            used++;
        }
        uint32_t status = test_read(d.mmio, 0x70);
        assert_int_equal(status & ~(uint32_t)DRIVER_NEEDS_RESET, DRIVER_STATUS_OK);
        if (status & DRIVER_NEEDS_RESET) {
            broken++;
            assert_int_equal(test_driver_start(&d, i % 2 ? FEATURE_EVENT_IDX : 0),
                             DRIVER_STATUS_OK);
        }
    }
    print_message("%lu chains: %lu broke the ring, %lu came back, slowest kick %.2f ms\n", n,
                  broken, used, (double)slowest_ns / 1e6);
    assert_true(broken > n / 5); /* vsock looks at two of its queues only when it has news */
    /* The claim is 10 ms; a test under sanitizers on a busy machine gets a pause of the scheduler
     * on top, but never the seconds that an unbounded chain would take. */
    assert_true(slowest_ns < UINT64_C(500000000));
    test_driver_done(&d);
}

static void pmem_chains(void **state)
{
    (void)state;
    throw_chains(make_pmem);
}

static void rng_chains(void **state)
{
    (void)state;
    throw_chains(make_rng);
}

static void blk_chains(void **state)
{
    (void)state;
    throw_chains(make_blk);
}

static void vsock_chains(void **state)
{
    (void)state;
    throw_chains(make_vsock);
}

struct flipper {
    struct test_driver *d;
    _Atomic bool stop;
};

/* Rewrites descriptors, available indices and the first bytes of requests without pause. Whole
 * words at a time, so that a race detector only reports what the device does wrong. */
static void *flip(void *opaque)
{
    struct flipper *flipper = opaque;
    struct test_random random = {.state = 99};

    while (!flipper->stop) {
        unsigned queue = test_random_next(&random) % virtio_mmio_n_queues(flipper->d->mmio);
        uint64_t *desc =
            (uint64_t *)(void *)test_guest_at(&flipper->d->guest, GUEST_RINGS + queue * 0x4000);
        uint32_t word = test_random_next(&random) % 8;
        uint64_t value = 0;

        if (word % 2 == 0)
            value = test_random_next(&random) % 4 ? GUEST_DATA + test_random_next(&random) % 8192
                                                  : (uint64_t)test_random_next(&random) << 20;
        else
            value = test_random_next(&random) % 5000 |
                    (uint64_t)(test_random_next(&random) % 4) << 32 |
                    (uint64_t)(test_random_next(&random) % 5) << 48;
        __atomic_store_n(&desc[word], value, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void flip_descriptors(make_device *make)
{
    uint64_t seconds = test_count_from_env("MAYFLY_FLIP_SECONDS", 1);
    struct test_driver d;
    struct test_random random = {.state = 5};
    struct flipper flipper = {.d = &d};
    pthread_t thread;
    unsigned long used = 0, broken = 0;

    test_driver_init(&d);
    assert_int_equal(make(&d), 0);
    test_driver_start(&d, 0);
    pthread_create(&thread, NULL, flip, &flipper);
    for (uint64_t until = clock_now_ns() + seconds * UINT64_C(1000000000);
         clock_now_ns() < until;) {
        unsigned queue = test_random_next(&random) % virtio_mmio_n_queues(d.mmio);

        test_ring_offer(&d.rings[queue], (uint16_t)(test_random_next(&random) % 4));
        test_driver_kick(&d, queue);
        test_driver_settle(&d);
        while (test_ring_used(&d.rings[queue], NULL, NULL))
            used++;
        if (test_read(d.mmio, 0x70) & DRIVER_NEEDS_RESET) {
            broken++;
            test_driver_start(&d, 0);
        }
    }
    flipper.stop = true;
    pthread_join(thread, NULL);
    print_message("%lu chains came back, %lu broke the ring\n", used, broken);
    assert_true(used + broken > 100);
    test_driver_done(&d);
}

static void pmem_flips(void **state)
{
    (void)state;
    flip_descriptors(make_pmem);
}

static void rng_flips(void **state)
{
    (void)state;
    flip_descriptors(make_rng);
}

static void blk_flips(void **state)
{
    (void)state;
    flip_descriptors(make_blk);
}

static void vsock_flips(void **state)
{
    (void)state;
    flip_descriptors(make_vsock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pmem_chains),  cmocka_unit_test(rng_chains),  cmocka_unit_test(blk_chains),
        cmocka_unit_test(vsock_chains), cmocka_unit_test(pmem_flips),  cmocka_unit_test(rng_flips),
        cmocka_unit_test(blk_flips),    cmocka_unit_test(vsock_flips),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
