/* Builds as a client of the API sees them: states and reasons, publishing, what an update leaves.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api_fixture.h"
#include "common/clock.h"
#include "common/fd.h"

#define FUNCTIONS "/2015-03-31/functions"

/* What the builder will say of $LATEST or a version. */
static void finish(struct api_fixture *fixture, const char *name, const char *qualifier,
                   const struct build_failure *failure)
{
    struct function *function = fixture_find(&fixture->store, name, qualifier);
    struct error err = {0};

    fixture_expect(
        registry_finish_build(fixture->store.registry, function->build_id, failure, &err), 0, &err,
        "");
    function_free(function);
}

static void expect_text(struct api_fixture *fixture, const char *target, const char *member,
                        const char *text)
{
    json_t *object = expect_ok(fixture, "GET", target, "", 200);

    assert_string_equal(text_of(object, member), text);
    json_decref(object);
}

static void test_publish_answers_at_once(void **state)
{
    struct api_fixture *fixture = *state;
    AUTO_FREE char *body = create_body("f", ",\"Publish\":true");
    uint64_t start_us = clock_now_us();
    json_t *made = expect_ok(fixture, "POST", FUNCTIONS, body, 201);

    assert_string_equal(text_of(made, "Version"), "1");
    assert_string_equal(text_of(made, "State"), "Pending");
    assert_non_null(strstr(text_of(made, "FunctionArn"), ":f:1"));
    json_decref(made);
    expect_text(fixture, FUNCTIONS "/f/configuration", "State", "Pending");
    /* The version that is being made is the one that is given again. */
    made = expect_ok(fixture, "POST", FUNCTIONS "/f/versions", "{}", 201);
    assert_string_equal(text_of(made, "Version"), "1");
    json_decref(made);
    assert_true(clock_now_us() - start_us < 60 * 1000000ull); /* it was two minutes once */
    finish(fixture, "f", "1", NULL);
    expect_text(fixture, FUNCTIONS "/f/configuration?Qualifier=1", "State", "Active");
    finish(fixture, "f", NULL, NULL);
    /* The conditions hold as ever. */
    expect_error(fixture, "POST", FUNCTIONS "/f/versions", NULL, "{\"CodeSha256\":\"x\"}", 400,
                 "InvalidParameterValueException", "CodeSHA256");
    expect_error(fixture, "POST", FUNCTIONS "/f/versions", NULL, "{\"RevisionId\":\"x\"}", 412,
                 "PreconditionFailedException", "RevisionId");
}

static void test_a_failed_update(void **state)
{
    const struct build_failure failure = {"FunctionError", "{\"errorType\": \"SyntaxError\"}"};
    struct api_fixture *fixture = *state;
    json_t *object;

    deploy(fixture, "f");
    object =
        expect_ok(fixture, "PUT", FUNCTIONS "/f/configuration", "{\"Handler\":\"no.one\"}", 200);
    assert_string_equal(text_of(object, "LastUpdateStatus"), "InProgress");
    assert_string_equal(text_of(object, "State"), "Active");
    json_decref(object);
    expect_error(fixture, "PUT", FUNCTIONS "/f/configuration", NULL, "{\"Timeout\":4}", 409,
                 "ResourceConflictException", "in progress");
    json_decref(expect_ok(fixture, "POST", FUNCTIONS "/f/invocations", "{}", 200));
    finish(fixture, "f", NULL, &failure);
    object = expect_ok(fixture, "GET", FUNCTIONS "/f/configuration", "", 200);
    assert_string_equal(text_of(object, "LastUpdateStatus"), "Failed");
    assert_string_equal(text_of(object, "LastUpdateStatusReasonCode"), "FunctionError");
    assert_string_equal(text_of(object, "LastUpdateStatusReason"), failure.reason);
    assert_string_equal(text_of(object, "State"), "Active");
    assert_string_equal(text_of(object, "Handler"), "no.one");
    json_decref(object);
    json_decref(expect_ok(fixture, "POST", FUNCTIONS "/f/invocations", "{}", 200));
    expect_error(fixture, "POST", FUNCTIONS "/f/versions", NULL, "{}", 409,
                 "ResourceConflictException", "Failed");
}

static void test_a_failed_creation(void **state)
{
    const struct build_failure failure = {"InvalidRuntime", "this host has no image"};
    struct api_fixture *fixture = *state;
    AUTO_FREE char *body = create_body("f", "");
    json_t *object = expect_ok(fixture, "POST", FUNCTIONS, body, 201);

    assert_string_equal(text_of(object, "StateReasonCode"), "Creating");
    json_decref(object);
    finish(fixture, "f", NULL, &failure);
    object = expect_ok(fixture, "GET", FUNCTIONS "/f/configuration", "", 200);
    assert_string_equal(text_of(object, "State"), "Failed");
    assert_string_equal(text_of(object, "StateReasonCode"), "InvalidRuntime");
    assert_string_equal(text_of(object, "StateReason"), "this host has no image");
    json_decref(object);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, api_fixture_set_up, api_fixture_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_publish_answers_at_once),
        TEST(test_a_failed_update),
        TEST(test_a_failed_creation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
