/* The virtqueue parser over arbitrary ring memory. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/devices/virtqueue.h"
#include "tests/unit/virtio_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const struct virtqueue_chain *chain, uint32_t offset)
{
    static uint8_t scratch[65536];
    uint32_t len =
        chain->readable_bytes < sizeof(scratch) ? chain->readable_bytes : sizeof(scratch);

    virtqueue_chain_read(chain, 0, scratch, len);
    virtqueue_chain_read(chain, offset, scratch, len);
    len = chain->writable_bytes < sizeof(scratch) ? chain->writable_bytes : sizeof(scratch);
    /* Behind the rings, so that the input stays what it was. */
    virtqueue_chain_write(chain, offset, scratch, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct test_guest guest;
    static struct virtqueue_chain chain;
    struct virtqueue queue;
    struct test_ring ring;
    uint8_t options;
    int turns = 300;

    if (size < 8)
        return 0;
    if (!guest.ram)
        test_guest_init(&guest);
    options = data[0];
    virtqueue_init(&queue, &guest.memory, VIRTQUEUE_MAX_SIZE);
    test_ring_init(&ring, &guest, 0, VIRTQUEUE_MAX_SIZE);
    memcpy(test_guest_at(&guest, ring.avail), data + 2, 6);
    size_t len = size - 8 < 0x1000 ? size - 8 : 0x1000;
    memcpy(test_guest_at(&guest, ring.desc), data + 8, len);
    queue.at.size = (uint16_t)(1u << (options & 15));
    queue.at.next_avail = data[1];
    queue.at.desc_gpa = ring.desc;
    queue.at.driver_gpa = ring.avail;
    queue.at.device_gpa = ring.used;
    if (virtqueue_enable(&queue, options & 16) < 0)
        return 0;
    while (turns-- > 0 && virtqueue_pop(&queue, &chain) == 1) {
        if (chain.n_readable + chain.n_writable > queue.at.size)
            abort();
        look_at(&chain, data[1] * 16u);
        if (options & 32 && turns % 2) {
            virtqueue_unpop(&queue);
            continue;
        }
        virtqueue_push(&queue, chain.head, chain.writable_bytes);
        virtqueue_should_notify(&queue);
    }
    virtqueue_enable_kicks(&queue);
    virtqueue_disable_kicks(&queue);
    return 0;
}
