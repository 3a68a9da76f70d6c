/* Invocations, function URLs and who may ask for what: over real sockets. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "api_fixture.h"
#include "common/bytes.h"
#include "common/fd.h"

#define FUNCTIONS "/2015-03-31/functions"
#define INVOKE FUNCTIONS "/f/invocations"
#define ROOT "Root=1-5759e988-bd862e3fe1be46a994272793"

static const char *header(const struct api_answer *answer, const char *name)
{
    static char value[8192];

    return client_header(&answer->http, name, value, sizeof(value));
}

static void test_request_response(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;

    deploy(fixture, "f");
    call(fixture, "POST", INVOKE,
         "X-Amz-Client-Context: eyJhIjoxfQ==\r\nX-Amz-Log-Type: Tail\r\nX-Amzn-Trace-Id: " ROOT
         ";Sampled=0\r\n",
         "{\"k\": [1]}", &got);
    assert_int_equal(got.http.status, 200);
    assert_int_equal(got.http.body_len, 10);
    assert_memory_equal(got.http.body, "{\"k\": [1]}", 10);
    assert_string_equal(header(&got, "X-Amz-Executed-Version"), "$LATEST");
    assert_string_equal(header(&got, "X-Amz-Function-Error"), "");
    assert_string_equal(header(&got, "X-Amz-Log-Result"), "U1RBUlQKUkVQT1JUCg==");
    assert_string_equal(header(&got, "X-Amzn-Trace-Id"), ROOT ";Sampled=0");
    api_answer_done(&got);
    assert_string_equal(fixture_seen.client_context, "{\"a\":1}");
    assert_string_equal(fixture_seen.trace_id, ROOT ";Sampled=0");
    assert_string_equal(fixture_seen.version, "$LATEST");
    call(fixture, "POST", INVOKE, NULL, "", &got);
    assert_int_equal(got.http.status, 200);
    assert_memory_equal(got.http.body, "{}", 2);
    api_answer_done(&got);
    call(fixture, "POST", INVOKE, NULL, "{\"do\":\"raise\"}", &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(header(&got, "X-Amz-Function-Error"), "Unhandled");
    assert_string_equal(text_of(got.json, "errorType"), "ValueError");
    api_answer_done(&got);
}

static void test_timing(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;

    deploy(fixture, "f");
    call(fixture, "POST", INVOKE, "X-Mayfly-Timing: 1\r\n", "{}", &got);
    assert_string_equal(header(&got, "Server-Timing"),
                        "start;desc=restored, acquire;dur=1.250, guest;dur=20.007");
    api_answer_done(&got);
    call(fixture, "POST", INVOKE, NULL, "{}", &got);
    assert_string_equal(header(&got, "Server-Timing"), "");
    api_answer_done(&got);
}

static void test_invoke_refused(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    expect_error(fixture, "POST", INVOKE, NULL, "{", 400, "InvalidRequestContentException", "json");
    expect_error(fixture, "POST", INVOKE, NULL, "nope", 400, "InvalidRequestContentException",
                 NULL);
    expect_error(fixture, "POST", INVOKE, "X-Amz-Invocation-Type: Sometimes\r\n", "{}", 400,
                 "ValidationException", "invocationType");
    expect_error(fixture, "POST", INVOKE, "X-Amz-Log-Type: All\r\n", "{}", 400,
                 "ValidationException", "logType");
    expect_error(fixture, "POST", INVOKE, "X-Amz-Client-Context: %%%\r\n", "{}", 400,
                 "InvalidRequestContentException", "Client context");
    expect_error(fixture, "POST", INVOKE, "X-Amz-Client-Context: bm8=\r\n", "{}", 400,
                 "InvalidRequestContentException", "Client context");
    expect_error(fixture, "POST", INVOKE "?Qualifier=nope", NULL, "{}", 404,
                 "ResourceNotFoundException", ":f:nope");
    expect_error(fixture, "POST", FUNCTIONS "/g/invocations", NULL, "{}", 404,
                 "ResourceNotFoundException", NULL);
    assert_int_equal(fixture_seen.count, 0); /* none of these reached a guest */
    expect_error(fixture, "POST", INVOKE, NULL, "{\"do\":\"throttle\"}", 429,
                 "TooManyRequestsException", "ConcurrentInvocationLimitExceeded");
    expect_error(fixture, "POST", INVOKE, NULL, "{\"do\":\"pending\"}", 409,
                 "ResourceConflictException", "Pending");
    struct api_answer got;
    call(fixture, "POST", INVOKE, NULL, "{\"do\":\"break\"}", &got);
    assert_int_equal(got.http.status, 500);
    assert_string_equal(header(&got, "x-amzn-ErrorType"), "ServiceException");
    assert_null(strstr(got.http.body, "secret")); /* nothing of the host in it */
    api_answer_done(&got);
}

static void test_dry_run_and_event(void **state)
{
    struct api_fixture *fixture = *state;
    struct event *events[EVENT_CLAIM_MAX];
    struct api_answer got;
    struct error err;
    size_t n = 0;

    deploy(fixture, "f");
    call(fixture, "POST", INVOKE, "X-Amz-Invocation-Type: DryRun\r\n", "{}", &got);
    assert_int_equal(got.http.status, 204);
    api_answer_done(&got);
    expect_error(fixture, "POST", FUNCTIONS "/g/invocations", "X-Amz-Invocation-Type: DryRun\r\n",
                 "{}", 404, "ResourceNotFoundException", NULL);
    call(fixture, "POST", INVOKE, "X-Amz-Invocation-Type: Event\r\nX-Amzn-Trace-Id: " ROOT "\r\n",
         "{\"e\":1}", &got);
    assert_int_equal(got.http.status, 202);
    assert_int_equal(got.http.body_len, 0);
    AUTO_FREE char *id = strdup(header(&got, "x-amzn-RequestId"));
    api_answer_done(&got);
    call(fixture, "POST", "/2014-11-13/functions/f/invoke-async/", NULL, "{}", &got);
    assert_int_equal(got.http.status, 202);
    assert_int_equal(number_of(got.json, "Status"), 202);
    api_answer_done(&got);
    expect_error(fixture, "POST", FUNCTIONS "/g/invocations", "X-Amz-Invocation-Type: Event\r\n",
                 "{}", 404, "ResourceNotFoundException", NULL);
    assert_int_equal(fixture_seen.count, 0);
    /* What was accepted is in the queue. */
    assert_int_equal(event_queue_claim(fixture->queue, 8, 1000, NULL, events, &n, NULL, &err), 0);
    assert_int_equal(n, 2);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        found =
            found || (strcmp(events[i]->request_id, id) == 0 && events[i]->payload_len_bytes == 7 &&
                      strcmp(events[i]->trace, ROOT ";Sampled=0") == 0);
        event_free(events[i]);
    }
    assert_true(found);
}

static void test_sizes(void **state)
{
    struct api_fixture *fixture = *state;
    size_t len = API_INVOKE_MAX_BYTES;
    AUTO_FREE char *body = malloc(len + 2);
    struct api_answer got;

    deploy(fixture, "f");
    assert_non_null(body);
    memset(body, 'x', len + 1);
    body[0] = body[len - 1] = '"';
    call_on(fixture->fd, "POST", INVOKE, NULL, body, len, &got);
    assert_int_equal(got.http.status, 200);
    assert_int_equal(fixture_seen.payload_bytes, len);
    api_answer_done(&got);
    body[len - 1] = 'x';
    body[len] = '"';
    call_on(fixture->fd, "POST", INVOKE, NULL, body, len + 1, &got);
    assert_int_equal(got.http.status, 413);
    assert_string_equal(header(&got, "x-amzn-ErrorType"), "RequestTooLargeException");
    assert_non_null(strstr(got.http.body, "6291456 bytes for the Invoke operation"));
    api_answer_done(&got);
    body[API_EVENT_MAX_BYTES] = '"';
    call_on(fixture->fd, "POST", INVOKE, "X-Amz-Invocation-Type: Event\r\n", body,
            API_EVENT_MAX_BYTES + 1, &got);
    assert_int_equal(got.http.status, 413);
    api_answer_done(&got);
    call_on(fixture->fd, "PUT", FUNCTIONS "/f/configuration", NULL, body, API_JSON_MAX_BYTES + 1,
            &got);
    assert_int_equal(got.http.status, 413);
    api_answer_done(&got);
    assert_int_equal(fixture_seen.count, 1);
}

static void test_alias_shares(void **state)
{
    struct api_fixture *fixture = *state;
    int second = 0;

    deploy(fixture, "f");
    fixture_publish(&fixture->store, "f");
    fixture_change(&fixture->store, "f", "more");
    fixture_publish(&fixture->store, "f");
    json_decref(expect_ok(fixture, "POST", FUNCTIONS "/f/aliases",
                          "{\"Name\":\"live\",\"FunctionVersion\":\"1\",\"RoutingConfig\":"
                          "{\"AdditionalVersionWeights\":{\"2\":0.5}}}",
                          201));
    for (int i = 0; i < 200; i++) {
        json_decref(expect_ok(fixture, "POST", INVOKE "?Qualifier=live", "{}", 200));
        second += strcmp(fixture_seen.version, "2") == 0;
    }
    /* The function is told what was asked for, not what it came to. */
    const char *told = strstr(fixture_seen.invoked_arn, ":function:");
    assert_non_null(told);
    assert_string_equal(told, ":function:f:live");
    json_decref(expect_ok(fixture, "POST", INVOKE, "{}", 200));
    told = strstr(fixture_seen.invoked_arn, ":function:");
    assert_non_null(told);
    assert_string_equal(told, ":function:f");
    assert_memory_equal(fixture_seen.invoked_arn, "arn:aws:lambda:", 15);
    /* Fair coins: outside of this once in 10^12 runs. */
    assert_in_range(second, 50, 150);
}

static uint32_t be32(const char *from)
{
    const uint8_t *b = (const uint8_t *)from;

    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Frames of a body: how many there are, and that they fill it. */
static int count_frames(const struct api_answer *answer)
{
    size_t at = 0;
    int n = 0;

    while (at + 16 <= answer->http.body_len) {
        at += be32(answer->http.body + at);
        n++;
    }
    assert_int_equal(at, answer->http.body_len);
    return n;
}

static void test_response_stream(void **state)
{
    struct api_fixture *fixture = *state;
    const char *target = "/2021-11-15/functions/f/response-streaming-invocations";
    struct api_answer got;

    deploy(fixture, "f");
    call(fixture, "POST", target, NULL,
         "{\"do\":\"stream\",\"parts\":[\"part!\",\"part!\",\"part!\"]}", &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(header(&got, "Content-Type"), "application/vnd.amazon.eventstream");
    assert_string_equal(header(&got, "X-Amz-Executed-Version"), "$LATEST");
    assert_int_equal(count_frames(&got), 4); /* three parts, InvokeComplete */
    api_answer_done(&got);
    call(fixture, "POST", target, "X-Amz-Log-Type: Tail\r\n", "{\"a\":1}", &got);
    assert_int_equal(count_frames(&got), 2);
    assert_non_null(memmem(got.http.body, got.http.body_len, "{\"a\":1}", 7));
    assert_non_null(memmem(got.http.body, got.http.body_len, "LogResult", 9));
    api_answer_done(&got);
    call(fixture, "POST", target, NULL, "{\"do\":\"raise\"}", &got);
    assert_int_equal(got.http.status, 200);
    assert_int_equal(count_frames(&got), 1);
    assert_non_null(memmem(got.http.body, got.http.body_len, "\"ErrorCode\":\"Unhandled\"", 23));
    api_answer_done(&got);
    /* What fails in mid-stream says so at the end of it. */
    call(fixture, "POST", target, NULL, "{\"do\":\"stream\",\"parts\":[\"begun\"],\"raise\":true}",
         &got);
    assert_int_equal(got.http.status, 200);
    assert_int_equal(count_frames(&got), 2);
    assert_non_null(memmem(got.http.body, got.http.body_len, "begun", 5));
    assert_non_null(memmem(got.http.body, got.http.body_len, "RangeError", 10));
    api_answer_done(&got);
    /* What fails before it begins has a status of its own. */
    expect_error(fixture, "POST", target, NULL, "{\"do\":\"throttle\"}", 429,
                 "TooManyRequestsException", NULL);
    expect_error(fixture, "POST", target, "X-Amz-Invocation-Type: Event\r\n", "{}", 400,
                 "ValidationException", "invocationType");
}

static void test_function_url(void **state)
{
    struct api_fixture *fixture = *state;
    char path[256], host[128];
    struct api_answer got;

    deploy(fixture, "f");
    expect_error(fixture, "POST", "/2021-10-31/functions/f/url", NULL, "{}", 400,
                 "ValidationException", "authType");
    json_t *url = expect_ok(fixture, "POST", "/2021-10-31/functions/f/url",
                            "{\"AuthType\":\"NONE\",\"Cors\":{\"AllowOrigins\":[\"*\"]}}", 201);
    AUTO_FREE char *base = strdup(strstr(text_of(url, "FunctionUrl"), "/url/"));
    json_decref(url);
    expect_error(fixture, "POST", "/2021-10-31/functions/f/url", NULL, "{\"AuthType\":\"NONE\"}",
                 409, "ResourceConflictException", NULL);
    AUTO_FD tcp = client_tcp(http_server_port(fixture->server));
    snprintf(path, sizeof(path), "%sa/b?x=1", base);
    call_on(tcp, "POST", path, "Origin: https://a.example\r\n", "{\"do\":1}", 8, &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(text_of(got.json, "rawPath"), "/a/b");
    assert_string_equal(text_of(got.json, "queryStringParameters.x"), "1");
    assert_string_equal(text_of(got.json, "body"), "{\"do\":1}");
    assert_string_equal(text_of(got.json, "requestContext.http.sourceIp"), "127.0.0.1");
    assert_string_equal(header(&got, "Access-Control-Allow-Origin"), "https://a.example");
    api_answer_done(&got);
    static const struct {
        const char *what;
        int status;
    } outcomes[] = {{"raise", 502}, {"timeout", 504}, {"throttle", 429},
                    {"break", 502}, {"pending", 502}, {"http", 418}};
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        snprintf(path, sizeof(path), "%s?do=%s", base, outcomes[i].what);
        call_on(tcp, "PUT", path, NULL, "", 0, &got);
        assert_int_equal(got.http.status, outcomes[i].status);
        assert_null(strstr(got.http.body, "secret"));
        api_answer_done(&got);
    }
    /* One origin is allowed, by the configuration: not a second one by the function. */
    snprintf(path, sizeof(path), "%s?do=cors", base);
    call_on(tcp, "GET", path, "Origin: https://a.example\r\n", "", 0, &got);
    assert_string_equal(header(&got, "Access-Control-Allow-Origin"), "https://a.example");
    assert_null(strstr(got.http.text, "own.example"));
    assert_string_equal(header(&got, "X-A"), "1");
    api_answer_done(&got);
    call_on(tcp, "OPTIONS", base,
            "Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n", "", 0, &got);
    assert_int_equal(got.http.status, 200);
    assert_int_equal(got.http.body_len, 0);
    api_answer_done(&got);
    call_on(tcp, "OPTIONS", base, NULL, "", 0, &got); /* no preflight: the function's */
    assert_string_equal(text_of(got.json, "requestContext.http.method"), "OPTIONS");
    api_answer_done(&got);
    /* By its host name, any path is the function's. */
    snprintf(host, sizeof(host), "Host: %.32s.lambda-url.local:1\r\n", base + 5);
    call_on(tcp, "GET", "/2015-03-31/functions", host, "", 0, &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(text_of(got.json, "rawPath"), "/2015-03-31/functions");
    api_answer_done(&got);
    json_decref(expect_ok(fixture, "PUT", "/2021-10-31/functions/f/url",
                          "{\"AuthType\":\"AWS_IAM\"}", 200));
    call_on(tcp, "GET", base, NULL, "", 0, &got);
    assert_int_equal(got.http.status, 403);
    api_answer_done(&got);
    AUTO_FREE char *signature =
        sign("GET", base, "", "localhost", "", fixture_key_id, fixture_secret, time(NULL));
    call_on(tcp, "GET", base, signature, "", 0, &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(text_of(got.json, "requestContext.authorizer.iam.accessKey"),
                        fixture_key_id);
    assert_string_equal(text_of(got.json, "requestContext.authorizer.iam.userArn"),
                        "arn:aws:iam::000000000001:user/alice");
    assert_null(json_object_get(json_object_get(got.json, "headers"), "authorization"));
    api_answer_done(&got);
    AUTO_FREE char *other = sign("GET", base, "", "localhost", "", "AKIDBOB", "bob's", time(NULL));
    call_on(tcp, "GET", base, other, "", 0, &got);
    assert_int_equal(got.http.status, 403);
    api_answer_done(&got);
    json_t *list = expect_ok(fixture, "GET", "/2021-10-31/functions/f/urls", "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "FunctionUrlConfigs")), 1);
    json_decref(list);
    assert_null(expect_ok(fixture, "DELETE", "/2021-10-31/functions/f/url", "", 204));
    call_on(tcp, "GET", base, signature, "", 0, &got);
    assert_int_equal(got.http.status, 403);
    api_answer_done(&got);
}

/* What a function URL makes of the stream that @body asks for; the connection is a new one. */
static void stream_url(struct api_fixture *fixture, const char *base, const char *body,
                       struct api_answer *ret)
{
    AUTO_FD tcp = client_tcp(http_server_port(fixture->server));

    call_on(tcp, "POST", base, "Content-Type: application/json\r\n", body, strlen(body), ret);
}

#define PRELUDE_TYPE "\"type\":\"application/vnd.awslambda.http-integration-response\""
#define ZEROS "\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000"

static void test_function_url_stream(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;

    deploy(fixture, "f");
    json_t *url = expect_ok(fixture, "POST", "/2021-10-31/functions/f/url",
                            "{\"AuthType\":\"NONE\",\"InvokeMode\":\"RESPONSE_STREAM\"}", 201);
    AUTO_FREE char *base = strdup(strstr(text_of(url, "FunctionUrl"), "/url/"));
    json_decref(url);
    /* The head may come in any pieces, and the body with the last of them. */
    stream_url(
        fixture, base,
        "{\"do\":\"stream\"," PRELUDE_TYPE ",\"parts\":[\"{\\\"statusCode\\\":201,"
        "\\\"headers\\\":{\\\"X-A\\\":\\\"b\\\",\\\"Content-Type\\\":\\\"text/x\\\"},\",\"\","
        "\"\\\"cookies\\\":[\\\"c=d\\\"]}\\u0000\\u0000\\u0000\","
        "\"\\u0000\\u0000\\u0000\\u0000\\u0000one\","
        "\" two\"]}",
        &got);
    assert_int_equal(got.http.status, 201);
    assert_string_equal(header(&got, "X-A"), "b");
    assert_string_equal(header(&got, "Content-Type"), "text/x");
    assert_string_equal(header(&got, "Set-Cookie"), "c=d");
    assert_int_equal(got.http.body_len, 7);
    assert_memory_equal(got.http.body, "one two", 7);
    api_answer_done(&got);
    /* Another content type: no head. */
    stream_url(fixture, base,
               "{\"do\":\"stream\",\"type\":\"text/plain\",\"parts\":[\"{}" ZEROS "\"]}", &got);
    assert_int_equal(got.http.status, 200);
    assert_string_equal(header(&got, "Content-Type"), "text/plain");
    assert_int_equal(got.http.body_len, 10);
    api_answer_done(&got);
    /* A function that does not stream is answered as ever. */
    stream_url(fixture, base, "{\"do\":\"http\"}", &got);
    assert_int_equal(got.http.status, 418);
    api_answer_done(&got);
    static const char *const no_heads[] = {
        "{\"do\":\"stream\"," PRELUDE_TYPE ",\"parts\":[\"never ends\"]}",
        "{\"do\":\"stream\"," PRELUDE_TYPE ",\"parts\":[\"no JSON" ZEROS "\"]}",
        "{\"do\":\"stream\"," PRELUDE_TYPE ",\"parts\":[\"{\\\"statusCode\\\":7}" ZEROS "\"]}",
        "{\"do\":\"stream\"," PRELUDE_TYPE ",\"parts\":[\"\"],\"raise\":true}"};
    for (size_t i = 0; i < ARRAY_LEN(no_heads); i++) {
        stream_url(fixture, base, no_heads[i], &got);
        assert_int_equal(got.http.status, 502);
        api_answer_done(&got);
    }
}

/* --- who asks -------------------------------------------------------------------------------- */

static void check_auth(struct api_fixture *fixture, const char *headers, const char *body,
                       int status, const char *type)
{
    AUTO_FD tcp = client_tcp(http_server_port(fixture->server));
    struct api_answer got;

    call_on(tcp, "POST", INVOKE, headers, body, strlen(body), &got);
    if (got.http.status != status || strcmp(header(&got, "x-amzn-ErrorType"), type) != 0)
        fail_msg("expected %d %s, got %s", status, type, got.http.text);
    api_answer_done(&got);
}

static void test_signatures(void **state)
{
    struct api_fixture *fixture = *state;
    time_t now = time(NULL);

    deploy(fixture, "f");
    AUTO_FREE char *good = sign("POST", INVOKE, "", "h", "{}", fixture_key_id, fixture_secret, now);
    check_auth(fixture, good, "{}", 200, "");
    check_auth(fixture, good, "{ }", 403, "InvalidSignatureException");
    AUTO_FREE char *wrong = sign("POST", INVOKE, "", "h", "{}", fixture_key_id, "other", now);
    check_auth(fixture, wrong, "{}", 403, "InvalidSignatureException");
    AUTO_FREE char *old =
        sign("POST", INVOKE, "", "h", "{}", fixture_key_id, fixture_secret, now - 400);
    check_auth(fixture, old, "{}", 403, "InvalidSignatureException");
    AUTO_FREE char *early =
        sign("POST", INVOKE, "", "h", "{}", fixture_key_id, fixture_secret, now + 400);
    check_auth(fixture, early, "{}", 403, "InvalidSignatureException");
    AUTO_FREE char *unknown = sign("POST", INVOKE, "", "h", "{}", "AKIDNOBODY", "x", now);
    check_auth(fixture, unknown, "{}", 403, "UnrecognizedClientException");
    check_auth(fixture, "Authorization: Basic YTpi\r\n", "{}", 403, "IncompleteSignatureException");
    check_auth(fixture, NULL, "{}", 403, "MissingAuthenticationTokenException");
    check_auth(fixture, "X-Mayfly-Tenant: alice\r\n", "{}", 403,
               "MissingAuthenticationTokenException");
    /* Another tenant's function is not there: 404, not 403. */
    AUTO_FREE char *bob = sign("POST", INVOKE, "", "h", "{}", "AKIDBOB", "bob's", now);
    check_auth(fixture, bob, "{}", 404, "ResourceNotFoundException");
    assert_int_equal(fixture_seen.count, 1);
}

static void test_other_tenants(void **state)
{
    struct api_fixture *fixture = *state;
    const char *bob = "X-Mayfly-Tenant: bob\r\n";

    deploy(fixture, "f");
    expect_error(fixture, "GET", FUNCTIONS "/f", bob, "", 404, "ResourceNotFoundException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "/arn:aws:lambda:us-east-1:000000000001:function:f", bob,
                 "", 404, "ResourceNotFoundException", NULL);
    expect_error(fixture, "DELETE", FUNCTIONS "/f", bob, "", 404, "ResourceNotFoundException",
                 NULL);
    expect_error(fixture, "POST", INVOKE, bob, "{}", 404, "ResourceNotFoundException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "/f", "X-Mayfly-Tenant: nobody\r\n", "", 403,
                 "AccessDeniedException", NULL);
    json_decref(expect_ok(fixture, "GET", FUNCTIONS "/f", "", 200));
}

static int loopback_set_up(void **state)
{
    api_fixture_set_up(state);
    struct api_fixture *fixture = *state;
    struct api_options options = {.registry = fixture->store.registry,
                                  .backend = &(const struct api_backend){.invoke = NULL},
                                  .default_tenant = "alice",
                                  .unsigned_loopback = true};
    struct error err;

    deploy(fixture, "f");
    close(fixture->fd);
    http_server_stop(fixture->server);
    api_free(fixture->api);
    assert_int_equal(api_new(&options, &fixture->api, &err), 0);
    struct http_server_options server = {.listen = "127.0.0.1:0",
                                         .socket_path = fixture->socket_path,
                                         .service = &api_service,
                                         .opaque = fixture->api};
    assert_int_equal(http_server_start(&server, &fixture->server, &err), 0);
    fixture->fd = client_tcp(http_server_port(fixture->server));
    return 0;
}

/* Unsigned on loopback where it is allowed; but not for a page in a browser on this host. */
static void test_unsigned_loopback(void **state)
{
    struct api_fixture *fixture = *state;

    json_decref(expect_ok(fixture, "GET", FUNCTIONS "/f", "", 200));
    expect_error(fixture, "GET", FUNCTIONS "/f", "Origin: https://evil.example\r\n", "", 403,
                 "MissingAuthenticationTokenException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "/f", "Sec-Fetch-Site: none\r\n", "", 403,
                 "MissingAuthenticationTokenException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "/f", "Host: rebound.example\r\n", "", 403,
                 "MissingAuthenticationTokenException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "/f", "X-Mayfly-Tenant: bob\r\nHost: x.localhost\r\n",
                 "", 403, "MissingAuthenticationTokenException", NULL);
}

int main(void)
{
#define API_TEST(test)                                                                             \
    cmocka_unit_test_setup_teardown(test, api_fixture_set_up, api_fixture_tear_down)
    const struct CMUnitTest tests[] = {
        API_TEST(test_request_response),
        API_TEST(test_timing),
        API_TEST(test_invoke_refused),
        API_TEST(test_dry_run_and_event),
        API_TEST(test_sizes),
        API_TEST(test_alias_shares),
        API_TEST(test_response_stream),
        API_TEST(test_function_url),
        API_TEST(test_function_url_stream),
        API_TEST(test_signatures),
        API_TEST(test_other_tenants),
        cmocka_unit_test_setup_teardown(test_unsigned_loopback, loopback_set_up,
                                        api_fixture_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
