/* Configurations of function URLs; the URLs themselves are served by function_url.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "common/bytes.h"
#include "common/fd.h"

enum { CORS_LIST_MAX = 100, CORS_TEXT_MAX = 256, CORS_AGE_MAX_S = 86400 };

static json_t *url_json(const struct api_turn *turn, const struct function_url *url, bool is_new)
{
    char arn[API_ARN_BYTES], created[API_TIME_BYTES], modified[API_TIME_BYTES];
    char base[API_URL_BYTES], address[API_URL_BYTES + URL_ID_BYTES + 8];

    api_base_url(turn, base);
    snprintf(address, sizeof(address), "%s/url/%s/", base, url->id);
    api_function_arn(turn->api, turn->account_id, url->function, url->qualifier, arn);
    api_time_text(url->created_ms, created);
    api_time_text(url->modified_ms, modified);
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s}", "FunctionUrl", address, "FunctionArn",
                               arn, "AuthType", url->auth == URL_AUTH_NONE ? "NONE" : "AWS_IAM",
                               "CreationTime", created, "InvokeMode",
                               url->mode == URL_RESPONSE_STREAM ? "RESPONSE_STREAM" : "BUFFERED");
    if (object && !is_new)
        (void)json_object_set_new(object, "LastModifiedTime", json_string(modified));
    if (object && url->cors[0])
        (void)json_object_set_new(object, "Cors", json_loads(url->cors, 0, NULL));
    return object;
}

static int check_list(struct api_turn *turn, const json_t *cors, const char *member)
{
    const json_t *list = json_object_get(cors, member);

    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > CORS_LIST_MAX)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "Cors: %s must be a list of at most %d strings", member, CORS_LIST_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *each = json_array_get(list, i);
        const char *text = json_string_value(each);

        if (!text || !*text || json_string_length(each) > CORS_TEXT_MAX ||
            strcspn(text, "\r\n,; ") != strlen(text))
            return api_fail(turn, API_INVALID_PARAMETER,
                            "Cors: what is in %s must be 1 to %d characters without blanks, commas "
                            "and line breaks",
                            member, CORS_TEXT_MAX);
    }
    return 0;
}

/* The checked object as text, for the registry to keep; *ret_text is owned. */
static int read_cors(struct api_turn *turn, const json_t *object, char **ret_text)
{
    static const char *const lists[] = {"AllowHeaders", "AllowMethods", "AllowOrigins",
                                        "ExposeHeaders"};
    const json_t *cors = NULL;
    bool credentials;
    int64_t age_s = 0;

    if (api_take_object(turn, object, "Cors", &cors) < 0)
        return -1;
    if (!cors)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if (check_list(turn, cors, lists[i]) < 0)
            return -1;
    if (api_take_boolean(turn, cors, "AllowCredentials", &credentials) < 0 ||
        api_take_integer(turn, cors, "MaxAge", &age_s) < 0)
        return -1;
    if (age_s < 0 || age_s > CORS_AGE_MAX_S)
        return api_fail(turn, API_INVALID_PARAMETER, "Cors: MaxAge must be 0 to %d",
                        CORS_AGE_MAX_S);
    *ret_text = json_dumps(cors, JSON_COMPACT);
    if (!*ret_text || strlen(*ret_text) >= CORS_BYTES)
        return api_fail(turn, API_INVALID_PARAMETER, "Cors: it is larger than %d bytes",
                        CORS_BYTES - 1);
    return 0;
}

static int read_change(struct api_turn *turn, const json_t *object, struct url_change *change,
                       char **ret_cors)
{
    const char *auth = NULL, *mode = NULL;

    *change = (struct url_change){.auth = -1, .mode = -1};
    if (api_take_text(turn, object, "AuthType", &auth) < 0 ||
        api_take_text(turn, object, "InvokeMode", &mode) < 0 ||
        read_cors(turn, object, ret_cors) < 0)
        return -1;
    change->cors = *ret_cors;
    if (auth && strcmp(auth, "NONE") != 0 && strcmp(auth, "AWS_IAM") != 0)
        return api_fail(turn, API_INVALID_PARAMETER, "AuthType: must be NONE or AWS_IAM");
    if (mode && strcmp(mode, "BUFFERED") != 0 && strcmp(mode, "RESPONSE_STREAM") != 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "InvokeMode: must be BUFFERED or RESPONSE_STREAM");
    if (auth)
        change->auth = strcmp(auth, "NONE") == 0 ? URL_AUTH_NONE : URL_AUTH_AWS_IAM;
    if (mode)
        change->mode = strcmp(mode, "BUFFERED") == 0 ? URL_BUFFERED : URL_RESPONSE_STREAM;
    return 0;
}

static void reply(struct api_turn *turn, unsigned status, int r, const struct api_target *target,
                  const struct function_url *url, const struct error *err)
{
    if (r == -ENOENT)
        api_fail(turn, API_NOT_FOUND, "The resource you requested does not exist.");
    else if (r == -EEXIST)
        api_fail(turn, API_CONFLICT,
                 "Failed to create function url config for [functionArn = %s]. Error message:  "
                 "FunctionUrlConfig exists for this Lambda function",
                 target->key.name);
    else if (r < 0)
        api_fail_errno(turn, r, err);
    else
        api_reply_json(turn, status, url_json(turn, url, status == 201));
}

typedef int change_function(struct registry *, const struct function_key *,
                            const struct url_change *, struct function_url *, struct error *);

static void change_url(struct api_turn *turn, unsigned status, change_function *change_it)
{
    AUTO_FREE char *cors = NULL;
    struct url_change change;
    struct api_target target;
    struct function_url url;
    json_t *object = NULL;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0 ||
        api_read_object(turn, &object) < 0)
        return;
    if (read_change(turn, object, &change, &cors) == 0 &&
        (status != 201 || api_require(turn, change.auth >= 0 ? turn : NULL, "authType") == 0))
        reply(turn, status,
              change_it(turn->api->options.registry, &target.key, &change, &url, &err), &target,
              &url, &err);
    json_decref(object);
}

void handle_create_url(struct api_turn *turn)
{
    change_url(turn, 201, registry_create_url);
}

void handle_update_url(struct api_turn *turn)
{
    change_url(turn, 200, registry_update_url);
}

void handle_get_url(struct api_turn *turn)
{
    struct api_target target;
    struct function_url url;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0)
        return;
    reply(turn, 200, registry_get_url(turn->api->options.registry, &target.key, &url, &err),
          &target, &url, &err);
}

void handle_delete_url(struct api_turn *turn)
{
    struct api_target target;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &target) < 0)
        return;
    int r = registry_delete_url(turn->api->options.registry, &target.key, &err);
    if (r < 0)
        reply(turn, 0, r, &target, NULL, &err);
    else
        api_reply_empty(turn, 204);
}

void handle_list_urls(struct api_turn *turn)
{
    struct api_target target;
    const char *marker;
    int64_t max_items;
    struct error err;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0 ||
        api_read_page(turn, &marker, &max_items) < 0)
        return;
    struct url_page *page = calloc(1, sizeof(*page));
    if (!page) {
        api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    int r =
        registry_list_urls(turn->api->options.registry, &target.key, marker, max_items, page, &err);
    if (r < 0) {
        api_fail_function(turn, r, &target.key, &err);
    } else {
        json_t *urls = json_array();

        for (size_t i = 0; i < page->n; i++)
            (void)json_array_append_new(urls, url_json(turn, &page->urls[i], false));
        api_reply_page(turn, "FunctionUrlConfigs", urls, page->next_marker);
    }
    free(page);
}
