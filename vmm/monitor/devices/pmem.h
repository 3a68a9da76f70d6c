/* virtio-pmem (virtio 1.2 §5.19): tells the guest where a mapped, read-only image lies. */
#ifndef MAYFLY_MONITOR_DEVICES_PMEM_H
#define MAYFLY_MONITOR_DEVICES_PMEM_H

#include "monitor/devices/virtio_mmio.h"

/* The region that the monitor has put into guest memory, read-only, as a memory slot. */
struct virtio_pmem_config {
    uint64_t start_gpa;  /* a multiple of 2 MiB suits Linux best */
    uint64_t size_bytes; /* > 0 */
};

/* virtio_pmem_new - returns 0, -EINVAL for an impossible region, or -errno. Loop thread. */
int virtio_pmem_new(const struct virtio_pmem_config *config, struct loop *loop,
                    const struct guest_memory *memory, struct irq_line irq,
                    struct virtio_mmio **ret_mmio, struct error *err);

#endif
