/* Split virtqueues, device side: see virtqueue.h. Every load from a ring here is an attack. */
#include "virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"

/* virtio 1.2 §2.7: layouts of the three areas. */
enum {
    DESC_BYTES = 16,
    DESC_F_NEXT = 1,
    DESC_F_WRITE = 2,

    RING_FLAGS = 0, /* offsets common to the available and the used ring */
    RING_IDX = 2,
    RING_ENTRIES = 4,
    AVAIL_ENTRY_BYTES = 2,
    USED_ENTRY_BYTES = 8,
    AVAIL_F_NO_INTERRUPT = 1,
    USED_F_NO_NOTIFY = 1,
};

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

static uint16_t load16(const uint8_t *at, int order)
{
    const uint16_t *word = (const uint16_t *)(const void *)at;

    /* __atomic_load_n wants a constant order to be of any use. */
    return le16toh(order == __ATOMIC_ACQUIRE ? __atomic_load_n(word, __ATOMIC_ACQUIRE)
                                             : __atomic_load_n(word, __ATOMIC_RELAXED));
}

static void store16(uint8_t *at, uint16_t value, int order)
{
    uint16_t *word = (uint16_t *)(void *)at;

    if (order == __ATOMIC_RELEASE)
        __atomic_store_n(word, htole16(value), __ATOMIC_RELEASE);
    else
        __atomic_store_n(word, htole16(value), __ATOMIC_RELAXED);
}

static size_t avail_bytes(uint16_t size)
{
    return RING_ENTRIES + (size_t)size * AVAIL_ENTRY_BYTES + 2; /* used_event */
}

static size_t used_bytes(uint16_t size)
{
    return RING_ENTRIES + (size_t)size * USED_ENTRY_BYTES + 2; /* avail_event */
}

static uint8_t *used_event_of(const struct virtqueue *queue)
{
    return queue->driver_host + avail_bytes(queue->at.size) - 2;
}

static uint8_t *avail_event_of(const struct virtqueue *queue)
{
    return queue->device_host + used_bytes(queue->at.size) - 2;
}

void virtqueue_init(struct virtqueue *queue, const struct guest_memory *memory, uint16_t max_size)
{
    assert(max_size > 0 && max_size <= VIRTQUEUE_MAX_SIZE && (max_size & (max_size - 1)) == 0);
    memset(queue, 0, sizeof(*queue));
    queue->memory = memory;
    queue->max_size = max_size;
}

void virtqueue_reset(struct virtqueue *queue)
{
    virtqueue_init(queue, queue->memory, queue->max_size);
}

/* An area of the queue: aligned in the guest and, so that atomics are whole, on the host. */
static uint8_t *area_window(const struct virtqueue *queue, uint64_t at, size_t len, unsigned align,
                            int writable)
{
    if (at % align != 0)
        return NULL;
    uint8_t *window = guest_memory_window(queue->memory, gpa(at), len, writable);

    return (uintptr_t)window % align == 0 ? window : NULL;
}

int virtqueue_enable(struct virtqueue *queue, bool event_idx)
{
    struct virtqueue_state *at = &queue->at;

    at->ready = false;
    if (at->size == 0 || at->size > queue->max_size || (at->size & (at->size - 1)) != 0)
        return -EINVAL;
    queue->desc_host = area_window(queue, at->desc_gpa, (size_t)at->size * DESC_BYTES, 16, 0);
    queue->driver_host = area_window(queue, at->driver_gpa, avail_bytes(at->size), 2, 0);
    queue->device_host = area_window(queue, at->device_gpa, used_bytes(at->size), 4, 1);
    if (!queue->desc_host || !queue->driver_host || !queue->device_host)
        return -EINVAL;
    queue->event_idx = event_idx;
    queue->in_flight = 0;
    at->ready = true;
    return 0;
}

/* The one and only load of a descriptor: two whole words, so it cannot even be torn. */
static struct descriptor load_descriptor(const struct virtqueue *queue, uint16_t index)
{
    const uint64_t *words =
        (const uint64_t *)(const void *)(queue->desc_host + (size_t)index * DESC_BYTES);
    uint64_t addr = le64toh(__atomic_load_n(&words[0], __ATOMIC_RELAXED));
    uint64_t rest = le64toh(__atomic_load_n(&words[1], __ATOMIC_RELAXED));

    return (struct descriptor){
        .addr = addr,
        .len = (uint32_t)rest,
        .flags = (uint16_t)(rest >> 32),
        .next = (uint16_t)(rest >> 48),
    };
}

/* Adds one checked descriptor to @chain. The caller has bounded the number of them. */
static int add_window(const struct virtqueue *queue, const struct descriptor *d,
                      struct virtqueue_chain *chain)
{
    bool writable = d->flags & DESC_F_WRITE;

    /* Indirect tables were not offered (§2.7.5.3), and other flags do not exist. */
    if (d->flags & ~(DESC_F_NEXT | DESC_F_WRITE))
        return -EPROTO;
    /* §2.7.4.2: readable ones come first. A device that did not check would write where the
     * driver only meant it to read. */
    if (!writable && chain->n_writable > 0)
        return -EPROTO;
    if (d->len > VIRTQUEUE_MAX_CHAIN_BYTES - chain->readable_bytes - chain->writable_bytes)
        return -EPROTO;
    /* Also refuses length 0, wrap-around, and writing to read-only memory. */
    void *window = guest_memory_window(queue->memory, gpa(d->addr), d->len, writable);
    if (!window)
        return -EPROTO;
    chain->windows[chain->n_readable + chain->n_writable] =
        (struct iovec){.iov_base = window, .iov_len = d->len};
    if (writable) {
        chain->n_writable++;
        chain->writable_bytes += d->len;
    } else {
        chain->n_readable++;
        chain->readable_bytes += d->len;
    }
    return 0;
}

static int walk_chain(const struct virtqueue *queue, uint16_t head, struct virtqueue_chain *chain)
{
    uint16_t index = head;

    chain->head = head;
    chain->n_readable = 0;
    chain->n_writable = 0;
    chain->readable_bytes = 0;
    chain->writable_bytes = 0;
    /* A chain of more descriptors than the queue has is a loop: the count finds it. */
    for (uint16_t n = 0; n < queue->at.size; n++) {
        if (index >= queue->at.size)
            return -EPROTO;
        struct descriptor d = load_descriptor(queue, index);
        int r = add_window(queue, &d, chain);
        if (r < 0)
            return r;
        if (!(d.flags & DESC_F_NEXT))
            return 0;
        index = d.next;
    }
    return -EPROTO;
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain)
{
    struct virtqueue_state *at = &queue->at;

    if (!at->ready)
        return 0;
    /* Acquire: the entries and descriptors behind this index are loaded after it. */
    uint16_t avail = load16(queue->driver_host + RING_IDX, __ATOMIC_ACQUIRE);
    uint16_t pending = (uint16_t)(avail - at->next_avail);
    if (pending == 0)
        return 0;
    /* More than the ring holds, or a head offered again while we still have it. */
    if (pending > at->size || queue->in_flight >= at->size)
        return -EPROTO;
    size_t slot = at->next_avail & (at->size - 1u);
    uint16_t head =
        load16(queue->driver_host + RING_ENTRIES + slot * AVAIL_ENTRY_BYTES, __ATOMIC_RELAXED);
    int r = walk_chain(queue, head, ret_chain);
    if (r < 0)
        return r;
    at->next_avail++;
    queue->in_flight++;
    return 1;
}

void virtqueue_unpop(struct virtqueue *queue)
{
    assert(queue->in_flight > 0);
    queue->at.next_avail--;
    queue->in_flight--;
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written_bytes)
{
    struct virtqueue_state *at = &queue->at;

    /* The driver may have stopped the queue since the pop: then the chain is no longer ours. */
    if (!at->ready)
        return;
    assert(queue->in_flight > 0);
    size_t slot = at->next_used & (at->size - 1u);
    uint32_t *entry =
        (uint32_t *)(void *)(queue->device_host + RING_ENTRIES + slot * USED_ENTRY_BYTES);
    __atomic_store_n(&entry[0], htole32(head), __ATOMIC_RELAXED);
    __atomic_store_n(&entry[1], htole32(written_bytes), __ATOMIC_RELAXED);
    at->next_used++;
    queue->in_flight--;
    /* Release: the entry, and what we wrote to the buffers, are visible before the index. */
    store16(queue->device_host + RING_IDX, at->next_used, __ATOMIC_RELEASE);
}

bool virtqueue_should_notify(struct virtqueue *queue)
{
    struct virtqueue_state *at = &queue->at;

    if (!at->ready)
        return false;
    uint16_t before = at->signalled_used;
    if (before == at->next_used)
        return false; /* nothing new */
    /* Our store to the used index before the load of what the driver wants: the driver stores its
     * wish before it loads the index, so one of the two sees the other (§2.7.7.2). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!queue->event_idx) {
        bool wanted =
            !(load16(queue->driver_host + RING_FLAGS, __ATOMIC_RELAXED) & AVAIL_F_NO_INTERRUPT);
        at->signalled_used = at->next_used;
        return wanted;
    }
    uint16_t event = load16(used_event_of(queue), __ATOMIC_RELAXED);
    at->signalled_used = at->next_used;
    /* Is event one of the indices [before, next_used)? In free-running arithmetic. */
    return (uint16_t)(at->next_used - event - 1) < (uint16_t)(at->next_used - before);
}

void virtqueue_disable_kicks(struct virtqueue *queue)
{
    /* With EVENT_IDX an event index that is left behind asks for nothing. */
    if (queue->at.ready && !queue->event_idx)
        store16(queue->device_host + RING_FLAGS, USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool virtqueue_enable_kicks(struct virtqueue *queue)
{
    if (!queue->at.ready)
        return false;
    if (queue->event_idx)
        store16(avail_event_of(queue), queue->at.next_avail, __ATOMIC_RELAXED);
    else
        store16(queue->device_host + RING_FLAGS, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load16(queue->driver_host + RING_IDX, __ATOMIC_ACQUIRE) != queue->at.next_avail;
}

size_t virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable,
                             uint32_t offset_bytes, uint32_t len_bytes, struct iovec *ret_windows)
{
    size_t from = writable ? chain->n_readable : 0;
    size_t n = writable ? chain->n_writable : chain->n_readable;
    uint32_t total = writable ? chain->writable_bytes : chain->readable_bytes;
    size_t used = 0;

    if (!range_fits(offset_bytes, len_bytes, total))
        return 0;
    for (size_t i = from; i < from + n && len_bytes > 0; i++) {
        const struct iovec *window = &chain->windows[i];

        if (offset_bytes >= window->iov_len) {
            offset_bytes -= (uint32_t)window->iov_len;
            continue;
        }
        size_t take = window->iov_len - offset_bytes;
        if (take > len_bytes)
            take = len_bytes;
        ret_windows[used].iov_base = (uint8_t *)window->iov_base + offset_bytes;
        ret_windows[used].iov_len = take;
        used++;
        len_bytes -= (uint32_t)take;
        offset_bytes = 0;
    }
    return used;
}

bool virtqueue_chain_read(const struct virtqueue_chain *chain, uint32_t offset_bytes, void *to,
                          uint32_t len_bytes)
{
    struct iovec windows[VIRTQUEUE_MAX_SIZE];
    uint8_t *at = to;

    if (!range_fits(offset_bytes, len_bytes, chain->readable_bytes))
        return false;
    size_t n = virtqueue_chain_slice(chain, false, offset_bytes, len_bytes, windows);
    for (size_t i = 0; i < n; i++) {
        memcpy(at, windows[i].iov_base, windows[i].iov_len);
        at += windows[i].iov_len;
    }
    return true;
}

bool virtqueue_chain_write(const struct virtqueue_chain *chain, uint32_t offset_bytes,
                           const void *from, uint32_t len_bytes)
{
    struct iovec windows[VIRTQUEUE_MAX_SIZE];
    const uint8_t *at = from;

    if (!range_fits(offset_bytes, len_bytes, chain->writable_bytes))
        return false;
    size_t n = virtqueue_chain_slice(chain, true, offset_bytes, len_bytes, windows);
    for (size_t i = 0; i < n; i++) {
        memcpy(windows[i].iov_base, at, windows[i].iov_len);
        at += windows[i].iov_len;
    }
    return true;
}

int virtqueue_set_state(struct virtqueue *queue, const struct virtqueue_state *state,
                        bool event_idx)
{
    virtqueue_reset(queue);
    if (state->size > queue->max_size)
        return -EINVAL;
    queue->at = *state;
    queue->at.ready = false;
    if (state->ready && virtqueue_enable(queue, event_idx) < 0) {
        virtqueue_reset(queue);
        return -EINVAL;
    }
    return 0;
}
