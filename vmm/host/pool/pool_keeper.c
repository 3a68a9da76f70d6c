/*
 * What a pool's own threads do: end what is doomed, too long idle or in the way of the host's
 * memory; find the dead; hold provisioned instances ready. One step at a time, the longest ones
 * outside the lock.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fd.h"
#include "instance_pool_internal.h"
#include "shell_policy.h"

enum {
    KEEPERS_DEFAULT = 2,
    NS_PER_MS = 1000000,
    SWEEP_MS = 1000,
    MEMORY_READ_MS = 20,
    TRACKING_DEFAULT_MS = 60000
};

/* --- memory ---------------------------------------------------------------------------------- */

/* MemAvailable in bytes; UINT64_MAX where it cannot be read: then it limits nothing. */
static uint64_t available_bytes(void)
{
    AUTO_FREE uint8_t *text = NULL;
    unsigned long long kib;
    size_t len;

    if (fd_read_file("/proc/meminfo", 64 * 1024, &text, &len, NULL) < 0)
        return UINT64_MAX;
    const char *line = strstr((const char *)text, "MemAvailable:");
    return line && sscanf(line, "MemAvailable: %llu kB", &kib) == 1 ? kib * 1024u : UINT64_MAX;
}

bool pool_is_short_of_memory(struct instance_pool *pool)
{
    uint64_t now_ns = clock_now_ns();

    if (pool->config.min_available_bytes == 0)
        return false;
    if (now_ns - pool->memory_read_ns > MEMORY_READ_MS * (uint64_t)NS_PER_MS) {
        uint64_t (*read_available)(void) = pool->config.read_available;

        pool->is_short = (read_available ? read_available() : available_bytes()) <
                         pool->config.min_available_bytes;
        pool->memory_read_ns = now_ns;
    }
    return pool->is_short;
}

/* --- idle instances -------------------------------------------------------------------------- */

static uint64_t keep_alive_ns(const struct instance_pool *pool)
{
    return pool->config.keep_alive_ms * NS_PER_MS;
}

static struct pool_idle in_question(const struct pool_slot *slot, uint64_t now_ns)
{
    return (struct pool_idle){.idle_ns =
                                  now_ns > slot->idle_since_ns ? now_ns - slot->idle_since_ns : 0,
                              .live = slot->version->live,
                              .provisioned = slot->version->wanted};
}

bool pool_end_one_idle(struct instance_pool *pool, enum pool_reason reason)
{
    uint64_t now_ns = clock_now_ns();
    struct pool_slot *slot;

    TAILQ_FOREACH(slot, &pool->idle, in_all)
    {
        const struct pool_idle idle = in_question(slot, now_ns);

        if (!pool_policy_may_end(&idle, reason, keep_alive_ns(pool)))
            continue;
        if (reason == REASON_KEEP_ALIVE)
            pool->counts.ended_keep_alive++;
        else if (reason == REASON_ROOM)
            pool->counts.ended_room++;
        else
            pool->counts.ended_memory++;
        pool_slot_doom_idle(pool, slot);
        return true;
    }
    return false;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When the oldest one that may go will have been kept for long enough: the unused ones, which are
 * few, and the others are each in their order. */
static uint64_t next_expiry_ns(const struct instance_pool *pool)
{
    const struct pool_slot *slot;
    uint64_t at_ns = UINT64_MAX;

    TAILQ_FOREACH(slot, &pool->idle, in_all)
    {
        if (slot->version->live <= slot->version->wanted)
            continue;
        at_ns = earlier(at_ns, slot->idle_since_ns + keep_alive_ns(pool));
        if (!slot->is_unused)
            break;
    }
    return at_ns;
}

/* Instances that died while nobody used them, and memory that others have taken. */
static void sweep(struct instance_pool *pool)
{
    struct pool_slot *next;

    for (struct pool_slot *slot = TAILQ_FIRST(&pool->idle); slot; slot = next) {
        next = TAILQ_NEXT(slot, in_all);
        if (!pool->config.ops->is_alive(slot->instance)) {
            pool->counts.died++;
            pool_slot_doom_idle(pool, slot);
        }
    }
    pool->swept_ns = clock_now_ns();
    /* One at a time: the next look comes when it is gone, and has given its memory back. */
    if (pool->n_ending == 0 && TAILQ_EMPTY(&pool->doomed) && pool_is_short_of_memory(pool) &&
        !pool_end_one_idle(pool, REASON_MEMORY))
        pool_end_one_idle(pool, REASON_DISTRESS);
}

/* --- provisioned concurrency ----------------------------------------------------------------- */

static uint64_t tracking_ns(const struct instance_pool *pool)
{
    uint64_t ms = pool->config.tracking_interval_ms;

    return (ms ? ms : TRACKING_DEFAULT_MS) * NS_PER_MS;
}

static void track(struct instance_pool *pool, uint64_t now_ns)
{
    struct pool_version *version;

    TAILQ_FOREACH(version, &pool->versions, in_all)
    {
        if (version->provision.maximum > 0)
            version->wanted = pool_policy_track(&version->provision, &version->peaks);
        pool_peaks_next(&version->peaks, version->busy);
    }
    pool->tracked_ns = now_ns;
}

/* A version that has fewer than it wants; *ret_at_ns: when one may be tried again. */
static struct pool_version *find_wanting(struct instance_pool *pool, uint64_t now_ns,
                                         uint64_t *ret_at_ns)
{
    struct pool_version *version;

    TAILQ_FOREACH(version, &pool->versions, in_all)
    {
        if (version->live >= version->wanted || !version->shared)
            continue;
        if (version->provision_retry_ns <= now_ns)
            return version;
        if (version->provision_retry_ns < *ret_at_ns)
            *ret_at_ns = version->provision_retry_ns;
    }
    return NULL;
}

static void count_failure(struct instance_pool *pool, struct pool_version *version,
                          const struct error *err)
{
    version->provision_failures++;
    version->provision_retry_ns =
        clock_now_ns() + shell_policy_pause_ns(version->provision_failures);
    snprintf(version->provision_trouble, sizeof(version->provision_trouble), "%.*s",
             (int)sizeof(version->provision_trouble) - 1, err->text);
    pool->counts.provision_failed++;
    pool->counts.last_error = *err;
}

/* Restores one ahead; the lock is given up meanwhile. */
static void hold_one_more(struct instance_pool *pool, struct pool_version *version)
{
    struct error err = {0};
    struct pool_slot *slot = pool_make_room(pool) ? pool_slot_new(pool, version) : NULL;

    if (!slot) {
        error_say(&err, ENOMEM, "no room to hold an instance of '%s' ready", version->name);
        count_failure(pool, version, &err);
        return;
    }
    struct shared_frozen *shared = pool_version_share(version);
    version->users++;
    pthread_mutex_unlock(&pool->lock);
    int r = pool->config.ops->restore(pool->config.source, shared->frozen, pool_slot_log, slot,
                                      &slot->instance, &err);
    pthread_mutex_lock(&pool->lock);
    pool_shared_unref(pool, shared);
    if (r < 0) {
        count_failure(pool, version, &err);
        pool_slot_void(pool, slot);
    } else {
        version->provision_failures = 0;
        version->provision_trouble[0] = '\0';
        version->starting--;
        pool->n_starting--;
        pool_slot_to_idle(pool, slot);
        pthread_cond_broadcast(&pool->drained);
    }
    pool_version_leave(pool, version);
}

/* --- the threads ----------------------------------------------------------------------------- */

static void end_doomed(struct instance_pool *pool, struct pool_slot *slot)
{
    TAILQ_REMOVE(&pool->doomed, slot, in_all);
    pool->n_ending++;
    pthread_mutex_unlock(&pool->lock);
    pool->config.ops->destroy(slot->instance);
    free(slot);
    pthread_mutex_lock(&pool->lock);
    pool->n_ending--;
    if (pool->is_short) { /* is it still? */
        pool->memory_read_ns = 0;
        pool->swept_ns = 0;
    }
}

static bool has_provisions(const struct instance_pool *pool)
{
    const struct pool_version *version;

    TAILQ_FOREACH(version, &pool->versions, in_all)
    if (version->provision.maximum > 0)
        return true;
    return false;
}

/* Does one thing that is due. Returns 0, or when there will be something. */
static uint64_t keep(struct instance_pool *pool)
{
    uint64_t now_ns = clock_now_ns(), at_ns = UINT64_MAX;
    struct pool_slot *doomed = TAILQ_FIRST(&pool->doomed);

    if (doomed) {
        end_doomed(pool, doomed);
        return 0;
    }
    if (pool->is_stopping)
        return UINT64_MAX;
    if (pool_end_one_idle(pool, REASON_KEEP_ALIVE))
        return 0;
    if (pool->n_idle > 0 && now_ns >= pool->swept_ns + SWEEP_MS * (uint64_t)NS_PER_MS) {
        sweep(pool);
        return 0;
    }
    if (now_ns >= pool->tracked_ns + tracking_ns(pool))
        track(pool, now_ns);
    struct pool_version *wanting = find_wanting(pool, now_ns, &at_ns);
    if (wanting) {
        hold_one_more(pool, wanting);
        return 0;
    }
    if (has_provisions(pool))
        at_ns = earlier(at_ns, pool->tracked_ns + tracking_ns(pool));
    if (pool->n_idle > 0)
        at_ns = earlier(at_ns, pool->swept_ns + SWEEP_MS * (uint64_t)NS_PER_MS);
    return earlier(at_ns, next_expiry_ns(pool));
}

void pool_keepers_expect(struct instance_pool *pool, uint64_t now_ns)
{
    uint64_t due_ns = now_ns + earlier(SWEEP_MS * (uint64_t)NS_PER_MS, keep_alive_ns(pool));

    if (pool->look_ns > due_ns)
        pthread_cond_signal(&pool->work);
}

static void *keeper_main(void *opaque)
{
    struct instance_pool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    while (!pool->is_ending || !TAILQ_EMPTY(&pool->doomed)) {
        uint64_t at_ns = keep(pool);

        if (at_ns > 0 && !pool->is_ending) {
            pool->look_ns = at_ns;
            pool_cond_wait(&pool->work, &pool->lock, at_ns);
            pool->look_ns = UINT64_MAX; /* the others may wait for longer */
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Signals are for the process's other threads. */
int pool_keepers_start(struct instance_pool *pool, struct error *err)
{
    uint32_t wanted = pool->config.n_keepers ? pool->config.n_keepers : KEEPERS_DEFAULT;
    sigset_t all, before;
    int r = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (r == 0 && pool->n_keepers < wanted && pool->n_keepers < KEEPERS_MAX) {
        r = pthread_create(&pool->keepers[pool->n_keepers], NULL, keeper_main, pool);
        pool->n_keepers += r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r == 0 ? 0 : error_set(err, r, "start the threads of the pool of instances");
}

void pool_keepers_join(struct instance_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    pool->is_ending = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->n_keepers; i++)
        pthread_join(pool->keepers[i], NULL);
    pool->n_keepers = 0;
}
