/* What the files of the event queue share: see event_queue.h. */
#ifndef MAYFLY_HOST_EVENTS_EVENT_INTERNAL_H
#define MAYFLY_HOST_EVENTS_EVENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "event_queue.h"
#include "host/store/registry_internal.h"

struct waiting;

struct event_queue {
    struct database *database; /* borrowed */
    char region[64];
    uint64_t retry_base_ms, throttle_base_ms, delivery_base_ms;
    uint64_t max_tenant_events, max_tenant_bytes;
    uint64_t (*now_ms)(void);
    void (*has_delivery)(void *opaque);
    void (*say_dropped)(void *opaque, const char *request_id, const char *text);
    void *opaque;
    atomic_uint_fast64_t dropped;
    /* With the database's write transaction: */
    int64_t cursor;                       /* the function whose event was claimed last */
    int64_t delivery_cursor;              /* the tenant whose delivery was */
    uint64_t new_dropped, new_deliveries; /* in this transaction */
    char dropped_id[REQUEST_ID_BYTES];    /* of the last that an event's end dropped; "": none */
    struct error dropped_why;
    /* With lock: enqueuers that wait for a flush (event_queue.c). */
    pthread_mutex_t lock;
    pthread_cond_t flushed;
    struct waiting *first_waiting, **last_waiting;
    bool is_flushing;
};

/* event_begin, event_end - a write transaction of the queue's. */
int event_begin(struct event_queue *queue, struct connection **ret_connection, struct error *err);
int event_end(struct event_queue *queue, struct connection *connection, int result,
              struct error *err);

/* event_ticket - a random lease, never 0. */
int event_ticket(uint64_t *ret_lease, struct error *err);

/* A new event, of a client's or a destination's; borrowed. */
struct new_event {
    struct function_ids ids;
    const char *qualifier, *request_id, *client_context, *trace, *traceparent;
    uint32_t hops;
    const void *payload;
    size_t payload_len_bytes;
};

/* event_check_room - does the tenant's part of the queue take @len_bytes more? 1, 0 or -errno. */
int event_check_room(struct event_queue *queue, struct connection *connection, int64_t tenant_id,
                     uint64_t len_bytes, struct error *err);
int event_insert(struct event_queue *queue, struct connection *connection,
                 const struct new_event *event, struct error *err);

/* --- the end of events (event_finish.c), in a write transaction --- */

/* A row of events with the names of its function; the texts are owned by the reader. */
struct event_row {
    uint64_t id;
    struct function_ids ids;
    char tenant[FUNCTION_NAME_MAX + 1], function[FUNCTION_NAME_MAX + 1];
    char account_id[ACCOUNT_ID_BYTES];
    char qualifier[QUALIFIER_MAX + 1];
    char request_id[REQUEST_ID_BYTES];
    uint64_t accepted_ms, due_ms;
    uint32_t failures, throttles, claims, hops;
};

#define EVENT_COLUMNS                                                                              \
    "e.id, e.tenant_id, e.function_id, t.name, f.name, t.account_id, e.qualifier, e.request_id,"   \
    " e.accepted_ms, e.due_ms, e.failures, e.throttles, e.claims, e.hops"
#define EVENT_FROM                                                                                 \
    " FROM events e CROSS JOIN functions f ON f.id = e.function_id"                                \
    " CROSS JOIN tenants t ON t.id = e.tenant_id"
enum { EVENT_N_COLUMNS = 14 };

void event_read_row(sqlite3_stmt *row, struct event_row *ret_row);

/* event_read_policy - what is configured for its qualifier, or Lambda's defaults. */
int event_read_policy(struct connection *connection, const struct event_row *row,
                      struct event_config *ret_policy, struct error *err);

/*
 * event_end_for_good - its record to the destination, itself to the dead-letter queue, its row
 * away. @condition: as in records. @result: of the last attempt, or NULL. @event: for its payload
 * and traces.
 */
int event_end_for_good(struct event_queue *queue, struct connection *connection,
                       const struct event_row *row, const struct event_config *policy,
                       const char *condition, const struct event_result *result,
                       const struct event *event, struct error *err);

/* --- records (event_record.c): pure --- */

struct event_record {
    uint64_t now_ms;
    const char *region;
    const struct event_row *row;
    const char *condition;
    uint32_t invoke_count;
    const void *payload;
    size_t payload_len_bytes;
    const struct event_result *result; /* NULL: no responseContext */
};

/* event_record_make - the JSON of a destination's record. *ret_text is owned. -ENOMEM. */
int event_record_make(const struct event_record *record, char **ret_text, size_t *ret_len_bytes,
                      struct error *err);

#endif
