/* Compress content into the at-rest form and back, on all cores. */
#ifndef MAYFLY_IMAGES_IMAGE_CODEC_H
#define MAYFLY_IMAGES_IMAGE_CODEC_H

#include <signal.h>

#include "common/error.h"
#include "images/image_format.h"
#include "images/image_store.h"

/* What a long run tells its caller, and is told. All may be NULL. */
struct image_watch {
    image_progress *progress; /* called from the thread that called in */
    void *opaque;
    const volatile sig_atomic_t *cancelled; /* non-zero: stop with -EINTR */
};

/*
 * Content that is not one plain file. Called from several threads at once, each for a range of its
 * own, in no order. 0, or -errno; -ENODATA from a pull says that the content became shorter.
 */
typedef int image_pull(void *opaque, void *to, size_t len_bytes, uint64_t offset_bytes);
typedef int image_push(void *opaque, const void *from, size_t len_bytes, uint64_t offset_bytes);

/* Content to compress, and how. */
struct image_source {
    image_pull *pull;
    void *opaque; /* borrowed, of pull() */
    uint64_t raw_bytes;
    uint32_t frame_raw_bytes;
    int level; /* of zstd */
};

/*
 * image_compress - write the whole at-rest file for the @raw_bytes of content of @raw_fd to
 * @out_fd, an empty file. kind, architecture and runtime are taken from *format, the rest is
 * filled. Free with image_format_done(), also after an error. Returns 0 or -errno; what @out_fd
 * then holds is of no use.
 */
int image_compress(int raw_fd, uint64_t raw_bytes, int out_fd, struct image_format *format,
                   const struct image_watch *watch, struct error *err);

/* image_compress_from - the same for content that is no file. */
int image_compress_from(const struct image_source *source, int out_fd, struct image_format *format,
                        const struct image_watch *watch, struct error *err);

/* What image_decompress() checks beside the digest of every compressed frame. */
struct image_expect {
    const uint8_t *file_sha256; /* of the whole file at rest; NULL: not checked */
    bool raw_sha256;            /* format->raw_sha256 of the content; costs more than the rest */
};

/*
 * image_decompress - all frames of @in_fd, at their offsets, into @out_fd (-1: check only).
 * @format: as image_format_read() returned it for @in_fd. @what: names the file in messages.
 * A frame is digested before the decompressor sees it. -EBADMSG says which frame is wrong.
 */
int image_decompress(int in_fd, const char *what, const struct image_format *format, int out_fd,
                     const struct image_expect *expect, const struct image_watch *watch,
                     struct error *err);

/* image_decompress_to - the same, the content going to push(); NULL: check only. */
int image_decompress_to(int in_fd, const char *what, const struct image_format *format,
                        image_push *push, void *opaque, const struct image_expect *expect,
                        const struct image_watch *watch, struct error *err);

#endif
