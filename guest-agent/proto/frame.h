/*
 * Frames: how messages are told apart on the stream between host and agent.
 *
 * Used by both ends, and by nobody else: mayfly-agent (input from the host) and the host side
 * (input from a guest, hostile). A frame is its length as 4 bytes, little-endian, then that many
 * bytes of one protobuf message (agent.proto). Nothing here allocates, reads or writes.
 */
#ifndef MAYFLY_PROTO_FRAME_H
#define MAYFLY_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { FRAME_HEADER_BYTES = 4, FRAME_MAX_BYTES = 8 << 20 }; /* of the message, header excluded */

struct frame {
    const uint8_t *message; /* borrowed from the caller's buffer */
    size_t message_bytes;   /* 1 to FRAME_MAX_BYTES */
    size_t total_bytes;     /* header and message: what to drop from the buffer afterwards */
};

/*
 * frame_parse - look for one whole frame at the start of @data.
 * @ret_frame: total_bytes is set as soon as the header is there (else it is FRAME_HEADER_BYTES), so
 * that a reader knows how much to make room for; the message only when 1 is returned.
 * Returns 1 a frame, 0 more bytes are needed, -EMSGSIZE a length of 0 or over FRAME_MAX_BYTES: the
 * stream cannot be followed any further and must be closed.
 */
int frame_parse(const uint8_t *data, size_t len_bytes, struct frame *ret_frame);

/* frame_put_header - @message_bytes must be 1 to FRAME_MAX_BYTES (asserted: it is our own). */
void frame_put_header(uint8_t header[FRAME_HEADER_BYTES], size_t message_bytes);

#endif
