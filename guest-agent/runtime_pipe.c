/*
 * The pipe protocol with the interpreters' bootstraps, runtimes/python3.11/bootstrap.py and
 * runtimes/nodejs18.x/bootstrap.js (runtimes/README.md has its layout).
 * Process: mayfly-agent. Input: the answer pipe, on which the function can write what it likes. One
 * small invocation is one write and one read here. All state is static: there is one runtime.
 */
#include "guest-agent/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest-agent/clock_entropy.h"

enum { TAG_ANSWER, TAG_EVENT };
enum {
    ANSWER_HEADER = 8,
    PART_MAX = 256 << 10, /* bytes; of a streamed response */
    MESSAGE_HEADER = 40,
    MESSAGE_PARTS = 6,
    MESSAGES = 2,                                 /* a restoration and an event */
    VECTORS_MAX = MESSAGES * (1 + MESSAGE_PARTS), /* headers count as well */
    SMALL_BYTES = 8 << 10,                        /* copied together, to be written as one */
    NODEJS_OUTSIDE_MIB = 24 /* of a function's memory that V8's old generation must not take */
};

/* The first byte of a message's header, and the second. */
enum { MESSAGE_EVENT, MESSAGE_LOAD, MESSAGE_FREEZE, MESSAGE_RESTORE, MESSAGE_DRAW };
enum { FLAG_ANSWER = 1 };

/* The first byte of an answer's header. */
enum {
    SAYS_READY,
    SAYS_INIT_ERROR,
    SAYS_RESULT,
    SAYS_ERROR,
    SAYS_TOO_LARGE,
    SAYS_PRELOADED,
    SAYS_AT_REST,
    SAYS_FREEZE_ERROR,
    SAYS_AWAKE,
    SAYS_RESTORE_ERROR,
    SAYS_LAST_ERROR,
    SAYS_WANTS_DRAW,
    SAYS_STREAM,
    SAYS_PART,
    SAYS_END
};

static struct {
    struct runtime_host host;
    int event_fd, answer_fd; /* owned; our ends */
    int child_fds[2];        /* owned until spawned; the runtime's ends */
    size_t answer_bytes;     /* of the answer that is being read, header included */
    size_t taken_bytes;      /* before it, of the answers that were handed out */
    char content_type[AGENT_CONTENT_TYPE_MAX + 1];
    struct iovec pending[VECTORS_MAX]; /* messages that are being written: [first, n) is left */
    int first, n;
    size_t pending_bytes; /* of all of them, as long as none is written */
    bool is_watching_event_fd;
    bool may_draw; /* a snapshot is coming: SAYS_WANTS_DRAW is in turn */
    uint8_t headers[MESSAGES][MESSAGE_HEADER];
    uint8_t small[SMALL_BYTES];
} pipes = {.event_fd = -1, .answer_fd = -1, .child_fds = {-1, -1}};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void pipe_close(void)
{
    agent_clock_back();
    pipes.may_draw = false;
    close_fd(&pipes.event_fd);
    close_fd(&pipes.answer_fd);
    close_fd(&pipes.child_fds[0]);
    close_fd(&pipes.child_fds[1]);
    pipes.answer_bytes = pipes.taken_bytes = 0;
    pipes.first = pipes.n = 0;
    pipes.is_watching_event_fd = false;
}

/* The pipes, for whichever interpreter @plan names. */
static int pipe_open(const struct runtime_host *host, bool is_preload, struct spawn_plan *plan,
                     struct failure *failure)
{
    struct epoll_event watch = {.events = EPOLLIN, .data.u32 = host->first_tag + TAG_ANSWER};
    int to_runtime[2];
    int from_runtime[2];

    pipes.host = *host;
    pipes.may_draw = is_preload;
    if (pipe2(to_runtime, O_CLOEXEC) < 0)
        return failure_set(failure, errno, "make a pipe");
    pipes.child_fds[0] = to_runtime[0];
    pipes.event_fd = to_runtime[1];
    if (pipe2(from_runtime, O_CLOEXEC) < 0)
        return failure_set(failure, errno, "make a pipe");
    pipes.answer_fd = from_runtime[0];
    pipes.child_fds[1] = from_runtime[1];
    /* An event may be larger than the pipe, and the runtime may never read it. */
    if (fcntl(pipes.event_fd, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, pipes.answer_fd, &watch) < 0)
        return failure_set(failure, errno, "watch the runtime's pipes");
    plan->files[3] = pipes.child_fds[0];
    plan->files[4] = pipes.child_fds[1];
    return 0;
}

static char preload_word[] = "preload";

static int python_open(const struct runtime_host *host, bool is_preload, struct spawn_plan *plan,
                       struct failure *failure)
{
    static const char *const programs[] = {"/usr/bin/" AGENT_PYTHON_RUNTIME, NULL};
    /* Isolated, without site, without writing byte code: half the system calls of a plain start. */
    static char flags[] = "-ISB";
    static char source[] = AGENT_PYTHON_DIR "/bootstrap.py";
    /* Compiling the source is a quarter of all page faults of a start. */
    static char compiled[] = AGENT_PYTHON_DIR "/__pycache__/bootstrap.cpython-311.pyc";
    static char *arguments[] = {flags, source, NULL, NULL};

    plan->programs = programs;
    arguments[1] = access(compiled, R_OK) == 0 ? compiled : source;
    arguments[2] = is_preload ? preload_word : NULL;
    plan->arguments = arguments;
    return pipe_open(host, is_preload, plan, failure);
}

/* V8 would settle for a quarter of the memory, and then fail rather than use the rest. */
static unsigned long long heap_mib(unsigned long long memory_mib)
{
    struct sysinfo info;

    if (memory_mib == 0 && sysinfo(&info) == 0) /* not known yet, but the guest was made for it */
        memory_mib = (unsigned long long)info.totalram * info.mem_unit >> 20;
    return memory_mib > 2 * NODEJS_OUTSIDE_MIB ? memory_mib - NODEJS_OUTSIDE_MIB
                                               : NODEJS_OUTSIDE_MIB;
}

static int nodejs_open(const struct runtime_host *host, bool is_preload, struct spawn_plan *plan,
                       struct failure *failure)
{
    static const char *const programs[] = {"/usr/bin/node", NULL};
    /* One processor has nothing to gain from helper threads. */
    static char threads[] = "--single-threaded";
    static char pool[] = "--v8-pool-size=0";
    /* The wall is the VM's: no system calls to protect code from its own process. */
    static char writable[] = "--no-write-protect-code-memory";
    static char heap[48];
    static char source[] = AGENT_NODEJS_DIR "/bootstrap.js";
    static char *arguments[] = {threads, pool, writable, heap, source, NULL, NULL};

    snprintf(heap, sizeof(heap), "--max-old-space-size=%llu", heap_mib(plan->memory_mib));
    plan->programs = programs;
    arguments[5] = is_preload ? preload_word : NULL;
    plan->arguments = arguments;
    return pipe_open(host, is_preload, plan, failure);
}

static void pipe_spawned(void)
{
    close_fd(&pipes.child_fds[0]);
    close_fd(&pipes.child_fds[1]);
}

static void watch_event_fd(bool want)
{
    struct epoll_event watch = {.events = EPOLLOUT, .data.u32 = pipes.host.first_tag + TAG_EVENT};

    if (want == pipes.is_watching_event_fd)
        return;
    if (epoll_ctl(pipes.host.epoll_fd, want ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, pipes.event_fd,
                  &watch) == 0)
        pipes.is_watching_event_fd = want;
}

/* Write what is left; the rest when there is room. 0, or -EPIPE if nobody reads. */
static int push_messages(void)
{
    while (pipes.first < pipes.n) {
        struct iovec *first = &pipes.pending[pipes.first];
        ssize_t sent = writev(pipes.event_fd, first, pipes.n - pipes.first);

        if (sent < 0 && errno == EAGAIN) {
            watch_event_fd(true);
            return 0;
        }
        if (sent < 0)
            return -errno;
        for (; pipes.first < pipes.n && (size_t)sent >= first->iov_len; first++, pipes.first++)
            sent -= (ssize_t)first->iov_len;
        if (pipes.first < pipes.n) {
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

/* Append a message to what is to be written. @parts stay borrowed until they are. */
static void add_message(uint8_t kind, uint8_t flags, uint64_t deadline_unix_ms,
                        const struct iovec parts[MESSAGE_PARTS])
{
    uint8_t *header = pipes.headers[pipes.n > 0 ? 1 : 0];

    put_le(header, (uint64_t)kind | (uint64_t)flags << 8, 8);
    put_le(header + 8, deadline_unix_ms, 8);
    pipes.pending[pipes.n++] = (struct iovec){header, MESSAGE_HEADER};
    pipes.pending_bytes += MESSAGE_HEADER;
    for (unsigned i = 0; i < MESSAGE_PARTS; i++) {
        put_le(header + 16 + 4 * i, parts[i].iov_len, 4);
        if (parts[i].iov_len > 0)
            pipes.pending[pipes.n++] = parts[i];
        pipes.pending_bytes += parts[i].iov_len;
    }
}

static void begin_messages(void)
{
    pipes.first = pipes.n = 0;
    pipes.pending_bytes = 0;
}

/* A copy here is cheaper than the kernel's walk along the vectors. */
static int send_messages(struct failure *failure)
{
    int result;

    if (pipes.pending_bytes <= SMALL_BYTES) {
        size_t used = 0;

        for (int i = 0; i < pipes.n; i++) {
            memcpy(pipes.small + used, pipes.pending[i].iov_base, pipes.pending[i].iov_len);
            used += pipes.pending[i].iov_len;
        }
        pipes.pending[0] = (struct iovec){pipes.small, used};
        pipes.n = 1;
    }
    result = push_messages();
    /* A runtime that does not read has ended; that it did is reported when it is reaped. */
    return result < 0 && result != -EPIPE ? failure_set(failure, -result, "write to the runtime")
                                          : 0;
}

static struct iovec bytes_part(const void *bytes, size_t len)
{
    return (struct iovec){(void *)(uintptr_t)bytes, len}; /* only read */
}

static struct iovec text_part(const char *text)
{
    return bytes_part(text, strlen(text));
}

static void add_restoration(const struct restoration *restoration, uint8_t flags)
{
    const struct iovec parts[MESSAGE_PARTS] = {
        bytes_part(restoration->changes.bytes, restoration->changes.used_bytes),
        bytes_part(restoration->seed, restoration->has_seed ? RUNTIME_SEED_BYTES : 0)};

    add_message(MESSAGE_RESTORE, flags, 0, parts);
}

static int pipe_invoke(const struct invocation *invocation, struct failure *failure)
{
    const struct iovec parts[MESSAGE_PARTS] = {
        text_part(invocation->request_id), text_part(invocation->arn),
        text_part(invocation->trace_id),   text_part(invocation->client_context),
        text_part(invocation->identity),   bytes_part(invocation->event, invocation->event_bytes)};

    begin_messages();
    if (invocation->restoration)
        add_restoration(invocation->restoration, 0);
    add_message(MESSAGE_EVENT, FLAG_ANSWER, invocation->deadline_unix_ms, parts);
    return send_messages(failure);
}

static int pipe_load(const struct environment *environment, struct failure *failure)
{
    const struct iovec parts[MESSAGE_PARTS] = {
        bytes_part(environment->bytes, environment->used_bytes)};

    begin_messages();
    add_message(MESSAGE_LOAD, FLAG_ANSWER, 0, parts);
    return send_messages(failure);
}

static int pipe_freeze(struct failure *failure)
{
    const struct iovec parts[MESSAGE_PARTS] = {{0}};

    pipes.may_draw = true;
    begin_messages();
    add_message(MESSAGE_FREEZE, FLAG_ANSWER, 0, parts);
    return send_messages(failure);
}

static int pipe_restore(const struct restoration *restoration, struct failure *failure)
{
    begin_messages();
    add_restoration(restoration, FLAG_ANSWER);
    return send_messages(failure);
}

static struct runtime_answer broken(void)
{
    return (struct runtime_answer){.word = RUNTIME_BROKEN};
}

/*
 * Generators that date their seeds throw one away that is of the future. So a runtime that has such
 * a generator and no other way to it draws from it now, in a year far ahead; and by its next use,
 * in whichever clone, the year is the true one.
 */
static struct runtime_answer begin_draw(void)
{
    const struct iovec parts[MESSAGE_PARTS] = {{0}};
    struct failure failure;

    if (!pipes.may_draw || pipes.first < pipes.n)
        return broken();
    pipes.may_draw = false;
    agent_clock_ahead();
    begin_messages();
    add_message(MESSAGE_DRAW, FLAG_ANSWER, 0, parts);
    if (send_messages(&failure) < 0)
        return broken();
    return (struct runtime_answer){.word = RUNTIME_NOTHING};
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
                [SAYS_TOO_LARGE] = {RUNTIME_TOO_LARGE, 0},
                [SAYS_PRELOADED] = {RUNTIME_PRELOADED, 0},
                [SAYS_AT_REST] = {RUNTIME_AT_REST, 0},
                [SAYS_FREEZE_ERROR] = {RUNTIME_FREEZE_ERROR, AGENT_ERROR_MAX},
                [SAYS_AWAKE] = {RUNTIME_AWAKE, 0},
                [SAYS_RESTORE_ERROR] = {RUNTIME_RESTORE_ERROR, AGENT_ERROR_MAX},
                [SAYS_LAST_ERROR] = {RUNTIME_LAST_ERROR, AGENT_ERROR_MAX},
                [SAYS_WANTS_DRAW] = {RUNTIME_NOTHING, 0},
                [SAYS_STREAM] = {RUNTIME_PART, AGENT_CONTENT_TYPE_MAX},
                [SAYS_PART] = {RUNTIME_PART, PART_MAX}};
    size_t body = (size_t)header[4] | (size_t)header[5] << 8 | (size_t)header[6] << 16 |
                  (size_t)header[7] << 24;

    if (header[0] >= SAYS_END || body > says[header[0]].body_max)
        return 0;
    *ret_word = says[header[0]].word;
    return ANSWER_HEADER + body;
}

/* An answer of @length bytes is there in whole. */
static struct runtime_answer take_answer(enum runtime_word word, size_t length)
{
    const uint8_t *bytes = pipes.host.body->bytes;
    struct runtime_answer answer = {.word = word};

    agent_clock_back();
    pipes.answer_bytes -= length;
    pipes.taken_bytes = pipes.answer_bytes > 0 ? length : 0;
    /* Pieces of a response may come close together; anything else is the last for now. */
    if (pipes.answer_bytes > 0 && word != RUNTIME_PART)
        return broken();
    if (bytes[0] == SAYS_WANTS_DRAW)
        return begin_draw();
    pipes.may_draw = false;
    answer.body = bytes + ANSWER_HEADER;
    answer.body_bytes = length - ANSWER_HEADER;
    if (bytes[0] != SAYS_STREAM)
        return answer;
    memcpy(pipes.content_type, answer.body, answer.body_bytes);
    pipes.content_type[answer.body_bytes] = '\0';
    answer.content_type = pipes.content_type;
    answer.body_bytes = 0;
    return answer;
}

/* The answer that begins what has been read, if it is whole. */
static struct runtime_answer next_answer(void)
{
    struct runtime_answer answer = {.word = RUNTIME_NOTHING};
    uint8_t *bytes = pipes.host.body->bytes;
    enum runtime_word word;
    size_t length;

    if (pipes.taken_bytes > 0) {
        memmove(bytes, bytes + pipes.taken_bytes, pipes.answer_bytes);
        pipes.taken_bytes = 0;
    }
    if (pipes.answer_bytes < ANSWER_HEADER)
        return answer;
    length = answer_length(bytes, &word);
    if (length == 0)
        return broken();
    if (pipes.answer_bytes >= length)
        return take_answer(word, length);
    reserve_ready(pipes.host.body, length);
    return answer;
}

/* One read, and the answer if it is whole. */
static struct runtime_answer read_answer(void)
{
    size_t room = pipes.host.body->size_bytes - pipes.answer_bytes;
    ssize_t got = read(pipes.answer_fd, pipes.host.body->bytes + pipes.answer_bytes, room);

    if (got <= 0) {
        /* Closed: it ended, or closed fd 4 and can never answer. The former shows when it is
         * reaped. */
        close_fd(&pipes.answer_fd);
        return (struct runtime_answer){.word = RUNTIME_NOTHING};
    }
    pipes.answer_bytes += (size_t)got;
    return next_answer();
}

static struct runtime_answer pipe_on_ready(uint32_t tag, uint32_t events)
{
    struct runtime_answer nothing = {.word = RUNTIME_NOTHING};

    if (tag == TAG_ANSWER && events == 0)
        return next_answer();
    if (tag == TAG_ANSWER && pipes.answer_fd >= 0)
        return pipes.taken_bytes > 0 ? broken() : read_answer();
    if (tag == TAG_EVENT && pipes.event_fd >= 0 && push_messages() < 0) {
        (void)events;
        watch_event_fd(false);
        pipes.first = pipes.n = 0;
    }
    return nothing;
}

static void pipe_settle(void)
{
}

static struct runtime_answer pipe_last_words(void)
{
    struct runtime_answer answer = next_answer();

    while (pipes.answer_fd >= 0 && answer.word == RUNTIME_NOTHING) {
        struct pollfd ready = {.fd = pipes.answer_fd, .events = POLLIN};

        if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLIN))
            break;
        answer = read_answer();
    }
    return answer;
}

#define PIPE_OPS                                                                                   \
    .spawned = pipe_spawned, .load = pipe_load, .invoke = pipe_invoke, .freeze = pipe_freeze,      \
    .restore = pipe_restore, .on_ready = pipe_on_ready, .settle = pipe_settle,                     \
    .last_words = pipe_last_words, .close = pipe_close

const struct runtime_ops runtime_python = {.open = python_open, PIPE_OPS};
const struct runtime_ops runtime_nodejs = {.open = nodejs_open, PIPE_OPS};
