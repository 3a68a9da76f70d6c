/* Shared by the pool's files (instance_pool.c, pool_versions.c, pool_keeper.c) only. */
#ifndef MAYFLY_HOST_POOL_INSTANCE_POOL_INTERNAL_H
#define MAYFLY_HOST_POOL_INSTANCE_POOL_INTERNAL_H

#include <pthread.h>
#include <sys/queue.h>

#include "instance_pool.h"

enum { POOL_BUCKETS = 1024, KEEPERS_MAX = 16 };

/* An opened snapshot, as long as somebody restores from it. */
struct shared_frozen {
    struct frozen_version *frozen; /* owned */
    uint32_t refs;
};

/* How a making of a snapshot went wrong, for those who waited for it. */
struct make_failure {
    uint64_t number; /* of the making; 0: none failed */
    int code;        /* -errno, or 0: the init phase failed, see ->init */
    struct error err;
    struct agent_result init; /* owned */
};

TAILQ_HEAD(slot_list, pool_slot);

/* One build of one version of one function: what instances are interchangeable within. */
struct pool_version {
    LIST_ENTRY(pool_version) in_bucket;
    TAILQ_ENTRY(pool_version) in_all; /* the least recently used first; not when stale */
    struct counted_function *function;
    char *tenant, *name, *version; /* owned, as part of this block */
    uint64_t build_id;
    bool is_stale;  /* invalidated: in no list, gone with its last instance and user */
    uint32_t users; /* threads that are using this object */
    uint32_t live;  /* slots, but for the doomed */
    uint32_t busy;  /* of these, leased */
    uint32_t starting;
    struct slot_list idle; /* the warmest first */

    struct shared_frozen *shared; /* a reference; NULL: not opened */
    bool is_making;               /* somebody opens or makes it */
    uint64_t makings;             /* begun */
    struct make_failure failure;  /* the last one */
    pthread_cond_t changed;       /* made, or not; an instance became idle */

    struct pool_provision provision; /* maximum 0: none */
    struct pool_peaks peaks;
    uint32_t wanted; /* to hold, by target tracking */
    uint32_t provision_failures;
    uint64_t provision_retry_ns;
    char provision_trouble[sizeof(((struct pool_provision_status *)0)->trouble)];
};

/* An instance's place in the pool. */
struct pool_slot {
    TAILQ_ENTRY(pool_slot) in_version; /* while idle */
    TAILQ_ENTRY(pool_slot) in_all;     /* while idle, or doomed */
    struct pool_version *version;
    struct instance *instance; /* owned */
    uint64_t idle_since_ns;
    bool is_unused;   /* idle since its build: no event yet */
    bool is_reserved; /* while leased: how it entered its function's concurrency */
    agent_log *log;   /* of the present lease; read on its thread only */
    void *log_opaque;
};

struct instance_pool {
    struct instance_pool_config config;
    pthread_t keepers[KEEPERS_MAX];
    uint32_t n_keepers;
    pthread_cond_t work;    /* for keepers */
    pthread_cond_t drained; /* for the shutdown: a lease or a start ended */

    pthread_mutex_t lock; /* of all below */
    bool is_stopping;     /* no more events */
    bool is_ending;       /* keepers go, too */
    struct concurrency *concurrency;
    LIST_HEAD(, pool_version) buckets[POOL_BUCKETS];
    TAILQ_HEAD(version_list, pool_version) versions;
    struct slot_list idle;   /* the unused ones of builds, then the least recently used first */
    struct slot_list doomed; /* to be ended by a keeper */
    uint32_t n_ending;       /* being ended */
    uint32_t leases;         /* out, or on their way out */
    uint32_t n_live, n_idle, n_unused, n_busy, n_starting, n_versions;
    uint64_t swept_ns;       /* when idle instances were last looked at */
    uint64_t look_ns;        /* when a keeper that waits looks again by itself, at the latest */
    uint64_t tracked_ns;     /* when an interval of target tracking last began */
    uint64_t memory_read_ns; /* /proc/meminfo */
    bool is_short;           /* it said so */
    struct pool_counts counts;
};

/* All of these want the lock held. */

/* pool_versions.c */
struct pool_version *pool_version_find(struct instance_pool *pool,
                                       const struct function_version *version);
/* pool_version_use - found or made, and used by the caller; NULL: out of memory. */
struct pool_version *pool_version_use(struct instance_pool *pool,
                                      const struct function_version *version);
/* pool_version_leave - the caller's use ends; the object may be gone then. */
void pool_version_leave(struct instance_pool *pool, struct pool_version *version);
/* pool_version_retire - stale from now on; its idle instances are doomed. */
void pool_version_retire(struct instance_pool *pool, struct pool_version *version);
/* pool_version_share - what @version's snapshot is, with a reference for the caller. */
struct shared_frozen *pool_version_share(struct pool_version *version);
void pool_shared_unref(struct instance_pool *pool, struct shared_frozen *shared);
/* pool_version_drop_frozen - @shared turned out to be of no use. */
void pool_version_drop_frozen(struct instance_pool *pool, struct pool_version *version,
                              const struct shared_frozen *shared);

/* instance_pool.c */
/* pool_slot_new - counted as starting and live. NULL: out of memory. */
struct pool_slot *pool_slot_new(struct instance_pool *pool, struct pool_version *version);
/* pool_slot_void - a start that failed. */
void pool_slot_void(struct instance_pool *pool, struct pool_slot *slot);
void pool_slot_doom_idle(struct instance_pool *pool, struct pool_slot *slot);
void pool_slot_to_idle(struct instance_pool *pool, struct pool_slot *slot);
/* pool_slot_to_unused - of a build: likewise, but among the first to go. */
void pool_slot_to_unused(struct instance_pool *pool, struct pool_slot *slot);
/* pool_slot_log - an agent_log; its opaque is the slot. */
agent_log pool_slot_log;
/* pool_make_room - for one more instance, by ending idle ones. Is there any? */
bool pool_make_room(struct instance_pool *pool);
void pool_cond_init(pthread_cond_t *cond);
int pool_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t at_ns);

/* pool_keeper.c */
int pool_keepers_start(struct instance_pool *pool, struct error *err);
void pool_keepers_join(struct instance_pool *pool);
/* pool_keepers_expect - since @now_ns there is an idle instance again: a keeper must look at it in
 * time. One is woken only if none will be awake by then: warm events come and go without. */
void pool_keepers_expect(struct instance_pool *pool, uint64_t now_ns);
/* pool_end_one_idle - the first that @reason allows. Was there one? */
bool pool_end_one_idle(struct instance_pool *pool, enum pool_reason reason);
/* pool_is_short_of_memory - by /proc/meminfo, if the configuration asks for it. */
bool pool_is_short_of_memory(struct instance_pool *pool);

#endif
