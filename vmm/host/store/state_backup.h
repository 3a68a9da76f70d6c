/*
 * A state directory's durable part as one file, a tar.zst, while a daemon works on it or not:
 *
 *   mayfly-backup.json         {"format": 1, …}; the first entry
 *   mayfly.db                  functions, versions, aliases, queue: one moment's
 *   credentials                the daemon's own access key, where it has one
 *   code/<sha256 in hex>.zip   every zip that the database refers to
 *
 * Images and snapshots are not in it: they are made again. Process: the CLI, as who owns the state.
 * Trust: an archive may be anybody's: names, kinds and hashes are checked before anything of it
 * gets its place. A secret key is in it: the file is its owner's only.
 */
#ifndef MAYFLY_HOST_STORE_STATE_BACKUP_H
#define MAYFLY_HOST_STORE_STATE_BACKUP_H

#include <signal.h>
#include <stdint.h>

#include "common/error.h"

struct state_backup_options {
    const char *state;
    const char *file;
    const volatile sig_atomic_t *cancel; /* set: give way with -EINTR; or NULL */
    /* NULL, or told what is being done, as image_progress. */
    void (*progress)(void *opaque, const char *what, uint64_t done, uint64_t total);
    void *opaque;
};

struct state_backup_result {
    uint64_t functions, versions, codes, events;
    uint64_t bytes; /* of the file */
};

/*
 * state_backup_write - @file appears when it is whole and flushed. -ENOENT where there is no state,
 * -EBADMSG where a zip is damaged (its name is said; nothing is written).
 */
int state_backup_write(const struct state_backup_options *options,
                       struct state_backup_result *ret_result, struct error *err);

/*
 * state_backup_restore - into a directory without a database (-EEXIST), which is made. All of the
 * archive is read and checked before the database gets its name, last. -EBADMSG for what is no
 * backup or damaged, -ENOTSUP for one of a newer format.
 */
int state_backup_restore(const struct state_backup_options *options,
                         struct state_backup_result *ret_result, struct error *err);

#endif
