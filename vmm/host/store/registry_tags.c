/* Tags of functions: see registry_attached.h. Process: the daemon's; tags are a client's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_internal.h"

static int check_number(struct connection *connection, int64_t function_id, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT count(*) FROM tags WHERE function_id = ?1",
                    NUMBER(function_id));

    if (r == 1 && sqlite3_column_int(row, 0) > TAGS_MAX)
        return error_say(err, EINVAL, "a function has at most %d tags", TAGS_MAX);
    return r < 0 ? r : 0;
}

int tags_put(struct connection *connection, int64_t function_id, const struct text_pair *tags,
             size_t n_tags, struct error *err)
{
    int r =
        n_tags > TAGS_MAX ? error_say(err, EINVAL, "a function has at most %d tags", TAGS_MAX) : 0;

    for (size_t i = 0; r == 0 && i < n_tags; i++) {
        r = check_tag(&tags[i], err);
        if (r == 0)
            r = sql_run(connection, err,
                        "INSERT INTO tags VALUES (?1, ?2, ?3)"
                        " ON CONFLICT DO UPDATE SET value = ?3",
                        NUMBER(function_id), TEXT(tags[i].name), TEXT(tags[i].value));
    }
    return r < 0 || n_tags == 0 ? r : check_number(connection, function_id, err);
}

static int check_unqualified(const struct function_key *key, struct error *err)
{
    return key->qualifier && key->qualifier[0]
               ? error_say(err, EINVAL, "tags are a function's, not a version's or alias's")
               : 0;
}

int registry_tag(struct registry *registry, const struct function_key *key,
                 const struct text_pair *tags, size_t n_tags, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    int r = check_unqualified(key, err);

    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = tags_put(connection, ids.function_id, tags, n_tags, err);
    return database_end_write(connection, r, err);
}

int registry_untag(struct registry *registry, const struct function_key *key,
                   const char *const *names, size_t n_names, struct error *err)
{
    struct connection *connection;
    struct function_ids ids;
    int r = check_unqualified(key, err);

    if (r == 0 && n_names > TAGS_MAX)
        r = error_say(err, EINVAL, "at most %d tags can be removed at once", TAGS_MAX);
    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    for (size_t i = 0; r == 0 && i < n_names; i++)
        r = sql_run(connection, err, "DELETE FROM tags WHERE function_id = ?1 AND name = ?2",
                    NUMBER(ids.function_id), TEXT(names[i]));
    return database_end_write(connection, r, err);
}

static int read_tags(struct connection *connection, int64_t function_id, struct tag_list *tags,
                     struct error *err)
{
    sqlite3_stmt *row;
    char *at = NULL;
    int r = sql_row(connection, &row, err,
                    "SELECT ifnull(sum(length(CAST(name AS BLOB)) + length(CAST(value AS BLOB))"
                    " + 2), 0) FROM tags WHERE function_id = ?1",
                    NUMBER(function_id));

    if (r < 0)
        return r;
    size_t size = (size_t)sqlite3_column_int64(row, 0);
    at = tags->text = malloc(size + 1);
    if (!at)
        return error_set(err, ENOMEM, "read tags");
    r = sql_get(connection, &row, err,
                "SELECT name, value FROM tags WHERE function_id = ?1 ORDER BY name",
                NUMBER(function_id));
    while (r == 0 && tags->n < TAGS_MAX && (r = statement_step(row, err)) == 1) {
        tags->tags[tags->n].name = at;
        at = stpcpy(at, column_text(row, 0)) + 1;
        tags->tags[tags->n++].value = at;
        at = stpcpy(at, column_text(row, 1)) + 1;
        r = 0;
    }
    return r;
}

int registry_get_tags(struct registry *registry, const struct function_key *key,
                      struct tag_list *ret_tags, struct error *err)
{
    struct connection *connection;
    struct tag_list tags = {0};
    struct function_ids ids;
    int r = check_unqualified(key, err);

    if (r == 0)
        r = database_begin_read(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = row_find_function(connection, key, &ids, err);
    if (r == 0)
        r = read_tags(connection, ids.function_id, &tags, err);
    database_end_read(connection);
    if (r < 0)
        tag_list_done(&tags);
    else
        *ret_tags = tags;
    return r;
}

void tag_list_done(struct tag_list *tags)
{
    free(tags->text);
    *tags = (struct tag_list){0};
}
