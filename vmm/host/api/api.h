/*
 * The AWS Lambda API over HTTP: authentication, routing, the handlers. Stands on the registry, the
 * code store and the event queue; what runs functions is given as a backend.
 *
 *   api_new() → http_server_start() with api_service and the api → … → http_server_stop() →
 * api_free()
 *
 * Trust: every request is hostile; a tenant is who owns the key that signed it, or the default one
 * where unsigned requests are allowed. Invariant: no handler sees a request before that is known.
 * Threads: any, at the same time.
 * Source: AWS Lambda API Reference (2015-03-31 and its later paths).
 */
#ifndef MAYFLY_HOST_API_API_H
#define MAYFLY_HOST_API_API_H

#include "host/events/event_queue.h"
#include "host/store/registry.h"
#include "host/instance/response_part.h"
#include "http_server.h"

enum {
    API_INVOKE_MAX_BYTES = 6 << 20,
    API_EVENT_MAX_BYTES = 1 << 20,
    API_CODE_MAX_BYTES = 70 << 20, /* JSON around 50 MB as base64 */
    API_JSON_MAX_BYTES = 256 << 10,
    API_LOG_TAIL_BYTES = 4096,
    API_REASONS_MAX = 8,
    API_REASON_BYTES = 256,
};

/* One invocation, ready to be run; borrowed for the call. */
struct api_invocation {
    const struct function *function; /* of the tenant that asks */
    const char *request_id;
    const void *payload; /* JSON */
    size_t payload_bytes;
    const char *client_context; /* JSON text, or NULL */
    const char *trace_id;       /* X-Amzn-Trace-Id as trace_context_amzn() has it, or NULL */
    const char *traceparent;    /* W3C, or NULL */
    const char *invoked_arn;    /* with its qualifier, or NULL: the version's own */
    bool wants_log;             /* the last API_LOG_TAIL_BYTES of its log in the result */
    /* A response that is to be streamed: the backend calls this as parts of it arrive and leaves
     * payload empty, or does not and fills it. Negative: nobody reads any more. NULL: never. */
    response_part_fn *on_part;
    void *opaque;
};

enum api_function_error { API_NO_ERROR, API_ERROR_HANDLED, API_ERROR_UNHANDLED };

struct api_invocation_result {
    enum api_function_error error; /* the payload is then an error object */
    uint8_t *payload;              /* owned: free() */
    size_t payload_bytes;
    char log_tail[API_LOG_TAIL_BYTES]; /* raw bytes */
    size_t log_tail_bytes;
    const char *start;   /* "warm", "restored" or "cold"; static; NULL: the backend does not say */
    uint64_t acquire_us; /* until an instance was there */
    uint64_t guest_us;   /* event sent to result here */
};

/* How far provisioned concurrency is. */
struct api_provisioned_status {
    uint32_t allocated, available;
    char failure[200]; /* why it cannot be held at present, or "" */
};

/* Ready with none. */
struct api_readiness {
    char reasons[API_REASONS_MAX][API_REASON_BYTES];
    size_t n;
};

/* What runs functions; mayflyd's main fills it. Any member but invoke may be NULL. */
struct api_backend {
    /*
     * invoke - run it, wait for its result; on a thread that may wait. A function's failure is a
     * result. -EAGAIN: no concurrency (429), err->text is Lambda's word for why; -ESHUTDOWN: the
     * host is being stopped (503); -EBUSY: its snapshot is still being made (409);
     * -ENOENT: deleted meanwhile (404); -EINVAL: cannot run (Failed, 502); anything else: 500.
     */
    int (*invoke)(void *opaque, const struct api_invocation *invocation,
                  struct api_invocation_result *ret_result, struct error *err);
    /* changed - something of @function's was committed: a new build waits, a setting, it is gone.
     */
    void (*changed)(void *opaque, const char *tenant, const char *function);
    /* queued - an asynchronous event was committed. */
    void (*queued)(void *opaque);
    int (*provisioned)(void *opaque, const struct provisioned *provisioned, const char *tenant,
                       struct api_provisioned_status *ret_status);
    /* metrics - the text of /metrics: @tenant's series, NULL: all. *ret_text is owned by the
     * caller. 0 or -errno. */
    int (*metrics)(void *opaque, const char *tenant, char **ret_text);
    /* failed - something that is no client's fault: for the log; the client sees the id only. */
    void (*failed)(void *opaque, const char *request_id, const char *text);
    /* readiness - what keeps it from running functions (/readyz); may wait for a disk. */
    void (*readiness)(void *opaque, struct api_readiness *ret_readiness);
};

struct log_store;

struct api_key {
    const char *id, *secret, *tenant;
};

struct api_options {
    struct registry *registry; /* borrowed, as the queue */
    struct event_queue *queue; /* may be NULL: asynchronous invocations are refused */
    const struct api_backend *backend;
    void *backend_opaque;
    const char *region;         /* in ARNs; NULL: us-east-1 */
    const struct api_key *keys; /* copied */
    size_t n_keys;
    const char *default_tenant; /* of unsigned requests; NULL: "default". It must exist */
    bool unsigned_loopback;     /* allow them on loopback too, not only on the Unix socket */
    const char *public_url;     /* "https://host:port", for function URLs; NULL: from the request */
    struct log_store *logs;     /* of functions; borrowed; NULL: none are kept */
    bool open_metrics;          /* anybody may see all tenants' */
    double trace_ratio;         /* of traces that begin here: how many are sampled */
    const char *const *trusted_proxies; /* addresses and networks whose X-Forwarded-For counts */
    size_t n_trusted_proxies;
    uint32_t control_rate;  /* requests a second of one tenant's, but for invocations; twice as many
                               at once. 0: 2000 */
    int64_t (*now_s)(void); /* NULL: the real clock (tests set it) */
};

struct api;

int api_new(const struct api_options *options, struct api **ret_api, struct error *err);
void api_free(struct api *api);

/* For struct http_server_options, with the api as opaque. */
extern const struct http_service api_service;

/* Requests answered so far, by hundreds of the status: [2] are the 2xx. */
void api_statistics(const struct api *api, uint64_t ret_answers[6]);

#endif
