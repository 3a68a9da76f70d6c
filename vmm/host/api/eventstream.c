/* Event stream frames: see eventstream.h. */
#include "eventstream.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    PRELUDE_BYTES = 12,
    CRC_BYTES = 4,
    VALUE_IS_STRING = 7,
    HEADER_OVERHEAD = 4, /* length of the name, kind, length of the value */
    HEADER_TEXT_MAX = 255,
};

static uint8_t *put_be32(uint8_t *to, uint32_t value)
{
    value = htobe32(value);
    memcpy(to, &value, sizeof(value));
    return to + sizeof(value);
}

static uint8_t *put_header(uint8_t *to, const char *name, const char *value)
{
    size_t name_len = strlen(name), value_len = strlen(value);

    *to++ = (uint8_t)name_len;
    memcpy(to, name, name_len);
    to += name_len;
    *to++ = VALUE_IS_STRING;
    *to++ = 0;
    *to++ = (uint8_t)value_len;
    memcpy(to, value, value_len);
    return to + value_len;
}

int eventstream_frame(const char *type, const char *content_type, const void *payload,
                      size_t len_bytes, uint8_t **ret_frame, size_t *ret_len_bytes)
{
    const char *const headers[][2] = {
        {":message-type", "event"}, {":event-type", type}, {":content-type", content_type}};
    const size_t n_headers = sizeof(headers) / sizeof(headers[0]);
    size_t headers_len = 0;

    for (size_t i = 0; i < n_headers; i++) {
        if (strlen(headers[i][1]) > HEADER_TEXT_MAX)
            return -EMSGSIZE;
        headers_len += HEADER_OVERHEAD + strlen(headers[i][0]) + strlen(headers[i][1]);
    }
    if (len_bytes > EVENTSTREAM_PAYLOAD_MAX)
        return -EMSGSIZE;
    size_t total = PRELUDE_BYTES + headers_len + len_bytes + CRC_BYTES;
    uint8_t *frame = malloc(total);
    if (!frame)
        return -ENOMEM;
    uint8_t *to = put_be32(frame, (uint32_t)total);
    to = put_be32(to, (uint32_t)headers_len);
    to = put_be32(to, (uint32_t)crc32(0, frame, 8));
    for (size_t i = 0; i < n_headers; i++)
        to = put_header(to, headers[i][0], headers[i][1]);
    if (len_bytes > 0)
        memcpy(to, payload, len_bytes);
    to += len_bytes;
    put_be32(to, (uint32_t)crc32(0, frame, (uInt)(to - frame)));
    *ret_frame = frame;
    *ret_len_bytes = total;
    return 0;
}
