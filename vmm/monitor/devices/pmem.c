/*
 * virtio-pmem: see pmem.h.
 *
 * Process: mayfly-vmm, loop thread. Trust: requests are hostile. Invariant: the backing is
 * read-only, so a flush has nothing to write and always succeeds; a guest cannot make us touch the
 * image through this queue at all.
 */
#include "pmem.h"

#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "monitor/devices/virtio_device.h"

enum {
    PMEM_DEVICE_ID = 27,
    PMEM_CONFIG_BYTES = 16,
    PMEM_QUEUE_SIZE = 16,
    PMEM_TURN_REQUESTS = 64, /* a turn ends after so many: other devices wait */

    REQUEST_BYTES = 4, /* §5.19.6: le32 type */
    RESPONSE_BYTES = 4,
    REQUEST_FLUSH = 0,
    RESPONSE_OK = 0,
    RESPONSE_ERROR = 1,
};

struct pmem {
    struct virtio_mmio *mmio; /* borrowed: owns us */
    struct virtio_pmem_config config;
    struct virtqueue_chain chain; /* scratch, while a request is looked at */
};

static void pmem_config_read(void *device, uint8_t *ret_config)
{
    const struct pmem *pmem = device;

    store_le64(ret_config, pmem->config.start_gpa);
    store_le64(ret_config + 8, pmem->config.size_bytes);
}

/* Returns how many bytes of the response were written. */
static uint32_t answer(const struct virtqueue_chain *chain)
{
    uint8_t request[REQUEST_BYTES];
    uint8_t response[RESPONSE_BYTES];
    uint32_t result = RESPONSE_ERROR;

    if (virtqueue_chain_read(chain, 0, request, sizeof(request)) &&
        load_le32(request) == REQUEST_FLUSH)
        result = RESPONSE_OK;
    store_le32(response, result);
    return virtqueue_chain_write(chain, 0, response, sizeof(response)) ? RESPONSE_BYTES : 0;
}

static void pmem_notify(void *device, unsigned index)
{
    struct pmem *pmem = device;
    struct virtqueue *queue = virtio_mmio_queue(pmem->mmio, index);
    unsigned left = PMEM_TURN_REQUESTS;
    int r = 0;

    do {
        virtqueue_disable_kicks(queue);
        while (left > 0 && (r = virtqueue_pop(queue, &pmem->chain)) == 1) {
            virtqueue_push(queue, pmem->chain.head, answer(&pmem->chain));
            left--;
        }
        if (r < 0) {
            virtio_mmio_fail(pmem->mmio);
            return;
        }
        virtio_mmio_signal(pmem->mmio, index);
        if (left == 0) {
            virtio_mmio_kick(pmem->mmio, index);
            return;
        }
    } while (virtqueue_enable_kicks(queue));
}

static const struct virtio_device_ops pmem_ops = {
    .device_id = PMEM_DEVICE_ID,
    .n_queues = 1,
    .queue_sizes = {PMEM_QUEUE_SIZE},
    .config_bytes = PMEM_CONFIG_BYTES,
    .config_read = pmem_config_read,
    .notify = pmem_notify,
    .free = free,
};

int virtio_pmem_new(const struct virtio_pmem_config *config, struct loop *loop,
                    const struct guest_memory *memory, struct irq_line irq,
                    struct virtio_mmio **ret_mmio, struct error *err)
{
    if (config->size_bytes == 0 || config->start_gpa + config->size_bytes < config->start_gpa)
        return error_say(err, EINVAL, "pmem region of impossible size or place");
    struct pmem *pmem = calloc(1, sizeof(*pmem));
    if (!pmem)
        return error_set(err, ENOMEM, "make pmem device");
    pmem->config = *config;
    int r = virtio_mmio_new(&pmem_ops, pmem, loop, memory, irq, &pmem->mmio, err);
    if (r < 0) {
        free(pmem);
        return r;
    }
    *ret_mmio = pmem->mmio;
    return 0;
}
