/*
 * The three parts of the vsock device, to each other:
 *   vsock.c               queues and packets, the interrupt economy, events
 *   vsock_connection.c    one stream: states, credit, buffering, shutdown
 *   vsock_backend_unix.c  where streams come from and go to on the host
 *
 * Process: mayfly-vmm, loop thread with the device's mutex held. Trust: packets are hostile, and
 * so are host clients as far as resources go. Invariant: connections, bytes held for them and
 * replies that wait for room in the rx queue are all bounded by the constants below; when they
 * run out, the guest's tx queue is left alone or the connection is reset.
 */
#ifndef MAYFLY_MONITOR_DEVICES_VSOCK_INTERNAL_H
#define MAYFLY_MONITOR_DEVICES_VSOCK_INTERNAL_H

#include <stdbool.h>
#include <sys/queue.h>

#include "monitor/devices/virtio_device.h"
#include "monitor/devices/vsock.h"

enum {
    VSOCK_MAX_CONNECTIONS = 1023,
    VSOCK_MAX_HANDSHAKES = 64,      /* clients that have not sent their line */
    VSOCK_BUFFER_BYTES = 64 * 1024, /* of a connection: what the guest may send ahead */
    VSOCK_TOTAL_BUFFER_BYTES = 16 << 20,
    VSOCK_MAX_PEER_CREDIT = 1 << 30, /* we never have more than this under way to the guest */
    VSOCK_MAX_REPLIES = 256,         /* resets waiting, before the tx queue is left alone */
    VSOCK_RESETS = VSOCK_MAX_REPLIES + VSOCK_MAX_CONNECTIONS + 1,
    VSOCK_HASH_BUCKETS = 256,
    VSOCK_LINE_MAX_BYTES = 32, /* "CONNECT 4294967295\n" has 19 */

    VSOCK_HANDSHAKE_MS = 2000, /* a client's line */
    VSOCK_REQUEST_MS = 10000,  /* the guest's answer to a connection request */
    VSOCK_SHUTDOWN_MS = 10000, /* the guest's reset after our shutdown */
    VSOCK_LINGER_MS = 30000,   /* the host reads what the guest sent before it closed */
    VSOCK_STALL_MS = 1000,     /* without credit, before we ask for it */

    VSOCK_HOST_CID = 2,
    VSOCK_HEADER_BYTES = 44,
};

/* §5.10.6: packets. */
enum {
    VSOCK_TYPE_STREAM = 1,
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
    VSOCK_SHUTDOWN_RECEIVE = 1, /* flags: the sender receives no more, sends no more */
    VSOCK_SHUTDOWN_SEND = 2,
    VSOCK_SHUTDOWN_BOTH = 3,
};

struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len_bytes;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
};

/*
 *            line read      RESPONSE         host gone: SHUTDOWN sent
 *  HANDSHAKE ────▶ REQUESTED ────▶ ESTABLISHED ────▶ CLOSING ──RST──▶ freed
 *                  guest's REQUEST ────▶ ┘ │ guest gone, bytes left
 *                                          └────▶ LINGERING ──written──▶ freed
 */
enum vsock_state {
    VSOCK_HANDSHAKE, /* a host client has not finished its line; unknown to the guest */
    VSOCK_REQUESTED, /* the guest has not answered */
    VSOCK_ESTABLISHED,
    VSOCK_CLOSING,   /* no host side any more; the guest has to confirm */
    VSOCK_LINGERING, /* no guest side any more; the buffer goes out to the host */
};

struct vsock_connection {
    struct vsock *vsock; /* borrowed */
    enum vsock_state state;
    uint32_t host_port, guest_port;
    LIST_ENTRY(vsock_connection) all;    /* vsock->all */
    LIST_ENTRY(vsock_connection) bucket; /* vsock->buckets, while in_table */
    TAILQ_ENTRY(vsock_connection) ready; /* vsock->ready, while is_ready */
    bool in_table, is_ready;

    int fd;                     /* owned; -1 when the host side is gone */
    struct loop_source *source; /* NULL: not watched at all */
    uint32_t watched;           /* events, while source */

    /* What to tell the guest as soon as there is a buffer. */
    bool send_request, send_response, send_credit_request, send_credit_update;
    uint32_t shutdown_to_send; /* flags; 0: none */
    bool readable;             /* the host socket may have data */

    /* Guest to host. Free-running byte counters. */
    uint32_t received;  /* from the guest */
    uint32_t forwarded; /* to the host: our fwd_cnt */
    uint32_t told;      /* the fwd_cnt that the guest knows */
    uint8_t *buffer;    /* owned ring of VSOCK_BUFFER_BYTES, or NULL while empty */
    uint32_t buffer_start, buffer_used;

    /* Host to guest. */
    uint32_t sent;
    uint32_t peer_alloc, peer_forwarded; /* buf_alloc, fwd_cnt of the guest */

    bool host_ended;           /* the host sends no more */
    bool guest_ended;          /* the guest sends no more */
    bool guest_deaf;           /* the guest receives no more */
    uint64_t deadline_ns;      /* of the state; 0: none */
    uint64_t stalled_since_ns; /* data waits but no credit; 0: no */
    bool credit_asked;         /* once in each stall */

    char line[VSOCK_LINE_MAX_BYTES]; /* HANDSHAKE: what the client has sent of its line */
    uint32_t line_bytes;
};

LIST_HEAD(vsock_list, vsock_connection);
TAILQ_HEAD(vsock_ready_list, vsock_connection);

/* A reset that waits for a buffer: all that is left of a connection, or the reply to a stray. */
struct vsock_reset {
    uint64_t peer_cid; /* source of the packet: that of the host, or what a stray was sent to */
    uint32_t host_port, guest_port;
    uint16_t type;
};

struct vsock {
    struct virtio_mmio *mmio; /* borrowed: owns us */
    struct loop *loop;        /* borrowed */
    uint32_t guest_cid;
    int (*dial)(void *opaque, uint32_t port); /* or NULL; see vsock.h */
    void *dial_opaque;

    int listen_fd; /* owned, or -1 */
    struct loop_source *listen_source;
    bool listening;      /* the source is not muted */
    uint32_t generation; /* counts the driver's resets; loop thread only, no lock needed */
    uint32_t next_host_port;

    struct vsock_list all;
    struct vsock_list buckets[VSOCK_HASH_BUCKETS];
    struct vsock_ready_list ready;
    uint32_t n_connections, n_handshakes;
    uint64_t buffered_bytes; /* sum of allocated buffers */
    struct loop_source *timer;

    struct vsock_reset resets[VSOCK_RESETS]; /* circular */
    uint32_t resets_start, n_resets;

    /* tx chains that are done with but not yet given back: see vsock.c. */
    uint16_t spent[VIRTQUEUE_MAX_SIZE];
    uint32_t n_spent, spent_descriptors, spent_bytes;

    bool event_pending; /* a transport reset waits for an event buffer */
    struct virtio_vsock_counters counters;
    struct virtqueue_chain chain;             /* scratch */
    struct iovec windows[VIRTQUEUE_MAX_SIZE]; /* scratch */
};

/* ---- vsock.c ---- */

/* vsock_queue_reset - a reset for the guest; bounded, the last ones are forgotten when full. */
void vsock_queue_reset(struct vsock *vsock, const struct vsock_reset *reset);

/* vsock_serve_rx - fill rx buffers with what waits, fairly, and interrupt the guest once. */
void vsock_serve_rx(struct vsock *vsock);

/* vsock_arm_timer - deadlines are looked at from now on. */
void vsock_arm_timer(struct vsock *vsock);

/* ---- vsock_connection.c ---- */

/* vsock_connection_new - @fd becomes owned in any case. NULL if there are too many, or no memory.
 */
struct vsock_connection *vsock_connection_new(struct vsock *vsock, enum vsock_state state, int fd);
void vsock_connection_free(struct vsock_connection *c);
struct vsock_connection *vsock_connection_find(struct vsock *vsock, uint32_t host_port,
                                               uint32_t guest_port);

/* vsock_connection_name - give it its ports and put it where packets find it. */
void vsock_connection_name(struct vsock_connection *c, uint32_t host_port, uint32_t guest_port);

/* vsock_connection_deadline - 0: none. */
void vsock_connection_deadline(struct vsock_connection *c, uint64_t after_ms);

/* vsock_connection_has_work - put on the list that vsock_serve_rx() goes round. */
void vsock_connection_has_work(struct vsock_connection *c);

/* vsock_connection_watch - have the loop wait for exactly what this connection can use now. */
void vsock_connection_watch(struct vsock_connection *c);

/* vsock_connection_reset - tell the guest, if it knows of it, and free it. */
void vsock_connection_reset(struct vsock_connection *c);

/* vsock_connection_packet - a packet from the guest; may free @c. The chain is vsock->chain. */
void vsock_connection_packet(struct vsock_connection *c, const struct vsock_header *header);

enum vsock_fill {
    VSOCK_FILL_NOTHING, /* it has nothing to say: the buffer is still unused */
    VSOCK_FILL_PACKET,  /* *ret_header, and its data already behind the header in the buffer */
    VSOCK_FILL_GONE,    /* freed, the buffer unused */
};

/* vsock_connection_fill - what to send next, into vsock->chain. */
enum vsock_fill vsock_connection_fill(struct vsock_connection *c, struct vsock_header *ret_header);

/* vsock_connection_tick - deadlines; may free @c. Returns whether there is still one. */
bool vsock_connection_tick(struct vsock_connection *c, uint64_t now_ns);

/* ---- vsock_backend_unix.c ---- */

/* vsock_backend_start - listen for host clients. Returns 0 or -errno. */
int vsock_backend_start(struct vsock *vsock);

/* vsock_backend_resume - there is room for handshakes and connections again. */
void vsock_backend_resume(struct vsock *vsock);

/* vsock_backend_handshake - the client of @c has sent something; may free @c. */
void vsock_backend_handshake(struct vsock_connection *c);

/* vsock_backend_accepted - the guest took it: tell the client. Returns false if it is gone. */
bool vsock_backend_accepted(const struct vsock_connection *c);

#endif
