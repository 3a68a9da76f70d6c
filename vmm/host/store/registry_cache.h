/*
 * What the registry has read lately: versions by key, tenants by name; for whoever asks for the
 * same again and again, as invocations do. Bounded.
 *
 * Invariant: an entry serves only while registry_generation() is what it was before the entry was
 * read, so nothing is seen that a committed change has made untrue.
 * Process: the daemon's, who must be the only one to change the database. Threads: any.
 */
#ifndef MAYFLY_HOST_STORE_REGISTRY_CACHE_H
#define MAYFLY_HOST_STORE_REGISTRY_CACHE_H

#include "registry.h"

struct registry_cache;

struct registry_cache *registry_cache_new(void);        /* NULL: out of memory */
void registry_cache_free(struct registry_cache *cache); /* takes NULL */

/* registry_cache_find - with a reference for the caller (function_free()), or NULL. @is_served: of
 * registry_find_served(). */
struct function *registry_cache_find(struct registry_cache *cache, const struct function_key *key,
                                     bool is_served, uint64_t generation);

/* registry_cache_keep - @function was found by @key; @generation: from before that. Takes a
 * reference of its own; forgets it where there is no memory. */
void registry_cache_keep(struct registry_cache *cache, const struct function_key *key,
                         bool is_served, uint64_t generation, struct function *function);

bool registry_cache_find_tenant(struct registry_cache *cache, const char *name, uint64_t generation,
                                struct tenant *ret_tenant);
void registry_cache_keep_tenant(struct registry_cache *cache, uint64_t generation,
                                const struct tenant *tenant);

#endif
