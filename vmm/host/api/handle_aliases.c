/* Aliases: names for versions, with a share of the events for a second one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

static void version_text(uint32_t version, char text[VERSION_TEXT_BYTES])
{
    if (version == VERSION_LATEST)
        snprintf(text, VERSION_TEXT_BYTES, "$LATEST");
    else
        snprintf(text, VERSION_TEXT_BYTES, "%u", version);
}

static json_t *alias_json(const struct api_turn *turn, const char *function,
                          const struct alias *alias)
{
    char arn[API_ARN_BYTES], version[VERSION_TEXT_BYTES], additional[VERSION_TEXT_BYTES];

    api_function_arn(turn->api, turn->account_id, function, alias->name, arn);
    version_text(alias->version, version);
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s}", "AliasArn", arn, "Name", alias->name,
                               "FunctionVersion", version, "Description", alias->description,
                               "RevisionId", alias->revision_id);
    if (object && alias->additional_version) {
        version_text(alias->additional_version, additional);
        (void)json_object_set_new(object, "RoutingConfig",
                                  json_pack("{s:{s:f}}", "AdditionalVersionWeights", additional,
                                            alias->additional_weight));
    }
    return object;
}

/* RoutingConfig.AdditionalVersionWeights: {} (no more) or one version with its share. */
static int read_routing(struct api_turn *turn, const json_t *object, struct alias_change *change)
{
    const json_t *routing = NULL, *weights_const = NULL;
    const char *version;
    json_t *weight;

    if (api_take_object(turn, object, "RoutingConfig", &routing) < 0 ||
        (routing && api_take_object(turn, routing, "AdditionalVersionWeights", &weights_const) < 0))
        return -1;
    if (!routing)
        return 0;
    change->sets_routing = true;
    json_t *weights = json_object_get(routing, "AdditionalVersionWeights");
    if (json_object_size(weights) > 1)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "RoutingConfig: AdditionalVersionWeights can have one version only");
    json_object_foreach(weights, version, weight)
    {
        if (!json_is_number(weight))
            return api_fail(turn, API_INVALID_PARAMETER,
                            "RoutingConfig: the weight of '%.32s' must be a number", version);
        change->additional_version = version;
        change->additional_weight = json_number_value(weight);
    }
    return 0;
}

static int read_change(struct api_turn *turn, const json_t *object, struct alias_change *change)
{
    *change = (struct alias_change){.version = NULL};
    if (api_take_text(turn, object, "FunctionVersion", &change->version) < 0 ||
        api_take_text(turn, object, "Description", &change->description) < 0)
        return -1;
    return read_routing(turn, object, change);
}

/* The alias that the path names becomes the key's qualifier. */
static int read_path(struct api_turn *turn, struct api_target *target)
{
    const char *name = turn->match.variables[1];

    if (api_read_target(turn, API_QUALIFIER_NONE, target) < 0)
        return -1;
    if (!alias_name_is_valid(name))
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.200s' at 'name' failed to satisfy "
                        "constraint: Member must satisfy regular expression pattern: "
                        "(?!^[0-9]+$)([a-zA-Z0-9-_]+)",
                        name);
    target->key.qualifier = name;
    return 0;
}

static void fail_alias(struct api_turn *turn, int r, const struct function_key *key,
                       const struct error *err)
{
    char arn[API_ARN_BYTES];

    if (r == -ENOENT) {
        api_function_arn(turn->api, turn->account_id, key->name, key->qualifier, arn);
        api_fail(turn, API_NOT_FOUND, "Cannot find alias arn: %s", arn);
    } else if (r == -EEXIST) {
        api_function_arn(turn->api, turn->account_id, key->name, key->qualifier, arn);
        api_fail(turn, API_CONFLICT, "Alias already exists: %s", arn);
    } else {
        api_fail_errno(turn, r, err);
    }
}

static void reply(struct api_turn *turn, unsigned status, int r, const struct api_target *target,
                  const struct alias *alias, const struct error *err)
{
    if (r < 0) {
        fail_alias(turn, r, &target->key, err);
        return;
    }
    if (strcmp(turn->request->method, "GET") != 0)
        api_changed(turn, target->key.name);
    api_reply_json(turn, status, alias_json(turn, target->key.name, alias));
}

void handle_create_alias(struct api_turn *turn)
{
    struct alias_change change;
    struct api_target target;
    struct alias alias;
    const char *name = NULL;
    json_t *object = NULL;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    if (api_take_text(turn, object, "Name", &name) >= 0 && api_require(turn, name, "name") == 0 &&
        read_change(turn, object, &change) == 0 &&
        api_require(turn, change.version, "functionVersion") == 0) {
        target.key.qualifier = name;
        if (!alias_name_is_valid(name))
            api_fail(turn, API_VALIDATION,
                     "1 validation error detected: Value '%.200s' at 'name' failed to satisfy "
                     "constraint: Member must satisfy regular expression pattern: "
                     "(?!^[0-9]+$)([a-zA-Z0-9-_]+)",
                     name);
        else
            reply(turn, 201,
                  registry_create_alias(turn->api->options.registry, &target.key, &change, &alias,
                                        &err),
                  &target, &alias, &err);
    }
    json_decref(object);
}

void handle_update_alias(struct api_turn *turn)
{
    const char *revision_id = NULL;
    struct alias_change change;
    struct api_target target;
    struct alias alias;
    json_t *object = NULL;
    struct error err;

    if (read_path(turn, &target) < 0 || api_read_object(turn, &object) < 0)
        return;
    if (api_take_text(turn, object, "RevisionId", &revision_id) >= 0 &&
        read_change(turn, object, &change) == 0)
        reply(turn, 200,
              registry_update_alias(turn->api->options.registry, &target.key, &change, revision_id,
                                    &alias, &err),
              &target, &alias, &err);
    json_decref(object);
}

void handle_get_alias(struct api_turn *turn)
{
    struct api_target target;
    struct alias alias;
    struct error err;

    if (read_path(turn, &target) < 0)
        return;
    reply(turn, 200, registry_get_alias(turn->api->options.registry, &target.key, &alias, &err),
          &target, &alias, &err);
}

void handle_delete_alias(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (read_path(turn, &target) < 0)
        return;
    int r = registry_delete_alias(turn->api->options.registry, &target.key, &err);
    if (r < 0) {
        fail_alias(turn, r, &target.key, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_empty(turn, 204);
}

void handle_list_aliases(struct api_turn *turn)
{
    const char *version = http_query_find(&turn->query, "FunctionVersion"), *marker;
    struct api_target target;
    int64_t max_items;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_page(turn, &marker, &max_items) < 0)
        return;
    struct alias_page *page = calloc(1, sizeof(*page));
    if (!page) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    int r = registry_list_aliases(turn->api->options.registry, &target.key, version, marker,
                                  max_items, page, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
    } else {
        json_t *aliases = json_array();

        for (size_t i = 0; i < page->n; i++)
            (void)json_array_append_new(aliases,
                                        alias_json(turn, target.key.name, &page->aliases[i]));
        api_reply_page(turn, "Aliases", aliases, page->next_marker);
    }
    free(page);
}
