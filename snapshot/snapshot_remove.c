/*
 * Taking snapshots away: by name, with their children, or because nobody needs them. Part of the
 * snapshot store (snapshot_store.h). Invariant: under the store's lock, a child goes before its
 * parent and a name before what it stands for, so that a crash leaves no snapshot that is of no
 * use.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_manifest.h"
#include "snapshot/snapshot_internal.h"

/* All snapshots of a store, and what is to become of them. */
struct forest {
    struct snapshot_info *items; /* owned */
    bool *marked;                /* owned */
    size_t n;
};

static int forest_open(struct snapshot_store *store, struct forest *forest, struct error *err)
{
    int r = snapshot_store_list(store, &forest->items, &forest->n, err);

    if (r < 0)
        return r;
    forest->marked = calloc(forest->n + 1, sizeof(*forest->marked));
    return forest->marked ? 0 : error_set(err, ENOMEM, "look at the snapshots");
}

static void forest_done(struct forest *forest)
{
    free(forest->items);
    free(forest->marked);
}

static size_t forest_find(const struct forest *forest, const char *id)
{
    size_t i = 0;

    while (i < forest->n && strcmp(forest->items[i].manifest.id, id) != 0)
        i++;
    return i;
}

/* --- one snapshot ---------------------------------------------------------------------------- */

struct unname {
    const struct snapshot_store *store;
    const char *id;
};

static int unname_one(void *opaque, const char *name, const char *id, struct error *err)
{
    const struct unname *unname = opaque;

    return strcmp(id, unname->id) == 0 ? snapshot_name_remove(unname->store, name, err) : 0;
}

int snapshot_remove_unlocked(const struct snapshot_store *store, const char *id, struct error *err)
{
    struct unname unname = {.store = store, .id = id};
    int r = snapshot_names_each(store, unname_one, &unname, err);

    if (r < 0)
        return r;
    snapshot_cache_remove(store, id);
    r = snapshot_directory_remove(store->top_fd, id, err);
    return r == -ENOENT ? 0 : r;
}

/* --- remove ---------------------------------------------------------------------------------- */

static int refuse(const struct forest *forest, const char *name, struct error *err)
{
    char children[256] = "";
    size_t len = 0;
    unsigned n = 0;

    for (size_t i = 0; i < forest->n; i++) {
        const struct snapshot_manifest *manifest = &forest->items[i].manifest;

        if (!forest->marked[i])
            continue;
        if (len < sizeof(children) - 80)
            len += (size_t)snprintf(children + len, sizeof(children) - len, "%s%s (%.12s)",
                                    n ? ", " : "", manifest->name, manifest->id);
        n++;
    }
    return error_say(err, ENOTEMPTY,
                     "snapshot '%.80s' has others below it: %s%s; remove them first, or all with "
                     "--recursive",
                     name, children, len >= sizeof(children) - 80 ? ", ..." : "");
}

/* Marks the children of @id, and theirs. Returns how many. */
static size_t mark_descendants(struct forest *forest, const char *id)
{
    size_t marked = 0;

    for (unsigned depth = 0; depth < SNAPSHOT_DEPTH_MAX; depth++)
        for (size_t i = 0; i < forest->n; i++) {
            const char *parent = forest->items[i].manifest.parent;
            size_t at = parent[0] ? forest_find(forest, parent) : forest->n;

            if (forest->marked[i] || !parent[0] ||
                (strcmp(parent, id) != 0 && (at == forest->n || !forest->marked[at])))
                continue;
            forest->marked[i] = true;
            marked++;
        }
    return marked;
}

/* How many parents a snapshot has here: children have more than their parents. */
static unsigned depth_of(const struct forest *forest, size_t i)
{
    unsigned depth = 0;

    while (depth < SNAPSHOT_DEPTH_MAX && i < forest->n && forest->items[i].manifest.parent[0]) {
        i = forest_find(forest, forest->items[i].manifest.parent);
        depth++;
    }
    return depth;
}

/* Removes what is marked, children first. @gc may be NULL. */
static int remove_marked(const struct snapshot_store *store, const struct forest *forest,
                         struct snapshot_gc *gc, struct error *err)
{
    for (unsigned depth = SNAPSHOT_DEPTH_MAX + 1; depth-- > 0;)
        for (size_t i = 0; i < forest->n; i++) {
            const struct snapshot_info *info = &forest->items[i];

            if (!forest->marked[i] || depth_of(forest, i) != depth)
                continue;
            int r = snapshot_remove_unlocked(store, info->manifest.id, err);
            if (r < 0)
                return r;
            if (gc) {
                gc->snapshots++;
                gc->cached += info->cached_bytes > 0;
                gc->freed_bytes += info->stored_bytes + info->cached_bytes;
            }
        }
    return 0;
}

static int remove_locked(struct snapshot_store *store, const char *name, bool is_recursive,
                         struct error *err)
{
    struct forest forest = {0};
    char id[SNAPSHOT_ID_HEX + 1];
    int r = snapshot_store_find(store, name, id, err);

    /* A name that is damaged stands for nothing, but it can go. */
    if (r == -EBADMSG && image_name_is_valid(name))
        return snapshot_name_remove(store, name, err);
    if (r == 0)
        r = forest_open(store, &forest, err);
    if (r == 0 && mark_descendants(&forest, id) > 0)
        r = is_recursive ? remove_marked(store, &forest, NULL, err) : refuse(&forest, name, err);
    if (r == 0)
        r = snapshot_remove_unlocked(store, id, err);
    forest_done(&forest);
    return r;
}

int snapshot_store_remove(struct snapshot_store *store, const char *name, bool is_recursive,
                          struct error *err)
{
    AUTO_FD lock = -1;
    int r = snapshot_store_lock(store, &lock, err);

    return r < 0 ? r : remove_locked(store, name, is_recursive, err);
}

/* --- collect what nobody needs --------------------------------------------------------------- */

struct collection {
    struct snapshot_store *store;
    struct forest forest; /* marked: needed */
    struct snapshot_gc *gc;
    snapshot_wanted *wanted; /* NULL: all that have a name are */
    void *opaque;
};

/* Marks what @name stands for. A name of nothing goes. */
static int mark_named(void *opaque, const char *name, const char *id, struct error *err)
{
    struct collection *collection = opaque;
    struct forest *forest = &collection->forest;
    size_t i = forest_find(forest, id);

    if (i < forest->n) {
        const struct snapshot_info *info = &forest->items[i];

        /* Of one that is damaged nobody can say: it stays, and is spoken of below. */
        if (info->problem[0] || !collection->wanted || collection->wanted(collection->opaque, info))
            forest->marked[i] = true;
        return 0;
    }
    if (id[0] == '\0')
        return error_say(err, EBADMSG,
                         "the name '%s' is damaged, so what it needs is not known; remove it first "
                         "(mayfly snapshot rm %s)",
                         name, name);
    collection->gc->names++;
    return snapshot_name_remove(collection->store, name, err);
}

/* Marks the parents of what is marked. */
static int mark_parents(struct forest *forest, struct error *err)
{
    for (unsigned depth = 0; depth < SNAPSHOT_DEPTH_MAX; depth++)
        for (size_t i = 0; i < forest->n; i++) {
            const struct snapshot_info *info = &forest->items[i];

            if (!forest->marked[i])
                continue;
            if (info->problem[0])
                return error_say(err, EBADMSG,
                                 "what snapshot %.12s needs is not known, no snapshot was "
                                 "collected; remove it first (mayfly snapshot rm %.12s): %s",
                                 info->manifest.id, info->manifest.id, info->problem);
            size_t parent =
                info->manifest.parent[0] ? forest_find(forest, info->manifest.parent) : forest->n;
            if (parent < forest->n)
                forest->marked[parent] = true;
        }
    return 0;
}

static int collect_snapshots(struct collection *collection, struct error *err)
{
    struct forest *forest = &collection->forest;
    int r = forest_open(collection->store, forest, err);

    if (r == 0)
        r = snapshot_names_each(collection->store, mark_named, collection, err);
    if (r == 0)
        r = mark_parents(forest, err);
    for (size_t i = 0; r == 0 && i < forest->n; i++)
        forest->marked[i] = !forest->marked[i];
    return r < 0 ? r : remove_marked(collection->store, forest, collection->gc, err);
}

/* A flattened memory whose snapshot is gone. */
static int collect_cached(void *opaque, const char *id, struct error *err)
{
    struct collection *collection = opaque;
    uint64_t bytes = snapshot_cache_bytes(collection->store, id);

    (void)err;
    if (faccessat(collection->store->top_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    snapshot_cache_remove(collection->store, id);
    collection->gc->cached++;
    collection->gc->freed_bytes += bytes;
    return 0;
}

/* What a killed process left while it wrote a working set. */
static int sweep_snapshot(void *opaque, const char *id, struct error *err)
{
    const struct collection *collection = opaque;
    AUTO_FD fd =
        openat(collection->store->top_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    (void)err;
    if (fd >= 0)
        temp_file_sweep(fd);
    return 0;
}

int snapshot_store_gc(struct snapshot_store *store, struct snapshot_gc *ret_gc, struct error *err)
{
    return snapshot_store_collect(store, NULL, NULL, ret_gc, err);
}

int snapshot_store_collect(struct snapshot_store *store, snapshot_wanted *wanted, void *opaque,
                           struct snapshot_gc *ret_gc, struct error *err)
{
    struct snapshot_gc gc = {0};
    struct collection collection = {.store = store, .gc = &gc, .wanted = wanted, .opaque = opaque};
    AUTO_FD lock = -1;
    int r = snapshot_store_lock(store, &lock, err);

    if (r < 0)
        return r;
    snapshot_directory_sweep(store->top_fd);
    temp_file_sweep(store->names_fd);
    temp_file_sweep(store->cache_fd);
    r = snapshot_each_entry(store->top_fd, "", true, sweep_snapshot, &collection, err);
    if (r == 0)
        r = snapshot_each_entry(store->cache_fd, SNAPSHOT_CACHE_SUFFIX, true, collect_cached,
                                &collection, err);
    if (r == 0)
        r = snapshot_cache_evict(store, NULL, &gc, err);
    if (r == 0)
        r = collect_snapshots(&collection, err);
    forest_done(&collection.forest);
    if (r == 0)
        *ret_gc = gc;
    return r;
}
