/* Lookups that are remembered: what was changed is never seen as it was before. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/events/event_queue.h"
#include "host/store/registry_cache.h"
#include "registry_fixture.h"

static int set_up(void **state)
{
    struct registry_options options = {.now_ms = fixture_clock, .is_sole = true};
    struct error err = {0};

    if (fixture_set_up(state) != 0)
        return -1;
    struct registry_fixture *f = *state;
    fixture_close_registry(f);
    options.state = f->state;
    return registry_open(&options, &f->registry, &err);
}

/* The same object: it was remembered. */
static bool is_remembered(struct registry_fixture *f, const char *name, const char *qualifier)
{
    struct function *first = fixture_find(f, name, qualifier);
    struct function *second = fixture_find(f, name, qualifier);
    bool is_same = first == second;

    function_free(first);
    assert_string_equal(second->name, name); /* one of two references is enough */
    function_free(second);
    return is_same;
}

static void test_changes_are_seen(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct function *before, *after = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    assert_true(is_remembered(f, "f", NULL));
    assert_true(is_remembered(f, "f", "$LATEST"));
    before = fixture_find(f, "f", NULL);
    fixture_change(f, "f", "y");
    after = fixture_find(f, "f", NULL);
    assert_true(before->build_id != after->build_id);
    assert_string_not_equal(before->code_sha256,
                            after->code_sha256); /* ours as long as we hold it */
    function_free(before);
    function_free(after);
    fixture_expect(registry_set_reserved(f->registry, &key, 7, &err), 0, &err, "");
    after = fixture_find(f, "f", NULL);
    assert_int_equal(after->reserved_concurrency, 7);
    function_free(after);
    fixture_expect(registry_delete(f->registry, &key, &err), 0, &err, "");
    fixture_expect(registry_find(f->registry, &key, -1, &after, &err), ENOENT, &err, "f");
    fixture_expect(registry_find_served(f->registry, &key, -1, &after, &err), ENOENT, &err, "f");
}

static void test_keys_apart(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key bobs = {"bob", "f", NULL};
    struct function *one, *latest, *other = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_publish(f, "f");
    latest = fixture_find(f, "f", NULL);
    one = fixture_find(f, "f", "1");
    assert_int_equal(latest->version, VERSION_LATEST);
    assert_int_equal(one->version, 1);
    function_free(latest);
    function_free(one);
    fixture_expect(registry_find(f->registry, &bobs, -1, &other, &err), ENOENT, &err, "f");
    /* While an update is built, what is served is not what is shown. */
    struct code_staged *code = fixture_stage(f, "z");
    struct function_key key = fixture_key("f", NULL);
    fixture_expect(registry_update_code(f->registry, &key, code, NULL, NULL, &err), 0, &err, "");
    code_staged_free(code);
    for (int i = 0; i < 2; i++) {
        latest = fixture_find(f, "f", NULL);
        fixture_expect(registry_find_served(f->registry, &key, -1, &other, &err), 0, &err, "");
        assert_true(latest->build_id != other->build_id);
        function_free(latest);
        function_free(other);
    }
}

static void test_aliases(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", "live");
    const struct alias_change plain = {.version = "1"};
    const struct alias_change split = {
        .sets_routing = true, .additional_version = "2", .additional_weight = 0.5};
    struct function *function = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_publish(f, "f");
    fixture_change(f, "f", "y");
    fixture_publish(f, "f");
    fixture_expect(registry_create_alias(f->registry, &key, &plain, NULL, &err), 0, &err, "");
    assert_true(is_remembered(f, "f", "live"));
    fixture_expect(registry_update_alias(f->registry, &key, &split, NULL, NULL, &err), 0, &err, "");
    for (int i = 0; i < 4; i++) { /* each roll anew */
        fixture_expect(registry_find(f->registry, &key, i % 2 ? 0.9 : 0.1, &function, &err), 0,
                       &err, "");
        assert_int_equal(function->version, i % 2 ? 1 : 2);
        assert_string_equal(function->alias, "live");
        function_free(function);
    }
}

static void test_tenants(void **state)
{
    struct registry_fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct tenant tenant;
    struct error err = {0};

    fixture_create(f, "f", "x");
    for (int i = 0; i < 2; i++) {
        fixture_expect(registry_get_tenant(f->registry, "alice", &tenant, &err), 0, &err, "");
        assert_int_equal(tenant.functions, 1);
        assert_int_equal(tenant.unreserved_concurrency, 1000);
        fixture_expect(registry_get_tenant(f->registry, "bob", &tenant, &err), 0, &err, "");
        assert_int_equal(tenant.functions, 0);
        assert_string_equal(tenant.account_id, "000000000002");
    }
    fixture_expect(registry_set_reserved(f->registry, &key, 100, &err), 0, &err, "");
    fixture_expect(registry_get_tenant(f->registry, "alice", &tenant, &err), 0, &err, "");
    assert_int_equal(tenant.unreserved_concurrency, 900);
    fixture_expect(registry_get_tenant(f->registry, "carol", &tenant, &err), ENOENT, &err, "carol");
}

/* The queue's coming and going makes nobody look again. */
static void test_events_change_nothing(void **state)
{
    struct registry_fixture *f = *state;
    const struct event_queue_options options = {.region = "eu-west-1", .sole = true};
    const struct event_submission event = {.key = fixture_key("f", NULL),
                                           .request_id = "00000000-0000-4000-8000-000000000000",
                                           .payload = "{}",
                                           .payload_len_bytes = 2};
    struct event_queue *queue = NULL;
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_expect(event_queue_open(registry_database(f->registry), &options, &queue, &err), 0,
                   &err, "");
    uint64_t generation = registry_generation(f->registry);
    fixture_expect(event_queue_enqueue(queue, &event, &err), 0, &err, "");
    assert_int_equal(registry_generation(f->registry), generation);
    assert_int_equal(fixture_number(f, "SELECT count(*) FROM events"), 1);
    event_queue_close(queue);
}

/* More keys than there is room for: the oldest give way. */
static void test_bounded(void **state)
{
    enum { KEYS = 50000, ROOM = 4096 };
    struct registry_fixture *f = *state;
    struct registry_cache *cache = registry_cache_new();
    struct function *function, *found;
    char name[16];
    struct function_key key = fixture_key("f", name);
    unsigned n = 0;

    assert_non_null(cache);
    fixture_create(f, "f", "x");
    function = fixture_find(f, "f", NULL);
    for (int i = 0; i < KEYS; i++) {
        snprintf(name, sizeof(name), "a%d", i);
        registry_cache_keep(cache, &key, false, 1, function);
        found = registry_cache_find(cache, &key, false, 1);
        assert_ptr_equal(found, function);
        function_free(found);
        assert_null(registry_cache_find(cache, &key, true, 1));
        assert_null(registry_cache_find(cache, &key, false, 2));
    }
    for (int i = 0; i < KEYS; i++) {
        snprintf(name, sizeof(name), "a%d", i);
        found = registry_cache_find(cache, &key, false, 1);
        n += found != NULL;
        function_free(found);
    }
    assert_true(n > 0 && n <= ROOM);
    registry_cache_free(cache);
    function_free(function);
}

struct racer {
    struct registry_fixture *fixture;
    atomic_uint committed; /* reserved concurrency that was committed */
    atomic_bool is_over;
    unsigned lookups, stale;
};

static void *look(void *opaque)
{
    struct racer *racer = opaque;
    const struct function_key key = fixture_key("f", NULL);
    struct function *function = NULL;
    struct error err;

    while (!atomic_load(&racer->is_over)) {
        unsigned least = atomic_load(&racer->committed);

        if (registry_find(racer->fixture->registry, &key, -1, &function, &err) < 0)
            break;
        racer->stale += (unsigned)function->reserved_concurrency < least;
        racer->lookups++;
        function_free(function);
    }
    return NULL;
}

static void test_beside_a_writer(void **state)
{
    struct racer racers[3];
    pthread_t threads[3];
    struct registry_fixture *f = *state;
    const struct function_key key = fixture_key("f", NULL);
    struct error err = {0};

    fixture_create(f, "f", "x");
    fixture_expect(registry_set_reserved(f->registry, &key, 1, &err), 0, &err, "");
    for (size_t i = 0; i < 3; i++) {
        racers[i] = (struct racer){.fixture = f, .committed = 1};
        assert_int_equal(pthread_create(&threads[i], NULL, look, &racers[i]), 0);
    }
    for (unsigned n = 2; n < 100; n++) {
        fixture_expect(registry_set_reserved(f->registry, &key, (int32_t)n, &err), 0, &err, "");
        for (size_t i = 0; i < 3; i++)
            atomic_store(&racers[i].committed, n);
    }
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&racers[i].is_over, true);
        pthread_join(threads[i], NULL);
        assert_int_equal(racers[i].stale, 0);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, fixture_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_changes_are_seen), TEST(test_keys_apart), TEST(test_aliases),
        TEST(test_tenants),          TEST(test_bounded),    TEST(test_events_change_nothing),
        TEST(test_beside_a_writer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
