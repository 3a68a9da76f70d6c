/* Frames to and from an agent: see agent_stream.h. Process: the host's. Input: hostile. */
#include "agent_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/fd.h"
#include "guest-agent/proto/frame.h"

enum {
    BUFFER_MIN_BYTES = 16 * 1024,
    BUFFER_MAX_BYTES = FRAME_HEADER_BYTES + FRAME_MAX_BYTES,
    /* What unpacking may allocate beyond the size of the message itself. */
    UNPACK_SLACK_BYTES = 64 * 1024,
    WAIT_MOST_MS = 3600000,
};

void agent_stream_init(struct agent_stream *stream, int fd, int end_fd, int interrupt_fd)
{
    *stream = (struct agent_stream){.fd = fd, .end_fd = end_fd, .interrupt_fd = interrupt_fd};
}

void agent_stream_done(struct agent_stream *stream)
{
    fd_close_at_exit(&stream->fd);
    stream->fd = -1;
    free(stream->buffer);
    stream->buffer = NULL;
    stream->begin = stream->end = stream->size = 0;
}

/* --- waiting -------------------------------------------------------------------------------------
 */

static uint64_t ms_until(uint64_t at_ns, uint64_t now_ns)
{
    return at_ns > now_ns ? (at_ns - now_ns) / 1000000u + 1 : 0;
}

/*
 * Waits until the stream is ready for @events. The stream comes before the VM's end, so that the
 * last words of a guest that powered off are read.
 */
static int wait_for(struct agent_stream *stream, short events, uint64_t deadline_ns,
                    short *ret_events, struct error *err)
{
    struct pollfd fds[] = {{.fd = stream->fd, .events = events},
                           {.fd = stream->end_fd, .events = POLLIN},
                           {.fd = stream->interrupt_fd, .events = POLLIN}};

    for (;;) {
        uint64_t now = clock_now_ns();

        if (stream->remind_ns > 0 && now >= stream->remind_ns) {
            stream->remind_ns = 0;
            stream->remind(stream->remind_opaque);
        }
        uint64_t left_ms = ms_until(deadline_ns, now);
        uint64_t wait_ms = stream->remind_ns > 0 ? ms_until(stream->remind_ns, now) : WAIT_MOST_MS;
        wait_ms = left_ms < wait_ms ? left_ms : wait_ms;
        int n = poll(fds, 3, wait_ms > WAIT_MOST_MS ? WAIT_MOST_MS : (int)wait_ms);

        if (n < 0 && errno != EINTR)
            return error_set(err, errno, "wait for the agent");
        if (n > 0 && fds[2].revents)
            return error_say(err, EINTR, "interrupted");
        if (left_ms == 0) /* also when there is more to read: a flood does not move a deadline */
            return error_say(err, ETIMEDOUT, "the guest's agent did not answer in time");
        if (n > 0 && fds[0].revents) {
            *ret_events = fds[0].revents;
            return 0;
        }
        if (n > 0 && fds[1].revents)
            return error_say(err, ECONNRESET, "the VM ended");
    }
}

/* --- receiving -----------------------------------------------------------------------------------
 */

/* Room for at least one more byte, doubling as bytes really arrive; -ENOBUFS at the limit. */
static int make_room(struct agent_stream *stream)
{
    if (stream->end < stream->size)
        return 0;
    if (stream->begin > 0) {
        memmove(stream->buffer, stream->buffer + stream->begin, stream->end - stream->begin);
        stream->end -= stream->begin;
        stream->begin = 0;
        return 0;
    }
    size_t larger = stream->size ? stream->size * 2 : BUFFER_MIN_BYTES;
    if (larger > BUFFER_MAX_BYTES)
        larger = BUFFER_MAX_BYTES;
    if (larger == stream->size)
        return -ENOBUFS;
    uint8_t *grown = realloc(stream->buffer, larger);
    if (!grown)
        return -ENOMEM;
    stream->buffer = grown;
    stream->size = larger;
    return 0;
}

/* Takes in what is there, without waiting. Returns 0, or -errno without words. */
static int fill(struct agent_stream *stream)
{
    int r = make_room(stream);

    if (r < 0)
        return r;
    ssize_t n =
        recv(stream->fd, stream->buffer + stream->end, stream->size - stream->end, MSG_DONTWAIT);
    if (n == 0)
        return -ECONNRESET;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    stream->end += (size_t)n;
    return 0;
}

/* Forgets the first @n bytes; a buffer grown for one large frame does not stay. */
static void drop(struct agent_stream *stream, size_t n)
{
    stream->begin += n;
    size_t left = stream->end - stream->begin;
    if (left > 0 && (stream->size <= BUFFER_MIN_BYTES || left > BUFFER_MIN_BYTES))
        return;
    if (left > 0) /* the beginning of a frame that need not come for as long as it waits */
        memmove(stream->buffer, stream->buffer + stream->begin, left);
    stream->begin = 0;
    stream->end = left;
    if (stream->size <= BUFFER_MIN_BYTES)
        return;
    size_t size = left > 0 ? BUFFER_MIN_BYTES : 0;
    uint8_t *smaller = size > 0 ? realloc(stream->buffer, size) : NULL;
    if (size > 0 && !smaller)
        return;
    if (size == 0)
        free(stream->buffer);
    stream->buffer = smaller;
    stream->size = size;
}

/* frame_parse() on what is buffered. */
static int next_frame(const struct agent_stream *stream, struct frame *ret_frame)
{
    if (stream->begin == stream->end)
        return 0;
    return frame_parse(stream->buffer + stream->begin, stream->end - stream->begin, ret_frame);
}

bool agent_stream_pending(const struct agent_stream *stream)
{
    struct frame frame;

    return next_frame(stream, &frame) == 1;
}

/*
 * An allocator with a budget: millions of unknown two-byte fields would else unpack into many times
 * their size of host memory.
 */
struct budget {
    size_t left_bytes;
};

static void *budget_alloc(void *opaque, size_t size)
{
    struct budget *budget = opaque;

    if (size > budget->left_bytes)
        return NULL;
    budget->left_bytes -= size;
    return malloc(size ? size : 1);
}

static void budget_free(void *opaque, void *pointer)
{
    (void)opaque;
    free(pointer);
}

/* A message from within the budget may be freed with the default allocator: both are malloc(). */
static Mayfly__Agent__AgentMessage *unpack(const struct frame *frame)
{
    struct budget budget = {frame->message_bytes + UNPACK_SLACK_BYTES};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};

    return mayfly__agent__agent_message__unpack(&allocator, frame->message_bytes, frame->message);
}

int agent_stream_receive(struct agent_stream *stream, uint64_t deadline_ns,
                         Mayfly__Agent__AgentMessage **ret_message, struct error *err)
{
    struct frame frame;
    short events;
    int r;

    for (;;) {
        r = next_frame(stream, &frame);
        if (r < 0)
            return error_say(err, EPROTO, "the guest's agent sent a frame of a forbidden length");
        if (r > 0)
            break;
        r = wait_for(stream, POLLIN, deadline_ns, &events, err);
        if (r < 0)
            return r;
        r = fill(stream);
        if (r == -ECONNRESET || r == -EPIPE)
            return error_say(err, ECONNRESET, "the guest's agent closed its connection");
        if (r < 0)
            return error_set(err, -r, "receive from the guest's agent");
    }
    *ret_message = unpack(&frame);
    drop(stream, frame.total_bytes);
    if (!*ret_message)
        return error_say(err, EPROTO, "the guest's agent sent what is no message");
    return 0;
}

/* --- sending -------------------------------------------------------------------------------------
 */

/* What the socket takes at once: mostly all, without a look at what else there is. */
static size_t send_at_once(const struct agent_stream *stream, const uint8_t *data, size_t len)
{
    ssize_t n = send(stream->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

    return n > 0 ? (size_t)n : 0; /* an error comes again where it is told of */
}

static int send_bytes(struct agent_stream *stream, const uint8_t *data, size_t len,
                      uint64_t deadline_ns, struct error *err)
{
    size_t sent = send_at_once(stream, data, len);

    data += sent;
    len -= sent;
    while (len > 0) {
        /* An agent that cannot get rid of what its function has printed does not read either. */
        bool room = stream->end - stream->begin < BUFFER_MAX_BYTES;
        short events = (short)(POLLOUT | (room ? POLLIN : 0));
        int r = wait_for(stream, events, deadline_ns, &events, err);

        if (r < 0)
            return r;
        if (events & POLLIN && (r = fill(stream)) < 0)
            return error_set(err, r == -EPIPE ? ECONNRESET : -r, "send to the guest's agent");
        if (!(events & (POLLOUT | POLLERR | POLLHUP)))
            continue;
        ssize_t n = send(stream->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return error_set(err, errno == EPIPE ? ECONNRESET : errno, "send to the guest's agent");
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Frames of one or two messages, sent as one. @second may be NULL. */
static int send_frames(struct agent_stream *stream, const Mayfly__Agent__HostMessage *first,
                       const Mayfly__Agent__HostMessage *second, uint64_t deadline_ns,
                       struct error *err)
{
    const Mayfly__Agent__HostMessage *messages[] = {first, second};
    size_t lens[2] = {0}, total = 0, at = 0;

    for (size_t i = 0; i < 2 && messages[i]; i++) {
        lens[i] = mayfly__agent__host_message__get_packed_size(messages[i]);
        if (lens[i] == 0 || lens[i] > FRAME_MAX_BYTES)
            return error_say(err, EMSGSIZE, "a message of %zu bytes is too large for the agent",
                             lens[i]);
        total += FRAME_HEADER_BYTES + lens[i];
    }
    AUTO_FREE uint8_t *data = malloc(total);
    if (!data)
        return error_set(err, ENOMEM, "send to the guest's agent");
    for (size_t i = 0; i < 2 && messages[i]; i++) {
        frame_put_header(data + at, lens[i]);
        mayfly__agent__host_message__pack(messages[i], data + at + FRAME_HEADER_BYTES);
        at += FRAME_HEADER_BYTES + lens[i];
    }
    return send_bytes(stream, data, total, deadline_ns, err);
}

int agent_stream_send(struct agent_stream *stream, const Mayfly__Agent__HostMessage *message,
                      uint64_t deadline_ns, struct error *err)
{
    return send_frames(stream, message, NULL, deadline_ns, err);
}

int agent_stream_send_pair(struct agent_stream *stream, const Mayfly__Agent__HostMessage *first,
                           const Mayfly__Agent__HostMessage *second, uint64_t deadline_ns,
                           struct error *err)
{
    return send_frames(stream, first, second, deadline_ns, err);
}
