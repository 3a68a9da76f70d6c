/* What writing and restoring backups share: see state_backup.h. */
#ifndef MAYFLY_HOST_STORE_STATE_BACKUP_INTERNAL_H
#define MAYFLY_HOST_STORE_STATE_BACKUP_INTERNAL_H

#include <limits.h>
#include <stdbool.h>

#include "state_backup.h"

enum {
    BACKUP_FORMAT = 1,
    BACKUP_CODE_NAME_BYTES = 80, /* "code/<64 digits>.zip" */
    BACKUP_COPY_BYTES = 256 * 1024,
    BACKUP_SMALL_MAX_BYTES = 64 * 1024, /* of the description, and of credentials */
};

#define BACKUP_HEAD "mayfly-backup.json"
#define BACKUP_DATABASE "mayfly.db"
#define BACKUP_CREDENTIALS "credentials"

/* A directory beside the state's own files, that goes with its process: locked, swept by the next.
 */
struct backup_place {
    int state_fd, fd; /* owned */
    char name[32];    /* in the state directory */
    char path[PATH_MAX];
};

/* backup_place_make - and remove what killed processes left. 0 or -errno; then always _done(). */
int backup_place_make(const char *state, struct backup_place *ret_place, struct error *err);
void backup_place_done(struct backup_place *place);

/* The zips that the database at @path refers to, as names in an archive. *ret_names is owned, with
 * what it points to: backup_names_free(). Counts functions, versions and events, too. */
int backup_list_codes(const char *path, char ***ret_names, size_t *ret_n,
                      struct state_backup_result *result, struct error *err);
void backup_names_free(char **names, size_t n);

/* backup_is_code - is @name "code/<64 lower-case digits>.zip"? */
bool backup_is_code(const char *name);

/* backup_check_code - has the file @fd the hash that its name says? -EBADMSG. */
int backup_check_code(int fd, const char *name, struct error *err);

static inline bool backup_is_cancelled(const struct state_backup_options *options)
{
    return options->cancel && *options->cancel;
}

static inline void backup_tell(const struct state_backup_options *options, const char *what,
                               uint64_t done, uint64_t total)
{
    if (options->progress)
        options->progress(options->opaque, what, done, total);
}

#endif
