/*
 * virtio-vsock: queues, packets and events. See vsock.h and vsock_internal.h; section numbers are
 * of virtio 1.2.
 *
 * What the guest's kernel has to do for each message is what a message costs, so:
 *  - rx: whatever waits goes out in one go, with one interrupt; data is read from the host socket
 *    straight into the guest's buffer; credit rides on data (vsock_connection.c).
 *  - rx buffers: the guest keeps its queue filled, so it need not tell us, unless we ran out.
 *  - tx: a driver only wants a sent chain back to free it, yet giving it back makes an interrupt
 *    and a run of its work queue. So chains that are done with are kept ("spent") until they add
 *    up to half the queue or to SPENT_BYTES of guest memory: §2.7 sets a device no time for using
 *    a buffer, and a driver that waits for descriptors has by then used up the other half.
 */
#include "vsock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/vsock_internal.h"

enum {
    VSOCK_DEVICE_ID = 19,
    QUEUE_RX = 0,
    QUEUE_TX = 1,
    QUEUE_EVENT = 2,

    /* Linux fills the whole rx queue with a page each while it boots: instructions, and memory of
     * every snapshot. 64 buffers hold a socket's usual 256 KiB of credit. */
    RX_QUEUE_SIZE = 64,
    TX_QUEUE_SIZE = 64,
    EVENT_QUEUE_SIZE = 8,
    SPENT_BYTES = 32 * 1024,

    /* Packets in one turn of the loop. */
    RX_TURN = 128,
    TX_TURN = 128,

    TIMER_MS = 500,
    EVENT_BYTES = 4,
    EVENT_TRANSPORT_RESET = 0,
    CONFIG_BYTES = 8,
    CID_FIRST_GUEST = 3,
};

/* ---- packets ---- */

static void header_load(const uint8_t *from, struct vsock_header *ret_header)
{
    *ret_header = (struct vsock_header){
        .src_cid = load_le64(from),
        .dst_cid = load_le64(from + 8),
        .src_port = load_le32(from + 16),
        .dst_port = load_le32(from + 20),
        .len_bytes = load_le32(from + 24),
        .type = load_le16(from + 28),
        .op = load_le16(from + 30),
        .flags = load_le32(from + 32),
        .buf_alloc = load_le32(from + 36),
        .fwd_cnt = load_le32(from + 40),
    };
}

static void header_store(uint8_t *to, const struct vsock_header *header)
{
    store_le64(to, header->src_cid);
    store_le64(to + 8, header->dst_cid);
    store_le32(to + 16, header->src_port);
    store_le32(to + 20, header->dst_port);
    store_le32(to + 24, header->len_bytes);
    store_le16(to + 28, header->type);
    store_le16(to + 30, header->op);
    store_le32(to + 32, header->flags);
    store_le32(to + 36, header->buf_alloc);
    store_le32(to + 40, header->fwd_cnt);
}

/* ---- to the guest ---- */

void vsock_queue_reset(struct vsock *vsock, const struct vsock_reset *reset)
{
    if (vsock->n_resets == VSOCK_RESETS)
        return;
    vsock->resets[(vsock->resets_start + vsock->n_resets) % VSOCK_RESETS] = *reset;
    vsock->n_resets++;
}

static void fill_reset(struct vsock *vsock, struct vsock_header *ret_header)
{
    const struct vsock_reset *reset = &vsock->resets[vsock->resets_start];

    *ret_header = (struct vsock_header){
        .src_cid = reset->peer_cid,
        .dst_cid = vsock->guest_cid,
        .src_port = reset->host_port,
        .dst_port = reset->guest_port,
        .type = reset->type,
        .op = VSOCK_OP_RST,
    };
    vsock->resets_start = (vsock->resets_start + 1) % VSOCK_RESETS;
    vsock->n_resets--;
    vsock->counters.resets++;
}

/* The next packet, its data already in vsock->chain: resets first, since they free things in the
 * guest, then one packet of each connection in turn. False: there is nothing to send. */
static bool fill_next(struct vsock *vsock, struct vsock_header *ret_header)
{
    for (;;) {
        if (vsock->n_resets > 0) {
            fill_reset(vsock, ret_header);
            return true;
        }
        struct vsock_connection *c = TAILQ_FIRST(&vsock->ready);
        if (!c)
            return false;
        TAILQ_REMOVE(&vsock->ready, c, ready);
        TAILQ_INSERT_TAIL(&vsock->ready, c, ready);
        if (vsock_connection_fill(c, ret_header) == VSOCK_FILL_PACKET)
            return true;
    }
}

/* Sends one packet. Returns 1 sent, 0 nothing to send or no buffer, -EPROTO. */
static int send_one(struct vsock *vsock, struct virtqueue *queue)
{
    uint8_t bytes[VSOCK_HEADER_BYTES];
    struct vsock_header header;
    int r;

    do {
        r = virtqueue_pop(queue, &vsock->chain);
    } while (r == 0 && virtqueue_enable_kicks(queue));
    if (r <= 0)
        return r;
    /* Too small for a packet: given back empty, which is all that its sender deserves. */
    if (vsock->chain.writable_bytes <= VSOCK_HEADER_BYTES) {
        virtqueue_push(queue, vsock->chain.head, 0);
        return 1;
    }
    if (!fill_next(vsock, &header)) {
        virtqueue_unpop(queue);
        return 0;
    }
    header_store(bytes, &header);
    virtqueue_chain_write(&vsock->chain, 0, bytes, sizeof(bytes));
    virtqueue_push(queue, vsock->chain.head, VSOCK_HEADER_BYTES + header.len_bytes);
    vsock->counters.packets_to_guest++;
    return 1;
}

static bool has_work(const struct vsock *vsock)
{
    return vsock->n_resets > 0 || !TAILQ_EMPTY(&vsock->ready);
}

void vsock_serve_rx(struct vsock *vsock)
{
    struct virtqueue *queue = virtio_mmio_queue(vsock->mmio, QUEUE_RX);
    bool tx_waited = vsock->n_resets >= VSOCK_MAX_REPLIES;
    unsigned sent = 0;
    int r = 0;

    virtqueue_disable_kicks(queue);
    while (has_work(vsock) && sent < RX_TURN && (r = send_one(vsock, queue)) == 1)
        sent++;
    if (r < 0) {
        virtio_mmio_fail(vsock->mmio);
        return;
    }
    if (sent > 0)
        virtio_mmio_signal(vsock->mmio, QUEUE_RX);
    if (sent == RX_TURN && has_work(vsock)) {
        virtio_mmio_kick(vsock->mmio, QUEUE_RX);
    } else {
        /* Out of buffers: sockets that have something must not wake the loop until some come. */
        struct vsock_connection *c;

        TAILQ_FOREACH(c, &vsock->ready, ready)
        {
            vsock_connection_watch(c);
        }
    }
    if (tx_waited && vsock->n_resets < VSOCK_MAX_REPLIES)
        virtio_mmio_kick(vsock->mmio, QUEUE_TX);
}

/* ---- from the guest ---- */

static void take_request(struct vsock *vsock, const struct vsock_header *header)
{
    struct vsock_connection *c = NULL;
    struct vsock_reset reset = {
        .peer_cid = VSOCK_HOST_CID,
        .host_port = header->dst_port,
        .guest_port = header->src_port,
        .type = VSOCK_TYPE_STREAM,
    };

    if (vsock->n_connections < VSOCK_MAX_CONNECTIONS) {
        int fd = vsock->dial ? vsock->dial(vsock->dial_opaque, header->dst_port) : -ECONNREFUSED;

        if (fd >= 0)
            c = vsock_connection_new(vsock, VSOCK_ESTABLISHED, fd);
    }
    if (!c) {
        vsock_queue_reset(vsock, &reset);
        return;
    }
    vsock_connection_name(c, header->dst_port, header->src_port);
    c->peer_alloc =
        header->buf_alloc < VSOCK_MAX_PEER_CREDIT ? header->buf_alloc : VSOCK_MAX_PEER_CREDIT;
    c->peer_forwarded = header->fwd_cnt;
    c->sent = header->fwd_cnt; /* 0, but what counts is the difference */
    c->send_response = true;
    vsock_connection_has_work(c);
    vsock_connection_watch(c);
}

/* The packet in vsock->chain: its header is copied once, and only the copy is looked at. */
static void take_packet(struct vsock *vsock)
{
    uint8_t bytes[VSOCK_HEADER_BYTES];
    struct vsock_header header;

    if (!virtqueue_chain_read(&vsock->chain, 0, bytes, sizeof(bytes)))
        return;
    header_load(bytes, &header);
    vsock->counters.packets_from_guest++;
    if (header.src_cid != vsock->guest_cid)
        return; /* §5.10.6.4.1: a forged source gets no answer */
    if (header.dst_cid == VSOCK_HOST_CID && header.type == VSOCK_TYPE_STREAM) {
        struct vsock_connection *c = vsock_connection_find(vsock, header.dst_port, header.src_port);

        if (c) {
            vsock_connection_packet(c, &header);
            return;
        }
        if (header.op == VSOCK_OP_REQUEST) {
            take_request(vsock, &header);
            return;
        }
    }
    if (header.op == VSOCK_OP_RST)
        return; /* never answer a reset with another */
    vsock_queue_reset(vsock, &(struct vsock_reset){.peer_cid = header.dst_cid,
                                                   .host_port = header.dst_port,
                                                   .guest_port = header.src_port,
                                                   .type = header.type});
}

static void give_back_spent(struct vsock *vsock)
{
    struct virtqueue *queue = virtio_mmio_queue(vsock->mmio, QUEUE_TX);

    for (uint32_t i = 0; i < vsock->n_spent; i++)
        virtqueue_push(queue, vsock->spent[i], 0);
    vsock->n_spent = 0;
    vsock->spent_descriptors = 0;
    vsock->spent_bytes = 0;
}

/* The chain in vsock->chain is done with. */
static void spend(struct vsock *vsock)
{
    uint16_t size = virtio_mmio_queue(vsock->mmio, QUEUE_TX)->at.size;
    const struct virtqueue_chain *chain = &vsock->chain;

    assert(vsock->n_spent < VIRTQUEUE_MAX_SIZE);
    vsock->spent[vsock->n_spent++] = chain->head;
    vsock->spent_descriptors += (uint32_t)chain->n_readable + chain->n_writable;
    vsock->spent_bytes += chain->readable_bytes;
    if (vsock->spent_descriptors * 2 >= size || vsock->spent_bytes >= SPENT_BYTES) {
        give_back_spent(vsock);
        virtio_mmio_signal(vsock->mmio, QUEUE_TX);
    }
}

static void serve_tx(struct vsock *vsock)
{
    struct virtqueue *queue = virtio_mmio_queue(vsock->mmio, QUEUE_TX);
    unsigned left = TX_TURN;
    int r = 0;

    do {
        virtqueue_disable_kicks(queue);
        /* A guest that lets replies pile up is not listened to: vsock_serve_rx() goes on. */
        while (left > 0 && vsock->n_resets < VSOCK_MAX_REPLIES &&
               (r = virtqueue_pop(queue, &vsock->chain)) == 1) {
            take_packet(vsock);
            spend(vsock);
            left--;
        }
        if (r < 0) {
            virtio_mmio_fail(vsock->mmio);
            return;
        }
        if (vsock->n_resets >= VSOCK_MAX_REPLIES)
            return;
        if (left == 0) {
            virtio_mmio_kick(vsock->mmio, QUEUE_TX);
            return;
        }
    } while (virtqueue_enable_kicks(queue));
}

/* ---- events ---- */

static void serve_events(struct vsock *vsock)
{
    struct virtqueue *queue = virtio_mmio_queue(vsock->mmio, QUEUE_EVENT);
    uint8_t event[EVENT_BYTES];

    virtqueue_disable_kicks(queue);
    if (!vsock->event_pending)
        return;
    int r;
    do {
        r = virtqueue_pop(queue, &vsock->chain);
    } while (r == 0 && virtqueue_enable_kicks(queue));
    if (r < 0)
        virtio_mmio_fail(vsock->mmio);
    if (r <= 0)
        return;
    store_le32(event, EVENT_TRANSPORT_RESET);
    bool written = virtqueue_chain_write(&vsock->chain, 0, event, sizeof(event));
    virtqueue_push(queue, vsock->chain.head, written ? sizeof(event) : 0);
    vsock->event_pending = false;
    virtio_mmio_signal(vsock->mmio, QUEUE_EVENT);
}

/* Ends everything that the guest knew of. Half-open clients and what lingers are the host's. */
static void drop_connections(struct vsock *vsock)
{
    struct vsock_connection *next;

    vsock->generation++;
    for (struct vsock_connection *c = LIST_FIRST(&vsock->all); c; c = next) {
        next = LIST_NEXT(c, all);
        if (c->in_table)
            vsock_connection_free(c);
    }
    vsock->n_resets = 0;
}

void virtio_vsock_transport_reset(struct virtio_mmio *mmio)
{
    assert(virtio_mmio_device_id(mmio) == VSOCK_DEVICE_ID);
    struct vsock *vsock = virtio_mmio_device(mmio);

    bool live = virtio_mmio_begin(mmio);
    drop_connections(vsock);
    vsock->event_pending = live;
    if (live)
        serve_events(vsock);
    virtio_mmio_end(mmio);
}

struct virtio_vsock_counters virtio_vsock_counters(struct virtio_mmio *mmio)
{
    assert(virtio_mmio_device_id(mmio) == VSOCK_DEVICE_ID);
    struct vsock *vsock = virtio_mmio_device(mmio);

    virtio_mmio_begin(mmio);
    struct virtio_vsock_counters counters = vsock->counters;
    counters.connections = vsock->n_connections;
    counters.buffered_bytes = vsock->buffered_bytes;
    virtio_mmio_end(mmio);
    return counters;
}

/* ---- timer ---- */

static void on_timer(void *opaque, uint32_t events)
{
    struct vsock *vsock = opaque;
    struct vsock_connection *next;
    bool again = false;

    (void)events;
    bool live = virtio_mmio_begin(vsock->mmio);
    uint64_t now_ns = clock_now_ns();
    loop_remove(vsock->timer);
    vsock->timer = NULL;
    for (struct vsock_connection *c = LIST_FIRST(&vsock->all); c; c = next) {
        next = LIST_NEXT(c, all);
        again |= vsock_connection_tick(c, now_ns);
    }
    vsock_backend_resume(vsock);
    if (again)
        vsock_arm_timer(vsock);
    if (live)
        vsock_serve_rx(vsock);
    virtio_mmio_end(vsock->mmio);
}

void vsock_arm_timer(struct vsock *vsock)
{
    /* A timer that cannot be made now is made for the next deadline; until then things stay. */
    if (!vsock->timer && loop_add_timer(vsock->loop, TIMER_MS, on_timer, vsock, &vsock->timer) < 0)
        vsock->timer = NULL;
}

/* ---- device ---- */

static void vsock_config_read(void *device, uint8_t *ret_config)
{
    const struct vsock *vsock = device;

    store_le64(ret_config, vsock->guest_cid);
}

static void vsock_notify(void *device, unsigned queue)
{
    struct vsock *vsock = device;

    if (queue == QUEUE_EVENT) {
        serve_events(vsock);
        return;
    }
    if (queue == QUEUE_TX)
        serve_tx(vsock);
    if (virtio_mmio_live(vsock->mmio))
        vsock_serve_rx(vsock);
}

static void vsock_reset(void *device)
{
    struct vsock *vsock = device;

    drop_connections(vsock);
    vsock->n_spent = 0;
    vsock->spent_descriptors = 0;
    vsock->spent_bytes = 0;
    vsock->event_pending = false;
}

/* The guest need not be interrupted for these: it learns of them with what comes next. */
static void vsock_quiesce(void *device)
{
    give_back_spent(device);
}

static void vsock_free(void *device)
{
    struct vsock *vsock = device;
    struct vsock_connection *next;

    loop_remove(vsock->listen_source);
    vsock->listen_source = NULL;
    for (struct vsock_connection *c = LIST_FIRST(&vsock->all); c; c = next) {
        next = LIST_NEXT(c, all);
        vsock_connection_free(c);
    }
    loop_remove(vsock->timer);
    if (vsock->listen_fd >= 0)
        close(vsock->listen_fd);
    free(vsock);
}

static const struct virtio_device_ops vsock_ops = {
    .device_id = VSOCK_DEVICE_ID,
    .n_queues = 3,
    .queue_sizes = {RX_QUEUE_SIZE, TX_QUEUE_SIZE, EVENT_QUEUE_SIZE},
    .config_bytes = CONFIG_BYTES,
    .config_read = vsock_config_read,
    .notify = vsock_notify,
    .reset = vsock_reset,
    .quiesce = vsock_quiesce,
    .free = vsock_free,
};

int virtio_vsock_new(const struct virtio_vsock_config *config, struct loop *loop,
                     const struct guest_memory *memory, struct irq_line irq,
                     struct virtio_mmio **ret_mmio, struct error *err)
{
    if (config->guest_cid < CID_FIRST_GUEST || config->guest_cid == UINT32_MAX)
        return error_say(err, EINVAL, "%u is no guest's vsock CID", config->guest_cid);
    struct vsock *vsock = calloc(1, sizeof(*vsock));
    if (!vsock)
        return error_set(err, ENOMEM, "make vsock device");
    vsock->loop = loop;
    vsock->guest_cid = config->guest_cid;
    vsock->listen_fd = config->listen_fd;
    vsock->dial = config->dial;
    vsock->dial_opaque = config->opaque;
    TAILQ_INIT(&vsock->ready);
    int r = virtio_mmio_new(&vsock_ops, vsock, loop, memory, irq, &vsock->mmio, err);
    if (r < 0) {
        free(vsock);
        return r;
    }
    r = vsock_backend_start(vsock);
    if (r < 0) {
        vsock->listen_fd = -1; /* still the caller's */
        virtio_mmio_free(vsock->mmio);
        return error_set(err, -r, "listen for vsock clients");
    }
    *ret_mmio = vsock->mmio;
    return 0;
}
