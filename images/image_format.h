/*
 * The at-rest form of an image (`.mfi`): a file that plain `zstd -d` decompresses and the public
 * zstd seekable format describes, with what that format lacks put in skippable frames.
 *
 *   offset 0    skippable frame 0x184D2A50: the header below, 8 + 192 bytes
 *   200         n zstd frames, each of frame_raw_bytes of content (the last: what is left)
 *   index       skippable frame 0x184D2A51: n entries of 48 bytes, 8 + 48 n bytes
 *   last        skippable frame 0x184D2A5E: seek table of the zstd seekable format, n + 2 entries
 *
 * Header (little-endian; offsets after the 8 bytes of the skippable frame's own header):
 *     0 magic "MAYFLYIM"     8 version u32 (1)    12 kind u32 (enum image_kind)
 *    16 architecture[16]    32 runtime[32]        64 raw_bytes u64
 *    72 frame_raw_bytes u32 76 n_frames u32       80 index_offset u64
 *    88 stored_bytes u64    96 raw_sha256[32]    128 index_sha256[32] of the entries
 *   160 header_sha256[32] of bytes 0 to 159
 * Index entry: 0 offset u64, 8 compressed bytes u32, 12 raw bytes u32, 16 sha256[32] of the
 * compressed frame.
 *
 * There is one encoding of an image: frames lie end to end without gaps, and the seek table is
 * exactly the one that follows from the index. The reader refuses everything else, so that no byte
 * of a file is unchecked. The digests find damage; they do not make a file trustworthy, hence every
 * size is bounded here as well (a decompressor never gets more room than frame_raw_bytes).
 *
 * Source: RFC 8878 §3.1.2 (skippable frames); zstd seekable format 0.1.1 (seek table).
 */
#ifndef MAYFLY_IMAGES_IMAGE_FORMAT_H
#define MAYFLY_IMAGES_IMAGE_FORMAT_H

#include "common/error.h"
#include "images/image_sha256.h"
#include "images/image_store.h"

enum {
    IMAGE_FORMAT_VERSION = 1,
    IMAGE_FORMAT_HEADER_BYTES = 200, /* as it stands in the file, frame header included */
    IMAGE_FORMAT_ENTRY_BYTES = 48,
    IMAGE_FORMAT_FRAME_RAW_BYTES = 1 << 20, /* what writers of images use */
    IMAGE_FORMAT_FRAME_RAW_MIN = 1 << 16,   /* what the reader takes */
    IMAGE_FORMAT_FRAME_RAW_MAX = 1 << 23,
};
#define IMAGE_FORMAT_RAW_MAX (UINT64_C(16) << 30)

struct image_frame {
    uint64_t offset; /* in the file */
    uint32_t stored_bytes;
    uint32_t raw_bytes;
    uint8_t sha256[SHA256_BYTES]; /* of the compressed frame */
};

/* What header and index of a file say. Filled by a writer or by image_format_read(). */
struct image_format {
    enum image_kind kind;
    char architecture[16]; /* terminated */
    char runtime[32];      /* terminated */
    uint64_t raw_bytes;
    uint64_t stored_bytes; /* of the whole file */
    uint32_t frame_raw_bytes;
    uint32_t n_frames;
    uint8_t raw_sha256[SHA256_BYTES];
    struct image_frame *frames; /* owned, n_frames of them */
};

/*
 * image_format_init - an empty description for @raw_bytes of content in frames of @frame_raw_bytes
 * (within what a reader takes), with room for them.
 * -EFBIG over IMAGE_FORMAT_RAW_MAX, -EINVAL for no content, -ENOMEM.
 */
int image_format_init(struct image_format *format, uint64_t raw_bytes, uint32_t frame_raw_bytes,
                      struct error *err);

/* image_format_done - frees what is owned; takes a zeroed or half-built object. */
void image_format_done(struct image_format *format);

/* image_format_frame_raw_bytes - how much content frame @i has: all alike but the last. */
uint32_t image_format_frame_raw_bytes(const struct image_format *format, uint32_t i);

/*
 * image_format_finish - write index, seek table and header around the frames, which @fd has
 * already and which format->frames describes. Sets format->stored_bytes. Returns 0 or -errno.
 */
int image_format_finish(struct image_format *format, int fd, struct error *err);

/*
 * image_format_read_header - read and check the header only: *ret_format has no frames.
 * image_format_read - header, index and seek table. Free with image_format_done().
 * @what: names the file in messages. Bounded by the header's claims only after those are checked
 * against the file's size. -EBADMSG says what is wrong and where. @fd may be hostile.
 */
int image_format_read_header(int fd, const char *what, struct image_format *ret_format,
                             struct error *err);
int image_format_read(int fd, const char *what, struct image_format *ret_format, struct error *err);

#endif
