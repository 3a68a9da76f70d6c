/*
 * The virtio-mmio transport, version 2 (virtio 1.2 §4.2): what the monitor sees of any device.
 *
 * Process: mayfly-vmm. Trust: every access comes from a hostile vCPU. Invariant: each offset,
 * width and device status has a defined result, and nothing that a driver does after DRIVER_OK
 * moves a queue.
 *
 * Threads: virtio_mmio_read/_write on any vCPU thread; queues and back ends on the loop thread;
 * one mutex a device orders them. InterruptStatus and InterruptACK do without it, so that an
 * interrupt handler never waits for queue processing. Everything else here is for the loop thread
 * (or before it runs). Lock order: a device's mutex, then whatever irq_line.raise takes.
 */
#ifndef MAYFLY_MONITOR_DEVICES_VIRTIO_MMIO_H
#define MAYFLY_MONITOR_DEVICES_VIRTIO_MMIO_H

#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "monitor/devices/virtqueue.h"
#include "monitor/guest_memory.h"

struct virtio_mmio; /* opaque: transport and device */

enum {
    VIRTIO_MMIO_SIZE_BYTES = 0x200, /* of the register window: §4.2.2 plus the configuration */
    VIRTIO_MMIO_QUEUE_NOTIFY = 0x050,
    VIRTIO_MMIO_MAX_QUEUES = 4,
};

/* How a device interrupts the guest: an edge. Called with the device's mutex held. */
struct irq_line {
    void (*raise)(void *opaque);
    void *opaque; /* borrowed: outlives the device */
};

/* All that a snapshot needs of a device; set back into a fresh device of the same kind. */
struct virtio_mmio_state {
    uint32_t device_id;
    uint32_t status; /* §2.1 bits */
    uint64_t driver_features;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t interrupt_status;
    uint32_t config_generation;
    uint32_t n_queues;
    struct virtqueue_state queues[VIRTIO_MMIO_MAX_QUEUES];
};

/* virtio_mmio_free - closes all it owns; takes NULL. No vCPU may run, nor may the loop. */
void virtio_mmio_free(struct virtio_mmio *mmio);

/* virtio_mmio_read / _write - one access. @offset within the window; @len_bytes 1 to 8. Only
 * aligned 4-byte accesses reach registers: other reads give zeros, other writes do nothing. The
 * configuration space takes any width; bytes outside it read as zero. Any thread. */
void virtio_mmio_read(struct virtio_mmio *mmio, uint64_t offset, uint8_t *data, unsigned len_bytes);
void virtio_mmio_write(struct virtio_mmio *mmio, uint64_t offset, const uint8_t *data,
                       unsigned len_bytes);

unsigned virtio_mmio_n_queues(const struct virtio_mmio *mmio);
uint32_t virtio_mmio_device_id(const struct virtio_mmio *mmio);

/*
 * virtio_mmio_notify_fd - the eventfd that a write of @queue to QueueNotify stands for: register
 * it as ioeventfd (4 bytes, datamatch @queue). Borrowed; -1 if there is no such queue.
 */
int virtio_mmio_notify_fd(const struct virtio_mmio *mmio, unsigned queue);

/*
 * virtio_mmio_get_state - for a snapshot. Loop thread, with every vCPU stopped; the device may go
 * on afterwards. Returns 0, or -EBUSY while requests are in flight.
 */
int virtio_mmio_get_state(struct virtio_mmio *mmio, struct virtio_mmio_state *ret_state,
                          struct error *err);

/*
 * virtio_mmio_set_state - into a device that no driver has touched yet, guest memory in place.
 * Checks everything. Queues are looked at once afterwards, since notifications under way at the
 * time of the snapshot are not part of it. Returns 0, -EBUSY, or -EINVAL with what is wrong.
 */
int virtio_mmio_set_state(struct virtio_mmio *mmio, const struct virtio_mmio_state *state,
                          struct error *err);

#endif
