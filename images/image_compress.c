/*
 * Content to at-rest form: frames are compressed by all cores, and put in place in order.
 * Its input is a file that the administrator names; its content need not make sense.
 */
#include "images/image_codec.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_workers.h"

/*
 * On a root image of Debian packages level 19 saves 9 % of the size, and costs nine times the time
 * to compress and half as much again to decompress, which is what a cold start pays.
 */
enum { LEVEL = 12 };

struct compress {
    const struct image_source *source;
    int out_fd;                  /* borrowed */
    struct image_format *format; /* borrowed; frames and next_offset: whose turn it is */
    uint64_t next_offset;        /* where the next frame goes */
    struct sha256 *raw_sha256;   /* owned; whose turn it is */
    const struct image_watch *watch;
};

/* One worker's own. */
struct compressor {
    ZSTD_CCtx *context;
    struct sha256 *sha256;
    uint8_t *raw, *packed;
};

static void compressor_free(void *opaque)
{
    struct compressor *own = opaque;

    ZSTD_freeCCtx(own->context);
    sha256_free(own->sha256);
    free(own->raw);
    free(own->packed);
    free(own);
}

static void *compressor_new(void *opaque)
{
    const struct compress *job = opaque;
    struct compressor *own = calloc(1, sizeof(*own));

    if (!own)
        return NULL;
    own->context = ZSTD_createCCtx();
    own->sha256 = sha256_new();
    own->raw = malloc(job->format->frame_raw_bytes);
    own->packed = malloc(ZSTD_compressBound(job->format->frame_raw_bytes));
    if (!own->context || !own->sha256 || !own->raw || !own->packed) {
        compressor_free(own);
        return NULL;
    }
    ZSTD_CCtx_setParameter(own->context, ZSTD_c_compressionLevel, job->source->level);
    return own;
}

static int compress_frame(struct workers *workers, void *opaque, void *state, uint32_t i,
                          struct error *err)
{
    struct compress *job = opaque;
    struct compressor *own = state;
    struct image_frame *frame = &job->format->frames[i];
    const uint32_t raw_bytes = image_format_frame_raw_bytes(job->format, i);
    int r = job->source->pull(job->source->opaque, own->raw, raw_bytes,
                              (uint64_t)i * job->format->frame_raw_bytes);

    if (r == -ENODATA)
        return error_say(err, EBUSY, "what is to be compressed became shorter while it was read");
    if (r < 0)
        return error_set(err, -r, "read what is to be compressed");
    size_t packed = ZSTD_compress2(own->context, own->packed, ZSTD_compressBound(raw_bytes),
                                   own->raw, raw_bytes);
    if (ZSTD_isError(packed))
        return error_say(err, EIO, "compress frame %u: %s", i, ZSTD_getErrorName(packed));
    sha256_add(own->sha256, own->packed, packed);
    sha256_take(own->sha256, frame->sha256);
    frame->raw_bytes = raw_bytes;
    frame->stored_bytes = (uint32_t)packed;

    if (workers_await_turn(workers, i) < 0)
        return -ECANCELED;
    frame->offset = job->next_offset;
    job->next_offset += packed;
    sha256_add(job->raw_sha256, own->raw, raw_bytes);
    workers_pass_turn(workers);

    r = file_pwrite_all(job->out_fd, own->packed, packed, frame->offset);
    return r < 0 ? error_set(err, -r, "write the compressed image") : 0;
}

static void compress_tick(void *opaque, uint32_t done)
{
    const struct compress *job = opaque;
    uint64_t bytes = (uint64_t)done * job->format->frame_raw_bytes;

    if (job->watch && job->watch->progress)
        job->watch->progress(job->watch->opaque, "compress",
                             bytes < job->format->raw_bytes ? bytes : job->format->raw_bytes,
                             job->format->raw_bytes);
}

int image_compress_from(const struct image_source *source, int out_fd, struct image_format *format,
                        const struct image_watch *watch, struct error *err)
{
    struct image_format sized = {0};
    int r = image_format_init(&sized, source->raw_bytes, source->frame_raw_bytes, err);

    sized.kind = format->kind;
    memcpy(sized.architecture, format->architecture, sizeof(sized.architecture));
    memcpy(sized.runtime, format->runtime, sizeof(sized.runtime));
    *format = sized;
    if (r < 0)
        return r;
    struct compress job = {.source = source,
                           .out_fd = out_fd,
                           .format = format,
                           .next_offset = IMAGE_FORMAT_HEADER_BYTES,
                           .raw_sha256 = sha256_new(),
                           .watch = watch};
    if (!job.raw_sha256)
        return error_set(err, ENOMEM, "compress an image");
    r = workers_run(&(struct workers_job){.n_items = format->n_frames,
                                          .begin = compressor_new,
                                          .end = compressor_free,
                                          .work = compress_frame,
                                          .tick = compress_tick,
                                          .opaque = &job,
                                          .cancelled = watch ? watch->cancelled : NULL},
                    err);
    sha256_take(job.raw_sha256, format->raw_sha256);
    sha256_free(job.raw_sha256);
    return r < 0 ? r : image_format_finish(format, out_fd, err);
}

static int pull_from_file(void *opaque, void *to, size_t len_bytes, uint64_t offset_bytes)
{
    const int *fd = opaque;

    return fd_pread_all(*fd, to, len_bytes, (off_t)offset_bytes);
}

int image_compress(int raw_fd, uint64_t raw_bytes, int out_fd, struct image_format *format,
                   const struct image_watch *watch, struct error *err)
{
    const struct image_source source = {.pull = pull_from_file,
                                        .opaque = &raw_fd,
                                        .raw_bytes = raw_bytes,
                                        .frame_raw_bytes = IMAGE_FORMAT_FRAME_RAW_BYTES,
                                        .level = LEVEL};

    return image_compress_from(&source, out_fd, format, watch, err);
}
