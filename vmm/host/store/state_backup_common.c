/* Places, lists and checks of backups: see state_backup_internal.h. Process: the CLI. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "database.h"
#include "images/image_file.h"
#include "images/image_sha256.h"
#include "state_backup_internal.h"

#define PLACE_PREFIX ".backup-"

enum { APPLICATION_ID = 0x4d617966, HEX_CHARACTERS = 2 * SHA256_BYTES, CODES_MAX = 10000000 };

/* --- places ------------------------------------------------------------------------------------
 */

/* Whose lock can be had, is nobody's. */
static void sweep(int state_fd, const char *state)
{
    int own = openat(state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = own < 0 ? NULL : fdopendir(own);
    char path[PATH_MAX];
    struct error ignored;

    if (!directory) {
        fd_close_at_exit(&own);
        return;
    }
    for (struct dirent *item; (item = readdir(directory));) {
        if (strncmp(item->d_name, PLACE_PREFIX, strlen(PLACE_PREFIX)) != 0)
            continue;
        AUTO_FD fd = openat(state_fd, item->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
            (size_t)snprintf(path, sizeof(path), "%s/%s", state, item->d_name) < sizeof(path))
            (void)file_remove_tree(path, &ignored);
    }
    closedir(directory);
}

int backup_place_make(const char *state, struct backup_place *ret_place, struct error *err)
{
    struct backup_place place = {.fd = -1};

    place.state_fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (place.state_fd < 0)
        return error_set(err, errno, "open the state directory '%s'", state);
    sweep(place.state_fd, state);
    int r = (size_t)snprintf(place.path, sizeof(place.path), "%s/" PLACE_PREFIX "XXXXXX", state) <
                    sizeof(place.path)
                ? 0
                : -ENAMETOOLONG;
    if (r == 0 && !mkdtemp(place.path))
        r = -errno;
    if (r == 0) {
        snprintf(place.name, sizeof(place.name), "%s", strrchr(place.path, '/') + 1);
        place.fd = openat(place.state_fd, place.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (place.fd < 0 || flock(place.fd, LOCK_EX | LOCK_NB) < 0 ||
            mkdirat(place.fd, "code", 0700) < 0)
            r = -errno;
    }
    *ret_place = place;
    if (r < 0)
        backup_place_done(ret_place);
    return r < 0 ? error_set(err, -r, "make a directory in '%s'", state) : 0;
}

void backup_place_done(struct backup_place *place)
{
    struct error ignored;

    if (place->name[0])
        (void)file_remove_tree(place->path, &ignored);
    fd_close_at_exit(&place->fd);
    fd_close_at_exit(&place->state_fd);
    *place = (struct backup_place){.state_fd = -1, .fd = -1};
}

/* --- what a database refers to ------------------------------------------------------------------
 */

static int read_number(sqlite3 *handle, const char *sql, uint64_t *ret, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(handle, sql, -1, &statement, NULL);

    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? 0 : database_error(handle, code, "read the database", err);
}

static int name_code(const char *base64, char name[BACKUP_CODE_NAME_BYTES])
{
    uint8_t digest[SHA256_BYTES];
    char hex[HEX_CHARACTERS + 1];
    size_t len = 0;

    if (sodium_base642bin(digest, sizeof(digest), base64, strlen(base64), NULL, &len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        len != sizeof(digest))
        return -EBADMSG;
    sha256_hex(digest, hex);
    snprintf(name, BACKUP_CODE_NAME_BYTES, "code/%s.zip", hex);
    return 0;
}

static int list(sqlite3 *handle, char ***names, size_t *n, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    char name[BACKUP_CODE_NAME_BYTES];
    int code =
        sqlite3_prepare_v2(handle, "SELECT sha256 FROM code ORDER BY sha256", -1, &statement, NULL);
    int r = 0;

    while (code == SQLITE_OK && r == 0 && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        code = SQLITE_OK;
        r = *n < CODES_MAX ? name_code(column_text(statement, 0), name) : -EFBIG;
        if (r == 0 && (*n & (*n - 1)) == 0) {
            char **larger = realloc(*names, (*n ? 2 * *n : 1) * sizeof(**names));

            r = larger ? 0 : -ENOMEM;
            *names = larger ? larger : *names;
        }
        if (r == 0 && !((*names)[*n] = strdup(name)))
            r = -ENOMEM;
        *n += r == 0;
    }
    sqlite3_finalize(statement);
    if (r < 0)
        return error_set(err, -r, "list the code in the database");
    return code == SQLITE_DONE ? 0 : database_error(handle, code, "read the database", err);
}

static int count(sqlite3 *handle, struct state_backup_result *result, struct error *err)
{
    uint64_t id = 0;
    int r = read_number(handle, "PRAGMA application_id", &id, err);

    if (r == 0 && id != APPLICATION_ID)
        r = error_say(err, EBADMSG, "it is no database of mayflyd's");
    if (r == 0)
        r = read_number(handle, "SELECT count(*) FROM functions", &result->functions, err);
    if (r == 0)
        r = read_number(handle, "SELECT count(*) FROM versions", &result->versions, err);
    if (r == 0)
        r = read_number(handle, "SELECT count(*) FROM events", &result->events, err);
    return r;
}

int backup_list_codes(const char *path, char ***ret_names, size_t *ret_n,
                      struct state_backup_result *result, struct error *err)
{
    sqlite3 *handle = NULL;
    char **names = NULL;
    size_t n = 0;
    int code = sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    int r = code == SQLITE_OK ? 0 : database_error(handle, code, "open the database", err);

    /* What triggers and views in it would do, is not to be done here. */
    if (r == 0)
        (void)sqlite3_exec(handle, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON", NULL,
                           NULL, NULL);
    if (r == 0)
        r = count(handle, result, err);
    if (r == 0)
        r = list(handle, &names, &n, err);
    sqlite3_close(handle);
    if (r < 0) {
        backup_names_free(names, n);
        return r;
    }
    result->codes = n;
    *ret_names = names;
    *ret_n = n;
    return 0;
}

void backup_names_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* --- code --------------------------------------------------------------------------------------
 */

bool backup_is_code(const char *name)
{
    return strlen(name) == 5 + HEX_CHARACTERS + 4 && strncmp(name, "code/", 5) == 0 &&
           strspn(name + 5, "0123456789abcdef") == HEX_CHARACTERS &&
           strcmp(name + 5 + HEX_CHARACTERS, ".zip") == 0;
}

int backup_check_code(int fd, const char *name, struct error *err)
{
    uint8_t found[SHA256_BYTES], wanted[SHA256_BYTES];
    char hex[HEX_CHARACTERS + 1];
    struct stat st;

    memcpy(hex, name + 5, HEX_CHARACTERS);
    hex[HEX_CHARACTERS] = '\0';
    sha256_from_hex(hex, wanted);
    int r = fstat(fd, &st) < 0 ? -errno : sha256_of_file(fd, (uint64_t)st.st_size, found);
    if (r < 0)
        return error_set(err, -r, "read '%s'", name);
    if (memcmp(found, wanted, sizeof(found)) != 0)
        return error_say(err, EBADMSG, "'%s' is damaged: its content is not what its name says",
                         name);
    return 0;
}
