/*
 * virtio-rng: see rng.h.
 *
 * Process: mayfly-vmm, loop thread. Trust: requests are hostile. Invariant: a request gets at most
 * RNG_REQUEST_BYTES however long it is, and all of them together at most what the budget holds; a
 * guest that asks for more waits, it does not keep the host busy.
 */
#include "rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "monitor/devices/virtio_device.h"

enum {
    RNG_DEVICE_ID = 4,
    RNG_QUEUE_SIZE = 8, /* Linux has one request under way */
    RNG_REQUEST_BYTES = 256,
    RNG_DEFAULT_RATE = 1 << 20,
    RNG_REFILL_MS = 100,
};

struct rng {
    struct virtio_mmio *mmio; /* borrowed: owns us */
    struct loop *loop;        /* borrowed */
    uint32_t refill_bytes;    /* each RNG_REFILL_MS */
    uint32_t budget_bytes;    /* what may be given out until the next refill */
    struct loop_source *refill_timer;
    struct virtqueue_chain chain; /* scratch */
};

static void serve(struct rng *rng);

static void on_refill(void *opaque, uint32_t events)
{
    struct rng *rng = opaque;

    (void)events;
    bool live = virtio_mmio_begin(rng->mmio);
    loop_remove(rng->refill_timer);
    rng->refill_timer = NULL;
    rng->budget_bytes = rng->refill_bytes;
    if (live)
        serve(rng);
    virtio_mmio_end(rng->mmio);
}

/* The first byte taken out of a full budget starts the clock; without a timer there would be no
 * way back, so a failure to make one leaves the budget alone. */
static bool take_budget(struct rng *rng, uint32_t bytes)
{
    if (rng->budget_bytes < bytes)
        return false;
    if (!rng->refill_timer &&
        loop_add_timer(rng->loop, RNG_REFILL_MS, on_refill, rng, &rng->refill_timer) < 0)
        rng->refill_timer = NULL;
    else
        rng->budget_bytes -= bytes;
    return true;
}

static uint32_t answer(const struct virtqueue_chain *chain, uint32_t len)
{
    uint8_t bytes[RNG_REQUEST_BYTES];
    /* 256 bytes and less are never cut short by a signal: getrandom(2). */
    ssize_t n = getrandom(bytes, len, 0);

    if (n != (ssize_t)len || !virtqueue_chain_write(chain, 0, bytes, len))
        return 0;
    return len;
}

/* Returns 1 if it served a request, 0 if there is none or no budget left, -EPROTO. */
static int serve_one(struct rng *rng, struct virtqueue *queue)
{
    int r = virtqueue_pop(queue, &rng->chain);

    if (r <= 0)
        return r;
    uint32_t len = rng->chain.writable_bytes;
    if (len > RNG_REQUEST_BYTES)
        len = RNG_REQUEST_BYTES;
    /* An empty request costs as much as a small one: it is counted too. */
    if (!take_budget(rng, len > 0 ? len : 64)) {
        virtqueue_unpop(queue);
        return 0;
    }
    virtqueue_push(queue, rng->chain.head, answer(&rng->chain, len));
    return 1;
}

static void serve(struct rng *rng)
{
    struct virtqueue *queue = virtio_mmio_queue(rng->mmio, 0);
    int r;

    do {
        virtqueue_disable_kicks(queue);
        while ((r = serve_one(rng, queue)) == 1)
            ;
        if (r < 0) {
            virtio_mmio_fail(rng->mmio);
            return;
        }
        virtio_mmio_signal(rng->mmio, 0);
        /* Out of budget: the timer goes on, the driver need not kick. */
        if (rng->budget_bytes < RNG_REQUEST_BYTES)
            return;
    } while (virtqueue_enable_kicks(queue));
}

static void rng_notify(void *device, unsigned queue)
{
    (void)queue;
    serve(device);
}

static void rng_free(void *device)
{
    struct rng *rng = device;

    loop_remove(rng->refill_timer);
    free(rng);
}

static const struct virtio_device_ops rng_ops = {
    .device_id = RNG_DEVICE_ID,
    .n_queues = 1,
    .queue_sizes = {RNG_QUEUE_SIZE},
    .notify = rng_notify,
    .free = rng_free,
};

int virtio_rng_new(const struct virtio_rng_config *config, struct loop *loop,
                   const struct guest_memory *memory, struct irq_line irq,
                   struct virtio_mmio **ret_mmio, struct error *err)
{
    struct rng *rng = calloc(1, sizeof(*rng));

    if (!rng)
        return error_set(err, ENOMEM, "make rng device");
    uint32_t rate = config->bytes_per_second ? config->bytes_per_second : RNG_DEFAULT_RATE;
    rng->loop = loop;
    rng->refill_bytes = rate / (1000 / RNG_REFILL_MS);
    if (rng->refill_bytes < RNG_REQUEST_BYTES)
        rng->refill_bytes = RNG_REQUEST_BYTES;
    rng->budget_bytes = rng->refill_bytes;
    int r = virtio_mmio_new(&rng_ops, rng, loop, memory, irq, &rng->mmio, err);
    if (r < 0) {
        free(rng);
        return r;
    }
    *ret_mmio = rng->mmio;
    return 0;
}
