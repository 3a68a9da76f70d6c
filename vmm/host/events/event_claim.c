/* Claiming events: see event_queue.h. Process: the daemon's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event_internal.h"

/* Functions looked at in one claim: what bounds its time when few of many have something due. */
enum { EXAMINED_MAX = 512, LEASE_MAX_MS = 24 * 3600 * 1000, PAUSE_MS = 50 };

void event_free(struct event *event)
{
    free(event);
}

static char *put(char **to, const void *from, size_t len)
{
    char *at = *to;

    memcpy(at, from, len);
    at[len] = '\0';
    *to += len + 1;
    return at;
}

static char *put_text(char **to, const char *text)
{
    return text ? put(to, text, strlen(text)) : NULL;
}

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

/* The event in one block; @row is at EVENT_COLUMNS, client_context, trace, traceparent, payload. */
static struct event *make_event(sqlite3_stmt *row, const struct event_row *read)
{
    const char *context = (const char *)sqlite3_column_text(row, EVENT_N_COLUMNS);
    const char *trace = (const char *)sqlite3_column_text(row, EVENT_N_COLUMNS + 1);
    const char *traceparent = (const char *)sqlite3_column_text(row, EVENT_N_COLUMNS + 2);
    const void *payload = sqlite3_column_blob(row, EVENT_N_COLUMNS + 3);
    size_t len = payload ? (size_t)sqlite3_column_bytes(row, EVENT_N_COLUMNS + 3) : 0;
    size_t texts = text_bytes(read->tenant) + text_bytes(read->function) +
                   text_bytes(read->qualifier) + text_bytes(context) + text_bytes(trace) +
                   text_bytes(traceparent);
    struct event *event = calloc(1, sizeof(*event) + texts + len + 1);
    char *to = (char *)(event + 1);

    if (!event)
        return NULL;
    event->id = read->id;
    event->attempt = read->failures + 1;
    event->claims = read->claims + 1;
    event->accepted_ms = read->accepted_ms;
    memcpy(event->request_id, read->request_id, sizeof(event->request_id));
    event->tenant = put_text(&to, read->tenant);
    event->function = put_text(&to, read->function);
    event->qualifier = put_text(&to, read->qualifier);
    event->client_context = put_text(&to, context);
    event->trace = put_text(&to, trace);
    event->traceparent = put_text(&to, traceparent);
    event->payload = put(&to, len ? payload : "", len);
    event->payload_len_bytes = len;
    return event;
}

static int lease(struct connection *connection, struct event *event, uint64_t until_ms,
                 struct error *err)
{
    int r = event_ticket(&event->lease, err);

    event->lease_until_ms = until_ms;
    return r < 0 ? r
                 : sql_run(connection, err,
                           "UPDATE events SET lease = ?2, due_ms = ?3, claims = claims + 1"
                           " WHERE id = ?1",
                           NUMBER(event->id), NUMBER(event->lease), NUMBER(until_ms));
}

/* The claimed events of one call, and how it goes on. */
struct claim {
    struct event_queue *queue;
    struct connection *connection;
    const struct event_room *room;
    uint64_t now_ms, until_ms;
    struct event **events;
    size_t n, max;
    size_t examined;
    bool is_round; /* nothing is left that is due and that there is room for */
};

/* Why an event is not to be tried any more; NULL: it is. */
static const char *why_over(const struct claim *claim, const struct event_row *row,
                            const struct event_config *policy)
{
    if (claim->now_ms >= row->accepted_ms + policy->max_age_s * 1000ull)
        return "EventAgeExceeded";
    return row->claims >= row->failures + row->throttles + EVENT_ACCIDENTS_MAX ? "RetriesExhausted"
                                                                               : NULL;
}

/* The function's event that is due longest, if there is one: 1, 0 or -errno. */
static int claim_of(struct claim *claim, int64_t function_id, struct error *err)
{
    struct event_config policy;
    struct event_row read;
    struct event *event;
    sqlite3_stmt *row;
    int r = sql_row(claim->connection, &row, err,
                    "SELECT " EVENT_COLUMNS
                    ", e.client_context, e.trace, e.traceparent, p.payload" EVENT_FROM
                    " CROSS JOIN payloads p ON p.event_id = e.id"
                    " WHERE e.function_id = ?1 AND e.due_ms <= ?2 ORDER BY e.due_ms LIMIT 1",
                    NUMBER(function_id), NUMBER(claim->now_ms));

    if (r <= 0)
        return r;
    event_read_row(row, &read);
    event = make_event(row, &read);
    sqlite3_reset(row); /* it is about to be changed */
    if (!event)
        return error_set(err, ENOMEM, "claim an event");
    r = event_read_policy(claim->connection, &read, &policy, err);
    if (r < 0) {
        event_free(event);
        return r;
    }
    const char *over = why_over(claim, &read, &policy);
    r = over ? event_end_for_good(claim->queue, claim->connection, &read, &policy, over, NULL,
                                  event, err)
             : lease(claim->connection, event, claim->until_ms, err);
    if (r == 0 && !over)
        claim->events[claim->n++] = event;
    else
        event_free(event);
    return r < 0 ? r : 1;
}

static bool has_room(const struct claim *claim, const char *tenant, const char *function)
{
    size_t n_own = 0;

    if (!claim->room)
        return true;
    for (size_t i = 0; i < claim->n; i++)
        n_own += strcmp(claim->events[i]->tenant, tenant) == 0;
    return claim->room->has(claim->room->opaque, tenant, function, n_own, claim->n);
}

/* The next function after the cursor that has events, from the start again after the last. */
static int next_function(struct claim *claim, int64_t *ret_function_id, bool *ret_has_room,
                         struct error *err)
{
    sqlite3_stmt *row;
    int r = 0;

    for (int round = 0; r == 0 && round < 2; round++) {
        r = sql_row(claim->connection, &row, err,
                    "SELECT f.id, t.name, f.name FROM functions f CROSS JOIN tenants t"
                    " ON t.id = f.tenant_id WHERE f.id = (SELECT function_id FROM events"
                    " WHERE function_id > ?1 ORDER BY function_id LIMIT 1)",
                    NUMBER(round == 0 ? claim->queue->cursor : 0));
        if (r == 1) {
            *ret_function_id = sqlite3_column_int64(row, 0);
            *ret_has_room = has_room(claim, column_text(row, 1), column_text(row, 2));
        }
    }
    return r;
}

/* In turn from function to function, until a whole round finds nothing. */
static int claim_in_turn(struct claim *claim, struct error *err)
{
    int64_t function_id = 0, first_idle = -1;
    bool is_room = false;
    int r = 0;

    while (claim->n < claim->max && claim->examined < EXAMINED_MAX) {
        r = next_function(claim, &function_id, &is_room, err);
        if (r <= 0 || function_id == first_idle) {
            claim->is_round = true;
            break;
        }
        r = is_room ? claim_of(claim, function_id, err) : 0;
        if (r < 0)
            break;
        if (r == 1)
            first_idle = -1;
        else if (first_idle < 0)
            first_idle = function_id;
        claim->queue->cursor = function_id;
        claim->examined++;
    }
    return r < 0 ? r : 0;
}

#define DUE_NEXT "SELECT due_ms FROM events WHERE due_ms > ?1 ORDER BY due_ms LIMIT 1"

/* How long until something is due that was not before @after_ms: 0 for now, UINT64_MAX for nothing
 * at all. */
static int read_wait(struct connection *connection, uint64_t after_ms, uint64_t now_ms,
                     uint64_t *ret_wait_ms, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, DUE_NEXT, NUMBER(after_ms));

    if (r <= 0) {
        *ret_wait_ms = UINT64_MAX;
        return r;
    }
    uint64_t due_ms = (uint64_t)sqlite3_column_int64(row, 0);
    *ret_wait_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    return 0;
}

/* Without a transaction that writes, where nothing is due: an idle daemon writes nothing. */
static int look(struct event_queue *queue, uint64_t *ret_wait_ms, struct error *err)
{
    struct connection *connection;
    int r = database_begin_read(queue->database, &connection, err);

    if (r < 0)
        return r;
    r = read_wait(connection, 0, queue->now_ms(), ret_wait_ms, err);
    database_end_read(connection);
    return r;
}

static int claim_now(struct claim *claim, uint64_t *ret_wait_ms, struct error *err)
{
    int r = event_begin(claim->queue, &claim->connection, err);

    if (r < 0)
        return r;
    r = claim_in_turn(claim, err);
    if (r == 0) /* what is due after a whole round waits for room, not for a time */
        r = read_wait(claim->connection, claim->is_round ? claim->now_ms : 0, claim->now_ms,
                      ret_wait_ms, err);
    if (claim->n == 0 && claim->examined == EXAMINED_MAX && *ret_wait_ms < PAUSE_MS)
        *ret_wait_ms = PAUSE_MS; /* many have something due that there is no room for */
    r = event_end(claim->queue, claim->connection, r, err);
    for (size_t i = 0; r < 0 && i < claim->n; i++)
        event_free(claim->events[i]);
    return r;
}

int event_queue_claim(struct event_queue *queue, size_t max, uint64_t lease_ms,
                      const struct event_room *room, struct event **ret_events, size_t *ret_n,
                      uint64_t *ret_wait_ms, struct error *err)
{
    struct event *events[EVENT_CLAIM_MAX];
    struct claim claim = {
        .queue = queue, .room = room, .now_ms = queue->now_ms(), .events = events};
    uint64_t wait_ms = 0;
    int r;

    if (max == 0 || max > EVENT_CLAIM_MAX || lease_ms == 0 || lease_ms > LEASE_MAX_MS)
        return error_say(err, EINVAL, "claim %zu events for %llu ms", max,
                         (unsigned long long)lease_ms);
    claim.max = max;
    claim.until_ms = claim.now_ms + lease_ms;
    r = look(queue, &wait_ms, err);
    if (r == 0 && wait_ms == 0)
        r = claim_now(&claim, &wait_ms, err);
    if (r < 0)
        return r;
    memcpy(ret_events, events, claim.n * sizeof(events[0]));
    *ret_n = claim.n;
    if (ret_wait_ms)
        *ret_wait_ms = wait_ms;
    return 0;
}

int event_queue_extend(struct event_queue *queue, const struct event_lease *leases, size_t n,
                       uint64_t lease_ms, size_t *ret_n_lost, struct error *err)
{
    uint64_t until_ms = queue->now_ms() + lease_ms;
    struct connection *connection;
    size_t n_lost = 0;
    int r = lease_ms > LEASE_MAX_MS ? error_say(err, EINVAL, "extend a lease so far")
                                    : database_begin_aside(queue->database, &connection, err);

    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < n; i++) {
        r = sql_run(connection, err, "UPDATE events SET due_ms = ?3 WHERE id = ?1 AND lease = ?2",
                    NUMBER(leases[i].id), NUMBER(leases[i].lease), NUMBER(until_ms));
        n_lost += r == 0 && connection_changes(connection) == 0;
    }
    r = database_end_write(connection, r, err);
    if (r == 0 && ret_n_lost)
        *ret_n_lost = n_lost;
    return r;
}
