/* Copies of the running database: see database.h. The target directory is the operator's. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "database_internal.h"
#include "images/image_file.h"

/* All pages in one step: one snapshot of the source, and in WAL mode nobody waits for it. */
static int copy(sqlite3 *from, sqlite3 *to, struct error *err)
{
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", from, "main");

    if (!backup)
        return database_error(to, sqlite3_errcode(to), "begin the copy", err);
    sqlite3_backup_step(backup, -1);
    int code = sqlite3_backup_finish(backup);
    return code == SQLITE_OK ? 0 : database_error(to, code, "copy the database", err);
}

static int copy_to_file(const char *source, const char *path, struct error *err)
{
    sqlite3 *from = NULL, *to = NULL;
    int r = connection_open(source, 512, &from, err);

    if (r == 0) {
        int code = sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

        /* No journal: an unfinished copy is thrown away; the caller flushes a finished one. */
        if (code == SQLITE_OK)
            code = sqlite3_exec(to, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF", NULL,
                                NULL, NULL);
        r = code == SQLITE_OK ? copy(from, to, err)
                              : database_error(to, code, "open the copy", err);
    }
    sqlite3_close(to);
    sqlite3_close(from);
    return r;
}

int database_copy(const char *source, const char *path, struct error *err)
{
    char directory[PATH_MAX], temporary[PATH_MAX + TEMP_NAME_BYTES + 1];
    struct temp_file temp = {.fd = -1, .dir_fd = -1};
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t len = slash ? (size_t)(slash - path) + 1 : 0;

    if (len >= sizeof(directory) - 2 || name[0] == '\0')
        return error_say(err, EINVAL, "'%s' is no file's path", path);
    memcpy(directory, path, len);
    memcpy(directory + len, ".", 2);
    AUTO_FD dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_set(err, errno, "open the directory of '%s'", path);
    int r = temp_file_create(&temp, dir_fd, err);
    if (r == 0) {
        snprintf(temporary, sizeof(temporary), "%s/%s", directory, temp.name);
        r = copy_to_file(source, temporary, err);
    }
    if (r == 0)
        r = temp_file_publish(&temp, name, 0600, err);
    temp_file_done(&temp);
    return r < 0 ? error_wrap(err, "back up to '%s'", path) : 0;
}

int database_backup(struct database *database, const char *path, struct error *err)
{
    return database_copy(database_path(database), path, err);
}
