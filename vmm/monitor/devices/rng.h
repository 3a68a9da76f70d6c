/* virtio-rng (virtio 1.2 §5.4): entropy of the host for the guest, at a bounded rate. */
#ifndef MAYFLY_MONITOR_DEVICES_RNG_H
#define MAYFLY_MONITOR_DEVICES_RNG_H

#include "monitor/devices/virtio_mmio.h"

struct virtio_rng_config {
    uint32_t bytes_per_second; /* a guest gets at most this, in the long run; 0: 1 MiB */
};

/* virtio_rng_new - returns 0 or -errno. Loop thread. */
int virtio_rng_new(const struct virtio_rng_config *config, struct loop *loop,
                   const struct guest_memory *memory, struct irq_line irq,
                   struct virtio_mmio **ret_mmio, struct error *err);

#endif
