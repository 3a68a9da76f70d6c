/* Bounded HTTP requests: pieces, bodies, limits, and what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-agent/http_request.h"

static uint8_t room[16];

static uint8_t *give_room(struct http_request *request, void *opaque, size_t *ret_size)
{
    (void)request;
    *ret_size = sizeof(room);
    return opaque ? NULL : room;
}

static int feed(struct http_request *request, const char *text, size_t *ret_used)
{
    return http_request_feed(request, (const uint8_t *)text, strlen(text), ret_used);
}

static void get_and_what_follows(void **state)
{
    static const char text[] = "GET /a/b HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\n\r\n";
    struct http_request request;
    size_t used;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    assert_int_equal(feed(&request, text, &used), 1);
    assert_int_equal(used, strstr(text, "GET /next") - text);
    assert_int_equal(request.parser.method, HTTP_GET);
    assert_string_equal(request.target, "/a/b");
    assert_true(request.keeps_alive);
    http_request_begin(&request, give_room, NULL);
    assert_int_equal(feed(&request, text + used, &used), 1);
    assert_string_equal(request.target, "/next");
}

static void byte_by_byte(void **state)
{
    static const char text[] = "POST /p HTTP/1.1\r\nlambda-runtime-function-error-type: A.B\r\n"
                               "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    struct http_request request;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        size_t used;
        int result = http_request_feed(&request, (const uint8_t *)text + i, 1, &used);

        assert_int_equal(result, i == sizeof(text) - 2);
        assert_int_equal(used, 1);
    }
    assert_string_equal(request.target, "/p");
    assert_string_equal(request.error_type, "A.B");
    assert_int_equal(request.body_bytes, 5);
    assert_memory_equal(room, "hello", 5);
}

static void chunked_body(void **state)
{
    struct http_request request;
    size_t used;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    assert_int_equal(
        feed(&request,
             "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
             "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
             &used),
        1);
    assert_int_equal(request.body_bytes, 5);
    assert_memory_equal(room, "abcde", 5);
    assert_false(request.keeps_alive);
}

static void long_body_is_cut(void **state)
{
    struct http_request request;
    size_t used;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    assert_int_equal(
        feed(&request, "POST / HTTP/1.1\r\nContent-Length: 17\r\n\r\n12345678901234567", &used), 1);
    assert_true(request.is_body_long);
    assert_int_equal(request.body_bytes, sizeof(room));
    http_request_begin(&request, give_room, &request); /* no room at all */
    assert_int_equal(feed(&request, "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", &used), 1);
    assert_int_equal(request.body_bytes, 0);
    assert_true(request.is_body_long);
}

static void long_names_match_nothing(void **state)
{
    struct http_request request;
    char text[2048];
    size_t used;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    snprintf(text, sizeof(text), "GET /%0*d HTTP/1.1\r\n%0*d: v\r\n%s: %0*d\r\n\r\n", 600, 0, 100,
             0, "Lambda-Runtime-Function-Error-Type", 200, 0);
    assert_int_equal(feed(&request, text, &used), 1);
    assert_string_equal(request.target, "");
    assert_string_equal(request.error_type, "");
}

static void refused(void **state)
{
    static const char *const texts[] = {
        "nonsense\r\n\r\n",
        "GET / HTTP/9\r\n\r\n",
        "GET /\r\n\r\n", /* HTTP/0.9 */
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "GET / HTTP/1.1\r\nbad\x01name: x\r\n\r\n"};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct http_request request;
        size_t used;

        http_request_begin(&request, give_room, NULL);
        if (feed(&request, texts[i], &used) != -EPROTO)
            fail_msg("accepted: %s", texts[i]);
    }
}

static void endless_headers(void **state)
{
    static const char line[] = "X-Header: some value that goes on\r\n";
    struct http_request request;
    size_t used;
    int result;
    int lines = 0;

    (void)state;
    http_request_begin(&request, give_room, NULL);
    result = feed(&request, "GET / HTTP/1.1\r\n", &used);
    while (result == 0 && lines++ < 100000)
        result = feed(&request, line, &used);
    assert_int_equal(result, -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(get_and_what_follows),
        cmocka_unit_test(byte_by_byte),
        cmocka_unit_test(chunked_body),
        cmocka_unit_test(long_body_is_cut),
        cmocka_unit_test(long_names_match_nothing),
        cmocka_unit_test(refused),
        cmocka_unit_test(endless_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
