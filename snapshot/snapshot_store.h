/*
 * The snapshot store: frozen microVMs, content-addressed, each a diff of its parent.
 *
 * Layout below the store's directory (<state>/snapshots):
 *   <id>/manifest.json   what it is, digests of all parts; its own SHA-256 is the id
 *   <id>/state.pb        the monitor's state, bytes to everybody else
 *   <id>/memory.pages    which pages differ from the parent's flattened memory
 *   <id>/memory.mfs      their content: zstd frames, index, digests (images/image_format.h)
 *   <id>/working_set     pages that restored guests touch first; optional, added later, not in the
 * id names/<name>.json    what a name stands for cache/<id>.mem       the flattened memory, sparse:
 * what clones map MAP_PRIVATE Everything appears by rename, after fsync: nothing partial is ever
 * visible.
 *
 * The cache has a size limit. A file that clones have mapped may be removed all the same: their
 * maps keep it alive, and its blocks are freed when the last of them is gone; the next clone gets a
 * new file, whose pages it does not share with the older ones.
 *
 * Trust: everything below the directory may be truncated, altered or made by an attacker; so may an
 * archive that is imported, and the memory that a monitor hands over.
 * Threads: a store may be used by one thread at a time; several processes may share a directory.
 */
#ifndef MAYFLY_SNAPSHOT_STORE_H
#define MAYFLY_SNAPSHOT_STORE_H

#include <signal.h>

#include "images/image_store.h"
#include "snapshot/snapshot_extents.h"
#include "snapshot/snapshot_manifest.h"

#define SNAPSHOT_CACHE_BYTES_DEFAULT (UINT64_C(8) << 30)

struct snapshot_store;

int snapshot_store_open(const char *directory, struct snapshot_store **ret_store,
                        struct error *err);
void snapshot_store_close(struct snapshot_store *store); /* takes NULL */

/* As image_store_on_progress(), image_store_set_cancel(). */
void snapshot_store_on_progress(struct snapshot_store *store, image_progress *progress,
                                void *opaque);
void snapshot_store_set_cancel(struct snapshot_store *store,
                               const volatile sig_atomic_t *cancelled);

/* snapshot_store_set_cache_limit - in bytes on disk; SNAPSHOT_CACHE_BYTES_DEFAULT until called. */
void snapshot_store_set_cache_limit(struct snapshot_store *store, uint64_t limit_bytes);

/* --- making ---------------------------------------------------------------------------------- */

struct snapshot_write {
    /*
     * What the caller says of it: the first half of struct snapshot_manifest, ->parent as a whole
     * id. ->id and what the writer fills are ignored.
     */
    const struct snapshot_manifest *about;
    const void *state;
    size_t state_bytes; /* up to SNAPSHOT_STATE_BYTES_MAX */
    /* RAM from page 0. Its offset moves. The VM must be paused, or at least leave it alone. */
    int memory_fd;
    /*
     * The pages of memory_fd that may differ from the parent's memory; nothing else of it is read.
     * NULL: all that is not a hole; then holes are zero without a parent, the parent's with one.
     */
    const struct snapshot_extents *changed;
};

/*
 * snapshot_store_write - store a snapshot and give it the name in ->about. Pages that are the
 * parent's after all are left out. An older snapshot of that name stays without one.
 * After an error (-ENOSPC, -EIO, -EINTR, …) nothing of it is visible, and a retry is welcome.
 */
int snapshot_store_write(struct snapshot_store *store, const struct snapshot_write *write,
                         struct snapshot_manifest *ret_manifest, struct error *err);

/* --- finding --------------------------------------------------------------------------------- */

struct snapshot_info {
    struct snapshot_manifest manifest;
    bool is_named; /* the name in the manifest stands for it */
    bool has_working_set;
    uint64_t stored_bytes; /* all parts */
    uint64_t cached_bytes; /* on disk, of its flattened memory; 0: not cached */
    char problem[256];     /* list only: why it is of no use (then only manifest.id is set); "" */
};

/* snapshot_store_find - the id of a name, or of a unique prefix of at least 8 digits. -ENOENT. */
int snapshot_store_find(struct snapshot_store *store, const char *name,
                        char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err);

/* snapshot_store_inspect - all that is known of @id; ->problem is "". -ENOENT, -EBADMSG. */
int snapshot_store_inspect(struct snapshot_store *store, const char *id,
                           struct snapshot_info *ret_info, struct error *err);

/* snapshot_store_list - parents before their children; *ret_list is owned (free()). */
int snapshot_store_list(struct snapshot_store *store, struct snapshot_info **ret_list,
                        size_t *ret_n, struct error *err);

/* --- using ----------------------------------------------------------------------------------- */

/*
 * snapshot_store_flatten - the flattened memory of @manifest (as inspect returned it): an owned,
 * read-only descriptor of a file memory_mib long, to be mapped MAP_PRIVATE. Made now, on all cores,
 * if it is not cached; several processes that want it wait for the one that makes it. Everything is
 * checked while it is made; -EBADMSG names the part that is wrong, -ENOENT a parent that is
 * missing. Makes room in the cache by removing what was not used for longest.
 * @ret_us: time spent making it, 0 when it was cached. May be NULL.
 */
int snapshot_store_flatten(struct snapshot_store *store, const struct snapshot_manifest *manifest,
                           int *ret_fd, uint64_t *ret_us, struct error *err);

/* snapshot_store_state - the monitor's state, checked. *ret_state is owned (free()). */
int snapshot_store_state(struct snapshot_store *store, const struct snapshot_manifest *manifest,
                         uint8_t **ret_state, size_t *ret_len_bytes, struct error *err);

/*
 * The working set: a hint, so a damaged one costs time only. Set replaces an older one atomically.
 * Get returns -ENOENT if there is none; *ret_pages is owned.
 */
int snapshot_store_set_working_set(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest,
                                   const struct snapshot_extents *pages, struct error *err);
int snapshot_store_get_working_set(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest,
                                   struct snapshot_extents *ret_pages, struct error *err);

/*
 * snapshot_store_read_ahead - if @memory_fd (as flatten returned it) has left the page cache, ask
 * for the pages of the recorded working set at once, in order, and do not wait for them. Takes
 * about 0.1 ms where the file is in the cache. Returns how many pages it asked for; 0 where there
 * is nothing to do or no set recorded.
 */
uint32_t snapshot_store_read_ahead(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest, int memory_fd);

/*
 * snapshot_store_verify - reads and checks every byte of @id, of its parents, of its working set
 * and of its cached memory; needs room for one more copy of that. -EBADMSG names what is wrong.
 */
int snapshot_store_verify(struct snapshot_store *store, const char *id, struct error *err);

/* --- removing -------------------------------------------------------------------------------- */

/*
 * snapshot_store_remove - the snapshot that a name or prefix stands for, its name and its cached
 * memory. -ENOTEMPTY names the children it has, unless @is_recursive: then they go first.
 * A damaged snapshot can be removed. VMs that run from it are not disturbed.
 */
int snapshot_store_remove(struct snapshot_store *store, const char *name, bool is_recursive,
                          struct error *err);

struct snapshot_gc {
    uint32_t snapshots;   /* removed: no name stands for them or for a child of theirs */
    uint32_t cached;      /* flattened memories removed: without a snapshot, or over the limit */
    uint32_t names;       /* removed: they stood for nothing */
    uint64_t freed_bytes; /* of all of these */
};

/*
 * snapshot_store_collect - as snapshot_store_gc(), and of the named snapshots those that @wanted
 * says no of, unless a wanted one is below them. It is asked under the store's lock, about what is
 * there by then: it must not call into a store.
 */
typedef bool snapshot_wanted(void *opaque, const struct snapshot_info *info);
int snapshot_store_collect(struct snapshot_store *store, snapshot_wanted *wanted, void *opaque,
                           struct snapshot_gc *ret_gc, struct error *err);

/*
 * snapshot_store_gc - remove what nobody can use, what killed processes left behind, and what the
 * cache has over its limit. -EBADMSG if a named snapshot is damaged: then what it needs is not
 * known, and no snapshot is removed.
 */
int snapshot_store_gc(struct snapshot_store *store, struct snapshot_gc *ret_gc, struct error *err);

/* --- moving ---------------------------------------------------------------------------------- */

/*
 * snapshot_store_export - @id and its parents as one tar archive, uncompressed (what is in it is),
 * at @path, which appears when it is whole.
 */
int snapshot_store_export(struct snapshot_store *store, const char *id, const char *path,
                          struct error *err);

/*
 * snapshot_store_import - the snapshots of such an archive, which may be hostile. All of it is
 * checked as verify does before anything becomes visible. The snapshot without a child in it gets
 * its name, replacing an older one; parents get theirs where it is free. *ret_id: of that snapshot.
 */
int snapshot_store_import(struct snapshot_store *store, const char *path,
                          char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err);

#endif
