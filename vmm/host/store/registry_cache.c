/* Versions and tenants read lately: see registry_cache.h. Process: the daemon's. */
#include "registry_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/text_hash.h"
#include "registry_internal.h"

/* Four places for keys of the same hash: two busy functions do not drive each other out. */
enum { SETS = 1024, WAYS = 4, TENANT_SETS = 256 };

struct entry {
    struct function *function; /* a reference */
    uint64_t generation;
    bool is_served;
    char qualifier[]; /* as asked for: "" for $LATEST */
};

struct tenant_entry {
    uint64_t generation; /* 0: empty */
    struct tenant tenant;
};

struct registry_cache {
    pthread_mutex_t lock; /* of all below */
    struct set {
        struct entry *ways[WAYS]; /* owned */
        unsigned next;            /* to be replaced */
    } sets[SETS];
    struct tenant_entry *tenants[TENANT_SETS]; /* owned */
};

struct registry_cache *registry_cache_new(void)
{
    struct registry_cache *cache = calloc(1, sizeof(*cache));

    if (cache)
        pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

static void entry_free(struct entry *entry)
{
    if (!entry)
        return;
    function_free(entry->function);
    free(entry);
}

void registry_cache_free(struct registry_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < SETS; i++)
        for (size_t way = 0; way < WAYS; way++)
            entry_free(cache->sets[i].ways[way]);
    for (size_t i = 0; i < TENANT_SETS; i++)
        free(cache->tenants[i]);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* --- versions -------------------------------------------------------------------------------- */

static const char *qualifier_of(const struct function_key *key)
{
    return key->qualifier && strcmp(key->qualifier, "$LATEST") != 0 ? key->qualifier : "";
}

static struct set *set_of(struct registry_cache *cache, const struct function_key *key)
{
    uint64_t hash = text_hash(text_hash(TEXT_HASH_START, key->tenant), key->name);

    return &cache->sets[text_hash(hash, qualifier_of(key)) % SETS];
}

static bool is_of(const struct entry *entry, const struct function_key *key, bool is_served)
{
    return entry && entry->is_served == is_served &&
           strcmp(entry->function->name, key->name) == 0 &&
           strcmp(entry->function->tenant, key->tenant) == 0 &&
           strcmp(entry->qualifier, qualifier_of(key)) == 0;
}

struct function *registry_cache_find(struct registry_cache *cache, const struct function_key *key,
                                     bool is_served, uint64_t generation)
{
    struct function *found = NULL;

    pthread_mutex_lock(&cache->lock);
    const struct set *set = set_of(cache, key);
    for (size_t way = 0; way < WAYS && !found; way++)
        if (is_of(set->ways[way], key, is_served) && set->ways[way]->generation == generation)
            found = function_ref(set->ways[way]->function);
    pthread_mutex_unlock(&cache->lock);
    return found;
}

static struct entry *entry_new(const struct function_key *key, bool is_served, uint64_t generation,
                               struct function *function)
{
    const char *qualifier = qualifier_of(key);
    struct entry *entry = malloc(sizeof(*entry) + strlen(qualifier) + 1);

    if (!entry)
        return NULL;
    entry->function = function_ref(function);
    entry->generation = generation;
    entry->is_served = is_served;
    strcpy(entry->qualifier, qualifier);
    return entry;
}

/* The older one of the same key, else one that no longer serves, else each in its turn. */
static size_t way_for(struct set *set, const struct function_key *key, bool is_served,
                      uint64_t generation)
{
    size_t chosen = WAYS;

    for (size_t way = 0; way < WAYS; way++) {
        if (is_of(set->ways[way], key, is_served))
            return way;
        if (!set->ways[way] || set->ways[way]->generation != generation)
            chosen = way;
    }
    return chosen < WAYS ? chosen : set->next++ % WAYS;
}

void registry_cache_keep(struct registry_cache *cache, const struct function_key *key,
                         bool is_served, uint64_t generation, struct function *function)
{
    struct entry *entry = entry_new(key, is_served, generation, function);

    if (!entry)
        return;
    pthread_mutex_lock(&cache->lock);
    struct set *set = set_of(cache, key);
    size_t way = way_for(set, key, is_served, generation);
    struct entry *old = set->ways[way];
    set->ways[way] = entry;
    pthread_mutex_unlock(&cache->lock);
    entry_free(old);
}

/* --- tenants --------------------------------------------------------------------------------- */

static struct tenant_entry **tenant_place(struct registry_cache *cache, const char *name)
{
    return &cache->tenants[text_hash(TEXT_HASH_START, name) % TENANT_SETS];
}

bool registry_cache_find_tenant(struct registry_cache *cache, const char *name, uint64_t generation,
                                struct tenant *ret_tenant)
{
    pthread_mutex_lock(&cache->lock);
    const struct tenant_entry *entry = *tenant_place(cache, name);
    bool is_there =
        entry && entry->generation == generation && strcmp(entry->tenant.name, name) == 0;
    if (is_there)
        *ret_tenant = entry->tenant;
    pthread_mutex_unlock(&cache->lock);
    return is_there;
}

void registry_cache_keep_tenant(struct registry_cache *cache, uint64_t generation,
                                const struct tenant *tenant)
{
    pthread_mutex_lock(&cache->lock);
    struct tenant_entry **place = tenant_place(cache, tenant->name);
    if (!*place)
        *place = malloc(sizeof(**place));
    if (*place)
        **place = (struct tenant_entry){generation, *tenant};
    pthread_mutex_unlock(&cache->lock);
}
