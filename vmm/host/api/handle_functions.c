/* Functions: create, read, list, change, delete. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handle_code.h"
#include "handle_settings.h"

static void reply_function(struct api_turn *turn, unsigned status, const struct function *function,
                           const char *qualifier)
{
    api_reply_json(turn, status, api_function_json(turn->api, function, qualifier));
}

/* --- create ---------------------------------------------------------------------------------- */

static void create(struct api_turn *turn, const json_t *object, const struct api_target *target,
                   const struct settings_input *input, struct code_staged *code)
{
    struct text_pair *tags = NULL;
    struct registry *registry = turn->api->options.registry;
    struct function *function = NULL;
    size_t n_tags = 0;
    bool publish = false;
    struct error err;

    if (api_take_boolean(turn, object, "Publish", &publish) < 0 ||
        api_take_pairs(turn, object, "Tags", &tags, &n_tags) < 0)
        return;
    int r = (publish ? registry_create_published : registry_create_function)(
        registry, &target->key, &input->settings, code, tags, n_tags, &function, &err);
    free(tags);
    if (r == -EEXIST)
        api_fail(turn, API_CONFLICT, "Function already exist: %s", target->key.name);
    else if (r < 0)
        api_fail_errno(turn, r, &err);
    else
        reply_function(turn, 201, function, publish ? function->version_text : NULL);
    if (r == 0)
        api_changed(turn, target->key.name);
    function_free(function);
}

void handle_create_function(struct api_turn *turn)
{
    json_t *object = NULL;
    const json_t *code = NULL;
    const char *name = NULL;
    struct api_target target;
    struct settings_input input = {.environment = NULL};
    struct code_staged *staged = NULL;

    if (upload_begin(turn) < 0)
        return;
    if (api_read_object(turn, &object) < 0) {
        upload_end(turn, NULL);
        return;
    }
    bool is_read = api_take_text(turn, object, "FunctionName", &name) >= 0 &&
                   api_require(turn, name, "functionName") == 0 &&
                   api_read_reference(turn, name, &target) == 0 &&
                   api_take_object(turn, object, "Code", &code) >= 0 &&
                   api_require(turn, code, "code") == 0 &&
                   settings_read(turn, object, &input) == 0 &&
                   api_require(turn, input.settings.role, "role") == 0 &&
                   code_read(turn, code, "Code", &staged) == 0;
    upload_end(turn, json_object_get(object, "Code"));
    if (is_read)
        create(turn, object, &target, &input, staged);
    code_staged_free(staged);
    settings_input_done(&input);
    json_decref(object);
}

/* --- read ------------------------------------------------------------------------------------ */

static struct function *find(struct api_turn *turn, struct api_target *target)
{
    struct function *function = NULL;
    struct error err;
    int r;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, target) < 0)
        return NULL;
    r = registry_find(turn->api->options.registry, &target->key, -1, &function, &err);
    if (r < 0)
        api_fail_function(turn, r, &target->key, &err);
    return function;
}

static json_t *tags_json(const struct tag_list *tags)
{
    json_t *object = json_object();

    for (size_t i = 0; i < tags->n; i++)
        (void)json_object_set_new(object, tags->tags[i].name, json_string(tags->tags[i].value));
    return object;
}

void handle_get_function(struct api_turn *turn)
{
    struct api_target target;
    struct function *function = find(turn, &target);
    struct tag_list tags = {.n = 0};
    struct error err;
    char link[512];

    if (!function)
        return;
    const struct function_key whole = {target.key.tenant, target.key.name, NULL};
    int r = registry_get_tags(turn->api->options.registry, &whole, &tags, &err);
    if (r < 0) {
        api_fail_function(turn, r, &whole, &err);
        function_free(function);
        return;
    }
    api_code_link(turn, function, link, sizeof(link));
    json_t *object = json_pack("{s:o, s:{s:s, s:s}}", "Configuration",
                               api_function_json(turn->api, function, target.key.qualifier), "Code",
                               "RepositoryType", "S3", "Location", link);
    if (tags.n > 0)
        (void)json_object_set_new(object, "Tags", tags_json(&tags));
    if (function->reserved_concurrency != RESERVED_NONE)
        (void)json_object_set_new(object, "Concurrency",
                                  json_pack("{s:i}", "ReservedConcurrentExecutions",
                                            (int)function->reserved_concurrency));
    api_reply_json(turn, 200, object);
    tag_list_done(&tags);
    function_free(function);
}

void handle_get_configuration(struct api_turn *turn)
{
    struct api_target target;
    struct function *function = find(turn, &target);

    if (!function)
        return;
    reply_function(turn, 200, function, target.key.qualifier);
    function_free(function);
}

void handle_list_functions(struct api_turn *turn)
{
    const char *marker, *versions = http_query_find(&turn->query, "FunctionVersion");
    struct function_page page = {.n = 0};
    int64_t max_items;
    struct error err;

    if (api_read_page(turn, &marker, &max_items) < 0)
        return;
    if (versions && strcmp(versions, "ALL") != 0) {
        api_fail(turn, API_VALIDATION,
                 "1 validation error detected: Value '%.40s' at 'functionVersion' failed to "
                 "satisfy constraint: Member must satisfy enum value set: [ALL]",
                 versions);
        return;
    }
    int r = registry_list(turn->api->options.registry, turn->tenant, versions != NULL, marker,
                          max_items, &page, &err);
    if (r < 0) {
        api_fail_errno(turn, r, &err);
        return;
    }
    json_t *functions = json_array();
    for (size_t i = 0; i < page.n; i++)
        (void)json_array_append_new(
            functions, api_function_json(turn->api, page.functions[i],
                                         versions ? page.functions[i]->version_text : NULL));
    api_reply_page(turn, "Functions", functions, page.next_marker);
    function_page_done(&page);
}

/* --- change ---------------------------------------------------------------------------------- */

/* DryRun: everything is checked, nothing is changed. */
static void reply_update_check(struct api_turn *turn, const struct api_target *target,
                               const struct code_staged *code, const char *revision_id)
{
    struct registry *registry = turn->api->options.registry;
    struct function *function = NULL;
    struct error err;
    int r = registry_check_update(registry, &target->key, revision_id, &err);

    if (r == 0)
        r = registry_find(registry, &target->key, -1, &function, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target->key, &err);
        return;
    }
    json_t *object = api_function_json(turn->api, function, NULL);
    (void)json_object_set_new(object, "CodeSha256", json_string(code_staged_sha256(code)));
    (void)json_object_set_new(object, "CodeSize",
                              json_integer((json_int_t)code_staged_len_bytes(code)));
    api_reply_json(turn, 200, object);
    function_free(function);
}

static void update_code(struct api_turn *turn, const json_t *object,
                        const struct api_target *target, struct code_staged *code)
{
    struct registry *registry = turn->api->options.registry;
    struct function *function = NULL;
    const char *revision_id = NULL;
    bool publish = false, is_dry = false;
    struct error err;

    if (api_take_boolean(turn, object, "Publish", &publish) < 0 ||
        api_take_boolean(turn, object, "DryRun", &is_dry) < 0 ||
        api_take_text(turn, object, "RevisionId", &revision_id) < 0)
        return;
    if (is_dry) {
        reply_update_check(turn, target, code, revision_id);
        return;
    }
    int r = (publish ? registry_update_published : registry_update_code)(
        registry, &target->key, code, revision_id, &function, &err);
    if (r < 0)
        api_fail_function(turn, r, &target->key, &err);
    else
        reply_function(turn, 200, function, publish ? function->version_text : NULL);
    if (r == 0)
        api_changed(turn, target->key.name);
    function_free(function);
}

void handle_update_code(struct api_turn *turn)
{
    struct code_staged *staged = NULL;
    struct api_target target;
    json_t *object = NULL;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0)
        return;
    if (upload_begin(turn) < 0)
        return;
    bool is_read = api_read_object(turn, &object) == 0 &&
                   settings_check_architecture(turn, object) == 0 &&
                   code_read(turn, object, "UpdateFunctionCode", &staged) == 0;
    upload_end(turn, object);
    if (is_read)
        update_code(turn, object, &target, staged);
    code_staged_free(staged);
    json_decref(object);
}

void handle_update_configuration(struct api_turn *turn)
{
    struct settings_input input = {.environment = NULL};
    const char *revision_id = NULL;
    struct function *function = NULL;
    struct api_target target;
    json_t *object = NULL;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    if (api_take_text(turn, object, "RevisionId", &revision_id) >= 0 &&
        settings_read(turn, object, &input) == 0) {
        int r = registry_update_settings(turn->api->options.registry, &target.key, &input.settings,
                                         revision_id, &function, &err);

        if (r < 0)
            api_fail_function(turn, r, &target.key, &err);
        else
            reply_function(turn, 200, function, NULL);
        if (r == 0)
            api_changed(turn, target.key.name);
    }
    function_free(function);
    settings_input_done(&input);
    json_decref(object);
}

void handle_delete_function(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0)
        return;
    int r = registry_delete(turn->api->options.registry, &target.key, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_empty(turn, 204);
}
