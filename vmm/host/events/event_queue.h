/*
 * The queue of asynchronous invocations, on disk, in the registry's database.
 *
 *   enqueue → claim (a lease) → invoke → finish: gone with its destination's record, or later again
 *
 * Promises. Accepted is committed: event_queue_enqueue() returns 0 only after the event is flushed
 * to disk. An event is claimed by one worker at a time and is there until finish says otherwise.
 * At least once: an event whose worker died, or overran its lease, is claimed again; so it runs
 * once more per such accident than its attempts say, never otherwise; an event that seems to kill
 * its workers is given up after EVENT_ACCIDENTS_MAX. Finishing an event and queueing what goes to
 * its destinations is one transaction. Fair: a claim takes turns between functions, so that
 * nobody's backlog delays another's events.
 *
 * Trust: payloads and responses are hostile; they are never looked into, only checked to be JSON.
 * Threads: any, at the same time; enqueuers that meet share one flush. Other processes may have the
 * database open. Times: wall clock in milliseconds, since they outlive the machine's uptime.
 * Errors: as registry.h; -EAGAIN: the tenant's part of the queue is full (TooManyRequests 429).
 */
#ifndef MAYFLY_HOST_EVENTS_EVENT_QUEUE_H
#define MAYFLY_HOST_EVENTS_EVENT_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "host/instance/identity.h"
#include "host/store/registry_attached.h"

enum {
    EVENT_PAYLOAD_MAX = 1 << 20, /* of a client's; a destination's record may be larger */
    EVENT_CLIENT_CONTEXT_MAX = 3583,
    EVENT_TRACE_MAX = 1024,
    EVENT_CLAIM_MAX = 64,
    EVENT_HOPS_MAX = 16,      /* events that lead to events: then the chain is cut */
    EVENT_ACCIDENTS_MAX = 32, /* claims that nobody finished: then it counts as failed */
};

struct event_queue;

struct event_queue_options {
    const char *region;     /* in ARNs of records; NULL: us-east-1 */
    bool sole;              /* nobody else claims from this database: leases of before are over */
    uint64_t retry_base_ms; /* after the first failure; doubles. 0: one minute */
    uint64_t throttle_base_ms; /* after a throttle; doubles up to 300 times it. 0: one second */
    uint64_t delivery_base_ms; /* after a delivery failed: 4 times it, then 16, …; 0: one second */
    uint64_t max_tenant_events; /* 0: 100,000 */
    uint64_t max_tenant_bytes;  /* of payloads and records, 512 for each row; 0: 1 GiB */
    uint64_t (*now_ms)(void);   /* NULL: the real clock */
    /* A delivery was committed; on the thread that did it. May be NULL. */
    void (*has_delivery)(void *opaque);
    /* A record was dropped here, and why: for the log. As has_delivery. */
    void (*dropped)(void *opaque, const char *request_id, const char *text);
    void *opaque;
};

int event_queue_open(struct database *database, const struct event_queue_options *options,
                     struct event_queue **ret_queue, struct error *err);
/* event_queue_close - nobody may be in a call. The database stays open. */
void event_queue_close(struct event_queue *queue);

/* A new event; borrowed for the call. */
struct event_submission {
    struct function_key key;    /* the qualifier is resolved when it runs, as Lambda does */
    const char *request_id;     /* identity_request(); unique */
    const void *payload;        /* JSON as sent; checked by the caller */
    size_t payload_len_bytes;   /* ≤ EVENT_PAYLOAD_MAX, else -E2BIG */
    const char *client_context; /* base64 as sent, or NULL */
    const char *trace;          /* X-Amzn-Trace-Id, or NULL */
    const char *traceparent;    /* W3C, or NULL */
};

/* event_queue_enqueue - on disk when it returns 0. -ENOENT for a function or qualifier that is not
 * there. */
int event_queue_enqueue(struct event_queue *queue, const struct event_submission *event,
                        struct error *err);

/* A claimed event: owned by the worker until event_free(). One block. */
struct event {
    uint64_t id, lease; /* the worker's ticket: what finish and extend know it by */
    char request_id[REQUEST_ID_BYTES];
    const char *tenant, *function, *qualifier; /* "$LATEST" where none was given */
    uint32_t attempt; /* this one: 1, 2, 3; throttles and accidents are not counted */
    uint32_t claims;  /* how often it was claimed in all: over attempt, after an accident */
    uint64_t accepted_ms;
    uint64_t lease_until_ms;
    const char *client_context, *trace, *traceparent; /* NULL where not given */
    const void *payload;
    size_t payload_len_bytes;
};

void event_free(struct event *event);

/* What a claimer has room for: asked in the claim's transaction, before each event. */
struct event_room {
    /* May it have another? In this claim it already gets @n_own of the tenant's, @n_claimed in all.
     * @function: NULL for deliveries. */
    bool (*has)(void *opaque, const char *tenant, const char *function, size_t n_own,
                size_t n_claimed);
    void *opaque;
};

/*
 * event_queue_claim - up to @max (≤ EVENT_CLAIM_MAX) events that are due, of different functions in
 * turn, where @room (NULL: anywhere) has some, leased for @lease_ms.
 * Events over their maximum age are not returned: they go to their failure destination at once.
 * Returns 0 with *ret_n ≥ 0; *ret_wait_ms (may be NULL): how long until it is worth calling again
 * (0: at once; UINT64_MAX: not before something is enqueued, or there is room for what is due).
 */
int event_queue_claim(struct event_queue *queue, size_t max, uint64_t lease_ms,
                      const struct event_room *room, struct event **ret_events, size_t *ret_n,
                      uint64_t *ret_wait_ms, struct error *err);

/* What a lease is known by: of an event. */
struct event_lease {
    uint64_t id, lease;
};

/* event_queue_extend - @n leases until @lease_ms from now, in one flush. *ret_n_lost (may be NULL):
 * how many of them were no longer ours. */
int event_queue_extend(struct event_queue *queue, const struct event_lease *leases, size_t n,
                       uint64_t lease_ms, size_t *ret_n_lost, struct error *err);

enum event_outcome {
    EVENT_SUCCEEDED,
    EVENT_FUNCTION_FAILED, /* error, crash, timeout: again after a backoff, up to the retries */
    EVENT_THROTTLED,       /* no concurrency, or the host failed: again, does not count */
    EVENT_ABANDONED,       /* never again: function not there or with no concurrency at all */
};

/* How it ended; borrowed for the call. */
struct event_result {
    enum event_outcome outcome;
    uint32_t status;              /* for the record: 200 for what ran */
    const char *function_error;   /* "Handled", "Unhandled" or NULL */
    const char *executed_version; /* "$LATEST" or a number; NULL: it did not run */
    const void *response;         /* JSON or any bytes; may be NULL */
    size_t response_len_bytes;
    const char *error_message; /* for the dead-letter queue; NULL: "" */
};

/*
 * event_queue_finish - the end of an attempt. What is due to a destination or dead-letter queue is
 * queued in the same transaction: for a function of the tenant as an event, else as a delivery.
 * *ret_again (may be NULL): it will be tried again. -ESTALE if the lease is no longer ours: another
 * has it or finished it; or the function was deleted. Nothing is changed then.
 */
int event_queue_finish(struct event_queue *queue, const struct event *event,
                       const struct event_result *result, bool *ret_again, struct error *err);

/* --- deliveries (event_delivery.c): records on their way out of the host --- */

enum delivery_kind { DELIVERY_ON_SUCCESS, DELIVERY_ON_FAILURE, DELIVERY_DEAD_LETTER };

struct delivery {
    uint64_t id, lease;
    enum delivery_kind kind;
    const char *tenant;
    const char *target; /* file: or http: or https: */
    char request_id[REQUEST_ID_BYTES];
    const char *error_code, *error_message; /* attributes of a dead letter, else "" */
    uint32_t attempt;
    const void *body; /* the record (JSON), or the event itself for a dead letter */
    size_t body_len_bytes;
};

void delivery_free(struct delivery *delivery);

/* event_queue_claim_deliveries - as event_queue_claim(): of different tenants in turn, each one's
 * oldest first. */
int event_queue_claim_deliveries(struct event_queue *queue, size_t max, uint64_t lease_ms,
                                 const struct event_room *room, struct delivery **ret_deliveries,
                                 size_t *ret_n, uint64_t *ret_wait_ms, struct error *err);

enum delivery_outcome {
    DELIVERY_DONE,
    DELIVERY_FAILED,  /* again with backoff; dropped after 5 attempts */
    DELIVERY_REFUSED, /* dropped at once: it would be refused again */
};

/* event_queue_delivered - *ret_dropped (may be NULL): count it as a DestinationDeliveryFailure.
 * -ESTALE as above. */
int event_queue_delivered(struct event_queue *queue, const struct delivery *delivery,
                          enum delivery_outcome outcome, bool *ret_dropped, struct error *err);

/* --- statistics --- */

struct event_queue_stats {
    uint64_t depth; /* events, leased ones included */
    uint64_t leased;
    uint64_t oldest_age_ms; /* 0 where there is none */
    uint64_t bytes;         /* of payloads and records, with 512 for each row */
    uint64_t deliveries;
    uint64_t dropped; /* since open: records that no destination took, chains cut */
};

int event_queue_stats(struct event_queue *queue, struct event_queue_stats *ret_stats,
                      struct error *err);

/* event_queue_depth - events of one tenant. */
int event_queue_depth(struct event_queue *queue, const char *tenant, uint64_t *ret_events,
                      struct error *err);

#endif
