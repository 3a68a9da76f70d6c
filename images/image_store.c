/*
 * The image store: see image_store.h. Owning process: whoever opens it (the CLI, mayflyd, a test).
 * Invariant: a file below objects/ or cache/ has its final name only when it is whole and on disk;
 * names and objects change only under a lock on the manifests directory.
 */
#include "images/image_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "common/clock.h"
#include "common/fd.h"
#include "images/image_codec.h"
#include "images/image_content.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "images/image_store_internal.h"

enum { OBJECT_NAME_BYTES = IMAGE_DIGEST_HEX + 8 };

/* --- open and close -------------------------------------------------------------------------- */

static int open_directories(struct image_store *store, struct error *err)
{
    int r = file_make_directory(store->directory, 0755, err);

    if (r < 0)
        return r;
    AUTO_FD top = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0)
        return error_set(err, errno, "open '%s'", store->directory);
    AUTO_FD objects = file_open_directory_at(top, "objects", err);
    if (objects < 0)
        return objects;
    store->objects_fd = file_open_directory_at(objects, "sha256", err);
    if (store->objects_fd < 0)
        return store->objects_fd;
    store->manifests_fd = file_open_directory_at(top, "manifests", err);
    if (store->manifests_fd < 0)
        return store->manifests_fd;
    store->cache_fd = file_open_directory_at(top, "cache", err);
    return store->cache_fd < 0 ? store->cache_fd : 0;
}

int image_store_open(const char *directory, struct image_store **ret_store, struct error *err)
{
    struct image_store *store = calloc(1, sizeof(*store));

    if (!store)
        return error_set(err, ENOMEM, "open image store '%s'", directory);
    store->objects_fd = store->manifests_fd = store->cache_fd = -1;
    store->directory = strdup(directory);
    int r =
        store->directory ? open_directories(store, err) : error_set(err, ENOMEM, "open directory");
    if (r < 0) {
        error_wrap(err, "image store '%s'", directory);
        image_store_close(store);
        return r;
    }
    temp_file_sweep(store->objects_fd);
    temp_file_sweep(store->manifests_fd);
    temp_file_sweep(store->cache_fd);
    *ret_store = store;
    return 0;
}

void image_store_close(struct image_store *store)
{
    if (!store)
        return;
    fd_close_at_exit(&store->objects_fd);
    fd_close_at_exit(&store->manifests_fd);
    fd_close_at_exit(&store->cache_fd);
    free(store->directory);
    free(store);
}

void image_store_on_progress(struct image_store *store, image_progress *progress, void *opaque)
{
    store->watch.progress = progress;
    store->watch.opaque = opaque;
}

void image_store_set_cancel(struct image_store *store, const volatile sig_atomic_t *cancelled)
{
    store->watch.cancelled = cancelled;
}

/* Held while names and objects change together. The lock goes with the descriptor. */
static int lock_names(const struct image_store *store, int *ret_fd, struct error *err)
{
    AUTO_FD fd = openat(store->manifests_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return error_set(err, errno, "open the manifests of '%s'", store->directory);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR || (store->watch.cancelled && *store->watch.cancelled))
            return error_set(err, errno, "lock image store '%s'", store->directory);
    *ret_fd = fd_steal(&fd);
    return 0;
}

static void object_name(const char *digest, char name[OBJECT_NAME_BYTES])
{
    snprintf(name, OBJECT_NAME_BYTES, "%.*s.mfi", IMAGE_DIGEST_HEX, digest);
}

/* --- add ------------------------------------------------------------------------------------- */

static int check_request(const struct image_info *info, struct error *err)
{
    if (!image_name_is_valid(info->name))
        return error_say(err, EINVAL,
                         "'%s' cannot name an image: use a-z, 0-9, '.', '_' and '-', 64 at most, "
                         "starting with a letter or digit",
                         info->name);
    if (!memchr(info->runtime, 0, sizeof(info->runtime)) ||
        !memchr(info->name, 0, sizeof(info->name)))
        return error_say(err, EINVAL, "name or runtime of an image is too long");
    if (info->runtime[0] && !image_name_is_valid(info->runtime))
        return error_say(err, EINVAL, "'%s' cannot name a runtime", info->runtime);
    if (info->architecture[0] && strcmp(info->architecture, IMAGE_ARCHITECTURE) != 0)
        return error_say(err, EBADMSG, "image '%s' is for %s; only " IMAGE_ARCHITECTURE " is run",
                         info->name, info->architecture);
    return 0;
}

/* Compresses into @temp and fills @info. */
static int compress_into(const struct image_store *store, const char *path, struct temp_file *temp,
                         struct image_info *info, struct error *err)
{
    AUTO_FD raw = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    struct image_format format = {.kind = info->kind};
    uint8_t digest[SHA256_BYTES];

    if (raw < 0 || fstat(raw, &st) < 0)
        return error_set(err, errno, "open '%s'", path);
    if (!S_ISREG(st.st_mode))
        return error_say(err, EBADMSG, "'%s' is not a regular file", path);
    int r = image_content_check(raw, info->kind, path, err);
    if (r < 0)
        return r;
    snprintf(info->architecture, sizeof(info->architecture), "%s", IMAGE_ARCHITECTURE);
    memcpy(format.architecture, info->architecture, sizeof(format.architecture));
    memcpy(format.runtime, info->runtime, sizeof(format.runtime));
    r = image_compress(raw, (uint64_t)st.st_size, temp->fd, &format, &store->watch, err);
    if (r == 0) {
        r = sha256_of_file(temp->fd, format.stored_bytes, digest);
        if (r < 0)
            error_set(err, -r, "read back the compressed image");
    }
    if (r == 0) {
        sha256_hex(digest, info->digest);
        sha256_hex(format.raw_sha256, info->raw_digest);
        info->raw_bytes = format.raw_bytes;
        info->stored_bytes = format.stored_bytes;
        info->created_s = (int64_t)time(NULL);
    }
    image_format_done(&format);
    return r;
}

/* Gives the object and the name their places; an object without its name is taken away again. */
static int publish(const struct image_store *store, struct temp_file *temp,
                   const struct image_info *info, struct error *err)
{
    AUTO_FD lock = -1;
    char name[OBJECT_NAME_BYTES];
    int r = lock_names(store, &lock, err);

    if (r < 0)
        return r;
    object_name(info->digest, name);
    bool was_there = faccessat(store->objects_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    r = temp_file_publish(temp, name, 0644, err);
    if (r == 0)
        r = image_manifest_write(store->manifests_fd, info, err);
    if (r < 0 && !was_there)
        unlinkat(store->objects_fd, name, 0);
    return r;
}

int image_store_add(struct image_store *store, const char *path, struct image_info *info,
                    struct error *err)
{
    struct temp_file temp;
    struct image_info filled = *info;
    int r = check_request(info, err);

    if (r < 0)
        return r;
    r = temp_file_create(&temp, store->objects_fd, err);
    if (r == 0)
        r = compress_into(store, path, &temp, &filled, err);
    if (r == 0)
        r = publish(store, &temp, &filled, err);
    temp_file_done(&temp);
    if (r < 0)
        return error_wrap(err, "add image '%s' to '%s'", info->name, store->directory);
    *info = filled;
    return 0;
}

/* --- read ------------------------------------------------------------------------------------ */

/* Opens the object of @info and reads its index; what the two say must agree. */
static int open_object(const struct image_store *store, const struct image_info *info, int *ret_fd,
                       struct image_format *ret_format, struct error *err)
{
    char name[OBJECT_NAME_BYTES], raw_digest[IMAGE_DIGEST_HEX + 1];
    const char *what = info->name[0] ? info->name : info->digest;

    if (!image_digest_is_valid(info->digest, IMAGE_DIGEST_HEX))
        return error_say(err, EINVAL, "image '%s' has no valid digest", what);
    object_name(info->digest, name);
    AUTO_FD fd = openat(store->objects_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "open '%s/objects/sha256/%s' of image '%s'", store->directory,
                         name, what);
    int r = image_format_read(fd, what, ret_format, err);
    if (r < 0)
        return r;
    sha256_hex(ret_format->raw_sha256, raw_digest);
    if (strcmp(ret_format->architecture, IMAGE_ARCHITECTURE) != 0)
        r = error_say(err, EBADMSG, "image '%s' is for %s; only " IMAGE_ARCHITECTURE " is run",
                      what, ret_format->architecture);
    else if (ret_format->kind != info->kind || ret_format->raw_bytes != info->raw_bytes ||
             ret_format->stored_bytes != info->stored_bytes ||
             strcmp(ret_format->runtime, info->runtime) != 0 ||
             strcmp(raw_digest, info->raw_digest) != 0)
        r = error_say(err, EBADMSG,
                      "image '%s': its manifest and its file disagree about kind, runtime, size or "
                      "digest",
                      what);
    if (r < 0) {
        image_format_done(ret_format);
        return r;
    }
    *ret_fd = fd_steal(&fd);
    return 0;
}

static bool is_cached(const struct image_store *store, const struct image_info *info)
{
    struct stat st;

    return fstatat(store->cache_fd, info->digest, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(st.st_mode) && (uint64_t)st.st_size == info->raw_bytes;
}

/* Fills the cache, checking all there is to check but the digest of the content. */
static int decompress_into_cache(const struct image_store *store, const struct image_info *info,
                                 int object_fd, const struct image_format *format,
                                 struct error *err)
{
    const char *what = info->name[0] ? info->name : info->digest;
    struct temp_file temp;
    uint8_t digest[SHA256_BYTES];
    int r = temp_file_create(&temp, store->cache_fd, err);

    if (r < 0)
        return r;
    sha256_from_hex(info->digest, digest);
    r = file_reserve(temp.fd, format->raw_bytes, err);
    if (r < 0)
        error_wrap(err, "decompress image '%s' into '%s/cache'", what, store->directory);
    if (r == 0)
        r = image_decompress(object_fd, what, format, temp.fd,
                             &(struct image_expect){.file_sha256 = digest}, &store->watch, err);
    if (r == 0)
        r = image_content_check(temp.fd, format->kind, what, err);
    if (r == 0)
        r = temp_file_publish(&temp, info->digest, 0444, err);
    temp_file_done(&temp);
    return r;
}

/* One process decompresses, the others that want the same wait for its lock on the object. */
static int fill_cache(const struct image_store *store, const struct image_info *info,
                      struct error *err)
{
    AUTO_FD object = -1;
    struct image_format format = {0};
    int r = open_object(store, info, &object, &format, err);

    if (r < 0)
        return r;
    while (r == 0 && flock(object, LOCK_EX) < 0)
        if (errno != EINTR || (store->watch.cancelled && *store->watch.cancelled))
            r = error_set(err, errno, "wait for another process that decompresses image '%s'",
                          info->name);
    if (r == 0 && !is_cached(store, info))
        r = decompress_into_cache(store, info, object, &format, err);
    image_format_done(&format);
    return r;
}

int image_store_raw(struct image_store *store, const struct image_info *info, char **ret_path,
                    uint64_t *ret_decompress_us, struct error *err)
{
    uint64_t start_us = clock_now_us(), took_us = 0;
    char *path;

    if (!image_digest_is_valid(info->digest, IMAGE_DIGEST_HEX))
        return error_say(err, EINVAL, "image '%s' has no valid digest", info->name);
    if (!is_cached(store, info)) {
        int r = fill_cache(store, info, err);

        if (r < 0)
            return r;
        took_us = clock_now_us() - start_us;
    }
    if (asprintf(&path, "%s/cache/%s", store->directory, info->digest) < 0)
        return error_set(err, ENOMEM, "path of image '%s'", info->name);
    *ret_path = path;
    if (ret_decompress_us)
        *ret_decompress_us = took_us;
    return 0;
}

static int verify_cached(const struct image_store *store, const struct image_info *info,
                         struct error *err)
{
    uint8_t digest[SHA256_BYTES];
    char hex[IMAGE_DIGEST_HEX + 1];

    if (!is_cached(store, info))
        return 0;
    AUTO_FD fd = openat(store->cache_fd, info->digest, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int r = fd < 0 ? -errno : sha256_of_file(fd, info->raw_bytes, digest);
    if (r < 0)
        return error_set(err, -r, "read '%s/cache/%s'", store->directory, info->digest);
    sha256_hex(digest, hex);
    if (strcmp(hex, info->raw_digest) == 0)
        return 0;
    return error_say(err, EBADMSG,
                     "the decompressed copy '%s/cache/%s' is damaged; delete it, it is made anew "
                     "when needed",
                     store->directory, info->digest);
}

int image_store_verify(struct image_store *store, const struct image_info *info, struct error *err)
{
    AUTO_FD object = -1;
    struct image_format format = {0};
    uint8_t digest[SHA256_BYTES];
    int r = open_object(store, info, &object, &format, err);

    if (r < 0)
        return r;
    sha256_from_hex(info->digest, digest);
    r = image_decompress(object, info->name[0] ? info->name : info->digest, &format, -1,
                         &(struct image_expect){.file_sha256 = digest, .raw_sha256 = true},
                         &store->watch, err);
    image_format_done(&format);
    return r < 0 ? r : verify_cached(store, info, err);
}

/* --- remove ---------------------------------------------------------------------------------- */

int image_store_remove(struct image_store *store, const char *name, struct error *err)
{
    AUTO_FD lock = -1;
    struct image_info info;
    char file[OBJECT_NAME_BYTES];
    bool wanted = false;
    int r = lock_names(store, &lock, err);

    if (r < 0)
        return r;
    r = image_store_find(store, name, &info, err);
    if (r == -EBADMSG && image_name_is_valid(name)) {
        /* Its manifest is unreadable: what it stood for is not known, but the name can go. */
        snprintf(file, sizeof(file), "%s.json", name);
        return unlinkat(store->manifests_fd, file, 0) == 0
                   ? 0
                   : error_set(err, errno, "remove manifest '%s'", file);
    }
    if (r < 0)
        return r;
    if (info.name[0]) {
        snprintf(file, sizeof(file), "%.*s.json", IMAGE_NAME_MAX, info.name);
        if (unlinkat(store->manifests_fd, file, 0) < 0)
            return error_set(err, errno, "remove manifest '%s'", file);
    }
    r = image_store_digest_is_named(store, info.digest, &wanted, err);
    if (r < 0 || wanted)
        return r;
    unlinkat(store->cache_fd, info.digest, 0);
    object_name(info.digest, file);
    if (unlinkat(store->objects_fd, file, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "remove '%s/objects/sha256/%s'", store->directory, file);
    return 0;
}
