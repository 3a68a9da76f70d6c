/* Reserved and provisioned concurrency: see registry_attached.h. Process: the daemon's. */
#include <errno.h>
#include <stdio.h>

#include "registry_internal.h"

enum { CONCURRENCY_MOST = 1000000 };

/* The numbers that one function's settings have to fit into. */
struct budget {
    int64_t account;     /* the tenant's concurrency */
    int64_t others;      /* reserved by its other functions */
    int64_t reserved;    /* by this one, or RESERVED_NONE */
    int64_t provisioned; /* by this one, in all */
};

static int read_budget(struct connection *connection, int64_t function_id,
                       struct budget *ret_budget, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT t.concurrency, t.reserved - max(f.reserved, 0), f.reserved,"
                    " (SELECT ifnull(sum(requested), 0) FROM provisioned WHERE function_id = ?1)"
                    " FROM functions f JOIN tenants t ON t.id = f.tenant_id WHERE f.id = ?1",
                    NUMBER(function_id));

    if (r <= 0)
        return r < 0 ? r : error_say(err, EBADMSG, "the database has lost a tenant");
    *ret_budget = (struct budget){sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1),
                                  sqlite3_column_int64(row, 2), sqlite3_column_int64(row, 3)};
    return 0;
}

/* --- reserved ------------------------------------------------------------------------------------
 */

static int check_reserved(const struct budget *budget, int64_t asked, struct error *err)
{
    if (asked == RESERVED_NONE)
        return 0;
    /* 0 takes nothing from anybody, however small the account. */
    if (asked > 0 && budget->account - budget->others - asked < UNRESERVED_LEAST)
        return error_say(err, EINVAL,
                         "Specified ReservedConcurrentExecutions for function decreases account's "
                         "UnreservedConcurrentExecution below its minimum value of [%d]",
                         UNRESERVED_LEAST);
    if (asked < budget->provisioned)
        return error_say(err, EINVAL,
                         "ReservedConcurrentExecutions is %lld, less than the function's "
                         "provisioned concurrency of %lld",
                         (long long)asked, (long long)budget->provisioned);
    return 0;
}

int registry_set_reserved(struct registry *registry, const struct function_key *key,
                          int64_t concurrency, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    struct budget budget;
    int r = concurrency == RESERVED_NONE ? 0
                                         : check_range("ReservedConcurrentExecutions", concurrency,
                                                       0, CONCURRENCY_MOST, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = read_budget(connection, ids.function_id, &budget, err);
    if (r == 0)
        r = check_reserved(&budget, concurrency, err);
    if (r == 0)
        r = sql_run(connection, err, "UPDATE functions SET reserved = ?2 WHERE id = ?1",
                    NUMBER(ids.function_id), NUMBER(concurrency));
    return database_end_write(connection, r, err);
}

/* --- provisioned ---------------------------------------------------------------------------------
 */

static void read_item(sqlite3_stmt *row, struct provisioned *item)
{
    *item = (struct provisioned){
        .requested = (uint32_t)sqlite3_column_int64(row, 2),
        .modified_ms = (uint64_t)sqlite3_column_int64(row, 3),
    };
    snprintf(item->function, sizeof(item->function), "%s", column_text(row, 0));
    snprintf(item->qualifier, sizeof(item->qualifier), "%s", column_text(row, 1));
}

#define ITEMS                                                                                      \
    "SELECT f.name, p.qualifier, p.requested, p.modified_ms FROM provisioned p"                    \
    " JOIN functions f ON f.id = p.function_id"

static int find_item(struct connection *connection, int64_t function_id, const char *qualifier,
                     struct provisioned *ret, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, ITEMS " WHERE p.function_id = ?1 AND p.qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));

    if (r == 1)
        read_item(row, ret);
    return r;
}

static int no_item(struct error *err)
{
    return error_say(err, ENOENT, "No Provisioned Concurrency Config found for this function");
}

static int check_provisioned(const struct budget *budget, int64_t before, int64_t asked,
                             struct error *err)
{
    int64_t all = budget->provisioned - before + asked;
    int64_t most = budget->reserved >= 0 ? budget->reserved
                                         : budget->account - budget->others - UNRESERVED_LEAST;

    return all <= most ? 0
                       : error_say(err, EINVAL,
                                   "the function's provisioned concurrency would be %lld, its "
                                   "share of the account allows %lld",
                                   (long long)all, (long long)(most > 0 ? most : 0));
}

/* The function's, and that the qualifier is one that can have provisioned concurrency. */
static int find_place(struct connection *connection, const struct function_key *key,
                      struct function_ids *ret_ids, struct error *err)
{
    enum qualifier_kind kind;
    const char *text;
    int r = row_check_qualifier(connection, key, ret_ids, &kind, &text, err);

    if (r == 0 && kind == QUALIFIER_LATEST)
        r = error_say(err, EINVAL,
                      "Provisioned Concurrency Configs cannot be applied to "
                      "unpublished function versions");
    return r;
}

static int put_item(struct registry *registry, struct connection *connection,
                    const struct function_key *key, int64_t requested, struct provisioned *ret,
                    struct error *err)
{
    struct provisioned before = {0};
    struct function_ids ids;
    struct budget budget;
    int r = find_place(connection, key, &ids, err);

    if (r == 0)
        r = find_item(connection, ids.function_id, key->qualifier, &before, err);
    if (r >= 0)
        r = read_budget(connection, ids.function_id, &budget, err);
    if (r == 0)
        r = check_provisioned(&budget, before.requested, requested, err);
    if (r == 0)
        r = sql_run(connection, err,
                    "INSERT INTO provisioned VALUES (?1, ?2, ?3, ?4)"
                    " ON CONFLICT DO UPDATE SET requested = ?3, modified_ms = ?4",
                    NUMBER(ids.function_id), TEXT(key->qualifier), NUMBER(requested),
                    NUMBER(registry->now_ms()));
    if (r == 0)
        r = find_item(connection, ids.function_id, key->qualifier, ret, err);
    return r < 0 ? r : 0;
}

int registry_put_provisioned(struct registry *registry, const struct function_key *key,
                             int64_t requested, struct provisioned *ret, struct error *err)
{
    struct connection *connection;
    struct provisioned item;
    int r = check_range("ProvisionedConcurrentExecutions", requested, 1, CONCURRENCY_MOST, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = put_item(registry, connection, key, requested, &item, err);
    r = database_end_write(connection, r, err);
    if (r == 0 && ret)
        *ret = item;
    return r;
}

int registry_get_provisioned(struct registry *registry, const struct function_key *key,
                             struct provisioned *ret, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    struct provisioned item;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = find_place(connection, key, &ids, err);
    if (r == 0)
        r = find_item(connection, ids.function_id, key->qualifier, &item, err);
    if (r == 1)
        *ret = item;
    else if (r == 0)
        r = no_item(err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_delete_provisioned(struct registry *registry, const struct function_key *key,
                                struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    int r = database_begin_write(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = find_place(connection, key, &ids, err);
    if (r == 0)
        r = sql_run(connection, err,
                    "DELETE FROM provisioned WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(ids.function_id), TEXT(key->qualifier));
    if (r == 0 && connection_changes(connection) == 0)
        r = no_item(err);
    return database_end_write(connection, r, err);
}

int registry_list_provisioned(struct registry *registry, const struct function_key *key,
                              const char *marker, int64_t max_items,
                              struct provisioned_page *ret_page, struct error *err)
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
                    ITEMS " WHERE p.function_id = ?1 AND p.qualifier > ?2 ORDER BY p.qualifier"
                          " LIMIT ?3",
                    NUMBER(ids.function_id), TEXT(after), NUMBER(max + 1));
    while (r == 0 && (r = statement_step(row, err)) == 1) {
        r = 0;
        if (ret_page->n == (size_t)max) {
            snprintf(ret_page->next_marker, sizeof(ret_page->next_marker), "%s",
                     ret_page->items[ret_page->n - 1].qualifier);
            break;
        }
        read_item(row, &ret_page->items[ret_page->n++]);
    }
    database_end_read(connection);
    return r;
}

int registry_each_provisioned(struct registry *registry, provisioned_found *found, void *opaque,
                              struct error *err)
{
    struct connection *connection;
    struct provisioned item;
    sqlite3_stmt *row;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    r = sql_get(connection, &row, err,
                "SELECT f.name, p.qualifier, p.requested, p.modified_ms, t.name FROM provisioned p"
                " JOIN functions f ON f.id = p.function_id JOIN tenants t ON t.id = f.tenant_id"
                " ORDER BY p.function_id, p.qualifier");
    while (r == 0 && (r = statement_step(row, err)) == 1) {
        read_item(row, &item);
        r = found(opaque, column_text(row, 4), &item);
    }
    database_end_read(connection);
    return r;
}
