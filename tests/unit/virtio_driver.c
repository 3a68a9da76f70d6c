/* The driver side of virtio for tests: see virtio_driver.h. */
#include "virtio_driver.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/bytes.h"
#include "common/fd.h"

static uint8_t *map_zeroes(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert(at != MAP_FAILED);
    return at;
}

void test_guest_init(struct test_guest *guest)
{
    memset(guest, 0, sizeof(*guest));
    guest->ram = map_zeroes(GUEST_RAM_BYTES);
    guest->rom = map_zeroes(GUEST_ROM_BYTES);
    /* The device would fault, not just be wrong, if it wrote there. */
    mprotect(guest->rom, GUEST_ROM_BYTES, PROT_READ);
    guest_memory_add(&guest->memory, (struct guest_region){.start = GUEST_RAM_START,
                                                           .len_bytes = GUEST_RAM_BYTES,
                                                           .host = guest->ram});
    guest_memory_add(&guest->memory, (struct guest_region){.start = GUEST_ROM_START,
                                                           .len_bytes = GUEST_ROM_BYTES,
                                                           .host = guest->rom,
                                                           .read_only = 1});
}

void test_guest_done(struct test_guest *guest)
{
    munmap(guest->ram, GUEST_RAM_BYTES);
    munmap(guest->rom, GUEST_ROM_BYTES);
}

uint8_t *test_guest_at(const struct test_guest *guest, uint64_t gpa)
{
    return guest->ram + (gpa - GUEST_RAM_START);
}

void test_ring_init(struct test_ring *ring, struct test_guest *guest, unsigned index, uint16_t size)
{
    uint64_t base = GUEST_RINGS + index * UINT64_C(0x4000);

    *ring = (struct test_ring){
        .guest = guest, .size = size, .desc = base, .avail = base + 0x1000, .used = base + 0x2000};
    /* Word by word: another thread may be at it. */
    uint64_t *words = (uint64_t *)(void *)test_guest_at(guest, base);
    for (unsigned i = 0; i < 0x4000 / 8; i++)
        __atomic_store_n(&words[i], 0, __ATOMIC_RELAXED);
}

static void put16(const struct test_ring *ring, uint64_t gpa, uint16_t value)
{
    uint16_t *at = (uint16_t *)(void *)test_guest_at(ring->guest, gpa);

    __atomic_store_n(at, htole16(value), __ATOMIC_SEQ_CST);
}

static uint16_t get16(const struct test_ring *ring, uint64_t gpa)
{
    uint16_t *at = (uint16_t *)(void *)test_guest_at(ring->guest, gpa);

    return le16toh(__atomic_load_n(at, __ATOMIC_SEQ_CST));
}

void test_ring_desc(struct test_ring *ring, uint16_t index, uint64_t addr, uint32_t len,
                    uint16_t flags, uint16_t next)
{
    uint64_t *at = (uint64_t *)(void *)test_guest_at(ring->guest, ring->desc + index * 16u);
    uint64_t rest = len | (uint64_t)flags << 32 | (uint64_t)next << 48;

    __atomic_store_n(&at[0], htole64(addr), __ATOMIC_RELAXED);
    __atomic_store_n(&at[1], htole64(rest), __ATOMIC_RELAXED);
}

void test_ring_offer(struct test_ring *ring, uint16_t head)
{
    put16(ring, ring->avail + 4 + 2u * (ring->avail_idx % ring->size), head);
    ring->avail_idx++;
    put16(ring, ring->avail + 2, ring->avail_idx);
}

bool test_ring_used(struct test_ring *ring, uint32_t *ret_id, uint32_t *ret_len)
{
    if (get16(ring, ring->used + 2) == ring->used_seen)
        return false;
    const uint8_t *entry =
        test_guest_at(ring->guest, ring->used + 4 + 8u * (ring->used_seen % ring->size));
    if (ret_id)
        *ret_id = load_le32(entry);
    if (ret_len)
        *ret_len = load_le32(entry + 4);
    ring->used_seen++;
    return true;
}

void test_ring_set_used_event(struct test_ring *ring, uint16_t value)
{
    put16(ring, ring->avail + 4 + 2u * ring->size, value);
}

uint16_t test_ring_avail_event(const struct test_ring *ring)
{
    return get16(ring, ring->used + 4 + 8u * ring->size);
}

uint16_t test_ring_used_flags(const struct test_ring *ring)
{
    return get16(ring, ring->used);
}

static void count_interrupt(void *opaque)
{
    struct test_driver *driver = opaque;

    driver->interrupts++;
}

struct irq_line test_driver_irq(struct test_driver *driver)
{
    return (struct irq_line){.raise = count_interrupt, .opaque = driver};
}

void test_driver_init(struct test_driver *driver)
{
    memset(driver, 0, sizeof(*driver));
    test_guest_init(&driver->guest);
    int r = loop_new(&driver->loop, NULL);
    assert(r == 0);
    (void)r;
}

void test_driver_done(struct test_driver *driver)
{
    virtio_mmio_free(driver->mmio);
    loop_free(driver->loop);
    test_guest_done(&driver->guest);
}

uint32_t test_read(struct virtio_mmio *mmio, uint64_t offset)
{
    uint8_t data[4];

    virtio_mmio_read(mmio, offset, data, 4);
    return load_le32(data);
}

void test_write(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    uint8_t data[4];

    store_le32(data, value);
    virtio_mmio_write(mmio, offset, data, 4);
}

static void write_address(struct virtio_mmio *mmio, uint64_t low, uint64_t value)
{
    test_write(mmio, low, (uint32_t)value);
    test_write(mmio, low + 4, (uint32_t)(value >> 32));
}

void test_driver_setup_queue(struct test_driver *driver, unsigned index)
{
    struct virtio_mmio *mmio = driver->mmio;
    struct test_ring *ring = &driver->rings[index];

    test_write(mmio, 0x30, index);
    test_ring_init(ring, &driver->guest, index, (uint16_t)test_read(mmio, 0x34));
    test_write(mmio, 0x38, ring->size);
    write_address(mmio, 0x80, ring->desc);
    write_address(mmio, 0x90, ring->avail);
    write_address(mmio, 0xa0, ring->used);
    test_write(mmio, 0x44, 1);
}

uint32_t test_driver_start(struct test_driver *driver, uint32_t features)
{
    struct virtio_mmio *mmio = driver->mmio;

    test_write(mmio, 0x70, 0);
    test_write(mmio, 0x70, 1);
    test_write(mmio, 0x70, 3);
    test_write(mmio, 0x24, 0);
    test_write(mmio, 0x20, features);
    test_write(mmio, 0x24, 1);
    test_write(mmio, 0x20, 1); /* VERSION_1 */
    test_write(mmio, 0x70, 11);
    for (unsigned i = 0; i < virtio_mmio_n_queues(mmio); i++)
        test_driver_setup_queue(driver, i);
    test_write(mmio, 0x70, DRIVER_STATUS_OK);
    return test_read(mmio, 0x70);
}

void test_driver_kick(struct test_driver *driver, unsigned queue)
{
    test_write(driver->mmio, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

void test_driver_settle(struct test_driver *driver)
{
    while (loop_turn(driver->loop, 0) > 0)
        ;
}

unsigned long test_count_from_env(const char *name, unsigned long otherwise)
{
    const char *value = getenv(name);

    return value ? strtoul(value, NULL, 10) : otherwise;
}

uint32_t test_random_next(struct test_random *random)
{
    random->state = random->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random->state >> 33);
}

static uint64_t odd_address(struct test_random *random)
{
    switch (test_random_next(random) % 8) {
    case 0:
        return UINT64_MAX - test_random_next(random) % 64;
    case 1:
        return GUEST_RAM_START - 1 - test_random_next(random) % 64;
    case 2:
        return GUEST_RAM_START + GUEST_RAM_BYTES - 1 - test_random_next(random) % 64;
    case 3:
        return GUEST_ROM_START + test_random_next(random) % 64;
    case 4:
        return UINT64_C(0xffffffff) - test_random_next(random) % 64;
    default:
        return GUEST_DATA + test_random_next(random) % 65536;
    }
}

static uint32_t odd_length(struct test_random *random)
{
    switch (test_random_next(random) % 8) {
    case 0:
        return 0;
    case 1:
        return UINT32_MAX - test_random_next(random) % 16;
    case 2:
        return UINT32_C(1) << 31;
    case 3:
        return GUEST_RAM_BYTES;
    default:
        return 1 + test_random_next(random) % 4096;
    }
}

static void malformed_desc(struct test_ring *ring, struct test_random *random, uint16_t index,
                           bool last)
{
    uint16_t next = (uint16_t)((index + 1) % ring->size);
    uint16_t flags = (uint16_t)(last ? 0 : DESC_NEXT);
    uint64_t addr = GUEST_DATA + test_random_next(random) % 65536;
    uint32_t len = 1 + test_random_next(random) % 4096;

    switch (test_random_next(random) % 12) {
    case 0: /* on to itself */
        next = index;
        flags = DESC_NEXT;
        break;
    case 1: /* back to the start: a cycle */
        next = 0;
        flags = DESC_NEXT;
        break;
    case 2:
        next = (uint16_t)test_random_next(random); /* anywhere */
        flags = DESC_NEXT;
        break;
    case 3:
    case 4:
        addr = odd_address(random);
        break;
    case 5:
    case 6:
        len = odd_length(random);
        break;
    case 7:
        flags |= (uint16_t)test_random_next(random); /* indirect and what does not exist */
        break;
    default:
        break;
    }
    if (test_random_next(random) % 2)
        flags |= DESC_WRITE; /* in any order with readable ones */
    test_ring_desc(ring, index, addr, len, flags, next);
}

void test_offer_malformed(struct test_ring *ring, struct test_random *random)
{
    unsigned n = 1 + test_random_next(random) % 8;
    uint16_t head = 0;

    if (test_random_next(random) % 8 == 0) { /* a request that is all right, of small parts */
        test_ring_desc(ring, 0, GUEST_DATA, 64, DESC_NEXT, 1);
        test_ring_desc(ring, 1, GUEST_DATA + 4096, 64, DESC_WRITE, 0);
        test_ring_offer(ring, 0);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        malformed_desc(ring, random, (uint16_t)(i % ring->size), i + 1 == n);
    if (test_random_next(random) % 16 == 0)
        head = (uint16_t)test_random_next(random);
    if (test_random_next(random) % 16 == 0)
        ring->avail_idx = (uint16_t)(ring->avail_idx + test_random_next(random));
    test_ring_offer(ring, head);
}

int test_dial(void *path, uint32_t port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", (const char *)path, port);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    return fd_steal(&fd);
}
