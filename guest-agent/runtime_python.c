/*
 * The pipe protocol with runtimes/python3.11/bootstrap.py (runtimes/README.md has its layout).
 * Process: mayfly-agent. Input: the answer pipe, on which the function can write what it likes. One
 * small invocation is one write and one read here. All state is static: there is one runtime.
 */
#include "guest-agent/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

enum { TAG_ANSWER, TAG_EVENT };
enum { ANSWER_HEADER = 8, EVENT_HEADER = 32, EVENT_PARTS = 7 };

/* The first byte of an answer's header. */
enum { SAYS_READY, SAYS_INIT_ERROR, SAYS_RESULT, SAYS_ERROR, SAYS_TOO_LARGE };

static struct {
    struct runtime_host host;
    int event_fd, answer_fd;           /* owned; our ends */
    int child_fds[2];                  /* owned until spawned; the runtime's ends */
    size_t answer_bytes;               /* of the answer that is being read, header included */
    struct iovec pending[EVENT_PARTS]; /* of the event that is being written */
    int n_pending;
    bool is_watching_event_fd;
    uint8_t header[EVENT_HEADER];
} python = {.event_fd = -1, .answer_fd = -1, .child_fds = {-1, -1}};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void python_close(void)
{
    close_fd(&python.event_fd);
    close_fd(&python.answer_fd);
    close_fd(&python.child_fds[0]);
    close_fd(&python.child_fds[1]);
    python.answer_bytes = 0;
    python.n_pending = 0;
    python.is_watching_event_fd = false;
}

static int python_open(const struct runtime_host *host, struct spawn_plan *plan,
                       struct failure *failure)
{
    static const char *const programs[] = {"/usr/bin/" AGENT_PYTHON_RUNTIME, NULL};
    /* Isolated, without site, without writing byte code: half the system calls of a plain start. */
    static char flags[] = "-ISB";
    static char script[] = AGENT_PYTHON_DIR "/bootstrap.py";
    static char *const arguments[] = {flags, script, NULL};
    struct epoll_event watch = {.events = EPOLLIN, .data.u32 = host->first_tag + TAG_ANSWER};
    int to_runtime[2];
    int from_runtime[2];

    python.host = *host;
    if (pipe2(to_runtime, O_CLOEXEC) < 0)
        return failure_set(failure, errno, "make a pipe");
    python.child_fds[0] = to_runtime[0];
    python.event_fd = to_runtime[1];
    if (pipe2(from_runtime, O_CLOEXEC) < 0)
        return failure_set(failure, errno, "make a pipe");
    python.answer_fd = from_runtime[0];
    python.child_fds[1] = from_runtime[1];
    /* An event may be larger than the pipe, and the runtime may never read it. */
    if (fcntl(python.event_fd, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, python.answer_fd, &watch) < 0)
        return failure_set(failure, errno, "watch the runtime's pipes");
    plan->programs = programs;
    plan->arguments = arguments;
    plan->files[3] = python.child_fds[0];
    plan->files[4] = python.child_fds[1];
    return 0;
}

static void python_spawned(void)
{
    close_fd(&python.child_fds[0]);
    close_fd(&python.child_fds[1]);
}

static void watch_event_fd(bool want)
{
    struct epoll_event watch = {.events = EPOLLOUT, .data.u32 = python.host.first_tag + TAG_EVENT};

    if (want == python.is_watching_event_fd)
        return;
    if (epoll_ctl(python.host.epoll_fd, want ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, python.event_fd,
                  &watch) == 0)
        python.is_watching_event_fd = want;
}

/* Write what is left of the event; the rest when there is room. 0, or -EPIPE if nobody reads. */
static int push_event(void)
{
    while (python.n_pending > 0) {
        struct iovec *first = &python.pending[EVENT_PARTS - python.n_pending];
        ssize_t sent = writev(python.event_fd, first, python.n_pending);

        if (sent < 0 && errno == EAGAIN) {
            watch_event_fd(true);
            return 0;
        }
        if (sent < 0)
            return -errno;
        while (python.n_pending > 0 && (size_t)sent >= first->iov_len) {
            sent -= (ssize_t)first->iov_len;
            first++;
            python.n_pending--;
        }
        if (python.n_pending > 0) {
            first->iov_base = (uint8_t *)first->iov_base + sent;
            first->iov_len -= (size_t)sent;
        }
    }
    watch_event_fd(false);
    return 0;
}

static void put_le(uint8_t *to, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static int python_invoke(const struct invocation *invocation, struct failure *failure)
{
    const struct iovec parts[EVENT_PARTS] = {
        {python.header, EVENT_HEADER},
        {(void *)(uintptr_t)invocation->request_id, strlen(invocation->request_id)},
        {(void *)(uintptr_t)invocation->arn, strlen(invocation->arn)},
        {(void *)(uintptr_t)invocation->trace_id, strlen(invocation->trace_id)},
        {(void *)(uintptr_t)invocation->client_context, strlen(invocation->client_context)},
        {(void *)(uintptr_t)invocation->identity, strlen(invocation->identity)},
        {(void *)(uintptr_t)invocation->event, invocation->event_bytes}};
    int result;

    put_le(python.header, invocation->deadline_unix_ms, 8);
    for (unsigned i = 1; i < EVENT_PARTS; i++)
        put_le(python.header + 4 + 4 * i, parts[i].iov_len, 4);
    memcpy(python.pending, parts, sizeof(parts));
    python.n_pending = EVENT_PARTS;
    result = push_event();
    /* A runtime that does not read has ended; that it did is reported when it is reaped. */
    return result < 0 && result != -EPIPE ? failure_set(failure, -result, "write the event") : 0;
}

static struct runtime_answer broken(void)
{
    return (struct runtime_answer){.word = RUNTIME_BROKEN};
}

/* The header is there: how long is the answer in all? 0 if it is none that the protocol knows. */
static size_t answer_length(const uint8_t *header, enum runtime_word *ret_word)
{
    static const struct {
        enum runtime_word word;
        size_t body_max;
    } says[] = {[SAYS_READY] = {RUNTIME_READY, 0},
                [SAYS_INIT_ERROR] = {RUNTIME_INIT_ERROR, AGENT_ERROR_MAX},
                [SAYS_RESULT] = {RUNTIME_RESULT, AGENT_RESPONSE_MAX},
                [SAYS_ERROR] = {RUNTIME_ERROR, AGENT_ERROR_MAX},
                [SAYS_TOO_LARGE] = {RUNTIME_TOO_LARGE, 0}};
    size_t body = (size_t)header[4] | (size_t)header[5] << 8 | (size_t)header[6] << 16 |
                  (size_t)header[7] << 24;

    if (header[0] > SAYS_TOO_LARGE || body > says[header[0]].body_max)
        return 0;
    *ret_word = says[header[0]].word;
    return ANSWER_HEADER + body;
}

/* One read, and the answer if it is whole. Anything after an answer is not of the protocol. */
static struct runtime_answer read_answer(void)
{
    struct runtime_answer answer = {.word = RUNTIME_NOTHING};
    uint8_t *bytes = python.host.body->bytes;
    size_t room = python.host.body->size_bytes - python.answer_bytes;
    size_t length;
    ssize_t got = read(python.answer_fd, bytes + python.answer_bytes, room);

    if (got <= 0) {
        /* Closed: it ended, or closed fd 4 and can never answer. The former shows when it is
         * reaped. */
        close_fd(&python.answer_fd);
        return answer;
    }
    python.answer_bytes += (size_t)got;
    if (python.answer_bytes < ANSWER_HEADER)
        return answer;
    length = answer_length(bytes, &answer.word);
    if (length == 0 || python.answer_bytes > length)
        return broken();
    if (python.answer_bytes < length) {
        reserve_ready(python.host.body, length);
        answer.word = RUNTIME_NOTHING;
        return answer;
    }
    answer.body = bytes + ANSWER_HEADER;
    answer.body_bytes = length - ANSWER_HEADER;
    python.answer_bytes = 0;
    return answer;
}

static struct runtime_answer python_on_ready(uint32_t tag, uint32_t events)
{
    struct runtime_answer nothing = {.word = RUNTIME_NOTHING};

    if (tag == TAG_ANSWER && python.answer_fd >= 0)
        return read_answer();
    if (tag == TAG_EVENT && python.event_fd >= 0 && push_event() < 0) {
        (void)events;
        watch_event_fd(false);
        python.n_pending = 0;
    }
    return nothing;
}

static void python_settle(void)
{
}

static struct runtime_answer python_last_words(void)
{
    struct runtime_answer answer = {.word = RUNTIME_NOTHING};

    while (python.answer_fd >= 0 && answer.word == RUNTIME_NOTHING) {
        struct pollfd ready = {.fd = python.answer_fd, .events = POLLIN};

        if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLIN))
            break;
        answer = read_answer();
    }
    return answer;
}

const struct runtime_ops runtime_python = {.open = python_open,
                                           .spawned = python_spawned,
                                           .invoke = python_invoke,
                                           .on_ready = python_on_ready,
                                           .settle = python_settle,
                                           .last_words = python_last_words,
                                           .close = python_close};
