/* The API's resources over real sockets, with the real registry: what Lambda's clients rely on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "api_fixture.h"
#include "common/bytes.h"
#include "common/fd.h"

#define FUNCTIONS "/2015-03-31/functions"
#define ARN "arn:aws:lambda:us-east-1:000000000001:function:"

static void test_create_and_get(void **state)
{
    struct api_fixture *fixture = *state;
    AUTO_FREE char *body =
        create_body("f", ",\"Description\":\"d\",\"Timeout\":7,\"MemorySize\":256,"
                         "\"Environment\":{\"Variables\":{\"AB\":\"1\"}},\"Tags\":{\"t\":\"v\"},"
                         "\"EphemeralStorage\":{\"Size\":1024},\"TracingConfig\":{\"Mode\":"
                         "\"Active\"},\"Architectures\":[\"x86_64\"],\"PackageType\":\"Zip\","
                         "\"VpcConfig\":{\"SubnetIds\":[],\"SecurityGroupIds\":[]},\"Layers\":[]");
    json_t *made = expect_ok(fixture, "POST", FUNCTIONS, body, 201);

    assert_string_equal(text_of(made, "FunctionName"), "f");
    assert_string_equal(text_of(made, "FunctionArn"), ARN "f");
    assert_string_equal(text_of(made, "Version"), "$LATEST");
    assert_string_equal(text_of(made, "State"), "Pending");
    assert_string_equal(text_of(made, "Environment.Variables.AB"), "1");
    assert_string_equal(text_of(made, "TracingConfig.Mode"), "Active");
    assert_int_equal(number_of(made, "Timeout"), 7);
    assert_int_equal(number_of(made, "MemorySize"), 256);
    assert_int_equal(number_of(made, "EphemeralStorage.Size"), 1024);
    assert_string_equal(text_of(made, "LastModified"), "2023-11-14T22:13:20.000+0000");
    assert_int_equal(strlen(text_of(made, "CodeSha256")), 44);
    json_decref(made);
    expect_error(fixture, "POST", FUNCTIONS, NULL, body, 409, "ResourceConflictException",
                 "Function already exist: f");
    fixture_build(&fixture->store, "f", NULL);
    static const char *const names[] = {
        "f", "f:%24LATEST", "000000000001:function:f",
        "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000001%3Afunction%3Af"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[256];

        snprintf(path, sizeof(path), FUNCTIONS "/%s", names[i]);
        json_t *got = expect_ok(fixture, "GET", path, "", 200);
        assert_string_equal(text_of(got, "Configuration.State"), "Active");
        assert_string_equal(text_of(got, "Configuration.LastUpdateStatus"), "Successful");
        assert_string_equal(text_of(got, "Tags.t"), "v");
        json_decref(got);
        strcat(path, "/configuration");
        got = expect_ok(fixture, "GET", path, "", 200);
        assert_string_equal(text_of(got, "Handler"), "app.handler");
        json_decref(got);
    }
}

static void test_bad_functions(void **state)
{
    static const struct {
        const char *body;
        int status;
        const char *type, *words;
    } bad[] = {
        {"", 400, "ValidationException", "functionName"},
        {"{", 400, "InvalidRequestContentException", "json"},
        {"{\"FunctionName\":\"f\"", 400, "InvalidRequestContentException", "json"},
        {"[]", 400, "InvalidRequestContentException", "object"},
        {"\"f\"", 400, "InvalidRequestContentException", "json"},
        {"{\"a\":1,\"a\":2}", 400, "InvalidRequestContentException", "duplicate"},
        {"{\"a\":\"\\u0000\"}", 400, "InvalidRequestContentException", NULL},
        {"{\"a\":\"\xff\"}", 400, "InvalidRequestContentException", NULL},
        {"{}", 400, "ValidationException", "functionName"},
        {"{\"FunctionName\":7}", 400, "InvalidParameterValueException", "FunctionName"},
        {"{\"FunctionName\":\"a b\"}", 400, "ValidationException", "functionName"},
        {"{\"FunctionName\":\"../f\"}", 400, "ValidationException", "functionName"},
        {"{\"FunctionName\":\"f\"}", 400, "ValidationException", "code"},
        {"{\"FunctionName\":\"f\",\"Code\":[]}", 400, "InvalidParameterValueException", "Code"},
    };
    static const struct {
        const char *more, *type, *words;
    } worse[] = {
        {",\"Timeout\":\"3\"", "InvalidParameterValueException", "Timeout"},
        {",\"Timeout\":3.5", "InvalidParameterValueException", "Timeout"},
        {",\"Timeout\":0", "InvalidParameterValueException", "imeout"},
        {",\"Timeout\":901", "InvalidParameterValueException", "imeout"},
        {",\"MemorySize\":127", "InvalidParameterValueException", "emory"},
        {",\"MemorySize\":10241", "InvalidParameterValueException", "emory"},
        {",\"MemorySize\":99999999999999999999999", "InvalidRequestContentException", NULL},
        {",\"Description\":{}", "InvalidParameterValueException", "Description"},
        {",\"Publish\":1", "InvalidParameterValueException", "Publish"},
        {",\"Tags\":{\"a\":1}", "InvalidParameterValueException", "Tags"},
        {",\"Environment\":{\"Variables\":{\"a b\":\"\"}}", "InvalidParameterValueException", NULL},
        {",\"Environment\":[]", "InvalidParameterValueException", "Environment"},
        {",\"EphemeralStorage\":{}", "InvalidParameterValueException", "EphemeralStorage"},
        {",\"EphemeralStorage\":{\"Size\":1}", "InvalidParameterValueException", NULL},
        {",\"TracingConfig\":{\"Mode\":\"x\"}", "InvalidParameterValueException", "Mode"},
        {",\"Layers\":[\"a\"]", "InvalidParameterValueException", "Layers"},
        {",\"VpcConfig\":{\"SubnetIds\":[\"s\"]}", "InvalidParameterValueException", "VpcConfig"},
        {",\"Architectures\":[\"arm64\"]", "InvalidParameterValueException", "Architectures"},
        {",\"LoggingConfig\":{\"LogGroup\":\"mine\"}", "InvalidParameterValueException",
         "LogGroup"},
        {",\"LoggingConfig\":{\"LogFormat\":\"JSON\"}", "InvalidParameterValueException", "Text"},
        {",\"SnapStart\":7", "InvalidParameterValueException", "SnapStart"},
        {",\"PackageType\":\"Image\"", "InvalidParameterValueException", "PackageType"},
        {",\"DeadLetterConfig\":{\"TargetArn\":\"x\"}", "InvalidParameterValueException", NULL},
    };
    struct api_fixture *fixture = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        expect_error(fixture, "POST", FUNCTIONS, NULL, bad[i].body, bad[i].status, bad[i].type,
                     bad[i].words);
    for (size_t i = 0; i < ARRAY_LEN(worse); i++) {
        AUTO_FREE char *body = create_body("f", worse[i].more);

        expect_error(fixture, "POST", FUNCTIONS, NULL, body, 400, worse[i].type, worse[i].words);
    }
    expect_error(fixture, "POST", FUNCTIONS, NULL,
                 "{\"FunctionName\":\"f\",\"Runtime\":\"cobol85\",\"Handler\":\"h\",\"Role\":"
                 "\"arn:aws:iam::000000000001:role/r\",\"Code\":{\"ZipFile\":\"%%%\"}}",
                 400, "InvalidParameterValueException", "base64");
    expect_error(fixture, "POST", FUNCTIONS, NULL,
                 "{\"FunctionName\":\"f\",\"Runtime\":\"python3.11\",\"Handler\":\"h\",\"Role\":"
                 "\"arn:aws:iam::000000000001:role/r\",\"Code\":{\"ZipFile\":\"aGVsbG8=\"}}",
                 400, "InvalidParameterValueException", NULL);
    expect_error(fixture, "POST", FUNCTIONS, NULL,
                 "{\"FunctionName\":\"f\",\"Role\":\"r\",\"Code\":{\"S3Bucket\":\"b\"}}", 400,
                 "InvalidParameterValueException", "ZipFile");
    json_t *list = expect_ok(fixture, "GET", FUNCTIONS, "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "Functions")), 0);
    json_decref(list);
}

static void test_list(void **state)
{
    struct api_fixture *fixture = *state;
    char name[16], path[600];

    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        deploy(fixture, name);
    }
    json_t *page = expect_ok(fixture, "GET", FUNCTIONS "/?MaxItems=5", "", 200);
    assert_int_equal(json_array_size(json_object_get(page, "Functions")), 5);
    assert_string_equal(text_of(page, "Functions.4.FunctionName"), "f4");
    snprintf(path, sizeof(path), FUNCTIONS "?MaxItems=5&Marker=%s", text_of(page, "NextMarker"));
    json_decref(page);
    page = expect_ok(fixture, "GET", path, "", 200);
    assert_int_equal(json_array_size(json_object_get(page, "Functions")), 2);
    assert_null(json_object_get(page, "NextMarker"));
    json_decref(page);
    expect_error(fixture, "GET", FUNCTIONS "?MaxItems=0", NULL, "", 400, "ValidationException",
                 "maxItems");
    expect_error(fixture, "GET", FUNCTIONS "?MaxItems=x", NULL, "", 400, "ValidationException",
                 "maxItems");
    expect_error(fixture, "GET", FUNCTIONS "?Marker=%21%21", NULL, "", 400,
                 "InvalidParameterValueException", NULL);
    expect_error(fixture, "GET", FUNCTIONS "?FunctionVersion=SOME", NULL, "", 400,
                 "ValidationException", "functionVersion");
    expect_error(fixture, "GET", FUNCTIONS "?a=%", NULL, "", 400, "InvalidParameterValueException",
                 NULL);
}

static void test_update(void **state)
{
    struct api_fixture *fixture = *state;
    AUTO_FREE char *other = create_body("g", "");
    struct api_answer got;

    deploy(fixture, "f");
    json_t *made = expect_ok(fixture, "PUT", FUNCTIONS "/f/configuration",
                             "{\"Timeout\":9,\"Environment\":{\"Variables\":{}}}", 200);
    assert_int_equal(number_of(made, "Timeout"), 9);
    json_decref(made);
    fixture_build(&fixture->store, "f", NULL);
    /* CreateFunction's Code, one level up. */
    char *zip = strstr(other, "{\"ZipFile\"");
    zip[strcspn(zip, "}") + 1] = '\0';
    made = expect_ok(fixture, "PUT", FUNCTIONS "/f/code", zip, 200);
    assert_string_equal(text_of(made, "LastUpdateStatus"), "InProgress");
    json_decref(made);
    expect_error(fixture, "PUT", FUNCTIONS "/f/configuration", NULL, "{\"Timeout\":8}", 409,
                 "ResourceConflictException", NULL);
    fixture_build(&fixture->store, "f", NULL);
    expect_error(fixture, "PUT", FUNCTIONS "/f/configuration", NULL,
                 "{\"Timeout\":8,\"RevisionId\":\"00000000-0000-4000-8000-000000000000\"}", 412,
                 "PreconditionFailedException", NULL);
    expect_error(fixture, "PUT", FUNCTIONS "/f:1/configuration", NULL, "{}", 400,
                 "InvalidParameterValueException", "version or alias");
    expect_error(fixture, "PUT", FUNCTIONS "/nope/code", NULL, zip, 404,
                 "ResourceNotFoundException", ARN "nope");
    call(fixture, "DELETE", FUNCTIONS "/f", NULL, "", &got);
    assert_int_equal(got.http.status, 204);
    assert_int_equal(got.http.body_len, 0);
    api_answer_done(&got);
    expect_error(fixture, "DELETE", FUNCTIONS "/f", NULL, "", 404, "ResourceNotFoundException",
                 "Function not found: " ARN "f");
}

static void test_versions_and_aliases(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    json_t *made =
        expect_ok(fixture, "POST", FUNCTIONS "/f/versions", "{\"Description\":\"one\"}", 201);
    assert_string_equal(text_of(made, "Version"), "1");
    assert_string_equal(text_of(made, "FunctionArn"), ARN "f:1");
    assert_string_equal(text_of(made, "Description"), "one");
    json_decref(made);
    fixture_build(&fixture->store, "f", "1");
    fixture_change(&fixture->store, "f", "other code");
    json_decref(expect_ok(fixture, "POST", FUNCTIONS "/f/versions", "", 201));
    fixture_build(&fixture->store, "f", "2");
    json_t *list = expect_ok(fixture, "GET", FUNCTIONS "/f/versions", "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "Versions")), 3);
    assert_string_equal(text_of(list, "Versions.0.Version"), "$LATEST");
    json_decref(list);
    made = expect_ok(fixture, "POST", FUNCTIONS "/f/aliases",
                     "{\"Name\":\"live\",\"FunctionVersion\":\"1\",\"RoutingConfig\":"
                     "{\"AdditionalVersionWeights\":{\"2\":0.25}}}",
                     201);
    assert_string_equal(text_of(made, "AliasArn"), ARN "f:live");
    assert_true(
        json_number_value(json_object_get(
            json_object_get(json_object_get(made, "RoutingConfig"), "AdditionalVersionWeights"),
            "2")) == 0.25);
    json_decref(made);
    made = expect_ok(fixture, "GET", FUNCTIONS "/f?Qualifier=live", "", 200);
    assert_string_equal(text_of(made, "Configuration.FunctionArn"), ARN "f:live");
    assert_string_equal(text_of(made, "Configuration.Version"), "1");
    json_decref(made);
    made = expect_ok(fixture, "PUT", FUNCTIONS "/f/aliases/live",
                     "{\"FunctionVersion\":\"2\",\"RoutingConfig\":{\"AdditionalVersionWeights\":"
                     "{}}}",
                     200);
    assert_string_equal(text_of(made, "FunctionVersion"), "2");
    assert_null(json_object_get(made, "RoutingConfig"));
    json_decref(made);
    list = expect_ok(fixture, "GET", FUNCTIONS "/f/aliases", "", 200);
    assert_string_equal(text_of(list, "Aliases.0.Name"), "live");
    json_decref(list);
    expect_error(fixture, "POST", FUNCTIONS "/f/aliases", NULL,
                 "{\"Name\":\"live\",\"FunctionVersion\":\"1\"}", 409, "ResourceConflictException",
                 "Alias already exists");
    expect_error(fixture, "POST", FUNCTIONS "/f/aliases", NULL,
                 "{\"Name\":\"7\",\"FunctionVersion\":\"1\"}", 400, "ValidationException", "name");
    expect_error(fixture, "POST", FUNCTIONS "/f/aliases", NULL, "{\"Name\":\"a\"}", 400,
                 "ValidationException", "functionVersion");
    expect_error(fixture, "GET", FUNCTIONS "/f/aliases/nope", NULL, "", 404,
                 "ResourceNotFoundException", "Cannot find alias arn: " ARN "f:nope");
    expect_error(fixture, "GET", FUNCTIONS "/f?Qualifier=9", NULL, "", 404,
                 "ResourceNotFoundException", ARN "f:9");
    expect_error(fixture, "GET", FUNCTIONS "/f:1?Qualifier=2", NULL, "", 400,
                 "InvalidParameterValueException", "Qualifier");
    expect_error(fixture, "DELETE", FUNCTIONS "/f?Qualifier=2", NULL, "", 409,
                 "ResourceConflictException", NULL);
    assert_null(expect_ok(fixture, "DELETE", FUNCTIONS "/f/aliases/live", "", 204));
}

static void test_concurrency(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    json_t *got = expect_ok(fixture, "GET", "/2019-09-30/functions/f/concurrency", "", 200);
    assert_int_equal(json_object_size(got), 0);
    json_decref(got);
    got = expect_ok(fixture, "PUT", "/2017-10-31/functions/f/concurrency",
                    "{\"ReservedConcurrentExecutions\":10}", 200);
    assert_int_equal(number_of(got, "ReservedConcurrentExecutions"), 10);
    json_decref(got);
    got = expect_ok(fixture, "GET", FUNCTIONS "/f", "", 200);
    assert_int_equal(number_of(got, "Concurrency.ReservedConcurrentExecutions"), 10);
    json_decref(got);
    assert_null(expect_ok(fixture, "DELETE", "/2017-10-31/functions/f/concurrency", "", 204));
    expect_error(fixture, "PUT", "/2017-10-31/functions/f/concurrency", NULL, "{}", 400,
                 "ValidationException", "reservedConcurrentExecutions");
    expect_error(fixture, "PUT", "/2017-10-31/functions/f/concurrency", NULL,
                 "{\"ReservedConcurrentExecutions\":-1}", 400, "InvalidParameterValueException",
                 NULL);
    expect_error(fixture, "PUT", "/2017-10-31/functions/f/concurrency", NULL,
                 "{\"ReservedConcurrentExecutions\":1000}", 400, "InvalidParameterValueException",
                 NULL);
    fixture_publish(&fixture->store, "f");
    got = expect_ok(fixture, "PUT", "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1",
                    "{\"ProvisionedConcurrentExecutions\":2}", 202);
    assert_string_equal(text_of(got, "Status"), "IN_PROGRESS");
    json_decref(got);
    got = expect_ok(fixture, "GET", "/2019-09-30/functions/f/provisioned-concurrency?List=ALL", "",
                    200);
    assert_string_equal(text_of(got, "ProvisionedConcurrencyConfigs.0.FunctionArn"), ARN "f:1");
    json_decref(got);
    assert_null(expect_ok(fixture, "DELETE",
                          "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1", "", 204));
    expect_error(fixture, "GET", "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1",
                 NULL, "", 404, "ProvisionedConcurrencyConfigNotFoundException", NULL);
    expect_error(fixture, "GET", "/2019-09-30/functions/f/provisioned-concurrency", NULL, "", 400,
                 "InvalidParameterValueException", "Qualifier");
}

static void test_event_config_tags_account(void **state)
{
#define RESOURCE "/2017-03-31/tags/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000001%3Afunction%3Af"
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    json_t *got = expect_ok(fixture, "PUT", "/2019-09-25/functions/f/event-invoke-config",
                            "{\"MaximumRetryAttempts\":1,\"DestinationConfig\":{\"OnFailure\":"
                            "{\"Destination\":\"" ARN "f\"}}}",
                            200);
    assert_int_equal(number_of(got, "MaximumRetryAttempts"), 1);
    assert_string_equal(text_of(got, "DestinationConfig.OnFailure.Destination"), ARN "f");
    assert_string_equal(text_of(got, "FunctionArn"), ARN "f:$LATEST");
    json_decref(got);
    got = expect_ok(fixture, "POST", "/2019-09-25/functions/f/event-invoke-config",
                    "{\"MaximumEventAgeInSeconds\":60}", 200);
    assert_int_equal(number_of(got, "MaximumRetryAttempts"), 1);
    assert_int_equal(number_of(got, "MaximumEventAgeInSeconds"), 60);
    json_decref(got);
    got = expect_ok(fixture, "GET", "/2019-09-25/functions/f/event-invoke-config/list", "", 200);
    assert_int_equal(json_array_size(json_object_get(got, "FunctionEventInvokeConfigs")), 1);
    json_decref(got);
    expect_error(fixture, "PUT", "/2019-09-25/functions/f/event-invoke-config", NULL,
                 "{\"MaximumRetryAttempts\":3}", 400, "ValidationException",
                 "MaximumRetryAttempts");
    assert_null(
        expect_ok(fixture, "DELETE", "/2019-09-25/functions/f/event-invoke-config", "", 204));
    expect_error(fixture, "GET", "/2019-09-25/functions/f/event-invoke-config", NULL, "", 404,
                 "ResourceNotFoundException", "EventInvokeConfig");
    assert_null(expect_ok(fixture, "POST", RESOURCE, "{\"Tags\":{\"a\":\"1\",\"b\":\"2\"}}", 204));
    assert_null(expect_ok(fixture, "DELETE", RESOURCE "?tagKeys=a&tagKeys=c", "", 204));
    got = expect_ok(fixture, "GET", RESOURCE, "", 200);
    assert_int_equal(json_object_size(json_object_get(got, "Tags")), 1);
    assert_string_equal(text_of(got, "Tags.b"), "2");
    json_decref(got);
    expect_error(fixture, "GET", "/2017-03-31/tags/f", NULL, "", 400, "ValidationException",
                 "resource");
    expect_error(fixture, "POST", RESOURCE "%3A1", NULL, "{\"Tags\":{}}", 400,
                 "InvalidParameterValueException", "versions");
    got = expect_ok(fixture, "GET", "/2016-08-19/account-settings/", "", 200);
    assert_int_equal(number_of(got, "AccountLimit.ConcurrentExecutions"), 1000);
    assert_int_equal(number_of(got, "AccountUsage.FunctionCount"), 1);
    json_decref(got);
}

static void test_code_link(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;

    deploy(fixture, "f");
    json_t *function = expect_ok(fixture, "GET", FUNCTIONS "/f", "", 200);
    AUTO_FREE char *link = strdup(strstr(text_of(function, "Code.Location"), "/code/"));
    assert_non_null(link);
    call(fixture, "GET", link, NULL, "", &got);
    assert_int_equal(got.http.status, 200);
    assert_memory_equal(got.http.body, "PK", 2);
    assert_int_equal((int64_t)got.http.body_len, number_of(function, "Configuration.CodeSize"));
    api_answer_done(&got);
    json_decref(function);
    fixture_api_now_s = 4102444800;
    expect_error(fixture, "GET", link, NULL, "", 403, "AccessDeniedException", NULL);
    fixture_api_now_s = 0;
    link[strlen(link) - 1] ^= 1;
    expect_error(fixture, "GET", link, NULL, "", 403, "AccessDeniedException", NULL);
}

static void test_paths(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;
    char value[64];

    expect_error(fixture, "GET", "/", NULL, "", 404, "UnknownOperationException", NULL);
    expect_error(fixture, "GET", "/2015-03-31/layers", NULL, "", 404, "UnknownOperationException",
                 NULL);
    expect_error(fixture, "PATCH", FUNCTIONS, NULL, "", 405, "MethodNotAllowedException", NULL);
    call(fixture, "PUT", FUNCTIONS "/f/versions", NULL, "", &got);
    assert_string_equal(client_header(&got.http, "Allow", value, sizeof(value)), "GET, POST");
    api_answer_done(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create_and_get, api_fixture_set_up,
                                        api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_bad_functions, api_fixture_set_up,
                                        api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_list, api_fixture_set_up, api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_update, api_fixture_set_up, api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_versions_and_aliases, api_fixture_set_up,
                                        api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_concurrency, api_fixture_set_up,
                                        api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_event_config_tags_account, api_fixture_set_up,
                                        api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_code_link, api_fixture_set_up, api_fixture_tear_down),
        cmocka_unit_test_setup_teardown(test_paths, api_fixture_set_up, api_fixture_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
