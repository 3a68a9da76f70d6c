/* One vsock stream: see vsock_internal.h. Section numbers are of virtio 1.2. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "monitor/devices/vsock_internal.h"

/* ---- life ---- */

static unsigned bucket_of(uint32_t host_port, uint32_t guest_port)
{
    uint32_t mixed = (host_port ^ (guest_port << 16 | guest_port >> 16)) * UINT32_C(0x9e3779b1);

    return mixed >> 24; /* VSOCK_HASH_BUCKETS is 256 */
}

struct vsock_connection *vsock_connection_find(struct vsock *vsock, uint32_t host_port,
                                               uint32_t guest_port)
{
    struct vsock_connection *c;

    LIST_FOREACH(c, &vsock->buckets[bucket_of(host_port, guest_port)], bucket)
    {
        if (c->host_port == host_port && c->guest_port == guest_port)
            return c;
    }
    return NULL;
}

struct vsock_connection *vsock_connection_new(struct vsock *vsock, enum vsock_state state, int fd)
{
    AUTO_FD owned_fd = fd;

    if (vsock->n_connections >= VSOCK_MAX_CONNECTIONS)
        return NULL;
    struct vsock_connection *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->vsock = vsock;
    c->state = state;
    c->fd = fd_steal(&owned_fd);
    LIST_INSERT_HEAD(&vsock->all, c, all);
    vsock->n_connections++;
    if (state == VSOCK_HANDSHAKE)
        vsock->n_handshakes++;
    return c;
}

void vsock_connection_name(struct vsock_connection *c, uint32_t host_port, uint32_t guest_port)
{
    c->host_port = host_port;
    c->guest_port = guest_port;
    LIST_INSERT_HEAD(&c->vsock->buckets[bucket_of(host_port, guest_port)], c, bucket);
    c->in_table = true;
}

static void leave_table(struct vsock_connection *c)
{
    if (c->in_table)
        LIST_REMOVE(c, bucket);
    c->in_table = false;
}

static void leave_ready(struct vsock_connection *c)
{
    if (c->is_ready)
        TAILQ_REMOVE(&c->vsock->ready, c, ready);
    c->is_ready = false;
}

static void drop_buffer(struct vsock_connection *c)
{
    if (c->buffer)
        c->vsock->buffered_bytes -= VSOCK_BUFFER_BYTES;
    free(c->buffer);
    c->buffer = NULL;
    c->buffer_start = 0;
    c->buffer_used = 0;
}

static void close_host_side(struct vsock_connection *c)
{
    loop_remove(c->source);
    c->source = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    drop_buffer(c);
}

void vsock_connection_free(struct vsock_connection *c)
{
    struct vsock *vsock = c->vsock;

    leave_table(c);
    leave_ready(c);
    close_host_side(c);
    LIST_REMOVE(c, all);
    vsock->n_connections--;
    if (c->state == VSOCK_HANDSHAKE)
        vsock->n_handshakes--;
    free(c);
    vsock_backend_resume(vsock);
}

void vsock_connection_deadline(struct vsock_connection *c, uint64_t after_ms)
{
    c->deadline_ns = after_ms ? clock_now_ns() + after_ms * 1000000 : 0;
    if (after_ms)
        vsock_arm_timer(c->vsock);
}

void vsock_connection_has_work(struct vsock_connection *c)
{
    if (!c->is_ready)
        TAILQ_INSERT_TAIL(&c->vsock->ready, c, ready);
    c->is_ready = true;
}

void vsock_connection_reset(struct vsock_connection *c)
{
    /* A request that was never sent, or a guest side that is gone, needs none. */
    bool known = c->in_table && !(c->state == VSOCK_REQUESTED && c->send_request);
    struct vsock_reset reset = {
        .peer_cid = VSOCK_HOST_CID,
        .host_port = c->host_port,
        .guest_port = c->guest_port,
        .type = VSOCK_TYPE_STREAM,
    };
    struct vsock *vsock = c->vsock;

    vsock_connection_free(c);
    if (known)
        vsock_queue_reset(vsock, &reset);
}

/* ---- what the loop waits for ---- */

/* §5.10.6.3: what we may still send. The guest's counters were checked when they came. */
static uint32_t peer_free(const struct vsock_connection *c)
{
    uint32_t under_way = c->sent - c->peer_forwarded;

    return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

static bool wants_host_data(const struct vsock_connection *c)
{
    return c->state == VSOCK_ESTABLISHED && !c->host_ended && !c->guest_deaf;
}

/* Events, or -1 to be left alone altogether: an unusable hang-up would be reported for ever. */
static int wanted_events(const struct vsock_connection *c)
{
    int events = c->buffer_used > 0 ? EPOLLOUT : 0;

    switch (c->state) {
    case VSOCK_HANDSHAKE:
        return EPOLLIN;
    case VSOCK_ESTABLISHED:
        if (wants_host_data(c) && !c->readable && peer_free(c) > 0)
            return events | EPOLLIN;
        /* A half-closed host side may still go away for good: that is news once. */
        return events || c->host_ended ? events : -1;
    case VSOCK_LINGERING:
        return events;
    default:
        return -1;
    }
}

static void on_host(void *opaque, uint32_t events);

void vsock_connection_watch(struct vsock_connection *c)
{
    int wanted = c->fd >= 0 ? wanted_events(c) : -1;

    if (wanted < 0) {
        loop_remove(c->source);
        c->source = NULL;
    } else if (!c->source) {
        /* No memory for it: as good as a stream that broke; the tick finds it. */
        if (loop_add(c->vsock->loop, c->fd, (uint32_t)wanted, on_host, c, &c->source) < 0) {
            c->source = NULL;
            vsock_connection_deadline(c, 1);
        }
        c->watched = (uint32_t)wanted;
    } else if (c->watched != (uint32_t)wanted && loop_change(c->source, (uint32_t)wanted) == 0) {
        c->watched = (uint32_t)wanted;
    }
}

/* ---- guest to host ---- */

/*
 * Does the guest need to hear how far we are? Each packet to it says so anyway; one of its own
 * costs the guest an interrupt and its handling, so it is sent only if the guest, as far as it
 * knows, could send less than half a buffer, and would then know of a good deal more. A guest
 * that is out of credit is always told in the end: when the buffer has run empty.
 */
static bool credit_is_due(const struct vsock_connection *c)
{
    uint32_t assumed_free = VSOCK_BUFFER_BYTES - (c->received - c->told);
    uint32_t news = c->forwarded - c->told;

    return c->state == VSOCK_ESTABLISHED && !c->guest_ended &&
           assumed_free < VSOCK_BUFFER_BYTES / 2 && news > 0 &&
           (news >= VSOCK_BUFFER_BYTES / 4 || c->buffer_used == 0);
}

static void forwarded(struct vsock_connection *c, uint32_t bytes)
{
    c->forwarded += bytes;
    if (credit_is_due(c))
        vsock_connection_has_work(c);
}

static ssize_t send_windows(int fd, struct iovec *windows, size_t n_windows)
{
    const struct msghdr message = {.msg_iov = windows, .msg_iovlen = n_windows};
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && errno == EFAULT)
        guest_memory_touch(windows, n_windows);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return n;
}

/* The host has closed: nothing that the guest sends matters, and the guest learns of it. */
static void host_is_gone(struct vsock_connection *c)
{
    close_host_side(c);
    c->state = VSOCK_CLOSING;
    c->readable = false;
    c->shutdown_to_send = VSOCK_SHUTDOWN_BOTH;
    c->stalled_since_ns = 0;
    vsock_connection_deadline(c, VSOCK_SHUTDOWN_MS);
    vsock_connection_has_work(c);
}

/* All that the guest sent is out: pass its ends on. Returns false if @c is freed. */
static bool buffer_is_empty(struct vsock_connection *c)
{
    drop_buffer(c);
    if (c->state == VSOCK_LINGERING) {
        vsock_connection_free(c);
        return false;
    }
    if (c->guest_ended)
        shutdown(c->fd, SHUT_WR);
    return true;
}

/* Writes out of the buffer. Returns false if @c is freed. */
static bool drain_buffer(struct vsock_connection *c)
{
    while (c->buffer_used > 0) {
        uint32_t len = VSOCK_BUFFER_BYTES - c->buffer_start;
        if (len > c->buffer_used)
            len = c->buffer_used;
        struct iovec window = {.iov_base = c->buffer + c->buffer_start, .iov_len = len};
        ssize_t n = send_windows(c->fd, &window, 1);

        if (n < 0 && c->state == VSOCK_LINGERING) {
            vsock_connection_free(c);
            return false;
        }
        if (n < 0) {
            host_is_gone(c);
            return true;
        }
        if (n == 0)
            return true;
        c->buffer_start = (c->buffer_start + (uint32_t)n) % VSOCK_BUFFER_BYTES;
        c->buffer_used -= (uint32_t)n;
        forwarded(c, (uint32_t)n);
    }
    return buffer_is_empty(c);
}

/* Keeps payload bytes [@offset, @offset + @len) of the packet in vsock->chain for later. */
static bool keep_payload(struct vsock_connection *c, uint32_t offset, uint32_t len)
{
    struct vsock *vsock = c->vsock;

    if (!c->buffer) {
        if (vsock->buffered_bytes + VSOCK_BUFFER_BYTES > VSOCK_TOTAL_BUFFER_BYTES)
            return false;
        c->buffer = malloc(VSOCK_BUFFER_BYTES);
        if (!c->buffer)
            return false;
        vsock->buffered_bytes += VSOCK_BUFFER_BYTES;
    }
    assert(len <= VSOCK_BUFFER_BYTES - c->buffer_used);
    while (len > 0) {
        uint32_t at = (c->buffer_start + c->buffer_used) % VSOCK_BUFFER_BYTES;
        uint32_t part = VSOCK_BUFFER_BYTES - at < len ? VSOCK_BUFFER_BYTES - at : len;

        virtqueue_chain_read(&vsock->chain, VSOCK_HEADER_BYTES + offset, c->buffer + at, part);
        c->buffer_used += part;
        offset += part;
        len -= part;
    }
    return true;
}

/* A data packet. The length is the packet's own claim; may free @c. */
static void take_payload(struct vsock_connection *c, uint32_t len)
{
    struct vsock *vsock = c->vsock;
    uint32_t taken = 0;

    /* More than the credit we gave, more than the packet holds, or after its own end: such a
     * guest gets no stream. */
    if (len > VSOCK_BUFFER_BYTES - (c->received - c->forwarded) ||
        len > vsock->chain.readable_bytes - VSOCK_HEADER_BYTES || c->guest_ended) {
        vsock_connection_reset(c);
        return;
    }
    if (len == 0)
        return;
    c->received += len;
    if (c->buffer_used == 0) {
        size_t n_windows =
            virtqueue_chain_slice(&vsock->chain, false, VSOCK_HEADER_BYTES, len, vsock->windows);
        ssize_t n = send_windows(c->fd, vsock->windows, n_windows);

        if (n < 0) {
            host_is_gone(c);
            return;
        }
        taken = (uint32_t)n;
        forwarded(c, taken);
    }
    if (taken < len) {
        if (!keep_payload(c, taken, len - taken)) {
            vsock_connection_reset(c);
            return;
        }
        vsock_connection_watch(c);
    }
}

/* ---- host to guest ---- */

/* The host sends no more: has it gone altogether? */
static void host_has_ended(struct vsock_connection *c)
{
    struct pollfd pollfd = {.fd = c->fd};

    c->host_ended = true;
    c->readable = false;
    if (poll(&pollfd, 1, 0) == 1 && (pollfd.revents & POLLHUP)) {
        host_is_gone(c);
        return;
    }
    c->shutdown_to_send |= VSOCK_SHUTDOWN_SEND;
}

/*
 * Reads from the host straight into the rx buffer, behind the header. Returns the bytes, 0 if
 * there is nothing to send now, -errno if the socket broke.
 */
static ssize_t read_payload(struct vsock_connection *c)
{
    struct vsock *vsock = c->vsock;
    uint32_t room = vsock->chain.writable_bytes - VSOCK_HEADER_BYTES;
    uint32_t credit = peer_free(c);

    if (credit == 0) {
        if (c->stalled_since_ns == 0 && !c->credit_asked) {
            c->stalled_since_ns = clock_now_ns();
            vsock_arm_timer(vsock);
        }
        return 0;
    }
    if (room > credit)
        room = credit;
    size_t n_windows =
        virtqueue_chain_slice(&vsock->chain, true, VSOCK_HEADER_BYTES, room, vsock->windows);
    if (n_windows == 0)
        return 0;
    ssize_t n = readv(c->fd, vsock->windows, (int)n_windows);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        c->readable = false;
        return 0;
    }
    if (n < 0 && errno == EFAULT)
        guest_memory_touch(vsock->windows, n_windows);
    if (n < 0)
        return -errno;
    if (n == 0)
        host_has_ended(c);
    else if ((size_t)n < room)
        c->readable = false; /* if there is more by now, the loop says so */
    return n;
}

static enum vsock_fill packet(struct vsock_connection *c, struct vsock_header *header, uint16_t op)
{
    *header = (struct vsock_header){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = c->vsock->guest_cid,
        .src_port = c->host_port,
        .dst_port = c->guest_port,
        .type = VSOCK_TYPE_STREAM,
        .op = op,
        .buf_alloc = VSOCK_BUFFER_BYTES,
        .fwd_cnt = c->forwarded,
    };
    c->told = c->forwarded;
    c->send_credit_update = false;
    return VSOCK_FILL_PACKET;
}

/* What is not data, in order of urgency. */
static bool fill_control(struct vsock_connection *c, struct vsock_header *ret_header)
{
    if (c->send_request) {
        c->send_request = false;
        packet(c, ret_header, VSOCK_OP_REQUEST);
    } else if (c->send_response) {
        c->send_response = false;
        packet(c, ret_header, VSOCK_OP_RESPONSE);
    } else if (c->send_credit_request) {
        c->send_credit_request = false;
        packet(c, ret_header, VSOCK_OP_CREDIT_REQUEST);
    } else if (c->shutdown_to_send) {
        packet(c, ret_header, VSOCK_OP_SHUTDOWN);
        ret_header->flags = c->shutdown_to_send;
        c->shutdown_to_send = 0;
    } else {
        return false;
    }
    return true;
}

enum vsock_fill vsock_connection_fill(struct vsock_connection *c, struct vsock_header *ret_header)
{
    if (fill_control(c, ret_header))
        return VSOCK_FILL_PACKET;
    if (c->readable && wants_host_data(c)) {
        ssize_t n = read_payload(c);

        if (n < 0) {
            vsock_connection_reset(c);
            return VSOCK_FILL_GONE;
        }
        if (n > 0) {
            c->sent += (uint32_t)n;
            packet(c, ret_header, VSOCK_OP_RW);
            ret_header->len_bytes = (uint32_t)n;
            return VSOCK_FILL_PACKET;
        }
        if (fill_control(c, ret_header)) /* the host has ended just now */
            return VSOCK_FILL_PACKET;
    }
    if (c->send_credit_update || credit_is_due(c)) {
        c->vsock->counters.credit_updates++;
        return packet(c, ret_header, VSOCK_OP_CREDIT_UPDATE);
    }
    leave_ready(c);
    vsock_connection_watch(c);
    return VSOCK_FILL_NOTHING;
}

/* The host socket is readable, writable or broken. */
static void on_host(void *opaque, uint32_t events)
{
    struct vsock_connection *c = opaque;
    struct vsock *vsock = c->vsock;

    uint32_t generation = vsock->generation;
    bool live = virtio_mmio_begin(vsock->mmio);
    /* That may have caught up with a reset by the driver, which frees connections. */
    if (vsock->generation != generation)
        goto out;
    if (c->state == VSOCK_HANDSHAKE) {
        vsock_backend_handshake(c);
    } else {
        if (c->buffer_used > 0 && !drain_buffer(c))
            goto serve;
        if (c->state == VSOCK_ESTABLISHED && c->host_ended && (events & EPOLLHUP))
            host_is_gone(c);
        if (wants_host_data(c) && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
            c->readable = true;
            vsock_connection_has_work(c);
        }
        if (!c->is_ready)
            vsock_connection_watch(c);
    }
serve:
    if (live)
        vsock_serve_rx(vsock);
out:
    virtio_mmio_end(vsock->mmio);
}

/* ---- packets of the guest ---- */

/* Notes the guest's counters. Returns false if they cannot be true: it has received more than we
 * sent. What it claims to have room for costs us nothing, only its own rx buffers. */
static bool take_credit(struct vsock_connection *c, const struct vsock_header *header)
{
    if (c->sent - header->fwd_cnt > VSOCK_MAX_PEER_CREDIT)
        return false;
    c->peer_forwarded = header->fwd_cnt;
    c->peer_alloc =
        header->buf_alloc < VSOCK_MAX_PEER_CREDIT ? header->buf_alloc : VSOCK_MAX_PEER_CREDIT;
    if (peer_free(c) > 0) {
        c->stalled_since_ns = 0;
        c->credit_asked = false;
        if (c->readable)
            vsock_connection_has_work(c);
        else
            vsock_connection_watch(c);
    }
    return true;
}

static void take_response(struct vsock_connection *c)
{
    if (c->state != VSOCK_REQUESTED || c->send_request || !vsock_backend_accepted(c)) {
        vsock_connection_reset(c);
        return;
    }
    c->state = VSOCK_ESTABLISHED;
    vsock_connection_deadline(c, 0);
    vsock_connection_watch(c);
}

/* The guest is done with @c; what it sent still goes out to the host. */
static void guest_is_gone(struct vsock_connection *c)
{
    if (c->state != VSOCK_ESTABLISHED || c->buffer_used == 0) {
        vsock_connection_free(c);
        return;
    }
    leave_table(c);
    leave_ready(c);
    c->state = VSOCK_LINGERING;
    c->stalled_since_ns = 0;
    vsock_connection_deadline(c, VSOCK_LINGER_MS);
    vsock_connection_watch(c);
}

/* §5.10.6.6: hints that stay; both of them are a clean end, which we confirm at once, so that the
 * guest can use the ports again: it need not wait for the host to read. */
static void take_shutdown(struct vsock_connection *c, uint32_t flags)
{
    if (c->state == VSOCK_REQUESTED) {
        vsock_connection_reset(c);
        return;
    }
    if ((flags & VSOCK_SHUTDOWN_RECEIVE) && !c->guest_deaf) {
        c->guest_deaf = true;
        c->readable = false;
        c->stalled_since_ns = 0;
        if (c->fd >= 0)
            shutdown(c->fd, SHUT_RD); /* the host's writes fail from now on */
    }
    if ((flags & VSOCK_SHUTDOWN_SEND) && !c->guest_ended) {
        c->guest_ended = true;
        if (c->fd >= 0 && c->buffer_used == 0)
            shutdown(c->fd, SHUT_WR);
    }
    if (c->guest_deaf && c->guest_ended) {
        vsock_queue_reset(c->vsock, &(struct vsock_reset){.peer_cid = VSOCK_HOST_CID,
                                                          .host_port = c->host_port,
                                                          .guest_port = c->guest_port,
                                                          .type = VSOCK_TYPE_STREAM});
        guest_is_gone(c);
        return;
    }
    vsock_connection_watch(c);
}

void vsock_connection_packet(struct vsock_connection *c, const struct vsock_header *header)
{
    if (header->op == VSOCK_OP_RST) {
        guest_is_gone(c);
        return;
    }
    if (!take_credit(c, header)) {
        vsock_connection_reset(c);
        return;
    }
    switch (header->op) {
    case VSOCK_OP_RESPONSE:
        take_response(c);
        break;
    case VSOCK_OP_SHUTDOWN:
        take_shutdown(c, header->flags);
        break;
    case VSOCK_OP_RW:
        if (c->state == VSOCK_ESTABLISHED)
            take_payload(c, header->len_bytes);
        else if (c->state != VSOCK_CLOSING) /* there it has not heard of the end yet */
            vsock_connection_reset(c);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        c->send_credit_update = true;
        vsock_connection_has_work(c);
        break;
    default: /* a second REQUEST, or no operation at all */
        vsock_connection_reset(c);
        break;
    }
}

bool vsock_connection_tick(struct vsock_connection *c, uint64_t now_ns)
{
    if (c->deadline_ns && now_ns >= c->deadline_ns) {
        if (c->state == VSOCK_HANDSHAKE || c->state == VSOCK_LINGERING)
            vsock_connection_free(c);
        else
            vsock_connection_reset(c);
        return false;
    }
    if (c->stalled_since_ns && now_ns - c->stalled_since_ns >= VSOCK_STALL_MS * UINT64_C(1000000)) {
        c->stalled_since_ns = 0;
        c->credit_asked = true;
        c->send_credit_request = true;
        vsock_connection_has_work(c);
    }
    return c->deadline_ns || c->stalled_since_ns;
}
