/* The API's entry: routes, dispatch, what every answer has. See api.h. */
#include "api.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_internal.h"
#include "common/clock.h"
#include "common/fd.h"

enum { CONTROL_RATE = 2000, UPLOADS_AT_ONCE = 2 };

/* --- life ------------------------------------------------------------------------------------ */

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct api_key_entry *)a)->id, ((const struct api_key_entry *)b)->id);
}

static int copy_keys(struct api *api, const struct api_options *options, struct error *err)
{
    api->keys = calloc(options->n_keys + 1, sizeof(*api->keys));
    if (!api->keys)
        return error_set(err, ENOMEM, "take access keys");
    for (size_t i = 0; i < options->n_keys; i++) {
        struct api_key_entry *key = &api->keys[api->n_keys++];

        key->id = strdup(options->keys[i].id);
        key->secret = strdup(options->keys[i].secret);
        key->tenant = strdup(options->keys[i].tenant);
        if (!key->id || !key->secret || !key->tenant)
            return error_set(err, ENOMEM, "take access keys");
    }
    qsort(api->keys, api->n_keys, sizeof(api->keys[0]), compare_keys);
    for (size_t i = 1; i < api->n_keys; i++)
        if (strcmp(api->keys[i - 1].id, api->keys[i].id) == 0)
            return error_say(err, EINVAL, "the access key '%s' is there twice", api->keys[i].id);
    return 0;
}

int api_new(const struct api_options *options, struct api **ret_api, struct error *err)
{
    struct api *api = calloc(1, sizeof(*api));
    int r;

    if (!api)
        return error_set(err, ENOMEM, "make the API");
    if (sodium_init() < 0) {
        free(api);
        return error_say(err, EIO, "libsodium cannot be used here");
    }
    api->options = *options;
    sem_init(&api->uploads, 0, UPLOADS_AT_ONCE);
    randombytes_buf(api->link_key, sizeof(api->link_key));
    api->region = strdup(options->region ? options->region : "us-east-1");
    api->default_tenant = strdup(options->default_tenant ? options->default_tenant : "default");
    api->public_url = options->public_url ? strdup(options->public_url) : NULL;
    if (!api->region || !api->default_tenant || (options->public_url && !api->public_url))
        r = error_set(err, ENOMEM, "make the API");
    else
        r = copy_keys(api, options, err);
    if (r == 0)
        r = trusted_proxies_new(options->trusted_proxies, options->n_trusted_proxies, &api->proxies,
                                err);
    if (r == 0) {
        uint32_t rate = options->control_rate ? options->control_rate : CONTROL_RATE;

        r = rate_limit_new(rate, 2 * rate, &api->rate, err);
    }
    if (r < 0) {
        api_free(api);
        return r;
    }
    *ret_api = api;
    return 0;
}

void api_free(struct api *api)
{
    if (!api)
        return;
    for (size_t i = 0; i < api->n_keys; i++) {
        free(api->keys[i].id);
        if (api->keys[i].secret)
            sodium_memzero(api->keys[i].secret, strlen(api->keys[i].secret));
        free(api->keys[i].secret);
        free(api->keys[i].tenant);
    }
    free(api->keys);
    trusted_proxies_free(api->proxies);
    rate_limit_free(api->rate);
    sem_destroy(&api->uploads);
    free(api->region);
    free(api->default_tenant);
    free(api->public_url);
    free(api);
}

void api_statistics(const struct api *api, uint64_t ret_answers[6])
{
    for (size_t i = 0; i < 6; i++)
        ret_answers[i] = atomic_load(&api->answers[i]);
}

/* --- one request ----------------------------------------------------------------------------- */

static const struct api_operation *operation_of(const struct route_match *match)
{
    return match->route->target;
}

/* Finds the operation, or answers. */
static const struct api_operation *find_operation(struct api_turn *turn)
{
    const struct http_request *request = turn->request;
    int r = router_match(api_routes, api_n_routes, request->method, request->path, &turn->match);

    if (r == 0)
        return operation_of(&turn->match);
    if (r == -EINVAL)
        api_fail(turn, API_VALIDATION,
                 "1 validation error detected: a part of the path is badly encoded or too long");
    else if (r == -EOPNOTSUPP)
        api_fail(turn, API_METHOD_NOT_ALLOWED, "%.16s is not allowed here: %s is", request->method,
                 turn->match.allow);
    else
        api_fail(turn, API_UNKNOWN_OPERATION, "there is no operation at this path");
    if (r == -EOPNOTSUPP)
        (void)http_response_header(turn->response, "Allow", turn->match.allow);
    return NULL;
}

static void finish(struct api_turn *turn)
{
    unsigned hundreds = turn->response->status / 100;

    (void)http_response_header(turn->response, "x-amzn-RequestId", turn->request_id);
    atomic_fetch_add(&turn->api->answers[hundreds < 6 ? hundreds : 0], 1);
}

static int turn_init(struct api_turn *turn, struct api *api, const struct http_request *request,
                     struct http_response *response)
{
    struct error err;

    turn->api = api;
    turn->request = request;
    turn->response = response;
    turn->http = NULL;
    turn->key = NULL;
    turn->query = (struct http_query){.n = 0};
    turn->tenant[0] = turn->account_id[0] = turn->request_id[0] = '\0';
    turn->match = (struct route_match){.route = NULL};
    if (identity_request(turn->request_id, &err) < 0)
        return api_fail(turn, API_SERVICE, "no random numbers");
    return 0;
}

/* The body's limit of invocations depends on their kind. */
static size_t limit_of(const struct api_operation *operation, const struct http_request *request)
{
    const char *type = http_header_find(request, "x-amz-invocation-type");

    if (operation->handle == handle_invoke && type && strcmp(type, "Event") == 0)
        return API_EVENT_MAX_BYTES;
    return operation->body_limit;
}

/* Whose memory the body of a request to a URL takes: one URL's callers share it. */
static struct byte_owner url_owner(const struct http_request *request, const char *path_id)
{
    char id[URL_ID_BYTES];

    snprintf(id, sizeof(id), "%s",
             function_url_is_host(request) ? http_header_find(request, "host") : path_id);
    return (struct byte_owner){api_owner_id(id), false};
}

/* Who is unknown sends no bodies. */
static void service_admit(void *opaque, const struct http_request *request,
                          struct http_admission *ret_admission, struct http_response *response)
{
    struct api_turn turn;

    *ret_admission = (struct http_admission){.body_limit = 0};
    if (turn_init(&turn, opaque, request, response) < 0)
        return;
    if (function_url_is_host(request)) {
        ret_admission->body_limit = API_INVOKE_MAX_BYTES;
        ret_admission->owner = url_owner(request, "");
        return;
    }
    const struct api_operation *operation = find_operation(&turn);
    if (operation && (operation->flags & API_PUBLIC))
        ret_admission->owner =
            url_owner(request, turn.match.n_variables ? turn.match.variables[0] : "");
    else if (operation && api_authenticate_head(&turn, &ret_admission->owner) < 0)
        operation = NULL;
    if (operation) {
        ret_admission->body_limit = limit_of(operation, request);
        ret_admission->may_spool = operation->body_limit > API_INVOKE_MAX_BYTES;
        return;
    }
    finish(&turn);
}

static enum http_lane service_lane(void *opaque, const struct http_request *request)
{
    const char *type = http_header_find(request, "x-amz-invocation-type");
    struct route_match match;

    (void)opaque;
    if (function_url_is_host(request))
        return HTTP_LONG;
    if (router_match(api_routes, api_n_routes, request->method, request->path, &match) < 0)
        return HTTP_INLINE;
    const struct api_operation *operation = operation_of(&match);
    if (operation->handle == handle_invoke && type && strcmp(type, "DryRun") == 0)
        return HTTP_INLINE;
    if (operation->handle == handle_invoke && type && strcmp(type, "Event") == 0)
        return HTTP_SHORT;
    return operation->lane;
}

/* Each parameter once, but for the one that is a list: what was signed and what is done must be the
 * same to every reader. */
static int read_query(struct api_turn *turn)
{
    struct http_query *query = &turn->query;
    struct error err;

    if (http_query_read(turn->request->query, query, &err) < 0)
        return api_fail_errno(turn, -EINVAL, &err);
    for (size_t i = 1; i < query->n; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(query->parameters[i].name, query->parameters[k].name) == 0 &&
                strcmp(query->parameters[i].name, "tagKeys") != 0)
                return api_fail(turn, API_INVALID_PARAMETER, "%.64s: it is there twice",
                                query->parameters[i].name);
    return 0;
}

int api_take_rate(struct api_turn *turn)
{
    return rate_limit_take(turn->api->rate, turn->tenant, clock_now_us())
               ? 0
               : api_fail_throttled(turn, "CallerRateLimitExceeded");
}

static void dispatch(struct api_turn *turn)
{
    if (function_url_is_host(turn->request)) {
        handle_function_url(turn);
        return;
    }
    const struct api_operation *operation = find_operation(turn);
    if (!operation || (!(operation->flags & API_PUBLIC) && api_authenticate(turn, "lambda") < 0))
        return;
    if (!(operation->flags & (API_PUBLIC | API_INVOKES)) && api_take_rate(turn) < 0)
        return;
    /* A URL's query is the function's own. */
    if (operation->handle == handle_function_url || read_query(turn) == 0)
        operation->handle(turn);
    http_query_done(&turn->query);
}

static void service_handle(void *opaque, const struct http_request *request,
                           struct http_response *response, struct http_turn *http)
{
    struct api_turn turn;

    if (turn_init(&turn, opaque, request, response) == 0) {
        turn.http = http;
        dispatch(&turn);
    }
    /* A handler that began to stream has answered, and the response is no longer ours. */
    if (turn.response)
        finish(&turn);
}

static void service_refuse(void *opaque, const struct http_request *request, enum http_refusal why,
                           struct http_response *response)
{
    struct api_turn turn;

    if (turn_init(&turn, opaque, request, response) == 0) {
        if (why == HTTP_OVERLOADED) {
            api_fail(&turn, API_UNAVAILABLE, "the service is busy or is being stopped: try again");
            (void)http_response_header(response, "Retry-After", "1");
        } else if (why == HTTP_DISK_FULL) {
            api_fail_errno(&turn, -ENOSPC, &(struct error){.text = "an upload: the disk is full"});
        } else if (why == HTTP_BAD_HEAD) {
            api_fail(&turn, API_BAD_HEAD, "the request's head is not that of one HTTP request");
        } else if (why == HTTP_HEAD_TOO_LARGE) {
            api_fail(&turn, API_HEAD_TOO_LARGE, "a request may have %d headers", HTTP_MAX_HEADERS);
        } else if (router_match(api_routes, api_n_routes, request->method, request->path,
                                &turn.match) == 0) {
            const struct api_operation *operation = operation_of(&turn.match);

            api_fail(&turn, API_TOO_LARGE,
                     "Request must be smaller than %zu bytes for the %s operation",
                     limit_of(operation, request), operation->name);
        } else {
            api_fail(&turn, API_TOO_LARGE, "Request is too large");
        }
    }
    finish(&turn);
}

const struct http_service api_service = {
    .admit = service_admit,
    .lane = service_lane,
    .handle = service_handle,
    .refuse = service_refuse,
};
