/* Tags, by a function's ARN. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

static int read_resource(struct api_turn *turn, struct api_target *target)
{
    const char *arn = turn->match.variables[0];

    if (strncmp(arn, "arn:", 4) != 0)
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.200s' at 'resource' failed to "
                        "satisfy constraint: Member must be the ARN of a function",
                        arn);
    if (api_read_reference(turn, arn, target) < 0)
        return -1;
    if (target->reference.qualifier[0])
        return api_fail(turn, API_INVALID_PARAMETER,
                        "Tags on function aliases and versions are not supported. Please specify "
                        "a function ARN.");
    return 0;
}

void handle_list_tags(struct api_turn *turn)
{
    struct tag_list tags = {.n = 0};
    struct api_target target;
    struct error err;

    if (read_resource(turn, &target) < 0)
        return;
    int r = registry_get_tags(turn->api->options.registry, &target.key, &tags, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
        return;
    }
    json_t *object = json_object();
    for (size_t i = 0; i < tags.n; i++)
        (void)json_object_set_new(object, tags.tags[i].name, json_string(tags.tags[i].value));
    tag_list_done(&tags);
    api_reply_json(turn, 200, json_pack("{s:o}", "Tags", object));
}

void handle_tag(struct api_turn *turn)
{
    struct text_pair *tags = NULL;
    struct api_target target;
    json_t *object = NULL;
    struct error err;
    size_t n = 0;

    if (read_resource(turn, &target) < 0 || api_read_object(turn, &object) < 0)
        return;
    int given = api_take_pairs(turn, object, "Tags", &tags, &n);
    if (given >= 0 && api_require(turn, given ? turn : NULL, "tags") == 0) {
        int r = registry_tag(turn->api->options.registry, &target.key, tags, n, &err);

        if (r < 0)
            api_fail_function(turn, r, &target.key, &err);
        else
            api_reply_empty(turn, 204);
    }
    free(tags);
    json_decref(object);
}

void handle_untag(struct api_turn *turn)
{
    const char *names[HTTP_MAX_PARAMETERS];
    struct api_target target;
    struct error err;
    size_t n = 0;

    if (read_resource(turn, &target) < 0)
        return;
    for (size_t i = 0; i < turn->query.n; i++)
        if (strcmp(turn->query.parameters[i].name, "tagKeys") == 0)
            names[n++] = turn->query.parameters[i].value;
    if (api_require(turn, n ? turn : NULL, "tagKeys") < 0)
        return;
    int r = registry_untag(turn->api->options.registry, &target.key, names, n, &err);
    if (r < 0)
        api_fail_function(turn, r, &target.key, &err);
    else
        api_reply_empty(turn, 204);
}
