/*
 * Making and changing functions. Process: the daemon's; keys and settings are a client's.
 * Invariant: the row of $LATEST always has its code's file on disk.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "database.h"
#include "host/instance/identity.h"
#include "registry_draft.h"

/* --- code ----------------------------------------------------------------------------------------
 */

static int check_quota(int64_t has_bytes, int64_t limit_bytes, uint64_t more_bytes,
                       uint64_t less_bytes, struct error *err)
{
    uint64_t rest = (uint64_t)has_bytes - less_bytes, limit = (uint64_t)limit_bytes;

    if (more_bytes <= less_bytes || (rest <= limit && more_bytes <= limit - rest))
        return 0;
    return error_say(err, EDQUOT,
                     "Code storage limit exceeded: %llu of %llu bytes are in use, %llu more are "
                     "asked for",
                     (unsigned long long)has_bytes, (unsigned long long)limit,
                     (unsigned long long)(more_bytes - less_bytes));
}

static int find_code(struct connection *connection, const char *sha256, int64_t *ret_id,
                     struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT id FROM code WHERE sha256 = ?1", TEXT(sha256));

    if (r == 1)
        *ret_id = sqlite3_column_int64(row, 0);
    return r;
}

/* The row of @code, and its file under its name. */
static int take_code(struct connection *connection, struct code_staged *code, int64_t *ret_id,
                     struct error *err)
{
    const char *sha256 = code_staged_sha256(code);
    int r = find_code(connection, sha256, ret_id, err);

    if (r == 0) {
        r = sql_run(connection, err, "INSERT INTO code (sha256, bytes) VALUES (?1, ?2)",
                    TEXT(sha256), NUMBER(code_staged_len_bytes(code)));
        *ret_id = connection_last_id(connection);
    }
    return r < 0 ? r : code_staged_publish(code, err);
}

/* --- creating ------------------------------------------------------------------------------------
 */

static int find_tenant(struct connection *connection, const char *name, uint64_t code_bytes,
                       int64_t *ret_id, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT id, code_bytes, code_limit FROM tenants WHERE name = ?1", TEXT(name));

    if (r < 0)
        return r;
    if (r == 0)
        return error_say(err, ENOENT, "there is no tenant '%s'", shown(name).text);
    *ret_id = sqlite3_column_int64(row, 0);
    return check_quota(sqlite3_column_int64(row, 1), sqlite3_column_int64(row, 2), code_bytes, 0,
                       err);
}

static int insert_function(struct connection *connection, const struct function_key *key,
                           uint64_t code_bytes, struct function_ids *ret_ids, struct error *err)
{
    sqlite3_stmt *row;
    int64_t tenant_id = 0, next_version = 1;
    int r = find_tenant(connection, key->tenant, code_bytes, &tenant_id, err);

    if (r == 0)
        r = sql_row(connection, &row, err,
                    "SELECT 1 FROM functions WHERE tenant_id = ?1 AND name = ?2", NUMBER(tenant_id),
                    TEXT(key->name));
    if (r == 1)
        return error_say(err, EEXIST, "Function already exist: %s", key->name);
    if (r == 0)
        r = sql_row(connection, &row, err,
                    "SELECT next_version FROM retired WHERE tenant_id = ?1 AND name = ?2",
                    NUMBER(tenant_id), TEXT(key->name));
    if (r == 1)
        next_version = sqlite3_column_int64(row, 0);
    if (r >= 0)
        r = sql_run(connection, err,
                    "INSERT INTO functions (tenant_id, name, next_version) VALUES (?1, ?2, ?3)",
                    NUMBER(tenant_id), TEXT(key->name), NUMBER(next_version));
    if (r == 0)
        *ret_ids = (struct function_ids){tenant_id, connection_last_id(connection)};
    return r;
}

static int insert_latest(struct registry *registry, struct connection *connection,
                         const struct function_ids *ids, int64_t code_id, const struct draft *draft,
                         struct error *err)
{
    char revision[REVISION_BYTES];
    int64_t build_id;
    int r = identity_request(revision, err);

    if (r == 0)
        r = row_next_build(connection, &build_id, err);
    if (r < 0)
        return r;
    return sql_run(
        connection, err,
        "INSERT INTO versions (function_id, number, tenant_id, code_id, build_id, content,"
        " revision, modified_ms, state, update_status, runtime, handler, role, description,"
        " dead_letter, timeout_s, memory_mib, tmp_mib, tracing, environment)"
        " VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,"
        " ?18, ?19)",
        NUMBER(ids->function_id), NUMBER(ids->tenant_id), NUMBER(code_id), NUMBER(build_id),
        BLOB(draft->content, CONTENT_BYTES), TEXT(revision), NUMBER(registry->now_ms()),
        NUMBER(FUNCTION_PENDING), NUMBER(UPDATE_SUCCESSFUL), TEXT(draft->runtime),
        TEXT(draft->handler), TEXT(draft->role), TEXT(draft->description), TEXT(draft->dead_letter),
        NUMBER(draft->timeout_s), NUMBER(draft->memory_mib), NUMBER(draft->tmp_mib),
        NUMBER(draft->tracing), BLOB(draft->environment, draft->environment_bytes));
}

/* After a change that was undone: its code's file goes too, unless others have that code. */
static void forget_code(struct registry *registry, struct code_staged *code)
{
    struct connection *connection;
    struct error ignored; /* what stays is collected later */
    int64_t id;

    if (!code_staged_is_published(code) ||
        database_begin_write(registry->database, &connection, &ignored) < 0)
        return;
    if (find_code(connection, code_staged_sha256(code), &id, &ignored) == 0)
        code_store_remove(registry->code, code_staged_sha256(code), &ignored);
    database_end_write(connection, 0, &ignored);
}

static int end_change(struct registry *registry, struct connection *connection, int result,
                      struct code_staged *code, struct function *function,
                      struct function **ret_function, struct error *err)
{
    result = database_end_write(connection, result, err);
    if (result < 0 && code)
        forget_code(registry, code);
    if (result < 0 || !ret_function)
        function_free(function);
    else
        *ret_function = function;
    return result;
}

/* What a change is to give: $LATEST as it is then, or with @publishes the version made of it. */
static int read_result(struct registry *registry, struct connection *connection,
                       const struct function_ids *ids, bool publishes,
                       struct function **ret_function, struct error *err)
{
    return publishes
               ? version_publish(registry, connection, ids, NULL, NULL, NULL, ret_function, err)
               : row_read_version(connection, ids->function_id, VERSION_LATEST, ret_function, err);
}

static int create(struct registry *registry, const struct function_key *key,
                  const struct draft *draft, struct code_staged *code, const struct text_pair *tags,
                  size_t n_tags, bool publishes, struct function **ret_function, struct error *err)
{
    struct connection *connection;
    struct function *function = NULL;
    struct function_ids ids = {0};
    int64_t code_id = 0;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = insert_function(connection, key, code_staged_len_bytes(code), &ids, err);
    if (r == 0)
        r = tags_put(connection, ids.function_id, tags, n_tags, err);
    if (r == 0)
        r = take_code(connection, code, &code_id, err);
    if (r == 0)
        r = insert_latest(registry, connection, &ids, code_id, draft, err);
    if (r == 0)
        r = read_result(registry, connection, &ids, publishes, &function, err);
    return end_change(registry, connection, r, code, function, ret_function, err);
}

static int check_and_create(struct registry *registry, const struct function_key *key,
                            const struct function_settings *settings, struct code_staged *code,
                            const struct text_pair *tags, size_t n_tags, bool publishes,
                            struct function **ret_function, struct error *err)
{
    struct draft draft;
    int r = check_key(key, err);

    draft_from_defaults(&draft);
    if (r == 0)
        r = check_settings(registry, settings, true, err);
    if (r == 0)
        r = draft_apply(&draft, settings, err);
    draft.code_sha256 = code_staged_sha256(code);
    if (r == 0)
        r = draft_seal(&draft, err);
    if (r == 0)
        r = create(registry, key, &draft, code, tags, n_tags, publishes, ret_function, err);
    draft_done(&draft);
    return r;
}

int registry_create_function(struct registry *registry, const struct function_key *key,
                             const struct function_settings *settings, struct code_staged *code,
                             const struct text_pair *tags, size_t n_tags,
                             struct function **ret_function, struct error *err)
{
    return check_and_create(registry, key, settings, code, tags, n_tags, false, ret_function, err);
}

int registry_create_published(struct registry *registry, const struct function_key *key,
                              const struct function_settings *settings, struct code_staged *code,
                              const struct text_pair *tags, size_t n_tags,
                              struct function **ret_version, struct error *err)
{
    return check_and_create(registry, key, settings, code, tags, n_tags, true, ret_version, err);
}

/* --- changing ------------------------------------------------------------------------------------
 */

static int check_unqualified(const struct function_key *key, struct error *err)
{
    enum qualifier_kind kind;
    uint32_t number;
    int r = check_qualifier(key->qualifier, &kind, &number, err);

    if (r == 0 && kind != QUALIFIER_LATEST)
        r = error_say(err, EINVAL, "only $LATEST can be changed, not '%s'", key->qualifier);
    return r;
}

/* $LATEST, if it may be changed now. *ret_latest is owned, also after an error. */
static int find_changeable(struct connection *connection, const struct function_key *key,
                           const char *revision_id, struct function_ids *ret_ids,
                           struct function **ret_latest, struct error *err)
{
    int r = row_find_function(connection, key, ret_ids, err);

    if (r == 0)
        r = row_read_version(connection, ret_ids->function_id, VERSION_LATEST, ret_latest, err);
    if (r < 0)
        return r;
    if (revision_id && strcmp(revision_id, (*ret_latest)->revision_id) != 0)
        return error_say(err, ESTALE,
                         "The RevisionId provided does not match the latest RevisionId: get the "
                         "function again to learn it");
    if ((*ret_latest)->state == FUNCTION_PENDING ||
        (*ret_latest)->update_status == UPDATE_IN_PROGRESS)
        return error_say(err, EBUSY,
                         "The operation cannot be performed at this time: an update is in "
                         "progress for function %s",
                         key->name);
    return 0;
}

static int has_content(struct connection *connection, int64_t function_id,
                       const uint8_t content[CONTENT_BYTES], struct error *err)
{
    sqlite3_stmt *row;

    return sql_row(connection, &row, err,
                   "SELECT 1 FROM versions WHERE function_id = ?1 AND number = 0 AND content = ?2",
                   NUMBER(function_id), BLOB(content, CONTENT_BYTES));
}

/* The state that a change leads to. A function that never came up is made anew. */
static void next_state(const struct function *latest, bool is_same, int *ret_state, int *ret_status)
{
    bool never_up = latest->state == FUNCTION_FAILED;

    *ret_state = is_same ? FUNCTION_ACTIVE : never_up ? FUNCTION_PENDING : (int)latest->state;
    *ret_status = is_same || never_up ? UPDATE_SUCCESSFUL : UPDATE_IN_PROGRESS;
}

/* A good build goes on serving until there is a newer one: its row is kept, $LATEST is a copy. */
static int keep_good(struct connection *connection, const struct function_ids *ids,
                     int64_t build_id, struct error *err)
{
    int r = sql_run(connection, err, "DELETE FROM versions WHERE function_id = ?1 AND number = ?2",
                    NUMBER(ids->function_id), NUMBER(NUMBER_KEPT));

    if (r == 0)
        r = sql_run(connection, err,
                    "UPDATE versions SET number = ?2 WHERE function_id = ?1 AND number = 0",
                    NUMBER(ids->function_id), NUMBER(NUMBER_KEPT));
    return r < 0
               ? r
               : sql_run(connection, err,
                         "INSERT INTO versions (function_id, number, tenant_id, code_id, build_id,"
                         " content, revision, modified_ms, state, update_status, runtime, handler,"
                         " role, description, dead_letter, timeout_s, memory_mib, tmp_mib, tracing,"
                         " environment) SELECT function_id, 0, tenant_id, code_id, ?3, content,"
                         " revision, modified_ms, state, update_status, runtime, handler, role,"
                         " description, dead_letter, timeout_s, memory_mib, tmp_mib, tracing,"
                         " environment FROM versions WHERE function_id = ?1 AND number = ?2",
                         NUMBER(ids->function_id), NUMBER(NUMBER_KEPT), NUMBER(build_id));
}

static int update_latest(struct registry *registry, struct connection *connection,
                         const struct function_ids *ids, const struct function *latest,
                         int64_t code_id, const struct draft *draft, struct error *err)
{
    int64_t build_id = (int64_t)latest->build_id;
    bool is_well = latest->state == FUNCTION_ACTIVE && latest->update_status == UPDATE_SUCCESSFUL;
    char revision[REVISION_BYTES];
    int state, status, r = has_content(connection, ids->function_id, draft->content, err);
    bool is_same = r == 1 && is_well; /* a failure is tried again */

    if (r >= 0 && !is_same)
        r = row_next_build(connection, &build_id, err);
    if (r >= 0 && !is_same && is_well)
        r = keep_good(connection, ids, build_id, err);
    if (r >= 0)
        r = identity_request(revision, err);
    if (r < 0)
        return r;
    next_state(latest, is_same, &state, &status);
    return sql_run(
        connection, err,
        "UPDATE versions SET code_id = ?2, build_id = ?3, content = ?4, revision = ?5,"
        " modified_ms = ?6, state = ?7, update_status = ?8, reason = '', reason_code = '',"
        " build_tries = 0, build_due_ms = 0, runtime = ?9,"
        " handler = ?10, role = ?11, description = ?12, dead_letter = ?13, timeout_s = ?14,"
        " memory_mib = ?15, tmp_mib = ?16, tracing = ?17, environment = ?18"
        " WHERE function_id = ?1 AND number = 0",
        NUMBER(ids->function_id), NUMBER(code_id), NUMBER(build_id),
        BLOB(draft->content, CONTENT_BYTES), TEXT(revision), NUMBER(registry->now_ms()),
        NUMBER(state), NUMBER(status), TEXT(draft->runtime), TEXT(draft->handler),
        TEXT(draft->role), TEXT(draft->description), TEXT(draft->dead_letter),
        NUMBER(draft->timeout_s), NUMBER(draft->memory_mib), NUMBER(draft->tmp_mib),
        NUMBER(draft->tracing), BLOB(draft->environment, draft->environment_bytes));
}

/* The draft with the new code, whose file and row are there then. */
static int replace_code(struct connection *connection, const struct function_ids *ids,
                        const struct function *latest, struct code_staged *code,
                        struct draft *draft, int64_t *ret_code_id, struct error *err)
{
    sqlite3_stmt *row;
    int r =
        sql_row(connection, &row, err, "SELECT code_bytes, code_limit FROM tenants WHERE id = ?1",
                NUMBER(ids->tenant_id));

    if (r == 1)
        r = check_quota(sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1),
                        code_staged_len_bytes(code), latest->code_bytes, err);
    draft->code_sha256 = code_staged_sha256(code);
    return r < 0 ? r : take_code(connection, code, ret_code_id, err);
}

static int replace_settings(struct connection *connection, const struct function *latest,
                            const struct function_settings *settings, struct draft *draft,
                            int64_t *ret_code_id, struct error *err)
{
    int r = draft_apply(draft, settings, err);

    if (r == 0)
        r = find_code(connection, latest->code_sha256, ret_code_id, err);
    if (r == 0)
        r = error_say(err, EBADMSG, "the database has lost the code of a function");
    return r < 0 ? r : 0;
}

/* One of @code and @settings, the other is NULL. */
static int change(struct registry *registry, struct connection *connection,
                  const struct function_key *key, struct code_staged *code,
                  const struct function_settings *settings, const char *revision_id, bool publishes,
                  struct function **ret_function, struct error *err)
{
    struct function *latest = NULL;
    struct function_ids ids = {0};
    struct draft draft = {0};
    int64_t code_id = 0;
    int r = find_changeable(connection, key, revision_id, &ids, &latest, err);

    if (r == 0)
        r = draft_from_function(&draft, latest, err);
    if (r == 0)
        r = settings ? replace_settings(connection, latest, settings, &draft, &code_id, err)
                     : replace_code(connection, &ids, latest, code, &draft, &code_id, err);
    if (r == 0)
        r = draft_seal(&draft, err);
    if (r == 0)
        r = update_latest(registry, connection, &ids, latest, code_id, &draft, err);
    if (r == 0)
        r = read_result(registry, connection, &ids, publishes, ret_function, err);
    draft_done(&draft);
    function_free(latest);
    return r;
}

static int begin_and_change(struct registry *registry, const struct function_key *key,
                            struct code_staged *code, const struct function_settings *settings,
                            const char *revision_id, bool publishes, struct function **ret_function,
                            struct error *err)
{
    struct connection *connection;
    struct function *function = NULL;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = change(registry, connection, key, code, settings, revision_id, publishes, &function, err);
    return end_change(registry, connection, r, code, function, ret_function, err);
}

int registry_update_code(struct registry *registry, const struct function_key *key,
                         struct code_staged *code, const char *revision_id,
                         struct function **ret_function, struct error *err)
{
    int r = check_unqualified(key, err);

    return r < 0
               ? r
               : begin_and_change(registry, key, code, NULL, revision_id, false, ret_function, err);
}

int registry_update_published(struct registry *registry, const struct function_key *key,
                              struct code_staged *code, const char *revision_id,
                              struct function **ret_version, struct error *err)
{
    int r = check_unqualified(key, err);

    return r < 0 ? r
                 : begin_and_change(registry, key, code, NULL, revision_id, true, ret_version, err);
}

int registry_update_settings(struct registry *registry, const struct function_key *key,
                             const struct function_settings *settings, const char *revision_id,
                             struct function **ret_function, struct error *err)
{
    int r = check_unqualified(key, err);

    if (r == 0)
        r = check_settings(registry, settings, false, err);
    return r < 0 ? r
                 : begin_and_change(registry, key, NULL, settings, revision_id, false, ret_function,
                                    err);
}

int registry_check_update(struct registry *registry, const struct function_key *key,
                          const char *revision_id, struct error *err)
{
    struct connection *connection;
    struct function *latest = NULL;
    struct function_ids ids = {0};
    int r = check_unqualified(key, err);

    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = find_changeable(connection, key, revision_id, &ids, &latest, err);
    function_free(latest);
    database_end_read(connection);
    return r;
}
