/*
 * Snapshots from a tar archive (libarchive). Part of the snapshot store (snapshot_store.h).
 * The archive is hostile. Only plain tar is read (no decompressor, so it cannot be a bomb), only
 * regular files with the names and within the sizes that an export has; paths are taken apart,
 * never followed. They are unpacked into staged directories; nothing becomes visible before all
 * snapshots have been checked as a whole.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "snapshot/snapshot_internal.h"

enum { READ_BYTES = 1 << 18, ENTRIES_MAX = 5 * SNAPSHOT_DEPTH_MAX };

/* One snapshot of the archive. */
struct imported {
    char id[SNAPSHOT_ID_HEX + 1]; /* what its directory is called; not checked until import_check */
    struct staged_snapshot staged;
    struct snapshot_manifest manifest; /* once checked */
    size_t depth;                      /* once checked: 1 without a parent, 2 with one, and so on */
    bool is_parent;                    /* of another one in the archive */
    bool is_new;                       /* published by us */
};

struct import {
    struct snapshot_store *store;
    const char *path;
    struct archive *from; /* owned */
    uint8_t *chunk;       /* owned, READ_BYTES */
    size_t n;
    struct imported items[SNAPSHOT_DEPTH_MAX];
};

/* The files that may be in a snapshot, and how large. */
static const struct {
    const char *name;
    uint64_t bytes_max;
} known_files[] = {
    {SNAPSHOT_FILE_MANIFEST, SNAPSHOT_MANIFEST_BYTES_MAX},
    {SNAPSHOT_FILE_STATE, SNAPSHOT_STATE_BYTES_MAX},
    {SNAPSHOT_FILE_PAGES, UINT64_C(64) << 20},
    {SNAPSHOT_FILE_MEMORY, UINT64_C(32) << 30},
    {SNAPSHOT_FILE_WORKING_SET, UINT64_C(32) << 20},
};

/* --- unpack ---------------------------------------------------------------------------------- */

static int archive_failed(const struct import *import, struct error *err)
{
    const char *text = archive_error_string(import->from);
    int code = archive_errno(import->from);

    return error_say(err, code == EIO ? EIO : EBADMSG, "%s", text ? text : "damaged");
}

static bool is_regular(struct archive_entry *entry)
{
    return archive_entry_filetype(entry) == AE_IFREG && !archive_entry_hardlink(entry) &&
           !archive_entry_symlink(entry) && archive_entry_sparse_count(entry) == 0 &&
           archive_entry_size_is_set(entry) && archive_entry_size(entry) >= 0;
}

/* "<id>/<one of known_files>", of a size that is allowed. */
static int judge(struct archive_entry *entry, char id[SNAPSHOT_ID_HEX + 1], const char **ret_file,
                 struct error *err)
{
    const char *path = archive_entry_pathname(entry);
    const char *slash = path ? strchr(path, '/') : NULL;

    if (!slash || slash - path != SNAPSHOT_ID_HEX)
        return error_say(err, EBADMSG, "entry '%.80s' is not of a snapshot", path ? path : "");
    memcpy(id, path, SNAPSHOT_ID_HEX);
    id[SNAPSHOT_ID_HEX] = '\0';
    if (!image_digest_is_valid(id, SNAPSHOT_ID_HEX))
        return error_say(err, EBADMSG, "entry '%.80s' is not of a snapshot", path);
    for (size_t i = 0; i < ARRAY_LEN(known_files); i++) {
        if (strcmp(slash + 1, known_files[i].name) != 0)
            continue;
        if (!is_regular(entry))
            return error_say(err, EBADMSG, "entry '%.100s' is not a plain file", path);
        if ((uint64_t)archive_entry_size(entry) > known_files[i].bytes_max)
            return error_say(err, EFBIG, "entry '%.100s' has %lld bytes; %llu are allowed", path,
                             (long long)archive_entry_size(entry),
                             (unsigned long long)known_files[i].bytes_max);
        *ret_file = known_files[i].name;
        return 0;
    }
    return error_say(err, EBADMSG, "entry '%.100s' is no part of a snapshot", path);
}

/* Where the files of @id go. */
static int find_item(struct import *import, const char *id, size_t *ret_index, struct error *err)
{
    size_t i = 0;

    while (i < import->n && strcmp(import->items[i].id, id) != 0)
        i++;
    if (i == SNAPSHOT_DEPTH_MAX)
        return error_say(err, EBADMSG, "it has more than %d snapshots", SNAPSHOT_DEPTH_MAX);
    if (i == import->n) {
        struct imported *item = &import->items[i];

        memcpy(item->id, id, sizeof(item->id));
        int r = staged_create(&item->staged, import->store->top_fd, err);
        if (r < 0)
            return r;
        import->n++;
    }
    *ret_index = i;
    return 0;
}

static int copy_data(struct import *import, int fd, uint64_t bytes, const char *file,
                     struct error *err)
{
    const struct image_watch *watch = &import->store->watch;

    for (uint64_t at = 0; at < bytes;) {
        la_ssize_t n = archive_read_data(import->from, import->chunk, READ_BYTES);

        if (n < 0)
            return archive_failed(import, err);
        if (n == 0 || (uint64_t)n > bytes - at)
            return error_say(err, EBADMSG, "%s is truncated", file);
        int r = file_pwrite_all(fd, import->chunk, (size_t)n, at);
        if (r < 0)
            return error_set(err, -r, "write %s", file);
        at += (uint64_t)n;
        if (watch->progress)
            watch->progress(watch->opaque, "import", at, bytes);
        if (watch->cancelled && *watch->cancelled)
            return error_say(err, EINTR, "interrupted");
    }
    return fsync(fd) < 0 ? error_set(err, errno, "write %s", file) : 0;
}

static int unpack_entry(struct import *import, struct archive_entry *entry, struct error *err)
{
    char id[SNAPSHOT_ID_HEX + 1];
    const char *file = NULL;
    size_t index = 0;
    int r = judge(entry, id, &file, err);

    if (r == 0)
        r = find_item(import, id, &index, err);
    if (r < 0)
        return r;
    AUTO_FD fd = openat(import->items[index].staged.fd, file,
                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 && errno == EEXIST)
        return error_say(err, EBADMSG, "it has %.12s/%s twice", id, file);
    if (fd < 0)
        return error_set(err, errno, "write %s", file);
    return copy_data(import, fd, (uint64_t)archive_entry_size(entry), file, err);
}

static int unpack(struct import *import, int fd, struct error *err)
{
    struct archive_entry *entry;

    if (archive_read_support_format_tar(import->from) != ARCHIVE_OK ||
        archive_read_open_fd(import->from, fd, READ_BYTES) != ARCHIVE_OK)
        return archive_failed(import, err);
    for (unsigned n = 0;; n++) {
        int r = archive_read_next_header(import->from, &entry);

        if (r == ARCHIVE_EOF)
            break;
        if (r != ARCHIVE_OK)
            return archive_failed(import, err);
        if (n == ENTRIES_MAX)
            return error_say(err, EBADMSG, "it has more than %d entries", ENTRIES_MAX);
        r = unpack_entry(import, entry, err);
        if (r < 0)
            return r;
    }
    return import->n > 0 ? 0 : error_say(err, EBADMSG, "it has no snapshot in it");
}

/* --- check ----------------------------------------------------------------------------------- */

/* A snapshot_resolve: from the archive, else from the store. */
static int resolve(void *opaque, const char *id, struct snapshot_object *ret_object,
                   struct error *err)
{
    struct import *import = opaque;

    for (size_t i = 0; i < import->n; i++)
        if (strcmp(import->items[i].id, id) == 0)
            return snapshot_object_open(import->store->top_fd, import->items[i].staged.name, id,
                                        ret_object, err);
    return snapshot_store_resolve(import->store, id, ret_object, err);
}

/* Checks an item with all its parents, and says of those in the archive that they are. */
static int check_item(struct import *import, struct imported *item, struct error *err)
{
    struct snapshot_chain chain;
    int r = snapshot_chain_open(resolve, import, item->id, &chain, err);

    if (r < 0)
        return r;
    item->manifest = chain.objects[0].manifest;
    item->depth = chain.n;
    for (size_t i = 0; i < import->n; i++)
        if (strcmp(import->items[i].id, item->manifest.parent) == 0)
            import->items[i].is_parent = true;
    r = snapshot_chain_verify(import->store, &chain, err);
    snapshot_chain_done(&chain);
    return r;
}

static int check_all(struct import *import, struct error *err)
{
    unsigned leaves = 0;
    int r = 0;

    for (size_t i = 0; r == 0 && i < import->n; i++)
        r = check_item(import, &import->items[i], err);
    for (size_t i = 0; i < import->n; i++)
        leaves += !import->items[i].is_parent;
    if (r == 0 && leaves != 1)
        r = error_say(err, EBADMSG, "its snapshots are not one snapshot and its parents");
    return r;
}

/* --- publish --------------------------------------------------------------------------------- */

static int publish_item(struct import *import, struct imported *item,
                        char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err)
{
    const bool was_there =
        faccessat(import->store->top_fd, item->id, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int r = snapshot_store_publish(import->store, &item->staged, &item->manifest, !item->is_parent,
                                   err);

    item->is_new = r == 0 && !was_there;
    if (!item->is_parent)
        memcpy(ret_id, item->id, sizeof(item->id));
    return r;
}

/* Parents before children. What was published before an error is taken away again. */
static int publish_all(struct import *import, char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err)
{
    AUTO_FD lock = -1;
    int r = snapshot_store_lock(import->store, &lock, err);

    for (size_t depth = 1; r == 0 && depth <= SNAPSHOT_DEPTH_MAX; depth++)
        for (size_t i = 0; r == 0 && i < import->n; i++)
            if (import->items[i].depth == depth)
                r = publish_item(import, &import->items[i], ret_id, err);
    for (size_t i = 0; r < 0 && i < import->n; i++)
        if (import->items[i].is_new)
            snapshot_remove_unlocked(import->store, import->items[i].id, NULL);
    return r;
}

static int import_fd(struct import *import, int fd, char ret_id[SNAPSHOT_ID_HEX + 1],
                     struct error *err)
{
    import->from = archive_read_new();
    import->chunk = malloc(READ_BYTES);
    int r = import->from && import->chunk ? unpack(import, fd, err)
                                          : error_set(err, ENOMEM, "read the archive");

    archive_read_free(import->from);
    free(import->chunk);
    if (r == 0)
        r = check_all(import, err);
    if (r == 0)
        r = publish_all(import, ret_id, err);
    for (size_t i = 0; i < import->n; i++)
        staged_done(&import->items[i].staged);
    return r;
}

int snapshot_store_import(struct snapshot_store *store, const char *path,
                          char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err)
{
    struct import import = {.store = store, .path = path};
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return error_set(err, errno, "open '%s'", path);
    int r = import_fd(&import, fd, ret_id, err);
    if (r < 0)
        error_wrap(err, "import '%s'", path);
    return r;
}
