/* Frames of an event stream, byte by byte and against their own checksums. */
#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#include "common/fd.h"
#include "host/api/eventstream.h"

static uint32_t be32(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, 4);
    return be32toh(value);
}

/* A whole frame, its headers spelled out by hand from the specification. */
static void test_bytes(void **state)
{
    static const char headers[] = "\x0d:message-type\x07\x00\x05"
                                  "event"
                                  "\x0b:event-type\x07\x00\x0cPayloadChunk"
                                  "\x0d:content-type\x07\x00\x18"
                                  "application/octet-stream";
    AUTO_FREE uint8_t *frame = NULL;
    size_t len = 0;

    (void)state;
    assert_int_equal(
        eventstream_frame("PayloadChunk", "application/octet-stream", "hi", 2, &frame, &len), 0);
    assert_int_equal(len, 12 + sizeof(headers) - 1 + 2 + 4);
    assert_int_equal(be32(frame), len);
    assert_int_equal(be32(frame + 4), sizeof(headers) - 1);
    assert_int_equal(be32(frame + 8), crc32(0, frame, 8));
    assert_memory_equal(frame + 12, headers, sizeof(headers) - 1);
    assert_memory_equal(frame + len - 6, "hi", 2);
    assert_int_equal(be32(frame + len - 4), crc32(0, frame, (uInt)len - 4));
}

static void test_limits(void **state)
{
    AUTO_FREE uint8_t *big = calloc(1, EVENTSTREAM_PAYLOAD_MAX + 1);
    AUTO_FREE uint8_t *frame = NULL;
    char type[300];
    size_t len = 0;

    (void)state;
    assert_non_null(big);
    assert_int_equal(eventstream_frame("a", "b", big, EVENTSTREAM_PAYLOAD_MAX + 1, &frame, &len),
                     -EMSGSIZE);
    assert_int_equal(eventstream_frame("a", "b", big, EVENTSTREAM_PAYLOAD_MAX, &frame, &len), 0);
    free(frame);
    frame = NULL;
    assert_int_equal(eventstream_frame("a", "b", NULL, 0, &frame, &len), 0);
    free(frame);
    frame = NULL;
    memset(type, 'x', sizeof(type) - 1);
    type[sizeof(type) - 1] = '\0';
    assert_int_equal(eventstream_frame(type, "b", "", 0, &frame, &len), -EMSGSIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bytes), cmocka_unit_test(test_limits)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
