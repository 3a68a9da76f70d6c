/*
 * A snapshot and its parents as a tar archive (libarchive). Part of the snapshot store
 * (snapshot_store.h). What is exported is not checked beyond manifests and sizes: the import does
 * that, and so does verify.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "snapshot/snapshot_internal.h"

enum { COPY_BYTES = 1 << 18 };

struct export
{
    struct snapshot_store *store;
    struct archive *to; /* owned */
    uint8_t *chunk;     /* owned, COPY_BYTES */
    uint64_t done_bytes, total_bytes;
};

static int archive_failed(struct archive *archive, struct error *err)
{
    const char *text = archive_error_string(archive);
    int code = archive_errno(archive);

    return error_say(err, code > 0 ? code : EIO, "write the archive: %s", text ? text : "failed");
}

static int check_cancelled(const struct export *export, struct error *err)
{
    const struct image_watch *watch = &export->store->watch;

    if (watch->progress)
        watch->progress(watch->opaque, "export", export->done_bytes, export->total_bytes);
    return watch->cancelled && *watch->cancelled ? error_say(err, EINTR, "interrupted") : 0;
}

static int export_header(struct export *export, const struct snapshot_manifest *manifest,
                         const char *file, uint64_t bytes, struct error *err)
{
    char path[SNAPSHOT_ID_HEX + 32];
    struct archive_entry *entry = archive_entry_new();

    if (!entry)
        return error_set(err, ENOMEM, "write the archive");
    snprintf(path, sizeof(path), "%s/%s", manifest->id, file);
    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_mtime(entry, manifest->created_s, 0);
    archive_entry_set_size(entry, (la_int64_t)bytes);
    int r =
        archive_write_header(export->to, entry) == ARCHIVE_OK ? 0 : archive_failed(export->to, err);
    archive_entry_free(entry);
    return r;
}

static int export_data(struct export *export, int fd, const char *file, uint64_t bytes,
                       struct error *err)
{
    for (uint64_t at = 0; at < bytes;) {
        size_t n = bytes - at < COPY_BYTES ? (size_t)(bytes - at) : COPY_BYTES;
        int r = fd_pread_all(fd, export->chunk, n, (off_t)at);

        if (r < 0)
            return error_set(err, -r, "read %s", file);
        if (archive_write_data(export->to, export->chunk, n) != (la_ssize_t)n)
            return archive_failed(export->to, err);
        at += n;
        export->done_bytes += n;
        r = check_cancelled(export, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* @expected: bytes that the manifest says; UINT64_MAX: it says nothing. */
static int export_file(struct export *export, const struct snapshot_object *object,
                       const char *file, uint64_t expected, struct error *err)
{
    AUTO_FD fd = openat(object->fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open %s of snapshot %.12s", file, object->manifest.id);
    if (!S_ISREG(st.st_mode) || (expected != UINT64_MAX && (uint64_t)st.st_size != expected))
        return error_say(err, EBADMSG,
                         "snapshot %.12s: %s is damaged: its size is not the manifest's",
                         object->manifest.id, file);
    int r = export_header(export, &object->manifest, file, (uint64_t)st.st_size, err);
    return r < 0 ? r : export_data(export, fd, file, (uint64_t)st.st_size, err);
}

static int export_object(struct export *export, const struct snapshot_object *object,
                         struct error *err)
{
    const struct snapshot_manifest *manifest = &object->manifest;
    const bool has_working_set =
        faccessat(object->fd, SNAPSHOT_FILE_WORKING_SET, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    const struct {
        const char *file;
        uint64_t bytes;
        bool is_there;
    } files[] = {
        {SNAPSHOT_FILE_MANIFEST, UINT64_MAX, true},
        {SNAPSHOT_FILE_STATE, manifest->state.bytes, true},
        {SNAPSHOT_FILE_PAGES, manifest->pages.bytes, true},
        {SNAPSHOT_FILE_MEMORY, manifest->memory.bytes, manifest->memory.bytes > 0},
        {SNAPSHOT_FILE_WORKING_SET, UINT64_MAX, has_working_set},
    };

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        int r =
            files[i].is_there ? export_file(export, object, files[i].file, files[i].bytes, err) : 0;

        if (r < 0)
            return r;
    }
    return 0;
}

/* Parents first: whoever reads the archive in order always has what a child needs. */
static int export_chain(struct export *export, const struct snapshot_chain *chain, int fd,
                        struct error *err)
{
    int r = 0;

    for (size_t i = 0; i < chain->n; i++)
        export->total_bytes += chain->objects[i].manifest.state.bytes +
                               chain->objects[i].manifest.pages.bytes +
                               chain->objects[i].manifest.memory.bytes;
    if (archive_write_set_format_pax_restricted(export->to) != ARCHIVE_OK ||
        archive_write_open_fd(export->to, fd) != ARCHIVE_OK)
        return archive_failed(export->to, err);
    for (size_t i = chain->n; r == 0 && i-- > 0;)
        r = export_object(export, &chain->objects[i], err);
    if (r == 0 && archive_write_close(export->to) != ARCHIVE_OK)
        r = archive_failed(export->to, err);
    return r;
}

/* The directory of @path, and the last part of it. */
static int open_target(const char *path, const char **ret_name, int *ret_fd, struct error *err)
{
    const char *slash = strrchr(path, '/');
    AUTO_FREE char *directory = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");

    if (!directory)
        return error_set(err, ENOMEM, "open '%s'", path);
    *ret_name = slash ? slash + 1 : path;
    *ret_fd = open(slash == path ? "/" : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd < 0)
        return error_set(err, errno, "open the directory of '%s'", path);
    return **ret_name ? 0 : error_set(err, EISDIR, "write '%s'", path);
}

static int export_to(struct snapshot_store *store, const struct snapshot_chain *chain,
                     const char *path, struct error *err)
{
    struct export export = {.store = store, .to = archive_write_new(), .chunk = malloc(COPY_BYTES)};
    struct temp_file temp = {.fd = -1};
    AUTO_FD directory = -1;
    const char *name = NULL;
    int r = export.to && export.chunk ? 0 : error_set(err, ENOMEM, "write the archive");

    if (r == 0)
        r = open_target(path, &name, &directory, err);
    if (r == 0)
        r = temp_file_create(&temp, directory, err);
    if (r == 0)
        r = export_chain(&export, chain, temp.fd, err);
    /* Before the descriptor goes: an archive that is not whole is still flushed into it. */
    archive_write_free(export.to);
    free(export.chunk);
    if (r == 0)
        r = temp_file_publish(&temp, name, 0644, err);
    temp_file_done(&temp);
    return r;
}

int snapshot_store_export(struct snapshot_store *store, const char *id, const char *path,
                          struct error *err)
{
    struct snapshot_chain chain;
    int r = snapshot_chain_open(snapshot_store_resolve, store, id, &chain, err);

    if (r < 0)
        return r;
    r = export_to(store, &chain, path, err);
    if (r < 0)
        error_wrap(err, "export snapshot '%s' to '%s'", chain.objects[0].manifest.name, path);
    snapshot_chain_done(&chain);
    return r;
}
