/*
 * Acquiring and releasing: see instance_pool.h. Process: the host's daemon; trusts its callers.
 *
 * Invariants: a slot is idle (in its version's list and the pool's), leased, starting, or doomed
 * (only to be destroyed, and no longer counted in its version); nothing that takes long is done
 * under the lock.
 */
#include "instance_pool_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"

enum {
    MAKE_WAIT_DEFAULT_MS = 300000,
    INTERRUPT_WAIT_MS = 10000, /* from the interrupt of what is under way to its end */
    NS_PER_MS = 1000000,
};

void pool_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Until signalled or @at_ns (UINT64_MAX: no limit). Returns 0 or ETIMEDOUT. */
int pool_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t at_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(at_ns / 1000000000u),
                                   .tv_nsec = (long)(at_ns % 1000000000u)};

    return at_ns == UINT64_MAX ? pthread_cond_wait(cond, lock)
                               : pthread_cond_timedwait(cond, lock, &until);
}

/* --- slots ----------------------------------------------------------------------------------- */

void pool_slot_log(void *opaque, bool is_stderr, const void *data, size_t len_bytes,
                   uint64_t dropped_bytes)
{
    struct pool_slot *slot = opaque;

    if (slot->log)
        slot->log(slot->log_opaque, is_stderr, data, len_bytes, dropped_bytes);
}

struct pool_slot *pool_slot_new(struct instance_pool *pool, struct pool_version *version)
{
    struct pool_slot *slot = calloc(1, sizeof(*slot));

    if (!slot)
        return NULL;
    slot->version = version;
    version->live++;
    version->starting++;
    version->function->counters.live++;
    pool->n_live++;
    pool->n_starting++;
    return slot;
}

static void end_start(struct instance_pool *pool, struct pool_slot *slot)
{
    slot->version->starting--;
    pool->n_starting--;
}

/* It no longer counts for its version; that object may be gone then. */
static void leave_version(struct instance_pool *pool, struct pool_slot *slot)
{
    struct pool_version *version = slot->version;

    version->users++;
    version->live--;
    version->function->counters.live--;
    pool->n_live--;
    slot->version = NULL;
    pool_version_leave(pool, version);
}

void pool_slot_void(struct instance_pool *pool, struct pool_slot *slot)
{
    end_start(pool, slot);
    leave_version(pool, slot);
    free(slot);
    pthread_cond_broadcast(&pool->drained);
}

static void doom(struct instance_pool *pool, struct pool_slot *slot)
{
    leave_version(pool, slot);
    TAILQ_INSERT_TAIL(&pool->doomed, slot, in_all);
    pthread_cond_signal(&pool->work);
}

static void leave_idle(struct instance_pool *pool, struct pool_slot *slot)
{
    TAILQ_REMOVE(&slot->version->idle, slot, in_version);
    TAILQ_REMOVE(&pool->idle, slot, in_all);
    slot->version->function->counters.idle--;
    pool->n_idle--;
    pool->n_unused -= slot->is_unused;
    slot->is_unused = false;
}

void pool_slot_doom_idle(struct instance_pool *pool, struct pool_slot *slot)
{
    leave_idle(pool, slot);
    doom(pool, slot);
}

/* @before: in the pool's list; NULL: at its end. */
static void to_idle_before(struct instance_pool *pool, struct pool_slot *slot,
                           struct pool_slot *before)
{
    struct pool_version *version = slot->version;

    if (version->is_stale || pool->is_stopping) {
        doom(pool, slot);
        return;
    }
    slot->idle_since_ns = clock_now_ns();
    TAILQ_INSERT_HEAD(&version->idle, slot, in_version);
    if (before)
        TAILQ_INSERT_BEFORE(before, slot, in_all);
    else
        TAILQ_INSERT_TAIL(&pool->idle, slot, in_all);
    pool->n_unused += slot->is_unused;
    version->function->counters.idle++;
    pool->n_idle++;
    pthread_cond_broadcast(&version->changed); /* builds wait there as well, and not for this */
    if (pool->n_idle == 1)
        pool_keepers_expect(pool, slot->idle_since_ns);
}

void pool_slot_to_idle(struct instance_pool *pool, struct pool_slot *slot)
{
    to_idle_before(pool, slot, NULL);
}

/* Of many builds in a row only the last leave an instance. */
static void trim_unused(struct instance_pool *pool)
{
    struct pool_slot *next, *slot = TAILQ_FIRST(&pool->idle);

    for (; slot && slot->is_unused && pool->n_unused > POOL_UNUSED_MAX; slot = next) {
        next = TAILQ_NEXT(slot, in_all);
        if (slot->version->live <= slot->version->wanted)
            continue;
        pool->counts.ended_room++;
        pool_slot_doom_idle(pool, slot);
    }
}

void pool_slot_to_unused(struct instance_pool *pool, struct pool_slot *slot)
{
    struct pool_slot *before = TAILQ_FIRST(&pool->idle);

    while (before && before->is_unused)
        before = TAILQ_NEXT(before, in_all);
    slot->is_unused = true;
    to_idle_before(pool, slot, before);
    trim_unused(pool);
}

/* A started instance begins its first lease. */
static void to_lease(struct instance_pool *pool, struct pool_slot *slot)
{
    struct pool_version *version = slot->version;

    version->busy++;
    pool->n_busy++;
    pool_peaks_note(&version->peaks, version->busy);
    if (version->provision.maximum == 0)
        return;
    version->wanted = pool_policy_track(&version->provision, &version->peaks);
    if (version->wanted > version->live)
        pthread_cond_signal(&pool->work);
}

/* --- starting instances ---------------------------------------------------------------------- */

bool pool_make_room(struct instance_pool *pool)
{
    /* What is doomed still needs its memory, but not for long. */
    while (pool->n_live >= pool->config.max_instances)
        if (!pool_end_one_idle(pool, REASON_ROOM))
            return false;
    return !pool_is_short_of_memory(pool) || pool_end_one_idle(pool, REASON_MEMORY);
}

/* One acquire() on its way. */
struct acquiring {
    struct instance_pool *pool;
    const struct function_version *wanted;
    struct pool_version *version;
    agent_log *log;
    void *log_opaque;
    uint64_t deadline_ns;
    struct pool_lease *lease;
    struct error *err;
    bool is_build;    /* only the snapshot is wanted */
    bool has_dropped; /* a snapshot that was of no use: once */
};

static struct pool_slot *new_slot(const struct acquiring *a)
{
    struct pool_slot *slot = pool_slot_new(a->pool, a->version);

    if (slot) {
        slot->log = a->log;
        slot->log_opaque = a->log_opaque;
    } else {
        error_set(a->err, ENOMEM, "start an instance");
    }
    return slot;
}

/* The warmest living one. */
static struct pool_slot *take_warm(struct instance_pool *pool, struct pool_version *version)
{
    struct pool_slot *slot;

    while ((slot = TAILQ_FIRST(&version->idle))) {
        if (pool->config.ops->is_alive(slot->instance)) {
            leave_idle(pool, slot);
            return slot;
        }
        pool->counts.died++;
        pool_slot_doom_idle(pool, slot);
    }
    return NULL;
}

static bool is_useless_snapshot(int r)
{
    return r == -EBADMSG || r == -ENOTSUP || r == -ENOENT;
}

/* Returns 1 to look again, 0 with a lease or a verdict, or -errno. */
static int restore(struct acquiring *a)
{
    struct instance_pool *pool = a->pool;
    struct shared_frozen *shared;

    if (!pool_make_room(pool)) {
        a->lease->verdict = POOL_HOST_FULL;
        return 0;
    }
    struct pool_slot *slot = new_slot(a);
    if (!slot)
        return -ENOMEM;
    shared = pool_version_share(a->version);
    pthread_mutex_unlock(&pool->lock);
    int r = pool->config.ops->restore(pool->config.source, shared->frozen, pool_slot_log, slot,
                                      &slot->instance, a->err);
    pthread_mutex_lock(&pool->lock);
    if (r < 0 && is_useless_snapshot(r) && !a->has_dropped) {
        a->has_dropped = true;
        pool_version_drop_frozen(pool, a->version, shared);
        r = 1;
    }
    pool_shared_unref(pool, shared);
    if (r != 0) {
        pool_slot_void(pool, slot);
        return r;
    }
    end_start(pool, slot);
    to_lease(pool, slot);
    a->lease->slot = slot;
    a->lease->start = START_RESTORED;
    return 0;
}

/* --- making snapshots ------------------------------------------------------------------------ */

static int copy_result(const struct agent_result *from, struct agent_result *to, struct error *err)
{
    uint8_t *payload = malloc(from->payload_bytes + 1);

    if (!payload)
        return error_set(err, ENOMEM, "take the result of the init phase");
    memcpy(payload, from->payload, from->payload_bytes);
    payload[from->payload_bytes] = 0;
    *to = *from;
    to->payload = payload;
    return 0;
}

/* For those who wait for this making: how it failed. @init is taken over. */
static void note_failure(struct pool_version *version, int code, const struct error *err,
                         struct agent_result *init)
{
    struct make_failure *failure = &version->failure;

    if (failure->number > 0 && failure->code == 0)
        agent_result_done(&failure->init);
    *failure = (struct make_failure){.number = version->makings, .code = code};
    if (code < 0)
        failure->err = *err;
    else
        failure->init = *init;
}

/* What a making that the caller waited for came to, if it was in vain: 0 or -errno; else 1. */
static int learn_failure(const struct acquiring *a, uint64_t making)
{
    const struct make_failure *failure = &a->version->failure;

    if (failure->number != making)
        return 1;
    if (failure->code < 0) {
        if (a->err)
            *a->err = failure->err;
        return failure->code;
    }
    a->lease->verdict = POOL_INIT_FAILED;
    return copy_result(&failure->init, &a->lease->init, a->err);
}

static int wait_for_making(const struct acquiring *a)
{
    struct pool_version *version = a->version;
    uint64_t making = version->makings;

    /* A build has no use for an idle instance: it waits for the making. */
    while (version->is_making && version->makings == making &&
           (a->is_build || TAILQ_EMPTY(&version->idle)) && !a->pool->is_stopping)
        if (pool_cond_wait(&version->changed, &a->pool->lock, a->deadline_ns) == ETIMEDOUT)
            return error_say(a->err, ETIMEDOUT,
                             "the snapshot of function '%s' was not ready in time", version->name);
    return learn_failure(a, making);
}

struct made {
    struct frozen_version *frozen;
    struct instance *instance;
    struct agent_result result;
    bool is_init_failed;
    struct error err;
};

/* Without the lock. */
static int find_or_make(const struct acquiring *a, struct pool_slot *slot, struct made *made)
{
    const struct instance_pool_config *config = &a->pool->config;
    /* A snapshot that was of no use would be found again. */
    int r = a->has_dropped
                ? -ENOENT
                : config->ops->find(config->source, a->wanted, &made->frozen, &made->err);

    if (r == 0 || !(r == -ENOENT || is_useless_snapshot(r)))
        return r;
    r = config->ops->make(config->source, a->wanted, pool_slot_log, slot, &made->frozen,
                          &made->instance, &made->result, &made->err);
    made->is_init_failed = r == 0 && !made->instance;
    return r;
}

/* The version has its snapshot now; the caller keeps a made instance, if there is one. */
static int take_made(struct acquiring *a, struct pool_slot *slot, struct made *made)
{
    struct shared_frozen *shared = calloc(1, sizeof(*shared));

    if (!shared) {
        a->pool->config.ops->forget(made->frozen);
        slot->instance = made->instance;
        return error_set(a->err, ENOMEM, "keep a snapshot");
    }
    *shared = (struct shared_frozen){.frozen = made->frozen, .refs = 1};
    pool_shared_unref(a->pool, a->version->shared);
    a->version->shared = shared;
    slot->instance = made->instance;
    if (!slot->instance)
        return 1;
    a->lease->start = START_COLD;
    return 0;
}

/* Returns as restore(). */
static int make(struct acquiring *a)
{
    struct instance_pool *pool = a->pool;
    struct pool_version *version = a->version;
    struct made made = {.frozen = NULL};

    if (!pool_make_room(pool)) {
        a->lease->verdict = POOL_HOST_FULL;
        return 0;
    }
    struct pool_slot *slot = new_slot(a);
    if (!slot)
        return -ENOMEM;
    version->is_making = true;
    version->makings++;
    pthread_mutex_unlock(&pool->lock);
    int r = find_or_make(a, slot, &made);
    pthread_mutex_lock(&pool->lock);
    version->is_making = false;
    if (r < 0) {
        if (a->err)
            *a->err = made.err;
        note_failure(version, r, &made.err, NULL);
    } else if (made.is_init_failed) {
        a->lease->verdict = POOL_INIT_FAILED;
        r = copy_result(&made.result, &a->lease->init, a->err);
        note_failure(version, 0, NULL, &made.result);
    } else {
        r = take_made(a, slot, &made);
    }
    pthread_cond_broadcast(&version->changed);
    if (!slot->instance) {
        pool_slot_void(pool, slot);
        return r;
    }
    end_start(pool, slot);
    if (r < 0 || a->is_build) {
        slot->log = NULL;
        pool_slot_to_unused(pool, slot);
        return r;
    }
    to_lease(pool, slot);
    a->lease->slot = slot;
    return 0;
}

/* --- acquiring ------------------------------------------------------------------------------- */

static int lease_warm(struct acquiring *a, struct pool_slot *slot)
{
    slot->log = a->log;
    slot->log_opaque = a->log_opaque;
    to_lease(a->pool, slot);
    a->lease->slot = slot;
    a->lease->start = START_WARM;
    return 0;
}

static int find_instance(struct acquiring *a)
{
    int r = 1;

    while (r == 1) {
        struct pool_slot *slot = a->is_build ? NULL : take_warm(a->pool, a->version);

        if (a->pool->is_stopping)
            r = error_say(a->err, ESHUTDOWN, "the host is shutting down");
        else if (slot)
            return lease_warm(a, slot);
        else if (a->is_build && a->version->shared)
            return 0;
        else if (a->version->shared)
            r = restore(a);
        else if (a->version->is_making)
            r = wait_for_making(a);
        else
            r = make(a);
        if (slot)
            pool_slot_to_idle(a->pool, slot);
    }
    return r;
}

static void count_start(struct function_counters *counters, enum pool_start start)
{
    switch (start) {
    case START_WARM:
        counters->warm++;
        break;
    case START_RESTORED:
        counters->restored++;
        break;
    case START_COLD:
        counters->cold++;
        break;
    }
}

/* Finds an instance for an event that the limits allow. */
static int enter(struct acquiring *a, bool is_reserved)
{
    struct counted_function *function = a->version->function;
    int r = find_instance(a);

    if (r == 0 && a->lease->slot) {
        a->lease->slot->is_reserved = is_reserved;
        a->lease->instance = a->lease->slot->instance;
        a->lease->verdict = POOL_READY;
        count_start(&function->counters, a->lease->start);
        return 0;
    }
    if (a->lease->verdict == POOL_HOST_FULL)
        function->counters.throttled++;
    else
        function->counters.failed++;
    concurrency_leave(a->pool->concurrency, function, is_reserved);
    return r;
}

static int acquire_locked(struct acquiring *a)
{
    enum concurrency_verdict verdict;
    bool is_reserved;

    a->version = pool_version_use(a->pool, a->wanted);
    if (!a->version)
        return error_set(a->err, ENOMEM, "serve function '%s'", a->wanted->function.name);
    a->pool->leases++;
    int r = 0;
    verdict = concurrency_enter(a->version->function, &a->wanted->limits, &is_reserved);
    if (verdict == CONCURRENCY_FUNCTION_FULL)
        a->lease->verdict = POOL_THROTTLED_FUNCTION;
    else if (verdict == CONCURRENCY_ACCOUNT_FULL)
        a->lease->verdict = POOL_THROTTLED_ACCOUNT;
    else
        r = enter(a, is_reserved);
    if (!a->lease->slot && --a->pool->leases == 0)
        pthread_cond_broadcast(&a->pool->drained);
    pool_version_leave(a->pool, a->version);
    return r;
}

static uint64_t make_wait_ns(const struct instance_pool *pool)
{
    uint64_t ms = pool->config.make_wait_ms;

    return (ms ? ms : MAKE_WAIT_DEFAULT_MS) * NS_PER_MS;
}

int instance_pool_acquire(struct instance_pool *pool, const struct function_version *version,
                          agent_log *log, void *opaque, struct pool_lease *ret_lease,
                          struct error *err)
{
    uint64_t start_ns = clock_now_ns();
    struct pool_lease lease = {.verdict = POOL_READY};
    struct acquiring a = {.pool = pool,
                          .wanted = version,
                          .log = log,
                          .log_opaque = opaque,
                          .deadline_ns = start_ns + make_wait_ns(pool),
                          .lease = &lease,
                          .err = err};

    pthread_mutex_lock(&pool->lock);
    int r = acquire_locked(&a);
    pthread_mutex_unlock(&pool->lock);
    if (r < 0)
        return r;
    lease.acquire_us = (clock_now_ns() - start_ns) / 1000u;
    *ret_lease = lease;
    return 0;
}

void instance_pool_release(struct instance_pool *pool, struct pool_lease *lease, bool is_usable)
{
    struct pool_slot *slot = lease->slot;

    pthread_mutex_lock(&pool->lock);
    slot->log = NULL;
    concurrency_leave(pool->concurrency, slot->version->function, slot->is_reserved);
    slot->version->busy--;
    pool->n_busy--;
    if (is_usable && pool->config.ops->is_alive(slot->instance))
        pool_slot_to_idle(pool, slot);
    else
        doom(pool, slot);
    if (--pool->leases == 0)
        pthread_cond_broadcast(&pool->drained);
    pthread_mutex_unlock(&pool->lock);
    lease->slot = NULL;
    lease->instance = NULL;
}

/* --- provisioned concurrency and invalidation ------------------------------------------------ */

static void set_provision(struct instance_pool *pool, struct pool_version *version,
                          const struct pool_provision *provision)
{
    if (version->provision.maximum == 0) {
        version->peaks = (struct pool_peaks){0};
        pool_peaks_note(&version->peaks, version->busy);
    }
    uint32_t before = version->wanted;
    version->provision = *provision;
    version->wanted = provision->maximum > 0 ? pool_policy_track(provision, &version->peaks) : 0;
    version->provision_failures = 0;
    version->provision_retry_ns = 0;
    version->provision_trouble[0] = '\0';
    /* Nobody pays for them any longer; the coldest first. */
    for (; before > version->wanted && !TAILQ_EMPTY(&version->idle); before--)
        pool_slot_doom_idle(pool, TAILQ_LAST(&version->idle, slot_list));
    pthread_cond_broadcast(&pool->work);
}

/* @provision: NULL: as it is. */
static int build_locked(struct acquiring *a, const struct pool_provision *provision)
{
    int r = 0;

    if (provision && provision->maximum == 0 && !pool_version_find(a->pool, a->wanted))
        return 0; /* nothing is held: it is not made for that */
    struct pool_version *version = pool_version_use(a->pool, a->wanted);
    if (!version)
        return error_set(a->err, ENOMEM, "serve function '%s'", a->wanted->function.name);
    a->version = version;
    a->pool->leases++;
    if (!provision || provision->maximum > 0)
        r = find_instance(a);
    if (r == 0 && a->lease->verdict == POOL_READY && provision && !version->is_stale)
        set_provision(a->pool, version, provision);
    if (--a->pool->leases == 0)
        pthread_cond_broadcast(&a->pool->drained);
    pool_version_leave(a->pool, version);
    return r;
}

static int build(struct instance_pool *pool, const struct function_version *version,
                 const struct pool_provision *provision, agent_log *log, void *opaque,
                 struct pool_lease *ret_lease, struct error *err)
{
    struct pool_lease lease = {.verdict = POOL_READY};
    struct acquiring a = {.pool = pool,
                          .wanted = version,
                          .log = log,
                          .log_opaque = opaque,
                          .deadline_ns = clock_now_ns() + make_wait_ns(pool),
                          .lease = &lease,
                          .err = err,
                          .is_build = true};

    pthread_mutex_lock(&pool->lock);
    int r = build_locked(&a, provision);
    pthread_mutex_unlock(&pool->lock);
    if (r == 0)
        *ret_lease = lease;
    return r;
}

int instance_pool_build(struct instance_pool *pool, const struct function_version *version,
                        agent_log *log, void *opaque, struct pool_lease *ret_lease,
                        struct error *err)
{
    return build(pool, version, NULL, log, opaque, ret_lease, err);
}

int instance_pool_provision(struct instance_pool *pool, const struct function_version *version,
                            const struct pool_provision *provision, struct pool_lease *ret_lease,
                            struct error *err)
{
    if (provision->maximum > 0 && !pool_provision_check(provision))
        return error_say(err, EINVAL,
                         "provisioned concurrency wants minimum <= maximum and a target "
                         "utilisation above 0 and up to 1");
    return build(pool, version, provision, NULL, NULL, ret_lease, err);
}

void instance_pool_invalidate(struct instance_pool *pool, const char *tenant, const char *function,
                              const char *version)
{
    struct pool_version *next;

    pthread_mutex_lock(&pool->lock);
    for (struct pool_version *item = TAILQ_FIRST(&pool->versions); item; item = next) {
        next = TAILQ_NEXT(item, in_all);
        if (strcmp(item->tenant, tenant) == 0 && strcmp(item->name, function) == 0 &&
            (!version || strcmp(item->version, version) == 0))
            pool_version_retire(pool, item);
    }
    if (!version)
        concurrency_forget(pool->concurrency, tenant, function);
    pthread_mutex_unlock(&pool->lock);
}

static bool is_of(const struct pool_version *version, const char *tenant, const char *function)
{
    return strcmp(version->tenant, tenant) == 0 && strcmp(version->name, function) == 0;
}

size_t instance_pool_list_builds(struct instance_pool *pool, const char *tenant,
                                 const char *function, uint64_t *ret_build_ids, size_t max)
{
    const struct pool_version *item;
    size_t n = 0;

    pthread_mutex_lock(&pool->lock);
    TAILQ_FOREACH(item, &pool->versions, in_all)
    if (n < max && is_of(item, tenant, function))
        ret_build_ids[n++] = item->build_id;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

void instance_pool_drop_build(struct instance_pool *pool, const char *tenant, const char *function,
                              uint64_t build_id)
{
    struct pool_version *next;

    pthread_mutex_lock(&pool->lock);
    for (struct pool_version *item = TAILQ_FIRST(&pool->versions); item; item = next) {
        next = TAILQ_NEXT(item, in_all);
        if (item->build_id == build_id && is_of(item, tenant, function))
            pool_version_retire(pool, item);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* --- figures --------------------------------------------------------------------------------- */

void instance_pool_get_counts(struct instance_pool *pool, struct pool_counts *ret_counts)
{
    pthread_mutex_lock(&pool->lock);
    *ret_counts = pool->counts;
    ret_counts->live = pool->n_live;
    ret_counts->idle = pool->n_idle;
    ret_counts->busy = pool->n_busy;
    ret_counts->starting = pool->n_starting;
    ret_counts->versions = pool->n_versions;
    pthread_mutex_unlock(&pool->lock);
}

void instance_pool_provision_status(struct instance_pool *pool,
                                    const struct function_version *version,
                                    struct pool_provision_status *ret_status)
{
    struct pool_provision_status status = {0};

    pthread_mutex_lock(&pool->lock);
    const struct pool_version *found = pool_version_find(pool, version);
    if (found) {
        uint32_t ready = found->live - found->starting;

        status.wanted = found->wanted;
        status.ready = ready < found->wanted ? ready : found->wanted;
        memcpy(status.trouble, found->provision_trouble, sizeof(status.trouble));
    }
    pthread_mutex_unlock(&pool->lock);
    *ret_status = status;
}

void instance_pool_each(struct instance_pool *pool, concurrency_visitor *visit, void *opaque)
{
    pthread_mutex_lock(&pool->lock);
    concurrency_each(pool->concurrency, visit, opaque);
    pthread_mutex_unlock(&pool->lock);
}

/* --- life ------------------------------------------------------------------------------------ */

int instance_pool_new(const struct instance_pool_config *config, struct instance_pool **ret_pool,
                      struct error *err)
{
    struct instance_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return error_set(err, ENOMEM, "make the pool of instances");
    pool->config = *config;
    pthread_mutex_init(&pool->lock, NULL);
    pool_cond_init(&pool->work);
    pool_cond_init(&pool->drained);
    TAILQ_INIT(&pool->versions);
    TAILQ_INIT(&pool->idle);
    TAILQ_INIT(&pool->doomed);
    pool->tracked_ns = clock_now_ns();
    pool->look_ns = UINT64_MAX;
    pool->concurrency = concurrency_new();
    int r = pool->concurrency ? pool_keepers_start(pool, err)
                              : error_set(err, ENOMEM, "make the pool of instances");
    if (r < 0) {
        instance_pool_free(pool);
        return r;
    }
    *ret_pool = pool;
    return 0;
}

/* Until no lease is out, nothing starts and everything that was doomed is gone. */
static bool wait_drained(struct instance_pool *pool, uint64_t deadline_ns)
{
    while (pool->leases > 0 || pool->n_starting > 0)
        if (pool_cond_wait(&pool->drained, &pool->lock, deadline_ns) == ETIMEDOUT)
            return pool->leases == 0 && pool->n_starting == 0;
    return true;
}

int instance_pool_shutdown(struct instance_pool *pool, uint64_t deadline_ms)
{
    uint64_t deadline_ns = clock_now_ns() + deadline_ms * NS_PER_MS;
    struct pool_version *version;
    struct pool_slot *slot;
    uint64_t one = 1;

    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    while ((slot = TAILQ_FIRST(&pool->idle)))
        pool_slot_doom_idle(pool, slot);
    TAILQ_FOREACH(version, &pool->versions, in_all)
    pthread_cond_broadcast(&version->changed);
    bool is_drained = wait_drained(pool, deadline_ns);
    if (!is_drained && pool->config.interrupt_fd >= 0 &&
        write(pool->config.interrupt_fd, &one, sizeof(one)) == sizeof(one))
        is_drained = wait_drained(pool, clock_now_ns() + INTERRUPT_WAIT_MS * (uint64_t)NS_PER_MS);
    pthread_mutex_unlock(&pool->lock);
    return is_drained ? 0 : -EBUSY;
}

void instance_pool_free(struct instance_pool *pool)
{
    struct pool_version *version;
    struct pool_slot *slot;

    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    while ((slot = TAILQ_FIRST(&pool->idle)))
        pool_slot_doom_idle(pool, slot);
    while ((version = TAILQ_FIRST(&pool->versions)))
        pool_version_retire(pool, version);
    pthread_mutex_unlock(&pool->lock);
    /* They end what is doomed, several at a time. */
    pool_keepers_join(pool);
    while ((slot = TAILQ_FIRST(&pool->doomed))) {
        TAILQ_REMOVE(&pool->doomed, slot, in_all);
        pool->config.ops->destroy(slot->instance);
        free(slot);
    }
    concurrency_free(pool->concurrency);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->drained);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
