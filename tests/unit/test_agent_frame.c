/* The frame codec: whole, partial, several, and lengths that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest-agent/proto/frame.h"

static void every_prefix_needs_more(void **state)
{
    uint8_t whole[FRAME_HEADER_BYTES + 5] = {5, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'};
    struct frame frame;

    (void)state;
    for (size_t len = 0; len < sizeof(whole); len++) {
        /* A heap block of exactly that size: the sanitizer sees a read beyond it. */
        uint8_t *exact = malloc(len ? len : 1);

        assert_non_null(exact);
        memcpy(exact, whole, len);
        assert_int_equal(frame_parse(exact, len, &frame), 0);
        assert_int_equal(frame.total_bytes,
                         len < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : sizeof(whole));
        assert_null(frame.message);
        free(exact);
    }
    assert_int_equal(frame_parse(whole, sizeof(whole), &frame), 1);
    assert_ptr_equal(frame.message, whole + FRAME_HEADER_BYTES);
    assert_int_equal(frame.message_bytes, 5);
    assert_int_equal(frame.total_bytes, sizeof(whole));
}

static void what_follows_is_left_alone(void **state)
{
    static const uint8_t two[] = {1, 0, 0, 0, 'a', 2, 0, 0, 0, 'b', 'c'};
    struct frame frame;

    (void)state;
    assert_int_equal(frame_parse(two, sizeof(two), &frame), 1);
    assert_int_equal(frame.total_bytes, 5);
    assert_int_equal(frame_parse(two + 5, sizeof(two) - 5, &frame), 1);
    assert_memory_equal(frame.message, "bc", 2);
}

static void hostile_lengths(void **state)
{
    static const uint32_t refused[] = {0, FRAME_MAX_BYTES + 1, 0x7fffffff, 0x80000000, 0xffffffff};
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame frame;

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        for (unsigned b = 0; b < sizeof(header); b++)
            header[b] = (uint8_t)(refused[i] >> (8 * b));
        assert_int_equal(frame_parse(header, sizeof(header), &frame), -EMSGSIZE);
    }
}

static void round_trip(void **state)
{
    static const size_t sizes[] = {1, 255, 256, 65536, FRAME_MAX_BYTES};
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame frame;

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        frame_put_header(header, sizes[i]);
        assert_int_equal(frame_parse(header, sizeof(header), &frame), 0);
        assert_int_equal(frame.total_bytes, sizes[i] + FRAME_HEADER_BYTES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_prefix_needs_more),
        cmocka_unit_test(what_follows_is_left_alone),
        cmocka_unit_test(hostile_lengths),
        cmocka_unit_test(round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
