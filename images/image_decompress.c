/*
 * At-rest form to content: every core digests and decompresses frames of its own.
 * Its input, the compressed file, is hostile. Invariant: the decompressor sees a frame only after
 * its digest was right, and never has more room than the frame may have content.
 *
 * The digest of the whole file cannot be split; it is one more work item, handed out first, because
 * it takes longest.
 */
#include "images/image_codec.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_workers.h"

struct decompress {
    int in_fd;        /* borrowed */
    image_push *push; /* NULL: the content goes nowhere */
    void *opaque;     /* borrowed, of push() */
    const char *what;
    const struct image_format *format;
    const struct image_expect *expect;
    const struct image_watch *watch;
    uint32_t first_frame;      /* the item that is frame 0: 1 if item 0 is the file's digest */
    struct sha256 *raw_sha256; /* owned; whose turn it is. NULL: not wanted */
    uint8_t file_sha256[SHA256_BYTES]; /* found; item 0's, read after the run */
};

/* One worker's own. */
struct decompressor {
    ZSTD_DCtx *context;
    struct sha256 *sha256;
    uint8_t *packed, *raw;
};

static void decompressor_free(void *opaque)
{
    struct decompressor *own = opaque;

    ZSTD_freeDCtx(own->context);
    sha256_free(own->sha256);
    free(own->packed);
    free(own->raw);
    free(own);
}

static void *decompressor_new(void *opaque)
{
    const struct decompress *job = opaque;
    struct decompressor *own = calloc(1, sizeof(*own));

    if (!own)
        return NULL;
    own->context = ZSTD_createDCtx();
    own->sha256 = sha256_new();
    own->packed = malloc(ZSTD_compressBound(job->format->frame_raw_bytes));
    own->raw = malloc(job->format->frame_raw_bytes);
    if (!own->context || !own->sha256 || !own->packed || !own->raw) {
        decompressor_free(own);
        return NULL;
    }
    return own;
}

static int unpack(const struct decompress *job, struct decompressor *own, uint32_t i,
                  struct error *err)
{
    const struct image_frame *frame = &job->format->frames[i];
    uint8_t digest[SHA256_BYTES];
    int r = fd_pread_all(job->in_fd, own->packed, frame->stored_bytes, (off_t)frame->offset);

    if (r < 0)
        return error_set(err, -r, "read frame %u of image '%s'", i, job->what);
    sha256_add(own->sha256, own->packed, frame->stored_bytes);
    sha256_take(own->sha256, digest);
    if (memcmp(digest, frame->sha256, SHA256_BYTES) != 0)
        return error_say(err, EBADMSG,
                         "image '%s' is damaged: checksum of frame %u of %u (bytes %llu to %llu "
                         "of the file) does not match",
                         job->what, i, job->format->n_frames, (unsigned long long)frame->offset,
                         (unsigned long long)frame->offset + frame->stored_bytes - 1);
    size_t n = ZSTD_decompressDCtx(own->context, own->raw, frame->raw_bytes, own->packed,
                                   frame->stored_bytes);
    if (ZSTD_isError(n))
        return error_say(err, EBADMSG, "image '%s' is damaged: frame %u at %llu: %s", job->what, i,
                         (unsigned long long)frame->offset, ZSTD_getErrorName(n));
    if (n != frame->raw_bytes)
        return error_say(err, EBADMSG,
                         "image '%s' is damaged: frame %u at %llu has %zu bytes of content, its "
                         "index says %u",
                         job->what, i, (unsigned long long)frame->offset, n, frame->raw_bytes);
    return 0;
}

static int decompress_item(struct workers *workers, void *opaque, void *state, uint32_t item,
                           struct error *err)
{
    struct decompress *job = opaque;
    struct decompressor *own = state;

    if (item < job->first_frame) {
        int r = sha256_of_file(job->in_fd, job->format->stored_bytes, job->file_sha256);

        return r < 0 ? error_set(err, -r, "read image '%s'", job->what) : 0;
    }
    const uint32_t i = item - job->first_frame;
    int r = unpack(job, own, i, err);
    if (r == 0 && job->raw_sha256) {
        /* Turns count frames, not items: the file's digest is not waited for. */
        if (workers_await_turn(workers, i) < 0)
            return -ECANCELED;
        sha256_add(job->raw_sha256, own->raw, job->format->frames[i].raw_bytes);
        workers_pass_turn(workers);
    }
    if (r == 0 && job->push) {
        r = job->push(job->opaque, own->raw, job->format->frames[i].raw_bytes,
                      (uint64_t)i * job->format->frame_raw_bytes);
        if (r < 0)
            error_set(err, -r, "write the content of image '%s'", job->what);
    }
    return r;
}

static void decompress_tick(void *opaque, uint32_t done)
{
    const struct decompress *job = opaque;
    uint64_t bytes = (uint64_t)done * job->format->frame_raw_bytes;

    if (job->watch && job->watch->progress)
        job->watch->progress(job->watch->opaque, job->push ? "decompress" : "verify",
                             bytes < job->format->raw_bytes ? bytes : job->format->raw_bytes,
                             job->format->raw_bytes);
}

/* Only once every frame was right: a frame's message says more than these do. */
static int check_wholes(struct decompress *job, struct error *err)
{
    char hex[2 * SHA256_BYTES + 1];

    if (job->raw_sha256) {
        uint8_t raw_sha256[SHA256_BYTES];

        sha256_take(job->raw_sha256, raw_sha256);
        sha256_hex(raw_sha256, hex);
        if (memcmp(raw_sha256, job->format->raw_sha256, SHA256_BYTES) != 0)
            return error_say(err, EBADMSG,
                             "image '%s' is damaged: its content has SHA-256 %s, its header says "
                             "otherwise",
                             job->what, hex);
    }
    if (job->first_frame == 0 ||
        memcmp(job->file_sha256, job->expect->file_sha256, SHA256_BYTES) == 0)
        return 0;
    sha256_hex(job->file_sha256, hex);
    return error_say(err, EBADMSG, "image '%s' is not what its name says: its SHA-256 is %s",
                     job->what, hex);
}

int image_decompress_to(int in_fd, const char *what, const struct image_format *format,
                        image_push *push, void *opaque, const struct image_expect *expect,
                        const struct image_watch *watch, struct error *err)
{
    struct decompress job = {.in_fd = in_fd,
                             .push = push,
                             .opaque = opaque,
                             .what = what,
                             .format = format,
                             .expect = expect,
                             .watch = watch,
                             .first_frame = expect->file_sha256 ? 1 : 0};

    if (expect->raw_sha256) {
        job.raw_sha256 = sha256_new();
        if (!job.raw_sha256)
            return error_set(err, ENOMEM, "check image '%s'", what);
    }
    int r = workers_run(&(struct workers_job){.n_items = format->n_frames + job.first_frame,
                                              .begin = decompressor_new,
                                              .end = decompressor_free,
                                              .work = decompress_item,
                                              .tick = decompress_tick,
                                              .opaque = &job,
                                              .cancelled = watch ? watch->cancelled : NULL},
                        err);
    if (r == 0)
        r = check_wholes(&job, err);
    sha256_free(job.raw_sha256);
    return r;
}

static int push_to_file(void *opaque, const void *from, size_t len_bytes, uint64_t offset_bytes)
{
    const int *fd = opaque;

    return file_pwrite_all(*fd, from, len_bytes, offset_bytes);
}

int image_decompress(int in_fd, const char *what, const struct image_format *format, int out_fd,
                     const struct image_expect *expect, const struct image_watch *watch,
                     struct error *err)
{
    return image_decompress_to(in_fd, what, format, out_fd >= 0 ? push_to_file : NULL, &out_fd,
                               expect, watch, err);
}
