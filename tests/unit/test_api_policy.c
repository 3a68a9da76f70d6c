/* Resource policies, who one is (STS), and what Lambda has and this host has not. */
#include <pthread.h>
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
#define POLICY FUNCTIONS "/f/policy"
#define ARN "arn:aws:lambda:us-east-1:000000000001:function:"

static json_t *policy_of(struct api_fixture *fixture, const char *target, char revision_id[64])
{
    json_t *got = expect_ok(fixture, "GET", target, "", 200);
    json_t *policy = json_loads(text_of(got, "Policy"), 0, NULL);

    assert_non_null(policy);
    if (revision_id)
        snprintf(revision_id, 64, "%s", text_of(got, "RevisionId"));
    json_decref(got);
    return policy;
}

static void test_permissions(void **state)
{
    struct api_fixture *fixture = *state;
    char first[64], second[64], target[256];

    deploy(fixture, "f");
    expect_error(fixture, "GET", POLICY, NULL, "", 404, "ResourceNotFoundException", NULL);
    json_t *made = expect_ok(fixture, "POST", POLICY,
                             "{\"StatementId\":\"s3\",\"Action\":\"lambda:InvokeFunction\","
                             "\"Principal\":\"s3.amazonaws.com\",\"SourceArn\":\"arn:aws:s3:::b\","
                             "\"SourceAccount\":\"123456789012\"}",
                             201);
    json_t *statement = json_loads(text_of(made, "Statement"), 0, NULL);
    assert_string_equal(text_of(statement, "Sid"), "s3");
    assert_string_equal(text_of(statement, "Effect"), "Allow");
    assert_string_equal(text_of(statement, "Principal.Service"), "s3.amazonaws.com");
    assert_string_equal(text_of(statement, "Resource"), ARN "f");
    assert_string_equal(text_of(statement, "Condition.ArnLike.AWS:SourceArn"), "arn:aws:s3:::b");
    assert_string_equal(text_of(statement, "Condition.StringEquals.AWS:SourceAccount"),
                        "123456789012");
    json_decref(statement);
    json_decref(made);
    json_decref(policy_of(fixture, POLICY, first));
    expect_error(fixture, "POST", POLICY, NULL,
                 "{\"StatementId\":\"s3\",\"Action\":\"lambda:*\",\"Principal\":\"*\"}", 409,
                 "ResourceConflictException", "already exists");
    expect_error(
        fixture, "POST", POLICY, NULL,
        "{\"StatementId\":\"t\",\"Action\":\"lambda:*\",\"Principal\":\"*\",\"RevisionId\":"
        "\"x\"}",
        412, "PreconditionFailedException", NULL);
    json_decref(expect_ok(fixture, "POST", POLICY,
                          "{\"StatementId\":\"url\",\"Action\":\"lambda:InvokeFunctionUrl\","
                          "\"Principal\":\"*\",\"FunctionUrlAuthType\":\"NONE\"}",
                          201));
    json_decref(expect_ok(fixture, "POST", POLICY,
                          "{\"StatementId\":\"a\",\"Action\":\"lambda:GetFunction\","
                          "\"Principal\":\"210987654321\"}",
                          201));
    json_t *policy = policy_of(fixture, POLICY, second);
    assert_string_not_equal(first, second);
    assert_string_equal(text_of(policy, "Version"), "2012-10-17");
    assert_int_equal(json_array_size(json_object_get(policy, "Statement")), 3);
    assert_string_equal(text_of(policy, "Statement.1.Principal"), "*");
    assert_string_equal(text_of(policy, "Statement.2.Principal.AWS"),
                        "arn:aws:iam::210987654321:root");
    json_decref(policy);
    snprintf(target, sizeof(target), POLICY "/url?RevisionId=%s", first);
    expect_error(fixture, "DELETE", target, NULL, "", 412, "PreconditionFailedException", NULL);
    snprintf(target, sizeof(target), POLICY "/url?RevisionId=%s", second);
    assert_null(expect_ok(fixture, "DELETE", target, "", 204));
    assert_null(expect_ok(fixture, "DELETE", POLICY "/s3", "", 204));
    expect_error(fixture, "DELETE", POLICY "/s3", NULL, "", 404, "ResourceNotFoundException", "s3");
    assert_null(expect_ok(fixture, "DELETE", POLICY "/a", "", 204));
    expect_error(fixture, "GET", POLICY, NULL, "", 404, "ResourceNotFoundException", NULL);
    assert_int_equal(fixture_number(&fixture->store, "SELECT count(*) FROM policies"), 0);
}

/* Each version and alias has one of its own, which goes with it. */
static void test_qualified(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    fixture_publish(&fixture->store, "f");
    json_decref(expect_ok(fixture, "POST", FUNCTIONS "/f/aliases",
                          "{\"Name\":\"live\",\"FunctionVersion\":\"1\"}", 201));
    static const char body[] =
        "{\"StatementId\":\"s\",\"Action\":\"lambda:InvokeFunction\",\"Principal\":\"*\"}";
    json_decref(expect_ok(fixture, "POST", POLICY "?Qualifier=live", body, 201));
    json_decref(expect_ok(fixture, "POST", POLICY "?Qualifier=1", body, 201));
    json_t *policy = policy_of(fixture, FUNCTIONS "/f:live/policy", NULL);
    assert_string_equal(text_of(policy, "Statement.0.Resource"), ARN "f:live");
    json_decref(policy);
    expect_error(fixture, "GET", POLICY, NULL, "", 404, "ResourceNotFoundException", NULL);
    expect_error(fixture, "POST", POLICY "?Qualifier=9", NULL, body, 404,
                 "ResourceNotFoundException", "f:9");
    assert_null(expect_ok(fixture, "DELETE", FUNCTIONS "/f/aliases/live", "", 204));
    assert_int_equal(fixture_number(&fixture->store, "SELECT count(*) FROM policies"), 1);
    assert_null(expect_ok(fixture, "DELETE", FUNCTIONS "/f", "", 204));
    assert_int_equal(fixture_number(&fixture->store, "SELECT count(*) FROM policies"), 0);
}

static void test_bad_permissions(void **state)
{
    static const struct {
        const char *body, *type, *words;
    } bad[] = {
        {"{}", "ValidationException", "statementId"},
        {"{\"StatementId\":\"s\"}", "ValidationException", "action"},
        {"{\"StatementId\":\"s\",\"Action\":\"lambda:*\"}", "ValidationException", "principal"},
        {"{\"StatementId\":\"a b\",\"Action\":\"lambda:*\",\"Principal\":\"*\"}",
         "ValidationException", "statementId"},
        {"{\"StatementId\":\"s\",\"Action\":\"s3:Get\",\"Principal\":\"*\"}", "ValidationException",
         "action"},
        {"{\"StatementId\":\"s\",\"Action\":\"lambda:\",\"Principal\":\"*\"}",
         "ValidationException", "action"},
        {"{\"StatementId\":\"s\",\"Action\":\"lambda:*\",\"Principal\":\"\"}",
         "InvalidParameterValueException", "principal"},
        {"{\"StatementId\":\"s\",\"Action\":\"lambda:*\",\"Principal\":{}}",
         "InvalidParameterValueException", "Principal"},
        {"{\"StatementId\":\"s\",\"Action\":\"lambda:*\",\"Principal\":\"*\","
         "\"FunctionUrlAuthType\":\"ANY\"}",
         "ValidationException", "functionUrlAuthType"},
    };
    struct api_fixture *fixture = *state;
    char body[1024], arn[512];

    deploy(fixture, "f");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        expect_error(fixture, "POST", POLICY, NULL, bad[i].body, 400, bad[i].type, bad[i].words);
    expect_error(fixture, "GET", FUNCTIONS "/g/policy", NULL, "", 404, "ResourceNotFoundException",
                 ARN "g");
    /* As many as fit. */
    memset(arn, 'a', sizeof(arn) - 1);
    arn[sizeof(arn) - 1] = '\0';
    int n = 0;
    for (;; n++) {
        struct api_answer got;

        snprintf(body, sizeof(body),
                 "{\"StatementId\":\"s%d\",\"Action\":\"lambda:*\",\"Principal\":\"*\","
                 "\"SourceArn\":\"%s\"}",
                 n, arn);
        call(fixture, "POST", POLICY, NULL, body, &got);
        int status = got.http.status;
        if (status != 201)
            assert_non_null(strstr(got.http.body, "20480"));
        api_answer_done(&got);
        if (status != 201)
            break;
    }
    assert_in_range(n, 20, 40);
    expect_error(fixture, "POST", POLICY, NULL, body, 400, "PolicyLengthExceededException", NULL);
}

static struct api_fixture *shared;

static void *add_five(void *opaque)
{
    int fd = client_unix(shared->socket_path);

    for (int i = 0; i < 5; i++) {
        struct api_answer got;
        char body[160];
        int n = snprintf(body, sizeof(body),
                         "{\"StatementId\":\"t%d-%d\",\"Action\":\"lambda:*\",\"Principal\":\"*\"}",
                         (int)(intptr_t)opaque, i);

        call_on(fd, "POST", POLICY, NULL, body, (size_t)n, &got);
        assert_int_equal(got.http.status, 201);
        api_answer_done(&got);
    }
    close(fd);
    return NULL;
}

/* Two at once: both are in the policy afterwards. */
static void test_at_once(void **state)
{
    struct api_fixture *fixture = shared = *state;
    pthread_t threads[4];

    deploy(fixture, "f");
    for (intptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_five, (void *)i), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    json_t *policy = policy_of(fixture, POLICY, NULL);
    assert_int_equal(json_array_size(json_object_get(policy, "Statement")), 20);
    json_decref(policy);
}

static void test_not_here(void **state)
{
    static const struct {
        const char *method, *path, *body;
        int status;
        const char *words; /* in the answer */
    } cases[] = {
        {"GET", "/2020-06-30/functions/f/code-signing-config", "", 200, "{\"FunctionName\":\"f\"}"},
        {"DELETE", "/2020-06-30/functions/f/code-signing-config", "", 204, ""},
        {"PUT", "/2020-06-30/functions/f/code-signing-config", "{}", 400, "not support"},
        {"GET", "/2020-04-22/code-signing-configs/", "", 200, "{\"CodeSigningConfigs\":[]}"},
        {"GET", "/2021-07-20/functions/f/runtime-management-config", "", 200,
         "\"UpdateRuntimeOn\":\"Auto\""},
        {"PUT", "/2021-07-20/functions/f/runtime-management-config",
         "{\"UpdateRuntimeOn\":\"Auto\"}", 200, ARN "f"},
        {"PUT", "/2021-07-20/functions/f/runtime-management-config",
         "{\"UpdateRuntimeOn\":\"Manual\"}", 400, "must be Auto"},
        {"PUT", "/2021-07-20/functions/f/runtime-management-config", "{}", 400, "updateRuntimeOn"},
        {"GET", "/2024-08-31/functions/f/recursion-config", "", 200, "Terminate"},
        {"PUT", "/2024-08-31/functions/f/recursion-config", "{\"RecursiveLoop\":\"Allow\"}", 400,
         "must be Terminate"},
        {"GET", "/2015-03-31/event-source-mappings/?FunctionName=f", "", 200,
         "{\"EventSourceMappings\":[]}"},
        {"POST", "/2015-03-31/event-source-mappings/", "{}", 400, "not support"},
        {"DELETE", "/2015-03-31/event-source-mappings/x", "", 404, "does not exist"},
        {"GET", "/2018-10-31/layers?MaxItems=5", "", 200, "{\"Layers\":[]}"},
        {"GET", "/2018-10-31/layers?find=LayerVersion&Arn=a", "", 404, "does not exist"},
        {"GET", "/2018-10-31/layers/l/versions", "", 200, "{\"LayerVersions\":[]}"},
        {"GET", "/2018-10-31/layers/l/versions/1", "", 404, "does not exist"},
        {"DELETE", "/2018-10-31/layers/l/versions/1", "", 204, ""},
        {"GET", "/2020-06-30/functions/g/code-signing-config", "", 404, ARN "g"},
        {"GET", "/2021-07-20/functions/g/runtime-management-config", "", 404, ARN "g"},
        {"GET", "/2024-08-31/functions/g/recursion-config", "", 404, ARN "g"},
    };
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct api_answer got;

        call(fixture, cases[i].method, cases[i].path, NULL, cases[i].body, &got);
        if (got.http.status != cases[i].status || !strstr(got.http.body, cases[i].words))
            fail_msg("%s %s: %s", cases[i].method, cases[i].path, got.http.text);
        api_answer_done(&got);
    }
}

static void ask_sts(struct api_fixture *fixture, const char *form, const char *headers, int status,
                    const char *words)
{
    AUTO_FD tcp = client_tcp(http_server_port(fixture->server));
    struct api_answer got;

    call_on(tcp, "POST", "/", headers, form, strlen(form), &got);
    if (got.http.status != status || !strstr(got.http.text, words))
        fail_msg("%s: %s", form, got.http.text);
    api_answer_done(&got);
}

static void test_sts(void **state)
{
    static const char who[] = "Action=GetCallerIdentity&Version=2011-06-15";
    struct api_fixture *fixture = *state;
    struct api_answer got;

    call(fixture, "POST", "/", NULL, who, &got);
    assert_int_equal(got.http.status, 200);
    assert_non_null(strstr(got.http.body, "<Account>000000000001</Account>"));
    assert_non_null(strstr(got.http.body, "<Arn>arn:aws:iam::000000000001:user/alice</Arn>"));
    api_answer_done(&got);
    ask_sts(fixture, who, NULL, 403, "<Code>MissingAuthenticationToken</Code>");
    ask_sts(fixture, "Action=AssumeRole", NULL, 400, "<Code>InvalidAction</Code>");
    ask_sts(fixture, "Action=%", NULL, 400, "<Code>MalformedQueryString</Code>");
    ask_sts(fixture, "", NULL, 404, "UnknownOperationException");
    AUTO_FREE char *lambda =
        sign("POST", "/", "", "h", who, fixture_key_id, fixture_secret, time(NULL));
    ask_sts(fixture, who, lambda, 403, "<Code>SignatureDoesNotMatch</Code>"); /* scope */
    AUTO_FREE char *unknown = sign("POST", "/", "", "h", who, "NOBODY", "x", time(NULL));
    ask_sts(fixture, who, unknown, 403, "<Code>InvalidClientTokenId</Code>");
}

int main(void)
{
#define API_TEST(test)                                                                             \
    cmocka_unit_test_setup_teardown(test, api_fixture_set_up, api_fixture_tear_down)
    const struct CMUnitTest tests[] = {
        API_TEST(test_permissions), API_TEST(test_qualified), API_TEST(test_bad_permissions),
        API_TEST(test_at_once),     API_TEST(test_not_here),  API_TEST(test_sts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
