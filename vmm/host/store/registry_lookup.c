/*
 * Reading: the version that a key means, and listings. Process: the daemon's; keys and markers are
 * a client's. Every query goes through a unique index from its first condition on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry_cache.h"
#include "registry_internal.h"

/* --- one version ---------------------------------------------------------------------------------
 */

#define FROM_KEY                                                                                   \
    " FROM tenants t CROSS JOIN functions f ON f.tenant_id = t.id"                                 \
    " CROSS JOIN versions v ON v.function_id = f.id CROSS JOIN code c ON c.id = v.code_id"

/* The version that an alias stands for at this @roll. *ret_is_split: at another, it may be another.
 */
static int resolve_alias(struct connection *connection, const struct function_key *key, double roll,
                         uint32_t *ret_number, bool *ret_is_split, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT a.version, a.additional_version, a.additional_weight"
                    " FROM tenants t CROSS JOIN functions f ON f.tenant_id = t.id"
                    " CROSS JOIN aliases a ON a.function_id = f.id"
                    " WHERE t.name = ?1 AND f.name = ?2 AND a.name = ?3",
                    TEXT(key->tenant), TEXT(key->name), TEXT(key->qualifier));

    if (r < 0)
        return r;
    if (r == 0)
        return row_no_function(key, err);
    *ret_is_split = sqlite3_column_type(row, 1) != SQLITE_NULL;
    bool additional = *ret_is_split && roll >= 0 && roll < sqlite3_column_double(row, 2);
    *ret_number = (uint32_t)sqlite3_column_int64(row, additional ? 1 : 0);
    return 0;
}

/* @least: NUMBER_KEPT: a row that is kept comes before $LATEST. */
static int find(struct connection *connection, const struct function_key *key, double roll,
                int64_t least, struct function **ret_function, bool *ret_is_split,
                struct error *err)
{
    enum qualifier_kind kind;
    sqlite3_stmt *row;
    uint32_t number;
    int r = check_qualifier(key->qualifier, &kind, &number, err);

    if (r == 0 && kind == QUALIFIER_ALIAS)
        r = resolve_alias(connection, key, roll, &number, ret_is_split, err);
    if (r == 0 && number != VERSION_LATEST)
        least = number;
    if (r == 0)
        r = sql_row(connection, &row, err,
                    "SELECT " FUNCTION_COLUMNS FROM_KEY
                    " WHERE t.name = ?1 AND f.name = ?2 AND v.number BETWEEN ?3 AND ?4"
                    " ORDER BY v.number LIMIT 1",
                    TEXT(key->tenant), TEXT(key->name), NUMBER(least), NUMBER(number));
    if (r < 0)
        return r;
    if (r == 0)
        return row_no_function(key, err);
    return row_read_function(row, kind == QUALIFIER_ALIAS ? key->qualifier : NULL, ret_function,
                             err);
}

/* Returns 0, or 1 if another roll may find another. */
static int read_key(struct registry *registry, const struct function_key *key, double roll,
                    int64_t least, struct function **ret_function, struct error *err)
{
    struct connection *connection;
    bool is_split = false;
    int r = check_key(key, err);

    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = find(connection, key, roll, least, ret_function, &is_split, err);
    database_end_read(connection);
    return r < 0 ? r : is_split;
}

/* What was found before, as long as nothing was changed since; else in the database. */
static int find_key(struct registry *registry, const struct function_key *key, double roll,
                    int64_t least, struct function **ret_function, struct error *err)
{
    /* From before the reading: a change in between makes the entry useless, never wrong. */
    uint64_t generation = registry_generation(registry);
    bool is_served = least != VERSION_LATEST;
    struct function *function =
        registry->cache ? registry_cache_find(registry->cache, key, is_served, generation) : NULL;
    int r = function ? 1 : read_key(registry, key, roll, least, &function, err);

    if (r < 0)
        return r;
    if (r == 0 && registry->cache)
        registry_cache_keep(registry->cache, key, is_served, generation, function);
    *ret_function = function;
    return 0;
}

int registry_find(struct registry *registry, const struct function_key *key, double roll,
                  struct function **ret_function, struct error *err)
{
    return find_key(registry, key, roll, VERSION_LATEST, ret_function, err);
}

int registry_find_served(struct registry *registry, const struct function_key *key, double roll,
                         struct function **ret_function, struct error *err)
{
    return find_key(registry, key, roll, NUMBER_KEPT, ret_function, err);
}

/* --- listings ------------------------------------------------------------------------------------
 */

void function_page_done(struct function_page *page)
{
    for (size_t i = 0; i < page->n; i++)
        function_free(page->functions[i]);
    page->n = 0;
}

/* Where a page begins: after this function's version with this number. */
struct place {
    char name[FUNCTION_NAME_MAX + 1];
    int64_t number;
};

/* A marker is "<name>:<number>" of the last that was listed. */
static int read_marker(const char *marker, struct place *ret_place, struct error *err)
{
    const char *colon = marker ? strrchr(marker, ':') : NULL;
    struct error ignored;
    uint32_t number = 0;

    *ret_place = (struct place){.number = -1};
    if (!marker || marker[0] == '\0')
        return 0;
    size_t len = colon ? (size_t)(colon - marker) : 0;
    if (len == 0 || len > FUNCTION_NAME_MAX)
        return error_say(err, EINVAL, "the Marker is none that a listing returned");
    memcpy(ret_place->name, marker, len);
    ret_place->name[len] = '\0';
    if (check_name("the marker", ret_place->name, &ignored) < 0 ||
        (strcmp(colon + 1, "0") != 0 && check_version(colon + 1, &number, &ignored) < 0) ||
        number == UINT32_MAX)
        return error_say(err, EINVAL, "the Marker is none that a listing returned");
    ret_place->number = number;
    return 0;
}

static void write_marker(const struct function *last, char marker[MARKER_BYTES])
{
    snprintf(marker, MARKER_BYTES, "%s:%u", last->name, last->version);
}

/* Rows into @page, up to @max; one more row means that there is a next page. */
static int read_page(sqlite3_stmt *row, size_t max, struct function_page *page, struct error *err)
{
    int r;

    while ((r = statement_step(row, err)) == 1) {
        if (page->n == max) {
            write_marker(page->functions[max - 1], page->next_marker);
            return 0;
        }
        r = row_read_function(row, NULL, &page->functions[page->n], err);
        if (r < 0)
            return r;
        page->n++;
    }
    return r;
}

static int check_tenant(struct connection *connection, const char *tenant, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT 1 FROM tenants WHERE name = ?1", TEXT(tenant));

    return r == 0 ? error_say(err, ENOENT, "there is no tenant '%s'", tenant) : r < 0 ? r : 0;
}

/* Without versions, ?3 is not used but bound: every row has number 0. */
static int list(struct connection *connection, const char *tenant, bool all_versions,
                const struct place *after, int max, struct function_page *page, struct error *err)
{
    sqlite3_stmt *row;
    int r = check_tenant(connection, tenant, err);

    if (r == 0 && all_versions)
        r = sql_get(connection, &row, err,
                    "SELECT " FUNCTION_COLUMNS FROM_KEY
                    " WHERE t.name = ?1 AND f.name >= ?2 AND v.number >= 0"
                    " AND (f.name > ?2 OR v.number > ?3)"
                    " ORDER BY f.name, v.number LIMIT ?4",
                    TEXT(tenant), TEXT(after->name), NUMBER(after->number), NUMBER(max + 1));
    else if (r == 0)
        r = sql_get(connection, &row, err,
                    "SELECT " FUNCTION_COLUMNS FROM_KEY
                    " WHERE t.name = ?1 AND f.name > ?2 AND v.number = 0"
                    " ORDER BY f.name LIMIT ?3",
                    TEXT(tenant), TEXT(after->name), NUMBER(max + 1));
    return r < 0 ? r : read_page(row, (size_t)max, page, err);
}

static int begin_page(const char *marker, int64_t max_items, struct place *ret_after, int *ret_max,
                      struct error *err)
{
    int r = read_marker(marker, ret_after, err);

    *ret_max = r < 0 ? r : page_size(max_items, err);
    return *ret_max < 0 ? *ret_max : 0;
}

/* On failure what was read so far is freed. */
static int end_page(struct connection *connection, int result, struct function_page *page,
                    struct function_page *ret_page)
{
    database_end_read(connection);
    if (result < 0)
        function_page_done(page);
    else
        *ret_page = *page;
    return result;
}

int registry_list(struct registry *registry, const char *tenant, bool all_versions,
                  const char *marker, int64_t max_items, struct function_page *ret_page,
                  struct error *err)
{
    struct function_page page = {0};
    struct connection *connection;
    struct place after;
    int max = 0, r = check_name("the tenant", tenant, err);

    if (r == 0)
        r = begin_page(marker, max_items, &after, &max, err);
    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = list(connection, tenant, all_versions, &after, max, &page, err);
    return end_page(connection, r, &page, ret_page);
}

int registry_list_versions(struct registry *registry, const struct function_key *key,
                           const char *marker, int64_t max_items, struct function_page *ret_page,
                           struct error *err)
{
    struct function_page page = {0};
    struct connection *connection;
    struct function_ids ids;
    struct place after;
    sqlite3_stmt *row;
    int max = 0, r = begin_page(marker, max_items, &after, &max, err);

    if (r == 0 && after.name[0] && strcmp(after.name, key->name) != 0)
        r = error_say(err, EINVAL, "the Marker is of another function's listing");
    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = sql_get(connection, &row, err,
                    "SELECT " FUNCTION_COLUMNS
                    " FROM versions v CROSS JOIN functions f ON f.id = v.function_id"
                    " CROSS JOIN tenants t ON t.id = v.tenant_id"
                    " CROSS JOIN code c ON c.id = v.code_id"
                    " WHERE v.function_id = ?1 AND v.number > ?2 ORDER BY v.number LIMIT ?3",
                    NUMBER(ids.function_id), NUMBER(after.number), NUMBER(max + 1));
    if (r == 0)
        r = read_page(row, (size_t)max, &page, err);
    return end_page(connection, r, &page, ret_page);
}
