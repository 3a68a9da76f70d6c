/* Frames: see eventstream_read.h. Process: the CLI. */
#include "eventstream_read.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { PRELUDE_BYTES = 12, CRC_BYTES = 4, VALUE_IS_STRING = 7 };

static uint32_t load_be32(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof(value));
    return be32toh(value);
}

/* The headers of ours are all strings: name length, name, 7, length of 2 bytes, value. */
static int read_type(const uint8_t *at, size_t len, char type[EVENTSTREAM_TYPE_MAX])
{
    type[0] = '\0';
    while (len > 0) {
        size_t name_len = at[0];

        if (len < name_len + 4 || at[1 + name_len] != VALUE_IS_STRING)
            return -EBADMSG;
        size_t value_len = (size_t)at[2 + name_len] << 8 | at[3 + name_len];
        const uint8_t *value = at + name_len + 4;
        if (len - name_len - 4 < value_len)
            return -EBADMSG;
        if ((name_len == 11 && memcmp(at + 1, ":event-type", 11) == 0) ||
            (name_len == 15 && memcmp(at + 1, ":exception-type", 15) == 0)) {
            if (value_len >= EVENTSTREAM_TYPE_MAX)
                return -EBADMSG;
            memcpy(type, value, value_len);
            type[value_len] = '\0';
        }
        len -= name_len + 4 + value_len;
        at = value + value_len;
    }
    return 0;
}

/* How long the frame at the start is; 0: not to be known yet. */
static int frame_length(const struct eventstream_reader *reader, size_t *ret_total)
{
    *ret_total = 0;
    if (reader->len < PRELUDE_BYTES)
        return 0;
    uint32_t total = load_be32(reader->data), headers = load_be32(reader->data + 4);
    if (load_be32(reader->data + 8) != (uint32_t)crc32(0, reader->data, 8) ||
        total > EVENTSTREAM_FRAME_MAX || total < PRELUDE_BYTES + CRC_BYTES ||
        headers > total - PRELUDE_BYTES - CRC_BYTES)
        return -EBADMSG;
    *ret_total = total;
    return 0;
}

static int take_frame(const struct eventstream_reader *reader, size_t total)
{
    const uint8_t *frame = reader->data;
    size_t headers = load_be32(frame + 4);
    char type[EVENTSTREAM_TYPE_MAX];

    if (load_be32(frame + total - CRC_BYTES) !=
        (uint32_t)crc32(0, frame, (uInt)(total - CRC_BYTES)))
        return -EBADMSG;
    int r = read_type(frame + PRELUDE_BYTES, headers, type);
    return r < 0 ? r
                 : reader->on_event(reader->opaque, type, frame + PRELUDE_BYTES + headers,
                                    total - PRELUDE_BYTES - CRC_BYTES - headers);
}

static int append(struct eventstream_reader *reader, const void *data, size_t len)
{
    if (reader->size - reader->len < len) {
        size_t size = 2 * (reader->len + len);
        uint8_t *larger = realloc(reader->data, size);

        if (!larger)
            return -ENOMEM;
        reader->data = larger;
        reader->size = size;
    }
    if (len > 0)
        memcpy(reader->data + reader->len, data, len);
    reader->len += len;
    return 0;
}

int eventstream_read(struct eventstream_reader *reader, const void *data, size_t len_bytes)
{
    int r = append(reader, data, len_bytes);
    size_t total;

    while (r == 0) {
        r = frame_length(reader, &total);
        if (r < 0 || total == 0 || reader->len < total)
            break;
        r = take_frame(reader, total);
        reader->len -= total;
        memmove(reader->data, reader->data + total, reader->len);
    }
    return r;
}

void eventstream_reader_done(struct eventstream_reader *reader)
{
    free(reader->data);
    reader->data = NULL;
    reader->len = reader->size = 0;
}
