/*
 * Connections, statements and transactions: see database.h. Process: the daemon's; the file is its
 * own. Invariant: a connection is in a transaction exactly while somebody has it.
 */
#include "database.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fd.h"
#include "database_internal.h"

enum {
    BUSY_MS = 5000,       /* how long another process may hold the database */
    READERS_MAX = 4,      /* connections; further readers wait for one: lookups take microseconds */
    STATEMENTS_MAX = 256, /* slots of a connection's table: a power of two */
    WRITER_CACHE_KIB = 2048,
    READER_CACHE_KIB = 2048, /* the rows of some thousand functions */
};

struct prepared {
    const char *sql; /* borrowed: a literal */
    sqlite3_stmt *statement;
};

struct connection {
    struct database *database; /* borrowed */
    sqlite3 *handle;
    struct connection *next; /* of the free readers */
    int changes_before;      /* handle's total when the transaction began */
    bool is_aside;           /* its commit counts in no generation */
    struct prepared statements[STATEMENTS_MAX];
};

struct database {
    char *path;
    atomic_uint_fast64_t generation;
    pthread_mutex_t write_lock; /* whoever has it has writer */
    struct connection *writer;
    pthread_mutex_t readers_lock; /* of the next two */
    pthread_cond_t reader_free;
    struct connection *free_readers;
    unsigned n_readers;
};

/* --- errors --------------------------------------------------------------------------------------
 */

/*
 * @system_errno: of the call that SQLite gave up at. Its own record of that is empty after writes,
 * so it is errno as the failed step left it (statement_step() clears it before).
 */
static int errno_of(int code, int system_errno)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EAGAIN;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return EBADMSG;
    case SQLITE_CONSTRAINT:
        return EEXIST;
    case SQLITE_TOOBIG:
        return E2BIG;
    case SQLITE_PERM:
    case SQLITE_READONLY:
        return EACCES;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        /* A file that may not grow further is as full as a disk. */
        if (system_errno == EFBIG || system_errno == EDQUOT || system_errno == ENOSPC)
            return ENOSPC;
        return system_errno > 0 ? system_errno : EIO;
    default:
        return EIO;
    }
}

int database_error(sqlite3 *handle, int code, const char *doing, struct error *err)
{
    int system_errno = errno;

    return error_say(err, errno_of(code, system_errno), "%s: %s", doing,
                     handle ? sqlite3_errmsg(handle) : sqlite3_errstr(code));
}

/* --- statements ----------------------------------------------------------------------------------
 */

static struct prepared *slot_of(struct connection *connection, const char *sql)
{
    /* Literals lie close together: multiply to spread them. */
    size_t at = (size_t)(((uintptr_t)sql * 0x9e3779b97f4a7c15u) >> 40);

    for (size_t i = 0; i < STATEMENTS_MAX; i++) {
        struct prepared *slot = &connection->statements[(at + i) & (STATEMENTS_MAX - 1)];

        if (!slot->sql || slot->sql == sql)
            return slot;
    }
    return NULL;
}

static int prepare(struct connection *connection, const char *sql, sqlite3_stmt **ret_statement,
                   struct error *err)
{
    struct prepared *slot = slot_of(connection, sql);

    assert(slot); /* the program has fewer statements than slots */
    if (!slot->sql) {
        sqlite3_stmt *made = NULL;
        int code =
            sqlite3_prepare_v3(connection->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &made, NULL);

        if (code != SQLITE_OK)
            return database_error(connection->handle, code, "prepare a statement", err);
        *slot = (struct prepared){sql, made};
    }
    sqlite3_reset(slot->statement);
    sqlite3_clear_bindings(slot->statement);
    *ret_statement = slot->statement;
    return 0;
}

/* Not copied by SQLite: the values outlive the steps. */
static int bind(sqlite3_stmt *statement, int at, const struct sql_value *value)
{
    switch (value->kind) {
    case SQL_NULL:
        return sqlite3_bind_null(statement, at);
    case SQL_NUMBER:
        return sqlite3_bind_int64(statement, at, value->number);
    case SQL_REAL:
        return sqlite3_bind_double(statement, at, value->real);
    case SQL_TEXT:
        return sqlite3_bind_text(statement, at, value->bytes, -1, SQLITE_STATIC);
    case SQL_BLOB:
        /* A NULL pointer would bind NULL. */
        return sqlite3_bind_blob64(statement, at, value->len_bytes ? value->bytes : "",
                                   value->len_bytes, SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

int statement_get(struct connection *connection, const char *sql, const struct sql_value *values,
                  size_t n_values, sqlite3_stmt **ret_statement, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int r = prepare(connection, sql, &statement, err);

    if (r < 0)
        return r;
    assert(n_values == (size_t)sqlite3_bind_parameter_count(statement));
    for (size_t i = 0; i < n_values; i++) {
        int code = bind(statement, (int)i + 1, &values[i]);

        if (code != SQLITE_OK)
            return database_error(connection->handle, code, "bind a value", err);
    }
    *ret_statement = statement;
    return 0;
}

int statement_step(sqlite3_stmt *statement, struct error *err)
{
    errno = 0;
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW)
        return 1;
    if (code == SQLITE_DONE)
        return 0;
    int r = database_error(sqlite3_db_handle(statement), code, "use the database", err);
    sqlite3_reset(statement);
    return r;
}

int statement_first(struct connection *connection, const char *sql, const struct sql_value *values,
                    size_t n_values, sqlite3_stmt **ret_statement, struct error *err)
{
    int r = statement_get(connection, sql, values, n_values, ret_statement, err);

    return r < 0 ? r : statement_step(*ret_statement, err);
}

int statement_execute(struct connection *connection, const char *sql,
                      const struct sql_value *values, size_t n_values, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int r = statement_first(connection, sql, values, n_values, &statement, err);

    assert(r <= 0); /* it has rows */
    if (r == 0)
        sqlite3_reset(statement);
    return r;
}

const char *column_text(sqlite3_stmt *statement, int column)
{
    const unsigned char *text = sqlite3_column_text(statement, column);

    return text ? (const char *)text : "";
}

int connection_changes(const struct connection *connection)
{
    return sqlite3_changes(connection->handle);
}

int64_t connection_last_id(const struct connection *connection)
{
    return sqlite3_last_insert_rowid(connection->handle);
}

/* A SELECT that was not read to its end would keep the transaction open. */
static void reset_statements(struct connection *connection)
{
    for (size_t i = 0; i < STATEMENTS_MAX; i++)
        if (connection->statements[i].statement &&
            sqlite3_stmt_busy(connection->statements[i].statement))
            sqlite3_reset(connection->statements[i].statement);
}

/* --- connections ---------------------------------------------------------------------------------
 */

/* Another process may be switching a new file to WAL mode: then busy handlers are not asked. */
static int set_mode(sqlite3 *handle, const char *pragmas)
{
    uint64_t until = clock_now_us() + BUSY_MS * 1000u;
    int code;

    while ((code = sqlite3_exec(handle, pragmas, NULL, NULL, NULL)) == SQLITE_BUSY &&
           clock_now_us() < until)
        sqlite3_sleep(10);
    return code;
}

int connection_open(const char *path, int cache_kib, sqlite3 **ret_handle, struct error *err)
{
    sqlite3 *handle = NULL;
    char cache[64];
    int code = sqlite3_open_v2(path, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

    snprintf(cache, sizeof(cache), "PRAGMA cache_size = -%d", cache_kib);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(handle, BUSY_MS);
    if (code == SQLITE_OK)
        code = set_mode(handle, "PRAGMA auto_vacuum = INCREMENTAL;"
                                "PRAGMA journal_mode = WAL;"
                                "PRAGMA synchronous = FULL;"
                                "PRAGMA foreign_keys = ON;"
                                "PRAGMA trusted_schema = OFF;"
                                "PRAGMA cell_size_check = ON;"
                                "PRAGMA journal_size_limit = 16777216;");
    if (code == SQLITE_OK)
        code = sqlite3_exec(handle, cache, NULL, NULL, NULL);
    if (code != SQLITE_OK) {
        int r = database_error(handle, code, "open the database", err);

        sqlite3_close(handle);
        return r;
    }
    sqlite3_extended_result_codes(handle, 1);
    *ret_handle = handle;
    return 0;
}

static void connection_free(struct connection *connection)
{
    if (!connection)
        return;
    for (size_t i = 0; i < STATEMENTS_MAX; i++)
        sqlite3_finalize(connection->statements[i].statement);
    sqlite3_close(connection->handle);
    free(connection);
}

static int connection_new(struct database *database, int cache_kib,
                          struct connection **ret_connection, struct error *err)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (!connection)
        return error_set(err, ENOMEM, "open the database");
    int r = connection_open(database->path, cache_kib, &connection->handle, err);
    if (r < 0) {
        free(connection);
        return r;
    }
    connection->database = database;
    *ret_connection = connection;
    return 0;
}

/* --- opening -------------------------------------------------------------------------------------
 */

static int open_locks(struct database *database)
{
    int r = pthread_mutex_init(&database->write_lock, NULL);

    if (r == 0)
        r = pthread_mutex_init(&database->readers_lock, NULL);
    if (r == 0)
        r = pthread_cond_init(&database->reader_free, NULL);
    return -r;
}

int database_open(const char *path, struct database **ret_database, struct error *err)
{
    /* It holds environments, and so passwords; SQLite's other files take this one's mode. Closed
     * before SQLite opens it: a close later would take the locks from SQLite's own descriptors, and
     * the next process to look into the database would throw away the log that we write to. */
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct database *database = calloc(1, sizeof(*database));

    if (file < 0 || !database) {
        int code = file < 0 ? errno : ENOMEM;

        fd_close_at_exit(&file);
        free(database);
        return error_set(err, code, "open the database '%s'", path);
    }
    close(file);
    database->path = strdup(path);
    int r = database->path ? open_locks(database) : -ENOMEM;
    if (r < 0)
        error_set(err, -r, "open the database '%s'", path);
    else
        r = connection_new(database, WRITER_CACHE_KIB, &database->writer, err);
    if (r == 0)
        r = schema_bring_up(database->writer->handle, err);
    if (r < 0) {
        database_close(database);
        return error_wrap(err, "'%s'", path);
    }
    atomic_store(&database->generation, 1);
    *ret_database = database;
    return 0;
}

void database_close(struct database *database)
{
    if (!database)
        return;
    while (database->free_readers) {
        struct connection *reader = database->free_readers;

        database->free_readers = reader->next;
        connection_free(reader);
    }
    connection_free(database->writer);
    pthread_cond_destroy(&database->reader_free);
    pthread_mutex_destroy(&database->readers_lock);
    pthread_mutex_destroy(&database->write_lock);
    free(database->path);
    free(database);
}

const char *database_path(const struct database *database)
{
    return database->path;
}

uint64_t database_generation(const struct database *database)
{
    return atomic_load_explicit(&database->generation, memory_order_acquire);
}

/* --- transactions --------------------------------------------------------------------------------
 */

static void give_back(struct connection *connection)
{
    struct database *database = connection->database;

    pthread_mutex_lock(&database->readers_lock);
    connection->next = database->free_readers;
    database->free_readers = connection;
    pthread_cond_signal(&database->reader_free);
    pthread_mutex_unlock(&database->readers_lock);
}

/* A free reader, or NULL with a promise (n_readers) that the caller may make one. */
static struct connection *take_reader(struct database *database)
{
    struct connection *reader;

    pthread_mutex_lock(&database->readers_lock);
    while (!database->free_readers && database->n_readers >= READERS_MAX)
        pthread_cond_wait(&database->reader_free, &database->readers_lock);
    reader = database->free_readers;
    if (reader)
        database->free_readers = reader->next;
    else
        database->n_readers++;
    pthread_mutex_unlock(&database->readers_lock);
    return reader;
}

int database_begin_read(struct database *database, struct connection **ret_connection,
                        struct error *err)
{
    struct connection *reader = take_reader(database);
    int r = 0;

    if (!reader)
        r = connection_new(database, READER_CACHE_KIB, &reader, err);
    if (r < 0) {
        pthread_mutex_lock(&database->readers_lock);
        database->n_readers--;
        pthread_cond_signal(&database->reader_free);
        pthread_mutex_unlock(&database->readers_lock);
        return r;
    }
    r = sql_run(reader, err, "BEGIN");
    if (r < 0) {
        give_back(reader);
        return r;
    }
    *ret_connection = reader;
    return 0;
}

void database_end_read(struct connection *connection)
{
    struct error ignored; /* nothing was changed: nothing can be lost */

    reset_statements(connection);
    if (!sqlite3_get_autocommit(connection->handle))
        sql_run(connection, &ignored, "ROLLBACK");
    give_back(connection);
}

int database_begin_write(struct database *database, struct connection **ret_connection,
                         struct error *err)
{
    pthread_mutex_lock(&database->write_lock);
    int r = sql_run(database->writer, err, "BEGIN IMMEDIATE");
    if (r < 0) {
        pthread_mutex_unlock(&database->write_lock);
        return r;
    }
    database->writer->is_aside = false;
    database->writer->changes_before = sqlite3_total_changes(database->writer->handle);
    *ret_connection = database->writer;
    return 0;
}

int database_begin_aside(struct database *database, struct connection **ret_connection,
                         struct error *err)
{
    int r = database_begin_write(database, ret_connection, err);

    if (r == 0)
        (*ret_connection)->is_aside = true;
    return r;
}

int database_end_write(struct connection *connection, int result, struct error *err)
{
    struct database *database = connection->database;
    struct error ignored;

    reset_statements(connection);
    if (result == 0)
        result = sql_run(connection, err, "COMMIT");
    /* After a full disk SQLite may have undone it all by itself. */
    if (result != 0 && !sqlite3_get_autocommit(connection->handle))
        sql_run(connection, &ignored, "ROLLBACK");
    if (result == 0 && !connection->is_aside &&
        sqlite3_total_changes(connection->handle) != connection->changes_before)
        atomic_fetch_add_explicit(&database->generation, 1, memory_order_release);
    pthread_mutex_unlock(&database->write_lock);
    return result;
}
