/*
 * Versions: publishing $LATEST, deleting. Process: the daemon's; keys are a
 * client's. Invariant: a published version never changes but for its state.
 */
#include <errno.h>
#include <string.h>

#include "host/instance/identity.h"
#include "registry_internal.h"

enum { VERSION_NUMBER_MAX = 999999999 };

/* --- publishing ----------------------------------------------------------------------------------
 */

static int check_publishable(const struct function *latest, const char *code_sha256,
                             const char *revision_id, struct error *err)
{
    if (revision_id && strcmp(revision_id, latest->revision_id) != 0)
        return error_say(err, ESTALE,
                         "The RevisionId provided does not match the latest RevisionId: get the "
                         "function again to learn it");
    if (code_sha256 && strcmp(code_sha256, latest->code_sha256) != 0)
        return error_say(err, EINVAL,
                         "CodeSHA256 (%s) is different from current CodeSHA256 in $LATEST (%s)",
                         shown(code_sha256).text, latest->code_sha256);
    if (latest->state == FUNCTION_FAILED || latest->update_status == UPDATE_FAILED)
        return error_say(err, EBUSY,
                         "The operation cannot be performed at this time: %s %s Failed. Update it "
                         "first",
                         latest->state == FUNCTION_FAILED ? "function" : "the update of function",
                         latest->name);
    return 0;
}

/* The last version, if $LATEST is still what it was made from (and it has not failed, or it would
 * be given out for ever): 1, 0 or -errno. */
static int find_same(struct connection *connection, int64_t function_id, uint32_t *ret_number,
                     struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(
        connection, &row, err,
        "SELECT p.number, p.content = l.content AND p.state <> ?2 FROM versions p, versions l"
        " WHERE p.function_id = ?1 AND p.number > 0 AND l.function_id = ?1"
        " AND l.number = 0 ORDER BY p.number DESC LIMIT 1",
        NUMBER(function_id), NUMBER(FUNCTION_FAILED));

    if (r <= 0)
        return r;
    *ret_number = (uint32_t)sqlite3_column_int64(row, 0);
    return sqlite3_column_int(row, 1);
}

static int take_number(struct connection *connection, int64_t function_id, uint32_t *ret_number,
                       struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT next_version FROM functions WHERE id = ?1",
                    NUMBER(function_id));

    if (r <= 0)
        return r < 0 ? r : error_say(err, EBADMSG, "the database has lost a function");
    if (sqlite3_column_int64(row, 0) > VERSION_NUMBER_MAX)
        return error_say(err, EINVAL, "the function has had %d versions: no more fit",
                         VERSION_NUMBER_MAX);
    *ret_number = (uint32_t)sqlite3_column_int64(row, 0);
    return sql_run(connection, err,
                   "UPDATE functions SET next_version = next_version + 1 WHERE id = ?1",
                   NUMBER(function_id));
}

static int check_room(struct connection *connection, const struct function *latest,
                      struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT 1 FROM tenants WHERE name = ?1 AND code_bytes + ?2 > code_limit",
                    TEXT(latest->tenant), NUMBER(latest->code_bytes));

    return r == 1 ? error_say(err, EDQUOT,
                              "Code storage limit exceeded: delete versions or functions first")
                  : r;
}

static int copy_latest(struct registry *registry, struct connection *connection,
                       int64_t function_id, uint32_t number, const char *description,
                       struct error *err)
{
    char revision[REVISION_BYTES];
    int64_t build_id;
    int r = identity_request(revision, err);

    if (r == 0)
        r = row_next_build(connection, &build_id, err);
    if (r < 0)
        return r;
    return sql_run(connection, err,
                   "INSERT INTO versions (function_id, number, tenant_id, code_id, build_id,"
                   " content, revision, modified_ms, state, update_status, runtime, handler, role,"
                   " description, dead_letter, timeout_s, memory_mib, tmp_mib, tracing,"
                   " environment) SELECT function_id, ?2, tenant_id, code_id, ?3, content, ?4, ?5,"
                   " ?6, ?7, runtime, handler, role, ifnull(?8, description), dead_letter,"
                   " timeout_s, memory_mib, tmp_mib, tracing, environment"
                   " FROM versions WHERE function_id = ?1 AND number = 0",
                   NUMBER(function_id), NUMBER(number), NUMBER(build_id), TEXT(revision),
                   NUMBER(registry->now_ms()), NUMBER(FUNCTION_PENDING), NUMBER(UPDATE_SUCCESSFUL),
                   TEXT(description));
}

int version_publish(struct registry *registry, struct connection *connection,
                    const struct function_ids *ids, const char *code_sha256,
                    const char *revision_id, const char *description,
                    struct function **ret_function, struct error *err)
{
    struct function *latest = NULL;
    uint32_t number = 0;
    int r = row_read_version(connection, ids->function_id, VERSION_LATEST, &latest, err);

    if (r == 0)
        r = check_publishable(latest, code_sha256, revision_id, err);
    if (r == 0)
        r = find_same(connection, ids->function_id, &number, err);
    if (r == 0) {
        r = check_room(connection, latest, err);
        if (r == 0)
            r = take_number(connection, ids->function_id, &number, err);
        if (r == 0)
            r = copy_latest(registry, connection, ids->function_id, number, description, err);
    }
    if (r >= 0)
        r = row_read_version(connection, ids->function_id, number, ret_function, err);
    function_free(latest);
    return r;
}

int registry_publish(struct registry *registry, const struct function_key *key,
                     const char *code_sha256, const char *revision_id, const char *description,
                     struct function **ret_function, struct error *err)
{
    struct connection *connection;
    struct function *function = NULL;
    struct function_ids ids;
    int r = description ? check_text("the description", description, 0, DESCRIPTION_MAX, err) : 0;

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = version_publish(registry, connection, &ids, code_sha256, revision_id, description,
                            &function, err);
    r = database_end_write(connection, r, err);
    if (r < 0 || !ret_function)
        function_free(function);
    else
        *ret_function = function;
    return r;
}

/* --- deleting ------------------------------------------------------------------------------------
 */

/* Everything that refers to the function goes with it: ON DELETE CASCADE in the tables. */
static int delete_function(struct connection *connection, const struct function_ids *ids,
                           struct error *err)
{
    int r = sql_run(connection, err,
                    "INSERT INTO retired SELECT tenant_id, name, next_version FROM functions"
                    " WHERE id = ?1 AND next_version > 1"
                    " ON CONFLICT DO UPDATE SET next_version = excluded.next_version",
                    NUMBER(ids->function_id));

    return r < 0 ? r
                 : sql_run(connection, err, "DELETE FROM functions WHERE id = ?1",
                           NUMBER(ids->function_id));
}

static int delete_version(struct connection *connection, const struct function_key *key,
                          const struct function_ids *ids, uint32_t number, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT name FROM aliases WHERE function_id = ?1"
                    " AND (version = ?2 OR additional_version = ?2)",
                    NUMBER(ids->function_id), NUMBER(number));

    if (r == 1)
        return error_say(err, EEXIST, "version %u of %s cannot be deleted: the alias '%s' uses it",
                         number, key->name, column_text(row, 0));
    if (r == 0)
        r = row_forget_qualifier(connection, ids->function_id, key->qualifier, err);
    if (r == 0)
        r = sql_run(connection, err, "DELETE FROM versions WHERE function_id = ?1 AND number = ?2",
                    NUMBER(ids->function_id), NUMBER(number));
    if (r == 0 && connection_changes(connection) == 0)
        r = row_no_function(key, err);
    return r;
}

int registry_delete(struct registry *registry, const struct function_key *key, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    enum qualifier_kind kind;
    uint32_t number;
    int r = check_qualifier(key->qualifier, &kind, &number, err);

    if (r == 0 && (kind == QUALIFIER_ALIAS ||
                   (kind == QUALIFIER_LATEST && key->qualifier && key->qualifier[0])))
        r = error_say(err, EINVAL, "'%s' cannot be deleted alone: only published versions can",
                      key->qualifier);
    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = kind == QUALIFIER_VERSION ? delete_version(connection, key, &ids, number, err)
                                      : delete_function(connection, &ids, err);
    return database_end_write(connection, r, err);
}
