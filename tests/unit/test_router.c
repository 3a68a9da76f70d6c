/* Paths to operations, references to functions, queries: what is taken and what is not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/api/http_message.h"
#include "host/api/router.h"

static const struct route routes[] = {
    {"GET", "/v/functions", "list"},    {"POST", "/v/functions", "create"},
    {"GET", "/v/functions/{F}", "get"}, {"GET", "/v/functions/{F}/aliases/{A}", "alias"},
    {"*", "/url/{Id}/{Rest*}", "url"},
};

static int match(const char *method, const char *path, struct route_match *found)
{
    return router_match(routes, ARRAY_LEN(routes), method, path, found);
}

static void test_paths(void **state)
{
    struct route_match found;

    (void)state;
    assert_int_equal(match("GET", "/v/functions", &found), 0);
    assert_string_equal(found.route->target, "list");
    assert_int_equal(match("GET", "/v/functions/", &found), 0);
    assert_string_equal(found.route->target, "list");
    assert_int_equal(match("POST", "/v/functions", &found), 0);
    assert_string_equal(found.route->target, "create");
    assert_int_equal(match("GET", "/v/functions/a%3Ab%2Fc", &found), 0);
    assert_string_equal(found.route->target, "get");
    assert_string_equal(found.variables[0], "a:b/c");
    assert_int_equal(match("GET", "/v/functions/f/aliases/live", &found), 0);
    assert_int_equal(found.n_variables, 2);
    assert_string_equal(found.variables[1], "live");
    assert_int_equal(match("PATCH", "/url/x/a/b%20c", &found), 0);
    assert_string_equal(found.variables[0], "x");
    assert_string_equal(found.rest, "a/b%20c");
    assert_int_equal(match("GET", "/url/x/", &found), 0);
    assert_string_equal(found.rest, "");
}

static void test_paths_refused(void **state)
{
    struct route_match found;
    char path[2000];

    (void)state;
    assert_int_equal(match("GET", "", &found), -ENOENT);
    assert_int_equal(match("GET", "*", &found), -ENOENT);
    assert_int_equal(match("GET", "/", &found), -ENOENT);
    assert_int_equal(match("GET", "v/functions", &found), -ENOENT);
    assert_int_equal(match("GET", "//v/functions", &found), -ENOENT);
    assert_int_equal(match("GET", "/v//functions", &found), -ENOENT);
    assert_int_equal(match("GET", "/v/functionsx", &found), -ENOENT);
    assert_int_equal(match("GET", "/v/functions//aliases/a", &found), -ENOENT);
    assert_int_equal(match("GET", "/v/functions/../functions", &found), -ENOENT);
    assert_int_equal(match("GET", "/v/functions/..", &found), -ENOENT);
    assert_int_equal(match("GET", "/v/functions/f//", &found), -ENOENT);
    assert_int_equal(match("DELETE", "/v/functions", &found), -EOPNOTSUPP);
    assert_string_equal(found.allow, "GET, POST");
    assert_int_equal(match("get", "/v/functions", &found), -EOPNOTSUPP);
    assert_int_equal(match("GET", "/v/functions/%", &found), -EINVAL);
    assert_int_equal(match("GET", "/v/functions/%4", &found), -EINVAL);
    assert_int_equal(match("GET", "/v/functions/%zz", &found), -EINVAL);
    assert_int_equal(match("GET", "/v/functions/a%00b", &found), -EINVAL);
    snprintf(path, sizeof(path), "/v/functions/%01000d", 1);
    assert_int_equal(match("GET", path, &found), -EINVAL);
    /* Decoded once: this is a name with a percent sign, and no slash. */
    assert_int_equal(match("GET", "/v/functions/a%252Fb", &found), 0);
    assert_string_equal(found.variables[0], "a%2Fb");
}

static void test_references(void **state)
{
    static const struct {
        const char *text, *name, *qualifier, *account;
    } good[] = {
        {"f", "f", "", ""},
        {"my-function_1", "my-function_1", "", ""},
        {"f:$LATEST", "f", "$LATEST", ""},
        {"f:7", "f", "7", ""},
        {"f:live", "f", "live", ""},
        {"function:f", "f", "", ""},
        {"function", "function", "", ""},
        {"123456789012:f", "f", "", "123456789012"},
        {"123456789012:function:f:v1", "f", "v1", "123456789012"},
        {"us-east-1:123456789012:function:f", "f", "", "123456789012"},
        {"arn:aws:lambda:eu-west-3:123456789012:function:f", "f", "", "123456789012"},
        {"arn:aws-cn:lambda:cn-north-1:123456789012:function:f:live", "f", "live", "123456789012"},
        {"123456789012", "123456789012", "", ""},
    };
    struct function_reference found;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        if (function_reference_read(good[i].text, &found) != 0)
            fail_msg("refused: %s", good[i].text);
        assert_string_equal(found.name, good[i].name);
        assert_string_equal(found.qualifier, good[i].qualifier);
        assert_string_equal(found.account_id, good[i].account);
    }
}

static void test_references_refused(void **state)
{
    static const char *const bad[] = {
        "",
        ":",
        "f:",
        ":f",
        "f::1",
        "a b",
        "f/g",
        "../f",
        "f.g",
        "f:a:b",
        "f:$OTHER",
        "arn:aws:lambda",
        "arn:aws:lambda:us-east-1:123456789012:f",
        "arn:aws:lambda:us-east-1:12345678901:function:f",
        "arn:aws:s3:us-east-1:123456789012:function:f",
        "arn:gcp:lambda:us-east-1:123456789012:function:f",
        "arn:aws:lambda:us-east-1:123456789012:function:f:g:h",
        "arn:aws:lambda:us-east-1:123456789012:function:",
        "a:b:c:d:e:f:g:h:i:j:k",
        "\xc3\xa4",
        "f\n",
        "a234567890123456789012345678901234567890123456789012345678901234567890",
    };
    struct function_reference found;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (function_reference_read(bad[i], &found) != -EINVAL)
            fail_msg("taken: %s", bad[i]);
    assert_false(alias_name_is_valid("12"));
    assert_false(alias_name_is_valid("$LATEST"));
    assert_true(alias_name_is_valid("v12"));
}

static void test_queries(void **state)
{
    struct http_query query;
    char text[1200];
    size_t n = 0;

    (void)state;
    assert_int_equal(http_query_read("a=1&b=%C3%A4+x&&c&a=2&=e", &query, NULL), 0);
    assert_int_equal(query.n, 5);
    assert_string_equal(http_query_find(&query, "a"), "1");
    assert_string_equal(http_query_find(&query, "b"), "\xc3\xa4+x");
    assert_string_equal(http_query_find(&query, "c"), "");
    assert_string_equal(http_query_find(&query, ""), "e");
    assert_null(http_query_find(&query, "d"));
    http_query_done(&query);
    assert_int_equal(http_query_read("", &query, NULL), 0);
    assert_int_equal(query.n, 0);
    http_query_done(&query);
    assert_int_equal(http_query_read("a=%", &query, NULL), -EINVAL);
    assert_int_equal(http_query_read("%0=1", &query, NULL), -EINVAL);
    assert_int_equal(http_query_read("a=%00", &query, NULL), -EINVAL);
    for (int i = 0; i <= HTTP_MAX_PARAMETERS; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "a=%d&", i);
    assert_int_equal(http_query_read(text, &query, NULL), -EINVAL);
}

static void test_response_headers(void **state)
{
    struct http_response response = {.status = 200};

    (void)state;
    assert_int_equal(http_response_header(&response, "A", "b\r\nSet-Cookie: c"), 0);
    assert_string_equal(response.headers[0].value, "b  Set-Cookie: c");
    for (int i = 1; i < HTTP_RESPONSE_HEADERS; i++)
        assert_int_equal(http_response_header(&response, "B", "1"), 0);
    assert_int_equal(http_response_header(&response, "C", "1"), -ENOSPC);
    http_response_done(&response);
    assert_int_equal(response.n_headers, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),      cmocka_unit_test(test_paths_refused),
        cmocka_unit_test(test_references), cmocka_unit_test(test_references_refused),
        cmocka_unit_test(test_queries),    cmocka_unit_test(test_response_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
