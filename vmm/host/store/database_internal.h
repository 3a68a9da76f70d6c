/* What the files of the database share: see database.h. */
#ifndef MAYFLY_HOST_STORE_DATABASE_INTERNAL_H
#define MAYFLY_HOST_STORE_DATABASE_INTERNAL_H

#include "database.h"

/* connection_open - SQLite's handle on @path, set up as database.h says. *ret_handle is owned. */
int connection_open(const char *path, int cache_kib, sqlite3 **ret_handle, struct error *err);

/* schema_bring_up - make the tables, or bring them from an older version to this one. */
int schema_bring_up(sqlite3 *handle, struct error *err);

/* database_path - borrowed. */
const char *database_path(const struct database *database);

#endif
