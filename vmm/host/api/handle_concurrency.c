/* Reserved and provisioned concurrency. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

/* --- reserved -------------------------------------------------------------------------------- */

void handle_put_concurrency(struct api_turn *turn)
{
    struct api_target target;
    json_t *object = NULL;
    int64_t reserved = 0;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    int given = api_take_integer(turn, object, "ReservedConcurrentExecutions", &reserved);
    json_decref(object);
    if (given < 0 || api_require(turn, given ? turn : NULL, "reservedConcurrentExecutions") < 0)
        return;
    if (reserved < 0) {
        api_fail(turn, API_INVALID_PARAMETER, "ReservedConcurrentExecutions: must be 0 or more");
        return;
    }
    int r = registry_set_reserved(turn->api->options.registry, &target.key, reserved, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_json(turn, 200,
                   json_pack("{s:I}", "ReservedConcurrentExecutions", (json_int_t)reserved));
}

void handle_get_concurrency(struct api_turn *turn)
{
    struct function *function = NULL;
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0)
        return;
    int r = registry_find(turn->api->options.registry, &target.key, -1, &function, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    if (function->reserved_concurrency == RESERVED_NONE)
        api_reply_json(turn, 200, json_object());
    else
        api_reply_json(turn, 200,
                       json_pack("{s:i}", "ReservedConcurrentExecutions",
                                 (int)function->reserved_concurrency));
    function_free(function);
}

void handle_delete_concurrency(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0)
        return;
    int r = registry_set_reserved(turn->api->options.registry, &target.key, RESERVED_NONE, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_empty(turn, 204);
}

/* --- provisioned ----------------------------------------------------------------------------- */

static json_t *provisioned_json(struct api_turn *turn, const struct provisioned *provisioned)
{
    const struct api_options *options = &turn->api->options;
    struct api_provisioned_status status = {.allocated = 0};
    char modified[API_TIME_BYTES];
    const char *word = "IN_PROGRESS";

    if (options->backend->provisioned)
        (void)options->backend->provisioned(options->backend_opaque, provisioned, turn->tenant,
                                            &status);
    if (status.available >= provisioned->requested)
        word = "READY";
    else if (status.failure[0])
        word = "FAILED";
    api_time_text(provisioned->modified_ms, modified);
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:s, s:s}", "RequestedProvisionedConcurrentExecutions",
                  (json_int_t)provisioned->requested, "AvailableProvisionedConcurrentExecutions",
                  (json_int_t)status.available, "AllocatedProvisionedConcurrentExecutions",
                  (json_int_t)status.allocated, "Status", word, "LastModified", modified);
    if (strcmp(word, "FAILED") == 0)
        (void)json_object_set_new(object, "StatusReason", json_string(status.failure));
    return object;
}

static void fail_provisioned(struct api_turn *turn, int r, const struct api_target *target,
                             const struct error *err)
{
    struct function *function = NULL;
    struct error found;

    /* Lambda tells a version without configuration from no version. */
    if (r == -ENOENT &&
        registry_find(turn->api->options.registry, &target->key, -1, &function, &found) == 0) {
        function_free(function);
        api_fail(turn, API_NO_PROVISIONED,
                 "No Provisioned Concurrency Config found for this function");
        return;
    }
    api_fail_function(turn, r, &target->key, err);
}

void handle_put_provisioned(struct api_turn *turn)
{
    struct provisioned provisioned;
    struct api_target target;
    json_t *object = NULL;
    int64_t requested = 0;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_REQUIRED, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    int given = api_take_integer(turn, object, "ProvisionedConcurrentExecutions", &requested);
    json_decref(object);
    if (given < 0 || api_require(turn, given ? turn : NULL, "provisionedConcurrentExecutions") < 0)
        return;
    int r = registry_put_provisioned(turn->api->options.registry, &target.key, requested,
                                     &provisioned, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_json(turn, 202, provisioned_json(turn, &provisioned));
}

static void list_provisioned(struct api_turn *turn)
{
    struct api_target target;
    char arn[API_ARN_BYTES];
    const char *marker;
    int64_t max_items;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_page(turn, &marker, &max_items) < 0)
        return;
    struct provisioned_page *page = calloc(1, sizeof(*page));
    if (!page) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    int r = registry_list_provisioned(turn->api->options.registry, &target.key, marker, max_items,
                                      page, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
    } else {
        json_t *configs = json_array();

        for (size_t i = 0; i < page->n; i++) {
            json_t *object = provisioned_json(turn, &page->items[i]);

            api_function_arn(turn->api, turn->account_id, page->items[i].function,
                             page->items[i].qualifier, arn);
            (void)json_object_set_new(object, "FunctionArn", json_string(arn));
            (void)json_array_append_new(configs, object);
        }
        api_reply_page(turn, "ProvisionedConcurrencyConfigs", configs, page->next_marker);
    }
    free(page);
}

void handle_get_provisioned(struct api_turn *turn)
{
    const char *list = http_query_find(&turn->query, "List");
    struct provisioned provisioned;
    struct api_target target;
    struct error err;

    if (list && strcmp(list, "ALL") == 0) { /* one path, two operations */
        list_provisioned(turn);
        return;
    }
    if (api_read_target(turn, API_QUALIFIER_REQUIRED, &target) < 0)
        return;
    int r = registry_get_provisioned(turn->api->options.registry, &target.key, &provisioned, &err);
    if (r < 0)
        fail_provisioned(turn, r, &target, &err);
    else
        api_reply_json(turn, 200, provisioned_json(turn, &provisioned));
}

void handle_delete_provisioned(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_REQUIRED, &target) < 0)
        return;
    int r = registry_delete_provisioned(turn->api->options.registry, &target.key, &err);
    if (r < 0) {
        fail_provisioned(turn, r, &target, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_empty(turn, 204);
}
