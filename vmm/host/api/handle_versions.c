/* Versions: publish, list. */
#include <errno.h>

#include "api_internal.h"

void handle_publish_version(struct api_turn *turn)
{
    const char *code_sha256 = NULL, *revision_id = NULL, *description = NULL;
    struct function *function = NULL;
    struct api_target target;
    json_t *object = NULL;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    if (api_take_text(turn, object, "CodeSha256", &code_sha256) >= 0 &&
        api_take_text(turn, object, "RevisionId", &revision_id) >= 0 &&
        api_take_text(turn, object, "Description", &description) >= 0) {
        int r = registry_publish(turn->api->options.registry, &target.key, code_sha256, revision_id,
                                 description, &function, &err);

        if (r < 0) {
            api_fail_function(turn, r, &target.key, &err);
        } else {
            api_changed(turn, target.key.name);
            api_reply_json(turn, 201,
                           api_function_json(turn->api, function, function->version_text));
        }
    }
    function_free(function);
    json_decref(object);
}

void handle_list_versions(struct api_turn *turn)
{
    struct function_page page = {.n = 0};
    struct api_target target;
    const char *marker;
    int64_t max_items;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_page(turn, &marker, &max_items) < 0)
        return;
    int r = registry_list_versions(turn->api->options.registry, &target.key, marker, max_items,
                                   &page, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    json_t *versions = json_array();
    for (size_t i = 0; i < page.n; i++)
        (void)json_array_append_new(versions, api_function_json(turn->api, page.functions[i],
                                                                page.functions[i]->version_text));
    api_reply_page(turn, "Versions", versions, page.next_marker);
    function_page_done(&page);
}
