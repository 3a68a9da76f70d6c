/*
 * virtio-vsock against a driver made of rings and clients made of real AF_UNIX sockets: the life of
 * a stream in both directions, credit, half-close, what hostile guests and clients do, and what a
 * message costs in packets and interrupts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/vsock.h"
#include "virtio_driver.h"

enum {
    GUEST_CID = 42,
    RX = 0,
    TX = 1,
    EVENT = 2,
    HEADER = 44,
    RX_BUFFER = 3776, /* Linux' */
    GUEST_PORT = 2000,
    HOST_PORT = 1024,
    OP_REQUEST = 1,
    OP_RESPONSE = 2,
    OP_RST = 3,
    OP_SHUTDOWN = 4,
    OP_RW = 5,
    OP_CREDIT_UPDATE = 6,
    OP_CREDIT_REQUEST = 7,
};

struct packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint8_t data[RX_BUFFER];
};

struct fixture {
    struct test_driver driver;
    char directory[32];
    char path[64];
    int host_listener; /* the test's, for HOST_PORT */
    uint16_t next_tx;  /* descriptor to use */
    uint32_t buf_alloc, fwd_cnt;
};

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1024), 0);
    return fd;
}

static uint64_t rx_buffer_at(uint16_t i)
{
    return GUEST_DATA + i * UINT64_C(4096);
}

static void offer_rx(struct fixture *f, uint16_t n)
{
    for (uint16_t i = 0; i < n; i++) {
        test_ring_desc(&f->driver.rings[RX], i, rx_buffer_at(i), RX_BUFFER, DESC_WRITE, 0);
        test_ring_offer(&f->driver.rings[RX], i);
    }
    test_driver_kick(&f->driver, RX);
    test_driver_settle(&f->driver);
}

static void begin_without_buffers(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    strcpy(f->directory, "/tmp/mayfly-vsock-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->path, sizeof(f->path), "%s/v", f->directory);
    f->buf_alloc = 256 * 1024;
    test_driver_init(&f->driver);
    struct virtio_vsock_config config = {.guest_cid = GUEST_CID,
                                         .listen_fd = listen_at(f->path),
                                         .dial = test_dial,
                                         .opaque = f->path};
    assert_int_equal(virtio_vsock_new(&config, f->driver.loop, &f->driver.guest.memory,
                                      test_driver_irq(&f->driver), &f->driver.mmio, NULL),
                     0);
    char host_path[80];
    snprintf(host_path, sizeof(host_path), "%s_%u", f->path, HOST_PORT);
    f->host_listener = listen_at(host_path);
    assert_int_equal(test_driver_start(&f->driver, FEATURE_EVENT_IDX), DRIVER_STATUS_OK);
    test_driver_settle(&f->driver);
}

static void begin(struct fixture *f)
{
    begin_without_buffers(f);
    offer_rx(f, 64);
}

static void end(struct fixture *f)
{
    char host_path[80];

    test_driver_done(&f->driver);
    close(f->host_listener);
    snprintf(host_path, sizeof(host_path), "%s_%u", f->path, HOST_PORT);
    unlink(host_path);
    unlink(f->path);
    rmdir(f->directory);
}

/* Takes the next packet that the guest got, and gives its buffer back. */
static bool receive(struct fixture *f, struct packet *p)
{
    struct test_ring *ring = &f->driver.rings[RX];
    uint32_t id, len;

    if (!test_ring_used(ring, &id, &len))
        return false;
    assert_true(len >= HEADER && len <= RX_BUFFER);
    const uint8_t *at = test_guest_at(&f->driver.guest, rx_buffer_at((uint16_t)id));
    *p = (struct packet){.src_cid = load_le64(at),
                         .dst_cid = load_le64(at + 8),
                         .src_port = load_le32(at + 16),
                         .dst_port = load_le32(at + 20),
                         .len = load_le32(at + 24),
                         .type = load_le16(at + 28),
                         .op = load_le16(at + 30),
                         .flags = load_le32(at + 32),
                         .buf_alloc = load_le32(at + 36),
                         .fwd_cnt = load_le32(at + 40)};
    assert_int_equal(p->len, len - HEADER);
    assert_int_equal(p->dst_cid, GUEST_CID);
    memcpy(p->data, at + HEADER, p->len);
    test_ring_offer(ring, (uint16_t)id);
    return true;
}

static void receive_op(struct fixture *f, struct packet *p, uint16_t op)
{
    test_driver_settle(&f->driver);
    assert_true(receive(f, p));
    assert_int_equal(p->op, op);
}

static void receive_nothing(struct fixture *f)
{
    struct packet p;

    test_driver_settle(&f->driver);
    assert_false(receive(f, &p));
}

/* Sends a packet as Linux does: header and data in a descriptor each. */
static void transmit_raw(struct fixture *f, const struct packet *p, uint32_t data_bytes)
{
    struct test_ring *ring = &f->driver.rings[TX];
    uint16_t first = f->next_tx;
    uint16_t second = (uint16_t)((first + 1) % ring->size);
    uint64_t at = GUEST_DATA + 0x100000 + first * UINT64_C(0x8000);
    uint8_t *header = test_guest_at(&f->driver.guest, at);

    store_le64(header, p->src_cid);
    store_le64(header + 8, p->dst_cid);
    store_le32(header + 16, p->src_port);
    store_le32(header + 20, p->dst_port);
    store_le32(header + 24, p->len);
    store_le16(header + 28, p->type);
    store_le16(header + 30, p->op);
    store_le32(header + 32, p->flags);
    store_le32(header + 36, p->buf_alloc);
    store_le32(header + 40, p->fwd_cnt);
    if (data_bytes > 0) {
        memcpy(header + 64, p->data, data_bytes < sizeof(p->data) ? data_bytes : sizeof(p->data));
        test_ring_desc(ring, first, at, HEADER, DESC_NEXT, second);
        test_ring_desc(ring, second, at + 64, data_bytes, 0, 0);
    } else {
        test_ring_desc(ring, first, at, HEADER, 0, 0);
    }
    f->next_tx = (uint16_t)((first + 2) % ring->size);
    test_ring_offer(ring, first);
    while (test_ring_used(ring, NULL, NULL))
        ;
}

static struct packet packet_of(struct fixture *f, uint32_t host_port, uint32_t guest_port,
                               uint16_t op)
{
    return (struct packet){.src_cid = GUEST_CID,
                           .dst_cid = 2,
                           .src_port = guest_port,
                           .dst_port = host_port,
                           .type = 1,
                           .op = op,
                           .buf_alloc = f->buf_alloc,
                           .fwd_cnt = f->fwd_cnt};
}

static void transmit_from(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint16_t op,
                          uint32_t flags)
{
    struct packet p = packet_of(f, host_port, guest_port, op);

    p.flags = flags;
    transmit_raw(f, &p, 0);
    test_driver_kick(&f->driver, TX);
    test_driver_settle(&f->driver);
}

static void transmit(struct fixture *f, uint32_t host_port, uint16_t op, uint32_t flags)
{
    transmit_from(f, host_port, GUEST_PORT, op, flags);
}

static void transmit_data(struct fixture *f, uint32_t host_port, const void *data, uint32_t len)
{
    struct packet p = packet_of(f, host_port, GUEST_PORT, OP_RW);

    p.len = len;
    memcpy(p.data, data, len < sizeof(p.data) ? len : sizeof(p.data));
    transmit_raw(f, &p, len);
    test_driver_kick(&f->driver, TX);
    test_driver_settle(&f->driver);
}

static uint32_t connections(struct fixture *f)
{
    return virtio_vsock_counters(f->driver.mmio).connections;
}

static void set_timeout(int fd)
{
    struct timeval limit = {.tv_sec = 5};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* The guest connects to HOST_PORT. Returns the host's end. */
static int guest_connect(struct fixture *f)
{
    struct packet p;

    transmit(f, HOST_PORT, OP_REQUEST, 0);
    receive_op(f, &p, OP_RESPONSE);
    assert_int_equal(p.src_port, HOST_PORT);
    assert_int_equal(p.dst_port, GUEST_PORT);
    assert_int_equal(p.src_cid, 2);
    assert_int_equal(p.buf_alloc, 65536);
    int fd = accept(f->host_listener, NULL, NULL);
    assert_true(fd >= 0);
    set_timeout(fd);
    return fd;
}

static int client_connect(struct fixture *f, const char *line)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(write(fd, line, strlen(line)), (ssize_t)strlen(line));
    set_timeout(fd);
    return fd;
}

static bool is_closed(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* ---- life of a stream ---- */

static void guest_to_host(void **state)
{
    struct fixture f;
    char text[32] = {0};
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    transmit_data(&f, HOST_PORT, "hello", 5);
    assert_int_equal(read(fd, text, sizeof(text)), 5);
    assert_string_equal(text, "hello");
    receive_nothing(&f); /* no credit update for so little */

    struct packet p;
    assert_int_equal(write(fd, "world!", 6), 6);
    receive_op(&f, &p, OP_RW);
    assert_int_equal(p.len, 6);
    assert_memory_equal(p.data, "world!", 6);
    assert_int_equal(p.fwd_cnt, 5); /* credit rides on data */
    close(fd);
    end(&f);
}

static void host_to_guest(void **state)
{
    struct fixture f;
    struct packet p;
    char text[64] = {0};
    (void)state;

    begin(&f);
    int fd = client_connect(&f, "CONNECT 2000\nearly");
    receive_op(&f, &p, OP_REQUEST);
    assert_int_equal(p.dst_port, 2000);
    uint32_t host_port = p.src_port;
    receive_nothing(&f); /* no data before the guest has accepted */
    transmit(&f, host_port, OP_RESPONSE, 0);
    receive_op(&f, &p, OP_RW);
    assert_memory_equal(p.data, "early", 5);

    char expected[32];
    int len = snprintf(expected, sizeof(expected), "OK %u\n", host_port);
    assert_int_equal(read(fd, text, sizeof(text)), len);
    assert_string_equal(text, expected);
    transmit_data(&f, host_port, "answer", 6);
    assert_int_equal(read(fd, text, sizeof(text)), 6);
    close(fd);
    receive_op(&f, &p, OP_SHUTDOWN);
    assert_int_equal(p.flags, 3);
    transmit(&f, host_port, OP_RST, 0);
    assert_int_equal(connections(&f), 0);
    end(&f);
}

static void guest_refuses(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = client_connect(&f, "CONNECT 2000\n");
    receive_op(&f, &p, OP_REQUEST);
    transmit(&f, p.src_port, OP_RST, 0);
    assert_true(is_closed(fd));
    assert_int_equal(connections(&f), 0);
    receive_nothing(&f);
    close(fd);
    end(&f);
}

static void nobody_listens_on_the_host(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    transmit(&f, 77, OP_REQUEST, 0);
    receive_op(&f, &p, OP_RST);
    assert_int_equal(p.src_port, 77);
    assert_int_equal(p.dst_port, GUEST_PORT);
    assert_int_equal(connections(&f), 0);
    end(&f);
}

static void guest_closes(void **state)
{
    struct fixture f;
    struct packet p;
    char text[8];
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    transmit_data(&f, HOST_PORT, "bye", 3);
    transmit(&f, HOST_PORT, OP_SHUTDOWN, 3);
    receive_op(&f, &p, OP_RST); /* the clean end is confirmed at once */
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    assert_int_equal(connections(&f), 0);
    close(fd);
    end(&f);
}

static void half_close_by_guest(void **state)
{
    struct fixture f;
    struct packet p;
    char text[8];
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    transmit_data(&f, HOST_PORT, "last", 4);
    transmit(&f, HOST_PORT, OP_SHUTDOWN, 2);
    assert_int_equal(read(fd, text, sizeof(text)), 4);
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    assert_int_equal(write(fd, "still", 5), 5); /* the other direction lives */
    receive_op(&f, &p, OP_RW);
    assert_int_equal(p.len, 5);
    /* Data after its own end is a lie. */
    transmit_data(&f, HOST_PORT, "more", 4);
    receive_op(&f, &p, OP_RST);
    close(fd);
    end(&f);
}

static void half_close_by_host(void **state)
{
    struct fixture f;
    struct packet p;
    char text[8];
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    assert_int_equal(write(fd, "request", 7), 7);
    shutdown(fd, SHUT_WR);
    receive_op(&f, &p, OP_RW);
    receive_op(&f, &p, OP_SHUTDOWN);
    assert_int_equal(p.flags, 2);
    transmit_data(&f, HOST_PORT, "reply", 5);
    assert_int_equal(read(fd, text, sizeof(text)), 5);
    close(fd); /* the rest of it: noticed without any traffic */
    receive_op(&f, &p, OP_SHUTDOWN);
    assert_int_equal(p.flags, 3);
    end(&f);
}

/* What the guest sent before it closed reaches a host that reads late. */
static void lingering(void **state)
{
    struct fixture f;
    struct packet p;
    static uint8_t block[RX_BUFFER];
    size_t sent = 0, got = 0;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    while (virtio_vsock_counters(f.driver.mmio).buffered_bytes == 0) {
        transmit_data(&f, HOST_PORT, block, 3000);
        sent += 3000;
        while (receive(&f, &p))
            assert_int_equal(p.op, OP_CREDIT_UPDATE);
    }
    transmit(&f, HOST_PORT, OP_SHUTDOWN, 3);
    receive_op(&f, &p, OP_RST);
    assert_int_equal(connections(&f), 1);
    for (;;) {
        ssize_t n = recv(fd, block, sizeof(block), MSG_DONTWAIT);

        test_driver_settle(&f.driver);
        if (n == 0)
            break;
        if (n > 0)
            got += (size_t)n;
    }
    assert_int_equal(got, sent);
    assert_int_equal(connections(&f), 0);
    assert_int_equal(virtio_vsock_counters(f.driver.mmio).buffered_bytes, 0);
    close(fd);
    end(&f);
}

/* ---- credit ---- */

static void guest_credit_is_respected(void **state)
{
    struct fixture f;
    struct packet p;
    static uint8_t block[100000];
    uint32_t got = 0;
    (void)state;

    begin(&f);
    f.buf_alloc = 10000;
    int fd = guest_connect(&f);
    assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    test_driver_settle(&f.driver);
    while (receive(&f, &p))
        got += p.len;
    assert_int_equal(got, 10000); /* not a byte more */
    receive_nothing(&f);
    for (unsigned i = 1; i <= 9; i++) {
        f.fwd_cnt = got;
        transmit(&f, HOST_PORT, OP_CREDIT_UPDATE, 0);
        while (receive(&f, &p))
            got += p.len;
        assert_int_equal(got, 10000 * (i + 1));
    }
    close(fd);
    end(&f);
}

static void credit_request_is_answered_once(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    p = packet_of(&f, HOST_PORT, GUEST_PORT, OP_CREDIT_REQUEST);
    for (unsigned i = 0; i < 20; i++)
        transmit_raw(&f, &p, 0);
    test_driver_kick(&f.driver, TX);
    receive_op(&f, &p, OP_CREDIT_UPDATE);
    assert_int_equal(p.buf_alloc, 65536);
    receive_nothing(&f); /* a flood of them costs one packet */
    close(fd);
    end(&f);
}

/* A guest that has stopped telling us of credit is asked, once. */
static void stalled_guest_is_asked(void **state)
{
    struct fixture f;
    struct packet p;
    static uint8_t block[20000];
    unsigned asked = 0;
    (void)state;

    begin(&f);
    f.buf_alloc = 1000;
    int fd = guest_connect(&f);
    assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    receive_op(&f, &p, OP_RW);
    for (uint64_t until = clock_now_ns() + UINT64_C(3000000000); clock_now_ns() < until;) {
        loop_turn(f.driver.loop, 100);
        if (receive(&f, &p)) {
            assert_int_equal(p.op, OP_CREDIT_REQUEST);
            asked++;
        }
    }
    assert_int_equal(asked, 1);
    close(fd);
    end(&f);
}

/* More than the 64 KiB that it was given: the stream ends, the bytes stay bounded. */
static void guest_overruns_credit(void **state)
{
    struct fixture f;
    struct packet p;
    static uint8_t block[RX_BUFFER];
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    for (unsigned i = 0; i < 200 && connections(&f) == 1; i++) {
        transmit_data(&f, HOST_PORT, block, 3000);
        assert_true(virtio_vsock_counters(f.driver.mmio).buffered_bytes <= 65536);
        while (receive(&f, &p) && p.op == OP_CREDIT_UPDATE)
            ;
    }
    assert_int_equal(p.op, OP_RST);
    assert_int_equal(connections(&f), 0);
    close(fd);
    end(&f);
}

static void guest_lies_about_credit(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    f.fwd_cnt = 1; /* nothing was sent to it yet */
    transmit(&f, HOST_PORT, OP_CREDIT_UPDATE, 0);
    receive_op(&f, &p, OP_RST);
    assert_int_equal(connections(&f), 0);
    close(fd);
    /* Endless room is no more than its own business. */
    f.fwd_cnt = 0;
    f.buf_alloc = UINT32_MAX;
    fd = guest_connect(&f);
    assert_int_equal(write(fd, "x", 1), 1);
    receive_op(&f, &p, OP_RW);
    close(fd);
    end(&f);
}

/* ---- hostile packets ---- */

static void strays(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    for (uint16_t op = 0; op < 10; op++) {
        if (op == OP_REQUEST)
            continue;
        transmit_from(&f, HOST_PORT, 99, op, 0);
        if (op == OP_RST) {
            receive_nothing(&f);
            continue;
        }
        receive_op(&f, &p, OP_RST);
        assert_int_equal(p.dst_port, 99);
    }
    /* Another type, another host, a forged source. */
    p = packet_of(&f, HOST_PORT, 98, OP_REQUEST);
    p.type = 2;
    transmit_raw(&f, &p, 0);
    p = packet_of(&f, HOST_PORT, 98, OP_REQUEST);
    p.dst_cid = 3;
    transmit_raw(&f, &p, 0);
    p = packet_of(&f, HOST_PORT, 98, OP_REQUEST);
    p.src_cid = GUEST_CID + 1;
    transmit_raw(&f, &p, 0);
    test_driver_kick(&f.driver, TX);
    receive_op(&f, &p, OP_RST);
    assert_int_equal(p.type, 2);
    receive_op(&f, &p, OP_RST);
    assert_int_equal(p.src_cid, 3);
    receive_nothing(&f);
    assert_int_equal(connections(&f), 0);
    end(&f);
}

static void length_beyond_the_packet(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    p = packet_of(&f, HOST_PORT, GUEST_PORT, OP_RW);
    p.len = 10;
    transmit_raw(&f, &p, 9);
    test_driver_kick(&f.driver, TX);
    receive_op(&f, &p, OP_RST);
    assert_true(is_closed(fd));
    close(fd);
    fd = guest_connect(&f);
    p = packet_of(&f, HOST_PORT, GUEST_PORT, OP_RW);
    p.len = UINT32_MAX;
    transmit_raw(&f, &p, 100);
    test_driver_kick(&f.driver, TX);
    receive_op(&f, &p, OP_RST);
    close(fd);
    assert_int_equal(connections(&f), 0);
    end(&f);
}

/* A second request for the same ports ends the first stream rather than two being one. */
static void request_twice(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    transmit(&f, HOST_PORT, OP_REQUEST, 0);
    receive_op(&f, &p, OP_RST);
    assert_true(is_closed(fd));
    assert_int_equal(connections(&f), 0);
    close(fd);
    end(&f);
}

/* security.md figure 6: 10,000 requests, never reading: connections, replies and bytes bounded. */
static void flood_of_requests(void **state)
{
    struct fixture f;
    uint32_t most = 0;
    (void)state;

    begin_without_buffers(&f);
    for (uint32_t i = 0; i < 10000; i++) {
        struct packet p = packet_of(&f, i % 2 ? HOST_PORT : 5000, 10000 + i, OP_REQUEST);
        struct test_ring *ring = &f.driver.rings[TX];

        transmit_raw(&f, &p, 0);
        test_driver_kick(&f.driver, TX);
        test_driver_settle(&f.driver);
        if (connections(&f) > most)
            most = connections(&f);
        /* The device stops listening in the end: then the driver has no descriptors left. */
        if ((uint16_t)(ring->avail_idx - ring->used_seen) >= ring->size)
            break;
    }
    assert_true(most <= 1023);
    assert_int_equal(virtio_vsock_counters(f.driver.mmio).buffered_bytes, 0);
    assert_int_equal(test_read(f.driver.mmio, 0x70), DRIVER_STATUS_OK);
    end(&f);
}

/* With its replies read, a guest gets 1,023 connections and not one more, those that the host has
 * closed and the guest not yet confirmed included. */
static void connections_are_bounded(void **state)
{
    struct fixture f;
    struct packet p;
    unsigned accepted = 0, refused = 0;
    (void)state;

    begin(&f);
    fcntl(f.host_listener, F_SETFL, O_NONBLOCK);
    for (uint32_t i = 0; i < 1100; i++) {
        transmit_from(&f, HOST_PORT, 10000 + i, OP_REQUEST, 0);
        int fd = accept(f.host_listener, NULL, NULL);

        if (fd >= 0)
            close(fd);
        test_driver_settle(&f.driver);
        while (receive(&f, &p)) {
            accepted += p.op == OP_RESPONSE;
            refused += p.op == OP_RST;
        }
    }
    assert_int_equal(accepted, 1023);
    assert_int_equal(refused, 77);
    assert_int_equal(connections(&f), 1023);
    end(&f);
}

/* Two streams with data without end take turns. */
static void streams_take_turns(void **state)
{
    struct fixture f;
    static uint8_t block[100000];
    struct packet p;
    int fds[2];
    unsigned turns[2] = {0, 0};
    (void)state;

    begin_without_buffers(&f);
    offer_rx(&f, 2);
    for (uint32_t i = 0; i < 2; i++) {
        transmit_from(&f, HOST_PORT, 3000 + i, OP_REQUEST, 0);
        receive_op(&f, &p, OP_RESPONSE);
        test_driver_kick(&f.driver, RX);
        fds[i] = accept(f.host_listener, NULL, NULL);
    }
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(write(fds[i], block, sizeof(block)), sizeof(block));
    for (unsigned i = 0; i < 20; i++) {
        test_driver_kick(&f.driver, RX);
        test_driver_settle(&f.driver);
        while (receive(&f, &p))
            turns[p.dst_port - 3000]++;
    }
    assert_true(turns[0] >= 15 && turns[1] >= 15);
    assert_in_range(turns[0], turns[1] - 2, turns[1] + 2);
    close(fds[0]);
    close(fds[1]);
    end(&f);
}

/* Out of rx buffers, a readable or hung-up socket must not keep the loop busy. */
static void no_buffers_no_spinning(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin_without_buffers(&f);
    offer_rx(&f, 1);
    transmit(&f, HOST_PORT, OP_REQUEST, 0);
    assert_true(test_ring_used(&f.driver.rings[RX], NULL, NULL)); /* not given back */
    int fd = accept(f.host_listener, NULL, NULL);
    assert_int_equal(write(fd, "data", 4), 4);
    close(fd);
    test_driver_settle(&f.driver); /* would not return */
    offer_rx(&f, 3);
    receive_op(&f, &p, OP_RW);
    receive_op(&f, &p, OP_SHUTDOWN);
    end(&f);
}

/* ---- hostile clients ---- */

static void bad_lines(void **state)
{
    static const char *const lines[] = {
        "CONNECT\n",
        "CONNECT \n",
        "connect 5\n",
        "CONNECT 5 \n",
        "CONNECT -5\n",
        "CONNECT 4294967296\n",
        "CONNECT 0x5\n",
        "GET / HTTP/1.1\n",
        "\n",
        "CONNECT 99999999999\n",
        "CONNECT 5\r\n",
        "CONNECT 000000000000000000000000000000000000005\n",
    };
    struct fixture f;
    (void)state;

    begin(&f);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        int fd = client_connect(&f, lines[i]);

        test_driver_settle(&f.driver);
        assert_true(is_closed(fd));
        close(fd);
    }
    receive_nothing(&f);
    assert_int_equal(connections(&f), 0);
    end(&f);
}

/* A line in pieces is a line; one that never ends costs a place for two seconds. */
static void slow_lines(void **state)
{
    struct fixture f;
    struct packet p;
    (void)state;

    begin(&f);
    int fd = client_connect(&f, "CONN");
    test_driver_settle(&f.driver);
    assert_int_equal(write(fd, "ECT 2", 5), 5);
    test_driver_settle(&f.driver);
    assert_int_equal(write(fd, "000\nrest", 8), 8);
    receive_op(&f, &p, OP_REQUEST);
    close(fd);
    transmit(&f, p.src_port, OP_RST, 0);

    fd = client_connect(&f, "CONNECT 2");
    test_driver_settle(&f.driver);
    assert_int_equal(connections(&f), 1);
    for (uint64_t until = clock_now_ns() + UINT64_C(4000000000);
         connections(&f) > 0 && clock_now_ns() < until;)
        loop_turn(f.driver.loop, 100);
    assert_int_equal(connections(&f), 0);
    assert_true(is_closed(fd));
    close(fd);
    end(&f);
}

/* Half-open clients are bounded; others wait in the backlog and get their turn. */
static void many_half_open_clients(void **state)
{
    struct fixture f;
    struct packet p;
    int fds[100];
    (void)state;

    begin(&f);
    for (unsigned i = 0; i < 100; i++)
        fds[i] = client_connect(&f, "CONNECT 20");
    test_driver_settle(&f.driver);
    assert_int_equal(connections(&f), 64);
    int late = client_connect(&f, "CONNECT 2000\n");
    receive_nothing(&f);
    for (unsigned i = 0; i < 100; i++)
        close(fds[i]);
    receive_op(&f, &p, OP_REQUEST);
    assert_int_equal(connections(&f), 1);
    close(late);
    end(&f);
}

/* ---- economy ---- */

/* A request and its reply on an open stream: one packet and one interrupt to the guest, no kick
 * for its rx buffers, no credit packet, no interrupt for what it sent. */
static void cost_of_an_invocation(void **state)
{
    struct fixture f;
    struct packet p;
    char reply[256] = {0};
    enum { ROUNDS = 15 };
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    struct virtio_vsock_counters before = virtio_vsock_counters(f.driver.mmio);
    unsigned interrupts = f.driver.interrupts;
    uint16_t rx_event = test_ring_avail_event(&f.driver.rings[RX]);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t request[200] = {0};

        assert_int_equal(write(fd, request, sizeof(request)), sizeof(request));
        receive_op(&f, &p, OP_RW);
        f.fwd_cnt += p.len;
        test_write(f.driver.mmio, 0x64, 3);
        test_ring_set_used_event(&f.driver.rings[RX], f.driver.rings[RX].used_seen);
        test_ring_set_used_event(&f.driver.rings[TX], f.driver.rings[TX].used_seen);
        transmit_data(&f, HOST_PORT, reply, sizeof(reply));
        assert_int_equal(read(fd, reply, sizeof(reply)), sizeof(reply));
    }
    struct virtio_vsock_counters after = virtio_vsock_counters(f.driver.mmio);
    assert_int_equal(after.packets_to_guest - before.packets_to_guest, ROUNDS);
    assert_int_equal(after.credit_updates, 0);
    assert_int_equal(test_ring_avail_event(&f.driver.rings[RX]), rx_event);
    /* One each, and one for all the sent packets together. */
    assert_in_range(f.driver.interrupts - interrupts, ROUNDS - 1, ROUNDS + 1);
    close(fd);
    end(&f);
}

/* Large replies: the guest is never left without credit, and 6 MiB arrive whole. */
static void bulk_from_guest(void **state)
{
    struct fixture f;
    struct packet p;
    static uint8_t block[3000], got[65536];
    uint32_t sent = 0, told = 0, received = 0, seed = 1;
    const uint32_t total = 3000 * 2097;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    while (received < total) {
        while (sent < total && 65536 - (sent - told) >= sizeof(block)) {
            for (size_t i = 0; i < sizeof(block); i++)
                block[i] = (uint8_t)((sent + i) * 31 >> 8);
            transmit_data(&f, HOST_PORT, block, sizeof(block));
            sent += (uint32_t)sizeof(block);
        }
        size_t chunk = 1 + (seed = seed * 1103515245 + 12345) % sizeof(got);
        ssize_t n = recv(fd, got, chunk, MSG_DONTWAIT);
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(got[i], (uint8_t)((received + (uint32_t)i) * 31 >> 8));
        received += n > 0 ? (uint32_t)n : 0;
        test_driver_settle(&f.driver);
        while (receive(&f, &p)) {
            assert_int_equal(p.op, OP_CREDIT_UPDATE);
            told = p.fwd_cnt;
        }
    }
    assert_true(virtio_vsock_counters(f.driver.mmio).credit_updates <= total / 16384 + 1);
    close(fd);
    end(&f);
}

/* ---- snapshot ---- */

static void transport_reset(void **state)
{
    struct fixture f;
    struct virtio_mmio_state saved;
    uint32_t len;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    assert_int_equal(virtio_mmio_get_state(f.driver.mmio, &saved, NULL), 0);
    /* The same driver goes on with another device, as after a restore. */
    virtio_mmio_free(f.driver.mmio);
    struct virtio_vsock_config config = {
        .guest_cid = GUEST_CID, .listen_fd = -1, .dial = test_dial, .opaque = f.path};
    assert_int_equal(virtio_vsock_new(&config, f.driver.loop, &f.driver.guest.memory,
                                      test_driver_irq(&f.driver), &f.driver.mmio, NULL),
                     0);
    assert_int_equal(virtio_mmio_set_state(f.driver.mmio, &saved, NULL), 0);
    virtio_vsock_transport_reset(f.driver.mmio);
    test_driver_settle(&f.driver);
    assert_true(is_closed(fd));

    /* No event buffer was there: it comes as soon as one is. */
    struct test_ring *ring = &f.driver.rings[EVENT];
    test_ring_desc(ring, 0, GUEST_DATA + 0xf0000, 4, DESC_WRITE, 0);
    memset(test_guest_at(&f.driver.guest, GUEST_DATA + 0xf0000), 0xff, 4);
    test_ring_offer(ring, 0);
    test_driver_kick(&f.driver, EVENT);
    test_driver_settle(&f.driver);
    assert_true(test_ring_used(ring, NULL, &len));
    assert_int_equal(len, 4);
    assert_int_equal(load_le32(test_guest_at(&f.driver.guest, GUEST_DATA + 0xf0000)), 0);
    /* New streams work at once. */
    close(fd);
    fd = guest_connect(&f);
    close(fd);
    end(&f);
}

/* Chains held back are given back before a snapshot, and forgotten at a reset. */
static void spent_chains(void **state)
{
    struct fixture f;
    struct virtio_mmio_state saved;
    (void)state;

    begin(&f);
    int fd = guest_connect(&f);
    transmit_data(&f, HOST_PORT, "x", 1);
    assert_false(test_ring_used(&f.driver.rings[TX], NULL, NULL));
    assert_int_equal(virtio_mmio_get_state(f.driver.mmio, &saved, NULL), 0);
    assert_true(test_ring_used(&f.driver.rings[TX], NULL, NULL));
    assert_true(test_ring_used(&f.driver.rings[TX], NULL, NULL));
    assert_false(test_ring_used(&f.driver.rings[TX], NULL, NULL));
    transmit_data(&f, HOST_PORT, "y", 1);
    /* Reset and start again before the loop has looked: nothing of the old life is pushed. */
    assert_int_equal(test_driver_start(&f.driver, 0), DRIVER_STATUS_OK);
    f.next_tx = 0;
    test_driver_settle(&f.driver);
    assert_false(test_ring_used(&f.driver.rings[TX], NULL, NULL));
    assert_int_equal(connections(&f), 0);
    close(fd);
    offer_rx(&f, 64);
    close(guest_connect(&f));
    end(&f);
}

static void config_is_checked(void **state)
{
    struct test_driver driver;
    (void)state;

    test_driver_init(&driver);
    struct virtio_vsock_config config = {.guest_cid = 2, .listen_fd = -1};
    struct irq_line irq = test_driver_irq(&driver);
    assert_int_equal(
        virtio_vsock_new(&config, driver.loop, &driver.guest.memory, irq, &driver.mmio, NULL),
        -EINVAL);
    config.guest_cid = UINT32_MAX;
    assert_int_equal(
        virtio_vsock_new(&config, driver.loop, &driver.guest.memory, irq, &driver.mmio, NULL),
        -EINVAL);
    test_driver_done(&driver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_to_host),
        cmocka_unit_test(host_to_guest),
        cmocka_unit_test(guest_refuses),
        cmocka_unit_test(nobody_listens_on_the_host),
        cmocka_unit_test(guest_closes),
        cmocka_unit_test(half_close_by_guest),
        cmocka_unit_test(half_close_by_host),
        cmocka_unit_test(lingering),
        cmocka_unit_test(guest_credit_is_respected),
        cmocka_unit_test(credit_request_is_answered_once),
        cmocka_unit_test(stalled_guest_is_asked),
        cmocka_unit_test(guest_overruns_credit),
        cmocka_unit_test(guest_lies_about_credit),
        cmocka_unit_test(strays),
        cmocka_unit_test(length_beyond_the_packet),
        cmocka_unit_test(request_twice),
        cmocka_unit_test(flood_of_requests),
        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(streams_take_turns),
        cmocka_unit_test(no_buffers_no_spinning),
        cmocka_unit_test(bad_lines),
        cmocka_unit_test(slow_lines),
        cmocka_unit_test(many_half_open_clients),
        cmocka_unit_test(cost_of_an_invocation),
        cmocka_unit_test(bulk_from_guest),
        cmocka_unit_test(transport_reset),
        cmocka_unit_test(spent_chains),
        cmocka_unit_test(config_is_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
