/*
 * Builds: which are to be made next, and what became of them. Process: the daemon's.
 * Invariant: while $LATEST has no good build of its own (an update under way, or failed), the row
 * NUMBER_KEPT has the last good one; it goes when that changes.
 */
#include <errno.h>
#include <string.h>

#include "common/text.h"
#include "registry_internal.h"

enum {
    REASON_MAX_BYTES = 1024,
    REASON_CODE_MAX_BYTES = 64,
    DELAY_MAX_MS = 24 * 3600 * 1000, /* a clock that was set back does not put off for ever */
};

/* What the index of builds is over. */
#define IS_PENDING "(state = 0 OR update_status = 1)"

/* --- what became of one --------------------------------------------------------------------------
 */

static int no_build(uint64_t build_id, int code, struct error *err)
{
    return error_say(err, code, "build %llu was deleted or replaced", (unsigned long long)build_id);
}

static int finish_well(struct connection *connection, uint64_t build_id, struct error *err)
{
    int r = sql_run(connection, err,
                    "DELETE FROM versions WHERE number = ?2 AND function_id ="
                    " (SELECT function_id FROM versions WHERE build_id = ?1 AND number = 0)",
                    NUMBER(build_id), NUMBER(NUMBER_KEPT));

    return r < 0 ? r
                 : sql_run(connection, err,
                           "UPDATE versions SET reason = '', reason_code = '', state = ?2,"
                           " update_status = ?3 WHERE build_id = ?1 AND number >= 0",
                           NUMBER(build_id), NUMBER(FUNCTION_ACTIVE), NUMBER(UPDATE_SUCCESSFUL));
}

/* state 0 is PENDING: a first build that failed; later ones leave the state as it is. What is not
 * pending has served already: that cannot be undone. */
static int finish_badly(struct connection *connection, uint64_t build_id,
                        const struct build_failure *failure, struct error *err)
{
    char reason[REASON_MAX_BYTES + 1], code[REASON_CODE_MAX_BYTES + 1];

    text_clean(reason, sizeof(reason), failure->reason, strlen(failure->reason));
    text_clean(code, sizeof(code), failure->code, strlen(failure->code));
    return sql_run(connection, err,
                   "UPDATE versions SET reason = ?2, reason_code = ?5,"
                   " update_status = CASE state WHEN 0 THEN update_status ELSE ?4 END,"
                   " state = CASE state WHEN 0 THEN ?3 ELSE state END"
                   " WHERE build_id = ?1 AND " IS_PENDING,
                   NUMBER(build_id), TEXT(reason), NUMBER(FUNCTION_FAILED), NUMBER(UPDATE_FAILED),
                   TEXT(code));
}

int registry_finish_build(struct registry *registry, uint64_t build_id,
                          const struct build_failure *failure, struct error *err)
{
    struct connection *connection;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = failure ? finish_badly(connection, build_id, failure, err)
                : finish_well(connection, build_id, err);
    if (r == 0 && connection_changes(connection) == 0)
        r = no_build(build_id, ESTALE, err);
    return database_end_write(connection, r, err);
}

int registry_put_off_build(struct registry *registry, uint64_t build_id, uint64_t delay_ms,
                           const char *reason, struct error *err)
{
    struct connection *connection;
    char clean[REASON_MAX_BYTES + 1];
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    text_clean(clean, sizeof(clean), reason, strlen(reason));
    if (delay_ms > DELAY_MAX_MS)
        delay_ms = DELAY_MAX_MS;
    r = sql_run(connection, err,
                "UPDATE versions SET build_tries = build_tries + 1, build_due_ms = ?2, reason = ?3"
                " WHERE build_id = ?1 AND " IS_PENDING,
                NUMBER(build_id), NUMBER(registry->now_ms() + delay_ms), TEXT(clean));
    if (r == 0 && connection_changes(connection) == 0)
        r = no_build(build_id, ESTALE, err);
    return database_end_write(connection, r, err);
}

/* --- which one next ------------------------------------------------------------------------------
 */

/* The tenant after @after that waits for a build: 1, 0 or -errno. */
static int next_tenant(struct connection *connection, int64_t after, int64_t *ret_tenant,
                       struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT tenant_id FROM versions WHERE " IS_PENDING
                    " AND tenant_id > ?1 ORDER BY tenant_id LIMIT 1",
                    NUMBER(after));

    if (r == 1)
        *ret_tenant = sqlite3_column_int64(row, 0);
    return r;
}

static bool is_busy(const struct pending_build *busy, size_t n, uint64_t build_id)
{
    for (size_t i = 0; i < n; i++)
        if (busy[i].build_id == build_id)
            return true;
    return false;
}

/* The tenant's first that is due and not under way: 1, 0 or -errno. */
static int next_of_tenant(struct registry *registry, struct connection *connection,
                          int64_t tenant_id, const struct pending_build *busy, size_t n_busy,
                          struct pending_build *ret_build, struct error *err)
{
    int64_t now_ms = (int64_t)registry->now_ms();
    sqlite3_stmt *row;
    int r = sql_get(connection, &row, err,
                    "SELECT build_id, build_tries FROM versions WHERE " IS_PENDING
                    " AND tenant_id = ?1 AND (build_due_ms <= ?2 OR build_due_ms > ?3)"
                    " ORDER BY build_due_ms, build_id LIMIT ?4",
                    NUMBER(tenant_id), NUMBER(now_ms), NUMBER(now_ms + DELAY_MAX_MS),
                    NUMBER(n_busy + 1));

    while (r == 0 && (r = statement_step(row, err)) == 1) {
        uint64_t build_id = (uint64_t)sqlite3_column_int64(row, 0);

        if (!is_busy(busy, n_busy, build_id)) {
            *ret_build =
                (struct pending_build){build_id, tenant_id, (uint32_t)sqlite3_column_int64(row, 1)};
            return 1;
        }
        r = 0;
    }
    return r;
}

static bool has_busy(const struct pending_build *busy, size_t n, int64_t tenant_id)
{
    for (size_t i = 0; i < n; i++)
        if (busy[i].build_id && busy[i].tenant_id == tenant_id)
            return true;
    return false;
}

/* Once round the tenants, from the one after @after on. The first whose turn it is; if there is
 * none, the first with a build under way already. */
static int take_turn(struct registry *registry, struct connection *connection, int64_t after,
                     const struct pending_build *busy, size_t n_busy,
                     struct pending_build *ret_build, bool *ret_waits, struct error *err)
{
    struct pending_build second = {.build_id = 0}, found;
    int64_t at = after, tenant_id = 0;
    bool is_wrapped = false;

    for (;;) {
        int r = next_tenant(connection, at, &tenant_id, err);

        if (r < 0)
            return r;
        if (r == 0 && !is_wrapped) {
            is_wrapped = true;
            at = 0;
            continue;
        }
        if (r == 0 || (is_wrapped && tenant_id > after))
            break;
        *ret_waits = true;
        at = tenant_id;
        r = next_of_tenant(registry, connection, tenant_id, busy, n_busy, &found, err);
        if (r < 0)
            return r;
        if (r == 1 && !has_busy(busy, n_busy, tenant_id)) {
            *ret_build = found;
            return 1;
        }
        if (r == 1 && second.build_id == 0)
            second = found;
    }
    if (second.build_id == 0)
        return 0;
    *ret_build = second;
    return 1;
}

int registry_next_pending(struct registry *registry, int64_t after_tenant,
                          const struct pending_build *busy, size_t n_busy,
                          struct pending_build *ret_build, bool *ret_waits, struct error *err)
{
    struct connection *connection;
    bool waits = false;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    if (n_busy > PENDING_BUSY_MAX)
        n_busy = PENDING_BUSY_MAX;
    r = take_turn(registry, connection, after_tenant, busy, n_busy, ret_build, &waits, err);
    database_end_read(connection);
    if (r >= 0)
        *ret_waits = waits;
    return r;
}

/* --- reading -------------------------------------------------------------------------------------
 */

int registry_find_build(struct registry *registry, uint64_t build_id,
                        struct function **ret_function, struct error *err)
{
    struct connection *connection;
    sqlite3_stmt *row;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = sql_row(connection, &row, err,
                "SELECT " FUNCTION_COLUMNS
                " FROM versions v CROSS JOIN functions f ON f.id = v.function_id"
                " CROSS JOIN tenants t ON t.id = v.tenant_id"
                " CROSS JOIN code c ON c.id = v.code_id WHERE v.build_id = ?1",
                NUMBER(build_id));
    if (r == 1)
        r = row_read_function(row, NULL, ret_function, err);
    else if (r == 0)
        r = no_build(build_id, ENOENT, err);
    database_end_read(connection);
    return r;
}

int registry_list_builds(struct registry *registry, uint64_t after, uint64_t *ret_build_ids,
                         size_t max, size_t *ret_n, struct error *err)
{
    struct connection *connection;
    sqlite3_stmt *row;
    size_t n = 0;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = sql_get(connection, &row, err,
                "SELECT build_id FROM versions WHERE build_id > ?1 ORDER BY build_id LIMIT ?2",
                NUMBER(after), NUMBER(max));
    while (r == 0 && n < max && (r = statement_step(row, err)) == 1) {
        ret_build_ids[n++] = (uint64_t)sqlite3_column_int64(row, 0);
        r = 0;
    }
    database_end_read(connection);
    if (r < 0)
        return r;
    *ret_n = n;
    return 0;
}
