/*
 * Who may run how many events (tenant_share), who is left alone for a while (event_throttle), and
 * the worker that keeps to both: on a real queue and registry, with a backend whose invocations
 * last as long as the test says.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "host/events/event_throttle.h"
#include "host/events/event_worker.h"
#include "host/events/tenant_share.h"
#include "registry_fixture.h"

enum { PATIENCE_MS = 60000 };

/* --- shares ----------------------------------------------------------------------------------- */

static size_t take_all_allowed(struct tenant_share *share, const char *tenant)
{
    size_t n = 0;

    for (; tenant_share_allows(share, tenant, 0, 0); n++)
        tenant_share_take(share, tenant);
    return n;
}

static void test_shares(void **state)
{
    struct tenant_share *share = NULL;
    struct error err = {0};
    char name[16];

    (void)state;
    assert_int_equal(tenant_share_new(64, &share, &err), 0);
    assert_int_equal(take_all_allowed(share, "a"), 48); /* three quarters */
    assert_int_equal(take_all_allowed(share, "b"), 12); /* of what is left */
    assert_int_equal(tenant_share_left(share), 4);
    /* What one gives back, the other may take, until they are even. */
    for (int i = 0; i < 30; i++)
        tenant_share_give(share, "a");
    assert_int_equal(take_all_allowed(share, "b"), 23);
    assert_false(tenant_share_allows(share, "b", 0, 0));
    assert_true(tenant_share_allows(share, "a", 0, 0));
    /* However many there are, whoever has nothing gets something as long as there is any. */
    for (int i = 0; tenant_share_left(share) > 0; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        assert_true(tenant_share_allows(share, name, 0, 0));
        tenant_share_take(share, name);
    }
    assert_false(tenant_share_allows(share, "late", 0, 0));
    tenant_share_free(share);
    /* Counting what is about to be taken. */
    assert_int_equal(tenant_share_new(4, &share, &err), 0);
    assert_true(tenant_share_allows(share, "a", 2, 2));
    assert_false(tenant_share_allows(share, "a", 3, 3));
    assert_true(tenant_share_allows(share, "b", 0, 3));
    assert_false(tenant_share_allows(share, "b", 0, 4));
    tenant_share_free(share);
    assert_int_equal(tenant_share_new(1, &share, &err), 0);
    assert_true(tenant_share_allows(share, "a", 0, 0));
    tenant_share_free(share);
}

static void test_throttles(void **state)
{
    static struct event_throttle throttle;
    uint64_t now_ms = 1000;
    char name[16];

    (void)state;
    assert_false(event_throttle_holds(&throttle, "a", "f", now_ms));
    assert_true(event_throttle_wait_ms(&throttle, now_ms) == UINT64_MAX);
    for (uint64_t expected_ms = 1000; expected_ms < 64000; expected_ms *= 2) {
        event_throttle_note(&throttle, "a", "f", now_ms);
        event_throttle_note(&throttle, "a", "f", now_ms + 1); /* of the same batch */
        uint64_t wait_ms = event_throttle_wait_ms(&throttle, now_ms);
        assert_int_equal(wait_ms, expected_ms < 30000 ? expected_ms : 30000);
        assert_true(event_throttle_holds(&throttle, "a", "f", now_ms + wait_ms - 1));
        assert_false(event_throttle_holds(&throttle, "a", "g", now_ms));
        assert_false(event_throttle_holds(&throttle, "b", "f", now_ms));
        now_ms += wait_ms;
        assert_false(event_throttle_holds(&throttle, "a", "f", now_ms));
    }
    event_throttle_note(&throttle, "a", "f", now_ms);
    event_throttle_end(&throttle, "a", "f");
    event_throttle_end(&throttle, "a", "never");
    assert_false(event_throttle_holds(&throttle, "a", "f", now_ms));
    event_throttle_note(&throttle, "a", "f", now_ms); /* from the start again */
    assert_int_equal(event_throttle_wait_ms(&throttle, now_ms), 1000);
    /* Too many: the table keeps the latest. */
    for (int i = 0; i < 3 * THROTTLES_MAX; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        event_throttle_note(&throttle, "a", name, now_ms + 1 + (uint64_t)i);
        assert_true(event_throttle_holds(&throttle, "a", name, now_ms + 1 + (uint64_t)i));
    }
    assert_true(event_throttle_holds(&throttle, "a", "f383", now_ms + 400));
    assert_false(event_throttle_holds(&throttle, "a", "f0", now_ms + 400));
}

/* --- the worker ------------------------------------------------------------------------------- */

struct fixture {
    struct registry_fixture registry;
    struct event_queue *queue;
    struct event_worker *worker;
    pthread_mutex_t lock; /* of all below */
    bool is_blocked;      /* invocations of slow functions do not end */
    unsigned n_running_slow, n_slow, n_fast, n_throttled, n_failed;
    unsigned throttle_until; /* so many invocations of "full" are refused */
    char traceparent[64], trace[64];
    atomic_uint n_said;
};

static struct fixture *current;

static void failed(const char *request_id, const char *text)
{
    fprintf(stderr, "%s: %s\n", request_id, text);
    atomic_fetch_add(&current->n_said, 1);
}

static void run_slow(struct fixture *f)
{
    pthread_mutex_lock(&f->lock);
    f->n_running_slow++;
    while (f->is_blocked) {
        pthread_mutex_unlock(&f->lock);
        usleep(1000);
        pthread_mutex_lock(&f->lock);
    }
    f->n_running_slow--;
    f->n_slow++;
    pthread_mutex_unlock(&f->lock);
}

static int run_full(struct fixture *f, struct error *err)
{
    pthread_mutex_lock(&f->lock);
    bool is_refused = f->n_throttled < f->throttle_until;
    f->n_throttled += is_refused;
    f->n_fast += !is_refused;
    pthread_mutex_unlock(&f->lock);
    return is_refused ? error_say(err, EAGAIN, "ReservedFunctionConcurrentInvocationLimitExceeded")
                      : 0;
}

static int invoke(void *opaque, const struct api_invocation *invocation,
                  struct api_invocation_result *ret_result, struct error *err)
{
    const char *name = invocation->function->name;
    struct fixture *f = opaque;

    if (strcmp(name, "slow") == 0)
        run_slow(f);
    else if (strcmp(name, "full") == 0)
        return run_full(f, err);
    pthread_mutex_lock(&f->lock);
    if (strcmp(name, "fails") == 0) {
        f->n_failed++;
        ret_result->error = API_ERROR_UNHANDLED;
        ret_result->payload = (uint8_t *)strdup("{\"errorMessage\":\"it broke\"}");
        ret_result->payload_bytes = strlen((char *)ret_result->payload);
    }
    f->n_fast += strcmp(name, "fast") == 0;
    snprintf(f->trace, sizeof(f->trace), "%s", invocation->trace_id ? invocation->trace_id : "");
    snprintf(f->traceparent, sizeof(f->traceparent), "%s",
             invocation->traceparent ? invocation->traceparent : "");
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static const struct api_backend backend = {.invoke = invoke};

static void create(struct fixture *f, const char *tenant, const char *name)
{
    struct code_staged *code = fixture_stage(&f->registry, "x");
    struct function_key key = {tenant, name, NULL};
    struct error err = {0};

    fixture_expect(registry_create_function(f->registry.registry, &key, &fixture_settings, code,
                                            NULL, 0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
}

static int set_up(void **state)
{
    const struct event_queue_options options = {.sole = true, .retry_base_ms = 1};
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};

    if (!f)
        return -1;
    current = f;
    fixture_open(&f->registry);
    create(f, "alice", "slow");
    create(f, "alice", "full");
    create(f, "alice", "fails");
    create(f, "alice", "fast");
    create(f, "bob", "fast");
    pthread_mutex_init(&f->lock, NULL);
    fixture_expect(
        event_queue_open(registry_database(f->registry.registry), &options, &f->queue, &err), 0,
        &err, "");
    *state = f;
    return 0;
}

static void start_worker(struct fixture *f, unsigned lease_ms)
{
    const struct event_worker_options options = {.queue = f->queue,
                                                 .registry = f->registry.registry,
                                                 .backend = &backend,
                                                 .backend_opaque = f,
                                                 .max_running = 8,
                                                 .lease_ms = lease_ms,
                                                 .failed = failed};
    struct error err = {0};

    fixture_expect(event_worker_new(&options, &f->worker, &err), 0, &err, "");
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    event_worker_free(f->worker);
    event_queue_close(f->queue);
    fixture_close(&f->registry);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return 0;
}

static void enqueue(struct fixture *f, const char *tenant, const char *function, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char id[REQUEST_ID_BYTES];
        struct event_submission event = {.key = {tenant, function, NULL},
                                         .request_id = id,
                                         .payload = "1",
                                         .payload_len_bytes = 1,
                                         .trace = "Root=1-2-3",
                                         .traceparent = "00-01-02-01"};
        struct error err = {0};

        fixture_expect(identity_request(id, &err), 0, &err, "");
        fixture_expect(event_queue_enqueue(f->queue, &event, &err), 0, &err, "");
    }
    event_worker_wake(f->worker);
}

static unsigned read_count(struct fixture *f, const unsigned *count)
{
    pthread_mutex_lock(&f->lock);
    unsigned n = *count;
    pthread_mutex_unlock(&f->lock);
    return n;
}

static void wait_for(struct fixture *f, const unsigned *count, unsigned n)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    while (read_count(f, count) < n) {
        if (clock_now_us() > until_us)
            fail_msg("%u of %u", read_count(f, count), n);
        usleep(1000);
    }
}

static uint64_t depth(struct fixture *f)
{
    struct event_queue_stats stats;
    struct error err = {0};

    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    return stats.depth;
}

static void wait_until_empty(struct fixture *f)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    while (depth(f) > 0) {
        assert_true(clock_now_us() < until_us);
        usleep(1000);
    }
}

static void unblock(struct fixture *f)
{
    pthread_mutex_lock(&f->lock);
    f->is_blocked = false;
    pthread_mutex_unlock(&f->lock);
}

/* Events of one tenant that do not end leave room for the other's. */
static void test_slow_tenants(void **state)
{
    struct fixture *f = *state;

    f->is_blocked = true;
    start_worker(f, 0);
    enqueue(f, "alice", "slow", 20);
    wait_for(f, &f->n_running_slow, 6); /* of 8 */
    enqueue(f, "bob", "fast", 50);
    wait_for(f, &f->n_fast, 50);
    assert_int_equal(read_count(f, &f->n_running_slow), 6);
    unblock(f);
    wait_until_empty(f);
    assert_int_equal(read_count(f, &f->n_slow), 20);
    assert_int_equal(f->n_said, 0);
}

/* What runs for much longer than a lease runs once. */
static void test_leases_are_extended(void **state)
{
    struct fixture *f = *state;

    f->is_blocked = true;
    start_worker(f, 1500);
    enqueue(f, "alice", "slow", 2);
    wait_for(f, &f->n_running_slow, 2);
    sleep(4);
    assert_int_equal(read_count(f, &f->n_running_slow), 2);
    unblock(f);
    wait_until_empty(f);
    assert_int_equal(read_count(f, &f->n_slow), 2);
}

/* A throttled function is not asked again for each of its events. */
static void test_throttled_functions(void **state)
{
    uint64_t began_us = clock_now_us();
    struct fixture *f = *state;
    unsigned n;

    f->throttle_until = 1000;
    start_worker(f, 0);
    enqueue(f, "alice", "full", 100);
    enqueue(f, "alice", "fast", 10);
    wait_for(f, &f->n_fast, 10);
    usleep(500000);
    n = read_count(f, &f->n_throttled);
    /* A batch of a hundred, and at most another in each second. */
    assert_in_range(n, 1, 8 * (1 + (clock_now_us() - began_us) / 1000000));
    pthread_mutex_lock(&f->lock);
    f->throttle_until = 0;
    pthread_mutex_unlock(&f->lock);
    wait_for(f, &f->n_fast, 110);
    wait_until_empty(f);
}

static void test_failures_and_traces(void **state)
{
    struct function_key key = fixture_key("slow", NULL);
    struct fixture *f = *state;
    struct error err = {0};

    start_worker(f, 0);
    enqueue(f, "alice", "fast", 1);
    wait_until_empty(f);
    assert_string_equal(f->trace, "Root=1-2-3");
    assert_string_equal(f->traceparent, "00-01-02-01");
    enqueue(f, "alice", "fails", 1);
    wait_until_empty(f);
    assert_int_equal(read_count(f, &f->n_failed), 3);
    /* Switched off: given up at once, as Lambda does. */
    fixture_expect(registry_set_reserved(f->registry.registry, &key, 0, &err), 0, &err, "");
    enqueue(f, "alice", "slow", 3);
    wait_until_empty(f);
    assert_int_equal(read_count(f, &f->n_slow), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_throttles),
        cmocka_unit_test_setup_teardown(test_slow_tenants, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_leases_are_extended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_throttled_functions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures_and_traces, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
