/*
 * Invocations that meet an update or a deletion, on a host that can run nothing: what they are
 * told, and what is left of them. With guests: tests/integration/test_builds.py.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/lambda_backend.h"
#include "hypervisor/hypervisor.h"
#include "registry_fixture.h"

struct fixture {
    struct registry_fixture store;
    struct dispatcher *dispatcher;
    struct lambda_backend *backend;
};

/* Builds wait: the tests say themselves what became of one. */
static int not_yet(void *opaque, const char *runtime, struct error *err)
{
    (void)opaque;
    return error_say(err, EAGAIN, "no images for '%s' yet", runtime);
}

static void ignore(const char *request_id, const char *text)
{
    (void)request_id;
    (void)text;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};

    fixture_open(&f->store);
    const struct dispatcher_config config = {
        .hypervisor = &hypervisor_kvm, .state = f->store.state, .image = "base", .kernel = "none"};
    fixture_expect(dispatcher_new(&config, &f->dispatcher, &err), 0, &err, "");
    const struct lambda_backend_options options = {.registry = f->store.registry,
                                                   .dispatcher = f->dispatcher,
                                                   .state = f->store.state,
                                                   .check_runtime = not_yet,
                                                   .failed = ignore};
    fixture_expect(lambda_backend_new(&options, &f->backend, &err), 0, &err, "");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dispatcher_shutdown(f->dispatcher, 10000), 0);
    lambda_backend_stop(f->backend);
    lambda_backend_free(f->backend);
    dispatcher_free(f->dispatcher);
    fixture_close(&f->store);
    free(f);
    return 0;
}

static int invoke(struct fixture *f, const struct function *function, struct error *err)
{
    const struct api_invocation invocation = {
        .function = function, .request_id = "r", .payload = "{}", .payload_bytes = 2};
    struct api_invocation_result result = {.payload = NULL};

    return lambda_backend_ops.invoke(f->backend, &invocation, &result, err);
}

static void count(void *opaque, const char *tenant, const char *name,
                  const struct function_counters *counters)
{
    (void)tenant;
    (void)name;
    *(uint64_t *)opaque += counters->failed;
}

static uint64_t starts_that_failed(struct fixture *f)
{
    uint64_t n = 0;

    instance_pool_each(dispatcher_pool(f->dispatcher), count, &n);
    return n;
}

static uint32_t versions_of_pool(struct fixture *f)
{
    struct pool_counts counts;

    instance_pool_get_counts(dispatcher_pool(f->dispatcher), &counts);
    return counts.versions;
}

static void test_states(void **state)
{
    const struct build_failure failure = {"FunctionError", "no module"};
    struct fixture *f = *state;
    struct code_staged *code = fixture_stage(&f->store, "x");
    struct function_key key = fixture_key("f", NULL);
    struct function *function = NULL;
    struct error err = {0};

    fixture_expect(registry_create_function(f->store.registry, &key, &fixture_settings, code, NULL,
                                            0, &function, &err),
                   0, &err, "");
    fixture_expect(invoke(f, function, &err), EBUSY, &err, "");
    fixture_expect(registry_finish_build(f->store.registry, function->build_id, &failure, &err), 0,
                   &err, "");
    function_free(function);
    function = fixture_find(&f->store, "f", NULL);
    fixture_expect(invoke(f, function, &err), EINVAL, &err, "no module");
    assert_int_equal(versions_of_pool(f), 0);
    function_free(function);
    code_staged_free(code);
}

/* Looked up, then deleted, code and snapshot with it: not the host's failure, but a 404. */
static void test_late_for_a_deletion(void **state)
{
    struct fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct error err = {0};

    fixture_create(&f->store, "f", "x");
    struct function *function = fixture_find(&f->store, "f", NULL);
    fixture_expect(invoke(f, function, &err), EIO, &err, ""); /* a host without images */
    fixture_expect(registry_delete(f->store.registry, &key, &err), 0, &err, "");
    lambda_backend_ops.changed(f->backend, "alice", "f");
    assert_int_equal(versions_of_pool(f), 0);
    fixture_expect(invoke(f, function, &err), ENOENT, &err, "not found");
    assert_int_equal(versions_of_pool(f), 0); /* nothing stays of it */
    assert_int_equal(starts_that_failed(f), 0);
    function_free(function);
}

/* Looked up, then replaced: the event goes to the new build. */
static void test_late_for_an_update(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    fixture_create(&f->store, "f", "x");
    struct function *function = fixture_find(&f->store, "f", NULL);
    fixture_change(&f->store, "f", "y");
    fixture_expect(invoke(f, function, &err), EIO, &err, "");
    assert_int_equal(starts_that_failed(f), 2); /* the old one and the new */
    assert_int_equal(versions_of_pool(f), 1);
    function_free(function);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_states),
        TEST(test_late_for_a_deletion),
        TEST(test_late_for_an_update),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
