/*
 * The host's SQLite database: one file in WAL mode, connections, prepared statements, transactions.
 * What the registry and the queue have in common; nobody else includes this.
 *
 * Every commit is flushed (synchronous=FULL): what was answered for is on disk. One connection
 * writes; others read beside it, each with its own statements, prepared once. A reader sees the
 * last commit when it began and neither waits for a writer nor for its flush.
 * Trust: the file is the host's own, but may be damaged or a newer program's: that is an error,
 * never a crash. Threads: any. Errors: -ENOSPC, -EBADMSG (damaged), -EAGAIN (another process has
 * held the database for BUSY_MS), -EEXIST (a uniqueness or foreign key), -EIO and so on.
 */
#ifndef MAYFLY_HOST_STORE_DATABASE_H
#define MAYFLY_HOST_STORE_DATABASE_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct database;
struct connection; /* used by the thread that began it until it ends it */

int database_open(const char *path, struct database **ret_database, struct error *err);
/* database_close - nobody may be in a call. Takes NULL. */
void database_close(struct database *database);

/* Counts commits that changed something through this object. Any thread. */
uint64_t database_generation(const struct database *database);

/* database_begin_read - a snapshot of the last commit, until database_end_read(). */
int database_begin_read(struct database *database, struct connection **ret_connection,
                        struct error *err);
void database_end_read(struct connection *connection);

/*
 * database_begin_write - the only writer until database_end_write(), which commits if @result is 0
 * and otherwise undoes everything. Returns @result, or why it could not be committed.
 */
int database_begin_write(struct database *database, struct connection **ret_connection,
                         struct error *err);
int database_end_write(struct connection *connection, int result, struct error *err);

/* database_begin_aside - likewise, of what no generation counts: events come and go all the time,
 * and nothing that is remembered of the rest is less true for it. */
int database_begin_aside(struct database *database, struct connection **ret_connection,
                         struct error *err);

/* A value to bind: borrowed until the statement is got again. */
struct sql_value {
    enum { SQL_NULL, SQL_NUMBER, SQL_REAL, SQL_TEXT, SQL_BLOB } kind;
    int64_t number;
    double real;
    const void *bytes; /* SQL_TEXT: terminated, or NULL, which binds NULL */
    size_t len_bytes;  /* SQL_BLOB */
};

#define NUMBER(v) ((struct sql_value){.kind = SQL_NUMBER, .number = (int64_t)(v)})
#define REAL(v) ((struct sql_value){.kind = SQL_REAL, .real = (v)})
#define TEXT(v) ((struct sql_value){.kind = SQL_TEXT, .bytes = (v)})
#define BLOB(v, len) ((struct sql_value){.kind = SQL_BLOB, .bytes = (v), .len_bytes = (len)})

/*
 * statement_get - @sql (a string literal: known by its address) prepared on @connection, with
 * @values bound to its ?1, ?2, …. It belongs to the connection. 0 or -errno.
 */
int statement_get(struct connection *connection, const char *sql, const struct sql_value *values,
                  size_t n_values, sqlite3_stmt **ret_statement, struct error *err);

#define SQL_VALUES(...)                                                                            \
    (const struct sql_value[]){__VA_ARGS__},                                                       \
        sizeof((const struct sql_value[]){__VA_ARGS__}) / sizeof(struct sql_value)

/* sql_get(connection, &statement, err, "…", values…) - the same, written shorter. */
#define sql_get(connection, ret, err, sql, ...)                                                    \
    statement_get(connection, sql, SQL_VALUES(__VA_ARGS__), ret, err)

/* sql_run(connection, err, "…", values…) - run a statement without rows. 0 or -errno. */
#define sql_run(connection, err, sql, ...)                                                         \
    statement_execute(connection, sql, SQL_VALUES(__VA_ARGS__), err)

/* sql_row(connection, &statement, err, "…", values…) - its first row: 1, 0 without, -errno. */
#define sql_row(connection, ret, err, sql, ...)                                                    \
    statement_first(connection, sql, SQL_VALUES(__VA_ARGS__), ret, err)

int statement_execute(struct connection *connection, const char *sql,
                      const struct sql_value *values, size_t n_values, struct error *err);
int statement_first(struct connection *connection, const char *sql, const struct sql_value *values,
                    size_t n_values, sqlite3_stmt **ret_statement, struct error *err);

/* statement_step - SQLITE_ROW as 1, SQLITE_DONE as 0, else -errno. */
int statement_step(sqlite3_stmt *statement, struct error *err);

/* database_error - what @code (SQLite's) means here. Returns -errno. */
int database_error(sqlite3 *handle, int code, const char *doing, struct error *err);

/* column_text - a text column, never NULL: borrowed until the next step. */
const char *column_text(sqlite3_stmt *statement, int column);

/* connection_changes - rows that the last statement changed. */
int connection_changes(const struct connection *connection);

/* connection_last_id - the row id of the last INSERT. */
int64_t connection_last_id(const struct connection *connection);

/* database_backup - see registry_backup(). */
int database_backup(struct database *database, const char *path, struct error *err);
/* database_copy - the same of the database at @source, which another process may be using; its
 * tables are left as they are. */
int database_copy(const char *source, const char *path, struct error *err);

#endif
