/*
 * Writing a backup: see state_backup.h. Process: the CLI. The daemon may delete a zip at any time:
 * all are linked into a place of ours first, then the database is copied, so that what the copy
 * refers to is there.
 */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/fd.h"
#include "database.h"
#include "images/image_file.h"
#include "state_backup_internal.h"

enum { ATTEMPTS = 5 };

struct backup {
    const struct state_backup_options *options;
    struct backup_place place;
    char **names; /* owned: code */
    size_t n;
    struct state_backup_result *result;
};

/* --- holding what there is ----------------------------------------------------------------------
 */

/* Links all zips that are there now: they stay, whatever the daemon does. */
static int hold_codes(struct backup *backup, struct error *err)
{
    int source = openat(backup->place.state_fd, "code", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = source < 0 ? NULL : fdopendir(source);
    char name[BACKUP_CODE_NAME_BYTES];
    int r = 0;

    if (!directory) {
        r = error_set(err, errno, "open '%s/code'", backup->options->state);
        fd_close_at_exit(&source);
        return r;
    }
    for (struct dirent *item; r == 0 && (item = readdir(directory));) {
        int len = snprintf(name, sizeof(name), "code/%s", item->d_name);

        if (len > 0 && (size_t)len < sizeof(name) && backup_is_code(name) &&
            linkat(backup->place.state_fd, name, backup->place.fd, name, 0) < 0 &&
            errno != EEXIST && errno != ENOENT)
            r = error_set(err, errno, "hold '%s'", name);
    }
    closedir(directory);
    return r;
}

/* Is all there that the copy refers to? 1: no, something came and went meanwhile. */
static int check_held(struct backup *backup, struct error *err)
{
    for (size_t i = 0; i < backup->n; i++) {
        if (linkat(backup->place.state_fd, backup->names[i], backup->place.fd, backup->names[i],
                   0) == 0 ||
            errno == EEXIST)
            continue;
        if (errno == ENOENT)
            return 1;
        return error_set(err, errno, "hold '%s'", backup->names[i]);
    }
    return 0;
}

static int hold(struct backup *backup, struct error *err)
{
    char source[PATH_MAX], copy[PATH_MAX + 16];
    int r = 1;

    if ((size_t)snprintf(source, sizeof(source), "%s/" BACKUP_DATABASE, backup->options->state) >=
        sizeof(source))
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    snprintf(copy, sizeof(copy), "%s/" BACKUP_DATABASE, backup->place.path);
    for (int i = 0; i < ATTEMPTS && r == 1; i++) {
        backup_names_free(backup->names, backup->n);
        backup->names = NULL;
        backup->n = 0;
        r = hold_codes(backup, err);
        if (r == 0)
            r = database_copy(source, copy, err);
        if (r == 0)
            r = backup_list_codes(copy, &backup->names, &backup->n, backup->result, err);
        if (r == 0)
            r = check_held(backup, err);
    }
    return r == 1 ? error_say(err, EBADMSG,
                              "'%s/code' lacks a zip that the database refers to: the state is "
                              "damaged",
                              backup->options->state)
                  : r;
}

/* --- the archive --------------------------------------------------------------------------------
 */

static int archive_failed(struct archive *archive, const char *name, struct error *err)
{
    int code = archive_errno(archive);

    return error_set(err, code > 0 ? code : EIO, "write '%s' to the backup", name);
}

static int put_head(struct archive *archive, const char *name, uint64_t len, time_t when,
                    struct error *err)
{
    struct archive_entry *entry = archive_entry_new();

    if (!entry)
        return error_set(err, ENOMEM, "write the backup");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0600);
    archive_entry_set_size(entry, (la_int64_t)len);
    archive_entry_set_mtime(entry, when, 0);
    int r = archive_write_header(archive, entry);
    archive_entry_free(entry);
    return r == ARCHIVE_OK ? 0 : archive_failed(archive, name, err);
}

static int put_file(struct backup *backup, struct archive *archive, int dir_fd, const char *name,
                    struct error *err)
{
    AUTO_FD fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AUTO_FREE uint8_t *buffer = malloc(BACKUP_COPY_BYTES);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s'", name);
    if (!buffer)
        return error_set(err, ENOMEM, "write the backup");
    int r = backup_is_code(name) ? backup_check_code(fd, name, err) : 0;
    if (r == 0)
        r = put_head(archive, name, (uint64_t)st.st_size, st.st_mtime, err);
    for (off_t at = 0; r == 0 && at < st.st_size;) {
        off_t left = st.st_size - at;
        size_t piece = left < BACKUP_COPY_BYTES ? (size_t)left : BACKUP_COPY_BYTES;

        if (backup_is_cancelled(backup->options))
            r = error_say(err, EINTR, "interrupted");
        else if (fd_pread_all(fd, buffer, piece, at) < 0)
            r = error_set(err, EIO, "read '%s'", name);
        else if (archive_write_data(archive, buffer, piece) < 0)
            r = archive_failed(archive, name, err);
        at += (off_t)piece;
    }
    return r;
}

static int put_description(struct backup *backup, struct archive *archive, struct error *err)
{
    const struct state_backup_result *result = backup->result;
    time_t now = time(NULL);
    json_t *object =
        json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:I}", "format", BACKUP_FORMAT, "mayfly",
                  MAYFLY_VERSION, "created", (json_int_t)now, "functions",
                  (json_int_t)result->functions, "versions", (json_int_t)result->versions, "codes",
                  (json_int_t)result->codes, "events", (json_int_t)result->events);
    AUTO_FREE char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;

    json_decref(object);
    if (!text)
        return error_set(err, ENOMEM, "write the backup");
    int r = put_head(archive, BACKUP_HEAD, strlen(text), now, err);
    if (r == 0 && archive_write_data(archive, text, strlen(text)) < 0)
        r = archive_failed(archive, BACKUP_HEAD, err);
    return r;
}

static int put_all(struct backup *backup, struct archive *archive, struct error *err)
{
    struct stat st;
    int r = put_description(backup, archive, err);

    backup_tell(backup->options, "write the database", 0, 0);
    if (r == 0)
        r = put_file(backup, archive, backup->place.fd, BACKUP_DATABASE, err);
    if (r == 0 && fstatat(backup->place.state_fd, BACKUP_CREDENTIALS, &st, 0) == 0)
        r = put_file(backup, archive, backup->place.state_fd, BACKUP_CREDENTIALS, err);
    for (size_t i = 0; i < backup->n && r == 0; i++) {
        backup_tell(backup->options, "write the code", 0, 0);
        r = put_file(backup, archive, backup->place.fd, backup->names[i], err);
    }
    return r;
}

static int write_archive(struct backup *backup, int fd, struct error *err)
{
    struct archive *archive = archive_write_new();
    int r;

    if (!archive)
        return error_set(err, ENOMEM, "write the backup");
    if (archive_write_set_format_pax_restricted(archive) != ARCHIVE_OK ||
        archive_write_add_filter_zstd(archive) != ARCHIVE_OK ||
        archive_write_open_fd(archive, fd) != ARCHIVE_OK)
        r = archive_failed(archive, "its head", err);
    else
        r = put_all(backup, archive, err);
    if (archive_write_close(archive) != ARCHIVE_OK && r == 0)
        r = archive_failed(archive, "its end", err);
    archive_write_free(archive);
    return r;
}

static int write_file(struct backup *backup, struct error *err)
{
    const char *path = backup->options->file, *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    AUTO_FREE char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    struct temp_file temp = {.fd = -1, .dir_fd = -1};
    struct stat st;

    if (!directory || !*name)
        return error_say(err, EINVAL, "'%s' is no file's path", path);
    AUTO_FD dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_set(err, errno, "open the directory of '%s'", path);
    int r = temp_file_create(&temp, dir_fd, err);
    if (r == 0)
        r = write_archive(backup, temp.fd, err);
    if (r == 0 && fstat(temp.fd, &st) == 0)
        backup->result->bytes = (uint64_t)st.st_size;
    if (r == 0)
        r = temp_file_publish(&temp, name, 0600, err);
    temp_file_done(&temp);
    return r;
}

int state_backup_write(const struct state_backup_options *options,
                       struct state_backup_result *ret_result, struct error *err)
{
    struct state_backup_result result = {.functions = 0};
    struct backup backup = {.options = options, .result = &result};
    char database[PATH_MAX];
    int r = 0;

    snprintf(database, sizeof(database), "%s/" BACKUP_DATABASE, options->state);
    if (access(database, F_OK) < 0)
        return error_say(err, errno,
                         "there is no database in '%s': is it the state directory of a mayflyd, "
                         "and may you read it?",
                         options->state);
    r = backup_place_make(options->state, &backup.place, err);
    if (r < 0)
        return r;
    backup_tell(options, "copy the database", 0, 0);
    r = hold(&backup, err);
    if (r == 0)
        r = write_file(&backup, err);
    backup_place_done(&backup.place);
    backup_names_free(backup.names, backup.n);
    if (r < 0)
        return r;
    *ret_result = result;
    return 0;
}
