/*
 * cache/<id>.mem: flattened memories. Part of the snapshot store (snapshot_store.h).
 * Invariant: a file has its name only when it is whole, checked and on disk; it is read-only from
 * then on, since every clone of the snapshot sees it. A file's modification time is when it was
 * last asked for. Removing one that is mapped is safe: see snapshot_store.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "snapshot/memory_flatten.h"
#include "snapshot/snapshot_internal.h"

/* A file that was asked for less than this ago is not marked again: that would cost every restore
 * a change to an inode. */
enum { MARK_EVERY_S = 1 };

static void file_name(const char *id, char file[SNAPSHOT_FILE_NAME_BYTES])
{
    snprintf(file, SNAPSHOT_FILE_NAME_BYTES, "%.*s" SNAPSHOT_CACHE_SUFFIX, SNAPSHOT_ID_HEX, id);
}

static uint64_t bytes_on_disk(const struct stat *st)
{
    /* A memory that is all zero has a file without blocks; it is there all the same. */
    return st->st_blocks > 0 ? (uint64_t)st->st_blocks * 512 : 1;
}

uint64_t snapshot_cache_bytes(const struct snapshot_store *store, const char *id)
{
    char file[SNAPSHOT_FILE_NAME_BYTES];
    struct stat st;

    file_name(id, file);
    if (fstatat(store->cache_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
        return 0;
    return bytes_on_disk(&st);
}

void snapshot_cache_remove(const struct snapshot_store *store, const char *id)
{
    char file[SNAPSHOT_FILE_NAME_BYTES];

    file_name(id, file);
    unlinkat(store->cache_fd, file, 0);
}

/* --- use ------------------------------------------------------------------------------------- */

/* The descriptor if it is cached, else -ENOENT. One that was cut short does not count. */
static int open_cached(const struct snapshot_store *store, const struct snapshot_manifest *manifest)
{
    char file[SNAPSHOT_FILE_NAME_BYTES];
    struct timespec now;
    struct stat st;

    file_name(manifest->id, file);
    AUTO_FD fd = openat(store->cache_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        st.st_size != (off_t)manifest->memory_mib << 20)
        return -ENOENT;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec - st.st_mtim.tv_sec >= MARK_EVERY_S)
        futimens(fd, NULL); /* no harm if it is not ours to mark */
    return fd_steal(&fd);
}

/* @id: under which it is published; NULL: not at all. */
static int flatten_into_file(const struct snapshot_store *store, const struct snapshot_chain *chain,
                             const char *id, struct error *err)
{
    char file[SNAPSHOT_FILE_NAME_BYTES];
    struct temp_file temp;
    int r = temp_file_create(&temp, store->cache_fd, err);

    if (r < 0)
        return r;
    r = memory_flatten(chain, temp.fd, id == NULL, &store->watch, err);
    if (r == 0 && id) {
        file_name(id, file);
        r = temp_file_publish(&temp, file, 0444, err);
    }
    temp_file_done(&temp);
    return r;
}

int snapshot_cache_check(const struct snapshot_store *store, const struct snapshot_chain *chain,
                         struct error *err)
{
    return flatten_into_file(store, chain, NULL, err);
}

/* One process flattens, the others that want the same wait for its lock on the snapshot. */
static int fill_cache(struct snapshot_store *store, const struct snapshot_manifest *manifest,
                      int *ret_fd, struct error *err)
{
    struct snapshot_chain chain;
    struct snapshot_gc gc = {0};
    int r = snapshot_chain_open(snapshot_store_resolve, store, manifest->id, &chain, err);

    if (r < 0)
        return r;
    while (r == 0 && flock(chain.objects[0].fd, LOCK_EX) < 0)
        if (errno != EINTR || (store->watch.cancelled && *store->watch.cancelled))
            r = error_set(err, errno, "wait for another process that flattens snapshot '%s'",
                          manifest->name);
    int fd = r == 0 ? open_cached(store, manifest) : r;
    if (r == 0 && fd < 0) {
        r = flatten_into_file(store, &chain, manifest->id, err);
        fd = r == 0 ? open_cached(store, manifest) : r;
        if (r == 0)
            snapshot_cache_evict(store, manifest->id, &gc, NULL); /* tried again next time */
    }
    snapshot_chain_done(&chain);
    if (r == 0 && fd < 0)
        r = error_say(err, EAGAIN, "the memory of snapshot '%s' was removed meanwhile",
                      manifest->name);
    if (r == 0)
        *ret_fd = fd;
    return r;
}

int snapshot_store_flatten(struct snapshot_store *store, const struct snapshot_manifest *manifest,
                           int *ret_fd, uint64_t *ret_us, struct error *err)
{
    const uint64_t start_us = clock_now_us();
    uint64_t took_us = 0;

    if (!image_digest_is_valid(manifest->id, SNAPSHOT_ID_HEX))
        return error_say(err, EINVAL, "snapshot '%.*s' has no valid id", SNAPSHOT_NAME_MAX,
                         manifest->name);
    int fd = open_cached(store, manifest);
    if (fd < 0) {
        int r = fill_cache(store, manifest, &fd, err);

        if (r < 0) {
            error_wrap(err, "memory of snapshot '%s'", manifest->name);
            return r;
        }
        took_us = clock_now_us() - start_us;
    }
    *ret_fd = fd;
    if (ret_us)
        *ret_us = took_us;
    return 0;
}

/* --- limit ----------------------------------------------------------------------------------- */

struct survey {
    const struct snapshot_store *store;
    const char *keep_id;
    uint64_t total_bytes;
    bool found; /* the rest is about the one that was not used for longest */
    char oldest_id[SNAPSHOT_ID_HEX + 1];
    struct timespec oldest;
    uint64_t oldest_bytes;
};

static int survey_one(void *opaque, const char *id, struct error *err)
{
    struct survey *survey = opaque;
    char file[SNAPSHOT_FILE_NAME_BYTES];
    struct stat st;

    (void)err;
    file_name(id, file);
    if (fstatat(survey->store->cache_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    survey->total_bytes += (uint64_t)st.st_blocks * 512;
    if (survey->keep_id && strcmp(id, survey->keep_id) == 0)
        return 0;
    if (survey->found && (st.st_mtim.tv_sec > survey->oldest.tv_sec ||
                          (st.st_mtim.tv_sec == survey->oldest.tv_sec &&
                           st.st_mtim.tv_nsec >= survey->oldest.tv_nsec)))
        return 0;
    survey->found = true;
    survey->oldest = st.st_mtim;
    survey->oldest_bytes = (uint64_t)st.st_blocks * 512;
    memcpy(survey->oldest_id, id, sizeof(survey->oldest_id));
    return 0;
}

int snapshot_cache_evict(const struct snapshot_store *store, const char *keep_id,
                         struct snapshot_gc *gc, struct error *err)
{
    for (;;) {
        struct survey survey = {.store = store, .keep_id = keep_id};
        int r = snapshot_each_entry(store->cache_fd, SNAPSHOT_CACHE_SUFFIX, true, survey_one,
                                    &survey, err);

        if (r < 0 || survey.total_bytes <= store->cache_limit_bytes || !survey.found)
            return r;
        snapshot_cache_remove(store, survey.oldest_id);
        if (snapshot_cache_bytes(store, survey.oldest_id) > 0)
            return error_say(err, EACCES, "cannot remove cache/%s" SNAPSHOT_CACHE_SUFFIX,
                             survey.oldest_id);
        gc->cached++;
        gc->freed_bytes += survey.oldest_bytes;
    }
}
