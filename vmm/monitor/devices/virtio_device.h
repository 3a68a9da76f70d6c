/*
 * What a virtio device is to the transport, and the transport to a device. For the devices in this
 * folder only; the monitor uses virtio_mmio.h and each device's constructor.
 */
#ifndef MAYFLY_MONITOR_DEVICES_VIRTIO_DEVICE_H
#define MAYFLY_MONITOR_DEVICES_VIRTIO_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "monitor/devices/virtio_mmio.h"

#define VIRTIO_F_EVENT_IDX (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1 (UINT64_C(1) << 32)

/*
 * A device. All functions run with the device's mutex held; but for config_read, on the loop
 * thread. Optional ones may be NULL.
 */
struct virtio_device_ops {
    uint32_t device_id;
    uint64_t features; /* offered beside VIRTIO_F_VERSION_1 and VIRTIO_F_EVENT_IDX */
    uint32_t n_queues;
    uint16_t queue_sizes[VIRTIO_MMIO_MAX_QUEUES];
    uint32_t config_bytes; /* size of the configuration space */

    /* config_read - fill all config_bytes of @ret_config. Any thread. */
    void (*config_read)(void *device, uint8_t *ret_config);
    /* notify - work on @queue: chains may be available, or buffers it waited for. */
    void (*notify)(void *device, unsigned queue);
    /* reset - forget everything of the driver: its chains are no longer ours. Optional. */
    void (*reset)(void *device);
    /* quiesce - give back what is held only for convenience, before a snapshot. Optional. */
    void (*quiesce)(void *device);
    void (*free)(void *device);
};

/* virtio_mmio_new - @device becomes owned by *ret_mmio on success only. Returns 0 or -errno. */
int virtio_mmio_new(const struct virtio_device_ops *ops, void *device, struct loop *loop,
                    const struct guest_memory *memory, struct irq_line irq,
                    struct virtio_mmio **ret_mmio, struct error *err);

/*
 * virtio_mmio_begin / _end - around any work on the loop thread that did not come through notify:
 * sockets, timers. Takes the mutex and catches up with a reset by the driver. Returns whether
 * queues may be used; virtio_mmio_end() follows in either case.
 */
bool virtio_mmio_begin(struct virtio_mmio *mmio);
void virtio_mmio_end(struct virtio_mmio *mmio);

/* virtio_mmio_live - as virtio_mmio_begin() returned; changes when virtio_mmio_fail() is called. */
bool virtio_mmio_live(const struct virtio_mmio *mmio);

/* virtio_mmio_device - what was given to virtio_mmio_new() as @device. */
void *virtio_mmio_device(const struct virtio_mmio *mmio);

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *mmio, unsigned queue);

/* virtio_mmio_signal - interrupt the driver if it wants to know of what was pushed to @queue. */
void virtio_mmio_signal(struct virtio_mmio *mmio, unsigned queue);

/* virtio_mmio_kick - have notify called for @queue later: what a bounded turn left undone. */
void virtio_mmio_kick(struct virtio_mmio *mmio, unsigned queue);

/* virtio_mmio_fail - the driver broke a ring: DEVICE_NEEDS_RESET (§2.1.2), nothing more is done
 * until it resets. */
void virtio_mmio_fail(struct virtio_mmio *mmio);

#endif
