/*
 * Rows of the database as structures, and the look-ups that every change begins with. In a
 * transaction of the caller's. Trust: rows are what this program wrote, but may be damaged.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "registry_internal.h"

/* --- finding -------------------------------------------------------------------------------------
 */

int row_no_function(const struct function_key *key, struct error *err)
{
    bool qualified = key->qualifier && key->qualifier[0];

    return error_say(err, ENOENT, "Function not found: %s%s%s", shown(key->name).text,
                     qualified ? ":" : "", qualified ? shown(key->qualifier).text : "");
}

int row_find_function(struct connection *connection, const struct function_key *key,
                      struct function_ids *ret_ids, struct error *err)
{
    sqlite3_stmt *row;
    int r = check_key(key, err);

    if (r == 0)
        r = sql_row(connection, &row, err,
                    "SELECT t.id, f.id FROM tenants t JOIN functions f ON f.tenant_id = t.id"
                    " WHERE t.name = ?1 AND f.name = ?2",
                    TEXT(key->tenant), TEXT(key->name));
    if (r < 0)
        return r;
    if (r == 0)
        return row_no_function(&(struct function_key){.name = key->name}, err);
    *ret_ids = (struct function_ids){sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1)};
    return 0;
}

int row_has_version(struct connection *connection, int64_t function_id, uint32_t number,
                    struct error *err)
{
    sqlite3_stmt *row;

    return sql_row(connection, &row, err,
                   "SELECT 1 FROM versions WHERE function_id = ?1 AND number = ?2",
                   NUMBER(function_id), NUMBER(number));
}

int row_begin_list(struct registry *registry, const struct function_key *key, const char *marker,
                   int64_t max_items, struct connection **ret_connection,
                   struct function_ids *ret_ids, char ret_after[QUALIFIER_MAX + 1],
                   struct error *err)
{
    int max = page_size(max_items, err), r = max < 0 ? max : check_marker(marker, ret_after, err);

    if (r == 0)
        r = database_begin_read(registry->database, ret_connection, err);
    if (r < 0)
        return r;
    r = row_find_function(*ret_connection, key, ret_ids, err);
    if (r == 0)
        return max;
    database_end_read(*ret_connection);
    return r;
}

int row_check_qualifier(struct connection *connection, const struct function_key *key,
                        struct function_ids *ret_ids, enum qualifier_kind *ret_kind,
                        const char **ret_text, struct error *err)
{
    sqlite3_stmt *row;
    uint32_t number;
    int r = check_qualifier(key->qualifier, ret_kind, &number, err);

    if (r == 0)
        r = row_find_function(connection, key, ret_ids, err);
    if (r < 0)
        return r;
    if (*ret_kind == QUALIFIER_ALIAS)
        r = sql_row(connection, &row, err,
                    "SELECT 1 FROM aliases WHERE function_id = ?1 AND name = ?2",
                    NUMBER(ret_ids->function_id), TEXT(key->qualifier));
    else
        r = row_has_version(connection, ret_ids->function_id, number, err);
    *ret_text = *ret_kind == QUALIFIER_LATEST ? "$LATEST" : key->qualifier;
    return r < 0 ? r : r == 0 ? row_no_function(key, err) : 0;
}

/* --- pairs ---------------------------------------------------------------------------------------
 */

static int compare_pairs(const void *left, const void *right)
{
    const struct text_pair *a = left, *b = right;

    return strcmp(a->name, b->name);
}

static size_t encoded_bytes(const struct text_pair *pairs, size_t n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++)
        len += strlen(pairs[i].name) + strlen(pairs[i].value) + 2;
    return len;
}

int pairs_encode(const char *what, const struct text_pair *pairs, size_t n, char **ret_blob,
                 size_t *ret_len_bytes, struct error *err)
{
    AUTO_FREE struct text_pair *sorted = malloc((n + 1) * sizeof(*sorted));
    size_t len = encoded_bytes(pairs, n);
    AUTO_FREE char *blob = malloc(len + 1);
    char *to = blob;

    if (!sorted || !blob)
        return error_set(err, ENOMEM, "keep the %s", what);
    if (n > 0) {
        memcpy(sorted, pairs, n * sizeof(*sorted));
        qsort(sorted, n, sizeof(*sorted), compare_pairs);
    }
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(sorted[i - 1].name, sorted[i].name) == 0)
            return error_say(err, EINVAL, "the %s has '%s' twice", what,
                             shown(sorted[i].name).text);
        to = stpcpy(to, sorted[i].name) + 1;
        to = stpcpy(to, sorted[i].value) + 1;
    }
    *ret_blob = mem_steal(&blob);
    *ret_len_bytes = len;
    return 0;
}

/* How many pairs an encoded block has; -EBADMSG if it is none. */
static ssize_t count_pairs(const char *blob, size_t len)
{
    size_t zeros = 0;

    for (size_t i = 0; i < len; i++)
        zeros += blob[i] == '\0';
    return (len > 0 && blob[len - 1] != '\0') || zeros % 2 != 0 ? -EBADMSG : (ssize_t)(zeros / 2);
}

/* --- versions ------------------------------------------------------------------------------------
 */

/* In the order of FUNCTION_COLUMNS. */
enum column {
    C_TENANT,
    C_NAME,
    C_ACCOUNT,
    C_NUMBER,
    C_RUNTIME,
    C_HANDLER,
    C_ROLE,
    C_DESCRIPTION,
    C_DEAD_LETTER,
    C_TIMEOUT,
    C_MEMORY,
    C_TMP,
    C_ENVIRONMENT,
    C_TRACING,
    C_SHA256,
    C_BYTES,
    C_MODIFIED,
    C_REVISION,
    C_STATE,
    C_UPDATE_STATUS,
    C_REASON,
    C_BUILD,
    C_RESERVED,
    C_CONCURRENCY,
    C_REASON_CODE,
};

static const enum column text_columns[] = {C_TENANT,      C_NAME,   C_RUNTIME,
                                           C_HANDLER,     C_ROLE,   C_DESCRIPTION,
                                           C_DEAD_LETTER, C_REASON, C_REASON_CODE};

/* Appends to the function's block; all texts are at their known lengths. */
static const char *put(char **to, const char *text, size_t len)
{
    char *at = *to;

    memcpy(at, text, len);
    at[len] = '\0';
    *to += len + 1;
    return at;
}

static const char *put_column(char **to, sqlite3_stmt *row, enum column column)
{
    const char *text = column_text(row, (int)column);

    return put(to, text, strlen(text));
}

static void read_numbers(sqlite3_stmt *row, struct function *function)
{
    int64_t number = sqlite3_column_int64(row, C_NUMBER);

    function->version = number == NUMBER_KEPT ? VERSION_LATEST : (uint32_t)number;
    function->timeout_s = (uint32_t)sqlite3_column_int64(row, C_TIMEOUT);
    function->memory_mib = (uint32_t)sqlite3_column_int64(row, C_MEMORY);
    function->tmp_mib = (uint32_t)sqlite3_column_int64(row, C_TMP);
    function->tracing = (enum tracing_mode)sqlite3_column_int(row, C_TRACING);
    function->code_bytes = (uint64_t)sqlite3_column_int64(row, C_BYTES);
    function->modified_ms = (uint64_t)sqlite3_column_int64(row, C_MODIFIED);
    function->state = (enum function_state)sqlite3_column_int(row, C_STATE);
    function->update_status = (enum update_status)sqlite3_column_int(row, C_UPDATE_STATUS);
    function->build_id = (uint64_t)sqlite3_column_int64(row, C_BUILD);
    function->reserved_concurrency = sqlite3_column_int(row, C_RESERVED);
    function->account_concurrency = (uint32_t)sqlite3_column_int64(row, C_CONCURRENCY);
    if (function->version == VERSION_LATEST)
        strcpy(function->version_text, "$LATEST");
    else
        snprintf(function->version_text, sizeof(function->version_text), "%u", function->version);
}

static void read_texts(sqlite3_stmt *row, const char *alias, struct function *function, char *to)
{
    function->tenant = put_column(&to, row, C_TENANT);
    function->name = put_column(&to, row, C_NAME);
    function->runtime = put_column(&to, row, C_RUNTIME);
    function->handler = put_column(&to, row, C_HANDLER);
    function->role = put_column(&to, row, C_ROLE);
    function->description = put_column(&to, row, C_DESCRIPTION);
    function->dead_letter = put_column(&to, row, C_DEAD_LETTER);
    function->reason = put_column(&to, row, C_REASON);
    function->reason_code = put_column(&to, row, C_REASON_CODE);
    function->alias = alias ? put(&to, alias, strlen(alias)) : NULL;
    snprintf(function->account_id, sizeof(function->account_id), "%s", column_text(row, C_ACCOUNT));
    snprintf(function->code_sha256, sizeof(function->code_sha256), "%s",
             column_text(row, C_SHA256));
    snprintf(function->revision_id, sizeof(function->revision_id), "%s",
             column_text(row, C_REVISION));
}

static size_t texts_bytes(sqlite3_stmt *row, const char *alias)
{
    size_t len = alias ? strlen(alias) + 1 : 0;

    for (size_t i = 0; i < sizeof(text_columns) / sizeof(text_columns[0]); i++)
        len += strlen(column_text(row, (int)text_columns[i])) + 1;
    return len;
}

/* What a function is allocated as. */
struct counted {
    atomic_uint references;
    struct function function;
};

static struct counted *counted_of(struct function *function)
{
    return (struct counted *)(void *)((char *)function - offsetof(struct counted, function));
}

struct function *function_ref(struct function *function)
{
    atomic_fetch_add_explicit(&counted_of(function)->references, 1, memory_order_relaxed);
    return function;
}

int row_read_function(sqlite3_stmt *row, const char *alias, struct function **ret_function,
                      struct error *err)
{
    const char *blob = sqlite3_column_blob(row, C_ENVIRONMENT);
    size_t blob_len = blob ? (size_t)sqlite3_column_bytes(row, C_ENVIRONMENT) : 0;
    ssize_t n = count_pairs(blob, blob_len);
    size_t pairs_bytes = (n > 0 ? (size_t)n : 0) * sizeof(struct text_pair);

    if (n < 0)
        return error_say(err, EBADMSG, "the database holds a damaged environment");
    struct counted *counted =
        calloc(1, sizeof(*counted) + pairs_bytes + blob_len + texts_bytes(row, alias));
    if (!counted)
        return error_set(err, ENOMEM, "read a function");
    atomic_init(&counted->references, 1);
    struct function *function = &counted->function;
    struct text_pair *pairs = (struct text_pair *)(counted + 1);
    char *to = (char *)pairs + pairs_bytes;
    const char *at = to;

    if (blob_len > 0)
        memcpy(to, blob, blob_len);
    for (ssize_t i = 0; i < n; i++) {
        pairs[i].name = at;
        at += strlen(at) + 1;
        pairs[i].value = at;
        at += strlen(at) + 1;
    }
    function->environment = pairs;
    function->n_environment = (size_t)n;
    read_numbers(row, function);
    read_texts(row, alias, function, to + blob_len);
    *ret_function = function;
    return 0;
}

void function_free(struct function *function)
{
    if (function && atomic_fetch_sub(&counted_of(function)->references, 1) == 1)
        free(counted_of(function));
}

int row_read_version(struct connection *connection, int64_t function_id, uint32_t number,
                     struct function **ret_function, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT " FUNCTION_COLUMNS
                    " FROM versions v JOIN functions f ON f.id = v.function_id"
                    " JOIN tenants t ON t.id = v.tenant_id JOIN code c ON c.id = v.code_id"
                    " WHERE v.function_id = ?1 AND v.number = ?2",
                    NUMBER(function_id), NUMBER(number));

    if (r < 0)
        return r;
    return r == 0 ? error_say(err, ENOENT, "Function version not found: %u", number)
                  : row_read_function(row, NULL, ret_function, err);
}

/* --- what belongs to versions --------------------------------------------------------------------
 */

int row_forget_qualifier(struct connection *connection, int64_t function_id, const char *qualifier,
                         struct error *err)
{
    int r = sql_run(connection, err,
                    "DELETE FROM provisioned WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));

    if (r == 0)
        r = sql_run(connection, err, "DELETE FROM urls WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));
    if (r == 0)
        r = sql_run(connection, err,
                    "DELETE FROM event_configs WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));
    if (r == 0)
        r = sql_run(connection, err,
                    "DELETE FROM policies WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));
    return r;
}

int row_next_build(struct connection *connection, int64_t *ret_build_id, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_run(connection, err, "UPDATE counters SET value = value + 1 WHERE name = 'build'");

    if (r == 0)
        r = sql_row(connection, &row, err, "SELECT value FROM counters WHERE name = 'build'");
    if (r < 0)
        return r;
    if (r == 0)
        return error_say(err, EBADMSG, "the database has lost its counter of builds");
    *ret_build_id = sqlite3_column_int64(row, 0);
    return 0;
}
