/*
 * Header, index and seek table of an image at rest: see image_format.h.
 * Runs in whatever process opens a store. Its input, the file, may be truncated, altered or made by
 * an attacker. Invariant: a struct image_format that a read function returned has frames that lie
 * end to end within the file, and raw sizes that add up to raw_bytes.
 */
#include "images/image_format.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <zstd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_file.h"

#define MAGIC "MAYFLYIM"
enum {
    FRAME_HEADER_BYTES = 8, /* of a skippable frame: magic, size of what follows */
    SKIPPABLE_HEADER = 0x184D2A50,
    SKIPPABLE_INDEX = 0x184D2A51,
    SKIPPABLE_SEEK_TABLE = 0x184D2A5E,
    SEEK_ENTRY_BYTES = 8,
    SEEK_FOOTER_BYTES = 9,
};
#define SEEK_MAGIC UINT32_C(0x8F92EAB1)

/* Offsets within the header's payload. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_KIND = 12,
    AT_ARCHITECTURE = 16,
    AT_RUNTIME = 32,
    AT_RAW_BYTES = 64,
    AT_FRAME_RAW_BYTES = 72,
    AT_N_FRAMES = 76,
    AT_INDEX_OFFSET = 80,
    AT_STORED_BYTES = 88,
    AT_RAW_SHA256 = 96,
    AT_INDEX_SHA256 = 128,
    AT_HEADER_SHA256 = 160,
    HEADER_PAYLOAD_BYTES = 192,
};
_Static_assert(FRAME_HEADER_BYTES + HEADER_PAYLOAD_BYTES == IMAGE_FORMAT_HEADER_BYTES, "header");

static uint64_t index_bytes(uint64_t n_frames)
{
    return FRAME_HEADER_BYTES + n_frames * IMAGE_FORMAT_ENTRY_BYTES;
}

static uint64_t seek_table_bytes(uint64_t n_frames)
{
    return FRAME_HEADER_BYTES + (n_frames + 2) * SEEK_ENTRY_BYTES + SEEK_FOOTER_BYTES;
}

/* Both sizes are bounded (IMAGE_FORMAT_RAW_MAX, FRAME_RAW_MIN): at most 2^18 frames. */
static uint64_t frames_for(uint64_t raw_bytes, uint32_t frame_raw_bytes)
{
    return (raw_bytes + frame_raw_bytes - 1) / frame_raw_bytes;
}

uint32_t image_format_frame_raw_bytes(const struct image_format *format, uint32_t i)
{
    uint64_t left = format->raw_bytes - (uint64_t)i * format->frame_raw_bytes;

    return left < format->frame_raw_bytes ? (uint32_t)left : format->frame_raw_bytes;
}

int image_format_init(struct image_format *format, uint64_t raw_bytes, uint32_t frame_raw_bytes,
                      struct error *err)
{
    *format = (struct image_format){.raw_bytes = raw_bytes, .frame_raw_bytes = frame_raw_bytes};
    if (raw_bytes == 0)
        return error_say(err, EINVAL, "an image must not be empty");
    if (raw_bytes > IMAGE_FORMAT_RAW_MAX)
        return error_say(err, EFBIG, "%llu bytes are more than an image may have (16 GiB)",
                         (unsigned long long)raw_bytes);
    format->n_frames = (uint32_t)frames_for(raw_bytes, format->frame_raw_bytes);
    format->frames = calloc(format->n_frames, sizeof(*format->frames));
    if (!format->frames)
        return error_set(err, ENOMEM, "index of an image");
    return 0;
}

void image_format_done(struct image_format *format)
{
    free(format->frames);
    format->frames = NULL;
}

/* --- encode ---------------------------------------------------------------------------------- */

static void put_frame_header(uint8_t *to, uint32_t magic, uint64_t payload_bytes)
{
    store_le32(to, magic);
    store_le32(to + 4, (uint32_t)payload_bytes);
}

static void encode_index(const struct image_format *format, uint8_t *to)
{
    put_frame_header(to, SKIPPABLE_INDEX, index_bytes(format->n_frames) - FRAME_HEADER_BYTES);
    to += FRAME_HEADER_BYTES;
    for (uint32_t i = 0; i < format->n_frames; i++, to += IMAGE_FORMAT_ENTRY_BYTES) {
        const struct image_frame *frame = &format->frames[i];

        store_le64(to, frame->offset);
        store_le32(to + 8, frame->stored_bytes);
        store_le32(to + 12, frame->raw_bytes);
        memcpy(to + 16, frame->sha256, SHA256_BYTES);
    }
}

static uint8_t *put_seek_entry(uint8_t *to, uint64_t stored_bytes, uint32_t raw_bytes)
{
    store_le32(to, (uint32_t)stored_bytes);
    store_le32(to + 4, raw_bytes);
    return to + SEEK_ENTRY_BYTES;
}

/* Every frame before the table has an entry, the skippable ones with no content. */
static void encode_seek_table(const struct image_format *format, uint8_t *to)
{
    put_frame_header(to, SKIPPABLE_SEEK_TABLE,
                     seek_table_bytes(format->n_frames) - FRAME_HEADER_BYTES);
    to = put_seek_entry(to + FRAME_HEADER_BYTES, IMAGE_FORMAT_HEADER_BYTES, 0);
    for (uint32_t i = 0; i < format->n_frames; i++)
        to = put_seek_entry(to, format->frames[i].stored_bytes, format->frames[i].raw_bytes);
    to = put_seek_entry(to, index_bytes(format->n_frames), 0);
    store_le32(to, format->n_frames + 2);
    to[4] = 0; /* descriptor: no checksums, our index has better ones */
    store_le32(to + 5, SEEK_MAGIC);
}

static int encode_header(const struct image_format *format, uint64_t index_offset,
                         const uint8_t index_sha256[SHA256_BYTES], uint8_t *to)
{
    uint8_t *payload = to + FRAME_HEADER_BYTES;

    memset(to, 0, IMAGE_FORMAT_HEADER_BYTES);
    put_frame_header(to, SKIPPABLE_HEADER, HEADER_PAYLOAD_BYTES);
    memcpy(payload + AT_MAGIC, MAGIC, 8);
    store_le32(payload + AT_VERSION, IMAGE_FORMAT_VERSION);
    store_le32(payload + AT_KIND, (uint32_t)format->kind);
    memcpy(payload + AT_ARCHITECTURE, format->architecture, strlen(format->architecture));
    memcpy(payload + AT_RUNTIME, format->runtime, strlen(format->runtime));
    store_le64(payload + AT_RAW_BYTES, format->raw_bytes);
    store_le32(payload + AT_FRAME_RAW_BYTES, format->frame_raw_bytes);
    store_le32(payload + AT_N_FRAMES, format->n_frames);
    store_le64(payload + AT_INDEX_OFFSET, index_offset);
    store_le64(payload + AT_STORED_BYTES, format->stored_bytes);
    memcpy(payload + AT_RAW_SHA256, format->raw_sha256, SHA256_BYTES);
    memcpy(payload + AT_INDEX_SHA256, index_sha256, SHA256_BYTES);
    return sha256_of(payload, AT_HEADER_SHA256, payload + AT_HEADER_SHA256);
}

int image_format_finish(struct image_format *format, int fd, struct error *err)
{
    const struct image_frame *last = &format->frames[format->n_frames - 1];
    const uint64_t index_offset = last->offset + last->stored_bytes;
    const size_t index_len = (size_t)index_bytes(format->n_frames);
    const size_t tail_len = index_len + (size_t)seek_table_bytes(format->n_frames);
    AUTO_FREE uint8_t *tail = malloc(tail_len);
    uint8_t header[IMAGE_FORMAT_HEADER_BYTES], index_sha256[SHA256_BYTES];

    if (!tail)
        return error_set(err, ENOMEM, "index of an image");
    format->stored_bytes = index_offset + tail_len;
    encode_index(format, tail);
    encode_seek_table(format, tail + index_len);
    int r = sha256_of(tail + FRAME_HEADER_BYTES, index_len - FRAME_HEADER_BYTES, index_sha256);
    if (r == 0)
        r = encode_header(format, index_offset, index_sha256, header);
    if (r == 0)
        r = file_pwrite_all(fd, tail, tail_len, index_offset);
    if (r == 0)
        r = file_pwrite_all(fd, header, sizeof(header), 0);
    return r < 0 ? error_set(err, -r, "write header and index of an image") : 0;
}

/* --- decode ---------------------------------------------------------------------------------- */

/* What the header says of the rest of the file; checked, but not yet compared with the index. */
struct claims {
    uint64_t index_offset;
    uint8_t index_sha256[SHA256_BYTES];
};

static int bad(struct error *err, const char *what, const char *problem)
{
    return error_say(err, EBADMSG, "image '%s' is damaged: %s", what, problem);
}

/* A fixed field must hold printable text, end in a 0 byte and have nothing but 0 after it. */
static bool take_text(const uint8_t *field, size_t size, char *ret_text)
{
    size_t len = strnlen((const char *)field, size);

    if (len == size)
        return false;
    for (size_t i = 0; i < size; i++)
        if (i < len ? field[i] <= ' ' || field[i] > '~' : field[i] != 0)
            return false;
    memcpy(ret_text, field, size);
    return true;
}

static int check_sizes(const struct image_format *format, const struct claims *claims,
                       uint64_t file_bytes, const char *what, struct error *err)
{
    if (format->raw_bytes == 0 || format->raw_bytes > IMAGE_FORMAT_RAW_MAX)
        return bad(err, what, "header: raw size is 0 or over 16 GiB");
    if (format->frame_raw_bytes < IMAGE_FORMAT_FRAME_RAW_MIN ||
        format->frame_raw_bytes > IMAGE_FORMAT_FRAME_RAW_MAX)
        return bad(err, what, "header: frame size is outside 64 KiB to 8 MiB");
    if (format->n_frames != frames_for(format->raw_bytes, format->frame_raw_bytes))
        return bad(err, what, "header: number of frames does not fit the raw size");
    if (format->stored_bytes != file_bytes)
        return error_say(
            err, EBADMSG, "image '%s' is damaged: the file has %llu bytes, its header says %llu%s",
            what, (unsigned long long)file_bytes, (unsigned long long)format->stored_bytes,
            file_bytes < format->stored_bytes ? " (truncated)" : "");
    uint64_t tail = index_bytes(format->n_frames) + seek_table_bytes(format->n_frames);
    if (claims->index_offset < IMAGE_FORMAT_HEADER_BYTES || claims->index_offset > file_bytes ||
        file_bytes - claims->index_offset != tail)
        return bad(err, what, "header: the index does not lie at the end of the file");
    return 0;
}

static int decode_header(const uint8_t *from, uint64_t file_bytes, const char *what,
                         struct image_format *format, struct claims *claims, struct error *err)
{
    const uint8_t *payload = from + FRAME_HEADER_BYTES;
    uint8_t digest[SHA256_BYTES];

    if (load_le32(from) != SKIPPABLE_HEADER || load_le32(from + 4) != HEADER_PAYLOAD_BYTES ||
        memcmp(payload + AT_MAGIC, MAGIC, 8) != 0)
        return error_say(err, EBADMSG, "'%s' is not a Mayfly image (no MAYFLYIM at offset 8)",
                         what);
    if (load_le32(payload + AT_VERSION) != IMAGE_FORMAT_VERSION)
        return error_say(err, EBADMSG, "image '%s' has format version %u; this program reads %d",
                         what, load_le32(payload + AT_VERSION), IMAGE_FORMAT_VERSION);
    if (sha256_of(payload, AT_HEADER_SHA256, digest) < 0)
        return error_set(err, ENOMEM, "check image '%s'", what);
    if (memcmp(digest, payload + AT_HEADER_SHA256, SHA256_BYTES) != 0)
        return bad(err, what, "header: checksum does not match (bytes 8 to 167)");
    uint32_t kind = load_le32(payload + AT_KIND);
    if (kind != IMAGE_ROOT && kind != IMAGE_KERNEL && kind != IMAGE_MEMORY)
        return bad(err, what, "header: kind is neither root image nor kernel nor memory");
    if (!take_text(payload + AT_ARCHITECTURE, sizeof(format->architecture), format->architecture) ||
        !take_text(payload + AT_RUNTIME, sizeof(format->runtime), format->runtime))
        return bad(err, what, "header: architecture or runtime is not text");
    format->kind = (enum image_kind)kind;
    format->raw_bytes = load_le64(payload + AT_RAW_BYTES);
    format->frame_raw_bytes = load_le32(payload + AT_FRAME_RAW_BYTES);
    format->n_frames = load_le32(payload + AT_N_FRAMES);
    format->stored_bytes = load_le64(payload + AT_STORED_BYTES);
    memcpy(format->raw_sha256, payload + AT_RAW_SHA256, SHA256_BYTES);
    claims->index_offset = load_le64(payload + AT_INDEX_OFFSET);
    memcpy(claims->index_sha256, payload + AT_INDEX_SHA256, SHA256_BYTES);
    return check_sizes(format, claims, file_bytes, what, err);
}

static int read_header(int fd, const char *what, struct image_format *format, struct claims *claims,
                       struct error *err)
{
    uint8_t header[IMAGE_FORMAT_HEADER_BYTES];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return error_set(err, errno, "read image '%s'", what);
    if (!S_ISREG(st.st_mode))
        return error_say(err, EBADMSG, "image '%s' is not a regular file", what);
    if (st.st_size < IMAGE_FORMAT_HEADER_BYTES)
        return error_say(err, EBADMSG, "image '%s' is truncated: %lld bytes, a header has %d", what,
                         (long long)st.st_size, IMAGE_FORMAT_HEADER_BYTES);
    int r = fd_pread_all(fd, header, sizeof(header), 0);
    if (r < 0)
        return error_set(err, -r, "read header of image '%s'", what);
    return decode_header(header, (uint64_t)st.st_size, what, format, claims, err);
}

int image_format_read_header(int fd, const char *what, struct image_format *ret_format,
                             struct error *err)
{
    struct image_format format = {0};
    struct claims claims;
    int r = read_header(fd, what, &format, &claims, err);

    if (r == 0)
        *ret_format = format;
    return r;
}

static int decode_index(const uint8_t *from, const struct claims *claims, const char *what,
                        struct image_format *format, struct error *err)
{
    uint64_t offset = IMAGE_FORMAT_HEADER_BYTES;
    const uint64_t stored_max = ZSTD_compressBound(format->frame_raw_bytes);
    uint8_t digest[SHA256_BYTES];
    size_t len = (size_t)format->n_frames * IMAGE_FORMAT_ENTRY_BYTES;

    if (load_le32(from) != SKIPPABLE_INDEX || load_le32(from + 4) != len)
        return bad(err, what, "index: its frame header is wrong");
    from += FRAME_HEADER_BYTES;
    if (sha256_of(from, len, digest) < 0)
        return error_set(err, ENOMEM, "check image '%s'", what);
    if (memcmp(digest, claims->index_sha256, SHA256_BYTES) != 0)
        return bad(err, what, "index: checksum does not match");
    for (uint32_t i = 0; i < format->n_frames; i++, from += IMAGE_FORMAT_ENTRY_BYTES) {
        struct image_frame *frame = &format->frames[i];

        frame->offset = load_le64(from);
        frame->stored_bytes = load_le32(from + 8);
        frame->raw_bytes = load_le32(from + 12);
        memcpy(frame->sha256, from + 16, SHA256_BYTES);
        if (frame->offset != offset || frame->stored_bytes == 0 ||
            frame->stored_bytes > stored_max ||
            !range_fits(offset, frame->stored_bytes, claims->index_offset) ||
            frame->raw_bytes != image_format_frame_raw_bytes(format, i))
            return error_say(err, EBADMSG,
                             "image '%s' is damaged: index: frame %u (offset %llu, %u bytes, %u "
                             "raw) overlaps, leaves a gap or has a wrong size",
                             what, i, (unsigned long long)frame->offset, frame->stored_bytes,
                             frame->raw_bytes);
        offset += frame->stored_bytes;
    }
    if (offset != claims->index_offset)
        return bad(err, what, "index: the frames do not end where the index starts");
    return 0;
}

static int check_seek_table(const uint8_t *from, const struct image_format *format,
                            const char *what, struct error *err)
{
    size_t len = (size_t)seek_table_bytes(format->n_frames);
    AUTO_FREE uint8_t *expected = malloc(len);

    if (!expected)
        return error_set(err, ENOMEM, "check image '%s'", what);
    encode_seek_table(format, expected);
    if (memcmp(from, expected, len) != 0)
        return bad(err, what, "the seek table at the end of the file does not match the index");
    return 0;
}

int image_format_read(int fd, const char *what, struct image_format *ret_format, struct error *err)
{
    struct image_format format = {0};
    struct claims claims;
    int r = read_header(fd, what, &format, &claims, err);

    if (r < 0)
        return r;
    /* check_sizes() has tied both lengths to the file's real size. */
    size_t tail_len = (size_t)(format.stored_bytes - claims.index_offset);
    AUTO_FREE uint8_t *tail = malloc(tail_len);
    format.frames = calloc(format.n_frames, sizeof(*format.frames));
    if (!tail || !format.frames) {
        r = error_set(err, ENOMEM, "index of image '%s'", what);
    } else {
        r = fd_pread_all(fd, tail, tail_len, (off_t)claims.index_offset);
        if (r < 0)
            error_set(err, -r, "read index of image '%s'", what);
    }
    if (r == 0)
        r = decode_index(tail, &claims, what, &format, err);
    if (r == 0)
        r = check_seek_table(tail + index_bytes(format.n_frames), &format, what, err);
    if (r < 0) {
        image_format_done(&format);
        return r;
    }
    *ret_format = format;
    return 0;
}
