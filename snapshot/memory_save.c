/*
 * From a memory image to a diff: see memory_save.h. Process: the host, or the CLI. The memory file
 * may be hostile. What it holds is copied before it is looked at; it is read twice (compare, then
 * compress), and one that changes in between makes a snapshot that is refused when it is used.
 */
#include "snapshot/memory_save.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_content.h"
#include "images/image_workers.h"

/*
 * Measured on 40 MiB of a Python process's memory (zstd 1.5.4, a core): level 3 11.5 MB at 190
 * MB/s, level 6 11.2 MB at 68, level 9 10.8 MB at 43, level 12 10.7 MB at 8 to 35; all decompress
 * at 0.8 to 0.95 GB/s. Frames of 256 KiB cost 1 % over 1 MiB, and keep all cores busy with small
 * diffs.
 */
enum { LEVEL = 9, FRAME_BYTES = 1 << 18 };
enum {
    CHUNK_PAGES = MEMORY_CHUNK_BYTES / SNAPSHOT_PAGE_BYTES,
    CHUNK_WORDS = CHUNK_PAGES / 64,
};
_Static_assert((int)CHUNK_PAGES == (int)SNAPSHOT_PAGES_PER_MIB, "a chunk is a MiB");

static const uint8_t zero_page[SNAPSHOT_PAGE_BYTES];

/* --- compare --------------------------------------------------------------------------------- */

struct compare {
    const struct memory_input *input;
    struct memory_digest digest;
    uint64_t *data, *zero; /* owned bitmaps; a chunk's words are written by one thread */
    const struct image_watch *watch;
};

/* One worker's own. */
struct comparer {
    struct sha256 *sha256;
    uint8_t before[MEMORY_CHUNK_BYTES], now[MEMORY_CHUNK_BYTES];
};

static void comparer_free(void *opaque)
{
    struct comparer *own = opaque;

    sha256_free(own->sha256);
    free(own);
}

static void *comparer_new(void *opaque)
{
    struct comparer *own = malloc(sizeof(*own));

    (void)opaque;
    if (!own)
        return NULL;
    own->sha256 = sha256_new();
    if (own->sha256)
        return own;
    free(own);
    return NULL;
}

/* The parent's chunk into own->before. *ret_has_data: it is not all a hole. */
static int read_before(const struct memory_input *input, struct comparer *own, uint32_t chunk,
                       bool *ret_has_data, struct error *err)
{
    const uint64_t offset = (uint64_t)chunk * MEMORY_CHUNK_BYTES;

    *ret_has_data = input->parent_fd >= 0 && chunk < input->parent_mib &&
                    memory_chunk_has_data(input->parent_fd, offset, MEMORY_CHUNK_BYTES);
    if (!*ret_has_data) {
        memset(own->before, 0, MEMORY_CHUNK_BYTES);
        return 0;
    }
    int r = fd_pread_all(input->parent_fd, own->before, MEMORY_CHUNK_BYTES, (off_t)offset);
    return r < 0 ? error_set(err, -r, "read the parent's memory") : 0;
}

static void judge_page(struct compare *job, const struct comparer *own, uint32_t page)
{
    const size_t at = page % CHUNK_PAGES * (size_t)SNAPSHOT_PAGE_BYTES;
    const uint64_t bit = UINT64_C(1) << (page % 64);

    if (memcmp(own->now + at, own->before + at, SNAPSHOT_PAGE_BYTES) == 0)
        return;
    if (memcmp(own->now + at, zero_page, SNAPSHOT_PAGE_BYTES) == 0)
        job->zero[page / 64] |= bit;
    else
        job->data[page / 64] |= bit;
}

/* One run of changed pages, within the chunk. */
static int compare_run(struct compare *job, struct comparer *own, uint32_t first, uint32_t end,
                       struct error *err)
{
    int r = fd_pread_all(
        job->input->fd, own->now + first % CHUNK_PAGES * (size_t)SNAPSHOT_PAGE_BYTES,
        (end - first) * (size_t)SNAPSHOT_PAGE_BYTES, (off_t)first * SNAPSHOT_PAGE_BYTES);

    if (r == -ENODATA)
        return error_say(err, EINVAL, "the memory file is shorter than the %u MiB it should have",
                         job->input->memory_mib);
    if (r < 0)
        return error_set(err, -r, "read the memory file");
    for (uint32_t page = first; page < end; page++)
        judge_page(job, own, page);
    return 0;
}

static int compare_chunk(struct workers *workers, void *opaque, void *state, uint32_t chunk,
                         struct error *err)
{
    struct compare *job = opaque;
    struct comparer *own = state;
    const struct snapshot_extents *changed = job->input->changed;
    const uint32_t start = chunk * CHUNK_PAGES, stop = start + CHUNK_PAGES;
    size_t i = snapshot_extents_find(changed, start);
    const bool is_changed = i < changed->n && changed->items[i].first < stop;
    bool has_data;
    int r = read_before(job->input, own, chunk, &has_data, err);

    (void)workers;
    if (r < 0 || (!is_changed && !has_data))
        return r;
    memcpy(own->now, own->before, MEMORY_CHUNK_BYTES);
    for (; r == 0 && i < changed->n && changed->items[i].first < stop; i++) {
        uint32_t first = changed->items[i].first, end = first + changed->items[i].n;

        r = compare_run(job, own, first > start ? first : start, end < stop ? end : stop, err);
    }
    if (r == 0)
        memory_digest_set(&job->digest, chunk, own->sha256, own->now);
    return r;
}

static void compare_tick(void *opaque, uint32_t done)
{
    const struct compare *job = opaque;

    if (job->watch && job->watch->progress)
        job->watch->progress(job->watch->opaque, "compare", (uint64_t)done * MEMORY_CHUNK_BYTES,
                             (uint64_t)job->input->memory_mib << 20);
}

static int compare_begin(struct compare *job)
{
    const size_t words = job->input->memory_mib * (size_t)CHUNK_WORDS;

    job->data = calloc(words, sizeof(*job->data));
    job->zero = calloc(words, sizeof(*job->zero));
    return job->data && job->zero ? memory_digest_init(&job->digest, job->input->memory_mib)
                                  : -ENOMEM;
}

static int compare_end(const struct compare *job, struct memory_pages *pages,
                       char ret_flat_sha256[2 * SHA256_BYTES + 1])
{
    const uint32_t n = job->input->memory_mib * (uint32_t)CHUNK_PAGES;
    int r = snapshot_extents_add_bitmap(&pages->data, 0, job->data, n);

    if (r == 0)
        r = snapshot_extents_add_bitmap(&pages->zero, 0, job->zero, n);
    if (r == 0)
        r = memory_pages_index(pages);
    return r == 0 ? memory_digest_take(&job->digest, ret_flat_sha256) : r;
}

static int check_input(const struct memory_input *input, struct error *err)
{
    if (snapshot_extents_end(input->changed) > input->memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB)
        return error_say(err, EINVAL, "changed pages lie outside the %u MiB of memory",
                         input->memory_mib);
    return 0;
}

int memory_compare(const struct memory_input *input, struct memory_pages *ret_pages,
                   char ret_flat_sha256[2 * SHA256_BYTES + 1], const struct image_watch *watch,
                   struct error *err)
{
    struct compare job = {.input = input, .watch = watch};
    struct memory_pages pages = {0};
    int r = check_input(input, err);

    if (r < 0)
        return r;
    r = compare_begin(&job);
    if (r < 0)
        error_set(err, -r, "compare memory");
    if (r == 0)
        r = workers_run(&(struct workers_job){.n_items = input->memory_mib,
                                              .begin = comparer_new,
                                              .end = comparer_free,
                                              .work = compare_chunk,
                                              .tick = compare_tick,
                                              .opaque = &job,
                                              .cancelled = watch ? watch->cancelled : NULL},
                        err);
    if (r == 0) {
        r = compare_end(&job, &pages, ret_flat_sha256);
        if (r < 0)
            error_set(err, -r, "compare memory");
    }
    memory_digest_done(&job.digest);
    free(job.data);
    free(job.zero);
    if (r < 0)
        memory_pages_done(&pages);
    else
        *ret_pages = pages;
    return r;
}

/* --- compress -------------------------------------------------------------------------------- */

struct packed_source {
    const struct memory_input *input;
    const struct memory_pages *pages;
};

/* One call of pull_packed(). */
struct pull {
    int fd;
    uint8_t *to;
};

static int pull_run(void *opaque, struct snapshot_extent run, size_t at_bytes)
{
    const struct pull *pull = opaque;

    return fd_pread_all(pull->fd, pull->to + at_bytes, run.n * (size_t)SNAPSHOT_PAGE_BYTES,
                        (off_t)run.first * SNAPSHOT_PAGE_BYTES);
}

static int pull_packed(void *opaque, void *to, size_t len_bytes, uint64_t offset_bytes)
{
    const struct packed_source *source = opaque;

    return memory_pages_each(source->pages, offset_bytes, len_bytes, pull_run,
                             &(struct pull){.fd = source->input->fd, .to = to});
}

int memory_compress(const struct memory_input *input, const struct memory_pages *pages, int out_fd,
                    const struct image_watch *watch, struct error *err)
{
    struct packed_source packed = {.input = input, .pages = pages};
    struct image_format format = {.kind = IMAGE_MEMORY, .architecture = IMAGE_ARCHITECTURE};
    const struct image_source source = {.pull = pull_packed,
                                        .opaque = &packed,
                                        .raw_bytes = snapshot_extents_pages(&pages->data) *
                                                     (uint64_t)SNAPSHOT_PAGE_BYTES,
                                        .frame_raw_bytes = FRAME_BYTES,
                                        .level = LEVEL};
    int r = image_compress_from(&source, out_fd, &format, watch, err);

    image_format_done(&format);
    return r;
}
