/*
 * virtio-vsock (virtio 1.2 §5.10): streams between the guest and stream sockets of the host.
 *
 * Host to guest: connect to the listening socket, send "CONNECT <port>\n"; once the guest has
 * accepted, "OK <host port>\n" comes back and the stream follows. If the guest refuses, or is not
 * ready, the socket is closed. Guest to host (CID 2), port P: the socket that dial(P) gives, or a
 * reset if it gives none. The device itself knows no path: it can live where there are none.
 */
#ifndef MAYFLY_MONITOR_DEVICES_VSOCK_H
#define MAYFLY_MONITOR_DEVICES_VSOCK_H

#include "monitor/devices/virtio_mmio.h"

struct virtio_vsock_config {
    uint32_t guest_cid; /* 3 or more */
    int listen_fd;      /* AF_UNIX SOCK_STREAM, listening; owned once virtio_vsock_new() succeeded;
                           -1: the host never connects. Made non-blocking. */
    /* A stream for a guest that connects to @port of the host: an owned, non-blocking, connected
     * socket, or -errno. NULL: the guest never connects. Loop thread. */
    int (*dial)(void *opaque, uint32_t port);
    void *opaque;
};

struct virtio_vsock_counters {
    uint32_t connections; /* now, half-open and closing ones included */
    uint64_t buffered_bytes;
    uint64_t packets_to_guest;
    uint64_t packets_from_guest;
    uint64_t credit_updates; /* packets to the guest that carried nothing else */
    uint64_t resets;         /* sent */
};

/* virtio_vsock_new - returns 0, -EINVAL, or -errno. Loop thread. */
int virtio_vsock_new(const struct virtio_vsock_config *config, struct loop *loop,
                     const struct guest_memory *memory, struct irq_line irq,
                     struct virtio_mmio **ret_mmio, struct error *err);

/*
 * virtio_vsock_transport_reset - after virtio_mmio_set_state() of a snapshot: tells the guest that
 * all its connections are gone (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET), and drops those that the host
 * has by now. @mmio must be a vsock device. Loop thread.
 */
void virtio_vsock_transport_reset(struct virtio_mmio *mmio);

/*
 * A stream at rest, for a snapshot: free-running byte counters of both directions (§5.10.6.3).
 */
struct virtio_vsock_stream {
    uint32_t host_port, guest_port;
    uint32_t received;       /* by us, and all passed on */
    uint32_t told;           /* the fwd_cnt that the guest knows */
    uint32_t sent;           /* by us */
    uint32_t peer_alloc;     /* the guest's buf_alloc */
    uint32_t peer_forwarded; /* the guest's fwd_cnt */
};

/*
 * virtio_vsock_get_streams - all that the guest knows of, at most @max. -EBUSY if there are more,
 * or if the one of @kept_host_port has bytes under way. Loop thread, vCPUs stopped.
 */
int virtio_vsock_get_streams(struct virtio_mmio *mmio, uint32_t kept_host_port,
                             struct virtio_vsock_stream *ret_list, size_t max, size_t *ret_n,
                             struct error *err);

/* virtio_vsock_carry_on - @stream goes on, with @fd (borrowed, duplicated) as its host side. */
int virtio_vsock_carry_on(struct virtio_mmio *mmio, const struct virtio_vsock_stream *stream,
                          int fd, struct error *err);

/* virtio_vsock_end_stream - tell the guest that @stream of its old life is gone. */
void virtio_vsock_end_stream(struct virtio_mmio *mmio, const struct virtio_vsock_stream *stream);

struct virtio_vsock_counters virtio_vsock_counters(struct virtio_mmio *mmio);

#endif
