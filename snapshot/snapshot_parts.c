/*
 * The small parts of a snapshot, and the check of all of them. Part of the snapshot store
 * (snapshot_store.h). Everything that is read may have been altered.
 *
 * working_set: SHA-256 of what follows, the snapshot's id (32 bytes), a list of pages
 * (snapshot_extents.h). The manifest does not vouch for it, so it vouches for itself; it decides
 * only which pages are read early.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_sha256.h"
#include "snapshot/memory_digest.h"
#include "snapshot/snapshot_internal.h"

enum {
    AT_ID = SHA256_BYTES,
    AT_PAGES = AT_ID + SHA256_BYTES,
    WORKING_SET_BYTES_MAX =
        AT_PAGES + SNAPSHOT_EXTENTS_HEADER_BYTES + SNAPSHOT_PAGES_MAX / 2 * SNAPSHOT_EXTENT_BYTES,
};

int snapshot_store_state(struct snapshot_store *store, const struct snapshot_manifest *manifest,
                         uint8_t **ret_state, size_t *ret_len_bytes, struct error *err)
{
    struct snapshot_object object = {.fd = -1};
    int r = snapshot_store_resolve(store, manifest->id, &object, err);

    if (r < 0)
        return r;
    r = snapshot_object_read(&object, SNAPSHOT_FILE_STATE, &object.manifest.state, ret_state,
                             ret_len_bytes, err);
    snapshot_object_done(&object);
    return r;
}

/* --- working set ----------------------------------------------------------------------------- */

static int encode_working_set(const struct snapshot_manifest *manifest,
                              const struct snapshot_extents *pages, uint8_t **ret_data,
                              size_t *ret_len)
{
    AUTO_FREE uint8_t *list = NULL;
    size_t len = 0;
    int r = snapshot_extents_serialise(pages, &list, &len);

    if (r < 0)
        return r;
    AUTO_FREE uint8_t *data = malloc(AT_PAGES + len);
    if (!data)
        return -ENOMEM;
    sha256_from_hex(manifest->id, data + AT_ID);
    memcpy(data + AT_PAGES, list, len);
    r = sha256_of(data + AT_ID, AT_PAGES - AT_ID + len, data);
    if (r < 0)
        return r;
    *ret_data = mem_steal(&data);
    *ret_len = AT_PAGES + len;
    return 0;
}

static int write_working_set(const struct snapshot_object *object, const uint8_t *data, size_t len,
                             struct error *err)
{
    struct temp_file temp;
    int r = temp_file_create(&temp, object->fd, err);

    if (r < 0)
        return r;
    r = file_pwrite_all(temp.fd, data, len, 0);
    if (r < 0)
        error_set(err, -r, "write " SNAPSHOT_FILE_WORKING_SET);
    else
        r = temp_file_publish(&temp, SNAPSHOT_FILE_WORKING_SET, 0644, err);
    temp_file_done(&temp);
    return r;
}

int snapshot_store_set_working_set(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest,
                                   const struct snapshot_extents *pages, struct error *err)
{
    struct snapshot_object object = {.fd = -1};
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    int r = snapshot_store_resolve(store, manifest->id, &object, err);

    if (r < 0)
        return r;
    if (snapshot_extents_end(pages) > object.manifest.memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB)
        r = error_say(err, EINVAL, "the working set lies outside the memory of snapshot '%s'",
                      object.manifest.name);
    if (r == 0) {
        r = encode_working_set(&object.manifest, pages, &data, &len);
        if (r < 0)
            error_set(err, -r, "working set of snapshot '%s'", object.manifest.name);
    }
    if (r == 0)
        r = write_working_set(&object, data, len, err);
    snapshot_object_done(&object);
    return r;
}

int snapshot_object_working_set(const struct snapshot_object *object,
                                struct snapshot_extents *ret_pages, struct error *err)
{
    const struct snapshot_manifest *manifest = &object->manifest;
    AUTO_FREE uint8_t *data = NULL;
    uint8_t digest[SHA256_BYTES], id[SHA256_BYTES];
    char what[64];
    size_t len = 0;
    int r = file_read_small(object->fd, SNAPSHOT_FILE_WORKING_SET, WORKING_SET_BYTES_MAX, &data,
                            &len, err);

    if (r < 0)
        return r;
    snprintf(what, sizeof(what), "'%.12s/" SNAPSHOT_FILE_WORKING_SET "'", manifest->id);
    if (len < AT_PAGES)
        return error_say(err, EBADMSG, "%s is truncated: it has %zu bytes", what, len);
    r = sha256_of(data + AT_ID, len - AT_ID, digest);
    if (r < 0)
        return error_set(err, -r, "check %s", what);
    sha256_from_hex(manifest->id, id);
    if (memcmp(digest, data, SHA256_BYTES) != 0)
        return error_say(err, EBADMSG, "%s is damaged: its checksum does not match", what);
    if (memcmp(id, data + AT_ID, SHA256_BYTES) != 0)
        return error_say(err, EBADMSG, "%s belongs to another snapshot", what);
    return snapshot_extents_parse(data + AT_PAGES, len - AT_PAGES,
                                  manifest->memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB, what,
                                  ret_pages, err);
}

int snapshot_store_get_working_set(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest,
                                   struct snapshot_extents *ret_pages, struct error *err)
{
    struct snapshot_object object = {.fd = -1};
    int r = snapshot_store_resolve(store, manifest->id, &object, err);

    if (r < 0)
        return r;
    r = snapshot_object_working_set(&object, ret_pages, err);
    snapshot_object_done(&object);
    return r;
}

/* --- verify ---------------------------------------------------------------------------------- */

static int check_small_parts(const struct snapshot_object *object, struct error *err)
{
    struct snapshot_extents working_set = {0};
    AUTO_FREE uint8_t *state = NULL;
    size_t len;
    int r = snapshot_object_read(object, SNAPSHOT_FILE_STATE, &object->manifest.state, &state, &len,
                                 err);

    if (r < 0)
        return r;
    r = snapshot_object_working_set(object, &working_set, err);
    snapshot_extents_done(&working_set);
    return r == -ENOENT ? 0 : r;
}

int snapshot_chain_verify(const struct snapshot_store *store, const struct snapshot_chain *chain,
                          struct error *err)
{
    for (size_t i = 0; i < chain->n; i++) {
        int r = check_small_parts(&chain->objects[i], err);

        if (r < 0)
            return r;
    }
    return snapshot_cache_check(store, chain, err);
}

static int verify_cached(const struct snapshot_store *store,
                         const struct snapshot_manifest *manifest, struct error *err)
{
    char file[SNAPSHOT_FILE_NAME_BYTES], hex[2 * SHA256_BYTES + 1];

    if (snapshot_cache_bytes(store, manifest->id) == 0)
        return 0;
    snprintf(file, sizeof(file), "%s" SNAPSHOT_CACHE_SUFFIX, manifest->id);
    AUTO_FD fd = openat(store->cache_fd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "open cache/%s", file);
    int r = memory_digest_of_file(fd, manifest->memory_mib, "a flattened memory", hex,
                                  &store->watch, err);
    if (r == 0 && strcmp(hex, manifest->flat_sha256) == 0)
        return 0;
    if (r < 0 && r != -ENODATA)
        return r;
    return error_say(err, EBADMSG,
                     "the flattened memory '%s/cache/%s' is damaged; delete it, it is made anew "
                     "when needed",
                     store->directory, file);
}

int snapshot_store_verify(struct snapshot_store *store, const char *id, struct error *err)
{
    struct snapshot_chain chain;
    int r = snapshot_chain_open(snapshot_store_resolve, store, id, &chain, err);

    if (r < 0)
        return r;
    r = snapshot_chain_verify(store, &chain, err);
    if (r == 0)
        r = verify_cached(store, &chain.objects[0].manifest, err);
    snapshot_chain_done(&chain);
    return r;
}
