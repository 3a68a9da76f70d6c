/*
 * The instances of a host: warm ones kept for their next event, others restored or made when there
 * are none. At most one event at a time in an instance; an instance serves one version of one
 * tenant's function, ever.
 *
 *   instance_pool_new() → acquire() … release() from any threads → shutdown() → free()
 *
 * Acquiring: the warmest idle instance; else a new one, restored on the caller's thread, so that a
 * burst restores in parallel; else (no snapshot yet) the snapshot is made by one caller while the
 * others of that version wait for it. Threads of the pool's own end what is idle for too long, look
 * after memory, and hold provisioned instances ready.
 */
#ifndef MAYFLY_HOST_POOL_INSTANCE_POOL_H
#define MAYFLY_HOST_POOL_INSTANCE_POOL_H

#include "instance_source.h"
#include "pool_policy.h"

struct instance_pool;
struct pool_slot;

enum { POOL_UNUSED_MAX = 8 };

struct instance_pool_config {
    const struct instance_source_ops *ops;
    void *source; /* borrowed for the pool's life */
    uint64_t keep_alive_ms;
    /* How long to wait for somebody else's making of the same snapshot. 0: 300 s. */
    uint64_t make_wait_ms;
    uint32_t max_instances; /* alive at once, idle ones included */
    uint32_t max_versions;  /* whose opened snapshots are kept; 0: 1024 */
    /* Idle instances are ended, and none are started, while the host has less available (as
     * /proc/meminfo counts). 0: no such limit. */
    uint64_t min_available_bytes;
    uint64_t (*read_available)(void); /* bytes; NULL: MemAvailable */
    uint64_t tracking_interval_ms;    /* of provisioned concurrency; 0: 60 s */
    uint32_t n_keepers;               /* threads; 0: 2 */
    int interrupt_fd; /* owned by the caller: an eventfd that the source's instances wait on, too.
                         Written when a shutdown's deadline has passed. -1: none */
};

enum pool_start {
    START_WARM,     /* it had been initialised before: nothing was waited for */
    START_RESTORED, /* from the version's snapshot */
    START_COLD,     /* the snapshot was made for it: the init phase ran now */
};

enum pool_verdict {
    POOL_READY,
    POOL_THROTTLED_FUNCTION, /* ReservedFunctionConcurrentInvocationLimitExceeded */
    POOL_THROTTLED_ACCOUNT,  /* ConcurrentInvocationLimitExceeded */
    POOL_HOST_FULL,          /* no room for another instance on this host, now */
    POOL_INIT_FAILED,        /* the function's own fault: see ->init */
};

struct pool_lease {
    enum pool_verdict verdict;
    /* The rest is valid with POOL_READY… */
    enum pool_start start;
    struct instance *instance; /* borrowed until release */
    struct pool_slot *slot;    /* the pool's */
    uint64_t acquire_us;       /* what it took in all */
    /* …but this with POOL_INIT_FAILED: owned, agent_result_done() it. */
    struct agent_result init;
};

int instance_pool_new(const struct instance_pool_config *config, struct instance_pool **ret_pool,
                      struct error *err);

/*
 * instance_pool_acquire - an instance for one event. @log (may be NULL) gets what the function
 * prints from now on until release, and in its init phase; on the thread that uses the instance.
 * Returns 0 with a verdict in *ret_lease; -ETIMEDOUT after make_wait_ms; -ESHUTDOWN; or what the
 * source failed with.
 */
int instance_pool_acquire(struct instance_pool *pool, const struct function_version *version,
                          agent_log *log, void *opaque, struct pool_lease *ret_lease,
                          struct error *err);

/* instance_pool_release - ends a POOL_READY lease. @is_usable: it may be given further events. */
void instance_pool_release(struct instance_pool *pool, struct pool_lease *lease, bool is_usable);

/*
 * instance_pool_build - make the version's snapshot, unless it is there: what publishing a function
 * waits for. The instance that it was taken of waits for the first event, but it is the first to go
 * when there is no room, and only the last POOL_UNUSED_MAX such instances are kept. No event, no
 * concurrency.
 * *ret_lease: a verdict only, POOL_READY, POOL_INIT_FAILED or POOL_HOST_FULL. Errors as above.
 */
int instance_pool_build(struct instance_pool *pool, const struct function_version *version,
                        agent_log *log, void *opaque, struct pool_lease *ret_lease,
                        struct error *err);

/*
 * instance_pool_provision - hold instances of @version ready. Waits until its snapshot is there,
 * not for the instances. A new call replaces the version's older numbers; minimum and maximum 0
 * end it. Idle instances that were held and no longer are end now. *ret_lease as for
 * instance_pool_build(). -EINVAL for numbers that make no sense.
 */
int instance_pool_provision(struct instance_pool *pool, const struct function_version *version,
                            const struct pool_provision *provision, struct pool_lease *ret_lease,
                            struct error *err);

/*
 * instance_pool_invalidate - the function's code or settings changed, or it is gone: its idle
 * instances end now, the others after their events, what is provisioned is no longer held.
 * @version: as in instance_function; NULL: all, and its counters are forgotten.
 */
void instance_pool_invalidate(struct instance_pool *pool, const char *tenant, const char *function,
                              const char *version);

/* instance_pool_list_builds - those of the function that the pool has anything of, @max at most.
 * Returns how many. instance_pool_drop_build - one of them is no longer used: it ends as above. */
size_t instance_pool_list_builds(struct instance_pool *pool, const char *tenant,
                                 const char *function, uint64_t *ret_build_ids, size_t max);
void instance_pool_drop_build(struct instance_pool *pool, const char *tenant, const char *function,
                              uint64_t build_id);

/*
 * instance_pool_open - open the version's snapshot, so that a restore has nothing to wait for but
 * the guest, and have a shell made for it. Makes nothing: -ENOENT where there is none. Else as the
 * source's find().
 */
int instance_pool_open(struct instance_pool *pool, const struct function_version *version,
                       struct error *err);

/* instance_pool_each_version - what is known at present, the most recently used first. Of each only
 * tenant, name, version and build_id are set, borrowed for the call. @visit must not call the pool;
 * what it returns but true ends the walk. */
typedef bool pool_version_visitor(void *opaque, const struct function_version *version);
void instance_pool_each_version(struct instance_pool *pool, pool_version_visitor *visit,
                                void *opaque);

struct pool_counts {
    uint32_t live; /* instances, those being started or ended too */
    uint32_t idle;
    uint32_t busy;
    uint32_t starting;
    uint32_t versions;         /* known at present */
    uint64_t ended_keep_alive; /* idle for too long; these count from the pool's start */
    uint64_t ended_room;       /* to make room for others */
    uint64_t ended_memory;     /* the host was short of memory */
    uint64_t died;             /* found dead while idle */
    uint64_t provision_failed; /* restores ahead that failed */
    struct error last_error;   /* of these; code 0: none */
};

void instance_pool_get_counts(struct instance_pool *pool, struct pool_counts *ret_counts);

/* What one version has, of what was promised. */
struct pool_provision_status {
    uint32_t wanted;   /* at present, by target tracking; 0: nothing is provisioned */
    uint32_t ready;    /* alive, busy or idle: at most wanted */
    char trouble[128]; /* why the last restore ahead failed, until one succeeds; or "" */
};

void instance_pool_provision_status(struct instance_pool *pool,
                                    const struct function_version *version,
                                    struct pool_provision_status *ret_status);

/* instance_pool_each - the counters of every function that was asked for. @visit must not call the
 * pool. */
void instance_pool_each(struct instance_pool *pool, concurrency_visitor *visit, void *opaque);

/*
 * instance_pool_shutdown - no more events; waits for those under way until @deadline_ms from now,
 * then interrupts them and waits for up to 10 s more.
 * Returns 0, or -EBUSY when leases are still out: then the pool cannot be freed yet.
 */
int instance_pool_shutdown(struct instance_pool *pool, uint64_t deadline_ms);

/* instance_pool_free - after a successful shutdown (or with no leases out). Takes NULL. */
void instance_pool_free(struct instance_pool *pool);

#endif
