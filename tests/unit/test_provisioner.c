/*
 * What is configured against what is held: a real registry and a real pool, over a source whose
 * instances are structures. With real guests: tests/integration/test_restart.py.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "host/provisioner.h"
#include "registry_fixture.h"

enum { PATIENCE_MS = 20000 };

struct instance {
    uint64_t build_id;
};

struct frozen_version {
    uint64_t build_id;
};

static atomic_int live, restore_error;
static atomic_bool has_no_snapshot;
static char said[256];

static int fake_find(void *opaque, const struct function_version *version,
                     struct frozen_version **ret_frozen, struct error *err)
{
    (void)opaque;
    if (has_no_snapshot)
        return error_say(err, EIO, "the disk is on fire");
    *ret_frozen = calloc(1, sizeof(**ret_frozen));
    (*ret_frozen)->build_id = version->build_id;
    return 0;
}

static int fake_restore(void *opaque, const struct frozen_version *frozen, agent_log *log,
                        void *log_opaque, struct instance **ret_instance, struct error *err)
{
    (void)opaque;
    (void)log;
    (void)log_opaque;
    if (restore_error)
        return error_say(err, restore_error, "cannot restore");
    *ret_instance = calloc(1, sizeof(**ret_instance));
    (*ret_instance)->build_id = frozen->build_id;
    live++;
    return 0;
}

static void fake_forget(struct frozen_version *frozen)
{
    free(frozen);
}

static bool fake_is_alive(const struct instance *instance)
{
    (void)instance;
    return true;
}

static void fake_destroy(struct instance *instance)
{
    live--;
    free(instance);
}

static const struct instance_source_ops ops = {.find = fake_find,
                                               .restore = fake_restore,
                                               .forget = fake_forget,
                                               .is_alive = fake_is_alive,
                                               .destroy = fake_destroy};

static void on_failed(const char *request_id, const char *text)
{
    assert_string_equal(request_id, "");
    strncpy(said, text, sizeof(said) - 1);
}

/* --- the fixture ----------------------------------------------------------------------------- */

struct fixture {
    struct registry_fixture base;
    struct instance_pool *pool;
    struct provisioner *provisioner;
};

static void start(struct fixture *f, uint32_t most_percent)
{
    const struct instance_pool_config config = {
        .ops = &ops, .keep_alive_ms = 3600000, .max_instances = 100, .interrupt_fd = -1};
    struct error err;

    live = 0;
    restore_error = 0;
    has_no_snapshot = false;
    said[0] = '\0';
    assert_int_equal(instance_pool_new(&config, &f->pool, &err), 0);
    const struct provisioner_options options = {.registry = f->base.registry,
                                                .pool = f->pool,
                                                .most_percent = most_percent,
                                                .failed = on_failed};
    assert_int_equal(provisioner_new(&options, &f->provisioner, &err), 0);
}

static int set_up(void **state)
{
    static struct fixture f;

    fixture_open(&f.base);
    start(&f, 0);
    *state = &f;
    return 0;
}

static void stop(struct fixture *f)
{
    assert_int_equal(instance_pool_shutdown(f->pool, PATIENCE_MS), 0);
    provisioner_stop(f->provisioner);
    provisioner_free(f->provisioner);
    instance_pool_free(f->pool);
    assert_int_equal(live, 0);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    stop(f);
    fixture_close(&f->base);
    return 0;
}

static void put(struct fixture *f, const char *qualifier, int64_t requested)
{
    const struct function_key key = fixture_key("f", qualifier);
    struct error err;

    fixture_expect(registry_put_provisioned(f->base.registry, &key, requested, NULL, &err), 0, &err,
                   "");
    provisioner_wake(f->provisioner);
}

static void put_alias(struct fixture *f, const char *name, const char *version, bool is_new)
{
    const struct function_key key = fixture_key("f", name);
    const struct alias_change change = {.version = version};
    struct alias alias;
    struct error err;

    fixture_expect(is_new
                       ? registry_create_alias(f->base.registry, &key, &change, &alias, &err)
                       : registry_update_alias(f->base.registry, &key, &change, NULL, &alias, &err),
                   0, &err, "");
    provisioner_wake(f->provisioner);
}

static struct provisioner_status status_of(struct fixture *f, const char *qualifier,
                                           uint32_t requested)
{
    struct provisioned item = {.requested = requested};
    struct provisioner_status status;

    strcpy(item.function, "f");
    strcpy(item.qualifier, qualifier);
    provisioner_get_status(f->provisioner, "alice", &item, &status);
    return status;
}

static void wait_for(struct fixture *f, const char *qualifier, uint32_t available, int in_all)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;
    struct provisioner_status status = status_of(f, qualifier, available);

    while ((status.available != available || live != in_all) && clock_now_us() < until_us) {
        poll(NULL, 0, 5);
        status = status_of(f, qualifier, available);
    }
    assert_int_equal(status.available, available);
    assert_int_equal(live, in_all);
}

/* The pool has @n ready of that version. */
static void wait_held(struct fixture *f, const char *number, uint32_t n)
{
    struct function *function = fixture_find(&f->base, "f", number);
    const struct function_version version = {
        .tenant = "alice",
        .build_id = function->build_id,
        .function = {.name = "f", .version = function->version_text}};
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;
    struct pool_provision_status status;

    do {
        poll(NULL, 0, 5);
        instance_pool_provision_status(f->pool, &version, &status);
    } while (status.ready != n && clock_now_us() < until_us);
    assert_int_equal(status.ready, n);
    function_free(function);
}

/* A warm start of what @qualifier means? */
static enum pool_start start_of(struct fixture *f, const char *qualifier)
{
    struct function *function = fixture_find(&f->base, "f", qualifier);
    const struct function_version version = {
        .tenant = "alice",
        .build_id = function->build_id,
        .function = {.name = "f", .version = function->version_text},
        .limits = {.reserved = -1, .unreserved = 100}};
    struct pool_lease lease;
    struct error err;

    assert_int_equal(instance_pool_acquire(f->pool, &version, NULL, NULL, &lease, &err), 0);
    assert_int_equal(lease.verdict, POOL_READY);
    enum pool_start start = lease.start;
    instance_pool_release(f->pool, &lease, true);
    function_free(function);
    return start;
}

static void two_versions(struct fixture *f)
{
    fixture_create(&f->base, "f", "one");
    assert_int_equal(fixture_publish(&f->base, "f"), 1);
    fixture_build(&f->base, "f", "1");
    fixture_change(&f->base, "f", "two");
    assert_int_equal(fixture_publish(&f->base, "f"), 2);
    fixture_build(&f->base, "f", "2");
}

/* --- cases ----------------------------------------------------------------------------------- */

static void holds_and_lets_go(void **state)
{
    struct fixture *f = *state;
    const struct function_key key = fixture_key("f", "1");
    struct error err;

    two_versions(f);
    put(f, "1", 3);
    wait_for(f, "1", 3, 3);
    assert_int_equal(status_of(f, "1", 3).allocated, 3);
    assert_int_equal(start_of(f, "1"), START_WARM);
    put(f, "1", 1); /* fewer */
    wait_for(f, "1", 1, 1);
    put(f, "1", 2);
    wait_for(f, "1", 2, 2);
    assert_int_equal(registry_delete_provisioned(f->base.registry, &key, &err), 0);
    provisioner_wake(f->provisioner);
    wait_for(f, "1", 0, 0);
    assert_string_equal(said, "");
}

static void follows_an_alias(void **state)
{
    struct fixture *f = *state;

    two_versions(f);
    put_alias(f, "live", "1", true);
    put(f, "live", 2);
    wait_for(f, "live", 2, 2);
    assert_int_equal(start_of(f, "1"), START_WARM);
    put_alias(f, "live", "2", false);
    wait_held(f, "2", 2);
    wait_held(f, "1", 0);
    wait_for(f, "live", 2, 2);
    assert_int_equal(start_of(f, "live"), START_WARM);
    assert_int_equal(start_of(f, "2"), START_WARM);
    assert_int_equal(start_of(f, "1"), START_RESTORED); /* its own were let go */
}

static void adds_up_what_means_one_version(void **state)
{
    struct fixture *f = *state;
    const struct function_key live_key = fixture_key("f", "live");
    struct error err;

    two_versions(f);
    put_alias(f, "live", "1", true);
    put(f, "1", 2);
    put(f, "live", 3);
    wait_for(f, "1", 2, 5);
    wait_for(f, "live", 3, 5);
    assert_int_equal(registry_delete_alias(f->base.registry, &live_key, &err), 0);
    provisioner_wake(f->provisioner);
    wait_for(f, "1", 2, 2);
    wait_for(f, "live", 0, 2);
}

static void goes_with_version_and_function(void **state)
{
    struct fixture *f = *state;
    const struct function_key one = fixture_key("f", "1"), all = fixture_key("f", NULL);
    struct error err;

    two_versions(f);
    put(f, "1", 1);
    put(f, "2", 2);
    wait_for(f, "1", 1, 3);
    assert_int_equal(registry_delete(f->base.registry, &one, &err), 0);
    provisioner_wake(f->provisioner);
    wait_for(f, "1", 0, 2);
    assert_int_equal(registry_delete(f->base.registry, &all, &err), 0);
    provisioner_wake(f->provisioner);
    wait_for(f, "2", 0, 0);
}

static void is_taken_up_again(void **state)
{
    struct fixture *f = *state;

    two_versions(f);
    put(f, "1", 2);
    wait_for(f, "1", 2, 2);
    instance_pool_invalidate(f->pool, "alice", "f", "1"); /* made anew: the pool forgot */
    provisioner_wake(f->provisioner);
    wait_for(f, "1", 2, 2);
    /* Another process: from the registry alone. */
    stop(f);
    start(f, 0);
    wait_for(f, "1", 2, 2);
}

static void says_what_fails(void **state)
{
    struct fixture *f = *state;
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    two_versions(f);
    restore_error = ENOSPC;
    put(f, "1", 1);
    while (status_of(f, "1", 1).failure[0] == '\0' && clock_now_us() < until_us)
        poll(NULL, 0, 5);
    assert_non_null(strstr(status_of(f, "1", 1).failure, "cannot restore"));
    assert_int_equal(status_of(f, "1", 1).available, 0);
    restore_error = 0;
    wait_for(f, "1", 1, 1);
    assert_string_equal(status_of(f, "1", 1).failure, "");
    has_no_snapshot = true;
    put(f, "2", 1);
    while (status_of(f, "2", 1).failure[0] == '\0' && clock_now_us() < until_us)
        poll(NULL, 0, 5);
    assert_non_null(strstr(status_of(f, "2", 1).failure, "on fire"));
    assert_int_equal(status_of(f, "1", 1).available, 1);
    has_no_snapshot = false;
    provisioner_wake(f->provisioner);
    wait_for(f, "2", 1, 2);
    assert_non_null(strstr(said, "hold instances of 'f' of tenant 'alice' ready"));
}

static void waits_for_a_build_and_tracks(void **state)
{
    struct fixture *f = *state;
    struct function *made = NULL;
    const struct function_key key = fixture_key("f", NULL);
    struct pool_lease lease;
    struct error err;

    stop(f);
    fixture_create(&f->base, "f", "one");
    fixture_expect(registry_publish(f->base.registry, &key, NULL, NULL, NULL, &made, &err), 0, &err,
                   "");
    start(f, 300);
    put(f, "1", 1);
    poll(NULL, 0, 50);
    assert_int_equal(live, 0); /* Pending */
    assert_int_equal(status_of(f, "1", 1).allocated, 0);
    assert_int_equal(registry_finish_build(f->base.registry, made->build_id, NULL, &err), 0);
    wait_for(f, "1", 1, 1); /* nobody woke it */
    /* One of one is busy: that is more than 70 %, so another one is held. */
    const struct function_version version = {.tenant = "alice",
                                             .build_id = made->build_id,
                                             .function = {.name = "f", .version = "1"},
                                             .limits = {.reserved = -1, .unreserved = 100}};
    assert_int_equal(instance_pool_acquire(f->pool, &version, NULL, NULL, &lease, &err), 0);
    assert_int_equal(lease.start, START_WARM);
    wait_for(f, "1", 2, 2);
    instance_pool_release(f->pool, &lease, true);
    function_free(made);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(holds_and_lets_go),
        CASE(follows_an_alias),
        CASE(adds_up_what_means_one_version),
        CASE(goes_with_version_and_function),
        CASE(is_taken_up_again),
        CASE(says_what_fails),
        CASE(waits_for_a_build_and_tracks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
