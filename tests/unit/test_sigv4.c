/*
 * Signature Version 4: AWS's own published examples (its test suite and the IAM examples of the
 * General Reference), Lambda requests as botocore signs them, and what an attacker would send.
 */
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
#include "common/fd.h"
#include "host/api/sigv4.h"

static const char secret[] = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
static const int64_t signed_at = 1440938160; /* 20150830T123600Z */

#define MAX 8

struct example {
    const char *name, *method, *path, *query, *service, *body;
    struct http_header headers[MAX];
};

#define SCOPE(region, service)                                                                     \
    "Credential=AKIDEXAMPLE/20150830/" region "/" service "/aws4_request, "
#define SUITE(headers, signature)                                                                  \
    {                                                                                              \
        "Authorization",                                                                           \
            "AWS4-HMAC-SHA256 " SCOPE("us-east-1", "service") "SignedHeaders=" headers             \
                                                              ", Signature=" signature             \
    }
#define HOST                                                                                       \
    {                                                                                              \
        "Host", "example.amazonaws.com"                                                            \
    }
#define DATE                                                                                       \
    {                                                                                              \
        "X-Amz-Date", "20150830T123600Z"                                                           \
    }
#define UNRESERVED "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

static const struct example examples[] = {
    {"get-vanilla",
     "GET",
     "/",
     "",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")}},
    {"get-header-key-duplicate",
     "GET",
     "/",
     "",
     "service",
     "",
     {HOST,
      {"My-Header1", "value2"},
      {"My-Header1", "value2"},
      {"My-Header1", "value1"},
      DATE,
      SUITE("host;my-header1;x-amz-date",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea")}},
    {"get-header-value-trim",
     "GET",
     "/",
     "",
     "service",
     "",
     {HOST,
      {"My-Header1", " value1"},
      {"My-Header2", "\"a   b   c\"  "},
      DATE,
      SUITE("host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736")}},
    {"get-unreserved",
     "GET",
     "/" UNRESERVED,
     "",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f")}},
    {"normalized paths",
     "GET",
     "/./foo//../..",
     "",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")}},
    {"get-vanilla-query-order-key",
     "GET",
     "/",
     "Param1=value2&Param1=Value1",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1")}},
    {"get-vanilla-query-order-key-case",
     "GET",
     "/",
     "Param2=value2&Param1=value1",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500")}},
    {"get-vanilla-query-order-value",
     "GET",
     "/",
     "Param1=value2&Param1=value1",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694")}},
    {"get-vanilla-query-unreserved",
     "GET",
     "/",
     UNRESERVED "=" UNRESERVED,
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197")}},
    {"get-vanilla-utf8-query",
     "GET",
     "/",
     "\xe1\x88\xb4=bar",
     "service",
     "",
     {HOST, DATE,
      SUITE("host;x-amz-date",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04")}},
    {"post-header-value-case",
     "POST",
     "/",
     "",
     "service",
     "",
     {HOST,
      {"My-Header1", "VALUE1"},
      DATE,
      SUITE("host;my-header1;x-amz-date",
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d")}},
    {"post-x-www-form-urlencoded",
     "POST",
     "/",
     "",
     "service",
     "Param1=value1",
     {HOST,
      {"Content-Type", "application/x-www-form-urlencoded"},
      {"Content-Length", "13"},
      DATE,
      SUITE("content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a")}},
    {"iam ListUsers",
     "GET",
     "/",
     "Action=ListUsers&Version=2010-05-08",
     "iam",
     "",
     {{"Host", "iam.amazonaws.com"},
      DATE,
      {"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"},
      {"Authorization",
       "AWS4-HMAC-SHA256 " SCOPE(
           "us-east-1",
           "iam") "SignedHeaders=content-type;host;x-amz-date, Signature="
                  "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"}}},
    {"iam ListUsers, presigned",
     "GET",
     "/",
     "Action=ListUsers&Version=2010-05-08&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="
     "AKIDEXAMPLE%2F20150830%2Fus-east-1%2Fiam%2Faws4_request&X-Amz-Date=20150830T123600Z"
     "&X-Amz-Expires=60&X-Amz-SignedHeaders=content-type%3Bhost&X-Amz-Signature="
     "37ac2f4fde00b0ac9bd9eadeb459b1bbee224158d66e7ae5fcadb70b2d181d02",
     "iam",
     "",
     {{"Host", "iam.amazonaws.com"},
      {"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"}}},
    {"botocore invoke by ARN",
     "POST",
     "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af"
     "/invocations",
     "Qualifier=%24LATEST",
     "lambda",
     "{\"a\": 1}",
     {{"Host", "127.0.0.1:9555"},
      {"X-Amz-Invocation-Type", "Event"},
      DATE,
      {"Content-Type", "application/json"},
      {"User-Agent", "not signed"},
      {"Authorization",
       "AWS4-HMAC-SHA256 " SCOPE(
           "eu-west-1",
           "lambda") "SignedHeaders=content-type;host;x-amz-date;x-amz-invocation-type, Signature="
                     "b663c4cbac93bd0e73bab5b66d6f37a5e1c8e3adf0b228f72128160aa7ddfb86"}}},
    {"botocore, presigned",
     "GET",
     "/2015-03-31/functions",
     "MaxItems=5&Marker=a%2Bb%20c&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE"
     "%2F20150830%2Feu-west-1%2Flambda%2Faws4_request&X-Amz-Date=20150830T123600Z&X-Amz-Expires=60"
     "&X-Amz-SignedHeaders=host&X-Amz-Signature="
     "7c61d84e170d5c061673c2748ae9370646a8e2884e71c39fff366f6b355a4416",
     "lambda",
     "",
     {{"Host", "127.0.0.1:9555"}}},
};

static struct http_request request_of(const struct example *example)
{
    struct http_request request = {.method = example->method,
                                   .path = example->path,
                                   .query = example->query,
                                   .headers = example->headers,
                                   .body = (const uint8_t *)example->body,
                                   .body_bytes = strlen(example->body)};

    while (request.n_headers < MAX && example->headers[request.n_headers].name)
        request.n_headers++;
    return request;
}

static int check(const struct http_request *request, const char *key, const char *service,
                 int64_t now_s, struct error *err)
{
    struct sigv4_claim claim;
    int r = sigv4_parse(request, &claim, err);

    if (r != 0)
        return r;
    assert_string_equal(claim.key_id, "AKIDEXAMPLE");
    return sigv4_verify(request, &claim, key, service, now_s, err);
}

static void test_published_examples(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        struct http_request request = request_of(&examples[i]);
        struct error err = {0};

        if (check(&request, secret, examples[i].service, signed_at, &err) != 0)
            fail_msg("%s: %s", examples[i].name, err.text);
        assert_int_equal(check(&request, "another", examples[i].service, signed_at, &err), -EACCES);
        assert_int_equal(check(&request, secret, "s3", signed_at, &err), -EACCES);
    }
}

/* Every part that is signed, changed: no longer valid. */
static void test_changes_are_noticed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        struct http_request request = request_of(&examples[i]);
        struct http_header headers[MAX];
        const char *service = examples[i].service;

        request.method = "DELETE";
        assert_int_equal(check(&request, secret, service, signed_at, NULL), -EACCES);
        request = request_of(&examples[i]);
        request.path = "/other";
        assert_int_equal(check(&request, secret, service, signed_at, NULL), -EACCES);
        request = request_of(&examples[i]);
        request.body = (const uint8_t *)"{}";
        request.body_bytes = 2;
        assert_int_equal(check(&request, secret, service, signed_at, NULL), -EACCES);
        request = request_of(&examples[i]);
        memcpy(headers, examples[i].headers, sizeof(headers));
        headers[0].value = "evil.example";
        request.headers = headers;
        assert_int_equal(check(&request, secret, service, signed_at, NULL), -EACCES);
        char query[1024];
        request = request_of(&examples[i]);
        snprintf(query, sizeof(query), "%s%sa=b", request.query, *request.query ? "&" : "");
        request.query = query;
        assert_int_equal(check(&request, secret, service, signed_at, NULL), -EACCES);
    }
}

static void test_clock(void **state)
{
    struct http_request request = request_of(&examples[0]);
    const struct example *presigned = &examples[ARRAY_LEN(examples) - 1];
    struct error err;

    (void)state;
    assert_int_equal(check(&request, secret, "service", signed_at + 300, &err), 0);
    assert_int_equal(check(&request, secret, "service", signed_at - 300, &err), 0);
    assert_int_equal(check(&request, secret, "service", signed_at + 301, &err), -ETIME);
    assert_non_null(strstr(err.text, "Signature expired"));
    assert_int_equal(check(&request, secret, "service", signed_at - 301, &err), -ETIME);
    assert_non_null(strstr(err.text, "not yet current"));
    request = request_of(presigned);
    assert_int_equal(check(&request, secret, "lambda", signed_at + 60, &err), 0);
    assert_int_equal(check(&request, secret, "lambda", signed_at + 61, &err), -ETIME);
}

/* The body's hash as a header: believed only if it is true, and only if it is signed. */
static void test_payload_header(void **state)
{
    struct example example = examples[ARRAY_LEN(examples) - 2];
    struct error err;

    (void)state;
    example.headers[4] = (struct http_header){"X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"};
    struct http_request request = request_of(&example);
    assert_int_equal(check(&request, secret, "lambda", signed_at, &err), -EINVAL);
    assert_non_null(strstr(err.text, "must be signed"));
    example.headers[5].value = "AWS4-HMAC-SHA256 " SCOPE(
        "eu-west-1", "lambda") "SignedHeaders=content-type;host;"
                               "x-amz-content-sha256;x-amz-date;x-amz-invocation-type, Signature="
                               "0000000000000000000000000000000000000000000000000000000000000000";
    example.headers[4].value =
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; /* of nothing */
    assert_int_equal(check(&request, secret, "lambda", signed_at, &err), -EACCES);
    assert_non_null(strstr(err.text, "not the hash of the body"));
    static const char *const others[] = {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                                         "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "unsigned-payload",
                                         ""};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        example.headers[4].value = others[i];
        assert_int_equal(check(&request, secret, "lambda", signed_at, &err), -EINVAL);
        assert_non_null(strstr(err.text, "UNSIGNED-PAYLOAD"));
    }
    example.headers[4].value = "UNSIGNED-PAYLOAD";
    assert_int_equal(check(&request, secret, "lambda", signed_at, &err), -EACCES);
    assert_non_null(strstr(err.text, "does not match"));
}

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define GOOD_SCOPE "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"

static void test_hostile_headers(void **state)
{
    static const char *const authorizations[] = {
        "",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 ",
        "AWS4-HMAC-SHA256Credential=a",
        "AWS4-HMAC-SHA1 " GOOD_SCOPE ", SignedHeaders=host, Signature=" ZEROS,
        "Bearer token",
        "AWS4-HMAC-SHA256 ,,,,,",
        "AWS4-HMAC-SHA256 " GOOD_SCOPE,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host",
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host, Signature=",
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host, Signature=" ZEROS "0",
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host, Signature=G" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=;, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host;, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=Host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host;host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=x-amz-date;host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", " GOOD_SCOPE ", SignedHeaders=host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", SignedHeaders=host, Signature=" ZEROS ", Extra=1",
        "AWS4-HMAC-SHA256 Credential=/20150830/us-east-1/service/aws4_request, SignedHeaders=host"
        ", Signature=" ZEROS,
        "AWS4-HMAC-SHA256 Credential=a/b/c/d, SignedHeaders=host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 Credential=A/20150830/us-east-1/service/aws4_request/x, SignedHeaders="
        "host, Signature=" ZEROS,
        "AWS4-HMAC-SHA256 Credential=A/20150830/us-east-1/service/aws4_reques, SignedHeaders=host"
        ", Signature=" ZEROS,
        "AWS4-HMAC-SHA256 Credential=../A/20150830/us-east-1/aws4_request, SignedHeaders=host, "
        "Signature=" ZEROS,
        "AWS4-HMAC-SHA256 Credential=A/20150831/us-east-1/service/aws4_request, SignedHeaders=host"
        ", Signature=" ZEROS,
    };
    struct error err;
    struct sigv4_claim claim;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(authorizations); i++) {
        struct http_header headers[] = {HOST, DATE, {"Authorization", authorizations[i]}};
        struct http_request request = {
            .method = "GET", .path = "/", .query = "", .headers = headers, .n_headers = 3};

        err.code = 0;
        if (sigv4_parse(&request, &claim, &err) != -EINVAL || err.code != EINVAL)
            fail_msg("taken: %s", authorizations[i]);
    }
}

static void test_hostile_dates(void **state)
{
    static const char *const dates[] = {"",
                                        "20150830",
                                        "20150830T123600",
                                        "20150830T123600Z ",
                                        "20150830T126000Z",
                                        "20150830T243600Z",
                                        "20151330T123600Z",
                                        "20150800T123600Z",
                                        "2015-8-0T123600Z",
                                        "20150830123600TZ",
                                        "ZZZZZZZZTZZZZZZZ",
                                        "20150829T123600Z"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(dates); i++) {
        struct example example = examples[0];
        struct http_request request = request_of(&example);
        struct sigv4_claim claim;

        example.headers[1].value = dates[i];
        assert_int_equal(sigv4_parse(&request, &claim, NULL), -EINVAL);
    }
}

/* A name of 1,000 headers, and one that is long: bounded, refused, nothing written beyond. */
static void test_many_signed_headers(void **state)
{
    AUTO_FREE char *text = malloc(16384);
    struct sigv4_claim claim;

    (void)state;
    assert_non_null(text);
    size_t n = (size_t)sprintf(text, "AWS4-HMAC-SHA256 " GOOD_SCOPE ", Signature=" ZEROS
                                     ", SignedHeaders=a");
    for (int i = 0; i < 66; i++)
        n += (size_t)sprintf(text + n, ";b%03d", i);
    struct http_header headers[] = {HOST, DATE, {"Authorization", text}};
    struct http_request request = {
        .method = "GET", .path = "/", .query = "", .headers = headers, .n_headers = 3};
    assert_int_equal(sigv4_parse(&request, &claim, NULL), -EINVAL);
    n = (size_t)sprintf(text,
                        "AWS4-HMAC-SHA256 " GOOD_SCOPE ", Signature=" ZEROS ", SignedHeaders=");
    memset(text + n, 'a', 8000);
    text[n + 8000] = '\0';
    assert_int_equal(sigv4_parse(&request, &claim, NULL), -EINVAL);
    /* A signed header that is not there. */
    sprintf(text, "AWS4-HMAC-SHA256 " GOOD_SCOPE ", Signature=" ZEROS
                  ", SignedHeaders=host;nothing;x-amz-date");
    assert_int_equal(check(&request, secret, "service", signed_at, NULL), -EINVAL);
    /* "host" is not signed. */
    sprintf(text, "AWS4-HMAC-SHA256 " GOOD_SCOPE ", Signature=" ZEROS ", SignedHeaders=x-amz-date");
    assert_int_equal(check(&request, secret, "service", signed_at, NULL), -EINVAL);
}

static void test_unsigned(void **state)
{
    struct http_header headers[] = {HOST};
    struct http_request request = {.method = "GET",
                                   .path = "/",
                                   .query = "X-Amz-Nothing=1",
                                   .headers = headers,
                                   .n_headers = 1};
    struct sigv4_claim claim;

    (void)state;
    assert_int_equal(sigv4_parse(&request, &claim, NULL), 1);
    request.query = "";
    assert_int_equal(sigv4_parse(&request, &claim, NULL), 1);
    request.query = "X-Amz-Signature=" ZEROS;
    assert_int_equal(sigv4_parse(&request, &claim, NULL), -EINVAL);
    request.query = "X-Amz-Signature=%zz";
    assert_int_equal(sigv4_parse(&request, &claim, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_examples),
        cmocka_unit_test(test_changes_are_noticed),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_payload_header),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_hostile_dates),
        cmocka_unit_test(test_many_signed_headers),
        cmocka_unit_test(test_unsigned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
