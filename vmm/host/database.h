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
#ifndef MAYFLY_HOST_DATABASE_H
#define MAYFLY_HOST_DATABASE_H

#include <sqlite3.h>
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

/*
 * statement_get - @sql (a string literal: known by its address) prepared on @connection, reset and
 * without bindings. It belongs to the connection. NULL: @err is filled.
 */
sqlite3_stmt *statement_get(struct connection *connection, const char *sql, struct error *err);

/* statement_step - SQLITE_ROW as 1, SQLITE_DONE as 0, else -errno. */
int statement_step(sqlite3_stmt *statement, struct error *err);

/* statement_run - step to the end, of a statement without rows; resets it. 0 or -errno. */
int statement_run(sqlite3_stmt *statement, struct error *err);

/* database_error - what @code (SQLite's) means here. Returns -errno. */
int database_error(sqlite3 *handle, int code, const char *doing, struct error *err);

/* connection_changes - rows that the last statement changed. connection_handle - SQLite's. */
int connection_changes(const struct connection *connection);
sqlite3 *connection_handle(const struct connection *connection);

/* database_backup - see registry_backup(). */
int database_backup(struct database *database, const char *path, struct error *err);

#endif
