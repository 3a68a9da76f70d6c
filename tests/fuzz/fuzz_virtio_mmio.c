/*
 * The transport and each device behind it, driven by arbitrary register accesses, guest memory
 * writes and loop turns; and a state that was tampered with, set into a fresh device.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "monitor/devices/blk.h"
#include "monitor/devices/pmem.h"
#include "monitor/devices/rng.h"
#include "monitor/devices/vsock.h"
#include "tests/unit/virtio_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int make_device(struct test_driver *d, unsigned kind)
{
    const struct virtio_pmem_config pmem = {.start_gpa = 0x40000000, .size_bytes = 4096};
    const struct virtio_rng_config rng = {.bytes_per_second = 1 << 20};
    const struct virtio_vsock_config vsock = {.guest_cid = 3, .listen_fd = -1};
    struct virtio_blk_config blk = {.fd = -1, .read_only = kind & 4};
    struct irq_line irq = test_driver_irq(d);

    switch (kind % 4) {
    case 0:
        return virtio_pmem_new(&pmem, d->loop, &d->guest.memory, irq, &d->mmio, NULL);
    case 1:
        return virtio_rng_new(&rng, d->loop, &d->guest.memory, irq, &d->mmio, NULL);
    case 2:
        return virtio_vsock_new(&vsock, d->loop, &d->guest.memory, irq, &d->mmio, NULL);
    default:
        blk.fd = memfd_create("disk", MFD_CLOEXEC);
        if (ftruncate(blk.fd, 65536) < 0)
            return -1;
        return virtio_blk_new(&blk, d->loop, &d->guest.memory, irq, &d->mmio, NULL);
    }
}

/* A request of the usual shape: header, data, status; its fields are the input's. */
static void offer_request(struct test_driver *d, const uint8_t *op)
{
    struct test_ring *ring = &d->rings[0];
    uint8_t *header = test_guest_at(&d->guest, GUEST_DATA);
    uint16_t flags = (uint16_t)(op[1] & 16 ? DESC_WRITE : 0);

    store_le32(header, op[4] % 16);
    store_le64(header + 8, op[5]);
    uint32_t len = op[6] & 1 ? op[7] : op[7] % 8 * 512u;
    bool with_header = !(op[1] & 32);
    uint16_t first = with_header ? 0 : 1;
    test_ring_desc(ring, 0, GUEST_DATA, op[1] & 64 ? 4 : 16, DESC_NEXT, len ? 1 : 2);
    test_ring_desc(ring, 1, GUEST_DATA + 4096, len, (uint16_t)(DESC_NEXT | flags), 2);
    test_ring_desc(ring, 2, GUEST_DATA + 64, 1 + op[8] % 32, DESC_WRITE, 0);
    test_ring_offer(ring, first);
}

static void step(struct test_driver *d, const uint8_t *op)
{
    static const unsigned widths[] = {1, 2, 4, 8};
    uint8_t value[8];
    uint64_t offset = load_le16(op + 2) % VIRTIO_MMIO_SIZE_BYTES;

    memcpy(value, op + 4, sizeof(value));
    switch (op[0] % 8) {
    case 0:
    case 1: /* what a driver would write, mostly */
        test_write(d->mmio, offset & ~UINT64_C(3), load_le32(value));
        break;
    case 2:
        virtio_mmio_write(d->mmio, offset, value, widths[op[1] % 4]);
        break;
    case 3:
        virtio_mmio_read(d->mmio, offset, value, widths[op[1] % 4]);
        break;
    case 4: /* into the rings */
        memcpy(test_guest_at(&d->guest, GUEST_RINGS + (uint64_t)(op[1] % 3) * 0x4000 +
                                            (load_le16(op + 2) & 0x2fff)),
               value, sizeof(value));
        break;
    case 5: /* into a request */
        memcpy(test_guest_at(&d->guest, GUEST_DATA + (load_le16(op + 2) & 0xfff)), value,
               sizeof(value));
        break;
    case 6:
        test_driver_start(d, op[1] & 1 ? FEATURE_EVENT_IDX : 0);
        break;
    default:
        if ((op[1] & 8) && d->rings[0].size > 0)
            offer_request(d, op);
        test_driver_kick(d, op[1] % 3);
        loop_turn(d->loop, 0);
        break;
    }
}

/* A state with some bytes of it changed: refused or taken, but never believed blindly. */
static void tamper(struct test_driver *d, unsigned kind, const uint8_t *op)
{
    struct virtio_mmio_state state;
    uint8_t *bytes = (uint8_t *)&state;

    if (virtio_mmio_get_state(d->mmio, &state, NULL) < 0)
        return;
    for (unsigned i = 4; i < 11; i += 2)
        bytes[(op[i] * 2u) % sizeof(state)] ^= op[i + 1];
    for (unsigned i = 0; i < VIRTIO_MMIO_MAX_QUEUES;
         i++) /* a bool is 0 or 1, wherever it is from */
        state.queues[i].ready = *(const uint8_t *)&state.queues[i].ready & 1;
    virtio_mmio_free(d->mmio);
    d->mmio = NULL;
    if (make_device(d, kind) < 0)
        abort();
    virtio_mmio_set_state(d->mmio, &state, NULL);
    for (unsigned i = 0; i < 4; i++)
        loop_turn(d->loop, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct test_driver d;

    if (size < 16)
        return 0;
    test_driver_init(&d);
    if (make_device(&d, data[0]) < 0)
        abort();
    if (data[0] & 64)
        test_driver_start(&d, data[0] & 32 ? FEATURE_EVENT_IDX : 0);
    for (size_t i = 1; i + 12 <= size && i < 12 * 200; i += 12)
        step(&d, data + i);
    for (unsigned i = 0; i < 4; i++)
        loop_turn(d.loop, 0);
    if (data[0] & 128)
        tamper(&d, data[0], data + 1);
    test_driver_done(&d);
    return 0;
}
