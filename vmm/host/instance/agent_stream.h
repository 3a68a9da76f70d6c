/*
 * Frames of agent.proto over a stream, from the host's side: every wait has a deadline and gives
 * way to an interrupt and to the end of the VM.
 *
 * Trust: the other end is a guest. At most one frame (8 MiB) is buffered, and what a message
 * unpacks to is bounded by its own size. Threads: one at a time per stream.
 */
#ifndef MAYFLY_HOST_INSTANCE_AGENT_STREAM_H
#define MAYFLY_HOST_INSTANCE_AGENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent.pb-c.h"
#include "common/error.h"

struct agent_stream {
    int fd;           /* owned */
    int end_fd;       /* borrowed; -1: none. Readable: the VM has ended */
    int interrupt_fd; /* borrowed; -1: none. Readable: give up */
    uint8_t *buffer;  /* owned; [begin, end) was received and not yet taken */
    size_t begin, end, size;
    /* Called once, by whoever waits then, when that time has come; 0: not at all. */
    uint64_t remind_ns; /* CLOCK_MONOTONIC */
    void (*remind)(void *opaque);
    void *remind_opaque;
};

void agent_stream_init(struct agent_stream *stream, int fd, int end_fd, int interrupt_fd);
void agent_stream_done(struct agent_stream *stream);

/*
 * agent_stream_send - send @message as one frame by @deadline_ns (CLOCK_MONOTONIC). What arrives
 * meanwhile is buffered, so that neither side can block the other.
 * Returns 0, -ETIMEDOUT, -EINTR (interrupt), -ECONNRESET (the agent closed, or the VM ended).
 */
int agent_stream_send(struct agent_stream *stream, const Mayfly__Agent__HostMessage *message,
                      uint64_t deadline_ns, struct error *err);

/* agent_stream_send_pair - two messages in one piece, so that the guest needs one read for both. */
int agent_stream_send_pair(struct agent_stream *stream, const Mayfly__Agent__HostMessage *first,
                           const Mayfly__Agent__HostMessage *second, uint64_t deadline_ns,
                           struct error *err);

/*
 * agent_stream_receive - the next message; *ret_message is owned (free with
 * mayfly__agent__agent_message__free_unpacked(…, NULL)).
 * Returns as agent_stream_send(), and -EPROTO for a frame that is too long or does not parse.
 */
int agent_stream_receive(struct agent_stream *stream, uint64_t deadline_ns,
                         Mayfly__Agent__AgentMessage **ret_message, struct error *err);

/* agent_stream_pending - is a whole frame buffered? Never reads. */
bool agent_stream_pending(const struct agent_stream *stream);

#endif
