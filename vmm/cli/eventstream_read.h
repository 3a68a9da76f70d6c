/*
 * Reading application/vnd.amazon.eventstream as it comes, for streamed responses. Process: the CLI.
 * Trust: the bytes are the daemon's and, in payloads, a function's: lengths are bounded and
 * checksums checked before anything is handed on. Source: as host/api/eventstream.h.
 */
#ifndef MAYFLY_CLI_EVENTSTREAM_READ_H
#define MAYFLY_CLI_EVENTSTREAM_READ_H

#include <stddef.h>
#include <stdint.h>

enum { EVENTSTREAM_FRAME_MAX = 2 << 20, EVENTSTREAM_TYPE_MAX = 64 };

struct eventstream_reader {
    /* A frame: its :event-type (or :exception-type) and payload, borrowed. Not 0: stop with it. */
    int (*on_event)(void *opaque, const char *type, const uint8_t *payload, size_t len_bytes);
    void *opaque;
    uint8_t *data; /* owned: eventstream_reader_done(); what has no end yet */
    size_t len, size;
};

/* eventstream_read - the next @len_bytes. 0, -EBADMSG for what is no such stream, -ENOMEM, or what
 * on_event() returned. */
int eventstream_read(struct eventstream_reader *reader, const void *data, size_t len_bytes);
void eventstream_reader_done(struct eventstream_reader *reader);

#endif
