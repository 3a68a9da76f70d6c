/* The virtio-mmio transport: see virtio_mmio.h. Section numbers are of virtio 1.2. */
#include "virtio_mmio.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "monitor/devices/virtio_device.h"

/* §4.2.2: registers. */
enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC_LOW = 0x080,
    REG_QUEUE_DESC_HIGH = 0x084,
    REG_QUEUE_DRIVER_LOW = 0x090,
    REG_QUEUE_DRIVER_HIGH = 0x094,
    REG_QUEUE_DEVICE_LOW = 0x0a0,
    REG_QUEUE_DEVICE_HIGH = 0x0a4,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,

    MAGIC = 0x74726976, /* "virt" */
    VERSION = 2,
    VENDOR_ID = 0x5946594d, /* "MYFY" */
};

/* §2.1: device status. */
enum {
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_FAILED = 128,
    STATUS_DRIVER_BITS =
        STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED,
    STATUS_ALL_BITS = STATUS_DRIVER_BITS | STATUS_NEEDS_RESET,
};

enum {
    INTERRUPT_USED = 1,
    INTERRUPT_CONFIG = 2,

    RERAISE_NS = 10 * 1000 * 1000,
    CONFIG_MAX_BYTES = VIRTIO_MMIO_SIZE_BYTES - REG_CONFIG,
};

struct queue_slot {
    struct virtio_mmio *mmio; /* borrowed: contains us */
    unsigned index;
    int notify_fd;              /* owned */
    struct loop_source *source; /* owned by the loop until removed */
    struct virtqueue queue;     /* lock */
};

struct virtio_mmio {
    const struct virtio_device_ops *ops;
    void *device; /* owned */
    struct irq_line irq;
    struct queue_slot slots[VIRTIO_MMIO_MAX_QUEUES];

    pthread_mutex_t lock; /* all below, but for interrupt_status */
    uint32_t status;
    uint64_t driver_features;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t config_generation;
    bool reset_pending; /* the loop thread still has to tell the device */
    uint64_t raised_ns; /* when the line was raised last */
    _Atomic uint32_t interrupt_status;
};

static uint64_t offered_features(const struct virtio_mmio *mmio)
{
    return mmio->ops->features | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX;
}

/*
 * Sets @bit in InterruptStatus and raises the line if that is news.
 *
 * While a bit is pending no second edge is sent. Safe with edge-triggered MSI: the bit is pending,
 * so the acknowledging write is still to come. InterruptStatus changes only by atomic
 * read-modify-write, so a driver that acknowledges after this point also sees the used index
 * stored before it; and a driver looks at its rings after the acknowledgement (one that looked
 * before it would lose events on any device, since InterruptStatus does not count). That leaves an
 * edge which got lost on its way, for instance on a vector that nobody served at the time: hence a
 * bit that stays pending for longer than RERAISE_NS is raised again.
 */
static void raise_interrupt(struct virtio_mmio *mmio, uint32_t bit)
{
    uint32_t before = atomic_fetch_or(&mmio->interrupt_status, bit);
    uint64_t now = clock_now_ns();

    if ((before & bit) && now - mmio->raised_ns < RERAISE_NS)
        return;
    mmio->raised_ns = now;
    mmio->irq.raise(mmio->irq.opaque);
}

static void kick_slot(const struct queue_slot *slot)
{
    uint64_t one = 1;
    ssize_t n = write(slot->notify_fd, &one, sizeof(one));

    (void)n; /* only EAGAIN is possible: the counter is full, so the loop is being woken */
}

/* ---- for devices ---- */

bool virtio_mmio_live(const struct virtio_mmio *mmio)
{
    return (mmio->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET | STATUS_FAILED)) ==
           STATUS_DRIVER_OK;
}

bool virtio_mmio_begin(struct virtio_mmio *mmio)
{
    pthread_mutex_lock(&mmio->lock);
    /* The driver reset us from a vCPU thread: registers and queues were cleared there and then,
     * but what the device has in the loop may only be touched here. */
    if (mmio->reset_pending) {
        mmio->reset_pending = false;
        if (mmio->ops->reset)
            mmio->ops->reset(mmio->device);
    }
    return virtio_mmio_live(mmio);
}

void virtio_mmio_end(struct virtio_mmio *mmio)
{
    pthread_mutex_unlock(&mmio->lock);
}

void *virtio_mmio_device(const struct virtio_mmio *mmio)
{
    return mmio->device;
}

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *mmio, unsigned queue)
{
    assert(queue < mmio->ops->n_queues);
    return &mmio->slots[queue].queue;
}

void virtio_mmio_signal(struct virtio_mmio *mmio, unsigned queue)
{
    if (virtio_mmio_live(mmio) && virtqueue_should_notify(virtio_mmio_queue(mmio, queue)))
        raise_interrupt(mmio, INTERRUPT_USED);
}

void virtio_mmio_kick(struct virtio_mmio *mmio, unsigned queue)
{
    assert(queue < mmio->ops->n_queues);
    kick_slot(&mmio->slots[queue]);
}

void virtio_mmio_fail(struct virtio_mmio *mmio)
{
    if (mmio->status & STATUS_NEEDS_RESET)
        return;
    mmio->status |= STATUS_NEEDS_RESET;
    if (mmio->status & STATUS_DRIVER_OK)
        raise_interrupt(mmio, INTERRUPT_CONFIG);
}

/* ---- registers ---- */

static struct queue_slot *selected(struct virtio_mmio *mmio)
{
    return mmio->queue_sel < mmio->ops->n_queues ? &mmio->slots[mmio->queue_sel] : NULL;
}

/* Queues are set up between FEATURES_OK and DRIVER_OK (§3.1.1), and only while not ready. */
static struct virtqueue_state *configurable_queue(struct virtio_mmio *mmio)
{
    const uint32_t bits =
        STATUS_FEATURES_OK | STATUS_DRIVER_OK | STATUS_NEEDS_RESET | STATUS_FAILED;
    struct queue_slot *slot = selected(mmio);

    if (!slot || slot->queue.at.ready || (mmio->status & bits) != STATUS_FEATURES_OK)
        return NULL;
    return &slot->queue.at;
}

static uint32_t read_locked(struct virtio_mmio *mmio, uint64_t offset)
{
    const struct queue_slot *slot = selected(mmio);

    if (offset >= REG_SHM_LEN_LOW && offset <= REG_SHM_BASE_HIGH)
        return UINT32_MAX; /* no shared memory: length and base are -1 */
    switch (offset) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return VERSION;
    case REG_DEVICE_ID:
        return mmio->ops->device_id;
    case REG_VENDOR_ID:
        return VENDOR_ID;
    case REG_DEVICE_FEATURES:
        if (mmio->device_features_sel > 1)
            return 0;
        return (uint32_t)(offered_features(mmio) >> (32 * mmio->device_features_sel));
    case REG_QUEUE_NUM_MAX:
        return slot ? slot->queue.max_size : 0;
    case REG_QUEUE_READY:
        return slot ? slot->queue.at.ready : 0;
    case REG_STATUS:
        return mmio->status;
    case REG_CONFIG_GENERATION:
        return mmio->config_generation;
    default:
        return 0; /* write-only and unknown ones */
    }
}

static void read_config(struct virtio_mmio *mmio, uint64_t at, uint8_t *data, unsigned len)
{
    uint8_t config[CONFIG_MAX_BYTES] = {0};

    if (!range_fits(at, len, sizeof(config)))
        return;
    pthread_mutex_lock(&mmio->lock);
    if (mmio->ops->config_read)
        mmio->ops->config_read(mmio->device, config);
    pthread_mutex_unlock(&mmio->lock);
    memcpy(data, config + at, len);
}

void virtio_mmio_read(struct virtio_mmio *mmio, uint64_t offset, uint8_t *data, unsigned len_bytes)
{
    uint32_t value;

    memset(data, 0, len_bytes);
    if (offset >= REG_CONFIG) {
        read_config(mmio, offset - REG_CONFIG, data, len_bytes);
        return;
    }
    if (len_bytes != 4 || offset % 4 != 0)
        return;
    if (offset == REG_INTERRUPT_STATUS) {
        value = atomic_load(&mmio->interrupt_status);
    } else {
        pthread_mutex_lock(&mmio->lock);
        value = read_locked(mmio, offset);
        pthread_mutex_unlock(&mmio->lock);
    }
    store_le32(data, value);
}

static void write_driver_features(struct virtio_mmio *mmio, uint32_t value)
{
    const uint32_t bits = STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_NEEDS_RESET | STATUS_FAILED;

    if ((mmio->status & bits) != STATUS_DRIVER || mmio->driver_features_sel > 1)
        return;
    unsigned shift = 32 * mmio->driver_features_sel;
    uint64_t mask = (uint64_t)UINT32_MAX << shift;

    mmio->driver_features = (mmio->driver_features & ~mask) | (uint64_t)value << shift;
}

/* §2.4.2: the driver must take VERSION_1, and nothing that was not offered. */
static bool features_acceptable(const struct virtio_mmio *mmio, uint64_t features)
{
    return (features & VIRTIO_F_VERSION_1) && !(features & ~offered_features(mmio));
}

/* The device's half of a reset waits for the loop thread: see virtio_mmio_begin(). */
static void reset_locked(struct virtio_mmio *mmio)
{
    mmio->status = 0;
    mmio->driver_features = 0;
    mmio->device_features_sel = 0;
    mmio->driver_features_sel = 0;
    mmio->queue_sel = 0;
    atomic_store(&mmio->interrupt_status, 0);
    for (unsigned i = 0; i < mmio->ops->n_queues; i++)
        virtqueue_reset(&mmio->slots[i].queue);
    mmio->reset_pending = true;
    kick_slot(&mmio->slots[0]);
}

/*
 * §2.1.1, §3.1.1: bits are only added, in their order; only 0 takes them away. FEATURES_OK is
 * withheld if the features do not fit, and with it DRIVER_OK. Anything else is ignored.
 */
static void write_status(struct virtio_mmio *mmio, uint32_t value)
{
    uint32_t old = mmio->status & STATUS_DRIVER_BITS;

    if (value == 0) {
        reset_locked(mmio);
        return;
    }
    value &= STATUS_DRIVER_BITS; /* DEVICE_NEEDS_RESET is the device's to set and clear */
    if ((value & old) != old || (old & STATUS_FAILED))
        return;
    if (!(value & STATUS_ACKNOWLEDGE))
        value &= ~(uint32_t)(STATUS_DRIVER);
    if (!(value & STATUS_DRIVER))
        value &= ~(uint32_t)(STATUS_FEATURES_OK);
    if (!(old & STATUS_FEATURES_OK) && !features_acceptable(mmio, mmio->driver_features))
        value &= ~(uint32_t)(STATUS_FEATURES_OK);
    if (!(value & STATUS_FEATURES_OK))
        value &= ~(uint32_t)(STATUS_DRIVER_OK);
    mmio->status |= value;
    /* Buffers may have been offered before DRIVER_OK, without a notification (§3.1.1). */
    if ((mmio->status & ~old) & STATUS_DRIVER_OK)
        for (unsigned i = 0; i < mmio->ops->n_queues; i++)
            kick_slot(&mmio->slots[i]);
}

static void write_queue_ready(struct virtio_mmio *mmio, uint32_t value)
{
    struct queue_slot *slot = selected(mmio);

    if (value == 0) {
        /* §4.2.2.2: the driver stops a queue at any time, then reads back. The lock says that
         * nobody is at work on it. Its addresses stay, until it is set up again. */
        if (slot)
            slot->queue.at.ready = false;
    } else if (value == 1 && configurable_queue(mmio)) {
        /* Areas that are not memory: it stays not ready, which the driver can read. */
        (void)virtqueue_enable(&slot->queue, mmio->driver_features & VIRTIO_F_EVENT_IDX);
    }
}

static void set_low(uint64_t *address, uint32_t value)
{
    *address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
}

static void write_queue_setup(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    struct virtqueue_state *queue = configurable_queue(mmio);

    if (!queue)
        return;
    switch (offset) {
    case REG_QUEUE_NUM:
        /* Out of bounds counts as 0, which cannot be made ready: never a truncated number. */
        queue->size = value <= VIRTQUEUE_MAX_SIZE ? (uint16_t)value : 0;
        break;
    case REG_QUEUE_DESC_LOW:
        set_low(&queue->desc_gpa, value);
        break;
    case REG_QUEUE_DESC_HIGH:
        set_high(&queue->desc_gpa, value);
        break;
    case REG_QUEUE_DRIVER_LOW:
        set_low(&queue->driver_gpa, value);
        break;
    case REG_QUEUE_DRIVER_HIGH:
        set_high(&queue->driver_gpa, value);
        break;
    case REG_QUEUE_DEVICE_LOW:
        set_low(&queue->device_gpa, value);
        break;
    case REG_QUEUE_DEVICE_HIGH:
        set_high(&queue->device_gpa, value);
        break;
    default:
        break; /* read-only and unknown ones */
    }
}

static void write_locked(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case REG_DEVICE_FEATURES_SEL:
        mmio->device_features_sel = value;
        break;
    case REG_DRIVER_FEATURES_SEL:
        mmio->driver_features_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        write_driver_features(mmio, value);
        break;
    case REG_QUEUE_SEL:
        mmio->queue_sel = value;
        break;
    case REG_QUEUE_READY:
        write_queue_ready(mmio, value);
        break;
    case REG_STATUS:
        write_status(mmio, value);
        break;
    default:
        write_queue_setup(mmio, offset, value);
        break;
    }
}

void virtio_mmio_write(struct virtio_mmio *mmio, uint64_t offset, const uint8_t *data,
                       unsigned len_bytes)
{
    /* No device here has a configuration field that a driver may write. */
    if (offset >= REG_CONFIG || len_bytes != 4 || offset % 4 != 0)
        return;
    uint32_t value = load_le32(data);

    if (offset == REG_INTERRUPT_ACK) {
        atomic_fetch_and(&mmio->interrupt_status, ~value);
    } else if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
        /* No lock: this stands in for the ioeventfd, and notify_fd never changes. */
        if (value < mmio->ops->n_queues)
            kick_slot(&mmio->slots[value]);
    } else {
        pthread_mutex_lock(&mmio->lock);
        write_locked(mmio, offset, value);
        pthread_mutex_unlock(&mmio->lock);
    }
}

/* ---- life ---- */

static void on_notify(void *opaque, uint32_t events)
{
    const struct queue_slot *slot = opaque;
    struct virtio_mmio *mmio = slot->mmio;
    uint64_t count;

    (void)events;
    /* Cleared before the queue is looked at: a notification during the work wakes us again. */
    if (read(slot->notify_fd, &count, sizeof(count)) < 0)
        return;
    if (virtio_mmio_begin(mmio))
        mmio->ops->notify(mmio->device, slot->index);
    virtio_mmio_end(mmio);
}

static void close_slots(struct virtio_mmio *mmio)
{
    for (unsigned i = 0; i < VIRTIO_MMIO_MAX_QUEUES; i++) {
        loop_remove(mmio->slots[i].source);
        if (mmio->slots[i].notify_fd >= 0)
            close(mmio->slots[i].notify_fd);
    }
}

static int open_slot(struct virtio_mmio *mmio, unsigned index, struct loop *loop,
                     const struct guest_memory *memory)
{
    struct queue_slot *slot = &mmio->slots[index];

    slot->mmio = mmio;
    slot->index = index;
    virtqueue_init(&slot->queue, memory, mmio->ops->queue_sizes[index]);
    slot->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (slot->notify_fd < 0)
        return -errno;
    return loop_add(loop, slot->notify_fd, EPOLLIN, on_notify, slot, &slot->source);
}

int virtio_mmio_new(const struct virtio_device_ops *ops, void *device, struct loop *loop,
                    const struct guest_memory *memory, struct irq_line irq,
                    struct virtio_mmio **ret_mmio, struct error *err)
{
    assert(ops->n_queues > 0 && ops->n_queues <= VIRTIO_MMIO_MAX_QUEUES);
    assert(ops->config_bytes <= CONFIG_MAX_BYTES);
    struct virtio_mmio *mmio = calloc(1, sizeof(*mmio));
    int r = 0;

    if (!mmio)
        return error_set(err, ENOMEM, "make virtio device %u", ops->device_id);
    mmio->ops = ops;
    mmio->irq = irq;
    for (unsigned i = 0; i < VIRTIO_MMIO_MAX_QUEUES; i++)
        mmio->slots[i].notify_fd = -1;
    for (unsigned i = 0; i < ops->n_queues && r == 0; i++)
        r = open_slot(mmio, i, loop, memory);
    if (r == 0)
        r = -pthread_mutex_init(&mmio->lock, NULL);
    if (r < 0) {
        close_slots(mmio);
        free(mmio);
        return error_set(err, -r, "make virtio device %u", ops->device_id);
    }
    mmio->device = device;
    *ret_mmio = mmio;
    return 0;
}

void virtio_mmio_free(struct virtio_mmio *mmio)
{
    if (!mmio)
        return;
    mmio->ops->free(mmio->device);
    close_slots(mmio);
    pthread_mutex_destroy(&mmio->lock);
    free(mmio);
}

unsigned virtio_mmio_n_queues(const struct virtio_mmio *mmio)
{
    return mmio->ops->n_queues;
}

uint32_t virtio_mmio_device_id(const struct virtio_mmio *mmio)
{
    return mmio->ops->device_id;
}

int virtio_mmio_notify_fd(const struct virtio_mmio *mmio, unsigned queue)
{
    return queue < mmio->ops->n_queues ? mmio->slots[queue].notify_fd : -1;
}

/* ---- state ---- */

int virtio_mmio_get_state(struct virtio_mmio *mmio, struct virtio_mmio_state *ret_state,
                          struct error *err)
{
    struct virtio_mmio_state state;
    bool busy = false;

    memset(&state, 0, sizeof(state));
    if (virtio_mmio_begin(mmio) && mmio->ops->quiesce)
        mmio->ops->quiesce(mmio->device);
    state.device_id = mmio->ops->device_id;
    state.status = mmio->status;
    state.driver_features = mmio->driver_features;
    state.device_features_sel = mmio->device_features_sel;
    state.driver_features_sel = mmio->driver_features_sel;
    state.queue_sel = mmio->queue_sel;
    state.interrupt_status = atomic_load(&mmio->interrupt_status);
    state.config_generation = mmio->config_generation;
    state.n_queues = mmio->ops->n_queues;
    for (unsigned i = 0; i < mmio->ops->n_queues; i++) {
        const struct virtqueue *queue = &mmio->slots[i].queue;

        /* What a stopped queue had in flight is nobody's any more. */
        busy |= queue->at.ready && queue->in_flight > 0;
        state.queues[i] = queue->at;
    }
    virtio_mmio_end(mmio);
    if (busy)
        return error_say(err, EBUSY, "virtio device %u has requests in flight", state.device_id);
    *ret_state = state;
    return 0;
}

/* Could a driver have brought this device there? Says what is wrong, or NULL. */
static const char *state_fault(const struct virtio_mmio *mmio,
                               const struct virtio_mmio_state *state)
{
    bool ready = false;

    if (state->device_id != mmio->ops->device_id)
        return "it is of another device";
    if (state->n_queues != mmio->ops->n_queues)
        return "the number of queues differs";
    if (state->status & ~(uint32_t)STATUS_ALL_BITS)
        return "unknown status bits";
    if (((state->status & STATUS_DRIVER_OK) && !(state->status & STATUS_FEATURES_OK)) ||
        ((state->status & STATUS_FEATURES_OK) && !(state->status & STATUS_DRIVER)) ||
        ((state->status & STATUS_DRIVER) && !(state->status & STATUS_ACKNOWLEDGE)))
        return "impossible status";
    if ((state->status & STATUS_FEATURES_OK) && !features_acceptable(mmio, state->driver_features))
        return "features that this device does not offer";
    if (state->interrupt_status & ~(uint32_t)(INTERRUPT_USED | INTERRUPT_CONFIG))
        return "unknown interrupt bits";
    for (unsigned i = 0; i < state->n_queues; i++)
        ready |= state->queues[i].ready;
    if (ready && !(state->status & STATUS_FEATURES_OK))
        return "a ready queue before FEATURES_OK";
    return NULL;
}

static const char *set_state_locked(struct virtio_mmio *mmio, const struct virtio_mmio_state *state)
{
    const char *fault = state_fault(mmio, state);
    bool event_idx = state->driver_features & VIRTIO_F_EVENT_IDX;

    for (unsigned i = 0; !fault && i < state->n_queues; i++)
        if (virtqueue_set_state(&mmio->slots[i].queue, &state->queues[i], event_idx) < 0)
            fault = "a queue of impossible size or place";
    if (fault) {
        for (unsigned i = 0; i < mmio->ops->n_queues; i++)
            virtqueue_reset(&mmio->slots[i].queue);
        return fault;
    }
    mmio->status = state->status;
    mmio->driver_features = state->driver_features;
    mmio->device_features_sel = state->device_features_sel;
    mmio->driver_features_sel = state->driver_features_sel;
    mmio->queue_sel = state->queue_sel;
    mmio->config_generation = state->config_generation;
    atomic_store(&mmio->interrupt_status, state->interrupt_status);
    if (virtio_mmio_live(mmio))
        for (unsigned i = 0; i < mmio->ops->n_queues; i++)
            kick_slot(&mmio->slots[i]);
    return NULL;
}

int virtio_mmio_set_state(struct virtio_mmio *mmio, const struct virtio_mmio_state *state,
                          struct error *err)
{
    virtio_mmio_begin(mmio);
    bool fresh = mmio->status == 0;
    const char *fault = fresh ? set_state_locked(mmio, state) : NULL;
    virtio_mmio_end(mmio);

    if (!fresh)
        return error_say(err, EBUSY, "virtio device %u is in use already", mmio->ops->device_id);
    if (fault)
        return error_say(err, EINVAL, "state of virtio device %u: %s", mmio->ops->device_id, fault);
    return 0;
}
