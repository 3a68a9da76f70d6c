/*
 * Split virtqueues, device side (virtio 1.2 §2.7).
 *
 * Process: mayfly-vmm. Trust: the rings and descriptors are hostile and may change at any moment,
 * also while they are read by us. Invariant: every field of a ring is loaded exactly once, into a
 * local, and only the local is checked and used; a chain is handed out only when all of it was
 * found to lie in guest memory.
 *
 * Threads: a queue has no lock of its own; its owner's (the device mutex of virtio_mmio.c) is held
 * around every call here.
 */
#ifndef MAYFLY_MONITOR_DEVICES_VIRTQUEUE_H
#define MAYFLY_MONITOR_DEVICES_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "monitor/guest_memory.h"

enum {
    VIRTQUEUE_MAX_SIZE = 256,
    /* One chain describes at most this much; §2.6.4 lets a device bound a request. */
    VIRTQUEUE_MAX_CHAIN_BYTES = (4 << 20) + 4096,
};

/* Where the driver put a queue, and how far both sides are: all that a snapshot needs of it. */
struct virtqueue_state {
    uint16_t size;
    bool ready;
    uint64_t desc_gpa;   /* descriptor area */
    uint64_t driver_gpa; /* available ring */
    uint64_t device_gpa; /* used ring */
    uint16_t next_avail; /* free-running */
    uint16_t next_used;
    uint16_t signalled_used; /* used index when the driver's wish was last looked at */
};

/* Fields are private to virtqueue.c and virtio_mmio.c. */
struct virtqueue {
    const struct guest_memory *memory; /* borrowed */
    uint16_t max_size;
    bool event_idx; /* VIRTIO_F_EVENT_IDX was negotiated */
    struct virtqueue_state at;
    uint8_t *desc_host; /* valid while at.ready: the areas were bounded then */
    uint8_t *driver_host;
    uint8_t *device_host;
    uint16_t in_flight; /* popped, not yet pushed */
};

/*
 * A descriptor chain: windows into guest memory, the readable ones first. Their bytes may change
 * at any moment: copy them out once, or use them as the source or target of file I/O.
 */
struct virtqueue_chain {
    uint16_t head;
    uint16_t n_readable;
    uint16_t n_writable;
    uint32_t readable_bytes;
    uint32_t writable_bytes;
    struct iovec windows[VIRTQUEUE_MAX_SIZE];
};

/* virtqueue_init - an unconfigured queue. @max_size: a power of two, at most VIRTQUEUE_MAX_SIZE. */
void virtqueue_init(struct virtqueue *queue, const struct guest_memory *memory, uint16_t max_size);

/* virtqueue_reset - as after virtqueue_init(): forgets addresses, positions and what is in flight.
 */
void virtqueue_reset(struct virtqueue *queue);

/*
 * virtqueue_enable - start using the areas in queue->at.
 * Returns 0, or -EINVAL if the size is no power of two within bounds, or an area is misaligned or
 * not wholly guest memory; the queue is then not ready. Source: virtio 1.2 §2.7.
 */
int virtqueue_enable(struct virtqueue *queue, bool event_idx);

/*
 * virtqueue_pop - take the next available descriptor chain.
 * @ret_chain: meaningful only when 1 is returned; its head must be given to virtqueue_push() or
 * virtqueue_unpop(). Returns 1 taken, 0 empty (or queue not ready), -EPROTO if the driver broke
 * the ring: nothing was taken, and the caller sets DEVICE_NEEDS_RESET.
 * Source: virtio 1.2 §2.7.5, §2.7.6.
 */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain);

/* virtqueue_unpop - give the chain popped last back, as if it had never been taken. */
void virtqueue_unpop(struct virtqueue *queue);

/*
 * virtqueue_push - hand a chain back. @written_bytes: how much of its writable part was filled,
 * counted from its start. Nothing may use the chain's windows afterwards.
 */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written_bytes);

/*
 * virtqueue_should_notify - does the driver want an interrupt for what was pushed since the last
 * call? The caller must then raise one. Source: virtio 1.2 §2.7.7.2.
 */
bool virtqueue_should_notify(struct virtqueue *queue);

/*
 * virtqueue_disable_kicks / _enable_kicks - tell the driver whether it need notify us.
 * virtqueue_enable_kicks returns true if chains became available meanwhile: the driver may not
 * have notified of them, so pop again. Source: virtio 1.2 §2.7.10.
 */
void virtqueue_disable_kicks(struct virtqueue *queue);
bool virtqueue_enable_kicks(struct virtqueue *queue);

/*
 * virtqueue_chain_slice - the windows of @len_bytes from @offset_bytes of the readable
 * (@writable false) or writable part. @ret_windows: room for VIRTQUEUE_MAX_SIZE.
 * Returns how many windows; 0 if the range is empty or does not fit.
 */
size_t virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable,
                             uint32_t offset_bytes, uint32_t len_bytes, struct iovec *ret_windows);

/*
 * virtqueue_chain_read / _write - copy from the readable, or to the writable part.
 * Return false, with nothing copied, if the range does not fit.
 */
bool virtqueue_chain_read(const struct virtqueue_chain *chain, uint32_t offset_bytes, void *to,
                          uint32_t len_bytes);
bool virtqueue_chain_write(const struct virtqueue_chain *chain, uint32_t offset_bytes,
                           const void *from, uint32_t len_bytes);

/*
 * virtqueue_set_state - take over a saved queue, checking all of it.
 * Returns 0 or -EINVAL; the queue is then as after virtqueue_init().
 */
int virtqueue_set_state(struct virtqueue *queue, const struct virtqueue_state *state,
                        bool event_idx);

#endif
