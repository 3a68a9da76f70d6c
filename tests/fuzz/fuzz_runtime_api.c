/*
 * The whole Runtime API over real sockets. Input: pieces of "which connection, how many bytes,
 * bytes", so that requests are split and interleaved; an invocation is offered whenever none is
 * running.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest-agent/runtime_api.h"

enum { CONNECTIONS = 3, BODY_BYTES = AGENT_RESPONSE_MAX + RESERVE_PAGE };

RESERVE_STATIC(body, BODY_BYTES);

static const uint8_t event[] = "{}";
static const struct invocation invocation = {.request_id = "id",
                                             .arn = "arn",
                                             .trace_id = "",
                                             .client_context = "a\r\nb: c",
                                             .identity = "",
                                             .event = event,
                                             .event_bytes = sizeof(event) - 1};

static struct restoration restoration;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The session's part: whatever the answer is, its body must be there to be read. */
static void take(struct runtime_answer answer)
{
    volatile uint8_t sum = 0;
    struct failure failure;

    for (size_t i = 0; i < answer.body_bytes; i++)
        sum = (uint8_t)(sum + answer.body[i]);
    runtime_api.settle();
    /* Every guest is frozen and restored as soon as it is ready. */
    if (answer.word == RUNTIME_READY &&
        (runtime_api.freeze(&failure) == 0 || runtime_api.restore(&restoration, &failure) == 0))
        return;
    if (answer.word == RUNTIME_READY || answer.word == RUNTIME_AWAKE ||
        answer.word == RUNTIME_RESULT || answer.word == RUNTIME_ERROR ||
        answer.word == RUNTIME_TOO_LARGE)
        (void)runtime_api.invoke(&invocation, &failure);
}

static void run_ready(int epoll_fd)
{
    struct epoll_event events[16];
    int n = epoll_wait(epoll_fd, events, 16, 0);

    for (int i = 0; i < n; i++)
        take(runtime_api.on_ready(events[i].data.u32, events[i].events));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct runtime_host host = {epoll_create1(EPOLL_CLOEXEC), 0, &body};
    int peers[CONNECTIONS];

    runtime_api_reset(&host);
    for (int i = 0; i < CONNECTIONS; i++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
            abort();
        peers[i] = pair[0];
        runtime_api_adopt(pair[1]);
    }
    while (size >= 2) {
        int peer = peers[data[0] % CONNECTIONS];
        size_t len = data[1];
        char sink[4096];

        data += 2;
        size -= 2;
        len = len < size ? len : size;
        (void)!send(peer, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        data += len;
        size -= len;
        run_ready(host.epoll_fd);
        (void)!recv(peer, sink, sizeof(sink), MSG_DONTWAIT);
    }
    for (int i = 0; i < CONNECTIONS; i++)
        close(peers[i]);
    /* Every connection notices, at the latest with what it had left to read and to write. */
    for (int i = 0; i < 4; i++)
        run_ready(host.epoll_fd);
    close(host.epoll_fd);
    return 0;
}
