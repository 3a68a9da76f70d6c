/*
 * Applying a chain of diffs: see memory_flatten.h. Its inputs, the files of the snapshots, are
 * hostile; their manifests have been checked against their ids (snapshot_object.h).
 * Invariant: of all levels at most one owns a page, so that they can be written in any order and by
 * any thread.
 */
#include "snapshot/memory_flatten.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "snapshot/memory_digest.h"
#include "snapshot/memory_pages.h"

enum { WHAT_BYTES = 64 };

/* One snapshot's share in the memory. */
struct level {
    const struct snapshot_object *object; /* borrowed */
    char what[WHAT_BYTES];                /* its memory file, for messages */
    struct memory_pages pages;
    struct snapshot_extents owned; /* data pages that no child has replaced */
    int fd;                        /* memory.mfs; -1: it has no data */
    struct image_format format;
    int out_fd; /* borrowed */
};

static void level_done(struct level *level)
{
    if (level->fd >= 0)
        close(level->fd);
    memory_pages_done(&level->pages);
    snapshot_extents_done(&level->owned);
    image_format_done(&level->format);
}

static int damaged(const struct level *level, const char *problem, struct error *err)
{
    return error_say(err, EBADMSG, "'%s' is damaged: %s", level->what, problem);
}

/* --- reading a level ------------------------------------------------------------------------- */

static int read_pages(struct level *level, struct error *err)
{
    const struct snapshot_manifest *manifest = &level->object->manifest;
    AUTO_FREE uint8_t *data = NULL;
    char what[WHAT_BYTES];
    size_t len = 0;
    int r = snapshot_object_read(level->object, SNAPSHOT_FILE_PAGES, &manifest->pages, &data, &len,
                                 err);

    if (r < 0)
        return r;
    snprintf(what, sizeof(what), "'%.12s/" SNAPSHOT_FILE_PAGES "'", manifest->id);
    r = memory_pages_decode(data, len, manifest->memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB,
                            what, &level->pages, err);
    if (r < 0)
        return r;
    if (snapshot_extents_pages(&level->pages.data) != manifest->data_pages ||
        snapshot_extents_pages(&level->pages.zero) != manifest->zero_pages)
        return error_say(err, EBADMSG,
                         "%s is damaged: it lists %u pages with data and %u without, the manifest "
                         "says %u and %u",
                         what, snapshot_extents_pages(&level->pages.data),
                         snapshot_extents_pages(&level->pages.zero), manifest->data_pages,
                         manifest->zero_pages);
    return 0;
}

/* The header's digest stands in the manifest; it vouches for the index, that for the frames. */
static int check_header(const struct level *level, struct error *err)
{
    const struct snapshot_manifest *manifest = &level->object->manifest;
    uint8_t header[IMAGE_FORMAT_HEADER_BYTES], digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    struct stat st;

    if (fstat(level->fd, &st) < 0)
        return error_set(err, errno, "read '%s'", level->what);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != manifest->memory.bytes)
        return error_say(err, EBADMSG, "'%s' is %s: it has %lld bytes, the manifest says %llu",
                         level->what,
                         (uint64_t)st.st_size < manifest->memory.bytes ? "truncated" : "damaged",
                         (long long)st.st_size, (unsigned long long)manifest->memory.bytes);
    int r = fd_pread_all(level->fd, header, sizeof(header), 0);
    if (r == -ENODATA)
        return damaged(level, "it is too short for a header", err);
    if (r == 0)
        r = sha256_of(header, sizeof(header), digest);
    if (r < 0)
        return error_set(err, -r, "read '%s'", level->what);
    sha256_hex(digest, hex);
    if (strcmp(hex, manifest->memory_header_sha256) != 0)
        return damaged(level, "its header's SHA-256 is not the manifest's", err);
    return 0;
}

static int open_memory(struct level *level, struct error *err)
{
    const uint64_t raw_bytes = level->object->manifest.data_pages * (uint64_t)SNAPSHOT_PAGE_BYTES;

    if (raw_bytes == 0)
        return 0;
    level->fd = openat(level->object->fd, SNAPSHOT_FILE_MEMORY,
                       O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (level->fd < 0)
        return errno == ENOENT ? damaged(level, "it is missing", err)
                               : error_set(err, errno, "open '%s'", level->what);
    int r = check_header(level, err);
    if (r == 0)
        r = image_format_read(level->fd, level->what, &level->format, err);
    if (r < 0)
        return r;
    if (level->format.kind != IMAGE_MEMORY || level->format.raw_bytes != raw_bytes ||
        level->format.frame_raw_bytes % SNAPSHOT_PAGE_BYTES != 0)
        return damaged(level, "it does not hold the pages that the manifest says", err);
    return 0;
}

/* @covered: the pages that children have; grows by what this level has. */
static int own_pages(struct level *level, struct snapshot_extents *covered, struct error *err)
{
    struct snapshot_extents with_data = {0}, with_zero = {0};
    int r = snapshot_extents_subtract(&level->pages.data, covered, &level->owned);

    if (r == 0)
        r = snapshot_extents_union(covered, &level->pages.data, &with_data);
    if (r == 0)
        r = snapshot_extents_union(&with_data, &level->pages.zero, &with_zero);
    snapshot_extents_done(&with_data);
    if (r < 0)
        return error_set(err, -r, "flatten '%s'", level->what);
    snapshot_extents_done(covered);
    *covered = with_zero;
    return 0;
}

static int level_open(struct level *level, struct snapshot_extents *covered, struct error *err)
{
    snprintf(level->what, sizeof(level->what), "%.12s/" SNAPSHOT_FILE_MEMORY,
             level->object->manifest.id);
    int r = read_pages(level, err);

    if (r == 0)
        r = open_memory(level, err);
    return r == 0 ? own_pages(level, covered, err) : r;
}

/* --- writing --------------------------------------------------------------------------------- */

/* One call of push_packed(). */
struct push {
    const struct level *level;
    const uint8_t *from;
};

/* Writes those pages of @run that the level owns. */
static int push_run(void *opaque, struct snapshot_extent run, size_t at_bytes)
{
    const struct push *push = opaque;
    const struct snapshot_extents *owned = &push->level->owned;
    const uint32_t run_end = run.first + run.n;

    for (size_t i = snapshot_extents_find(owned, run.first);
         i < owned->n && owned->items[i].first < run_end; i++) {
        uint32_t first = owned->items[i].first, end = first + owned->items[i].n;

        first = first > run.first ? first : run.first;
        end = end < run_end ? end : run_end;
        int r = file_pwrite_all(
            push->level->out_fd,
            push->from + at_bytes + (first - run.first) * (size_t)SNAPSHOT_PAGE_BYTES,
            (end - first) * (size_t)SNAPSHOT_PAGE_BYTES, (uint64_t)first * SNAPSHOT_PAGE_BYTES);
        if (r < 0)
            return r;
    }
    return 0;
}

static int push_packed(void *opaque, const void *from, size_t len_bytes, uint64_t offset_bytes)
{
    const struct level *level = opaque;

    return memory_pages_each(&level->pages, offset_bytes, len_bytes, push_run,
                             &(struct push){.level = level, .from = from});
}

/* Not needed by a level all of whose pages were replaced; checked all the same if thorough. */
static int apply(struct level *level, bool is_thorough, const struct image_watch *watch,
                 struct error *err)
{
    uint8_t digest[SHA256_BYTES];
    struct image_expect expect = {0};

    if (level->fd < 0 || (level->owned.n == 0 && !is_thorough))
        return 0;
    if (is_thorough) {
        sha256_from_hex(level->object->manifest.memory.sha256, digest);
        expect = (struct image_expect){.file_sha256 = digest, .raw_sha256 = true};
    }
    return image_decompress_to(level->fd, level->what, &level->format, push_packed, level, &expect,
                               watch, err);
}

/* --- the whole ------------------------------------------------------------------------------- */

/* Not reserved: the file stays sparse. But a disk that is too full is told from at once. */
static int check_room(const struct level *levels, size_t n, int out_fd, struct error *err)
{
    struct statvfs fs;
    uint64_t needed = 0;

    for (size_t i = 0; i < n; i++)
        needed += snapshot_extents_pages(&levels[i].owned) * (uint64_t)SNAPSHOT_PAGE_BYTES;
    if (fstatvfs(out_fd, &fs) < 0)
        return error_set(err, errno, "look for space on disk");
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (fs.f_blocks > 0 && left < needed)
        return error_say(err, ENOSPC,
                         "no space left on device: the memory of a snapshot needs %llu MiB, %llu "
                         "MiB are free",
                         (unsigned long long)(needed + (1 << 20) - 1) >> 20,
                         (unsigned long long)left >> 20);
    return 0;
}

static int check_whole(const struct snapshot_manifest *manifest, int out_fd,
                       const struct image_watch *watch, struct error *err)
{
    char hex[2 * SHA256_BYTES + 1], what[WHAT_BYTES];

    snprintf(what, sizeof(what), "the memory of snapshot %.12s", manifest->id);
    int r = memory_digest_of_file(out_fd, manifest->memory_mib, what, hex, watch, err);
    if (r < 0 || strcmp(hex, manifest->flat_sha256) == 0)
        return r;
    return error_say(err, EBADMSG,
                     "%s is not what was saved (flat_sha256): the snapshot or one of its parents "
                     "was put together wrongly, or the VM was not paused; take it again",
                     what);
}

static int flatten_levels(struct level *levels, size_t n, int out_fd, bool is_thorough,
                          const struct image_watch *watch, struct error *err)
{
    const struct snapshot_manifest *manifest = &levels[0].object->manifest;
    struct snapshot_extents covered = {0};
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = level_open(&levels[i], &covered, err);
    snapshot_extents_done(&covered);
    if (r == 0)
        r = check_room(levels, n, out_fd, err);
    if (r == 0 && ftruncate(out_fd, (off_t)manifest->memory_mib << 20) < 0)
        r = error_set(err, errno, "make a memory file of %u MiB", manifest->memory_mib);
    for (size_t i = n; r == 0 && i-- > 0;)
        r = apply(&levels[i], is_thorough, watch, err);
    return r < 0 ? r : check_whole(manifest, out_fd, watch, err);
}

int memory_flatten(const struct snapshot_chain *chain, int out_fd, bool is_thorough,
                   const struct image_watch *watch, struct error *err)
{
    struct level levels[SNAPSHOT_DEPTH_MAX] = {0};

    for (size_t i = 0; i < chain->n; i++) {
        levels[i].object = &chain->objects[i];
        levels[i].fd = -1;
        levels[i].out_fd = out_fd;
    }
    int r = flatten_levels(levels, chain->n, out_fd, is_thorough, watch, err);
    for (size_t i = 0; i < chain->n; i++)
        level_done(&levels[i]);
    return r;
}
