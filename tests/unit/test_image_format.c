/* The at-rest format: round trip, plain zstd, and every kind of damage. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_codec.h"
#include "images/image_format.h"
#include "tests/unit/image_fixture.h"

enum { RAW = 2 * 1024 * 1024 + 12345, HEADER = IMAGE_FORMAT_HEADER_BYTES, PAYLOAD = 8 };

/* A good file, made once; each test works on a copy. */
static uint8_t *raw, *good;
static size_t good_len, index_at;

static int memory_file(const uint8_t *data, size_t len)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, data, len), 0);
    return fd;
}

static int set_up(void **state)
{
    struct image_format format = {.architecture = "x86_64", .runtime = "python3.11"};
    struct error err = {0};

    (void)state;
    raw = fixture_root_image(RAW, 1);
    int raw_fd = memory_file(raw, RAW), fd = memory_file(NULL, 0);
    if (image_compress(raw_fd, RAW, fd, &format, NULL, &err) < 0)
        fail_msg("%s", err.text);
    good_len = format.stored_bytes;
    index_at = format.frames[2].offset + format.frames[2].stored_bytes;
    image_format_done(&format);
    good = malloc(good_len);
    assert_non_null(good);
    assert_int_equal(fd_pread_all(fd, good, good_len, 0), 0);
    close(fd);
    close(raw_fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(raw);
    free(good);
    return 0;
}

/* Reads, and if that works decompresses with all checks: the first error, or 0. */
static int use(const uint8_t *data, size_t len, int out_fd, struct error *err)
{
    struct image_format format = {0};
    int fd = memory_file(data, len);
    int r = image_format_read(fd, "test", &format, err);

    if (r == 0)
        r = image_decompress(fd, "test", &format, out_fd,
                             &(struct image_expect){.raw_sha256 = true}, NULL, err);
    image_format_done(&format);
    close(fd);
    return r;
}

static void assert_refused(const uint8_t *data, size_t len, const char *words)
{
    struct error err = {0};

    assert_int_equal(use(data, len, -1, &err), -EBADMSG);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
}

static uint8_t *copy_of_good(void)
{
    uint8_t *copy = malloc(good_len);

    assert_non_null(copy);
    memcpy(copy, good, good_len);
    return copy;
}

/* As an attacker would: checksums of index and header made right again. */
static void reseal(uint8_t *file)
{
    size_t entries = 3 * IMAGE_FORMAT_ENTRY_BYTES;

    sha256_of(file + index_at + 8, entries, file + PAYLOAD + 128);
    sha256_of(file + PAYLOAD, 160, file + PAYLOAD + 160);
}

static void test_round_trip(void **state)
{
    AUTO_FREE uint8_t *back = malloc(RAW);
    struct error err = {0};
    int out = memory_file(NULL, 0);

    (void)state;
    assert_non_null(back);
    assert_int_equal(use(good, good_len, out, &err), 0);
    assert_int_equal(lseek(out, 0, SEEK_END), RAW);
    assert_int_equal(fd_pread_all(out, back, RAW, 0), 0);
    assert_memory_equal(back, raw, RAW);
    close(out);
}

static void test_header_is_kept(void **state)
{
    struct image_format format = {0};
    struct error err = {0};
    int fd = memory_file(good, good_len);

    (void)state;
    assert_int_equal(image_format_read_header(fd, "test", &format, &err), 0);
    assert_string_equal(format.architecture, "x86_64");
    assert_string_equal(format.runtime, "python3.11");
    assert_int_equal(format.raw_bytes, RAW);
    assert_int_equal(format.n_frames, 3);
    close(fd);
}

/* What `zstd -d` does: frame after frame, skippable ones skipped. */
static void test_plain_zstd_reads_it(void **state)
{
    AUTO_FREE uint8_t *back = malloc(RAW);

    (void)state;
    assert_non_null(back);
    assert_int_equal(ZSTD_decompress(back, RAW, good, good_len), RAW);
    assert_memory_equal(back, raw, RAW);
    /* The seek table of the public format: number of frames, descriptor, magic. */
    assert_int_equal(load_le32(good + good_len - 4), 0x8F92EAB1);
    assert_int_equal(load_le32(good + good_len - 9), 5);
}

static void test_truncated_anywhere(void **state)
{
    (void)state;
    for (size_t len = 0; len < good_len; len += len < 256 || good_len - len < 256 ? 1 : 4093) {
        struct error err = {0};

        assert_int_equal(use(good, len, -1, &err), -EBADMSG);
    }
    assert_refused(good, good_len - 1, "truncated");
}

static void test_longer_than_it_says(void **state)
{
    AUTO_FREE uint8_t *longer = calloc(1, good_len + 1);

    (void)state;
    assert_non_null(longer);
    memcpy(longer, good, good_len);
    assert_refused(longer, good_len + 1, "header says");
}

static void test_every_byte_of_header_and_tail_flipped(void **state)
{
    AUTO_FREE uint8_t *bad = copy_of_good();

    (void)state;
    for (size_t i = 0; i < good_len; i++) {
        struct error err = {0};

        if (i == HEADER)
            i = index_at;
        for (unsigned bit = 0; bit < 8; bit += 3) {
            bad[i] = (uint8_t)(good[i] ^ 1u << bit);
            if (use(bad, good_len, -1, &err) != -EBADMSG)
                fail_msg("byte %zu bit %u: not noticed", i, bit);
        }
        bad[i] = good[i];
    }
}

static void test_every_frame_flipped(void **state)
{
    AUTO_FREE uint8_t *bad = copy_of_good();

    (void)state;
    for (size_t i = HEADER; i < index_at; i += 9973) {
        bad[i] ^= 0x40;
        assert_refused(bad, good_len, "checksum of frame");
        bad[i] ^= 0x40;
    }
}

/* Header fields with checksums recomputed: offset in the payload, width, value, what is said. */
static void test_inconsistent_header(void **state)
{
    const struct {
        size_t at;
        unsigned width;
        uint64_t value;
        const char *words;
    } cases[] = {
        {8, 4, 2, "version"},
        {12, 4, 7, "kind"},
        {64, 8, 0, "raw size"},
        {64, 8, UINT64_MAX, "raw size"},
        {64, 8, IMAGE_FORMAT_RAW_MAX, "number of frames"},
        {64, 8, RAW + 1, "wrong size"},
        {64, 8, RAW - 1, "wrong size"},
        {72, 4, 0, "frame size"},
        {72, 4, UINT32_MAX, "frame size"},
        {72, 4, 1 << 21, "number of frames"},
        {76, 4, 0, "number of frames"},
        {76, 4, UINT32_MAX, "number of frames"},
        {80, 8, 0, "index does not lie"},
        {80, 8, UINT64_MAX, "index does not lie"},
        {80, 8, HEADER, "index does not lie"},
        {88, 8, UINT64_MAX, "header says"},
        {16, 4, UINT32_MAX, "not text"},
        {28, 4, UINT32_MAX, "not text"},
        {32, 4, 0x41410041, "not text"},
        {96, 4, 0, "content has SHA-256"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO_FREE uint8_t *bad = copy_of_good();

        if (cases[i].width == 4)
            store_le32(bad + PAYLOAD + cases[i].at, (uint32_t)cases[i].value);
        else
            store_le64(bad + PAYLOAD + cases[i].at, cases[i].value);
        reseal(bad);
        assert_refused(bad, good_len, cases[i].words);
    }
}

/* Index entries with checksums recomputed: frames that overlap, leave gaps, or lie about sizes. */
static void test_inconsistent_index(void **state)
{
    const struct {
        unsigned entry;
        size_t at;
        unsigned width;
        uint64_t value;
        const char *words;
    } cases[] = {
        {0, 0, 8, 0, "frame 0"},          {0, 0, 8, HEADER + 1, "frame 0"},
        {1, 0, 8, HEADER, "frame 1"}, /* overlaps frame 0 */
        {2, 0, 8, UINT64_MAX, "frame 2"}, {0, 8, 4, 0, "frame 0"},
        {0, 8, 4, UINT32_MAX, "frame 0"}, {2, 8, 4, 5, "do not end where"},
        {0, 12, 4, 0, "frame 0"},         {1, 12, 4, UINT32_MAX, "frame 1"},
        {2, 12, 4, 1 << 20, "frame 2"},   {0, 16, 4, 0, "checksum of frame 0"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO_FREE uint8_t *bad = copy_of_good();
        uint8_t *at = bad + index_at + 8 + cases[i].entry * IMAGE_FORMAT_ENTRY_BYTES + cases[i].at;

        if (cases[i].width == 4)
            store_le32(at, (uint32_t)cases[i].value);
        else
            store_le64(at, cases[i].value);
        reseal(bad);
        assert_refused(bad, good_len, cases[i].words);
    }
}

/* A frame that unpacks to more than it may: all checksums right, the decompressor is stopped. */
static void test_bomb_in_a_frame(void **state)
{
    AUTO_FREE uint8_t *bad = copy_of_good(), *zeroes = calloc(1, 64 << 20);
    AUTO_FREE uint8_t *packed = malloc(ZSTD_compressBound(64 << 20));
    struct error err = {0};

    (void)state;
    assert_true(zeroes && packed);
    size_t n = ZSTD_compress(packed, ZSTD_compressBound(64 << 20), zeroes, 64 << 20, 1);
    size_t room = load_le32(bad + index_at + 8 + 8);
    assert_true(!ZSTD_isError(n) && n + 8 <= room);
    memcpy(bad + HEADER, packed, n);
    store_le32(bad + HEADER + n, 0x184D2A50); /* the rest of the frame: skippable */
    store_le32(bad + HEADER + n + 4, (uint32_t)(room - n - 8));
    sha256_of(bad + HEADER, room, bad + index_at + 8 + 16);
    reseal(bad);
    assert_int_equal(use(bad, good_len, -1, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "frame 0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_header_is_kept),
        cmocka_unit_test(test_plain_zstd_reads_it),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_longer_than_it_says),
        cmocka_unit_test(test_every_byte_of_header_and_tail_flipped),
        cmocka_unit_test(test_every_frame_flipped),
        cmocka_unit_test(test_inconsistent_header),
        cmocka_unit_test(test_inconsistent_index),
        cmocka_unit_test(test_bomb_in_a_frame),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
