/*
 * Restoring a backup: see state_backup.h. Process: the CLI. The archive is hostile: only the names
 * that a backup has, only plain files, each zip against its hash, the database by SQLite's own
 * check; all in a place beside the state's, whose files then move.
 */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "common/text.h"
#include "database.h"
#include "images/image_file.h"
#include "host/instance/package.h"
#include "state_backup_internal.h"
#include "host/state_lock.h"

enum { BLOCK_BYTES = 64 * 1024 };

struct restore {
    const struct state_backup_options *options;
    struct backup_place place;
    struct state_backup_result *result;
};

/* --- reading the archive ------------------------------------------------------------------------
 */

static int damaged(struct archive *archive, struct error *err)
{
    const char *said = archive_error_string(archive);
    char why[200];

    text_clean(why, sizeof(why), said ? said : "", said ? strlen(said) : 0);
    return error_say(err, EBADMSG, "it is no backup, or a damaged one: %s", why);
}

static int copy_data(const struct restore *restore, struct archive *archive, int fd, uint64_t limit,
                     struct error *err)
{
    AUTO_FREE uint8_t *buffer = malloc(BACKUP_COPY_BYTES);
    uint64_t total = 0;

    if (!buffer)
        return error_set(err, ENOMEM, "read the backup");
    for (;;) {
        la_ssize_t n = archive_read_data(archive, buffer, BACKUP_COPY_BYTES);

        if (n == 0)
            return 0;
        if (n < 0)
            return damaged(archive, err);
        if (backup_is_cancelled(restore->options))
            return error_say(err, EINTR, "interrupted");
        total += (uint64_t)n;
        if (total > limit)
            return error_say(err, EBADMSG, "it is no backup: an entry is too large");
        int r = fd_write_all(fd, buffer, (size_t)n);
        if (r < 0)
            return error_set(err, -r, "unpack the backup");
    }
}

/* How large an entry of that name may be; 0: there is none of that name. */
static uint64_t limit_of(const char *name)
{
    if (strcmp(name, BACKUP_DATABASE) == 0)
        return INT64_MAX; /* what the disk has */
    if (strcmp(name, BACKUP_HEAD) == 0 || strcmp(name, BACKUP_CREDENTIALS) == 0)
        return BACKUP_SMALL_MAX_BYTES;
    return backup_is_code(name) ? PACKAGE_MAX_ARCHIVE_BYTES : 0;
}

static int take_entry(struct restore *restore, struct archive *archive, struct archive_entry *entry,
                      struct error *err)
{
    const char *name = archive_entry_pathname(entry);
    uint64_t limit = name ? limit_of(name) : 0;
    char shown[200];

    text_clean(shown, sizeof(shown), name ? name : "?", name ? strlen(name) : 1);
    if (limit == 0 || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return error_say(err, EBADMSG, "it is no backup of mayfly's: '%s' is in it", shown);
    backup_tell(restore->options,
                backup_is_code(name) ? "read and check the code" : "read the database", 0, 0);
    AUTO_FD fd =
        openat(restore->place.fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, errno, "unpack '%s'", shown);
    int r = copy_data(restore, archive, fd, limit, err);
    if (r == 0 && backup_is_code(name))
        r = backup_check_code(fd, name, err);
    if (r == 0 && fsync(fd) < 0)
        r = error_set(err, errno, "flush '%s'", shown);
    return r;
}

static int check_description(const struct restore *restore, struct error *err)
{
    uint8_t *data = NULL;
    size_t len = 0;
    int r =
        file_read_small(restore->place.fd, BACKUP_HEAD, BACKUP_SMALL_MAX_BYTES, &data, &len, err);

    if (r < 0)
        return r;
    json_t *object = json_loadb((char *)data, len, 0, NULL);
    json_int_t format = json_integer_value(json_object_get(object, "format"));
    json_decref(object);
    free(data);
    if (format <= 0)
        return error_say(err, EBADMSG, "it is no backup: " BACKUP_HEAD " has no format");
    return format <= BACKUP_FORMAT
               ? 0
               : error_say(err, ENOTSUP, "a newer mayfly made it (format %lld)", (long long)format);
}

static int read_entries(struct restore *restore, struct archive *archive, struct error *err)
{
    struct archive_entry *entry;
    bool is_first = true;
    int r = 0;

    while (r == 0) {
        int code = archive_read_next_header(archive, &entry);

        if (code == ARCHIVE_EOF)
            return is_first ? error_say(err, EBADMSG, "it is empty") : 0;
        if (code != ARCHIVE_OK && code != ARCHIVE_WARN)
            return damaged(archive, err);
        r = take_entry(restore, archive, entry, err);
        if (r == 0 && is_first)
            r = check_description(restore, err);
        is_first = false;
    }
    return r;
}

static int read_archive(struct restore *restore, struct error *err)
{
    AUTO_FD fd = open(restore->options->file, O_RDONLY | O_CLOEXEC);
    struct archive *archive;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s'", restore->options->file);
    restore->result->bytes = (uint64_t)st.st_size;
    archive = archive_read_new();
    if (!archive)
        return error_set(err, ENOMEM, "read the backup");
    archive_read_support_format_tar(archive);
    archive_read_support_filter_zstd(archive);
    if (archive_read_open_fd(archive, fd, BLOCK_BYTES) != ARCHIVE_OK)
        r = damaged(archive, err);
    else
        r = read_entries(restore, archive, err);
    archive_read_free(archive);
    return r;
}

/* --- checking what was read ---------------------------------------------------------------------
 */

static int check_database(const char *path, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    sqlite3 *handle = NULL;
    int code = sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    bool is_whole = false;

    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(handle, "PRAGMA quick_check(1)", -1, &statement, NULL);
    if (code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
        is_whole = strcmp(column_text(statement, 0), "ok") == 0;
    sqlite3_finalize(statement);
    sqlite3_close(handle);
    return is_whole ? 0 : error_say(err, EBADMSG, "the database in it is damaged");
}

static int check_whole(struct restore *restore, struct error *err)
{
    char path[PATH_MAX + 16], **names = NULL;
    size_t n = 0;
    struct stat st;

    snprintf(path, sizeof(path), "%s/" BACKUP_DATABASE, restore->place.path);
    if (access(path, F_OK) < 0)
        return error_say(err, EBADMSG, "it is no whole backup: there is no database in it");
    backup_tell(restore->options, "check the database", 0, 0);
    int r = check_database(path, err);
    if (r == 0)
        r = backup_list_codes(path, &names, &n, restore->result, err);
    for (size_t i = 0; i < n && r == 0; i++)
        if (fstatat(restore->place.fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
            r = error_say(err, EBADMSG, "it is no whole backup: '%s' is missing", names[i]);
    backup_names_free(names, n);
    return r;
}

/* --- moving -------------------------------------------------------------------------------------
 */

static int move_codes(struct restore *restore, struct error *err)
{
    AUTO_FD target = file_open_directory_at(restore->place.state_fd, "code", err);
    int source = openat(restore->place.fd, "code", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = source < 0 ? NULL : fdopendir(source);
    int r = target < 0 ? target : 0;

    if (!directory && r == 0)
        r = error_set(err, errno, "list the code");
    for (struct dirent *item; r == 0 && (item = readdir(directory));)
        if (item->d_name[0] != '.' && renameat(source, item->d_name, target, item->d_name) < 0)
            r = error_set(err, errno, "put '%s' in its place", item->d_name);
    if (r == 0 && fsync(target) < 0)
        r = error_set(err, errno, "flush 'code'");
    if (directory)
        closedir(directory);
    else
        fd_close_at_exit(&source);
    return r;
}

/* The database last, and never over another: with it the state is what was backed up. */
static int move_all(struct restore *restore, struct error *err)
{
    const struct backup_place *place = &restore->place;
    int r = move_codes(restore, err);

    if (r == 0 &&
        renameat(place->fd, BACKUP_CREDENTIALS, place->state_fd, BACKUP_CREDENTIALS) < 0 &&
        errno != ENOENT)
        r = error_set(err, errno, "put the credentials in their place");
    if (r == 0 && renameat2(place->fd, BACKUP_DATABASE, place->state_fd, BACKUP_DATABASE,
                            RENAME_NOREPLACE) < 0)
        r = error_set(err, errno, "put the database in its place");
    if (r == 0 && fsync(place->state_fd) < 0)
        r = error_set(err, errno, "flush the state directory");
    return r;
}

int state_backup_restore(const struct state_backup_options *options,
                         struct state_backup_result *ret_result, struct error *err)
{
    struct state_backup_result result = {.functions = 0};
    struct restore restore = {.options = options, .result = &result};
    AUTO_FD lock = -1; /* no daemon starts there meanwhile */
    struct stat st;
    int r = file_make_directory(options->state, 0755, err);

    if (r == 0)
        r = state_lock_take(options->state, &lock, err);
    if (r == 0)
        r = backup_place_make(options->state, &restore.place, err);
    if (r < 0)
        return r;
    /* An old log would be played into the restored database. */
    if (fstatat(restore.place.state_fd, BACKUP_DATABASE, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
        fstatat(restore.place.state_fd, BACKUP_DATABASE "-wal", &st, AT_SYMLINK_NOFOLLOW) == 0 ||
        fstatat(restore.place.state_fd, BACKUP_DATABASE "-shm", &st, AT_SYMLINK_NOFOLLOW) == 0)
        r = error_say(err, EEXIST,
                      "'%s' has a database already: restore into an empty state directory, or move "
                      "%s, %s-wal, %s-shm and code/ away first",
                      options->state, BACKUP_DATABASE, BACKUP_DATABASE, BACKUP_DATABASE);
    if (r == 0)
        r = read_archive(&restore, err);
    if (r == 0)
        r = check_whole(&restore, err);
    if (r == 0)
        r = move_all(&restore, err);
    backup_place_done(&restore.place);
    if (r < 0)
        return r;
    *ret_result = result;
    return 0;
}
