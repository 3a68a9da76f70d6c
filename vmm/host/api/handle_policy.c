/*
 * Resource policies: AddPermission, GetPolicy, RemovePermission. What they say is kept and shown:
 * a function's own tenant may use it, others may not, whatever a statement says.
 *
 * Trust: statements are a client's text, checked and put together here; what is read back from the
 * registry is ours. Source: AWS Lambda API Reference, AddPermission.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "common/bytes.h"

enum { STATEMENT_ID_MAX = 100, MEMBER_MAX = 512, TRIES = 16 };

static const char id_characters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/* A policy in work; the text and its statements. */
struct policy_turn {
    struct api_target target;
    struct function_policy policy;
    json_t *statements; /* owned: a list */
};

static int fail_policy(struct api_turn *turn, int r, const struct function_key *key,
                       const struct error *err)
{
    return r == -EINVAL ? api_fail(turn, API_INVALID_PARAMETER, "%s", err->text)
                        : api_fail_function(turn, r, key, err);
}

static int load(struct api_turn *turn, struct policy_turn *work)
{
    struct error err;
    int r =
        registry_get_policy(turn->api->options.registry, &work->target.key, &work->policy, &err);

    if (r < 0)
        return fail_policy(turn, r, &work->target.key, &err);
    work->statements =
        work->policy.statements[0] ? json_loads(work->policy.statements, 0, NULL) : json_array();
    return work->statements ? 0 : api_fail(turn, API_SERVICE, "the policy cannot be read");
}

/* -ESTALE: another was quicker; begin anew. */
static int save(struct api_turn *turn, struct policy_turn *work)
{
    bool is_empty = json_array_size(work->statements) == 0;
    char *text = json_dumps(work->statements, JSON_COMPACT);
    struct error err;

    if (!text)
        return api_fail(turn, API_SERVICE, "out of memory");
    if (strlen(text) >= POLICY_BYTES) {
        free(text);
        return api_fail(turn, API_POLICY_LENGTH, "The policy would be larger than %d bytes",
                        POLICY_BYTES - 1);
    }
    int r = registry_put_policy(turn->api->options.registry, &work->target.key,
                                work->policy.revision_id, is_empty ? NULL : text, &err);
    free(text);
    if (r == -ESTALE)
        return r;
    return r < 0 ? fail_policy(turn, r, &work->target.key, &err) : 0;
}

static size_t find_statement(const json_t *statements, const char *id)
{
    size_t i;

    for (i = 0; i < json_array_size(statements); i++) {
        const char *have = json_string_value(json_object_get(json_array_get(statements, i), "Sid"));

        if (have && strcmp(have, id) == 0)
            break;
    }
    return i;
}

/* --- AddPermission --------------------------------------------------------------------------- */

struct permission {
    const char *id, *action, *principal, *source_arn, *source_account, *token, *org, *url_auth,
        *revision_id;
    bool via_url;
};

static int read_permission(struct api_turn *turn, const json_t *object, struct permission *ret)
{
    struct permission permission = {.id = NULL};
    const struct {
        const char *member, *camel, **to;
        bool is_required;
    } members[] = {{"StatementId", "statementId", &permission.id, true},
                   {"Action", "action", &permission.action, true},
                   {"Principal", "principal", &permission.principal, true},
                   {"SourceArn", "sourceArn", &permission.source_arn, false},
                   {"SourceAccount", "sourceAccount", &permission.source_account, false},
                   {"EventSourceToken", "eventSourceToken", &permission.token, false},
                   {"PrincipalOrgID", "principalOrgID", &permission.org, false},
                   {"FunctionUrlAuthType", "functionUrlAuthType", &permission.url_auth, false},
                   {"RevisionId", "revisionId", &permission.revision_id, false}};

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        if (api_take_text(turn, object, members[i].member, members[i].to) < 0 ||
            (members[i].is_required && api_require(turn, *members[i].to, members[i].camel) < 0))
            return -1;
        if (*members[i].to && strlen(*members[i].to) > MEMBER_MAX)
            return api_fail(turn, API_VALIDATION,
                            "1 validation error detected: Value at '%s' failed to satisfy "
                            "constraint: Member must have length less than or equal to %d",
                            members[i].camel, MEMBER_MAX);
    }
    if (api_take_boolean(turn, object, "InvokedViaFunctionUrl", &permission.via_url) < 0)
        return -1;
    *ret = permission;
    return 0;
}

static int check_permission(struct api_turn *turn, const struct permission *permission)
{
    const char *id = permission->id, *action = permission->action, *auth = permission->url_auth;

    assert(id && action && permission->principal); /* read_permission() */
    if (!*id || strlen(id) > STATEMENT_ID_MAX || strspn(id, id_characters) != strlen(id))
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.120s' at 'statementId' failed to "
                        "satisfy constraint: Member must satisfy regular expression pattern: "
                        "([a-zA-Z0-9-_]+) and have length less than or equal to %d",
                        id, STATEMENT_ID_MAX);
    if (strncmp(action, "lambda:", 7) != 0 ||
        (strcmp(action + 7, "*") != 0 &&
         (!action[7] || strspn(action + 7, id_characters) != strlen(action + 7))))
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.120s' at 'action' failed to satisfy "
                        "constraint: Member must satisfy regular expression pattern: "
                        "(lambda:[*]|lambda:[a-zA-Z]+|[*])",
                        action);
    if (!*permission->principal || strpbrk(permission->principal, " \t\r\n"))
        return api_fail(turn, API_INVALID_PARAMETER,
                        "The provided principal was invalid. Please check the principal and try "
                        "again.");
    if (auth && strcmp(auth, "NONE") != 0 && strcmp(auth, "AWS_IAM") != 0)
        return api_fail(
            turn, API_VALIDATION,
            "1 validation error detected: Value '%.40s' at 'functionUrlAuthType' failed "
            "to satisfy constraint: Member must satisfy enum value set: [NONE, AWS_IAM]",
            auth);
    return 0;
}

/* A service, an account (as the ARN of its root) or everybody. */
static json_t *principal_json(const char *principal)
{
    char arn[64];

    if (strcmp(principal, "*") == 0)
        return json_string("*");
    if (strlen(principal) == 12 && strspn(principal, "0123456789") == 12) {
        snprintf(arn, sizeof(arn), "arn:aws:iam::%s:root", principal);
        return json_pack("{s:s}", "AWS", arn);
    }
    return json_pack("{s:s}", strncmp(principal, "arn:", 4) == 0 ? "AWS" : "Service", principal);
}

static void add_condition(json_t *conditions, const char *operator, const char * key,
                          const char *value)
{
    if (!value)
        return;
    if (!json_object_get(conditions, operator))
        (void)json_object_set_new(conditions, operator, json_object());
    (void)json_object_set_new(json_object_get(conditions, operator), key, json_string(value));
}

static json_t *statement_json(const struct api_turn *turn, const struct api_target *target,
                              const struct permission *permission)
{
    json_t *conditions = json_object();
    char arn[API_ARN_BYTES];

    api_function_arn(turn->api, turn->account_id, target->key.name, target->key.qualifier, arn);
    add_condition(conditions, "StringEquals", "AWS:SourceAccount", permission->source_account);
    add_condition(conditions, "StringEquals", "lambda:EventSourceToken", permission->token);
    add_condition(conditions, "StringEquals", "aws:PrincipalOrgID", permission->org);
    add_condition(conditions, "StringEquals", "lambda:FunctionUrlAuthType", permission->url_auth);
    add_condition(conditions, "ArnLike", "AWS:SourceArn", permission->source_arn);
    if (permission->via_url)
        (void)json_object_set_new(conditions, "Bool",
                                  json_pack("{s:s}", "lambda:InvokedViaFunctionUrl", "true"));
    json_t *statement = json_pack("{s:s, s:s, s:o, s:s, s:s}", "Sid", permission->id, "Effect",
                                  "Allow", "Principal", principal_json(permission->principal),
                                  "Action", permission->action, "Resource", arn);
    if (statement && json_object_size(conditions) > 0)
        (void)json_object_set(statement, "Condition", conditions);
    json_decref(conditions);
    return statement;
}

static int check_revision(struct api_turn *turn, const struct policy_turn *work,
                          const char *revision_id)
{
    if (!revision_id || strcmp(revision_id, work->policy.revision_id) == 0)
        return 0;
    return api_fail(turn, API_PRECONDITION,
                    "The RevisionId provided does not match the latest RevisionId. Call the "
                    "GetPolicy API to retrieve the latest RevisionId");
}

static int add_permission(struct api_turn *turn, struct policy_turn *work,
                          const struct permission *permission)
{
    json_t *statement = NULL;
    int r = load(turn, work);

    if (r == 0)
        r = check_revision(turn, work, permission->revision_id);
    if (r == 0 &&
        find_statement(work->statements, permission->id) < json_array_size(work->statements))
        r = api_fail(turn, API_CONFLICT,
                     "The statement id (%s) provided already exists. Please provide a new "
                     "statement id, or remove the existing statement.",
                     permission->id);
    if (r == 0) {
        statement = statement_json(turn, &work->target, permission);
        if (!statement || json_array_append(work->statements, statement) < 0)
            r = api_fail(turn, API_SERVICE, "out of memory");
    }
    if (r == 0)
        r = save(turn, work);
    if (r == 0) {
        char *text = json_dumps(statement, JSON_COMPACT);

        api_reply_json(turn, 201, text ? json_pack("{s:s}", "Statement", text) : NULL);
        free(text);
    }
    json_decref(statement);
    json_decref(work->statements);
    work->statements = NULL;
    return r;
}

static void fail_busy(struct api_turn *turn)
{
    api_fail(turn, API_CONFLICT, "The policy is being changed by others: try again");
}

void handle_add_permission(struct api_turn *turn)
{
    struct policy_turn *work = calloc(1, sizeof(*work));
    struct permission permission = {.id = NULL};
    json_t *object = NULL;
    int r = -ESTALE;

    if (!work) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &work->target) == 0 &&
        api_read_object(turn, &object) == 0 && read_permission(turn, object, &permission) == 0 &&
        check_permission(turn, &permission) == 0) {
        for (int i = 0; i < TRIES && r == -ESTALE; i++)
            r = add_permission(turn, work, &permission);
        if (r == -ESTALE)
            fail_busy(turn);
    }
    json_decref(object);
    free(work);
}

/* --- GetPolicy, RemovePermission ------------------------------------------------------------- */

void handle_get_policy(struct api_turn *turn)
{
    struct policy_turn *work = calloc(1, sizeof(*work));

    if (!work) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &work->target) == 0 &&
        load(turn, work) == 0) {
        json_t *policy = json_pack("{s:s, s:s, s:O}", "Version", "2012-10-17", "Id", "default",
                                   "Statement", work->statements);
        char *text = policy ? json_dumps(policy, JSON_COMPACT) : NULL;

        if (json_array_size(work->statements) == 0)
            api_fail(turn, API_NOT_FOUND, "The resource you requested does not exist.");
        else
            api_reply_json(turn, 200,
                           text ? json_pack("{s:s, s:s}", "Policy", text, "RevisionId",
                                            work->policy.revision_id)
                                : NULL);
        free(text);
        json_decref(policy);
    }
    json_decref(work->statements);
    free(work);
}

static int remove_permission(struct api_turn *turn, struct policy_turn *work)
{
    const char *id = turn->match.variables[1];
    int r = load(turn, work);

    if (r == 0)
        r = check_revision(turn, work, http_query_find(&turn->query, "RevisionId"));
    if (r == 0) {
        size_t at = find_statement(work->statements, id);

        if (at == json_array_size(work->statements))
            r = api_fail(turn, API_NOT_FOUND, "Statement %.120s is not found in resource policy.",
                         id);
        else
            (void)json_array_remove(work->statements, at);
    }
    if (r == 0)
        r = save(turn, work);
    if (r == 0)
        api_reply_empty(turn, 204);
    json_decref(work->statements);
    work->statements = NULL;
    return r;
}

void handle_remove_permission(struct api_turn *turn)
{
    struct policy_turn *work = calloc(1, sizeof(*work));
    int r = -ESTALE;

    if (!work) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &work->target) == 0) {
        for (int i = 0; i < TRIES && r == -ESTALE; i++)
            r = remove_permission(turn, work);
        if (r == -ESTALE)
            fail_busy(turn);
    }
    free(work);
}
