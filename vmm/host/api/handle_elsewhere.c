/*
 * What Lambda has and this host has not: event sources, layers, code signing, versions of runtimes.
 * Tools ask for them whether or not they are used: each question has the answer that Lambda gives
 * where nothing is set up, each change is refused with words that say so.
 */
#include <errno.h>
#include <string.h>

#include "api_internal.h"

/* The function that the path names must be there; @ret_arn: its ARN. */
static int find(struct api_turn *turn, enum api_qualifier qualifier, struct api_target *target,
                char ret_arn[API_ARN_BYTES])
{
    struct function *function = NULL;
    struct error err;

    if (api_read_target(turn, qualifier, target) < 0)
        return -1;
    int r = registry_find(turn->api->options.registry, &target->key, -1, &function, &err);
    if (r < 0)
        return api_fail_function(turn, r, &target->key, &err);
    api_function_arn(turn->api, turn->account_id, target->key.name, target->key.qualifier, ret_arn);
    function_free(function);
    return 0;
}

static void not_here(struct api_turn *turn, const char *what)
{
    api_fail(turn, API_INVALID_PARAMETER, "%s: this host does not support it", what);
}

/* --- of a function --------------------------------------------------------------------------- */

void handle_get_code_signing(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_NONE, &target, arn) == 0)
        api_reply_json(turn, 200, json_pack("{s:s}", "FunctionName", target.key.name));
}

void handle_delete_code_signing(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_NONE, &target, arn) == 0)
        api_reply_empty(turn, 204);
}

void handle_refuse_code_signing(struct api_turn *turn)
{
    not_here(turn, "CodeSigningConfigArn");
}

static void reply_runtime_management(struct api_turn *turn, const char *arn)
{
    api_reply_json(turn, 200,
                   json_pack("{s:s, s:s}", "UpdateRuntimeOn", "Auto", "FunctionArn", arn));
}

void handle_get_runtime_management(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_OPTIONAL, &target, arn) == 0)
        reply_runtime_management(turn, arn);
}

/* The member must be there, a text, and @only. */
static int take_only(struct api_turn *turn, const char *member, const char *camel, const char *only)
{
    const char *value = NULL;
    json_t *object = NULL;

    if (api_read_object(turn, &object) < 0)
        return -1;
    int r = api_take_text(turn, object, member, &value) < 0 ? -1 : api_require(turn, value, camel);
    if (r == 0 && strcmp(value, only) != 0)
        r = api_fail(turn, API_INVALID_PARAMETER, "%s: must be %s on this host, not '%.40s'",
                     member, only, value);
    json_decref(object);
    return r;
}

void handle_put_runtime_management(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_OPTIONAL, &target, arn) == 0 &&
        take_only(turn, "UpdateRuntimeOn", "updateRuntimeOn", "Auto") == 0)
        reply_runtime_management(turn, arn);
}

static void reply_recursion(struct api_turn *turn)
{
    api_reply_json(turn, 200, json_pack("{s:s}", "RecursiveLoop", "Terminate"));
}

void handle_get_recursion(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_NONE, &target, arn) == 0)
        reply_recursion(turn);
}

void handle_put_recursion(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];

    if (find(turn, API_QUALIFIER_NONE, &target, arn) == 0 &&
        take_only(turn, "RecursiveLoop", "recursiveLoop", "Terminate") == 0)
        reply_recursion(turn);
}

/* --- of an account --------------------------------------------------------------------------- */

static void reply_no(struct api_turn *turn, const char *name)
{
    const char *marker;
    int64_t max_items;

    if (api_read_page(turn, &marker, &max_items) == 0)
        api_reply_page(turn, name, json_array(), "");
}

void handle_list_event_sources(struct api_turn *turn)
{
    reply_no(turn, "EventSourceMappings");
}

void handle_refuse_event_source(struct api_turn *turn)
{
    not_here(turn, "EventSourceArn");
}

void handle_not_there(struct api_turn *turn)
{
    api_fail(turn, API_NOT_FOUND, "The resource you requested does not exist.");
}

/* One path, two operations: ListLayers, and GetLayerVersionByArn with ?find=LayerVersion. */
void handle_list_layers(struct api_turn *turn)
{
    if (http_query_find(&turn->query, "find"))
        handle_not_there(turn);
    else
        reply_no(turn, "Layers");
}

void handle_list_layer_versions(struct api_turn *turn)
{
    reply_no(turn, "LayerVersions");
}

void handle_refuse_layer(struct api_turn *turn)
{
    not_here(turn, "Layers");
}

void handle_delete_layer(struct api_turn *turn)
{
    api_reply_empty(turn, 204); /* as Lambda where there is none */
}

void handle_list_code_signing(struct api_turn *turn)
{
    reply_no(turn, "CodeSigningConfigs");
}
