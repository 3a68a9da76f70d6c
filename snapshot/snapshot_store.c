/*
 * The snapshot store: see snapshot_store.h. Owning process: whoever opens it (the CLI, mayflyd, a
 * test). Invariant: a directory has an id for its name, and a file below cache/ or names/ its final
 * name, only when it is whole and on disk; names and objects change only under a lock on names/.
 */
#include "snapshot/snapshot_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "snapshot/memory_save.h"
#include "snapshot/snapshot_internal.h"

/* --- open and close -------------------------------------------------------------------------- */

static int open_directories(struct snapshot_store *store, struct error *err)
{
    int r = file_make_directory(store->directory, 0755, err);

    if (r < 0)
        return r;
    store->top_fd = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->top_fd < 0)
        return error_set(err, errno, "open '%s'", store->directory);
    store->names_fd = file_open_directory_at(store->top_fd, "names", err);
    if (store->names_fd < 0)
        return store->names_fd;
    store->cache_fd = file_open_directory_at(store->top_fd, "cache", err);
    return store->cache_fd < 0 ? store->cache_fd : 0;
}

int snapshot_store_open(const char *directory, struct snapshot_store **ret_store, struct error *err)
{
    struct snapshot_store *store = calloc(1, sizeof(*store));

    if (!store)
        return error_set(err, ENOMEM, "open snapshot store '%s'", directory);
    store->top_fd = store->names_fd = store->cache_fd = -1;
    store->cache_limit_bytes = SNAPSHOT_CACHE_BYTES_DEFAULT;
    store->directory = strdup(directory);
    int r =
        store->directory ? open_directories(store, err) : error_set(err, ENOMEM, "open directory");
    if (r < 0) {
        error_wrap(err, "snapshot store '%s'", directory);
        snapshot_store_close(store);
        return r;
    }
    snapshot_directory_sweep(store->top_fd);
    temp_file_sweep(store->names_fd);
    temp_file_sweep(store->cache_fd);
    *ret_store = store;
    return 0;
}

void snapshot_store_close(struct snapshot_store *store)
{
    if (!store)
        return;
    fd_close_at_exit(&store->top_fd);
    fd_close_at_exit(&store->names_fd);
    fd_close_at_exit(&store->cache_fd);
    free(store->directory);
    free(store);
}

void snapshot_store_on_progress(struct snapshot_store *store, image_progress *progress,
                                void *opaque)
{
    store->watch.progress = progress;
    store->watch.opaque = opaque;
}

void snapshot_store_set_cancel(struct snapshot_store *store, const volatile sig_atomic_t *cancelled)
{
    store->watch.cancelled = cancelled;
}

void snapshot_store_set_cache_limit(struct snapshot_store *store, uint64_t limit_bytes)
{
    store->cache_limit_bytes = limit_bytes;
}

int snapshot_store_lock(const struct snapshot_store *store, int *ret_fd, struct error *err)
{
    AUTO_FD fd = openat(store->names_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return error_set(err, errno, "open the names of '%s'", store->directory);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR || (store->watch.cancelled && *store->watch.cancelled))
            return error_set(err, errno, "lock snapshot store '%s'", store->directory);
    *ret_fd = fd_steal(&fd);
    return 0;
}

int snapshot_store_resolve(void *opaque, const char *id, struct snapshot_object *ret_object,
                           struct error *err)
{
    const struct snapshot_store *store = opaque;

    if (!image_digest_is_valid(id, SNAPSHOT_ID_HEX))
        return error_say(err, EINVAL, "'%.80s' is no snapshot's id", id);
    return snapshot_object_open(store->top_fd, id, id, ret_object, err);
}

/* --- publish --------------------------------------------------------------------------------- */

static bool is_there_and_good(struct snapshot_store *store, const char *id)
{
    return faccessat(store->top_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
           snapshot_store_verify(store, id, NULL) == 0;
}

static int check_parent_is_there(struct snapshot_store *store,
                                 const struct snapshot_manifest *manifest, struct error *err)
{
    if (!manifest->parent[0] ||
        faccessat(store->top_fd, manifest->parent, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    return error_say(err, ENOENT, "the parent %.12s of snapshot '%s' was removed meanwhile",
                     manifest->parent, manifest->name);
}

int snapshot_store_publish(struct snapshot_store *store, struct staged_snapshot *staged,
                           const struct snapshot_manifest *manifest, bool takes_name,
                           struct error *err)
{
    char other[SNAPSHOT_ID_HEX + 1];
    const bool is_there = is_there_and_good(store, manifest->id);
    int r = check_parent_is_there(store, manifest, err);

    if (r < 0)
        return r;
    if (!takes_name)
        takes_name = snapshot_name_read(store, manifest->name, other, NULL) == -ENOENT;
    if (!is_there)
        r = staged_publish(staged, manifest->id, err);
    if (r == 0 && takes_name) {
        r = snapshot_name_write(store, manifest->name, manifest->id, err);
        if (r < 0 && !is_there)
            snapshot_directory_remove(store->top_fd, manifest->id, NULL);
    }
    return r;
}

/* --- write ----------------------------------------------------------------------------------- */

/* A snapshot being written. */
struct writing {
    struct snapshot_store *store;
    const struct snapshot_write *write;
    struct snapshot_manifest manifest;
    struct staged_snapshot staged;
    struct snapshot_extents held; /* owned; when the caller gave none */
    struct memory_input input;    /* ->parent_fd is owned */
    struct memory_pages pages;    /* owned */
};

static int check_request(struct writing *writing, struct error *err)
{
    const struct snapshot_write *write = writing->write;
    const char *wrong;

    writing->manifest = *write->about;
    if (writing->manifest.created_s == 0)
        writing->manifest.created_s = (int64_t)time(NULL);
    wrong = snapshot_manifest_check(&writing->manifest, false);
    if (wrong)
        return error_say(err, EINVAL, "'%s' is missing or out of bounds", wrong);
    if (write->state_bytes > SNAPSHOT_STATE_BYTES_MAX)
        return error_say(err, EFBIG, "its state has %zu bytes; %d are allowed", write->state_bytes,
                         SNAPSHOT_STATE_BYTES_MAX);
    return 0;
}

static int open_parent(struct writing *writing, struct error *err)
{
    struct snapshot_chain chain = {0};
    struct snapshot_manifest parent;

    writing->input.parent_fd = -1;
    if (!writing->manifest.parent[0])
        return 0;
    int r = snapshot_chain_open(snapshot_store_resolve, writing->store, writing->manifest.parent,
                                &chain, err);
    if (r < 0)
        return r;
    parent = chain.objects[0].manifest;
    r = snapshot_check_parent(&writing->manifest, &parent, err);
    if (r == 0 && chain.n == SNAPSHOT_DEPTH_MAX)
        r = error_say(err, EINVAL, "its parent '%s' has as many parents as there may be",
                      parent.name);
    snapshot_chain_done(&chain);
    if (r < 0)
        return r;
    writing->input.parent_mib = parent.memory_mib;
    return snapshot_store_flatten(writing->store, &parent, &writing->input.parent_fd, NULL, err);
}

static int find_changed(struct writing *writing, struct error *err)
{
    struct memory_input *input = &writing->input;

    input->fd = writing->write->memory_fd;
    input->memory_mib = writing->manifest.memory_mib;
    input->changed = writing->write->changed;
    if (input->changed)
        return 0;
    input->changed = &writing->held;
    return snapshot_extents_of_file(input->fd, input->memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB,
                                    &writing->held, err);
}

/* Compresses the pages into memory.mfs and fills what the manifest says of it. */
static int write_memory(struct writing *writing, struct error *err)
{
    struct snapshot_manifest *manifest = &writing->manifest;
    uint8_t header[IMAGE_FORMAT_HEADER_BYTES], digest[SHA256_BYTES];
    AUTO_FD fd = openat(writing->staged.fd, SNAPSHOT_FILE_MEMORY,
                        O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

    if (fd < 0)
        return error_set(err, errno, "write " SNAPSHOT_FILE_MEMORY);
    int r = memory_compress(&writing->input, &writing->pages, fd, &writing->store->watch, err);
    if (r < 0)
        return r;
    off_t bytes = lseek(fd, 0, SEEK_END);
    if (bytes < 0 || fsync(fd) < 0)
        return error_set(err, errno, "write " SNAPSHOT_FILE_MEMORY);
    manifest->memory.bytes = (uint64_t)bytes;
    r = sha256_of_file(fd, manifest->memory.bytes, digest);
    sha256_hex(digest, manifest->memory.sha256);
    if (r == 0)
        r = fd_pread_all(fd, header, sizeof(header), 0);
    if (r == 0)
        r = sha256_of(header, sizeof(header), digest);
    sha256_hex(digest, manifest->memory_header_sha256);
    return r < 0 ? error_set(err, -r, "read back " SNAPSHOT_FILE_MEMORY) : 0;
}

static int write_pages(struct writing *writing, struct error *err)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    int r = memory_pages_encode(&writing->pages, &data, &len);

    if (r < 0)
        return error_set(err, -r, "write " SNAPSHOT_FILE_PAGES);
    return staged_add_file(&writing->staged, SNAPSHOT_FILE_PAGES, data, len,
                           &writing->manifest.pages, err);
}

static int write_manifest(struct writing *writing, struct error *err)
{
    struct snapshot_part unused;
    AUTO_FREE char *text = NULL;
    size_t len = 0;
    int r = snapshot_manifest_encode(&writing->manifest, &text, &len, err);

    if (r < 0)
        return r;
    return staged_add_file(&writing->staged, SNAPSHOT_FILE_MANIFEST, text, len, &unused, err);
}

static int write_parts(struct writing *writing, struct error *err)
{
    struct snapshot_manifest *manifest = &writing->manifest;
    int r = staged_add_file(&writing->staged, SNAPSHOT_FILE_STATE, writing->write->state,
                            writing->write->state_bytes, &manifest->state, err);

    if (r == 0)
        r = memory_compare(&writing->input, &writing->pages, manifest->flat_sha256,
                           &writing->store->watch, err);
    if (r < 0)
        return r;
    manifest->data_pages = snapshot_extents_pages(&writing->pages.data);
    manifest->zero_pages = snapshot_extents_pages(&writing->pages.zero);
    manifest->memory = (struct snapshot_part){0};
    manifest->memory_header_sha256[0] = '\0';
    r = write_pages(writing, err);
    if (r == 0 && manifest->data_pages > 0)
        r = write_memory(writing, err);
    return r == 0 ? write_manifest(writing, err) : r;
}

static int write_and_publish(struct writing *writing, struct error *err)
{
    AUTO_FD lock = -1;
    int r = staged_create(&writing->staged, writing->store->top_fd, err);

    if (r == 0)
        r = write_parts(writing, err);
    if (r == 0)
        r = snapshot_store_lock(writing->store, &lock, err);
    if (r == 0)
        r = snapshot_store_publish(writing->store, &writing->staged, &writing->manifest, true, err);
    staged_done(&writing->staged);
    return r;
}

int snapshot_store_write(struct snapshot_store *store, const struct snapshot_write *write,
                         struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct writing writing = {
        .store = store, .write = write, .staged = {.fd = -1}, .input = {.parent_fd = -1}};
    int r = check_request(&writing, err);

    if (r == 0)
        r = open_parent(&writing, err);
    if (r == 0)
        r = find_changed(&writing, err);
    if (r == 0)
        r = write_and_publish(&writing, err);
    fd_close_at_exit(&writing.input.parent_fd);
    memory_pages_done(&writing.pages);
    snapshot_extents_done(&writing.held);
    if (r < 0) {
        error_wrap(err, "write snapshot '%.*s'", SNAPSHOT_NAME_MAX, write->about->name);
        return r;
    }
    *ret_manifest = writing.manifest;
    return 0;
}
