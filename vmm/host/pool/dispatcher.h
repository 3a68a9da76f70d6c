/*
 * Events to functions: joins the pools (shells, instances) to one call that takes an event and
 * gives a result. It knows no registry and no HTTP: what a function is, comes in with each call.
 *
 *   dispatcher_new() → dispatcher_invoke() … → dispatcher_shutdown() → dispatcher_free()
 *
 * Threads: any, at the same time, but for free. Trust: callers have checked what clients sent; what
 * a guest says of times and memory is bounded by what the host knows, and never billed.
 */
#ifndef MAYFLY_HOST_POOL_DISPATCHER_H
#define MAYFLY_HOST_POOL_DISPATCHER_H

#include "host/instance/identity.h"
#include "instance_pool.h"
#include "log_tail.h"
#include "shell_pool.h"

struct dispatcher;
struct invocation_result;

/* 0 or NULL takes the default. All that it points to is borrowed for the dispatcher's life. */
struct dispatcher_config {
    const struct hypervisor_ops *hypervisor; /* required */
    const char *state;            /* directory, required: images/, snapshots/, run/ are below it */
    const char *monitor_path;     /* beside the running program */
    const char *image;            /* of functions that name none */
    const char *kernel;           /* required */
    uint64_t keep_alive_ms;       /* 300 s */
    uint64_t make_wait_ms;        /* 300 s */
    uint32_t max_instances;       /* 1000 */
    uint64_t min_available_bytes; /* pool_policy_leave() of this host's memory */
    uint64_t tracking_interval_ms;
    uint32_t shells_per_shape; /* 4 */
    uint32_t max_shells;       /* 16 */
    uint64_t cache_bytes;
    enum vm_cpu cpu; /* how a VM's part of the CPUs is kept */
};

/* One event; borrowed for the call. */
struct invocation {
    const struct function_version *version;
    uint64_t timeout_ms;
    const char *request_id;
    const void *event; /* JSON, at most AGENT_EVENT_MAX_BYTES */
    size_t event_bytes;
    const char *client_context; /* these may be NULL */
    const char *identity;
    const char *trace_id;
    const char *invoked_arn; /* with the alias or version that was asked for */
    agent_log *on_log;       /* what the function prints, on the caller's thread; may be NULL */
    /* An instance is there and gets the event now: how it started is in *so_far. May be NULL. */
    void (*on_start)(void *opaque, const struct invocation_result *so_far);
    void *opaque;              /* for both */
    response_part_fn *on_part; /* of a streamed response, likewise; the payload is then empty */
    void *part_opaque;
};

enum invocation_kind {
    INVOKED_OK,
    INVOKED_FUNCTION_ERROR, /* the handler's or the init phase's own fault: raised, exited, … */
    INVOKED_TIMEOUT,        /* of the function; its instance is gone */
    INVOKED_SANDBOX_ERROR,  /* the microVM or its agent died under the function */
    INVOKED_THROTTLED,      /* it has not begun */
};

/* Why an event was throttled, in Lambda's words. */
enum throttle_reason {
    THROTTLE_NONE,
    THROTTLE_FUNCTION, /* ReservedFunctionConcurrentInvocationLimitExceeded */
    THROTTLE_ACCOUNT,  /* ConcurrentInvocationLimitExceeded */
    THROTTLE_HOST,     /* this host has no room for another instance */
};

struct invocation_result {
    enum invocation_kind kind;
    enum throttle_reason throttle;
    uint8_t *payload; /* owned, a 0 after it: the response, or the error object; NULL: throttled */
    size_t payload_bytes;
    enum pool_start start;
    bool is_init_failure;                /* the handler was never called */
    char instance_id[INSTANCE_ID_BYTES]; /* "": there was none */
    uint64_t acquire_us;                 /* until an instance was there */
    uint64_t init_us;                    /* of the init phase, if this event had to wait for it */
    uint64_t restore_us;                 /* of the restore, likewise */
    uint64_t duration_us;                /* event sent to result here, by the host's clock */
    uint64_t billed_ms; /* duration in whole milliseconds, rounded up; at most the timeout */
    uint64_t memory_peak_bytes; /* by the guest's word, at most its memory */
    struct log_tail log_tail;
    uint64_t log_dropped_bytes; /* output that was too much */
};

void invocation_result_done(struct invocation_result *result);

int dispatcher_new(const struct dispatcher_config *config, struct dispatcher **ret_dispatcher,
                   struct error *err);

/*
 * dispatcher_invoke - one event, one result. Blocks for the function's timeout, and what it takes
 * to start an instance before. Returns 0 with *ret_result (invocation_result_done() it), whatever
 * became of the function; -ESHUTDOWN; -ETIMEDOUT if no instance was there in time; or what the
 * host failed with: Lambda's ServiceException.
 */
int dispatcher_invoke(struct dispatcher *dispatcher, const struct invocation *invocation,
                      struct invocation_result *ret_result, struct error *err);

/* dispatcher_build - as instance_pool_build(): 0 with INVOKED_OK, or how the init phase failed. */
int dispatcher_build(struct dispatcher *dispatcher, const struct function_version *version,
                     agent_log *on_log, void *opaque, struct invocation_result *ret_result,
                     struct error *err);

/* For provisioned concurrency, invalidation and figures. Borrowed. */
struct instance_pool *dispatcher_pool(struct dispatcher *dispatcher);
struct shell_pool *dispatcher_shells(struct dispatcher *dispatcher);

/* As instance_pool_shutdown(), instance_pool_free(). */
int dispatcher_shutdown(struct dispatcher *dispatcher, uint64_t deadline_ms);
void dispatcher_free(struct dispatcher *dispatcher);

/* dispatcher_throttle_words - Lambda's word for it. */
const char *dispatcher_throttle_words(enum throttle_reason reason);

/*
 * dispatcher_take_result - what @outcome means to a caller; pure, for dispatcher_invoke().
 * @result is emptied. -ENOMEM. Fills ->kind, ->payload, ->billed_ms (from ->duration_us),
 * ->memory_peak_bytes.
 */
int dispatcher_take_result(struct invocation_result *to, struct agent_result *result,
                           const char *request_id, uint64_t limit_ms, uint32_t memory_mib);

#endif
