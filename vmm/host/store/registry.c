/* Opening, backup, collection and tenants: see registry.h. Process: the daemon's. */
#include "registry.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "images/image_file.h"
#include "registry_cache.h"
#include "registry_internal.h"
#include "host/runtime_images.h"

#define CODE_LIMIT_DEFAULT (75ull << 30) /* Lambda's quota */

enum {
    CONCURRENCY_DEFAULT = 1000,
    CONCURRENCY_MAX = 1000000,
    COLLECT_BATCH = 256, /* codes a transaction, so that writers wait shortly */
    CLOCK_MS_PER_S = 1000,
};

/* --- opening -------------------------------------------------------------------------------------
 */

static uint64_t wall_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * CLOCK_MS_PER_S + (uint64_t)now.tv_nsec / 1000000u;
}

static int copy_runtimes(struct registry *registry, const char *const *runtimes, struct error *err)
{
    const char *name;
    size_t n = 0;

    for (; (name = runtimes ? runtimes[n] : runtime_name(n)); n++) {
        if (n == RUNTIMES_MAX)
            return error_say(err, E2BIG, "more than %d runtimes", RUNTIMES_MAX);
        registry->runtimes[n] = strdup(name);
        if (!registry->runtimes[n])
            return error_set(err, ENOMEM, "open the registry");
    }
    return n > 0 ? 0 : error_say(err, EINVAL, "the registry needs a runtime");
}

static int open_parts(struct registry *registry, const char *state, struct error *err)
{
    char path[PATH_MAX];
    int r = file_make_directory(state, 0755, err);

    if (r < 0)
        return r;
    if ((size_t)snprintf(path, sizeof(path), "%s/code", state) >= sizeof(path) - 8)
        return error_say(err, ENAMETOOLONG, "'%s' is too long a path", state);
    r = code_store_open(path, &registry->code, err);
    snprintf(path, sizeof(path), "%s/mayfly.db", state);
    return r < 0 ? r : database_open(path, &registry->database, err);
}

/* Chosen once, when the database is new. A copy of it is the same one. */
static int take_identity(struct registry *registry, struct error *err)
{
    struct connection *connection;
    uint64_t chosen = 0;
    sqlite3_stmt *row;

    if (getrandom(&chosen, sizeof(chosen), 0) != sizeof(chosen))
        return error_set(err, errno, "choose the registry's identity");
    int r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = sql_run(connection, err, "INSERT OR IGNORE INTO counters VALUES ('identity', ?1)",
                NUMBER(chosen));
    if (r == 0)
        r = sql_row(connection, &row, err, "SELECT value FROM counters WHERE name = 'identity'");
    if (r == 1)
        registry->identity = (uint64_t)sqlite3_column_int64(row, 0);
    return database_end_write(connection, r < 0 ? r : 0, err);
}

int registry_open(const struct registry_options *options, struct registry **ret_registry,
                  struct error *err)
{
    struct registry *registry = calloc(1, sizeof(*registry));

    if (!registry)
        return error_set(err, ENOMEM, "open the registry");
    registry->now_ms = options->now_ms ? options->now_ms : wall_clock_ms;
    registry->check_runtime = options->check_runtime;
    registry->opaque = options->opaque;
    registry->region = strdup(options->region ? options->region : "us-east-1");
    if (options->is_sole) /* without it, every lookup is one in the database */
        registry->cache = registry_cache_new();
    int r = registry->region ? copy_runtimes(registry, options->runtimes, err)
                             : error_set(err, ENOMEM, "open the registry");
    if (r == 0)
        r = open_parts(registry, options->state, err);
    if (r == 0)
        r = take_identity(registry, err);
    if (r < 0) {
        registry_close(registry);
        return error_wrap(err, "open the registry");
    }
    *ret_registry = registry;
    return 0;
}

void registry_close(struct registry *registry)
{
    if (!registry)
        return;
    registry_cache_free(registry->cache);
    database_close(registry->database);
    code_store_close(registry->code);
    for (size_t i = 0; i < RUNTIMES_MAX; i++)
        free(registry->runtimes[i]);
    free(registry->region);
    free(registry);
}

struct database *registry_database(struct registry *registry)
{
    return registry->database;
}

struct code_store *registry_code_store(struct registry *registry)
{
    return registry->code;
}

uint64_t registry_identity(const struct registry *registry)
{
    return registry->identity;
}

const char *registry_region(const struct registry *registry)
{
    return registry->region;
}

uint64_t registry_generation(const struct registry *registry)
{
    return database_generation(registry->database);
}

int registry_backup(struct registry *registry, const char *path, struct error *err)
{
    return database_backup(registry->database, path, err);
}

/* --- collecting ----------------------------------------------------------------------------------
 */

/*
 * Files go before their rows are committed away: a crash between leaves rows without use or file,
 * and whoever deploys such code again brings the file with it.
 */
static int collect_batch(struct registry *registry, struct connection *connection,
                         uint64_t *freed_bytes, bool *ret_more, struct error *err)
{
    sqlite3_stmt *row;
    int n = 0, r = sql_get(connection, &row, err,
                           "SELECT id, sha256, bytes FROM code WHERE uses = 0 LIMIT ?1",
                           NUMBER(COLLECT_BATCH));

    while (r == 0 && (r = statement_step(row, err)) == 1) {
        r = code_store_remove(registry->code, column_text(row, 1), err);
        *freed_bytes += (uint64_t)sqlite3_column_int64(row, 2);
        n++;
    }
    if (r == 0)
        r = sql_run(connection, err,
                    "DELETE FROM code WHERE id IN (SELECT id FROM code WHERE uses = 0 LIMIT ?1)",
                    NUMBER(COLLECT_BATCH));
    *ret_more = n == COLLECT_BATCH;
    return r;
}

static int code_has_row(void *opaque, const char *code_sha256, struct error *err)
{
    sqlite3_stmt *row;

    return sql_row((struct connection *)opaque, &row, err, "SELECT 1 FROM code WHERE sha256 = ?1",
                   TEXT(code_sha256));
}

/* Pages that nothing uses go back to the file system. */
static int shrink(struct connection *connection, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_get(connection, &row, err, "PRAGMA incremental_vacuum(4096)");

    while (r == 0 && (r = statement_step(row, err)) == 1)
        r = 0;
    return r;
}

int registry_collect(struct registry *registry, uint64_t *ret_freed_bytes, struct error *err)
{
    struct connection *connection;
    uint64_t freed = 0, swept = 0;
    bool more = true;
    int r = 0;

    while (r == 0 && more) {
        r = database_begin_write(registry->database, &connection, err);
        if (r < 0)
            return r;
        r = collect_batch(registry, connection, &freed, &more, err);
        if (r == 0 && !more)
            r = code_store_sweep(registry->code, code_has_row, connection, &swept, err);
        if (r == 0 && !more)
            r = shrink(connection, err);
        r = database_end_write(connection, r, err);
    }
    if (r == 0)
        *ret_freed_bytes = freed + swept;
    return r;
}

/* --- tenants -------------------------------------------------------------------------------------
 */

static int check_tenant(const struct tenant *tenant, struct error *err)
{
    int r = check_name("the tenant", tenant->name, err);

    if (r == 0 && (strlen(tenant->account_id) != ACCOUNT_ID_BYTES - 1 ||
                   strspn(tenant->account_id, "0123456789") != ACCOUNT_ID_BYTES - 1))
        r = error_say(err, EINVAL, "the account '%s' of tenant '%s' is not of 12 digits",
                      shown(tenant->account_id).text, tenant->name);
    if (r == 0)
        r = check_range("the account's concurrency", tenant->concurrency, 0, CONCURRENCY_MAX, err);
    if (r == 0 && tenant->code_limit_bytes > INT64_MAX)
        r = error_say(err, EINVAL, "the account's code limit is too large");
    return r;
}

static int put_tenant(struct connection *connection, const struct tenant *tenant, struct error *err)
{
    uint32_t concurrency = tenant->concurrency ? tenant->concurrency : CONCURRENCY_DEFAULT;
    uint64_t limit = tenant->code_limit_bytes ? tenant->code_limit_bytes : CODE_LIMIT_DEFAULT;
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT name FROM tenants WHERE account_id = ?1 AND name <> ?2",
                    TEXT(tenant->account_id), TEXT(tenant->name));

    if (r < 0)
        return r;
    if (r == 1)
        return error_say(err, EEXIST, "the account %s is tenant '%s' already", tenant->account_id,
                         column_text(row, 0));
    /* What is the same is not written: a daemon does this at each start. */
    return sql_run(connection, err,
                   "INSERT INTO tenants (name, account_id, concurrency, code_limit)"
                   " VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET account_id = ?2,"
                   " concurrency = ?3, code_limit = ?4"
                   " WHERE account_id <> ?2 OR concurrency <> ?3 OR code_limit <> ?4",
                   TEXT(tenant->name), TEXT(tenant->account_id), NUMBER(concurrency),
                   NUMBER(limit));
}

int registry_put_tenant(struct registry *registry, const struct tenant *tenant, struct error *err)
{
    struct connection *connection;
    int r = check_tenant(tenant, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    return r < 0 ? r : database_end_write(connection, put_tenant(connection, tenant, err), err);
}

static void read_tenant(sqlite3_stmt *row, struct tenant *tenant)
{
    int64_t reserved = sqlite3_column_int64(row, 4), concurrency = sqlite3_column_int64(row, 2);

    *tenant = (struct tenant){
        .concurrency = (uint32_t)concurrency,
        .code_limit_bytes = (uint64_t)sqlite3_column_int64(row, 3),
        .unreserved_concurrency = reserved < concurrency ? (uint32_t)(concurrency - reserved) : 0,
        .code_bytes = (uint64_t)sqlite3_column_int64(row, 5),
        .functions = (uint64_t)sqlite3_column_int64(row, 6),
    };
    snprintf(tenant->name, sizeof(tenant->name), "%s", column_text(row, 0));
    snprintf(tenant->account_id, sizeof(tenant->account_id), "%s", column_text(row, 1));
}

static int get_tenant(struct registry *registry, const char *name, struct tenant *ret_tenant,
                      struct error *err)
{
    struct connection *connection;
    sqlite3_stmt *row;
    int r = check_name("the tenant", name, err);

    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = sql_row(connection, &row, err,
                "SELECT name, account_id, concurrency, code_limit, reserved, code_bytes, functions"
                " FROM tenants WHERE name = ?1",
                TEXT(name));
    if (r == 1)
        read_tenant(row, ret_tenant);
    else if (r == 0)
        r = error_say(err, ENOENT, "there is no tenant '%s'", name);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_get_tenant(struct registry *registry, const char *name, struct tenant *ret_tenant,
                        struct error *err)
{
    uint64_t generation = registry_generation(registry);

    if (registry->cache &&
        registry_cache_find_tenant(registry->cache, name, generation, ret_tenant))
        return 0;
    int r = get_tenant(registry, name, ret_tenant, err);
    if (r == 0 && registry->cache)
        registry_cache_keep_tenant(registry->cache, generation, ret_tenant);
    return r;
}
