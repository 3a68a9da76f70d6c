/*
 * The pool of instances over a source whose instances are structures: who gets which instance, who
 * waits for whom, what is ended when. With real guests: tests/integration/test_dispatcher.py.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "host/pool/instance_pool.h"

enum { PATIENCE_MS = 20000, CROWD = 16 };

/* --- the source ------------------------------------------------------------------------------ */

struct instance {
    char tenant[16];
    uint64_t build_id;
    atomic_bool is_dead;
    atomic_int events; /* that use it now */
};

struct frozen_version {
    char tenant[16];
    uint64_t build_id;
};

static struct {
    atomic_int live, frozen; /* objects that are out */
    atomic_int finds, makes, restores;
    atomic_int slow_ms; /* what a make or a restore takes */
    atomic_int restoring, most_restoring;
    atomic_bool has_snapshot; /* find() has one */
    atomic_bool init_fails;
    atomic_int error;         /* of make(); 0: it succeeds */
    atomic_int restore_error; /* likewise */
    atomic_int bad_restores;  /* so many fail with -EBADMSG first */
} source;

static struct instance *new_instance(const char *tenant, uint64_t build_id)
{
    struct instance *instance = calloc(1, sizeof(*instance));

    strcpy(instance->tenant, tenant);
    instance->build_id = build_id;
    source.live++;
    return instance;
}

static struct frozen_version *new_frozen(const struct function_version *version)
{
    struct frozen_version *frozen = calloc(1, sizeof(*frozen));

    strcpy(frozen->tenant, version->tenant);
    frozen->build_id = version->build_id;
    source.frozen++;
    return frozen;
}

static int fake_find(void *opaque, const struct function_version *version,
                     struct frozen_version **ret_frozen, struct error *err)
{
    (void)opaque;
    source.finds++;
    if (!source.has_snapshot)
        return error_say(err, ENOENT, "no snapshot");
    *ret_frozen = new_frozen(version);
    return 0;
}

static int fake_make(void *opaque, const struct function_version *version, agent_log *log,
                     void *log_opaque, struct frozen_version **ret_frozen,
                     struct instance **ret_instance, struct agent_result *ret_result,
                     struct error *err)
{
    (void)opaque;
    source.makes++;
    poll(NULL, 0, source.slow_ms);
    if (source.error)
        return error_say(err, source.error, "cannot make");
    log(log_opaque, false, "init", 4, 0);
    if (source.init_fails) {
        *ret_result = (struct agent_result){.outcome = OUTCOME_FUNCTION_ERROR,
                                            .payload = (uint8_t *)strdup("{}"),
                                            .payload_bytes = 2};
        return 0;
    }
    *ret_frozen = new_frozen(version);
    *ret_instance = new_instance(version->tenant, version->build_id);
    return 0;
}

static int fake_restore(void *opaque, const struct frozen_version *frozen, agent_log *log,
                        void *log_opaque, struct instance **ret_instance, struct error *err)
{
    (void)opaque;
    (void)log;
    (void)log_opaque;
    source.restores++;
    if (++source.restoring > source.most_restoring)
        source.most_restoring = source.restoring;
    poll(NULL, 0, source.slow_ms);
    source.restoring--;
    if (source.bad_restores > 0 && source.bad_restores-- > 0)
        return error_say(err, EBADMSG, "damaged");
    if (source.restore_error)
        return error_say(err, source.restore_error, "cannot restore");
    *ret_instance = new_instance(frozen->tenant, frozen->build_id);
    return 0;
}

static void fake_forget(struct frozen_version *frozen)
{
    if (frozen)
        source.frozen--;
    free(frozen);
}

static bool fake_is_alive(const struct instance *instance)
{
    return !instance->is_dead;
}

static void fake_destroy(struct instance *instance)
{
    assert_int_equal(instance->events, 0);
    source.live--;
    free(instance);
}

static const struct instance_source_ops fake = {.find = fake_find,
                                                .make = fake_make,
                                                .restore = fake_restore,
                                                .forget = fake_forget,
                                                .is_alive = fake_is_alive,
                                                .destroy = fake_destroy};

/* --- the tests' words ------------------------------------------------------------------------ */

static int set_up(void **state)
{
    (void)state;
    memset(&source, 0, sizeof(source));
    return 0;
}

static struct instance_pool_config config_of(uint64_t keep_alive_ms, uint32_t max_instances)
{
    return (struct instance_pool_config){.ops = &fake,
                                         .keep_alive_ms = keep_alive_ms,
                                         .max_instances = max_instances,
                                         .interrupt_fd = -1};
}

static struct instance_pool *pool_of(const struct instance_pool_config *config)
{
    struct instance_pool *pool = NULL;

    assert_int_equal(instance_pool_new(config, &pool, NULL), 0);
    return pool;
}

static struct function_version version_of(const char *tenant, const char *name, uint64_t build_id)
{
    return (struct function_version){
        .tenant = tenant,
        .build_id = build_id,
        .function = {.name = name, .version = "$LATEST"},
        .limits = {.reserved = CONCURRENCY_UNRESERVED, .unreserved = 1000}};
}

static struct pool_lease acquire(struct instance_pool *pool, const struct function_version *version)
{
    struct pool_lease lease = {.verdict = POOL_HOST_FULL};
    struct error err;

    if (instance_pool_acquire(pool, version, NULL, NULL, &lease, &err) < 0)
        fail_msg("%s", err.text);
    if (lease.verdict == POOL_READY) {
        assert_string_equal(lease.instance->tenant, version->tenant);
        assert_int_equal(lease.instance->build_id, version->build_id);
        assert_int_equal(lease.instance->events++, 0);
    }
    return lease;
}

static void release(struct instance_pool *pool, struct pool_lease *lease, bool is_usable)
{
    lease->instance->events--;
    instance_pool_release(pool, lease, is_usable);
}

static void end(struct instance_pool *pool)
{
    assert_int_equal(instance_pool_shutdown(pool, PATIENCE_MS), 0);
    instance_pool_free(pool);
    assert_int_equal(source.live, 0);
    assert_int_equal(source.frozen, 0);
}

static struct pool_counts counts_of(struct instance_pool *pool)
{
    struct pool_counts counts;

    instance_pool_get_counts(pool, &counts);
    return counts;
}

/* Waits for what the pool's own threads do. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t until_ms = clock_now_us() / 1000 + PATIENCE_MS;                                   \
        while (!(condition) && clock_now_us() / 1000 < until_ms)                                   \
            poll(NULL, 0, 2);                                                                      \
        assert_true(condition);                                                                    \
    } while (0)

/* --- tests ----------------------------------------------------------------------------------- */

static void test_cold_warm_restored(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease first = acquire(pool, &version);
    assert_int_equal(first.start, START_COLD);
    struct pool_lease second = acquire(pool, &version);
    assert_int_equal(second.start, START_RESTORED);
    assert_ptr_not_equal(first.instance, second.instance);
    const struct instance *warmest = first.instance;
    release(pool, &second, true);
    release(pool, &first, true);
    struct pool_lease third = acquire(pool, &version);
    assert_int_equal(third.start, START_WARM);
    assert_ptr_equal(third.instance, warmest);
    release(pool, &third, false);
    AWAIT(source.live == 1);
    assert_int_equal(source.makes, 1);
    assert_int_equal(source.restores, 1);
    end(pool);
}

static void test_never_shared(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version versions[] = {version_of("t", "f", 1), version_of("u", "f", 1),
                                          version_of("t", "f", 2), version_of("t", "g", 1)};
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct pool_lease lease = acquire(pool, &versions[i]);

        assert_int_equal(lease.start, START_COLD);
        release(pool, &lease, true);
    }
    for (size_t i = 0; i < 4; i++) {
        struct pool_lease lease = acquire(pool, &versions[i]);

        assert_int_equal(lease.start, START_WARM);
        release(pool, &lease, true);
    }
    end(pool);
}

static void test_dead_are_not_handed_out(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease lease = acquire(pool, &version);
    struct instance *victim = lease.instance;
    release(pool, &lease, true);
    victim->is_dead = true;
    lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_RESTORED);
    victim = lease.instance;
    release(pool, &lease, true);
    /* One that dies while nobody asks is found, too. */
    victim->is_dead = true;
    AWAIT(source.live == 0);
    assert_int_equal(counts_of(pool).died, 2);
    end(pool);
}

struct crowd {
    struct instance_pool *pool;
    struct function_version version;
    atomic_int starts[3], failures, code, init_failures, throttled;
    int events; /* of each thread */
};

static void *crowd_main(void *opaque)
{
    struct crowd *crowd = opaque;

    for (int i = 0; i < crowd->events; i++) {
        struct pool_lease lease = {.verdict = POOL_HOST_FULL};
        struct error err;
        int r = instance_pool_acquire(crowd->pool, &crowd->version, NULL, NULL, &lease, &err);

        if (r < 0) {
            crowd->failures++;
            crowd->code = r;
        } else if (lease.verdict == POOL_INIT_FAILED) {
            crowd->init_failures++;
            agent_result_done(&lease.init);
        } else if (lease.verdict != POOL_READY) {
            crowd->throttled++;
        } else {
            crowd->starts[lease.start]++;
            assert_int_equal(lease.instance->events++, 0);
            poll(NULL, 0, i % 3);
            release(crowd->pool, &lease, i % 7 != 0);
        }
    }
    return NULL;
}

static void run_crowd(struct crowd *crowd, int events)
{
    pthread_t threads[CROWD];

    crowd->events = events;
    for (size_t i = 0; i < CROWD; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, crowd), 0);
    for (size_t i = 0; i < CROWD; i++)
        pthread_join(threads[i], NULL);
}

/* One makes the snapshot, all others wait for it and restore in parallel. */
static void test_one_make(void **state)
{
    struct instance_pool_config config = config_of(60000, 100);
    struct crowd crowd = {.pool = pool_of(&config), .version = version_of("t", "f", 1)};

    (void)state;
    source.slow_ms = 100;
    run_crowd(&crowd, 1);
    assert_int_equal(source.makes, 1);
    assert_int_equal(crowd.starts[START_COLD], 1);
    assert_int_equal(crowd.starts[START_RESTORED] + crowd.starts[START_WARM], CROWD - 1);
    assert_true(source.most_restoring > 1);
    end(crowd.pool);
}

/* Those who wait learn how it failed; none of them tries it again for itself. */
static void test_make_fails(void **state)
{
    struct instance_pool_config config = config_of(60000, 100);
    struct crowd crowd = {.pool = pool_of(&config), .version = version_of("t", "f", 1)};

    (void)state;
    source.slow_ms = 300;
    source.error = ENOSPC;
    run_crowd(&crowd, 1);
    assert_int_equal(crowd.failures, CROWD);
    assert_int_equal(crowd.code, -ENOSPC);
    assert_in_range(source.makes, 1, CROWD / 2); /* a thread may come late on a slow day */
    source.error = 0;
    source.init_fails = true;
    source.makes = 0;
    run_crowd(&crowd, 1);
    assert_int_equal(crowd.init_failures, CROWD);
    assert_in_range(source.makes, 1, CROWD / 2);
    source.init_fails = false;
    run_crowd(&crowd, 1);
    assert_int_equal(crowd.starts[START_COLD], 1);
    end(crowd.pool);
}

static void test_crowd(void **state)
{
    struct instance_pool_config config = config_of(5, 6);
    struct crowd crowd = {.pool = pool_of(&config), .version = version_of("t", "f", 1)};

    (void)state;
    source.has_snapshot = true;
    run_crowd(&crowd, 200);
    assert_int_equal(crowd.failures, 0);
    assert_int_equal(crowd.starts[0] + crowd.starts[1] + crowd.starts[2] + crowd.throttled,
                     CROWD * 200);
    assert_true(crowd.starts[START_WARM] > 0);
    assert_true(crowd.starts[START_RESTORED] > 0);
    AWAIT(source.live == 0); /* kept for 5 ms */
    struct pool_counts counts = counts_of(crowd.pool);
    assert_int_equal(counts.live + counts.idle + counts.busy + counts.starting, 0);
    end(crowd.pool);
}

static void test_throttles(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    version.limits.reserved = 1;
    struct pool_lease lease = acquire(pool, &version);
    assert_int_equal(acquire(pool, &version).verdict, POOL_THROTTLED_FUNCTION);
    version.limits.reserved = CONCURRENCY_UNRESERVED;
    version.limits.unreserved = 0;
    assert_int_equal(acquire(pool, &version).verdict, POOL_THROTTLED_ACCOUNT);
    release(pool, &lease, true);
    version.limits.unreserved = 1;
    lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_WARM);
    assert_int_equal(acquire(pool, &version).verdict, POOL_THROTTLED_ACCOUNT);
    release(pool, &lease, true);
    end(pool);
}

/* The least recently used one gives way; a busy one never does. */
static void test_room(void **state)
{
    struct instance_pool_config config = config_of(60000, 2);
    struct function_version f = version_of("t", "f", 1), g = version_of("t", "g", 1);
    struct function_version h = version_of("t", "h", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease one = acquire(pool, &f), other = acquire(pool, &g);
    assert_int_equal(acquire(pool, &h).verdict, POOL_HOST_FULL);
    release(pool, &one, true);
    release(pool, &other, true);
    one = acquire(pool, &h);
    assert_int_equal(one.verdict, POOL_READY);
    other = acquire(pool, &g);
    assert_int_equal(other.start, START_WARM);
    assert_int_equal(acquire(pool, &f).verdict, POOL_HOST_FULL);
    assert_int_equal(counts_of(pool).ended_room, 1);
    release(pool, &one, true);
    release(pool, &other, true);
    end(pool);
}

/* A host that never has enough: nothing is kept, and nothing is started beside what there is. */
static void test_memory(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);

    (void)state;
    config.min_available_bytes = UINT64_MAX - 1;
    struct instance_pool *pool = pool_of(&config);
    assert_int_equal(acquire(pool, &version).verdict, POOL_HOST_FULL);
    end(pool);
    config.min_available_bytes = 1;
    pool = pool_of(&config);
    struct pool_lease lease = acquire(pool, &version);
    assert_int_equal(lease.verdict, POOL_READY);
    release(pool, &lease, true);
    assert_int_equal(counts_of(pool).ended_memory, 0);
    end(pool);
}

static atomic_int available;

static uint64_t read_available(void)
{
    return (uint64_t)available;
}

/* Idle ones go first, those that are provisioned last, busy ones never. */
static void test_memory_runs_out(void **state)
{
    const struct pool_provision one = {.minimum = 1, .maximum = 1, .target = 1.0};
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version f = version_of("t", "f", 1), g = version_of("t", "g", 1);
    struct pool_lease idle[2], verdict;

    (void)state;
    config.min_available_bytes = 100;
    config.read_available = read_available;
    available = 100;
    struct instance_pool *pool = pool_of(&config);
    assert_int_equal(instance_pool_provision(pool, &f, &one, &verdict, NULL), 0);
    struct pool_lease busy = acquire(pool, &g);
    for (int i = 0; i < 2; i++)
        idle[i] = acquire(pool, &g);
    for (int i = 0; i < 2; i++)
        release(pool, &idle[i], true);
    assert_int_equal(counts_of(pool).idle, 3);
    available = 99;
    AWAIT(source.live == 1);
    assert_int_equal(counts_of(pool).ended_memory, 3);
    assert_int_equal(acquire(pool, &f).verdict, POOL_HOST_FULL);
    available = 100;
    release(pool, &busy, true);
    busy = acquire(pool, &g);
    assert_int_equal(busy.start, START_WARM);
    AWAIT(counts_of(pool).idle == 1); /* what was promised is there again */
    release(pool, &busy, true);
    end(pool);
}

static uint64_t short_of_one(void)
{
    return source.live > 2 ? 99 : 100;
}

/* Of idle ones the least recently used goes first, and no more of them than it takes. */
static void test_memory_least_recently_used(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version versions[] = {version_of("t", "f", 1), version_of("t", "g", 1),
                                          version_of("u", "h", 1)};
    struct pool_lease leases[2], lease;

    (void)state;
    config.min_available_bytes = 100;
    config.read_available = short_of_one;
    struct instance_pool *pool = pool_of(&config);
    for (int i = 0; i < 2; i++)
        leases[i] = acquire(pool, &versions[i]);
    for (int i = 0; i < 2; i++)
        release(pool, &leases[i], true);
    lease = acquire(pool, &versions[0]);
    release(pool, &lease, true);
    lease = acquire(pool, &versions[2]); /* the third: the host is short of one now */
    AWAIT(source.live == 2);
    assert_int_equal(counts_of(pool).ended_memory, 1);
    release(pool, &lease, true);
    lease = acquire(pool, &versions[0]);
    assert_int_equal(lease.start, START_WARM);
    release(pool, &lease, true);
    end(pool);
}

static void test_invalidated(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1), other = version_of("u", "f", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease busy = acquire(pool, &version), idle = acquire(pool, &version);
    struct pool_lease others = acquire(pool, &other);
    release(pool, &idle, true);
    release(pool, &others, true);
    instance_pool_invalidate(pool, "t", "f", "$LATEST");
    AWAIT(source.live == 2);
    release(pool, &busy, true);
    AWAIT(source.live == 1);
    assert_int_equal(source.frozen, 1);
    assert_int_equal(counts_of(pool).versions, 1);
    others = acquire(pool, &other);
    assert_int_equal(others.start, START_WARM);
    release(pool, &others, true);
    end(pool);
}

/* During an event, and the function's counters go with its last instance. */
static void count_functions(void *opaque, const char *tenant, const char *name,
                            const struct function_counters *counters)
{
    (void)tenant;
    (void)name;
    (void)counters;
    ++*(int *)opaque;
}

static void test_deleted(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);
    int n = 0;

    (void)state;
    struct pool_lease lease = acquire(pool, &version);
    instance_pool_invalidate(pool, "t", "f", NULL);
    release(pool, &lease, true);
    AWAIT(source.live == 0);
    instance_pool_each(pool, count_functions, &n);
    assert_int_equal(n, 0);
    end(pool);
}

/* A snapshot that turns out to be damaged is made anew, once. */
static void test_bad_snapshot(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    source.has_snapshot = true;
    source.bad_restores = 1;
    struct pool_lease lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_COLD);
    assert_int_equal(source.makes, 1);
    release(pool, &lease, false);
    AWAIT(source.live == 0);
    source.restore_error = ENOMEM;
    struct error err = {0};
    assert_int_equal(instance_pool_acquire(pool, &version, NULL, NULL, &lease, &err), -ENOMEM);
    assert_string_equal(err.text, "cannot restore");
    end(pool);
}

static uint32_t ready_of(struct instance_pool *pool, const struct function_version *version)
{
    struct pool_provision_status status;

    instance_pool_provision_status(pool, version, &status);
    return status.ready;
}

static void test_provisioned(void **state)
{
    const struct pool_provision three = {.minimum = 3, .maximum = 6, .target = 0.5}, none = {0};
    const struct pool_provision bad = {.minimum = 4, .maximum = 3, .target = 0.7};
    struct instance_pool_config config = config_of(1, 20);
    struct function_version version = version_of("t", "f", 1);
    struct pool_lease leases[4], verdict;
    struct error err;

    (void)state;
    config.tracking_interval_ms = 20;
    struct instance_pool *pool = pool_of(&config);
    assert_int_equal(instance_pool_provision(pool, &version, &bad, &verdict, &err), -EINVAL);
    assert_int_equal(instance_pool_provision(pool, &version, &three, &verdict, &err), 0);
    assert_int_equal(verdict.verdict, POOL_READY);
    AWAIT(ready_of(pool, &version) == 3);
    /* They outlast the keep-alive, and are what events get. */
    poll(NULL, 0, 30);
    for (int i = 0; i < 3; i++) {
        leases[i] = acquire(pool, &version);
        assert_int_equal(leases[i].start, START_WARM);
    }
    /* Three busy at a target of a half: six. */
    AWAIT(ready_of(pool, &version) == 6);
    assert_int_equal(counts_of(pool).idle, 3);
    for (int i = 0; i < 3; i++)
        release(pool, &leases[i], true);
    /* Fifteen quiet intervals later it is three again. */
    AWAIT(counts_of(pool).live == 3);
    assert_int_equal(instance_pool_provision(pool, &version, &none, &verdict, &err), 0);
    AWAIT(source.live == 0);
    end(pool);
}

static void test_provision_fails(void **state)
{
    const struct pool_provision two = {.minimum = 2, .maximum = 2, .target = 0.7};
    struct instance_pool_config config = config_of(60000, 20);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);
    struct pool_lease verdict;

    (void)state;
    source.restore_error = EMFILE;
    assert_int_equal(instance_pool_provision(pool, &version, &two, &verdict, NULL), 0);
    poll(NULL, 0, 500);
    struct pool_counts counts = counts_of(pool);
    assert_in_range(counts.provision_failed, 1, 8); /* no busy loop */
    assert_int_equal(counts.last_error.code, EMFILE);
    source.restore_error = 0;
    AWAIT(ready_of(pool, &version) == 2);
    end(pool);
}

static void test_built(void **state)
{
    struct instance_pool_config config = config_of(60000, 20);
    struct function_version version = version_of("t", "f", 1);
    struct instance_pool *pool = pool_of(&config);
    struct pool_lease lease;

    (void)state;
    version.limits.reserved = 0; /* which is no reason not to publish it */
    assert_int_equal(instance_pool_build(pool, &version, NULL, NULL, &lease, NULL), 0);
    assert_int_equal(lease.verdict, POOL_READY);
    assert_int_equal(instance_pool_build(pool, &version, NULL, NULL, &lease, NULL), 0);
    assert_int_equal(source.makes, 1);
    version.limits.reserved = 5;
    lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_WARM);
    release(pool, &lease, true);
    end(pool);
}

static void build_one(struct instance_pool *pool, const struct function_version *version)
{
    struct pool_lease lease;
    struct error err;

    if (instance_pool_build(pool, version, NULL, NULL, &lease, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(lease.verdict, POOL_READY);
}

/* A thousand deploys in a row do not fill the host with instances that nobody asked for. */
static void test_unused_builds(void **state)
{
    struct instance_pool_config config = config_of(60000, POOL_UNUSED_MAX + 2);
    struct function_version used = version_of("t", "used", 1), version;
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease lease = acquire(pool, &used);
    release(pool, &lease, true);
    for (uint64_t i = 0; i < 1000; i++) {
        version = version_of("t", "f", 100 + i);
        build_one(pool, &version);
        assert_true(counts_of(pool).idle <= POOL_UNUSED_MAX + 1);
    }
    /* The last ones serve their first event at once; what had served others is still there. */
    lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_WARM);
    release(pool, &lease, true);
    lease = acquire(pool, &used);
    assert_int_equal(lease.start, START_WARM);
    release(pool, &lease, true);
    /* Who needs room takes it from the unused first, the oldest of them: the next build fills the
     * last place, the one after it takes one. */
    AWAIT(source.live == POOL_UNUSED_MAX + 1);
    struct function_version others[] = {version_of("t", "g", 1), version_of("t", "h", 1)};
    for (int i = 0; i < 2; i++) {
        lease = acquire(pool, &others[i]);
        release(pool, &lease, true);
    }
    lease = acquire(pool, &used);
    assert_int_equal(lease.start, START_WARM);
    release(pool, &lease, true);
    version = version_of("t", "f", 100 + 1000 - POOL_UNUSED_MAX); /* the oldest that was left */
    lease = acquire(pool, &version);
    assert_int_equal(lease.start, START_RESTORED);
    release(pool, &lease, true);
    end(pool);
}

/* An update: the old build serves until the new one does; then its instances end. */
static void test_builds_take_over(void **state)
{
    struct instance_pool_config config = config_of(60000, 10);
    struct function_version old = version_of("t", "f", 1), new = version_of("t", "f", 2);
    struct function_version other = version_of("t", "g", 1);
    struct instance_pool *pool = pool_of(&config);

    (void)state;
    struct pool_lease busy = acquire(pool, &old), idle = acquire(pool, &old);
    release(pool, &idle, true);
    idle = acquire(pool, &other);
    release(pool, &idle, true);
    build_one(pool, &new);
    idle = acquire(pool, &old);
    assert_int_equal(idle.start, START_WARM);
    release(pool, &idle, true);
    uint64_t builds[4];
    assert_int_equal(instance_pool_list_builds(pool, "t", "f", builds, 4), 2);
    assert_int_equal(builds[0] + builds[1], 3);
    assert_int_equal(instance_pool_list_builds(pool, "t", "f", builds, 1), 1);
    assert_int_equal(instance_pool_list_builds(pool, "u", "f", builds, 4), 0);
    instance_pool_drop_build(pool, "t", "f", 1);
    AWAIT(source.live == 3); /* the busy one goes on */
    idle = acquire(pool, &new);
    assert_int_equal(idle.start, START_WARM);
    release(pool, &idle, true);
    release(pool, &busy, true);
    AWAIT(source.live == 2);
    /* Somebody came late: what was started for the old build goes as soon as that is known. */
    idle = acquire(pool, &old);
    release(pool, &idle, true);
    instance_pool_drop_build(pool, "t", "f", 1);
    AWAIT(source.live == 2);
    idle = acquire(pool, &new);
    assert_int_equal(idle.start, START_WARM);
    release(pool, &idle, true);
    idle = acquire(pool, &other);
    assert_int_equal(idle.start, START_WARM);
    release(pool, &idle, true);
    end(pool);
}

static void test_few_versions_are_kept(void **state)
{
    struct instance_pool_config config = config_of(60000, 20);
    struct instance_pool *pool;

    (void)state;
    config.max_versions = 4;
    pool = pool_of(&config);
    for (uint64_t build = 1; build <= 20; build++) {
        struct function_version version = version_of("t", "f", build);
        struct pool_lease lease = acquire(pool, &version);

        release(pool, &lease, false);
        assert_true(source.frozen <= 5);
    }
    end(pool);
}

/* A lease that is out when the deadline passes is interrupted. */
static void *hold_until_interrupted(void *opaque)
{
    struct crowd *crowd = opaque;
    struct pool_lease lease = acquire(crowd->pool, &crowd->version);
    struct pollfd interrupt = {.fd = crowd->events, .events = POLLIN};

    crowd->starts[0]++;
    poll(&interrupt, 1, PATIENCE_MS);
    release(crowd->pool, &lease, false);
    return NULL;
}

static void test_shutdown(void **state)
{
    struct instance_pool_config config = config_of(60000, 20);
    struct error err;
    struct pool_lease lease;
    pthread_t thread;

    (void)state;
    config.interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct crowd crowd = {.pool = pool_of(&config),
                          .version = version_of("t", "f", 1),
                          .events = config.interrupt_fd};
    assert_int_equal(pthread_create(&thread, NULL, hold_until_interrupted, &crowd), 0);
    AWAIT(crowd.starts[0] == 1);
    assert_int_equal(instance_pool_shutdown(crowd.pool, 50), 0);
    pthread_join(thread, NULL);
    assert_int_equal(instance_pool_acquire(crowd.pool, &crowd.version, NULL, NULL, &lease, &err),
                     -ESHUTDOWN);
    end(crowd.pool);
    close(config.interrupt_fd);
}

static void test_patience_ends(void **state)
{
    struct instance_pool_config config = config_of(60000, 20);
    struct crowd crowd = {.version = version_of("t", "f", 1)};

    (void)state;
    config.make_wait_ms = 20;
    crowd.pool = pool_of(&config);
    source.slow_ms = 2000;
    run_crowd(&crowd, 1);
    assert_int_equal(crowd.starts[START_COLD], 1);
    assert_int_equal(crowd.code, -ETIMEDOUT);
    end(crowd.pool);
}

#define TEST(function) cmocka_unit_test_setup(function, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cold_warm_restored),
        TEST(test_never_shared),
        TEST(test_dead_are_not_handed_out),
        TEST(test_one_make),
        TEST(test_make_fails),
        TEST(test_crowd),
        TEST(test_throttles),
        TEST(test_room),
        TEST(test_memory),
        TEST(test_memory_runs_out),
        TEST(test_memory_least_recently_used),
        TEST(test_invalidated),
        TEST(test_deleted),
        TEST(test_bad_snapshot),
        TEST(test_provisioned),
        TEST(test_provision_fails),
        TEST(test_built),
        TEST(test_unused_builds),
        TEST(test_builds_take_over),
        TEST(test_few_versions_are_kept),
        TEST(test_shutdown),
        TEST(test_patience_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
