/* The life of a build in the registry: what serves meanwhile, whose turn it is, what is put off. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "registry_fixture.h"

static const struct build_failure broken = {"FunctionError", "it raises"};

static struct function *served(struct registry_fixture *f, const char *name)
{
    struct function_key key = fixture_key(name, NULL);
    struct function *function = NULL;
    struct error err = {0};

    fixture_expect(registry_find_served(f->registry, &key, -1, &function, &err), 0, &err, "");
    return function;
}

static void expect_served(struct registry_fixture *f, const char *name, uint64_t build_id)
{
    struct function *function = served(f, name);

    assert_int_equal(function->build_id, build_id);
    assert_int_equal(function->version, VERSION_LATEST);
    assert_string_equal(function->version_text, "$LATEST");
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    assert_int_equal(function->update_status, UPDATE_SUCCESSFUL);
    function_free(function);
}

/* An update with new code. Returns its build. */
static uint64_t update(struct registry_fixture *f, const char *name, const char *content)
{
    struct code_staged *code = fixture_stage(f, content);
    struct function_key key = fixture_key(name, NULL);
    struct function *function = NULL;
    struct error err = {0};

    fixture_expect(registry_update_code(f->registry, &key, code, NULL, &function, &err), 0, &err,
                   "");
    uint64_t build_id = function->build_id;
    assert_int_equal(function->update_status, UPDATE_IN_PROGRESS);
    function_free(function);
    code_staged_free(code);
    return build_id;
}

static uint64_t build_of(struct registry_fixture *f, const char *name)
{
    struct function *function = fixture_find(f, name, NULL);
    uint64_t build_id = function->build_id;

    function_free(function);
    return build_id;
}

static void finish(struct registry_fixture *f, uint64_t build_id,
                   const struct build_failure *failure)
{
    struct error err = {0};

    fixture_expect(registry_finish_build(f->registry, build_id, failure, &err), 0, &err, "");
}

static bool has_code(struct registry_fixture *f, const char *sha256)
{
    uint64_t freed = 0;
    struct error err = {0};
    char path[256];

    fixture_expect(registry_collect(f->registry, &freed, &err), 0, &err, "");
    fixture_expect(
        code_store_path(registry_code_store(f->registry), sha256, path, sizeof(path), &err), 0,
        &err, "");
    return access(path, F_OK) == 0;
}

/* --- what serves ----------------------------------------------------------------------------- */

static void test_old_build_serves_until_the_new_one(void **state)
{
    struct registry_fixture *f = *state;
    struct error err = {0};
    struct tenant before, during;
    uint64_t builds[8];
    size_t n;

    fixture_create(f, "f", "x");
    uint64_t old = build_of(f, "f");
    struct function *function = served(f, "f");
    fixture_expect(registry_get_tenant(f->registry, "alice", &before, &err), 0, &err, "");
    uint64_t fresh = update(f, "f", "y");
    assert_true(fresh > old);
    expect_served(f, "f", old);
    assert_int_equal(build_of(f, "f"), fresh);
    assert_true(has_code(f, function->code_sha256)); /* nobody collects it */
    fixture_expect(registry_list_builds(f->registry, 0, builds, 8, &n, &err), 0, &err, "");
    assert_int_equal(n, 2);
    assert_int_equal(builds[0], old);
    assert_int_equal(builds[1], fresh);
    fixture_expect(registry_list_builds(f->registry, old, builds, 1, &n, &err), 0, &err, "");
    assert_true(n == 1 && builds[0] == fresh);
    /* It is no version, and counts as none. */
    fixture_expect(registry_get_tenant(f->registry, "alice", &during, &err), 0, &err, "");
    assert_int_equal(during.code_bytes, before.code_bytes);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM versions"), 2);
    fixture_expect(registry_finish_build(f->registry, old, NULL, &err), ESTALE, &err, "replaced");
    finish(f, fresh, NULL);
    expect_served(f, "f", fresh);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM versions"), 1);
    assert_false(has_code(f, function->code_sha256));
    function_free(function);
}

static void test_failed_update_leaves_the_old_build(void **state)
{
    struct registry_fixture *f = *state;
    struct function_settings settings = {.members = SETS_HANDLER, .handler = "other.handler"};
    struct function_key key = fixture_key("f", NULL);
    struct error err = {0};

    fixture_create(f, "f", "x");
    uint64_t old = build_of(f, "f");
    finish(f, update(f, "f", "bad"), &broken);
    struct function *function = fixture_find(f, "f", NULL);
    assert_int_equal(function->state, FUNCTION_ACTIVE);
    assert_int_equal(function->update_status, UPDATE_FAILED);
    assert_string_equal(function->reason, "it raises");
    assert_string_equal(function->reason_code, "FunctionError");
    function_free(function);
    expect_served(f, "f", old);
    /* What failed is not published; the next update begins from what was asked for. */
    fixture_expect(registry_publish(f->registry, &key, NULL, NULL, NULL, NULL, &err), EBUSY, &err,
                   "Failed");
    fixture_expect(registry_update_settings(f->registry, &key, &settings, NULL, &function, &err), 0,
                   &err, "");
    assert_int_equal(function->update_status, UPDATE_IN_PROGRESS);
    assert_string_equal(function->reason, "");
    expect_served(f, "f", old);
    finish(f, function->build_id, &broken);
    function_free(function);
    expect_served(f, "f", old);
    uint64_t good = update(f, "f", "good");
    expect_served(f, "f", old);
    finish(f, good, NULL);
    expect_served(f, "f", good);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM versions"), 1);
}

static void test_kept_builds_are_no_versions(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function_page page;
    struct tenant tenant;
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_publish(f, "f");
    update(f, "f", "y");
    fixture_expect(registry_list(f->registry, "alice", true, NULL, 0, &page, &err), 0, &err, "");
    assert_int_equal(page.n, 2);
    function_page_done(&page);
    fixture_expect(registry_list_versions(f->registry, &key, NULL, 0, &page, &err), 0, &err, "");
    assert_int_equal(page.n, 2);
    assert_string_equal(page.functions[0]->version_text, "$LATEST");
    function_page_done(&page);
    key.qualifier = "1";
    struct function *version = NULL;
    fixture_expect(registry_find_served(f->registry, &key, -1, &version, &err), 0, &err, "");
    assert_int_equal(version->version, 1);
    function_free(version);
    key.qualifier = "-1";
    assert_true(registry_find(f->registry, &key, -1, &version, &err) < 0);
    /* Deleted in mid-update: all of it. */
    key.qualifier = NULL;
    uint64_t fresh = build_of(f, "f");
    fixture_expect(registry_delete(f->registry, &key, &err), 0, &err, "");
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM versions"), 0);
    fixture_expect(registry_get_tenant(f->registry, "alice", &tenant, &err), 0, &err, "");
    assert_int_equal(tenant.code_bytes, 0);
    fixture_expect(registry_finish_build(f->registry, fresh, NULL, &err), ESTALE, &err, "deleted");
    fixture_expect(registry_put_off_build(f->registry, fresh, 1, "", &err), ESTALE, &err,
                   "deleted");
}

/* --- publishing at once ---------------------------------------------------------------------- */

static void test_create_and_publish(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL), other = fixture_key("g", NULL);
    struct code_staged *code = fixture_stage(f, "x"), *more = fixture_stage(f, "y");
    struct tenant small = {.name = "alice", .account_id = "000000000001"};
    struct function *version = NULL;
    struct error err = {0};

    fixture_expect(registry_create_published(f->registry, &key, &fixture_settings, code, NULL, 0,
                                             &version, &err),
                   0, &err, "");
    assert_int_equal(version->version, 1);
    assert_int_equal(version->state, FUNCTION_PENDING);
    struct function *latest = fixture_find(f, "f", NULL);
    assert_int_equal(latest->state, FUNCTION_PENDING);
    assert_int_not_equal(latest->build_id, version->build_id);
    /* An update: likewise, also of what is being updated. */
    finish(f, latest->build_id, NULL);
    finish(f, version->build_id, NULL);
    function_free(latest);
    function_free(version);
    fixture_expect(registry_update_published(f->registry, &key, more, NULL, &version, &err), 0,
                   &err, "");
    assert_int_equal(version->version, 2);
    assert_int_equal(version->state, FUNCTION_PENDING);
    assert_string_equal(version->code_sha256, code_staged_sha256(more));
    assert_int_equal(fixture_publish(f, "f"), 2);
    /* A version that failed is not given out again: $LATEST may work by now. */
    finish(f, version->build_id, &broken);
    function_free(version);
    fixture_build(f, "f", NULL);
    assert_int_equal(fixture_publish(f, "f"), 3);
    /* Room for the function, none for its version: neither. */
    fixture_expect(registry_get_tenant(f->registry, "alice", &small, &err), 0, &err, "");
    small.code_limit_bytes = small.code_bytes + code_staged_len_bytes(code) * 3 / 2;
    fixture_expect(registry_put_tenant(f->registry, &small, &err), 0, &err, "");
    fixture_expect(registry_create_published(f->registry, &other, &fixture_settings, code, NULL, 0,
                                             &version, &err),
                   EDQUOT, &err, "limit");
    assert_true(registry_find(f->registry, &other, -1, &version, &err) == -ENOENT);
    code_staged_free(code);
    code_staged_free(more);
}

/* --- turns ----------------------------------------------------------------------------------- */

static void create_for(struct registry_fixture *f, const char *tenant, const char *name)
{
    struct code_staged *code = fixture_stage(f, "x");
    struct function_key key = {.tenant = tenant, .name = name};
    struct error err = {0};

    fixture_expect(
        registry_create_function(f->registry, &key, &fixture_settings, code, NULL, 0, NULL, &err),
        0, &err, "");
    code_staged_free(code);
}

static int next(struct registry_fixture *f, int64_t after, const struct pending_build *busy,
                size_t n_busy, struct pending_build *ret, bool *ret_waits)
{
    struct error err = {0};
    int r = registry_next_pending(f->registry, after, busy, n_busy, ret, ret_waits, &err);

    assert_true(r >= 0);
    return r;
}

static void test_tenants_take_turns(void **state)
{
    struct registry_fixture *f = *state;
    struct pending_build build, busy[2] = {{.build_id = 0}};
    struct error err = {0};
    int64_t alice = 0, last = 0;
    bool waits = false;
    char name[16];

    assert_int_equal(next(f, 0, NULL, 0, &build, &waits), 0);
    assert_false(waits);
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "a%d", i);
        create_for(f, "alice", name);
    }
    create_for(f, "bob", "b1");
    create_for(f, "bob", "b2");
    /* Twenty of alice's came first; every other turn is bob's all the same. */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(next(f, last, NULL, 0, &build, &waits), 1);
        assert_int_not_equal(build.tenant_id, last);
        last = build.tenant_id;
        finish(f, build.build_id, NULL);
        if (i == 0)
            alice = last;
    }
    assert_int_equal(next(f, last, NULL, 0, &build, &waits), 1);
    assert_int_equal(build.tenant_id, alice);
    /* One of alice's is under way: another only as long as nobody else waits. */
    busy[0] = build;
    assert_int_equal(next(f, 0, busy, 2, &build, &waits), 1);
    assert_int_equal(build.tenant_id, alice);
    assert_int_not_equal(build.build_id, busy[0].build_id);
    create_for(f, "bob", "b3");
    assert_int_equal(next(f, 0, busy, 2, &build, &waits), 1);
    assert_int_not_equal(build.tenant_id, alice);
    /* What is put off keeps nobody from his turn. */
    fixture_expect(registry_put_off_build(f->registry, build.build_id, 5000, "later", &err), 0,
                   &err, "");
    assert_int_equal(next(f, alice, busy, 2, &build, &waits), 1);
    assert_int_equal(build.tenant_id, alice);
}

static void test_put_off(void **state)
{
    struct registry_fixture *f = *state;
    struct pending_build build = {.build_id = 0}, again;
    struct error err = {0};
    bool waits = false;

    create_for(f, "alice", "f");
    assert_int_equal(next(f, 0, NULL, 0, &build, &waits), 1);
    assert_int_equal(build.tries, 0);
    fixture_expect(registry_put_off_build(f->registry, build.build_id, 5000, "no\x1broom", &err), 0,
                   &err, "");
    assert_int_equal(next(f, 0, NULL, 0, &again, &waits), 0);
    assert_true(waits);
    struct function *function = fixture_find(f, "f", NULL);
    assert_int_equal(function->state, FUNCTION_PENDING);
    assert_string_equal(function->reason, "no?room");
    function_free(function);
    fixture_close_registry(f);
    fixture_open_again(f); /* a restart forgets nothing of it */
    fixture_now_ms += 4999;
    assert_int_equal(next(f, 0, NULL, 0, &again, &waits), 0);
    fixture_now_ms += 1;
    assert_int_equal(next(f, 0, NULL, 0, &again, &waits), 1);
    assert_true(again.build_id == build.build_id && again.tries == 1);
    /* A clock that is set back does not put off for ever. */
    fixture_expect(registry_put_off_build(f->registry, build.build_id, 5000, "later", &err), 0,
                   &err, "");
    fixture_now_ms -= 1000ull * 3600 * 24 * 30;
    assert_int_equal(next(f, 0, NULL, 0, &again, &waits), 1);
    fixture_now_ms += 1000ull * 3600 * 24 * 30;
    finish(f, build.build_id, NULL);
    assert_int_equal(next(f, 0, NULL, 0, &again, &waits), 0);
    assert_false(waits);
    function = fixture_find(f, "f", NULL);
    assert_string_equal(function->reason, "");
    function_free(function);
}

/* --- runtimes -------------------------------------------------------------------------------- */

static int no_node(void *opaque, const char *runtime, struct error *err)
{
    (void)opaque;
    return strncmp(runtime, "node", 4) == 0 ? error_say(err, EINVAL, "ask for an image") : 0;
}

static void test_runtimes_without_image(void **state)
{
    struct registry_fixture *f = *state;
    struct registry_options options = {
        .state = f->state, .now_ms = fixture_clock, .check_runtime = no_node};
    struct function_settings settings = fixture_settings, change = {.members = SETS_RUNTIME};
    struct function_key key = fixture_key("f", NULL);
    struct code_staged *code;
    struct error err = {0};

    fixture_close_registry(f);
    fixture_expect(registry_open(&options, &f->registry, &err), 0, &err, "");
    code = fixture_stage(f, "x");
    settings.runtime = "nodejs18.x";
    fixture_expect(
        registry_create_function(f->registry, &key, &settings, code, NULL, 0, NULL, &err), EINVAL,
        &err, "ask for an image");
    settings.runtime = "cobol";
    fixture_expect(
        registry_create_function(f->registry, &key, &settings, code, NULL, 0, NULL, &err), EINVAL,
        &err, "not supported");
    settings.runtime = "provided.al2023";
    fixture_expect(
        registry_create_function(f->registry, &key, &settings, code, NULL, 0, NULL, &err), 0, &err,
        "");
    fixture_build(f, "f", NULL);
    change.runtime = "nodejs18.x";
    fixture_expect(registry_update_settings(f->registry, &key, &change, NULL, NULL, &err), EINVAL,
                   &err, "ask for an image");
    code_staged_free(code);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, fixture_set_up, fixture_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_old_build_serves_until_the_new_one),
        TEST(test_failed_update_leaves_the_old_build),
        TEST(test_kept_builds_are_no_versions),
        TEST(test_create_and_publish),
        TEST(test_tenants_take_turns),
        TEST(test_put_off),
        TEST(test_runtimes_without_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
