/*
 * Fuzz target: an image at rest. The first byte of the input says what the rest is:
 *   bit 7: changes to a good file, 3 bytes each: where (low byte, high byte), what to put there;
 *          else the file itself
 *   bit 0: afterwards the checksums of header and index are put right, as an attacker would
 *   bit 1: those of the frames as well
 *   bit 2: the seek table as well
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_codec.h"
#include "images/image_format.h"

enum {
    PAYLOAD = 8, /* the header's offset in the file */
    AT_N_FRAMES = PAYLOAD + 76,
    AT_INDEX_OFFSET = PAYLOAD + 80,
    RAW_BYTES = (1 << 20) + 5000, /* of the good file: two frames */
    FILE_MAX = 1 << 20,
    FRAMES_MAX = 64, /* more would only take more time */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *good; /* made once */
static size_t good_len;

static void make_good(void)
{
    struct image_format format = {.architecture = "x86_64", .runtime = "python3.11"};
    AUTO_FD raw = memfd_create("raw", MFD_CLOEXEC);
    AUTO_FD fd = memfd_create("image", MFD_CLOEXEC);
    int r = ftruncate(raw, RAW_BYTES);

    assert(r == 0);
    r = (int)pwrite(raw, "some content", 12, 70000);
    assert(r == 12);
    r = image_compress(raw, RAW_BYTES, fd, &format, NULL, NULL);
    assert(r == 0);
    good_len = format.stored_bytes;
    image_format_done(&format);
    good = malloc(good_len);
    assert(good);
    r = fd_pread_all(fd, good, good_len, 0);
    assert(r == 0);
}

/* Writes the seek table that follows from the index, if there is room for it. */
static void seal_seek_table(uint8_t *file, size_t size, const uint8_t *entries, uint64_t at,
                            uint32_t n)
{
    if (!range_fits(at, 8 + (n + UINT64_C(2)) * 8 + 9, size))
        return;
    for (uint32_t i = 0; i < n; i++)
        memcpy(file + at + 16 + 8 * (size_t)i, entries + i * (size_t)IMAGE_FORMAT_ENTRY_BYTES + 8,
               8);
}

static void seal(uint8_t *file, size_t size, uint8_t how)
{
    uint32_t n = load_le32(file + AT_N_FRAMES);
    uint64_t index = load_le64(file + AT_INDEX_OFFSET);
    uint64_t len = (uint64_t)n * IMAGE_FORMAT_ENTRY_BYTES;

    if (n <= FRAMES_MAX && range_fits(index, 8 + len, size)) {
        uint8_t *entries = file + index + 8;

        for (uint32_t i = 0; (how & 2) && i < n; i++) {
            uint8_t *entry = entries + i * (size_t)IMAGE_FORMAT_ENTRY_BYTES;
            uint64_t offset = load_le64(entry), stored = load_le32(entry + 8);

            if (range_fits(offset, stored, size))
                sha256_of(file + offset, stored, entry + 16);
        }
        if (how & 4)
            seal_seek_table(file, size, entries, index + 8 + len, n);
        sha256_of(entries, len, file + PAYLOAD + 128);
    }
    sha256_of(file + PAYLOAD, 160, file + PAYLOAD + 160);
}

/* The file that an input stands for; the caller frees it. */
static uint8_t *make_file(uint8_t how, const uint8_t *data, size_t size, size_t *ret_len)
{
    size_t len = how & 0x80 ? good_len : size;
    uint8_t *file = malloc(len + 1);

    assert(file);
    memcpy(file, how & 0x80 ? good : data, len);
    if (how & 0x80)
        for (; size >= 3; data += 3, size -= 3)
            file[load_le16(data) % len] = data[2];
    if ((how & 7) && len >= IMAGE_FORMAT_HEADER_BYTES)
        seal(file, len, how);
    *ret_len = len;
    return file;
}

/* What image_format_read() promises of what it accepts. */
static void check_promises(const struct image_format *format, size_t size)
{
    uint64_t offset = IMAGE_FORMAT_HEADER_BYTES, raw = 0;

    for (uint32_t i = 0; i < format->n_frames; i++) {
        assert(format->frames[i].offset == offset);
        offset += format->frames[i].stored_bytes;
        raw += format->frames[i].raw_bytes;
        assert(format->frames[i].raw_bytes <= format->frame_raw_bytes);
        assert(offset <= size);
    }
    assert(raw == format->raw_bytes);
    assert(memchr(format->architecture, 0, sizeof(format->architecture)));
    assert(memchr(format->runtime, 0, sizeof(format->runtime)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image_format format = {0};
    struct error err = {0};
    size_t len;

    if (size < 1 || size > FILE_MAX)
        return 0;
    if (!good)
        make_good();
    AUTO_FREE uint8_t *file = make_file(data[0], data + 1, size - 1, &len);
    AUTO_FD fd = memfd_create("image", MFD_CLOEXEC);
    assert(fd >= 0);
    int r = fd_write_all(fd, file, len);
    assert(r == 0);
    if (image_format_read(fd, "fuzz", &format, &err) == 0) {
        check_promises(&format, len);
        if (format.n_frames <= FRAMES_MAX)
            r = image_decompress(fd, "fuzz", &format, -1, &(struct image_expect){0}, NULL, &err);
        image_format_done(&format);
        if (r == 0)
            return 0;
    }
    assert(err.code != 0 && err.text[0]);
    return 0;
}
