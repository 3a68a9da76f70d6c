/* Function URLs: see registry_attached.h. Process: the daemon's; ids come from anybody. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/utf8.h"
#include "registry_internal.h"

#define URLS                                                                                       \
    "SELECT u.id, t.name, f.name, u.qualifier, u.auth, u.mode, u.cors, u.created_ms,"              \
    " u.modified_ms FROM urls u JOIN functions f ON f.id = u.function_id"                          \
    " JOIN tenants t ON t.id = f.tenant_id"

/* "" is how the row of $LATEST is named in the table: it keeps an alias's name apart from it. */
static int find_place(struct connection *connection, const struct function_key *key,
                      struct function_ids *ret_ids, const char **ret_qualifier, struct error *err)
{
    enum qualifier_kind kind;
    int r = row_check_qualifier(connection, key, ret_ids, &kind, ret_qualifier, err);

    if (r == 0 && kind == QUALIFIER_VERSION)
        r = error_say(err, EINVAL, "a function URL is for $LATEST or an alias, not a version");
    if (r == 0 && kind == QUALIFIER_LATEST)
        *ret_qualifier = "";
    return r;
}

/* 32 characters, 5 random bits each: nobody guesses one. */
static int make_id(char ret_id[URL_ID_BYTES], struct error *err)
{
    static const char characters[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint8_t random[URL_ID_BYTES - 1];

    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return error_set(err, errno, "get random numbers");
    for (size_t i = 0; i < sizeof(random); i++)
        ret_id[i] = characters[random[i] & 31];
    ret_id[URL_ID_BYTES - 1] = '\0';
    return 0;
}

static void read_url(sqlite3_stmt *row, struct function_url *url)
{
    snprintf(url->id, sizeof(url->id), "%s", column_text(row, 0));
    snprintf(url->tenant, sizeof(url->tenant), "%s", column_text(row, 1));
    snprintf(url->function, sizeof(url->function), "%s", column_text(row, 2));
    snprintf(url->qualifier, sizeof(url->qualifier), "%s", column_text(row, 3));
    url->auth = (enum url_auth)sqlite3_column_int(row, 4);
    url->mode = (enum url_invoke_mode)sqlite3_column_int(row, 5);
    snprintf(url->cors, sizeof(url->cors), "%s", column_text(row, 6));
    url->created_ms = (uint64_t)sqlite3_column_int64(row, 7);
    url->modified_ms = (uint64_t)sqlite3_column_int64(row, 8);
}

static int find_url(struct connection *connection, int64_t function_id, const char *qualifier,
                    struct function_url *ret, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, URLS " WHERE u.function_id = ?1 AND u.qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));

    if (r == 1)
        read_url(row, ret);
    return r;
}

static int no_url(struct error *err)
{
    return error_say(err, ENOENT, "The function has no URL");
}

static int apply(struct function_url *url, const struct url_change *change, struct error *err)
{
    if (change->auth > URL_AUTH_AWS_IAM || change->mode > URL_RESPONSE_STREAM)
        return error_say(err, EINVAL,
                         "AuthType is NONE or AWS_IAM, InvokeMode BUFFERED or "
                         "RESPONSE_STREAM");
    if (change->cors && (strnlen(change->cors, CORS_BYTES) == CORS_BYTES ||
                         !utf8_check(change->cors, strlen(change->cors), NULL)))
        return error_say(err, EINVAL, "Cors is larger than %d bytes or no text", CORS_BYTES - 1);
    if (change->auth >= 0)
        url->auth = (enum url_auth)change->auth;
    if (change->mode >= 0)
        url->mode = (enum url_invoke_mode)change->mode;
    if (change->cors)
        snprintf(url->cors, sizeof(url->cors), "%s", change->cors);
    return 0;
}

static int insert_url(struct connection *connection, int64_t function_id, const char *qualifier,
                      const struct function_url *url, struct error *err)
{
    return sql_run(connection, err, "INSERT INTO urls VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                   TEXT(url->id), NUMBER(function_id), TEXT(qualifier), NUMBER(url->auth),
                   NUMBER(url->mode), TEXT(url->cors), NUMBER(url->created_ms),
                   NUMBER(url->modified_ms));
}

static int update_url(struct connection *connection, const struct function_url *url,
                      struct error *err)
{
    return sql_run(connection, err,
                   "UPDATE urls SET auth = ?2, mode = ?3, cors = ?4, modified_ms = ?5"
                   " WHERE id = ?1",
                   TEXT(url->id), NUMBER(url->auth), NUMBER(url->mode), TEXT(url->cors),
                   NUMBER(url->modified_ms));
}

/* Makes it if @is_new, changes it if not. */
static int put_url(struct registry *registry, struct connection *connection, bool is_new,
                   const struct function_key *key, const struct url_change *change,
                   struct function_url *url, struct error *err)
{
    const char *qualifier;
    struct function_ids ids;
    int r = find_place(connection, key, &ids, &qualifier, err);

    if (r == 0)
        r = find_url(connection, ids.function_id, qualifier, url, err);
    if (r < 0)
        return r;
    if (is_new && r == 1)
        return error_say(err, EEXIST, "The function has a URL already");
    if (!is_new && r == 0)
        return no_url(err);
    url->modified_ms = registry->now_ms();
    if (is_new) {
        url->created_ms = url->modified_ms;
        r = make_id(url->id, err);
    }
    if (r >= 0)
        r = apply(url, change, err);
    if (r == 0)
        r = is_new ? insert_url(connection, ids.function_id, qualifier, url, err)
                   : update_url(connection, url, err);
    if (r == 0)
        r = find_url(connection, ids.function_id, qualifier, url, err);
    return r < 0 ? r : 0;
}

static int put(struct registry *registry, bool is_new, const struct function_key *key,
               const struct url_change *change, struct function_url *ret, struct error *err)
{
    struct connection *connection;
    struct function_url url = {0};
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = put_url(registry, connection, is_new, key, change, &url, err);
    r = database_end_write(connection, r, err);
    if (r == 0 && ret)
        *ret = url;
    return r;
}

int registry_create_url(struct registry *registry, const struct function_key *key,
                        const struct url_change *url, struct function_url *ret, struct error *err)
{
    if (url->auth < 0)
        return error_say(err, EINVAL, "AuthType is required");
    return put(registry, true, key, url, ret, err);
}

int registry_update_url(struct registry *registry, const struct function_key *key,
                        const struct url_change *url, struct function_url *ret, struct error *err)
{
    return put(registry, false, key, url, ret, err);
}

int registry_get_url(struct registry *registry, const struct function_key *key,
                     struct function_url *ret, struct error *err)
{
    struct connection *connection;
    const char *qualifier;
    struct function_ids ids;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = find_place(connection, key, &ids, &qualifier, err);
    if (r == 0)
        r = find_url(connection, ids.function_id, qualifier, ret, err);
    if (r == 0)
        r = no_url(err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_delete_url(struct registry *registry, const struct function_key *key,
                        struct error *err)
{
    struct connection *connection;
    const char *qualifier;
    struct function_ids ids;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = find_place(connection, key, &ids, &qualifier, err);
    if (r == 0)
        r = sql_run(connection, err, "DELETE FROM urls WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(ids.function_id), TEXT(qualifier));
    if (r == 0 && connection_changes(connection) == 0)
        r = no_url(err);
    return database_end_write(connection, r, err);
}

int registry_find_url(struct registry *registry, const char *id, struct function_url *ret,
                      struct error *err)
{
    struct connection *connection;
    sqlite3_stmt *row;
    int r;

    if (strnlen(id, URL_ID_BYTES) != URL_ID_BYTES - 1)
        return no_url(err);
    r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = sql_row(connection, &row, err, URLS " WHERE u.id = ?1", TEXT(id));
    if (r == 1)
        read_url(row, ret);
    else if (r == 0)
        r = no_url(err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_list_urls(struct registry *registry, const struct function_key *key,
                       const char *marker, int64_t max_items, struct url_page *ret_page,
                       struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    sqlite3_stmt *row;
    char after[QUALIFIER_MAX + 1];
    int max = row_begin_list(registry, key, marker, max_items, &connection, &ids, after, err);

    if (max < 0)
        return max;
    ret_page->n = 0;
    ret_page->next_marker[0] = '\0';
    int r = sql_get(connection, &row, err,
                    /* $LATEST's row is "": not after any marker, so the first page takes it too. */
                    URLS " WHERE u.function_id = ?1 AND u.qualifier >= ?2"
                         " AND (?3 OR u.qualifier > ?2) ORDER BY u.qualifier LIMIT ?4",
                    NUMBER(ids.function_id), TEXT(strcmp(after, "$LATEST") == 0 ? "" : after),
                    NUMBER(after[0] == 0), NUMBER(max + 1));
    while (r == 0 && (r = statement_step(row, err)) == 1) {
        r = 0;
        if (ret_page->n == (size_t)max) {
            const char *last = ret_page->urls[ret_page->n - 1].qualifier;

            snprintf(ret_page->next_marker, sizeof(ret_page->next_marker), "%s",
                     last[0] ? last : "$LATEST");
            break;
        }
        read_url(row, &ret_page->urls[ret_page->n++]);
    }
    database_end_read(connection);
    return r;
}
