/* Payload format 2.0: see function_url.h. */
#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "function_url.h"
#include "host/json_check.h"

enum {
    HEADERS_MAX_BYTES = 24 << 10, /* of an answer: a connection's memory holds them */
    TIMEOUT_MAX_BYTES = 4096
};

static void set(json_t *object, const char *name, json_t *value)
{
    (void)json_object_set_new(object, name, value);
}

/* Text of a client's: anything that is no UTF-8 becomes '?'. */
static json_t *text_json(const char *text)
{
    json_t *value = json_string(text);

    if (value)
        return value;
    AUTO_FREE char *copy = strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(copy ? copy : "");
}

/* --- request to event ------------------------------------------------------------------------ */

/* @object[@name] = @value, after a comma where there is one already. */
static void join(json_t *object, const char *name, const char *value)
{
    const char *have = json_string_value(json_object_get(object, name));

    if (!have) {
        set(object, name, text_json(value));
        return;
    }
    size_t size = strlen(have) + strlen(value) + 2;
    AUTO_FREE char *both = malloc(size);
    if (both) {
        snprintf(both, size, "%s,%s", have, value);
        set(object, name, text_json(both));
    }
}

static void lower(const char *from, char *to, size_t size)
{
    size_t n = 0;

    for (; from[n] && n + 1 < size; n++)
        to[n] = (char)tolower((unsigned char)from[n]);
    to[n] = '\0';
}

/* "a=1; b=2" as "a=1" and "b=2"; a second header's follow the first's. */
static void add_cookies(json_t *event, const char *text)
{
    if (!json_object_get(event, "cookies"))
        set(event, "cookies", json_array());
    while (*text) {
        text += strspn(text, "; ");
        size_t len = strcspn(text, ";");
        if (len > 0) {
            AUTO_FREE char *one = strndup(text, len);

            (void)json_array_append_new(json_object_get(event, "cookies"),
                                        text_json(one ? one : ""));
        }
        text += len;
    }
}

static const char *source_ip(const struct http_request *request, const struct url_context *context)
{
    return context->source_ip ? context->source_ip : request->peer;
}

/* What Lambda says of the connection, in place of what the client says of it. */
static void add_forwarded(json_t *headers, const struct http_request *request,
                          const struct url_context *context)
{
    bool is_https = request->is_tls || context->is_https;
    const char *host = http_header_find(request, "host");
    const char *colon = host ? strrchr(host, ':') : NULL;
    const char *port = is_https ? "443" : "80";

    if (colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1))
        port = colon + 1;
    if (source_ip(request, context)[0])
        set(headers, "x-forwarded-for", json_string(source_ip(request, context)));
    set(headers, "x-forwarded-proto", json_string(is_https ? "https" : "http"));
    set(headers, "x-forwarded-port", json_string(port));
}

static void add_headers(json_t *event, const struct http_request *request,
                        const struct url_context *context)
{
    json_t *headers = json_object();
    char name[256];

    for (size_t i = 0; i < request->n_headers; i++) {
        lower(request->headers[i].name, name, sizeof(name));
        if (strcmp(name, "cookie") == 0)
            add_cookies(event, request->headers[i].value);
        else if (strcmp(name, "authorization") != 0 || !context->caller)
            join(headers, name, request->headers[i].value);
    }
    add_forwarded(headers, request, context);
    set(event, "headers", headers);
}

static bool is_text_type(const char *type)
{
    static const char *const texts[] = {"text/", "application/json", "application/javascript",
                                        "application/xml", "application/x-www-form-urlencoded"};

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (strncasecmp(type, texts[i], strlen(texts[i])) == 0)
            return true;
    size_t len = strcspn(type, "; ");
    return len > 5 && (strncasecmp(type + len - 5, "+json", 5) == 0 ||
                       strncasecmp(type + len - 4, "+xml", 4) == 0);
}

static void add_body(json_t *event, const struct http_request *request)
{
    const char *type = http_header_find(request, "content-type");
    json_t *body = NULL;

    if (request->body_bytes > 0 && (!type || is_text_type(type)))
        body = json_stringn((const char *)request->body, request->body_bytes);
    bool is_text = body != NULL || request->body_bytes == 0;
    if (!is_text) {
        size_t size =
            sodium_base64_encoded_len(request->body_bytes, sodium_base64_VARIANT_ORIGINAL);
        AUTO_FREE char *text = malloc(size);

        if (text)
            body = json_string(sodium_bin2base64(text, size, request->body, request->body_bytes,
                                                 sodium_base64_VARIANT_ORIGINAL));
    }
    if (body)
        set(event, "body", body);
    set(event, "isBase64Encoded", json_boolean(!is_text));
}

static json_t *context_json(const struct http_request *request, const struct url_context *context)
{
    const char *agent = http_header_find(request, "user-agent");
    time_t s = (time_t)(context->now_ms / 1000);
    char when[40];
    struct tm tm;

    gmtime_r(&s, &tm);
    strftime(when, sizeof(when), "%d/%b/%Y:%H:%M:%S +0000", &tm);
    json_t *http =
        json_pack("{s:s, s:o, s:s, s:s, s:o}", "method", request->method, "path",
                  text_json(context->path), "protocol", "HTTP/1.1", "sourceIp",
                  source_ip(request, context), "userAgent", text_json(agent ? agent : ""));
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:s, s:o, s:s, s:s, s:s, s:s, s:I}", "accountId", context->account_id,
        "apiId", context->id, "domainName", text_json(context->domain), "domainPrefix", context->id,
        "http", http, "requestId", context->request_id, "routeKey", "$default", "stage", "$default",
        "time", when, "timeEpoch", (json_int_t)context->now_ms);
    if (object && context->caller)
        set(object, "authorizer",
            json_pack("{s:{s:s, s:s, s:s, s:n, s:n, s:s, s:s}}", "iam", "accessKey",
                      context->caller, "accountId", context->account_id, "callerId",
                      context->caller, "cognitoIdentity", "principalOrgId", "userArn",
                      context->user_arn ? context->user_arn : "", "userId", context->caller));
    return object;
}

json_t *function_url_event(const struct http_request *request, const struct url_context *context)
{
    struct http_query query;

    if (http_query_read(request->query, &query, NULL) < 0)
        return NULL;
    json_t *event =
        json_pack("{s:s, s:s, s:o, s:o}", "version", "2.0", "routeKey", "$default", "rawPath",
                  text_json(context->path), "rawQueryString", text_json(request->query));
    if (event) {
        add_headers(event, request, context);
        if (query.n > 0) {
            json_t *parameters = json_object();

            for (size_t i = 0; i < query.n; i++)
                join(parameters, query.parameters[i].name, query.parameters[i].value);
            set(event, "queryStringParameters", parameters);
        }
        set(event, "requestContext", context_json(request, context));
        add_body(event, request);
    }
    http_query_done(&query);
    return event;
}

/* --- answer to response ---------------------------------------------------------------------- */

/* A token (RFC 9110 §5.6.2) that is not the connection's own. */
static bool is_header_name(const char *name)
{
    static const char *const ours[] = {"connection", "content-length",   "transfer-encoding",
                                       "keep-alive", "upgrade",          "trailer",
                                       "te",         "x-amzn-requestid", "date"};

    if (!*name || strlen(name) > 128)
        return false;
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("!#$%&'*+-.^_`|~", *c))
            return false;
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        if (strcasecmp(name, ours[i]) == 0)
            return false;
    return true;
}

/* Scalars as text; anything else is no header. */
static void add_header(struct http_response *response, const char *name, const json_t *value)
{
    char number[40];

    if (!is_header_name(name))
        return;
    if (json_is_string(value)) {
        (void)http_response_header(response, name, json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
        (void)http_response_header(response, name, number);
    } else if (json_is_boolean(value)) {
        (void)http_response_header(response, name, json_is_true(value) ? "true" : "false");
    }
}

static int take_body(const json_t *object, struct http_response *response)
{
    const json_t *body = json_object_get(object, "body");

    if (!body || json_is_null(body))
        return 0;
    if (!json_is_string(body)) {
        response->body = json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY);
        response->body_bytes = response->body ? strlen(response->body) : 0;
        return response->body ? 0 : -EBADMSG;
    }
    size_t len = json_string_length(body);
    response->body = malloc(len + 1);
    if (!response->body)
        return -EBADMSG;
    if (json_is_true(json_object_get(object, "isBase64Encoded"))) {
        if (sodium_base642bin((uint8_t *)response->body, len + 1, json_string_value(body), len,
                              "\r\n", &response->body_bytes, NULL,
                              sodium_base64_VARIANT_ORIGINAL) != 0)
            return -EBADMSG;
        return 0;
    }
    memcpy(response->body, json_string_value(body), len);
    response->body_bytes = len;
    return 0;
}

static bool has_header(const struct http_response *response, const char *name)
{
    for (size_t i = 0; i < response->n_headers; i++)
        if (strcasecmp(response->headers[i].name, name) == 0)
            return true;
    return false;
}

/* Status, headers and cookies. */
static int take_head(json_t *object, const char *default_type, struct http_response *response)
{
    json_t *status = json_object_get(object, "statusCode"), *each;
    const char *name;
    size_t i;

    json_int_t code =
        json_is_string(status) ? atoll(json_string_value(status)) : json_integer_value(status);
    if (code < 200 || code > 599)
        return -EBADMSG;
    response->status = (unsigned)code;
    json_object_foreach(json_object_get(object, "headers"), name, each)
        add_header(response, name, each);
    json_array_foreach(json_object_get(object, "cookies"), i, each)
    {
        if (json_is_string(each))
            (void)http_response_header(response, "Set-Cookie", json_string_value(each));
    }
    if (!has_header(response, "content-type"))
        (void)http_response_header(response, "Content-Type", default_type);
    return 0;
}

static int take_formatted(json_t *object, struct http_response *response)
{
    int r = take_head(object, "application/json", response);

    return r < 0 ? r : take_body(object, response);
}

static size_t header_bytes(const struct http_response *response)
{
    size_t sum = 0;

    for (size_t i = 0; i < response->n_headers; i++)
        sum += strlen(response->headers[i].name) + strlen(response->headers[i].value) + 4;
    return sum;
}

int function_url_head(const char *prelude, size_t len_bytes, struct http_response *response)
{
    json_t *object = json_loadb(prelude, len_bytes, 0, NULL);
    int r = -EBADMSG;

    if (json_is_object(object)) {
        if (!json_object_get(object, "statusCode"))
            set(object, "statusCode", json_integer(200));
        r = take_head(object, "application/octet-stream", response);
    }
    json_decref(object);
    return r == 0 && header_bytes(response) > HEADERS_MAX_BYTES ? -EBADMSG : r;
}

/* No statusCode: the value itself is the body, as the function wrote it. */
static int take_plain(const char *payload, size_t len, struct http_response *response)
{
    response->status = 200;
    response->body = malloc(len + 1);
    if (!response->body)
        return -EBADMSG;
    memcpy(response->body, payload, len);
    response->body_bytes = len;
    (void)http_response_header(response, "Content-Type", "application/json");
    return 0;
}

bool function_url_is_timeout(const char *payload, size_t len_bytes)
{
    /* The host's own words, so short ones. */
    json_t *value = len_bytes <= TIMEOUT_MAX_BYTES
                        ? json_loadb(payload, len_bytes, JSON_ALLOW_NUL, NULL)
                        : NULL;
    const char *type = json_string_value(json_object_get(value, "errorType"));
    bool is_timeout = type && strcmp(type, "Sandbox.Timedout") == 0;

    json_decref(value);
    return is_timeout;
}

int function_url_response(const char *payload, size_t len_bytes, struct http_response *response)
{
    struct error err;
    int r = json_check_small(payload, len_bytes, &err);

    if (r == -E2BIG) /* no head that a function means; and a tree would be very large */
        return json_check(payload, len_bytes, &err) < 0 ? -EBADMSG
                                                        : take_plain(payload, len_bytes, response);
    json_t *value = json_loadb(payload, len_bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

    if (!value)
        return -EBADMSG;
    if (json_object_get(value, "statusCode"))
        r = take_formatted(value, response);
    else
        r = take_plain(payload, len_bytes, response);
    json_decref(value);
    return r == 0 && header_bytes(response) > HEADERS_MAX_BYTES ? -EBADMSG : r;
}

/* --- cross-origin ---------------------------------------------------------------------------- */

static bool list_has(const json_t *list, const char *text)
{
    size_t i;
    json_t *each;

    json_array_foreach(list, i, each)
    {
        const char *have = json_string_value(each);

        if (have && (strcmp(have, "*") == 0 || strcasecmp(have, text) == 0))
            return true;
    }
    return false;
}

static void add_list(struct http_response *response, const char *name, const json_t *list)
{
    char text[2048] = "";
    size_t i, used = 0;
    json_t *each;

    json_array_foreach(list, i, each)
    {
        int n = snprintf(text + used, sizeof(text) - used, "%s%s", used ? "," : "",
                         json_string_value(each));

        if (n < 0 || (size_t)n >= sizeof(text) - used)
            return;
        used += (size_t)n;
    }
    if (used > 0)
        (void)http_response_header(response, name, text);
}

int function_url_cors(const struct http_request *request, const char *cors,
                      struct http_response *response)
{
    const char *origin = http_header_find(request, "origin");
    bool is_preflight = strcmp(request->method, "OPTIONS") == 0 && origin &&
                        http_header_find(request, "access-control-request-method");
    json_t *object = *cors ? json_loads(cors, 0, NULL) : NULL;
    char age[24];

    if (!object)
        return 0;
    if (origin && list_has(json_object_get(object, "AllowOrigins"), origin)) {
        (void)http_response_header(response, "Access-Control-Allow-Origin", origin);
        (void)http_response_header(response, "Vary", "Origin");
        if (json_is_true(json_object_get(object, "AllowCredentials")))
            (void)http_response_header(response, "Access-Control-Allow-Credentials", "true");
        add_list(response, "Access-Control-Expose-Headers",
                 json_object_get(object, "ExposeHeaders"));
        if (is_preflight) {
            add_list(response, "Access-Control-Allow-Methods",
                     json_object_get(object, "AllowMethods"));
            add_list(response, "Access-Control-Allow-Headers",
                     json_object_get(object, "AllowHeaders"));
            snprintf(age, sizeof(age), "%lld",
                     (long long)json_integer_value(json_object_get(object, "MaxAge")));
            (void)http_response_header(response, "Access-Control-Max-Age", age);
        }
    }
    json_decref(object);
    if (is_preflight)
        response->status = 200;
    return is_preflight;
}
