/* Token buckets: see rate_limit.h. */
#include "rate_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

enum { CHAINS = 256 };

/* Time stands for tokens: a token is worth as long as it takes to come. */
struct bucket {
    struct bucket *next;
    uint64_t full_us; /* when it is (or was) full again */
    char name[];
};

struct rate_limit {
    uint64_t token_us, depth_us; /* of one; of a full bucket. In 1/1024 us */
    pthread_mutex_t lock;        /* of the buckets */
    struct bucket *chains[CHAINS];
};

enum { FRACTION = 1024 };

int rate_limit_new(uint32_t per_s, uint32_t burst, struct rate_limit **ret_limit, struct error *err)
{
    struct rate_limit *limit = per_s && burst ? calloc(1, sizeof(*limit)) : NULL;

    if (!limit)
        return error_set(err, per_s && burst ? ENOMEM : EINVAL, "limit the rate of requests");
    limit->token_us = 1000000ull * FRACTION / per_s;
    limit->depth_us = limit->token_us * burst;
    pthread_mutex_init(&limit->lock, NULL);
    *ret_limit = limit;
    return 0;
}

void rate_limit_free(struct rate_limit *limit)
{
    if (!limit)
        return;
    for (size_t i = 0; i < CHAINS; i++) {
        while (limit->chains[i]) {
            struct bucket *bucket = limit->chains[i];

            limit->chains[i] = bucket->next;
            free(bucket);
        }
    }
    pthread_mutex_destroy(&limit->lock);
    free(limit);
}

/* With the lock. A new one is full. */
static struct bucket *find_bucket(struct rate_limit *limit, const char *name)
{
    struct bucket **chain = &limit->chains[api_owner_id(name) % CHAINS], *bucket;

    for (bucket = *chain; bucket; bucket = bucket->next)
        if (strcmp(bucket->name, name) == 0)
            return bucket;
    bucket = calloc(1, sizeof(*bucket) + strlen(name) + 1);
    if (bucket) {
        memcpy(bucket->name, name, strlen(name) + 1);
        bucket->next = *chain;
        *chain = bucket;
    }
    return bucket;
}

bool rate_limit_take(struct rate_limit *limit, const char *name, uint64_t now_us)
{
    uint64_t now = now_us * FRACTION;
    bool is_taken = true;

    pthread_mutex_lock(&limit->lock);
    struct bucket *bucket = find_bucket(limit, name);
    if (bucket) {
        uint64_t from = bucket->full_us > now ? bucket->full_us : now;

        is_taken = from + limit->token_us <= now + limit->depth_us;
        if (is_taken)
            bucket->full_us = from + limit->token_us;
    }
    pthread_mutex_unlock(&limit->lock);
    return is_taken;
}
