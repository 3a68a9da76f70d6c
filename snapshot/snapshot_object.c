/*
 * Opening snapshots and their parents: see snapshot_object.h.
 * Invariant: a manifest that is handed out has the digest that is its id, so the digests in it are
 * those of whoever made the snapshot; every part is held against them before it is used.
 */
#include "snapshot/snapshot_object.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_sha256.h"

int snapshot_object_open(int parent_fd, const char *directory, const char *id,
                         struct snapshot_object *ret_object, struct error *err)
{
    AUTO_FD fd = openat(parent_fd, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    AUTO_FREE uint8_t *text = NULL;
    size_t len = 0;

    if (fd < 0)
        return error_set(err, errno, "open snapshot %.12s", id);
    int r =
        file_read_small(fd, SNAPSHOT_FILE_MANIFEST, SNAPSHOT_MANIFEST_BYTES_MAX, &text, &len, err);
    if (r == -ENOENT)
        return error_say(err, EBADMSG, "snapshot %.12s: its manifest is missing", id);
    if (r < 0) {
        error_wrap(err, "snapshot %.12s", id);
        return r;
    }
    r = snapshot_manifest_decode((const char *)text, len, id, &ret_object->manifest, err);
    if (r == 0)
        ret_object->fd = fd_steal(&fd);
    return r;
}

void snapshot_object_done(struct snapshot_object *object)
{
    if (object->fd >= 0)
        close(object->fd);
    object->fd = -1;
}

int snapshot_object_read(const struct snapshot_object *object, const char *file,
                         const struct snapshot_part *part, uint8_t **ret_data, size_t *ret_len,
                         struct error *err)
{
    AUTO_FREE uint8_t *data = NULL;
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    size_t len = 0;
    int r = file_read_small(object->fd, file, (size_t)part->bytes, &data, &len, err);

    if (r == -ENOENT)
        return error_say(err, EBADMSG, "snapshot %.12s: %s is missing", object->manifest.id, file);
    if (r < 0) {
        error_wrap(err, "snapshot %.12s", object->manifest.id);
        return r;
    }
    if (len != part->bytes)
        return error_say(
            err, EBADMSG,
            "snapshot %.12s: %s is truncated: it has %zu bytes, the manifest says %llu",
            object->manifest.id, file, len, (unsigned long long)part->bytes);
    r = sha256_of(data, len, digest);
    if (r < 0)
        return error_set(err, -r, "check %s", file);
    sha256_hex(digest, hex);
    if (strcmp(hex, part->sha256) != 0)
        return error_say(err, EBADMSG,
                         "snapshot %.12s: %s is damaged: its SHA-256 is not the manifest's",
                         object->manifest.id, file);
    *ret_data = mem_steal(&data);
    *ret_len = len;
    return 0;
}

int snapshot_check_parent(const struct snapshot_manifest *child,
                          const struct snapshot_manifest *parent, struct error *err)
{
    const char *problem = NULL;

    if (child->level < parent->level)
        problem = "stands above it in the tree";
    else if (child->memory_mib < parent->memory_mib)
        problem = "has less memory";
    else if (strcmp(child->kernel_digest, parent->kernel_digest) != 0)
        problem = "has another kernel";
    if (!problem)
        return 0;
    return error_say(err, EBADMSG, "snapshot '%s' cannot be a child of '%s' (%.12s): it %s",
                     child->name, parent->name, parent->id, problem);
}

/* Opens the parent of the last object of @chain and checks that the two fit. */
static int open_next(snapshot_resolve *resolve, void *opaque, struct snapshot_chain *chain,
                     struct error *err)
{
    const struct snapshot_manifest *child = &chain->objects[chain->n - 1].manifest;
    struct snapshot_object *next = &chain->objects[chain->n];

    if (chain->n == SNAPSHOT_DEPTH_MAX)
        return error_say(err, EBADMSG, "snapshot '%s' has more than %d parents",
                         chain->objects[0].manifest.name, SNAPSHOT_DEPTH_MAX - 1);
    int r = resolve(opaque, child->parent, next, err);
    if (r == -ENOENT)
        return error_say(err, ENOENT, "the parent %.12s of snapshot '%s' (%.12s) is missing",
                         child->parent, child->name, child->id);
    if (r < 0) {
        error_wrap(err, "parent of snapshot '%s'", child->name);
        return r;
    }
    chain->n++;
    return snapshot_check_parent(child, &next->manifest, err);
}

int snapshot_chain_open(snapshot_resolve *resolve, void *opaque, const char *id,
                        struct snapshot_chain *ret_chain, struct error *err)
{
    struct snapshot_chain chain = {.n = 0};
    int r = resolve(opaque, id, &chain.objects[0], err);

    if (r < 0)
        return r;
    chain.n = 1;
    while (r == 0 && chain.objects[chain.n - 1].manifest.parent[0])
        r = open_next(resolve, opaque, &chain, err);
    if (r < 0) {
        snapshot_chain_done(&chain);
        return r;
    }
    *ret_chain = chain;
    return 0;
}

void snapshot_chain_done(struct snapshot_chain *chain)
{
    for (size_t i = 0; i < chain->n; i++)
        snapshot_object_done(&chain->objects[i]);
    chain->n = 0;
}
