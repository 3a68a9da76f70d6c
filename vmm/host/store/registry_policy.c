/*
 * Resource policies: who else may use a function, as its owner wrote it down. Kept and shown, as
 * frameworks add a permission for each trigger; the texts are the API's.
 * Process: the daemon's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "host/instance/identity.h"
#include "registry_internal.h"

static int find_policy(struct connection *connection, int64_t function_id, const char *qualifier,
                       struct function_policy *ret, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT revision, statements FROM policies"
                    " WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(function_id), TEXT(qualifier));

    if (r == 1) {
        snprintf(ret->revision_id, sizeof(ret->revision_id), "%s", column_text(row, 0));
        snprintf(ret->statements, sizeof(ret->statements), "%s", column_text(row, 1));
    }
    return r;
}

int registry_get_policy(struct registry *registry, const struct function_key *key,
                        struct function_policy *ret, struct error *err)
{
    struct connection *connection;
    enum qualifier_kind kind;
    const char *qualifier;
    struct function_ids ids;
    int r = database_begin_read(registry->database, &connection, err);

    if (r < 0)
        return r;
    *ret = (struct function_policy){.revision_id = ""};
    r = row_check_qualifier(connection, key, &ids, &kind, &qualifier, err);
    if (r == 0)
        r = find_policy(connection, ids.function_id, qualifier, ret, err);
    database_end_read(connection);
    return r < 0 ? r : 0;
}

static int put_policy(struct connection *connection, const struct function_key *key,
                      const char *if_revision_id, const char *statements,
                      const char *new_revision_id, struct error *err)
{
    struct function_policy *there = calloc(1, sizeof(*there));
    enum qualifier_kind kind;
    const char *qualifier;
    struct function_ids ids;

    if (!there)
        return error_set(err, ENOMEM, "change a policy");
    int r = row_check_qualifier(connection, key, &ids, &kind, &qualifier, err);
    if (r == 0)
        r = find_policy(connection, ids.function_id, qualifier, there, err);
    if (r >= 0 && strcmp(there->revision_id, if_revision_id) != 0)
        r = error_say(err, ESTALE, "The policy was changed meanwhile: its RevisionId is another");
    free(there);
    if (r < 0)
        return r;
    if (!statements)
        return sql_run(connection, err,
                       "DELETE FROM policies WHERE function_id = ?1 AND qualifier = ?2",
                       NUMBER(ids.function_id), TEXT(qualifier));
    return sql_run(connection, err,
                   "INSERT INTO policies VALUES (?1, ?2, ?3, ?4)"
                   " ON CONFLICT DO UPDATE SET revision = ?3, statements = ?4",
                   NUMBER(ids.function_id), TEXT(qualifier), TEXT(new_revision_id),
                   TEXT(statements));
}

int registry_put_policy(struct registry *registry, const struct function_key *key,
                        const char *if_revision_id, const char *statements, struct error *err)
{
    struct connection *connection;
    char revision_id[REVISION_BYTES];

    if (statements && (strnlen(statements, POLICY_BYTES) == POLICY_BYTES ||
                       !utf8_check(statements, strlen(statements), NULL)))
        return error_say(err, EINVAL, "the policy is larger than %d bytes or no text",
                         POLICY_BYTES - 1);
    int r = identity_request(revision_id, err);
    if (r == 0)
        r = database_begin_write(registry->database, &connection, err);
    if (r < 0)
        return r;
    r = put_policy(connection, key, if_revision_id, statements, revision_id, err);
    return database_end_write(connection, r, err);
}
