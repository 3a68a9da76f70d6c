/* vsock packets, host clients and host listeners in any order, on a device that is up. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/bytes.h"
#include "monitor/devices/vsock.h"
#include "tests/unit/virtio_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RX = 0, TX = 1, EVENT = 2, CLIENTS = 4, HEADER = 44, OP_BYTES = 16 };

struct harness {
    struct test_driver driver;
    int listener;         /* "<path>_7" */
    int clients[CLIENTS]; /* host ends of either kind; -1: none */
    uint32_t last_port;   /* host port that the device chose last */
    uint16_t next_tx;
};

static char directory[] = "/tmp/mayfly-fuzz-XXXXXX";
static char path[64];

static void clean_up(void)
{
    char listener[80];

    snprintf(listener, sizeof(listener), "%s_7", path);
    unlink(path);
    unlink(listener);
    rmdir(directory);
}

static struct sockaddr_un address_of(const char *at)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", at);
    return address;
}

static int listen_at(const char *at)
{
    struct sockaddr_un address = address_of(at);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    unlink(at);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
        abort();
    return fd;
}

static void start(struct harness *h)
{
    char listener[80];

    memset(h, 0, sizeof(*h));
    test_driver_init(&h->driver);
    struct virtio_vsock_config config = {
        .guest_cid = 3, .listen_fd = listen_at(path), .dial = test_dial, .opaque = path};
    snprintf(listener, sizeof(listener), "%s_7", path);
    h->listener = listen_at(listener);
    for (unsigned i = 0; i < CLIENTS; i++)
        h->clients[i] = -1;
    if (virtio_vsock_new(&config, h->driver.loop, &h->driver.guest.memory,
                         test_driver_irq(&h->driver), &h->driver.mmio, NULL) < 0)
        abort();
    test_driver_start(&h->driver, FEATURE_EVENT_IDX);
}

static void give_rx(struct harness *h, unsigned n)
{
    for (unsigned i = 0; i < n % 8; i++) {
        uint16_t at = h->driver.rings[RX].avail_idx % 64;

        test_ring_desc(&h->driver.rings[RX], at, GUEST_DATA + at * UINT64_C(512), 300, DESC_WRITE,
                       0);
        test_ring_offer(&h->driver.rings[RX], at);
    }
    test_driver_kick(&h->driver, RX);
}

static void take_rx(struct harness *h)
{
    uint32_t id, len;

    while (test_ring_used(&h->driver.rings[RX], &id, &len)) {
        if (len > 300)
            abort();
        h->last_port =
            load_le32(test_guest_at(&h->driver.guest, GUEST_DATA + (id % 64) * UINT64_C(512) + 16));
    }
    while (test_ring_used(&h->driver.rings[TX], NULL, NULL))
        ;
}

/* A packet with one field that the input chose, and the rest as it should be. */
static void send_packet(struct harness *h, const uint8_t *op)
{
    uint64_t at = GUEST_DATA + 0x10000 + h->next_tx % 32 * UINT64_C(0x8000);
    uint8_t *header = test_guest_at(&h->driver.guest, at);
    uint16_t desc = (uint16_t)(h->next_tx++ % 32 * 2);
    uint32_t data_bytes = load_le16(op + 6) % 30000;

    store_le64(header, 3);
    store_le64(header + 8, 2);
    store_le32(header + 16, op[2] % 4);
    store_le32(header + 20, op[3] & 1 ? h->last_port : 7);
    store_le32(header + 24, data_bytes);
    store_le16(header + 28, 1);
    store_le16(header + 30, op[1] % 9);
    store_le32(header + 32, op[4] & 3);
    store_le32(header + 36, load_le32(op + 8));
    store_le32(header + 40, op[5] % 8 ? 0 : op[5]);
    if (op[3] & 128)
        header[op[12] % HEADER] = op[13];
    test_ring_desc(&h->driver.rings[TX], desc, at, HEADER, data_bytes ? DESC_NEXT : 0,
                   (uint16_t)(desc + 1));
    test_ring_desc(&h->driver.rings[TX], (uint16_t)(desc + 1), at + 64, data_bytes, 0, 0);
    test_ring_offer(&h->driver.rings[TX], desc);
    test_driver_kick(&h->driver, TX);
}

static void drop_client(struct harness *h, unsigned i)
{
    if (h->clients[i] >= 0)
        close(h->clients[i]);
    h->clients[i] = -1;
}

static void new_client(struct harness *h, unsigned i, const uint8_t *op)
{
    struct sockaddr_un address = address_of(path);

    drop_client(h, i);
    if (op[3] & 1) {
        h->clients[i] = accept4(h->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        return;
    }
    h->clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connect(h->clients[i], (struct sockaddr *)&address, sizeof(address)) < 0)
        drop_client(h, i);
    else if (op[3] & 2)
        (void)!write(h->clients[i], "CONNECT 2\n", 10);
    else
        (void)!write(h->clients[i], op + 4, 12);
}

static void use_client(const struct harness *h, unsigned i, const uint8_t *op)
{
    static uint8_t block[8192];

    if (h->clients[i] < 0)
        return;
    if (op[3] & 1)
        (void)!send(h->clients[i], block, load_le16(op + 4) % sizeof(block), MSG_NOSIGNAL);
    else if (op[3] & 2)
        (void)!read(h->clients[i], block, sizeof(block));
    else
        shutdown(h->clients[i], op[4] % 3);
}

static void step(struct harness *h, const uint8_t *op)
{
    struct virtio_mmio_state state;

    switch (op[0] % 10) {
    case 0:
    case 1:
    case 2:
        send_packet(h, op);
        break;
    case 3:
        give_rx(h, op[1]);
        break;
    case 4:
        new_client(h, op[1] % CLIENTS, op);
        break;
    case 5:
    case 6:
        use_client(h, op[1] % CLIENTS, op);
        break;
    case 7:
        drop_client(h, op[1] % CLIENTS);
        break;
    case 8:
        if (op[1] == 0)
            virtio_vsock_transport_reset(h->driver.mmio);
        else if (op[1] == 1)
            test_driver_start(&h->driver, op[2] & 1 ? FEATURE_EVENT_IDX : 0);
        else if (op[1] == 2)
            virtio_mmio_get_state(h->driver.mmio, &state, NULL);
        break;
    default:
        break;
    }
    for (unsigned i = 0; i < 3; i++)
        loop_turn(h->driver.loop, 0);
    take_rx(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct harness h;

    if (!path[0]) {
        if (!mkdtemp(directory))
            abort();
        snprintf(path, sizeof(path), "%s/v", directory);
        atexit(clean_up);
    }
    start(&h);
    for (size_t i = 0; i + OP_BYTES <= size && i < 300 * OP_BYTES; i += OP_BYTES)
        step(&h, data + i);
    struct virtio_vsock_counters counters = virtio_vsock_counters(h.driver.mmio);
    if (counters.connections > 1023 || counters.buffered_bytes > 16 << 20)
        abort();
    for (unsigned i = 0; i < CLIENTS; i++)
        drop_client(&h, i);
    for (unsigned i = 0; i < 8; i++)
        loop_turn(h.driver.loop, 0);
    test_driver_done(&h.driver);
    close(h.listener);
    return 0;
}
