/*
 * The driver side of virtio for tests: a guest memory, rings in it, and a device brought up by its
 * registers. Nothing here checks anything: tests build broken rings with it as easily as good ones.
 */
#ifndef MAYFLY_TESTS_VIRTIO_DRIVER_H
#define MAYFLY_TESTS_VIRTIO_DRIVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/loop.h"
#include "monitor/devices/virtio_mmio.h"
#include "monitor/guest_memory.h"

#define GUEST_RAM_START UINT64_C(0x10000)
#define GUEST_RAM_BYTES UINT64_C(0x600000)
#define GUEST_ROM_START UINT64_C(0x100000000) /* a read-only region, above 4 GiB */
#define GUEST_ROM_BYTES UINT64_C(0x10000)
/* Where rings go, 16 KiB each; buffers are free from GUEST_DATA on. */
#define GUEST_RINGS UINT64_C(0x20000)
#define GUEST_DATA UINT64_C(0x100000)

enum {
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,
    FEATURE_EVENT_IDX = 1 << 29,

    DRIVER_STATUS_OK = 15, /* ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK */
    DRIVER_NEEDS_RESET = 64,
};

struct test_guest {
    struct guest_memory memory;
    uint8_t *ram; /* owned: GUEST_RAM_BYTES at GUEST_RAM_START */
    uint8_t *rom;
};

struct test_ring {
    struct test_guest *guest; /* borrowed */
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t avail_idx, used_seen;
};

/* One device with all its rings, an interrupt counter and a loop of its own. */
struct test_driver {
    struct test_guest guest;
    struct loop *loop;
    struct virtio_mmio *mmio;
    struct test_ring rings[VIRTIO_MMIO_MAX_QUEUES];
    _Atomic unsigned interrupts;
    unsigned kicks; /* notifications that a driver would have sent */
};

void test_guest_init(struct test_guest *guest);
void test_guest_done(struct test_guest *guest);
uint8_t *test_guest_at(const struct test_guest *guest, uint64_t gpa);

/* A ring in its default place, empty. */
void test_ring_init(struct test_ring *ring, struct test_guest *guest, unsigned index,
                    uint16_t size);
void test_ring_desc(struct test_ring *ring, uint16_t index, uint64_t addr, uint32_t len,
                    uint16_t flags, uint16_t next);
void test_ring_offer(struct test_ring *ring, uint16_t head);
bool test_ring_used(struct test_ring *ring, uint32_t *ret_id, uint32_t *ret_len);
void test_ring_set_used_event(struct test_ring *ring, uint16_t value);
uint16_t test_ring_avail_event(const struct test_ring *ring);
uint16_t test_ring_used_flags(const struct test_ring *ring);

/* Memory, loop and interrupt line; the device's constructor is called with these. */
void test_driver_init(struct test_driver *driver);
void test_driver_done(struct test_driver *driver);
struct irq_line test_driver_irq(struct test_driver *driver);

uint32_t test_read(struct virtio_mmio *mmio, uint64_t offset);
void test_write(struct virtio_mmio *mmio, uint64_t offset, uint32_t value);

/* Reset, features (VERSION_1 beside @features), all queues, DRIVER_OK. Returns the status. */
uint32_t test_driver_start(struct test_driver *driver, uint32_t features);
void test_driver_setup_queue(struct test_driver *driver, unsigned index);
void test_driver_kick(struct test_driver *driver, unsigned queue);

/* test_driver_settle - dispatch until nothing is ready any more. */
void test_driver_settle(struct test_driver *driver);

/* test_count_from_env - @name's value as a number, or @otherwise. */
unsigned long test_count_from_env(const char *name, unsigned long otherwise);

/* A generator that is the same in each run. */
struct test_random {
    uint64_t state;
};
uint32_t test_random_next(struct test_random *random);

/*
 * test_offer_malformed - offers a chain of 1 to 8 descriptors with one or more of security.md's
 * faults in it, or a ring index that is wrong; about one in eight is all right.
 */
void test_offer_malformed(struct test_ring *ring, struct test_random *random);

/* test_dial - a virtio_vsock_config.dial: connects to the Unix socket "<@path>_<port>". */
int test_dial(void *path, uint32_t port);

#endif
