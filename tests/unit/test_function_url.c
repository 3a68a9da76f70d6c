/* Function URLs: requests as events (payload format 2.0), answers as responses, CORS. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/api/function_url.h"

static const struct url_context context = {.account_id = "123456789012",
                                           .id = "abc",
                                           .domain = "localhost:9555",
                                           .request_id = "r-1",
                                           .path = "/a%20b",
                                           .now_ms = 1440938160000};

static const char *text_at(const json_t *object, const char *a, const char *b)
{
    const json_t *value = json_object_get(object, a);

    return json_string_value(b ? json_object_get(value, b) : value);
}

static void test_event(void **state)
{
    struct http_header headers[] = {{"Host", "localhost:9555"},
                                    {"X-A", "1"},
                                    {"x-a", "2"},
                                    {"Cookie", "c=1; d=2"},
                                    {"User-Agent", "test"},
                                    {"Authorization", "secret"},
                                    {"Content-Type", "application/json; charset=utf-8"}};
    struct http_request request = {.method = "POST",
                                   .path = "/url/abc/a%20b",
                                   .query = "x=1&x=2&y=%C3%A4",
                                   .headers = headers,
                                   .n_headers = ARRAY_LEN(headers),
                                   .body = (const uint8_t *)"{\"k\":1}",
                                   .body_bytes = 7,
                                   .peer = "192.0.2.1"};
    json_t *event = function_url_event(&request, &context);

    (void)state;
    assert_non_null(event);
    assert_string_equal(text_at(event, "version", NULL), "2.0");
    assert_string_equal(text_at(event, "rawPath", NULL), "/a%20b");
    assert_string_equal(text_at(event, "rawQueryString", NULL), "x=1&x=2&y=%C3%A4");
    assert_string_equal(text_at(event, "headers", "x-a"), "1,2");
    /* The function's own, as this URL wants no signature. */
    assert_string_equal(text_at(event, "headers", "authorization"), "secret");
    assert_null(text_at(event, "headers", "cookie"));
    assert_string_equal(json_string_value(json_array_get(json_object_get(event, "cookies"), 1)),
                        "d=2");
    assert_string_equal(text_at(event, "queryStringParameters", "x"), "1,2");
    assert_string_equal(text_at(event, "queryStringParameters", "y"), "\xc3\xa4");
    const json_t *about = json_object_get(event, "requestContext");
    assert_string_equal(text_at(about, "http", "sourceIp"), "192.0.2.1");
    assert_string_equal(text_at(about, "http", "method"), "POST");
    assert_string_equal(text_at(about, "time", NULL), "30/Aug/2015:12:36:00 +0000");
    assert_string_equal(text_at(event, "body", NULL), "{\"k\":1}");
    assert_true(json_is_false(json_object_get(event, "isBase64Encoded")));
    assert_string_equal(text_at(event, "headers", "x-forwarded-for"), "192.0.2.1");
    assert_string_equal(text_at(event, "headers", "x-forwarded-port"), "9555");
    assert_null(json_object_get(about, "authorizer"));
    json_decref(event);
}

/* A signed request: who signed it is said, how is not; behind a proxy that is believed. */
static void test_event_signed(void **state)
{
    struct http_header headers[] = {{"Host", "abc.lambda-url.example"},
                                    {"Cookie", "a=1"},
                                    {"cookie", "b=2; c=3"},
                                    {"X-Forwarded-For", "6.6.6.6"},
                                    {"Authorization", "AWS4-HMAC-SHA256 …"}};
    struct http_request request = {.method = "GET",
                                   .path = "/",
                                   .query = "",
                                   .headers = headers,
                                   .n_headers = ARRAY_LEN(headers),
                                   .peer = "10.0.0.1"};
    struct url_context signer = context;

    (void)state;
    signer.caller = "AKID";
    signer.user_arn = "arn:aws:iam::123456789012:user/alice";
    signer.source_ip = "203.0.113.9";
    signer.is_https = true;
    json_t *event = function_url_event(&request, &signer);
    assert_null(text_at(event, "headers", "authorization"));
    assert_string_equal(text_at(event, "headers", "x-forwarded-for"), "203.0.113.9");
    assert_string_equal(text_at(event, "headers", "x-forwarded-proto"), "https");
    assert_string_equal(text_at(event, "headers", "x-forwarded-port"), "443");
    assert_int_equal(json_array_size(json_object_get(event, "cookies")), 3);
    const json_t *about = json_object_get(event, "requestContext");
    assert_string_equal(text_at(about, "http", "sourceIp"), "203.0.113.9");
    const json_t *iam = json_object_get(json_object_get(about, "authorizer"), "iam");
    assert_string_equal(text_at(iam, "accessKey", NULL), "AKID");
    assert_string_equal(text_at(iam, "accountId", NULL), "123456789012");
    assert_string_equal(text_at(iam, "userArn", NULL), signer.user_arn);
    assert_true(json_is_null(json_object_get(iam, "cognitoIdentity")));
    json_decref(event);
}

static void test_event_binary(void **state)
{
    struct http_header headers[] = {{"Content-Type", "image/png"}, {"X-B", "\xff\xfe"}};
    struct http_request request = {.method = "POST",
                                   .path = "/",
                                   .query = "",
                                   .headers = headers,
                                   .n_headers = ARRAY_LEN(headers),
                                   .body = (const uint8_t *)"\x00\xff\x01",
                                   .body_bytes = 3};
    json_t *event = function_url_event(&request, &context);

    (void)state;
    assert_string_equal(text_at(event, "body", NULL), "AP8B");
    assert_true(json_is_true(json_object_get(event, "isBase64Encoded")));
    assert_string_equal(text_at(event, "headers", "x-b"), "??");
    json_decref(event);
    /* Says it is text and is not. */
    headers[0].value = "text/plain";
    event = function_url_event(&request, &context);
    assert_true(json_is_true(json_object_get(event, "isBase64Encoded")));
    json_decref(event);
    request.query = "%";
    assert_null(function_url_event(&request, &context));
}

static const char *header_of(const struct http_response *response, const char *name)
{
    for (size_t i = 0; i < response->n_headers; i++)
        if (strcmp(response->headers[i].name, name) == 0)
            return response->headers[i].value;
    return NULL;
}

static void test_response(void **state)
{
    static const char formatted[] =
        "{\"statusCode\":201,\"headers\":{\"X-A\":\"b\\r\\nEvil: 1\",\"Content-Length\":\"9\","
        "\"Transfer-Encoding\":\"chunked\",\"Bad Name\":\"1\",\"X-N\":5,\"X-O\":{}},"
        "\"cookies\":[\"a=1\",7],\"body\":\"AP8B\",\"isBase64Encoded\":true}";
    struct http_response response = {.status = 0};

    (void)state;
    assert_int_equal(function_url_response(formatted, strlen(formatted), &response), 0);
    assert_int_equal(response.status, 201);
    assert_string_equal(header_of(&response, "X-A"), "b  Evil: 1");
    assert_string_equal(header_of(&response, "X-N"), "5");
    assert_string_equal(header_of(&response, "Set-Cookie"), "a=1");
    assert_null(header_of(&response, "Content-Length"));
    assert_null(header_of(&response, "Transfer-Encoding"));
    assert_null(header_of(&response, "Bad Name"));
    assert_null(header_of(&response, "X-O"));
    assert_int_equal(response.body_bytes, 3);
    assert_memory_equal(response.body, "\x00\xff\x01", 3);
    http_response_done(&response);
}

static void test_response_plain(void **state)
{
    struct http_response response = {.status = 0};

    (void)state;
    assert_int_equal(function_url_response("{\"a\": 1}", 8, &response), 0);
    assert_int_equal(response.status, 200);
    assert_memory_equal(response.body, "{\"a\": 1}", 8);
    assert_string_equal(header_of(&response, "Content-Type"), "application/json");
    http_response_done(&response);
    assert_int_equal(function_url_response("\"hi\"", 4, &response), 0);
    assert_int_equal(response.body_bytes, 4); /* as the function wrote it */
    assert_memory_equal(response.body, "\"hi\"", 4);
    http_response_done(&response);
}

static void test_response_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "{\"statusCode\":99}",
        "{\"statusCode\":600}",
        "{\"statusCode\":\"x\"}",
        "{\"statusCode\":200,\"body\":\"%\",\"isBase64Encoded\":true}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct http_response response = {.status = 0};

        if (function_url_response(bad[i], strlen(bad[i]), &response) != -EBADMSG)
            fail_msg("taken: %s", bad[i]);
        http_response_done(&response);
    }
    static char large[40000] = "{\"statusCode\":200,\"headers\":{\"A\":\"";
    size_t n = strlen(large);
    memset(large + n, 'x', 30000);
    strcpy(large + n + 30000, "\"}}");
    struct http_response response = {.status = 0};
    assert_int_equal(function_url_response(large, strlen(large), &response), -EBADMSG);
    http_response_done(&response);
}

static void test_cors(void **state)
{
    static const char cors[] = "{\"AllowOrigins\":[\"https://a.example\"],\"AllowMethods\":"
                               "[\"GET\",\"PUT\"],\"MaxAge\":60,\"AllowCredentials\":true}";
    struct http_header headers[] = {{"Origin", "https://a.example"},
                                    {"Access-Control-Request-Method", "PUT"}};
    struct http_request request = {.method = "OPTIONS",
                                   .path = "/",
                                   .query = "",
                                   .headers = headers,
                                   .n_headers = ARRAY_LEN(headers)};
    struct http_response response = {.status = 0};

    (void)state;
    assert_int_equal(function_url_cors(&request, cors, &response), 1);
    assert_int_equal(response.status, 200);
    assert_string_equal(header_of(&response, "Access-Control-Allow-Origin"), "https://a.example");
    assert_string_equal(header_of(&response, "Access-Control-Allow-Methods"), "GET,PUT");
    assert_string_equal(header_of(&response, "Access-Control-Max-Age"), "60");
    http_response_done(&response);
    headers[0].value = "https://evil.example";
    assert_int_equal(function_url_cors(&request, cors, &response), 1);
    assert_null(header_of(&response, "Access-Control-Allow-Origin"));
    http_response_done(&response);
    assert_int_equal(function_url_cors(&request, "", &response), 0);
    request.method = "GET";
    headers[0].value = "https://a.example";
    assert_int_equal(function_url_cors(&request, cors, &response), 0);
    assert_string_equal(header_of(&response, "Access-Control-Allow-Credentials"), "true");
    http_response_done(&response);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_event),          cmocka_unit_test(test_event_signed),
        cmocka_unit_test(test_event_binary),   cmocka_unit_test(test_response),
        cmocka_unit_test(test_response_plain), cmocka_unit_test(test_response_refused),
        cmocka_unit_test(test_cors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
