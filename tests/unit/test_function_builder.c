/*
 * Builds over a registry on disk, with a maker of snapshots that does as it is told: what becomes
 * of each, who is told, who waits for whom.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "host/build_failure.h"
#include "host/function_builder.h"
#include "registry_fixture.h"

enum { PATIENCE_MS = 20000, ORDER_MAX = 64 };

/* --- the maker ------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    char order[ORDER_MAX][FUNCTION_NAME_MAX + 1]; /* of builds, as they began */
    size_t n;
    enum build_end last_end;
    int ends[3];
    char said[512];
    int n_said;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static atomic_int make_error, makes_fail; /* so many makes fail with it; -1: all */
static atomic_int check_error;
static atomic_int slow_inits; /* so many init phases time out */
static atomic_bool init_fails, is_held, is_interrupted;
static atomic_uint_fast64_t clock_ms = 1700000000000;

static uint64_t test_clock(void)
{
    return clock_ms;
}

static int check(void *opaque, const char *runtime, struct error *err)
{
    (void)opaque;
    return check_error ? error_say(err, check_error, "no image for '%s'", runtime) : 0;
}

static int build(void *opaque, const struct function *function,
                 const struct function_version *version, struct invocation_result *ret_result,
                 struct error *err)
{
    (void)opaque;
    (void)function;
    pthread_mutex_lock(&seen.lock);
    if (seen.n < ORDER_MAX)
        snprintf(seen.order[seen.n], sizeof(seen.order[0]), "%s", version->function.name);
    seen.n++;
    pthread_mutex_unlock(&seen.lock);
    while (is_held && !is_interrupted)
        poll(NULL, 0, 1);
    if (is_interrupted)
        return error_say(err, ESHUTDOWN, "the host is shutting down");
    if (makes_fail != 0) {
        if (makes_fail > 0)
            makes_fail--;
        return error_say(err, make_error, "open '/var/lib/mayfly/secret'");
    }
    *ret_result = (struct invocation_result){.kind = INVOKED_OK};
    if (slow_inits > 0) {
        slow_inits--;
        ret_result->kind = INVOKED_TIMEOUT;
        ret_result->payload = (uint8_t *)strdup("{\"errorMessage\":\"timed out\"}");
    } else if (init_fails) {
        ret_result->kind = INVOKED_FUNCTION_ERROR;
        ret_result->payload = (uint8_t *)strdup("{\"errorType\":\"ImportError\"}");
    }
    return 0;
}

static void ended(void *opaque, const struct function_version *version, enum build_end end)
{
    (void)opaque;
    (void)version;
    pthread_mutex_lock(&seen.lock);
    seen.last_end = end;
    seen.ends[end]++;
    pthread_mutex_unlock(&seen.lock);
}

static void failed(void *opaque, const char *text)
{
    (void)opaque;
    pthread_mutex_lock(&seen.lock);
    snprintf(seen.said, sizeof(seen.said), "%s", text);
    seen.n_said++;
    pthread_mutex_unlock(&seen.lock);
}

static const struct function_builder_ops ops = {
    .check = check, .build = build, .ended = ended, .failed = failed};

/* --- set-up ---------------------------------------------------------------------------------- */

struct fixture {
    struct registry_fixture store;
    struct function_builder *builder;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct registry_options options = {.state = f->store.state, .now_ms = test_clock};
    struct error err = {0};

    fixture_open(&f->store);
    fixture_close_registry(&f->store);
    fixture_expect(registry_open(&options, &f->store.registry, &err), 0, &err, "");
    seen.n = 0;
    seen.n_said = 0;
    memset(seen.ends, 0, sizeof(seen.ends));
    make_error = makes_fail = check_error = slow_inits = 0;
    init_fails = is_held = is_interrupted = false;
    *state = f;
    return 0;
}

static void start(struct fixture *f)
{
    const struct function_builder_options options = {.registry = f->store.registry, .ops = &ops};
    struct error err = {0};

    fixture_expect(function_builder_new(&options, &f->builder, &err), 0, &err, "");
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    is_interrupted = true;
    function_builder_stop(f->builder);
    function_builder_free(f->builder);
    fixture_close(&f->store);
    free(f);
    return 0;
}

static void create_for(struct fixture *f, const char *tenant, const char *name)
{
    struct code_staged *code = fixture_stage(&f->store, "x");
    struct function_key key = {.tenant = tenant, .name = name};
    struct error err = {0};

    fixture_expect(registry_create_function(f->store.registry, &key, &fixture_settings, code, NULL,
                                            0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
    if (f->builder)
        function_builder_wake(f->builder);
}

static struct function *wait_built(struct fixture *f, const char *name)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;
    struct function *function = fixture_find(&f->store, name, NULL);

    while (function->state == FUNCTION_PENDING || function->update_status == UPDATE_IN_PROGRESS) {
        assert_true(clock_now_us() < until_us);
        function_free(function);
        poll(NULL, 0, 2);
        function = fixture_find(&f->store, name, NULL);
    }
    return function;
}

static int count(const int *value)
{
    pthread_mutex_lock(&seen.lock);
    int n = *value;
    pthread_mutex_unlock(&seen.lock);
    return n;
}

static size_t count_builds(void)
{
    pthread_mutex_lock(&seen.lock);
    size_t n = seen.n;
    pthread_mutex_unlock(&seen.lock);
    return n;
}

/* Until @condition; the test fails if it never is. */
#define wait_until(condition)                                                                      \
    do {                                                                                           \
        uint64_t until_us_ = clock_now_us() + PATIENCE_MS * 1000ull;                               \
        while (!(condition)) {                                                                     \
            assert_true(clock_now_us() < until_us_);                                               \
            poll(NULL, 0, 2);                                                                      \
        }                                                                                          \
    } while (0)

/* --- what becomes of a build ----------------------------------------------------------------- */

static void test_built(void **state)
{
    struct fixture *f = *state;

    create_for(f, "alice", "f"); /* before the start: as after a restart */
    start(f);
    struct function *function = wait_built(f, "f");
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    function_free(function);
    wait_until(count(&seen.ends[BUILD_SERVES]) == 1);
    create_for(f, "alice", "g");
    function_free(wait_built(f, "g"));
    assert_int_equal(count(&seen.n_said), 0);
}

static void expect_failed(struct fixture *f, const char *code, const char *words)
{
    struct function *function = wait_built(f, "f");

    assert_int_equal(function->state, FUNCTION_FAILED);
    assert_string_equal(function->reason_code, code);
    if (!strstr(function->reason, words))
        fail_msg("'%s' does not say '%s'", function->reason, words);
    assert_null(strstr(function->reason, "/var")); /* the host's business */
    function_free(function);
    wait_until(count(&seen.ends[BUILD_FAILED]) == 1);
}

static void test_init_failure(void **state)
{
    struct fixture *f = *state;

    init_fails = true;
    start(f);
    create_for(f, "alice", "f");
    expect_failed(f, "FunctionError", "ImportError");
    assert_int_equal(count(&seen.n_said), 0); /* no concern of the host's log */
}

/* Time passes until there were @n builds: the put-off may not be on disk yet. */
static void pass_time_until(struct fixture *f, size_t n)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    while (count_builds() < n) {
        assert_true(clock_now_us() < until_us);
        clock_ms += 60000;
        function_builder_wake(f->builder);
        poll(NULL, 0, 2);
    }
}

/* A busy host is no reason to fail at once; a function that is always too slow fails all the same.
 */
static void test_init_timeouts(void **state)
{
    struct fixture *f = *state;

    slow_inits = 1;
    start(f);
    create_for(f, "alice", "g");
    wait_until(count_builds() == 1);
    pass_time_until(f, 2);
    struct function *function = wait_built(f, "g");
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    function_free(function);
    slow_inits = 1000;
    create_for(f, "alice", "f");
    pass_time_until(f, 2 + BUILD_CRASH_TRIES_MAX);
    expect_failed(f, "FunctionError", "timed out");
    assert_int_equal(count_builds(), 2 + BUILD_CRASH_TRIES_MAX);
}

static void test_no_image(void **state)
{
    struct fixture *f = *state;

    check_error = ENOENT;
    start(f);
    create_for(f, "alice", "f");
    expect_failed(f, "InvalidRuntime", "no image for 'python3.11'");
    assert_int_equal(count_builds(), 0);
}

static void test_permanent_failure(void **state)
{
    struct fixture *f = *state;

    make_error = ENOTSUP;
    makes_fail = -1;
    start(f);
    create_for(f, "alice", "f");
    expect_failed(f, "InternalError", "administrator");
    assert_int_equal(count_builds(), 1);
    wait_until(count(&seen.n_said) == 1);
    assert_non_null(strstr(seen.said, "/var/lib/mayfly/secret")); /* here it belongs */
    assert_non_null(strstr(seen.said, "'f:$LATEST' of tenant 'alice'"));
}

static void test_transient_failure(void **state)
{
    struct fixture *f = *state;

    make_error = ENOSPC;
    makes_fail = 3;
    start(f);
    create_for(f, "alice", "f");
    wait_until(count_builds() == 1);
    for (size_t tries = 2; tries <= 4; tries++) {
        wait_until(count(&seen.n_said) == 1);
        poll(NULL, 0, 30); /* it may not come back before its time */
        assert_int_equal(count_builds(), tries - 1);
        clock_ms += 60000;
        function_builder_wake(f->builder);
        wait_until(count_builds() == tries);
    }
    struct function *function = wait_built(f, "f");
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    function_free(function);
    assert_int_equal(count(&seen.n_said), 1); /* once, not each time */
}

static void test_gives_up(void **state)
{
    struct fixture *f = *state;

    make_error = EAGAIN;
    makes_fail = -1;
    start(f);
    create_for(f, "alice", "f");
    pass_time_until(f, BUILD_TRIES_MAX);
    expect_failed(f, "InternalError", "administrator");
    assert_int_equal(count_builds(), BUILD_TRIES_MAX);
}

static void test_deleted_in_mid_build(void **state)
{
    struct fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct error err = {0};

    is_held = true;
    start(f);
    create_for(f, "alice", "f");
    wait_until(count_builds() == 1);
    fixture_expect(registry_delete(f->store.registry, &key, &err), 0, &err, "");
    is_held = false;
    wait_until(count(&seen.ends[BUILD_NOBODYS]) == 1);
    assert_int_equal(count(&seen.ends[BUILD_SERVES]), 0);
    assert_int_equal(count(&seen.n_said), 0);
}

/* --- turns and ends -------------------------------------------------------------------------- */

static void test_a_crowd_does_not_starve_others(void **state)
{
    struct fixture *f = *state;
    char name[16];

    makes_fail = -1; /* all of alice's, for ever */
    make_error = EAGAIN;
    is_held = true;
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "a%d", i);
        create_for(f, "alice", name);
    }
    create_for(f, "bob", "b");
    start(f);
    wait_until(count_builds() == 2);
    /* Of the two at once one is bob's, though thirty came before. */
    assert_int_equal((seen.order[0][0] == 'b') + (seen.order[1][0] == 'b'), 1);
    is_held = false;
}

static void test_stop_in_mid_build(void **state)
{
    struct fixture *f = *state;

    is_held = true;
    start(f);
    create_for(f, "alice", "f");
    wait_until(count_builds() == 1);
    is_interrupted = true; /* as the dispatcher's shutdown has it */
    function_builder_stop(f->builder);
    struct function *function = fixture_find(&f->store, "f", NULL);
    assert_int_equal(function->state, FUNCTION_PENDING); /* for the next start */
    assert_string_equal(function->reason, "");
    function_free(function);
}

/* --- judging --------------------------------------------------------------------------------- */

static void test_judgements(void **state)
{
    static const struct {
        enum build_step step;
        int error;
        bool is_final;
        const char *code;
    } cases[] = {
        {BUILD_STEP_IMAGES, ENOENT, true, "InvalidRuntime"},
        {BUILD_STEP_IMAGES, EAGAIN, false, "InvalidRuntime"}, /* no images at all yet */
        {BUILD_STEP_IMAGES, EBADMSG, true, "InternalError"},
        {BUILD_STEP_IMAGES, EMFILE, false, "InternalError"},
        {BUILD_STEP_CODE, EINVAL, true, "InvalidZipFileException"},
        {BUILD_STEP_CODE, ENOENT, true, "InternalError"},
        {BUILD_STEP_CODE, ENOMEM, false, "InvalidZipFileException"},
        {BUILD_STEP_MAKE, ENOENT, false, "InternalError"}, /* /dev/kvm */
        {BUILD_STEP_MAKE, EACCES, false, "InternalError"},
        {BUILD_STEP_MAKE, ENOSPC, false, "InternalError"},
        {BUILD_STEP_MAKE, EBADMSG, true, "InternalError"},
        {BUILD_STEP_MAKE, ENOTSUP, true, "InternalError"},
    };
    struct error err = {.text = "ask the administrator"};
    struct build_judgement judgement;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        build_judge(cases[i].step, -cases[i].error, &err, 0, &judgement);
        if (judgement.is_final != cases[i].is_final || strcmp(judgement.code, cases[i].code) != 0)
            fail_msg("case %zu: %d, %s", i, judgement.is_final, judgement.code);
        assert_true(judgement.reason[0] != '\0');
    }
    build_judge(BUILD_STEP_MAKE, -ECONNRESET, &err, 1, &judgement);
    assert_false(judgement.is_final);
    build_judge(BUILD_STEP_MAKE, -ECONNRESET, &err, 2, &judgement);
    assert_true(judgement.is_final);
    uint64_t last_ms = 0, sum_ms = 0;
    for (uint32_t tries = 0; tries < BUILD_TRIES_MAX - 1; tries++) {
        build_judge(BUILD_STEP_MAKE, -ENOSPC, &err, tries, &judgement);
        assert_false(judgement.is_final);
        assert_true(judgement.delay_ms >= last_ms && judgement.delay_ms <= 60000);
        last_ms = judgement.delay_ms;
        sum_ms += last_ms;
    }
    assert_true(sum_ms > 20 * 60000 && sum_ms < 30 * 60000);
    build_judge(BUILD_STEP_MAKE, -ENOSPC, &err, BUILD_TRIES_MAX - 1, &judgement);
    assert_true(judgement.is_final);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_built),
        TEST(test_init_failure),
        TEST(test_init_timeouts),
        TEST(test_no_image),
        TEST(test_permanent_failure),
        TEST(test_transient_failure),
        TEST(test_gives_up),
        TEST(test_deleted_in_mid_build),
        TEST(test_a_crowd_does_not_starve_others),
        TEST(test_stop_in_mid_build),
        cmocka_unit_test(test_judgements),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
