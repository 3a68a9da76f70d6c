/* The policy of asynchronous events: see registry_attached.h. Process: the daemon's. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "registry_internal.h"

#define CONFIG_COLUMNS "qualifier, retries, max_age_s, on_success, on_failure, modified_ms"

static void read_config(sqlite3_stmt *row, struct event_config *config)
{
    *config = (struct event_config){
        .retries = (uint32_t)sqlite3_column_int64(row, 1),
        .max_age_s = (uint32_t)sqlite3_column_int64(row, 2),
        .modified_ms = (uint64_t)sqlite3_column_int64(row, 5),
    };
    snprintf(config->qualifier, sizeof(config->qualifier), "%s", column_text(row, 0));
    snprintf(config->on_success, sizeof(config->on_success), "%s", column_text(row, 3));
    snprintf(config->on_failure, sizeof(config->on_failure), "%s", column_text(row, 4));
}

static int find_config(struct connection *connection, int64_t function_id, const char *qualifier,
                       struct event_config *ret, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT " CONFIG_COLUMNS
                    " FROM event_configs WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));

    if (r == 1)
        read_config(row, ret);
    return r;
}

static int no_config(struct error *err)
{
    return error_say(err, ENOENT, "The function doesn't have an EventInvokeConfig");
}

static int check_target(const char *target, struct error *err)
{
    return target && target[0] ? target_check(target, err) : 0;
}

static int check_change(const struct event_config_change *change, struct error *err)
{
    int r = 0;

    if (change->retries >= 0)
        r = check_range("MaximumRetryAttempts", change->retries, 0, EVENT_RETRIES_MAX, err);
    if (r == 0 && change->max_age_s >= 0)
        r = check_range("MaximumEventAgeInSeconds", change->max_age_s, EVENT_AGE_LEAST_S,
                        EVENT_AGE_DEFAULT_S, err);
    if (r == 0)
        r = check_target(change->on_success, err);
    return r < 0 ? r : check_target(change->on_failure, err);
}

static void apply(struct event_config *config, const struct event_config_change *change)
{
    if (change->retries >= 0)
        config->retries = (uint32_t)change->retries;
    if (change->max_age_s >= 0)
        config->max_age_s = (uint32_t)change->max_age_s;
    if (change->on_success)
        snprintf(config->on_success, sizeof(config->on_success), "%s", change->on_success);
    if (change->on_failure)
        snprintf(config->on_failure, sizeof(config->on_failure), "%s", change->on_failure);
}

/* @is_update: on what is there; else on the defaults. */
static int put_config(struct registry *registry, struct connection *connection, bool is_update,
                      const struct function_key *key, const struct event_config_change *change,
                      struct event_config *config, struct error *err)
{
    struct function_ids ids;
    enum qualifier_kind kind;
    const char *qualifier;
    int r = row_check_qualifier(connection, key, &ids, &kind, &qualifier, err);

    if (r == 0 && is_update) {
        r = find_config(connection, ids.function_id, qualifier, config, err);
        r = r == 0 ? no_config(err) : r < 0 ? r : 0;
    }
    if (r < 0)
        return r;
    apply(config, change);
    snprintf(config->qualifier, sizeof(config->qualifier), "%s", qualifier);
    config->modified_ms = registry->now_ms();
    return sql_run(connection, err,
                   "INSERT INTO event_configs (function_id, " CONFIG_COLUMNS ")"
                   " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                   " ON CONFLICT DO UPDATE SET retries = ?3, max_age_s = ?4, on_success = ?5,"
                   " on_failure = ?6, modified_ms = ?7",
                   NUMBER(ids.function_id), TEXT(config->qualifier), NUMBER(config->retries),
                   NUMBER(config->max_age_s), TEXT(config->on_success), TEXT(config->on_failure),
                   NUMBER(config->modified_ms));
}

static int put(struct registry *registry, bool is_update, const struct function_key *key,
               const struct event_config_change *change, struct event_config *ret,
               struct error *err)
{
    struct event_config config = {.retries = EVENT_RETRIES_DEFAULT,
                                  .max_age_s = EVENT_AGE_DEFAULT_S};
    struct connection *connection;
    int r = check_change(change, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = put_config(registry, connection, is_update, key, change, &config, err);
    r = database_end_write(connection, r, err);
    if (r == 0 && ret)
        *ret = config;
    return r;
}

int registry_put_event_config(struct registry *registry, const struct function_key *key,
                              const struct event_config_change *config, struct event_config *ret,
                              struct error *err)
{
    return put(registry, false, key, config, ret, err);
}

int registry_update_event_config(struct registry *registry, const struct function_key *key,
                                 const struct event_config_change *config, struct event_config *ret,
                                 struct error *err)
{
    return put(registry, true, key, config, ret, err);
}

int registry_get_event_config(struct registry *registry, const struct function_key *key,
                              struct event_config *ret, struct error *err)
{
    struct event_config config;
    struct connection *connection;
    struct function_ids ids;
    enum qualifier_kind kind;
    const char *qualifier;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = row_check_qualifier(connection, key, &ids, &kind, &qualifier, err);
    if (r == 0)
        r = find_config(connection, ids.function_id, qualifier, &config, err);
    if (r == 1)
        *ret = config;
    else if (r == 0)
        r = no_config(err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_delete_event_config(struct registry *registry, const struct function_key *key,
                                 struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    enum qualifier_kind kind;
    const char *qualifier;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = row_check_qualifier(connection, key, &ids, &kind, &qualifier, err);
    if (r == 0)
        r = sql_run(connection, err,
                    "DELETE FROM event_configs WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(ids.function_id), TEXT(qualifier));
    if (r == 0 && connection_changes(connection) == 0)
        r = no_config(err);
    return database_end_write(connection, r, err);
}

int registry_list_event_configs(struct registry *registry, const struct function_key *key,
                                const char *marker, int64_t max_items,
                                struct event_config_page *ret_page, struct error *err)
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
                    "SELECT " CONFIG_COLUMNS " FROM event_configs WHERE function_id = ?1"
                    " AND qualifier > ?2 ORDER BY qualifier LIMIT ?3",
                    NUMBER(ids.function_id), TEXT(after), NUMBER(max + 1));
    while (r == 0 && (r = statement_step(row, err)) == 1) {
        r = 0;
        if (ret_page->n == (size_t)max) {
            snprintf(ret_page->next_marker, sizeof(ret_page->next_marker), "%s",
                     ret_page->items[ret_page->n - 1].qualifier);
            break;
        }
        read_config(row, &ret_page->items[ret_page->n++]);
    }
    database_end_read(connection);
    return r;
}
