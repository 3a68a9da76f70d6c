/*
 * What is in a store: finding and listing. Part of the image store (image_store.h); reads manifests
 * and object names, all of which may have been put there by an attacker.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "images/image_manifest.h"
#include "images/image_store_internal.h"

enum { DIGEST_PREFIX_MIN = 8, LIST_MAX = 100000 };

static int open_listing(int dir_fd, const char *what, DIR **ret_dir, struct error *err)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (dir) {
        *ret_dir = dir;
        return 0;
    }
    int r = error_set(err, errno, "list the %s of an image store", what);
    if (fd >= 0)
        close(fd);
    return r;
}

/* The name of an image if @file is "<valid name><suffix>". */
static bool strip_suffix(const char *file, const char *suffix, char name[IMAGE_NAME_MAX + 1])
{
    size_t len = strlen(file), suffix_len = strlen(suffix);

    if (len <= suffix_len || len - suffix_len > IMAGE_NAME_MAX ||
        strcmp(file + len - suffix_len, suffix) != 0)
        return false;
    memcpy(name, file, len - suffix_len);
    name[len - suffix_len] = 0;
    return image_name_is_valid(name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct image_info *)a)->name, ((const struct image_info *)b)->name);
}

/* A growing list of images. */
struct list {
    struct image_info *items; /* owned */
    size_t n, room;
};

static int list_add(struct list *list, const struct image_info *info)
{
    if (list->n == LIST_MAX)
        return -EMFILE;
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        struct image_info *grown = realloc(list->items, room * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        list->items = grown;
        list->room = room;
    }
    list->items[list->n++] = *info;
    return 0;
}

/* All manifests. Unreadable ones: counted in *ret_n_bad if that is given, else an error. */
static int read_all(const struct image_store *store, struct list *list, size_t *ret_n_bad,
                    struct error *err)
{
    char name[IMAGE_NAME_MAX + 1];
    DIR *dir;
    int r = open_listing(store->manifests_fd, "manifests", &dir, err);

    if (r < 0)
        return r;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir)) != NULL;) {
        struct image_info info;

        if (!strip_suffix(entry->d_name, ".json", name))
            continue;
        r = image_manifest_read(store->manifests_fd, name, &info, err);
        if (r == -ENOENT) { /* removed meanwhile */
            r = 0;
        } else if (r < 0 && ret_n_bad) {
            (*ret_n_bad)++;
            r = 0;
        } else if (r == 0) {
            r = list_add(list, &info);
            if (r < 0)
                error_set(err, -r, "list images");
        }
    }
    closedir(dir);
    return r;
}

int image_store_list(struct image_store *store, struct image_info **ret_list, size_t *ret_n,
                     struct error *err)
{
    struct list list = {0};
    int r = read_all(store, &list, NULL, err);

    if (r < 0) {
        free(list.items);
        return r;
    }
    if (list.n > 1)
        qsort(list.items, list.n, sizeof(*list.items), compare_names);
    *ret_list = list.items;
    *ret_n = list.n;
    return 0;
}

int image_store_digest_is_named(const struct image_store *store, const char *digest,
                                bool *ret_named, struct error *err)
{
    struct list list = {0};
    size_t n_bad = 0;
    int r = read_all(store, &list, &n_bad, err);

    *ret_named = n_bad > 0;
    for (size_t i = 0; i < list.n; i++)
        if (strcmp(list.items[i].digest, digest) == 0)
            *ret_named = true;
    free(list.items);
    return r;
}

/* --- by digest ------------------------------------------------------------------------------- */

/* The one object whose digest starts with @prefix. */
static int find_object(const struct image_store *store, const char *prefix,
                       char ret_digest[IMAGE_DIGEST_HEX + 1], struct error *err)
{
    char digest[IMAGE_NAME_MAX + 1];
    unsigned found = 0;
    DIR *dir;
    int r = open_listing(store->objects_fd, "objects", &dir, err);

    if (r < 0)
        return r;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (!strip_suffix(entry->d_name, ".mfi", digest) ||
            !image_digest_is_valid(digest, IMAGE_DIGEST_HEX) ||
            strncmp(digest, prefix, strlen(prefix)) != 0)
            continue;
        memcpy(ret_digest, digest, IMAGE_DIGEST_HEX + 1);
        found++;
    }
    closedir(dir);
    if (found > 1)
        return error_say(err, ENOTUNIQ, "'%s' is the start of %u digests; give more of it", prefix,
                         found);
    return found ? 0 : -ENOENT;
}

/* What an object that no name stands for says of itself. */
static int describe_object(const struct image_store *store, const char *digest,
                           struct image_info *info, struct error *err)
{
    char file[IMAGE_DIGEST_HEX + 8];
    struct image_format format;
    struct stat st;

    snprintf(file, sizeof(file), "%.*s.mfi", IMAGE_DIGEST_HEX, digest);
    AUTO_FD fd = openat(store->objects_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open object '%s'", file);
    int r = image_format_read_header(fd, digest, &format, err);
    if (r < 0)
        return r;
    if (format.kind == IMAGE_MEMORY)
        return error_say(err, EBADMSG, "'%s' is the memory of a snapshot, no image", digest);
    *info = (struct image_info){.kind = format.kind,
                                .raw_bytes = format.raw_bytes,
                                .stored_bytes = format.stored_bytes,
                                .created_s = st.st_mtim.tv_sec};
    memcpy(info->digest, digest, sizeof(info->digest));
    sha256_hex(format.raw_sha256, info->raw_digest);
    memcpy(info->architecture, format.architecture, sizeof(info->architecture));
    memcpy(info->runtime, format.runtime, sizeof(info->runtime));
    return 0;
}

static int find_by_digest(const struct image_store *store, const char *prefix,
                          struct image_info *ret_info, struct error *err)
{
    struct list list = {0};
    char digest[IMAGE_DIGEST_HEX + 1];
    size_t n_bad = 0;
    int r = find_object(store, prefix, digest, err);

    if (r == 0)
        r = read_all(store, &list, &n_bad, err);
    const struct image_info *named = NULL;
    for (size_t i = 0; r == 0 && i < list.n && !named; i++)
        if (strcmp(list.items[i].digest, digest) == 0)
            named = &list.items[i];
    if (named)
        *ret_info = *named;
    else if (r == 0)
        r = describe_object(store, digest, ret_info, err);
    free(list.items);
    return r;
}

int image_store_find(struct image_store *store, const char *name, struct image_info *ret_info,
                     struct error *err)
{
    int r = -ENOENT;

    if (image_name_is_valid(name))
        r = image_manifest_read(store->manifests_fd, name, ret_info, err);
    if (r == -ENOENT && image_digest_is_valid(name, DIGEST_PREFIX_MIN))
        r = find_by_digest(store, name, ret_info, err);
    if (r == -ENOENT)
        return error_say(err, ENOENT, "no image '%s' in '%s' (mayfly image ls shows what there is)",
                         name, store->directory);
    return r;
}
