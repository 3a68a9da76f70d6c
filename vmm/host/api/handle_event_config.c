/* What becomes of asynchronous events: retries, maximum age, destinations. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

typedef int change_function(struct registry *, const struct function_key *,
                            const struct event_config_change *, struct event_config *,
                            struct error *);

static json_t *config_json(const struct api_turn *turn, const char *function,
                           const struct event_config *config)
{
    char arn[API_ARN_BYTES];
    json_t *destinations = json_pack("{s:{}, s:{}}", "OnSuccess", "OnFailure");

    if (config->on_success[0])
        (void)json_object_set_new(json_object_get(destinations, "OnSuccess"), "Destination",
                                  json_string(config->on_success));
    if (config->on_failure[0])
        (void)json_object_set_new(json_object_get(destinations, "OnFailure"), "Destination",
                                  json_string(config->on_failure));
    api_function_arn(turn->api, turn->account_id, function, config->qualifier, arn);
    return json_pack("{s:f, s:s, s:i, s:i, s:o}", "LastModified",
                     (double)config->modified_ms / 1000.0, "FunctionArn", arn,
                     "MaximumRetryAttempts", (int)config->retries, "MaximumEventAgeInSeconds",
                     (int)config->max_age_s, "DestinationConfig", destinations);
}

static int read_number(struct api_turn *turn, const json_t *object, const char *member, int64_t min,
                       int64_t max, int64_t *ret_value)
{
    int r = api_take_integer(turn, object, member, ret_value);

    if (r > 0 && (*ret_value < min || *ret_value > max))
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%lld' at '%s' failed to satisfy "
                        "constraint: Member must have value between %lld and %lld",
                        (long long)*ret_value, member, (long long)min, (long long)max);
    return r;
}

/* OnSuccess or OnFailure: {} takes the destination away. */
static int read_destination(struct api_turn *turn, const json_t *destinations, const char *member,
                            const char **ret_target)
{
    const json_t *destination = NULL;
    int r = api_take_object(turn, destinations, member, &destination);

    if (r > 0) {
        *ret_target = "";
        r = api_take_text(turn, destination, "Destination", ret_target);
    }
    return r < 0 ? -1 : 0;
}

static int read_change(struct api_turn *turn, const json_t *object,
                       struct event_config_change *change)
{
    const json_t *destinations = NULL;

    *change = (struct event_config_change){.retries = -1, .max_age_s = -1};
    if (read_number(turn, object, "MaximumRetryAttempts", 0, 2, &change->retries) < 0 ||
        read_number(turn, object, "MaximumEventAgeInSeconds", 60, 21600, &change->max_age_s) < 0 ||
        api_take_object(turn, object, "DestinationConfig", &destinations) < 0)
        return -1;
    if (!destinations)
        return 0;
    if (read_destination(turn, destinations, "OnSuccess", &change->on_success) < 0)
        return -1;
    return read_destination(turn, destinations, "OnFailure", &change->on_failure);
}

static void fail(struct api_turn *turn, int r, const struct api_target *target,
                 const struct error *err)
{
    char arn[API_ARN_BYTES];

    api_function_arn(turn->api, turn->account_id, target->key.name,
                     target->key.qualifier ? target->key.qualifier : "$LATEST", arn);
    if (r == -ENOENT)
        api_fail(turn, API_NOT_FOUND, "The function %s doesn't have an EventInvokeConfig", arn);
    else
        api_fail_errno(turn, r, err);
}

static void change_config(struct api_turn *turn, change_function *change_it)
{
    struct event_config_change change;
    struct event_config config;
    struct api_target target;
    json_t *object = NULL;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    if (read_change(turn, object, &change) == 0) {
        int r = change_it(turn->api->options.registry, &target.key, &change, &config, &err);

        if (r < 0) {
            fail(turn, r, &target, &err);
        } else {
            api_changed(turn, target.key.name);
            api_reply_json(turn, 200, config_json(turn, target.key.name, &config));
        }
    }
    json_decref(object);
}

void handle_put_event_config(struct api_turn *turn)
{
    change_config(turn, registry_put_event_config);
}

void handle_update_event_config(struct api_turn *turn)
{
    change_config(turn, registry_update_event_config);
}

void handle_get_event_config(struct api_turn *turn)
{
    struct event_config config;
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0)
        return;
    int r = registry_get_event_config(turn->api->options.registry, &target.key, &config, &err);
    if (r < 0)
        fail(turn, r, &target, &err);
    else
        api_reply_json(turn, 200, config_json(turn, target.key.name, &config));
}

void handle_delete_event_config(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0)
        return;
    int r = registry_delete_event_config(turn->api->options.registry, &target.key, &err);
    if (r < 0) {
        fail(turn, r, &target, &err);
        return;
    }
    api_changed(turn, target.key.name);
    api_reply_empty(turn, 204);
}

void handle_list_event_configs(struct api_turn *turn)
{
    struct api_target target;
    const char *marker;
    int64_t max_items;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_page(turn, &marker, &max_items) < 0)
        return;
    struct event_config_page *page = calloc(1, sizeof(*page));
    if (!page) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    int r = registry_list_event_configs(turn->api->options.registry, &target.key, marker, max_items,
                                        page, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
    } else {
        json_t *configs = json_array();

        for (size_t i = 0; i < page->n; i++)
            (void)json_array_append_new(configs,
                                        config_json(turn, target.key.name, &page->items[i]));
        api_reply_page(turn, "FunctionEventInvokeConfigs", configs, page->next_marker);
    }
    free(page);
}
