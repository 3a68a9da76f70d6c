/* virtio-blk (virtio 1.2 §5.2): a raw image behind a descriptor. */
#ifndef MAYFLY_MONITOR_DEVICES_BLK_H
#define MAYFLY_MONITOR_DEVICES_BLK_H

#include <stdbool.h>

#include "monitor/devices/virtio_mmio.h"

enum { VIRTIO_BLK_ID_BYTES = 20 };

struct virtio_blk_config {
    int fd;                           /* owned by the device once virtio_blk_new() succeeded */
    bool read_only;                   /* else @fd must be open for writing */
    char id[VIRTIO_BLK_ID_BYTES + 1]; /* what VIRTIO_BLK_T_GET_ID answers */
};

/*
 * virtio_blk_new - the capacity is the file's size now, in whole 512-byte sectors.
 * Returns 0, -EINVAL for an empty image, or -errno. Loop thread.
 */
int virtio_blk_new(const struct virtio_blk_config *config, struct loop *loop,
                   const struct guest_memory *memory, struct irq_line irq,
                   struct virtio_mmio **ret_mmio, struct error *err);

#endif
