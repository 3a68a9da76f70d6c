/*
 * Function URLs: a request of anybody's becomes an event, the function's answer the response.
 * At /url/<id>/… on any host name, or at any path of a host <id>.lambda-url.<anything>.
 *
 * Trust: callers are strangers. A URL that is not there, one whose signature is missing and one of
 * another tenant all look the same: 403.
 */
#include "function_url.h"

#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/fd.h"
#include "function_url_stream.h"
#include "invoke.h"

enum { ID_LEN = URL_ID_BYTES - 1 };

static const char host_suffix[] = ".lambda-url.";

bool function_url_is_host(const struct http_request *request)
{
    const char *host = http_header_find(request, "host");

    return host && strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789") == ID_LEN &&
           strncasecmp(host + ID_LEN, host_suffix, sizeof(host_suffix) - 1) == 0;
}

static void reply_message(struct api_turn *turn, unsigned status, const char *message)
{
    api_reply_json(turn, status, json_pack("{s:s}", "Message", message));
    if (status == 403)
        (void)http_response_header(turn->response, "x-amzn-ErrorType", "AccessDeniedException");
}

static int find_url(struct api_turn *turn, struct function_url *ret_url)
{
    char id[URL_ID_BYTES];
    struct error err;
    const char *from = turn->match.variables[0];

    if (function_url_is_host(turn->request))
        from = http_header_find(turn->request, "host");
    else if (strlen(from) != ID_LEN)
        from = "";
    size_t len = strlen(from) < ID_LEN ? strlen(from) : ID_LEN;
    memcpy(id, from, len);
    id[len] = '\0';
    int r = registry_find_url(turn->api->options.registry, id, ret_url, &err);
    if (r == 0)
        return 0;
    if (r == -ENOENT || r == -EINVAL)
        reply_message(turn, 403, "Forbidden");
    else
        api_fail_errno(turn, r, &err);
    return -1;
}

/* Who calls: an access key of the URL's tenant where it wants one. */
static int authenticate(struct api_turn *turn, const struct function_url *url)
{
    struct tenant tenant;
    struct error err;

    if (url->auth == URL_AUTH_AWS_IAM) {
        if (api_authenticate(turn, "lambda") < 0 || strcmp(turn->tenant, url->tenant) != 0) {
            http_response_done(turn->response);
            reply_message(turn, 403, "Forbidden");
            return -1;
        }
        return 0;
    }
    int r = registry_get_tenant(turn->api->options.registry, url->tenant, &tenant, &err);
    if (r < 0)
        return api_fail_errno(turn, r, &err);
    memcpy(turn->tenant, tenant.name, sizeof(turn->tenant));
    memcpy(turn->account_id, tenant.account_id, sizeof(turn->account_id));
    return 0;
}

/* The request as an event's text; *ret_text is owned. */
static int make_event(struct api_turn *turn, const struct function_url *url, char **ret_text)
{
    const char *host = http_header_find(turn->request, "host");
    const char *path = turn->request->path;
    const struct trusted_proxies *proxies = turn->api->proxies;
    char source_ip[64], user[2 * FUNCTION_NAME_MAX + 64];
    AUTO_FREE char *own_path = NULL;
    struct timespec now;

    if (!function_url_is_host(turn->request)) {
        const char *rest = turn->match.rest ? turn->match.rest : "";

        own_path = malloc(strlen(rest) + 2);
        if (!own_path)
            return api_fail(turn, API_SERVICE, "out of memory");
        own_path[0] = '/';
        memcpy(own_path + 1, rest, strlen(rest) + 1);
        path = own_path;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    trusted_proxies_client(proxies, turn->request, source_ip);
    api_user_arn(turn, user, sizeof(user));
    struct url_context context = {.account_id = turn->account_id,
                                  .id = url->id,
                                  .domain = host ? host : "",
                                  .request_id = turn->request_id,
                                  .path = path,
                                  .source_ip = source_ip,
                                  .is_https = trusted_proxies_is_https(proxies, turn->request),
                                  .user_arn = user,
                                  .now_ms = now.tv_sec * 1000ll + now.tv_nsec / 1000000};
    if (url->auth == URL_AUTH_AWS_IAM)
        context.caller = turn->key ? turn->key->id : "";
    json_t *event = function_url_event(turn->request, &context);
    *ret_text = event ? json_dumps(event, JSON_COMPACT) : NULL;
    json_decref(event);
    if (!*ret_text) {
        reply_message(turn, 400, "Bad Request");
        return -1;
    }
    if (strlen(*ret_text) > API_INVOKE_MAX_BYTES) { /* base64 made it longer */
        reply_message(turn, 413, "Request Too Long");
        return -1;
    }
    return 0;
}

static void fail(struct api_turn *turn, int r, const struct error *err)
{
    const struct api_options *options = &turn->api->options;

    if (r == -EAGAIN) {
        reply_message(turn, 429, "Too Many Requests");
        return;
    }
    if (r == -ESHUTDOWN) {
        reply_message(turn, 503, "Service Unavailable");
        return;
    }
    if (options->backend->failed)
        options->backend->failed(options->backend_opaque, turn->request_id, err->text);
    reply_message(turn, 502, "Internal Server Error");
}

static bool has_header(const struct http_response *response, const char *name)
{
    for (size_t i = 0; i < response->n_headers; i++)
        if (strcasecmp(response->headers[i].name, name) == 0)
            return true;
    return false;
}

/* The function's, but for those that the CORS configuration set: browsers refuse two of them. */
static void add_headers(struct http_response *to, const struct http_response *from)
{
    for (size_t i = 0; i < from->n_headers; i++) {
        const char *name = from->headers[i].name;

        if (strncasecmp(name, "access-control-", 15) != 0 || !has_header(to, name))
            (void)http_response_header(to, name, from->headers[i].value);
    }
}

/* A whole result, which is the response. */
static void reply_whole(struct api_turn *turn, const struct api_invocation_result *result)
{
    const char *payload = (const char *)result->payload;
    struct http_response answer = {.status = 0};

    if (result->error != API_NO_ERROR && function_url_is_timeout(payload, result->payload_bytes)) {
        reply_message(turn, 504, "Gateway Timeout");
        return;
    }
    if (result->error != API_NO_ERROR ||
        function_url_response(payload, result->payload_bytes, &answer) < 0) {
        http_response_done(&answer);
        reply_message(turn, 502, "Internal Server Error");
        return;
    }
    /* Those of the CORS configuration are there already, and stand. */
    turn->response->status = answer.status;
    turn->response->body = answer.body;
    turn->response->body_bytes = answer.body_bytes;
    answer.body = NULL;
    add_headers(turn->response, &answer);
    http_response_done(&answer);
}

static void run(struct api_turn *turn, const struct function *function, const char *event,
                const struct function_url *url)
{
    char arn[API_ARN_BYTES];
    struct url_stream stream;
    struct invoke_trace trace;
    struct api_invocation invocation = {.function = function,
                                        .request_id = turn->request_id,
                                        .payload = event,
                                        .payload_bytes = strlen(event),
                                        .invoked_arn = arn,
                                        .trace_id = trace.amzn};
    struct api_invocation_result result;
    struct error err;

    api_function_arn(turn->api, turn->account_id, url->function, url->qualifier, arn);
    invoke_read_trace(turn, &trace);
    invocation.traceparent = trace.traceparent[0] ? trace.traceparent : NULL;
    url_stream_init(&stream, turn);
    if (url->mode == URL_RESPONSE_STREAM) {
        invocation.on_part = url_stream_part;
        invocation.opaque = &stream;
    }
    int r = invoke_run(turn, &invocation, &result, &err);
    if (stream.has_parts)
        r = url_stream_end(&stream, r == 0 && result.error == API_NO_ERROR);
    if (stream.has_parts && r == -EBADMSG) /* not even a head came of it */
        reply_message(turn, 502, "Internal Server Error");
    else if (!stream.has_parts && r < 0)
        fail(turn, r, &err);
    else if (!stream.has_parts)
        reply_whole(turn, &result);
    free(result.payload);
}

void handle_function_url(struct api_turn *turn)
{
    struct function *function = NULL;
    struct function_url url;
    AUTO_FREE char *event = NULL;
    struct error err;

    if (find_url(turn, &url) < 0)
        return;
    if (function_url_cors(turn->request, url.cors, turn->response))
        return;
    if (authenticate(turn, &url) < 0)
        return;
    const struct function_key key = {url.tenant, url.function,
                                     url.qualifier[0] ? url.qualifier : NULL};
    if (make_event(turn, &url, &event) < 0)
        return;
    double roll = (double)randombytes_random() / 4294967296.0;
    int r = registry_find_served(turn->api->options.registry, &key, roll, &function, &err);
    if (r < 0)
        fail(turn, r, &err);
    else
        run(turn, function, event, &url);
    function_free(function);
}
