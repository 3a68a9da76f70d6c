/*
 * vsock streams across a snapshot. One stream is carried over, the host's own to the agent: no
 * guest instruction is spent on it. The guest is told by resets that all its others are gone.
 */
#include "monitor/devices/vsock_internal.h"

#include <errno.h>
#include <fcntl.h>

#include "common/fd.h"

/* Is a stream at rest: nothing received that the host has not, nothing waiting for the guest? */
static bool at_rest(const struct vsock_connection *c)
{
    return c->state == VSOCK_ESTABLISHED && c->buffer_used == 0 && c->received == c->forwarded &&
           !c->readable && !c->host_ended && !c->guest_ended && !c->guest_deaf &&
           c->shutdown_to_send == 0;
}

static struct virtio_vsock_stream stream_of(const struct vsock_connection *c)
{
    return (struct virtio_vsock_stream){.host_port = c->host_port,
                                        .guest_port = c->guest_port,
                                        .received = c->received,
                                        .told = c->told,
                                        .sent = c->sent,
                                        .peer_alloc = c->peer_alloc,
                                        .peer_forwarded = c->peer_forwarded};
}

int virtio_vsock_get_streams(struct virtio_mmio *mmio, uint32_t kept_host_port,
                             struct virtio_vsock_stream *ret_list, size_t max, size_t *ret_n,
                             struct error *err)
{
    struct vsock *vsock = virtio_mmio_device(mmio);
    const struct vsock_connection *c;
    size_t n = 0;
    int r = 0;

    virtio_mmio_begin(mmio);
    LIST_FOREACH(c, &vsock->all, all)
    {
        if (!c->in_table)
            continue;
        if (n == max) {
            r = error_say(err, EBUSY, "snapshot: more than %zu vsock connections are open", max);
            break;
        }
        if (c->host_port == kept_host_port && !at_rest(c)) {
            r = error_say(err, EBUSY, "snapshot: the agent's connection is in use");
            break;
        }
        ret_list[n++] = stream_of(c);
    }
    virtio_mmio_end(mmio);
    *ret_n = n;
    return r;
}

int virtio_vsock_carry_on(struct virtio_mmio *mmio, const struct virtio_vsock_stream *stream,
                          int fd, struct error *err)
{
    struct vsock *vsock = virtio_mmio_device(mmio);
    AUTO_FD own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (own < 0 || fcntl(own, F_SETFL, O_NONBLOCK) < 0)
        return error_set(err, errno, "agent's connection");
    virtio_mmio_begin(mmio);
    struct vsock_connection *c =
        vsock_connection_find(vsock, stream->host_port, stream->guest_port)
            ? NULL
            : vsock_connection_new(vsock, VSOCK_ESTABLISHED, fd_steal(&own));
    if (c) {
        vsock_connection_name(c, stream->host_port, stream->guest_port);
        c->received = c->forwarded = stream->received;
        c->told = stream->told;
        c->sent = stream->sent;
        c->peer_alloc = stream->peer_alloc;
        c->peer_forwarded = stream->peer_forwarded;
        vsock_connection_watch(c);
    }
    virtio_mmio_end(mmio);
    return c ? 0 : error_set(err, ENOMEM, "agent's connection");
}

void virtio_vsock_end_stream(struct virtio_mmio *mmio, const struct virtio_vsock_stream *stream)
{
    struct vsock *vsock = virtio_mmio_device(mmio);
    struct vsock_reset reset = {.peer_cid = VSOCK_HOST_CID,
                                .host_port = stream->host_port,
                                .guest_port = stream->guest_port,
                                .type = VSOCK_TYPE_STREAM};

    bool live = virtio_mmio_begin(mmio);
    vsock_queue_reset(vsock, &reset);
    if (live)
        vsock_serve_rx(vsock);
    virtio_mmio_end(mmio);
}
