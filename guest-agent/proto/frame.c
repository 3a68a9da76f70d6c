/* The frame codec of frame.h. Both ends; the input is hostile; no length is used before its check.
 */
#include "guest-agent/proto/frame.h"

#include <assert.h>
#include <errno.h>

int frame_parse(const uint8_t *data, size_t len_bytes, struct frame *ret_frame)
{
    uint32_t message_bytes;

    ret_frame->message = NULL;
    ret_frame->message_bytes = 0;
    ret_frame->total_bytes = FRAME_HEADER_BYTES;
    if (len_bytes < FRAME_HEADER_BYTES)
        return 0;
    message_bytes = (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                    (uint32_t)data[3] << 24;
    if (message_bytes == 0 || message_bytes > FRAME_MAX_BYTES)
        return -EMSGSIZE;
    ret_frame->total_bytes = FRAME_HEADER_BYTES + (size_t)message_bytes;
    if (len_bytes < ret_frame->total_bytes)
        return 0;
    ret_frame->message = data + FRAME_HEADER_BYTES;
    ret_frame->message_bytes = message_bytes;
    return 1;
}

void frame_put_header(uint8_t header[FRAME_HEADER_BYTES], size_t message_bytes)
{
    assert(message_bytes > 0 && message_bytes <= FRAME_MAX_BYTES);
    for (unsigned i = 0; i < FRAME_HEADER_BYTES; i++)
        header[i] = (uint8_t)(message_bytes >> (8 * i));
}
