/* One snapshot's directory, and a snapshot with all its parents. Everything in them is hostile. */
#ifndef MAYFLY_SNAPSHOT_OBJECT_H
#define MAYFLY_SNAPSHOT_OBJECT_H

#include "snapshot/snapshot_manifest.h"

/* The files in a snapshot's directory. */
#define SNAPSHOT_FILE_MANIFEST "manifest.json"
#define SNAPSHOT_FILE_STATE "state.pb"
#define SNAPSHOT_FILE_PAGES "memory.pages"
#define SNAPSHOT_FILE_MEMORY "memory.mfs"
#define SNAPSHOT_FILE_WORKING_SET "working_set"

struct snapshot_object {
    int fd; /* owned directory; -1: none */
    struct snapshot_manifest manifest;
};

/*
 * snapshot_object_open - the directory @directory of @parent_fd, never through a symbolic link, and
 * its manifest, whose digest must be @id. -ENOENT; -EBADMSG says what is wrong.
 */
int snapshot_object_open(int parent_fd, const char *directory, const char *id,
                         struct snapshot_object *ret_object, struct error *err);
void snapshot_object_done(struct snapshot_object *object);

/*
 * snapshot_object_read - a small part, whole: its size and digest are checked. *ret_data is owned,
 * with a 0 after it. @file: one of the names above; messages have it and the snapshot's id.
 */
int snapshot_object_read(const struct snapshot_object *object, const char *file,
                         const struct snapshot_part *part, uint8_t **ret_data, size_t *ret_len,
                         struct error *err);

/* A snapshot ([0]) and its parents up to the root of the tree ([n - 1]). */
struct snapshot_chain {
    size_t n;
    struct snapshot_object objects[SNAPSHOT_DEPTH_MAX];
};

/* Opens the object @id, wherever it is. -ENOENT if there is none. */
typedef int snapshot_resolve(void *opaque, const char *id, struct snapshot_object *ret_object,
                             struct error *err);

/*
 * snapshot_chain_open - @id and its parents, of which there may be SNAPSHOT_DEPTH_MAX - 1. A child
 * must fit its parent: level, kernel, no less memory. Ids are digests, so there are no cycles; the
 * depth is bounded all the same. -ENOENT names the parent that is missing. Close with _done().
 */
int snapshot_chain_open(snapshot_resolve *resolve, void *opaque, const char *id,
                        struct snapshot_chain *ret_chain, struct error *err);
void snapshot_chain_done(struct snapshot_chain *chain);

/* snapshot_check_parent - may @child be taken of a VM that was restored from @parent? */
int snapshot_check_parent(const struct snapshot_manifest *child,
                          const struct snapshot_manifest *parent, struct error *err);

#endif
