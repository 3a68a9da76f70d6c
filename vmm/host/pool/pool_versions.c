/*
 * What a pool knows of versions: found by tenant, function, version and build, kept while anything
 * uses them and, for their opened snapshots, while there is room. All under the pool's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/text_hash.h"
#include "instance_pool_internal.h"

enum { VERSIONS_DEFAULT = 1024, TRIM_LOOKS = 16 };

static size_t bucket_of(const struct function_version *version)
{
    uint64_t hash = text_hash(TEXT_HASH_START, version->tenant);

    hash = text_hash(hash, version->function.name);
    return (text_hash(hash, version->function.version) ^ version->build_id) % POOL_BUCKETS;
}

struct pool_version *pool_version_find(struct instance_pool *pool,
                                       const struct function_version *version)
{
    struct pool_version *item;

    LIST_FOREACH(item, &pool->buckets[bucket_of(version)], in_bucket)
    if (item->build_id == version->build_id && strcmp(item->tenant, version->tenant) == 0 &&
        strcmp(item->name, version->function.name) == 0 &&
        strcmp(item->version, version->function.version) == 0)
        return item;
    return NULL;
}

struct shared_frozen *pool_version_share(struct pool_version *version)
{
    version->shared->refs++;
    return version->shared;
}

/* Closing two descriptors: short enough under the lock. */
void pool_shared_unref(struct instance_pool *pool, struct shared_frozen *shared)
{
    if (!shared || --shared->refs > 0)
        return;
    pool->config.ops->forget(shared->frozen);
    free(shared);
}

void pool_version_drop_frozen(struct instance_pool *pool, struct pool_version *version,
                              const struct shared_frozen *shared)
{
    if (version->shared != shared)
        return;
    version->shared = NULL;
    pool_shared_unref(pool, (struct shared_frozen *)(uintptr_t)shared);
}

static void free_version(struct instance_pool *pool, struct pool_version *version)
{
    if (!version->is_stale) {
        LIST_REMOVE(version, in_bucket);
        TAILQ_REMOVE(&pool->versions, version, in_all);
        pool->n_versions--;
    }
    pool_shared_unref(pool, version->shared);
    if (version->failure.number > 0 && version->failure.code == 0)
        agent_result_done(&version->failure.init);
    concurrency_unuse(pool->concurrency, version->function);
    pthread_cond_destroy(&version->changed);
    free(version);
}

static bool is_unused(const struct pool_version *version)
{
    return version->users == 0 && version->live == 0;
}

/* Forgets the snapshots that were not used for longest, as far as a short look finds them. */
static void trim(struct instance_pool *pool)
{
    uint32_t limit = pool->config.max_versions ? pool->config.max_versions : VERSIONS_DEFAULT;
    struct pool_version *item = TAILQ_FIRST(&pool->versions);

    for (int i = 0; i < TRIM_LOOKS && item && pool->n_versions > limit; i++) {
        struct pool_version *next = TAILQ_NEXT(item, in_all);

        if (is_unused(item) && item->provision.maximum == 0)
            free_version(pool, item);
        item = next;
    }
}

static struct pool_version *new_version(struct instance_pool *pool,
                                        const struct function_version *from)
{
    const char *texts[] = {from->tenant, from->function.name, from->function.version};
    size_t len[3] = {strlen(texts[0]) + 1, strlen(texts[1]) + 1, strlen(texts[2]) + 1};
    struct counted_function *function =
        concurrency_find(pool->concurrency, from->tenant, from->function.name);
    struct pool_version *version =
        function ? calloc(1, sizeof(*version) + len[0] + len[1] + len[2]) : NULL;

    if (!version)
        return NULL;
    version->tenant = (char *)(version + 1);
    version->name = version->tenant + len[0];
    version->version = version->name + len[1];
    memcpy(version->tenant, texts[0], len[0]);
    memcpy(version->name, texts[1], len[1]);
    memcpy(version->version, texts[2], len[2]);
    version->build_id = from->build_id;
    version->function = function;
    function->users++;
    TAILQ_INIT(&version->idle);
    pool_cond_init(&version->changed);
    LIST_INSERT_HEAD(&pool->buckets[bucket_of(from)], version, in_bucket);
    TAILQ_INSERT_TAIL(&pool->versions, version, in_all);
    pool->n_versions++;
    return version;
}

struct pool_version *pool_version_use(struct instance_pool *pool,
                                      const struct function_version *version)
{
    struct pool_version *found = pool_version_find(pool, version);

    if (found) {
        TAILQ_REMOVE(&pool->versions, found, in_all);
        TAILQ_INSERT_TAIL(&pool->versions, found, in_all);
    } else {
        found = new_version(pool, version);
        if (!found)
            return NULL;
    }
    found->users++;
    trim(pool);
    return found;
}

void pool_version_leave(struct instance_pool *pool, struct pool_version *version)
{
    version->users--;
    if (version->is_stale && is_unused(version))
        free_version(pool, version);
}

void pool_version_retire(struct instance_pool *pool, struct pool_version *version)
{
    struct pool_slot *slot;

    version->users++;
    while ((slot = TAILQ_FIRST(&version->idle)))
        pool_slot_doom_idle(pool, slot);
    LIST_REMOVE(version, in_bucket);
    TAILQ_REMOVE(&pool->versions, version, in_all);
    pool->n_versions--;
    version->is_stale = true;
    version->provision = (struct pool_provision){0};
    version->wanted = 0;
    pool_version_leave(pool, version);
}

/* --- opening ahead --------------------------------------------------------------------------- */

/* With the lock, which is given up meanwhile. Whoever makes or opens it already does it as well. */
static int open_locked(struct instance_pool *pool, struct pool_version *version,
                       const struct function_version *wanted, struct error *err)
{
    const struct instance_pool_config *config = &pool->config;
    struct frozen_version *frozen = NULL;
    struct shared_frozen *shared = NULL;
    int r = 0;

    if (version->shared || version->is_making)
        return 0;
    version->is_making = true;
    version->makings++;
    pthread_mutex_unlock(&pool->lock);
    r = config->ops->find(config->source, wanted, &frozen, err);
    if (r == 0) {
        shared = calloc(1, sizeof(*shared));
        if (config->ops->expect)
            config->ops->expect(config->source, frozen);
    }
    pthread_mutex_lock(&pool->lock);
    version->is_making = false;
    if (shared) {
        *shared = (struct shared_frozen){.frozen = frozen, .refs = 1};
        version->shared = shared;
    } else if (r == 0) {
        config->ops->forget(frozen);
        r = error_set(err, ENOMEM, "keep a snapshot");
    }
    pthread_cond_broadcast(&version->changed);
    return r;
}

int instance_pool_open(struct instance_pool *pool, const struct function_version *version,
                       struct error *err)
{
    int r;

    pthread_mutex_lock(&pool->lock);
    struct pool_version *found = pool->is_stopping ? NULL : pool_version_use(pool, version);
    if (found) {
        pool->leases++; /* a shutdown waits for it */
        r = open_locked(pool, found, version, err);
        if (--pool->leases == 0)
            pthread_cond_broadcast(&pool->drained);
        pool_version_leave(pool, found);
    } else {
        r = pool->is_stopping ? error_say(err, ESHUTDOWN, "the host is shutting down")
                              : error_set(err, ENOMEM, "open a snapshot");
    }
    pthread_mutex_unlock(&pool->lock);
    return r;
}

void instance_pool_each_version(struct instance_pool *pool, pool_version_visitor *visit,
                                void *opaque)
{
    const struct pool_version *item;

    pthread_mutex_lock(&pool->lock);
    TAILQ_FOREACH_REVERSE(item, &pool->versions, version_list, in_all)
    {
        const struct function_version version = {
            .tenant = item->tenant,
            .build_id = item->build_id,
            .function = {.name = item->name, .version = item->version}};

        if (!visit(opaque, &version))
            break;
    }
    pthread_mutex_unlock(&pool->lock);
}
