/* The host side of vsock streams, clients that come to the listener: see vsock_internal.h and
 * vsock.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "common/fd.h"
#include "monitor/devices/vsock_internal.h"

enum {
    ACCEPTS_A_TURN = 16,

    /* Ports of host clients: guests see them as those of their peers. */
    HOST_PORT_FIRST = 0x40000000,
    HOST_PORT_MASK = 0x3fffffff,
};

/* The next port that is free for connections to @guest_port. */
static uint32_t allocate_port(struct vsock *vsock, uint32_t guest_port)
{
    uint32_t port;

    do {
        port = HOST_PORT_FIRST | (vsock->next_host_port++ & HOST_PORT_MASK);
    } while (vsock_connection_find(vsock, port, guest_port));
    return port;
}

/* "CONNECT <port>" without its newline; digits only, no sign, no overflow. */
static bool parse_line(const char *line, size_t len, uint32_t *ret_port)
{
    static const char word[] = "CONNECT ";
    const size_t word_len = sizeof(word) - 1;
    uint64_t port = 0;

    if (len <= word_len || len > word_len + 10 || memcmp(line, word, word_len) != 0)
        return false;
    for (size_t i = word_len; i < len; i++) {
        if (line[i] < '0' || line[i] > '9')
            return false;
        port = port * 10 + (uint64_t)(line[i] - '0');
    }
    if (port > UINT32_MAX)
        return false;
    *ret_port = (uint32_t)port;
    return true;
}

/*
 * Takes what the client has sent, up to the end of its line and no further: what follows belongs
 * to the guest. Returns 1 with the port, 0 if the line is not complete, -errno if it never will be.
 */
static int take_line(struct vsock_connection *c, uint32_t *ret_port)
{
    char *at = c->line + c->line_bytes;
    ssize_t n = recv(c->fd, at, sizeof(c->line) - c->line_bytes, MSG_PEEK | MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    const char *end = memchr(at, '\n', (size_t)n);
    if (end)
        n = end + 1 - at;
    if (recv(c->fd, at, (size_t)n, MSG_DONTWAIT) != n)
        return -EIO;
    c->line_bytes += (uint32_t)n;
    if (!end)
        return c->line_bytes == sizeof(c->line) ? -EPROTO : 0;
    return parse_line(c->line, c->line_bytes - 1, ret_port) ? 1 : -EPROTO;
}

void vsock_backend_handshake(struct vsock_connection *c)
{
    struct vsock *vsock = c->vsock;
    uint32_t guest_port = 0;
    int r = take_line(c, &guest_port);

    if (r == 0)
        return; /* the deadline is on */
    /* A guest without a driver cannot answer: the client sees the end of file and tries again. */
    if (r < 0 || !virtio_mmio_live(vsock->mmio)) {
        vsock_connection_free(c);
        return;
    }
    vsock->n_handshakes--;
    c->state = VSOCK_REQUESTED;
    vsock_connection_name(c, allocate_port(vsock, guest_port), guest_port);
    c->send_request = true;
    vsock_connection_deadline(c, VSOCK_REQUEST_MS);
    vsock_connection_has_work(c);
    vsock_connection_watch(c);
    vsock_backend_resume(vsock);
}

bool vsock_backend_accepted(const struct vsock_connection *c)
{
    char line[VSOCK_LINE_MAX_BYTES];
    int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

    /* Nothing was sent on this socket yet, so it takes so little whole or not at all. */
    return send(c->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len;
}

static bool has_room(const struct vsock *vsock)
{
    return vsock->n_handshakes < VSOCK_MAX_HANDSHAKES &&
           vsock->n_connections < VSOCK_MAX_CONNECTIONS;
}

/* Clients beyond the bound wait in the listener's backlog, which the kernel bounds. */
static void set_listening(struct vsock *vsock, bool listening)
{
    if (vsock->listen_source && vsock->listening != listening &&
        loop_change(vsock->listen_source, listening ? EPOLLIN : 0) == 0)
        vsock->listening = listening;
}

void vsock_backend_resume(struct vsock *vsock)
{
    if (!vsock->listening && has_room(vsock))
        set_listening(vsock, true);
}

static void on_client(void *opaque, uint32_t events)
{
    struct vsock *vsock = opaque;

    (void)events;
    virtio_mmio_begin(vsock->mmio);
    for (unsigned i = 0; i < ACCEPTS_A_TURN && has_room(vsock); i++) {
        int fd = accept4(vsock->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
            /* Out of descriptors or memory: not again before the timer has run. */
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                set_listening(vsock, false);
                vsock_arm_timer(vsock);
            }
            break;
        }
        struct vsock_connection *c = vsock_connection_new(vsock, VSOCK_HANDSHAKE, fd);
        if (!c)
            break;
        vsock_connection_deadline(c, VSOCK_HANDSHAKE_MS);
        vsock_connection_watch(c);
        /* The line is usually there already. */
        vsock_backend_handshake(c);
    }
    if (!has_room(vsock))
        set_listening(vsock, false);
    if (virtio_mmio_live(vsock->mmio))
        vsock_serve_rx(vsock);
    virtio_mmio_end(vsock->mmio);
}

int vsock_backend_start(struct vsock *vsock)
{
    int r;

    /* Where counting starts is different in each process: after a restore a new connection never
     * has the name of one that the guest still remembers. */
    if (getrandom(&vsock->next_host_port, sizeof(vsock->next_host_port), 0) < 0)
        return -errno;
    if (vsock->listen_fd < 0)
        return 0;
    int flags = fcntl(vsock->listen_fd, F_GETFL);
    if (flags < 0 || fcntl(vsock->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    r = loop_add(vsock->loop, vsock->listen_fd, EPOLLIN, on_client, vsock, &vsock->listen_source);
    if (r == 0)
        vsock->listening = true;
    return r;
}
