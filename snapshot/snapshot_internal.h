/* Between the files of the snapshot store: what an open store is. Not for other modules. */
#ifndef MAYFLY_SNAPSHOT_INTERNAL_H
#define MAYFLY_SNAPSHOT_INTERNAL_H

#include "images/image_codec.h"
#include "snapshot/snapshot_object.h"
#include "snapshot/snapshot_store.h"

#define SNAPSHOT_CACHE_SUFFIX ".mem"
#define SNAPSHOT_NAME_SUFFIX ".json"
enum { SNAPSHOT_FILE_NAME_BYTES = 80 }; /* "<id>.mem", "<name>.json", a temporary name */

struct snapshot_store {
    char *directory;                /* owned */
    int top_fd, names_fd, cache_fd; /* owned directories */
    struct image_watch watch;       /* what it points to is borrowed from the caller */
    uint64_t cache_limit_bytes;
};

/* --- snapshot_directory.c --- */

/* A snapshot that nobody sees until it is published. Its creator's lock marks it as in use. */
struct staged_snapshot {
    int store_fd; /* borrowed */
    int fd;       /* owned directory; -1: none */
    char name[SNAPSHOT_FILE_NAME_BYTES];
};

int staged_create(struct staged_snapshot *staged, int store_fd, struct error *err);
/* staged_add_file - @data as the file @name, on disk; fills *ret_part. */
int staged_add_file(const struct staged_snapshot *staged, const char *name, const void *data,
                    size_t len_bytes, struct snapshot_part *ret_part, struct error *err);
/*
 * staged_publish - under its id, for good. If that is there already, it must not be of use to
 * anybody any more, and is replaced. After an error the snapshot is still staged.
 */
int staged_publish(struct staged_snapshot *staged, const char *id, struct error *err);
/* staged_done - closes, and removes what was not published. */
void staged_done(struct staged_snapshot *staged);

/* Remove the directory of a snapshot: it is out of sight before anything of it goes. */
int snapshot_directory_remove(int store_fd, const char *name, struct error *err);
/* What killed processes left in the store. Directories in use are kept. */
void snapshot_directory_sweep(int store_fd);

/* --- snapshot_store.c --- */

/* Held while names and objects change together; goes with the descriptor. */
int snapshot_store_lock(const struct snapshot_store *store, int *ret_fd, struct error *err);

/*
 * snapshot_store_publish - make a staged snapshot visible, for good, and give it its name: always
 * if
 * @takes_name, else where the name is free. The store is locked; the parent must be there. What is
 * there already under that id stays if it is good. After an error nothing has changed but that.
 */
int snapshot_store_publish(struct snapshot_store *store, struct staged_snapshot *staged,
                           const struct snapshot_manifest *manifest, bool takes_name,
                           struct error *err);

/* A snapshot_resolve whose opaque is the store. */
int snapshot_store_resolve(void *store, const char *id, struct snapshot_object *ret_object,
                           struct error *err);

/* --- snapshot_names.c --- */

/* -ENOENT; -EBADMSG names the file. @name is a valid one. */
int snapshot_name_read(const struct snapshot_store *store, const char *name,
                       char ret_id[SNAPSHOT_ID_HEX + 1], struct error *err);
int snapshot_name_write(const struct snapshot_store *store, const char *name, const char *id,
                        struct error *err);
int snapshot_name_remove(const struct snapshot_store *store, const char *name, struct error *err);

/*
 * Calls @visit for each valid name, @id "" if its file is damaged. Ends with the first result that
 * is not 0, and returns it.
 */
typedef int snapshot_name_visit(void *opaque, const char *name, const char *id, struct error *err);
int snapshot_names_each(const struct snapshot_store *store, snapshot_name_visit *visit,
                        void *opaque, struct error *err);

/* --- snapshot_catalog.c --- */

/* Calls @visit for each valid "<stem><suffix>" in a directory, in no order. Ends as above. */
typedef int snapshot_entry_visit(void *opaque, const char *stem, struct error *err);
int snapshot_each_entry(int dir_fd, const char *suffix, bool is_id, snapshot_entry_visit *visit,
                        void *opaque, struct error *err);

/* --- snapshot_remove.c --- */

/* The names, the flattened memory and the directory of @id, which may be damaged or missing. */
int snapshot_remove_unlocked(const struct snapshot_store *store, const char *id, struct error *err);

/* --- snapshot_parts.c --- */

/* As snapshot_store_get_working_set(). */
int snapshot_object_working_set(const struct snapshot_object *object,
                                struct snapshot_extents *ret_pages, struct error *err);
/* Everything of a snapshot and its parents but what is cached. */
int snapshot_chain_verify(const struct snapshot_store *store, const struct snapshot_chain *chain,
                          struct error *err);

/* --- snapshot_cache.c --- */

/* How much of a cached memory is on disk; 0: none. */
uint64_t snapshot_cache_bytes(const struct snapshot_store *store, const char *id);
void snapshot_cache_remove(const struct snapshot_store *store, const char *id);
/* Down to the limit, oldest first, but not @keep_id (may be NULL). */
int snapshot_cache_evict(const struct snapshot_store *store, const char *keep_id,
                         struct snapshot_gc *gc, struct error *err);
/* Flatten into a file that is gone afterwards, checking everything. */
int snapshot_cache_check(const struct snapshot_store *store, const struct snapshot_chain *chain,
                         struct error *err);

#endif
