/*
 * virtio-blk: see blk.h. Section numbers are of virtio 1.2.
 *
 * Process: mayfly-vmm. Trust: requests are hostile; the file may be truncated by its owner at any
 * time, which is an I/O error to the guest: it is never mapped here. Invariant: no access beyond
 * the capacity; a request moves at most VIRTQUEUE_MAX_CHAIN_BYTES.
 *
 * Threads: requests run synchronously on the loop thread, some at a turn. That is acceptable while
 * images sit in the page cache; perform() takes all it needs in a struct request and touches
 * nothing else, so that a worker thread can run it later and the loop thread push the result.
 */
#include "blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/bytes.h"
#include "monitor/devices/virtio_device.h"

enum {
    BLK_DEVICE_ID = 2,
    BLK_QUEUE_SIZE = 128,
    BLK_SECTOR_BYTES = 512,

    /* What a driver may put into one request; together they stay below a chain's bound. */
    BLK_SEG_MAX = 64,
    BLK_SIZE_MAX = 65536,

    /* A turn ends after this much, so that other devices get theirs. */
    BLK_TURN_REQUESTS = 32,
    BLK_TURN_BYTES = 8 << 20,

    /* §5.2.3 feature bits */
    BLK_F_SIZE_MAX = 1 << 1,
    BLK_F_SEG_MAX = 1 << 2,
    BLK_F_RO = 1 << 5,
    BLK_F_FLUSH = 1 << 9,

    /* §5.2.4 configuration space */
    CONFIG_CAPACITY = 0,
    CONFIG_SIZE_MAX = 8,
    CONFIG_SEG_MAX = 12,
    CONFIG_BYTES = 60,

    /* §5.2.6 requests */
    HEADER_BYTES = 16,
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    STATUS_OK = 0,
    STATUS_IOERR = 1,
    STATUS_UNSUPPORTED = 2,
};

struct blk {
    struct virtio_mmio *mmio;     /* borrowed: owns us */
    struct virtio_device_ops ops; /* the read-only feature is a disk's own */
    int fd;                       /* owned */
    bool read_only;
    uint64_t capacity_sectors;
    char id[VIRTIO_BLK_ID_BYTES];
    struct virtqueue_chain chain;             /* scratch */
    struct iovec windows[VIRTQUEUE_MAX_SIZE]; /* scratch */
};

/* One request, taken apart and checked. */
struct request {
    uint32_t type;
    uint64_t offset_bytes;
    size_t n_windows;
    struct iovec *windows; /* borrowed; advanced as they fill */
};

static void blk_config_read(void *device, uint8_t *ret_config)
{
    const struct blk *blk = device;

    store_le64(ret_config + CONFIG_CAPACITY, blk->capacity_sectors);
    store_le32(ret_config + CONFIG_SIZE_MAX, BLK_SIZE_MAX);
    store_le32(ret_config + CONFIG_SEG_MAX, BLK_SEG_MAX);
}

/* Drops @bytes from the front of the request's windows. */
static void advance(struct request *request, size_t bytes)
{
    while (bytes > 0 && bytes >= request->windows->iov_len) {
        bytes -= request->windows->iov_len;
        request->windows++;
        request->n_windows--;
    }
    if (bytes > 0) {
        request->windows->iov_base = (uint8_t *)request->windows->iov_base + bytes;
        request->windows->iov_len -= bytes;
    }
}

/* Moves all of the data. An early end of file means that the image was truncated under us. */
static uint8_t transfer(int fd, struct request *request)
{
    uint64_t offset = request->offset_bytes;

    while (request->n_windows > 0) {
        int n_windows = (int)request->n_windows;
        ssize_t n = request->type == TYPE_IN
                        ? preadv(fd, request->windows, n_windows, (off_t)offset)
                        : pwritev(fd, request->windows, n_windows, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EFAULT)
            guest_memory_touch(request->windows, request->n_windows);
        if (n <= 0)
            return STATUS_IOERR;
        offset += (uint64_t)n;
        advance(request, (size_t)n);
    }
    return STATUS_OK;
}

static uint8_t perform(int fd, struct request *request)
{
    if (request->type == TYPE_FLUSH)
        return fdatasync(fd) == 0 ? STATUS_OK : STATUS_IOERR;
    return transfer(fd, request);
}

/* Are the sectors of an IN or OUT all there, and whole? */
static bool within_capacity(const struct blk *blk, uint64_t sector, uint32_t data_bytes)
{
    return data_bytes > 0 && data_bytes % BLK_SECTOR_BYTES == 0 &&
           range_fits(sector, data_bytes / BLK_SECTOR_BYTES, blk->capacity_sectors);
}

static uint8_t run_io(struct blk *blk, uint32_t type, uint64_t sector, uint32_t data_bytes)
{
    if (!within_capacity(blk, sector, data_bytes))
        return STATUS_IOERR;
    struct request request = {
        .type = type,
        .offset_bytes = sector * BLK_SECTOR_BYTES,
        .windows = blk->windows,
    };

    request.n_windows = virtqueue_chain_slice(
        &blk->chain, type == TYPE_IN, type == TYPE_IN ? 0 : HEADER_BYTES, data_bytes, blk->windows);
    return perform(blk->fd, &request);
}

/*
 * Runs the request in blk->chain: header and data of an OUT are readable; data of an IN, and last
 * of all the status byte, writable. Returns the status; *ret_filled: data bytes written to the
 * guest.
 */
static uint8_t run_request(struct blk *blk, uint32_t *ret_filled)
{
    const struct virtqueue_chain *chain = &blk->chain;
    uint8_t header[HEADER_BYTES];
    uint32_t writable_data = chain->writable_bytes - 1;
    uint8_t status;

    if (!virtqueue_chain_read(chain, 0, header, sizeof(header)))
        return STATUS_IOERR;
    uint32_t type = load_le32(header);
    uint64_t sector = load_le64(header + 8);

    switch (type) {
    case TYPE_IN:
        status = run_io(blk, type, sector, writable_data);
        *ret_filled = status == STATUS_OK ? writable_data : 0;
        return status;
    case TYPE_OUT:
        if (blk->read_only)
            return STATUS_IOERR; /* §5.2.6.2 */
        return run_io(blk, type, sector, chain->readable_bytes - HEADER_BYTES);
    case TYPE_FLUSH:
        return blk->read_only ? STATUS_OK : perform(blk->fd, &(struct request){.type = type});
    case TYPE_GET_ID:
        if (writable_data < sizeof(blk->id) ||
            !virtqueue_chain_write(chain, 0, blk->id, sizeof(blk->id)))
            return STATUS_IOERR;
        *ret_filled = sizeof(blk->id);
        return STATUS_OK;
    default:
        return STATUS_UNSUPPORTED; /* DISCARD and the like were not offered */
    }
}

/* Returns how much of the chain was written; a chain without room for a status gets none. */
static uint32_t answer(struct blk *blk)
{
    uint32_t filled = 0;

    if (blk->chain.writable_bytes == 0)
        return 0;
    uint8_t status = run_request(blk, &filled);
    virtqueue_chain_write(&blk->chain, blk->chain.writable_bytes - 1, &status, 1);
    /* The used length counts from the start: unless all data is there, it ends before the status
     * byte, and less is always allowed (§2.7.8.2). */
    return filled + 1 == blk->chain.writable_bytes ? filled + 1 : filled;
}

static void blk_notify(void *device, unsigned index)
{
    struct blk *blk = device;
    struct virtqueue *queue = virtio_mmio_queue(blk->mmio, index);
    uint32_t requests = 0, bytes = 0;
    int r;

    do {
        virtqueue_disable_kicks(queue);
        while ((r = virtqueue_pop(queue, &blk->chain)) == 1) {
            uint32_t size = blk->chain.readable_bytes + blk->chain.writable_bytes;

            virtqueue_push(queue, blk->chain.head, answer(blk));
            bytes += size;
            if (++requests >= BLK_TURN_REQUESTS || bytes >= BLK_TURN_BYTES) {
                virtio_mmio_signal(blk->mmio, index);
                virtio_mmio_kick(blk->mmio, index);
                return;
            }
        }
        if (r < 0) {
            virtio_mmio_fail(blk->mmio);
            return;
        }
        virtio_mmio_signal(blk->mmio, index);
    } while (virtqueue_enable_kicks(queue));
}

static void blk_free(void *device)
{
    struct blk *blk = device;

    close(blk->fd);
    free(blk);
}

static const struct virtio_device_ops blk_ops = {
    .device_id = BLK_DEVICE_ID,
    .features = BLK_F_SIZE_MAX | BLK_F_SEG_MAX | BLK_F_FLUSH,
    .n_queues = 1,
    .queue_sizes = {BLK_QUEUE_SIZE},
    .config_bytes = CONFIG_BYTES,
    .config_read = blk_config_read,
    .notify = blk_notify,
    .free = blk_free,
};

int virtio_blk_new(const struct virtio_blk_config *config, struct loop *loop,
                   const struct guest_memory *memory, struct irq_line irq,
                   struct virtio_mmio **ret_mmio, struct error *err)
{
    off_t size_bytes = lseek(config->fd, 0, SEEK_END); /* block devices too */

    if (size_bytes < 0)
        return error_set(err, errno, "find the size of a disk image");
    if (size_bytes < BLK_SECTOR_BYTES)
        return error_say(err, EINVAL, "a disk image of less than one sector");
    struct blk *blk = calloc(1, sizeof(*blk));
    if (!blk)
        return error_set(err, ENOMEM, "make block device");
    blk->ops = blk_ops;
    if (config->read_only)
        blk->ops.features |= BLK_F_RO;
    blk->fd = config->fd;
    blk->read_only = config->read_only;
    blk->capacity_sectors = (uint64_t)size_bytes / BLK_SECTOR_BYTES;
    memcpy(blk->id, config->id, sizeof(blk->id));
    int r = virtio_mmio_new(&blk->ops, blk, loop, memory, irq, &blk->mmio, err);
    if (r < 0) {
        free(blk);
        return r;
    }
    *ret_mmio = blk->mmio;
    return 0;
}
