/* Aliases: see registry_attached.h. Process: the daemon's; everything is a client's. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "host/instance/identity.h"
#include "registry_internal.h"

#define ALIAS_COLUMNS "name, description, version, additional_version, additional_weight, revision"

/* --- rules and rows ------------------------------------------------------------------------------
 */

static int check_alias_key(const struct function_key *key, struct error *err)
{
    enum qualifier_kind kind;
    uint32_t number;
    int r = check_qualifier(key->qualifier, &kind, &number, err);

    if (r == 0 && kind != QUALIFIER_ALIAS)
        r = error_say(err, EINVAL, "an alias's name has a letter, hyphen or underscore in it");
    return r;
}

static void read_alias(sqlite3_stmt *row, struct alias *alias)
{
    *alias = (struct alias){
        .version = (uint32_t)sqlite3_column_int64(row, 2),
        .additional_version = (uint32_t)sqlite3_column_int64(row, 3), /* NULL reads as 0 */
        .additional_weight = sqlite3_column_double(row, 4),
    };
    snprintf(alias->name, sizeof(alias->name), "%s", column_text(row, 0));
    snprintf(alias->description, sizeof(alias->description), "%s", column_text(row, 1));
    snprintf(alias->revision_id, sizeof(alias->revision_id), "%s", column_text(row, 5));
}

static int no_alias(const struct function_key *key, struct error *err)
{
    return error_say(err, ENOENT, "Alias not found: %s:%s", key->name, key->qualifier);
}

/* 1 with *ret_alias, 0 for none, or -errno. */
static int find_alias(struct connection *connection, int64_t function_id, const char *name,
                      struct alias *ret_alias, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT " ALIAS_COLUMNS " FROM aliases WHERE function_id = ?1 AND name = ?2",
                    NUMBER(function_id), TEXT(name));

    if (r == 1)
        read_alias(row, ret_alias);
    return r;
}

static int check_exists(struct connection *connection, int64_t function_id, uint32_t version,
                        struct error *err)
{
    int r = row_has_version(connection, function_id, version, err);

    return r == 0  ? error_say(err, ENOENT, "Function version not found: %u", version)
           : r < 0 ? r
                   : 0;
}

/* NaN fails both comparisons. */
static int check_routing(const struct alias *alias, struct error *err)
{
    if (!(alias->additional_weight >= 0.0 && alias->additional_weight <= 1.0))
        return error_say(err, EINVAL, "an additional version's weight is not from 0.0 to 1.0");
    if (alias->version == VERSION_LATEST || alias->additional_version == VERSION_LATEST)
        return error_say(err, EINVAL,
                         "$LATEST is not supported for an alias pointing to more "
                         "than one version");
    if (alias->version == alias->additional_version)
        return error_say(err, EINVAL, "an alias's two versions are the same");
    return 0;
}

static int apply(struct alias *alias, const struct alias_change *change, struct error *err)
{
    int r = change->version ? check_version(change->version, &alias->version, err) : 0;

    if (r == 0 && change->description) {
        r = check_text("the description", change->description, 0, DESCRIPTION_MAX, err);
        if (r == 0)
            snprintf(alias->description, sizeof(alias->description), "%s", change->description);
    }
    if (r == 0 && change->sets_routing) {
        alias->additional_version = 0;
        alias->additional_weight = 0.0;
        if (!change->additional_version)
            return 0;
        r = check_version(change->additional_version, &alias->additional_version, err);
        alias->additional_weight = change->additional_weight;
        if (r == 0)
            r = check_routing(alias, err);
    } else if (r == 0 && alias->additional_version) {
        r = check_routing(alias, err); /* with the new version */
    }
    return r;
}

static int write_alias(struct connection *connection, int64_t function_id, struct alias *alias,
                       struct error *err)
{
    struct sql_value none = {.kind = SQL_NULL};
    int r = check_exists(connection, function_id, alias->version, err);

    if (r == 0 && alias->additional_version)
        r = check_exists(connection, function_id, alias->additional_version, err);
    if (r == 0)
        r = identity_request(alias->revision_id, err);
    return r < 0 ? r
                 : sql_run(connection, err,
                           "INSERT INTO aliases (function_id, " ALIAS_COLUMNS ")"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                           " ON CONFLICT (function_id, name) DO UPDATE SET description = ?3,"
                           " version = ?4, additional_version = ?5, additional_weight = ?6,"
                           " revision = ?7",
                           NUMBER(function_id), TEXT(alias->name), TEXT(alias->description),
                           NUMBER(alias->version),
                           alias->additional_version ? NUMBER(alias->additional_version) : none,
                           REAL(alias->additional_weight), TEXT(alias->revision_id));
}

/* --- operations ----------------------------------------------------------------------------------
 */

static int create(struct connection *connection, const struct function_key *key,
                  const struct alias_change *change, struct alias *alias, struct error *err)
{
    struct function_ids ids;
    int r = row_find_function(connection, key, &ids, err);

    if (r == 0)
        r = find_alias(connection, ids.function_id, key->qualifier, alias, err);
    if (r == 1)
        return error_say(err, EEXIST, "Alias already exists: %s:%s", key->name, key->qualifier);
    if (r < 0)
        return r;
    *alias = (struct alias){0};
    snprintf(alias->name, sizeof(alias->name), "%s", key->qualifier);
    r = apply(alias, change, err);
    return r < 0 ? r : write_alias(connection, ids.function_id, alias, err);
}

static int update(struct connection *connection, const struct function_key *key,
                  const struct alias_change *change, const char *revision_id, struct alias *alias,
                  struct error *err)
{
    struct function_ids ids;
    int r = row_find_function(connection, key, &ids, err);

    if (r == 0)
        r = find_alias(connection, ids.function_id, key->qualifier, alias, err);
    if (r <= 0)
        return r < 0 ? r : no_alias(key, err);
    if (revision_id && strcmp(revision_id, alias->revision_id) != 0)
        return error_say(err, ESTALE,
                         "The RevisionId provided does not match the latest RevisionId: get the "
                         "alias again to learn it");
    r = apply(alias, change, err);
    return r < 0 ? r : write_alias(connection, ids.function_id, alias, err);
}

int registry_create_alias(struct registry *registry, const struct function_key *key,
                          const struct alias_change *alias, struct alias *ret_alias,
                          struct error *err)
{
    struct connection *connection;
    struct alias made;
    int r = check_alias_key(key, err);

    if (r == 0 && !alias->version)
        r = error_say(err, EINVAL, "FunctionVersion is required");
    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = database_end_write(connection, create(connection, key, alias, &made, err), err);
    if (r == 0 && ret_alias)
        *ret_alias = made;
    return r;
}

int registry_update_alias(struct registry *registry, const struct function_key *key,
                          const struct alias_change *alias, const char *revision_id,
                          struct alias *ret_alias, struct error *err)
{
    struct connection *connection;
    struct alias made;
    int r = check_alias_key(key, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = update(connection, key, alias, revision_id, &made, err);
    r = database_end_write(connection, r, err);
    if (r == 0 && ret_alias)
        *ret_alias = made;
    return r;
}

int registry_get_alias(struct registry *registry, const struct function_key *key,
                       struct alias *ret_alias, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    struct alias found;
    int r = check_alias_key(key, err);

    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = find_alias(connection, ids.function_id, key->qualifier, &found, err);
    if (r == 1)
        *ret_alias = found;
    else if (r == 0)
        r = no_alias(key, err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

int registry_delete_alias(struct registry *registry, const struct function_key *key,
                          struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    int r = check_alias_key(key, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = row_forget_qualifier(connection, ids.function_id, key->qualifier, err);
    if (r == 0)
        r = sql_run(connection, err, "DELETE FROM aliases WHERE function_id = ?1 AND name = ?2",
                    NUMBER(ids.function_id), TEXT(key->qualifier));
    return database_end_write(connection, r, err);
}

/* --- listing -------------------------------------------------------------------------------------
 */

static int list(struct connection *connection, int64_t function_id, const char *version,
                const char *marker, int max, struct alias_page *page, struct error *err)
{
    sqlite3_stmt *row;
    uint32_t number = 0;
    int r = version ? check_version(version, &number, err) : 0;

    if (r == 0)
        r = sql_get(connection, &row, err,
                    "SELECT " ALIAS_COLUMNS " FROM aliases WHERE function_id = ?1 AND name > ?2"
                    " AND (?3 < 0 OR version = ?3 OR additional_version = ?3)"
                    " ORDER BY name LIMIT ?4",
                    NUMBER(function_id), TEXT(marker), NUMBER(version ? (int64_t)number : -1),
                    NUMBER(max + 1));
    page->n = 0;
    page->next_marker[0] = '\0';
    while (r == 0 && (r = statement_step(row, err)) == 1) {
        if (page->n == (size_t)max) {
            snprintf(page->next_marker, sizeof(page->next_marker), "%s",
                     page->aliases[page->n - 1].name);
            return 0;
        }
        read_alias(row, &page->aliases[page->n++]);
        r = 0;
    }
    return r;
}

int registry_list_aliases(struct registry *registry, const struct function_key *key,
                          const char *version, const char *marker, int64_t max_items,
                          struct alias_page *ret_page, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    char after[QUALIFIER_MAX + 1];
    int max = row_begin_list(registry, key, marker, max_items, &connection, &ids, after, err);

    if (max < 0)
        return max;
    int r = list(connection, ids.function_id, version, after, max, ret_page, err);
    database_end_read(connection);
    return r;
}
