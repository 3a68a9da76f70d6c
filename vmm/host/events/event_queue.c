/*
 * Opening, enqueuing and statistics: see event_queue.h. Process: the daemon's.
 *
 * Enqueuers that come while another's commit is being flushed wait, and then one of them commits
 * for all of them: a disk that flushes a thousand times a second takes many thousand events.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "event_internal.h"

enum {
    RETRY_BASE_MS = 60000,
    THROTTLE_BASE_MS = 1000,
    DELIVERY_BASE_MS = 1000,
    MAX_TENANT_EVENTS = 100000,
    BATCH_EVENTS = 256,    /* of one commit */
    BATCH_BYTES = 8 << 20, /* likewise: what everybody in it waits for */
    ROW_BYTES = 512,       /* what an event costs beside its payload, for the tenant's limit */
};

/* --- opening -------------------------------------------------------------------------------------
 */

static uint64_t wall_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Whoever held a lease before is dead: nobody but the caller claims. */
static int end_leases(struct event_queue *queue, struct error *err)
{
    struct connection *connection;
    int r = database_begin_write(queue->database, &connection, err);

    if (r < 0)
        return r;
    r = sql_run(connection, err,
                "UPDATE events SET lease = 0, due_ms = min(due_ms, ?1) WHERE lease <> 0",
                NUMBER(queue->now_ms()));
    if (r == 0)
        r = sql_run(connection, err,
                    "UPDATE deliveries SET lease = 0, due_ms = min(due_ms, ?1) WHERE lease <> 0",
                    NUMBER(queue->now_ms()));
    return database_end_write(connection, r, err);
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value ? value : otherwise;
}

int event_queue_open(struct database *database, const struct event_queue_options *options,
                     struct event_queue **ret_queue, struct error *err)
{
    const char *region = options->region ? options->region : "us-east-1";
    struct event_queue *queue = calloc(1, sizeof(*queue));
    int r;

    if (!queue)
        return error_set(err, ENOMEM, "open the event queue");
    queue->database = database;
    queue->retry_base_ms = or_default(options->retry_base_ms, RETRY_BASE_MS);
    queue->throttle_base_ms = or_default(options->throttle_base_ms, THROTTLE_BASE_MS);
    queue->delivery_base_ms = or_default(options->delivery_base_ms, DELIVERY_BASE_MS);
    queue->max_tenant_events = or_default(options->max_tenant_events, MAX_TENANT_EVENTS);
    queue->max_tenant_bytes = or_default(options->max_tenant_bytes, 1ull << 30);
    queue->now_ms = options->now_ms ? options->now_ms : wall_clock_ms;
    queue->has_delivery = options->has_delivery;
    queue->say_dropped = options->dropped;
    queue->opaque = options->opaque;
    queue->last_waiting = &queue->first_waiting;
    pthread_mutex_init(&queue->lock, NULL); /* with default attributes neither fails on Linux */
    pthread_cond_init(&queue->flushed, NULL);
    if ((size_t)snprintf(queue->region, sizeof(queue->region), "%s", region) >=
            sizeof(queue->region) ||
        strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(region))
        r = error_say(err, EINVAL, "'%s' is no region's name", shown(region).text);
    else
        r = options->sole ? end_leases(queue, err) : 0;
    if (r < 0) {
        event_queue_close(queue);
        return error_wrap(err, "open the event queue");
    }
    *ret_queue = queue;
    return 0;
}

void event_queue_close(struct event_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->flushed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

int event_begin(struct event_queue *queue, struct connection **ret_connection, struct error *err)
{
    int r = database_begin_aside(queue->database, ret_connection, err);

    if (r == 0) {
        queue->new_dropped = queue->new_deliveries = 0;
        queue->dropped_id[0] = '\0';
    }
    return r;
}

int event_end(struct event_queue *queue, struct connection *connection, int result,
              struct error *err)
{
    uint64_t dropped = queue->new_dropped, deliveries = queue->new_deliveries;
    char id[REQUEST_ID_BYTES] = "";
    struct error why = {0};

    if (queue->dropped_id[0]) { /* after the transaction, they are the next one's */
        memcpy(id, queue->dropped_id, sizeof(id));
        why = queue->dropped_why;
    }
    result = database_end_write(connection, result, err);
    if (result < 0)
        return result;
    atomic_fetch_add(&queue->dropped, dropped);
    if (id[0] && queue->say_dropped)
        queue->say_dropped(queue->opaque, id, why.text);
    if (deliveries > 0 && queue->has_delivery)
        queue->has_delivery(queue->opaque);
    return result;
}

int event_ticket(uint64_t *ret_lease, struct error *err)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return error_set(err, errno, "get random numbers");
    *ret_lease = random >> 2 | 1; /* SQLite's numbers are signed */
    return 0;
}

/* --- inserting -----------------------------------------------------------------------------------
 */

int event_check_room(struct event_queue *queue, struct connection *connection, int64_t tenant_id,
                     uint64_t len_bytes, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT events, event_bytes FROM tenants WHERE id = ?1",
                    NUMBER(tenant_id));

    if (r <= 0)
        return r;
    uint64_t events = (uint64_t)sqlite3_column_int64(row, 0);
    uint64_t bytes = (uint64_t)sqlite3_column_int64(row, 1);
    return events < queue->max_tenant_events && bytes < queue->max_tenant_bytes &&
           len_bytes + ROW_BYTES <= queue->max_tenant_bytes - bytes;
}

int event_insert(struct event_queue *queue, struct connection *connection,
                 const struct new_event *event, struct error *err)
{
    uint64_t now_ms = queue->now_ms();
    int r = sql_run(connection, err,
                    "INSERT INTO events (function_id, tenant_id, qualifier, request_id,"
                    " accepted_ms, due_ms, hops, client_context, trace, bytes, traceparent)"
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10)",
                    NUMBER(event->ids.function_id), NUMBER(event->ids.tenant_id),
                    TEXT(event->qualifier), TEXT(event->request_id), NUMBER(now_ms),
                    NUMBER(event->hops), TEXT(event->client_context), TEXT(event->trace),
                    NUMBER(event->payload_len_bytes + ROW_BYTES), TEXT(event->traceparent));

    return r < 0 ? r
                 : sql_run(connection, err, "INSERT INTO payloads VALUES (?1, ?2)",
                           NUMBER(connection_last_id(connection)),
                           BLOB(event->payload, event->payload_len_bytes));
}

/* --- enqueuing -----------------------------------------------------------------------------------
 */

/* An enqueuer, on its own stack. */
struct waiting {
    struct waiting *next;
    const struct event_submission *event;
    struct new_event row; /* after its check */
    struct error err;
    int result;
    bool is_checked, is_done;
};

static bool is_printable(const char *text, size_t max)
{
    size_t len = strnlen(text, max + 1);

    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    return len <= max;
}

static int check_submission(const struct event_submission *event, struct error *err)
{
    if (event->payload_len_bytes > EVENT_PAYLOAD_MAX)
        return error_say(err, E2BIG,
                         "%zu byte payload is too large for the Event invocation type "
                         "(limit %d bytes)",
                         event->payload_len_bytes, EVENT_PAYLOAD_MAX);
    if (strnlen(event->request_id, REQUEST_ID_BYTES) != REQUEST_ID_BYTES - 1 ||
        !is_printable(event->request_id, REQUEST_ID_BYTES - 1))
        return error_say(err, EINVAL, "the request id is no UUID");
    if (event->client_context && !is_printable(event->client_context, EVENT_CLIENT_CONTEXT_MAX))
        return error_say(err, EINVAL, "the client context has more than %d bytes or is no base64",
                         EVENT_CLIENT_CONTEXT_MAX);
    if (event->trace && !is_printable(event->trace, EVENT_TRACE_MAX))
        return error_say(err, EINVAL, "the trace header has more than %d bytes or is no text",
                         EVENT_TRACE_MAX);
    if (event->traceparent && !is_printable(event->traceparent, EVENT_TRACE_MAX))
        return error_say(err, EINVAL, "the traceparent has more than %d bytes or is no text",
                         EVENT_TRACE_MAX);
    return 0;
}

/* Everything that can refuse this event and not the others. */
static int check_row(struct event_queue *queue, struct connection *connection,
                     struct waiting *waiting)
{
    const struct event_submission *event = waiting->event;
    struct new_event *row = &waiting->row;
    struct error *err = &waiting->err;
    enum qualifier_kind kind;
    sqlite3_stmt *found;
    int r;

    *row = (struct new_event){
        .request_id = event->request_id,
        .client_context = event->client_context,
        .trace = event->trace,
        .traceparent = event->traceparent,
        .payload = event->payload,
        .payload_len_bytes = event->payload_len_bytes,
    };
    r = row_check_qualifier(connection, &event->key, &row->ids, &kind, &row->qualifier, err);
    if (r == 0)
        r = sql_row(connection, &found, err, "SELECT 1 FROM events WHERE request_id = ?1",
                    TEXT(event->request_id));
    if (r == 1)
        return error_say(err, EEXIST, "the request %s is in the queue already", event->request_id);
    if (r == 0)
        r = event_check_room(queue, connection, row->ids.tenant_id, row->payload_len_bytes, err);
    return r == 0 ? error_say(err, EAGAIN, "the queue of asynchronous events is full") : r;
}

/*
 * One transaction for all of @batch. A refusal is one event's; a failure to write is everybody's,
 * as SQLite may then have undone what came before.
 */
static void write_batch(struct event_queue *queue, struct waiting *batch)
{
    struct connection *connection;
    struct error err = {0};
    int r = event_begin(queue, &connection, &err);

    if (r == 0) {
        for (struct waiting *at = batch; at && r == 0; at = at->next) {
            at->result = check_row(queue, connection, at);
            at->is_checked = at->result > 0;
            if (at->is_checked)
                r = event_insert(queue, connection, &at->row, &err);
        }
        r = event_end(queue, connection, r, &err);
    }
    for (struct waiting *at = batch; at; at = at->next) {
        if (r == 0 && !at->is_checked)
            continue; /* refused: its result stands */
        at->result = r;
        at->err = err;
    }
}

/* The first of those who wait, up to a batch's limits. Under the lock. */
static struct waiting *take_batch(struct event_queue *queue)
{
    struct waiting *batch = queue->first_waiting, *last = batch;
    size_t n = 1, bytes = batch->event->payload_len_bytes;

    while (last->next && n < BATCH_EVENTS &&
           bytes + last->next->event->payload_len_bytes <= BATCH_BYTES) {
        last = last->next;
        bytes += last->event->payload_len_bytes;
        n++;
    }
    queue->first_waiting = last->next;
    if (!last->next)
        queue->last_waiting = &queue->first_waiting;
    last->next = NULL;
    return batch;
}

static void flush_batch(struct event_queue *queue)
{
    struct waiting *batch = take_batch(queue);

    queue->is_flushing = true;
    pthread_mutex_unlock(&queue->lock);
    write_batch(queue, batch);
    pthread_mutex_lock(&queue->lock);
    queue->is_flushing = false;
    while (batch) {
        struct waiting *next = batch->next; /* gone as soon as it is done */

        batch->is_done = true;
        batch = next;
    }
    pthread_cond_broadcast(&queue->flushed);
}

int event_queue_enqueue(struct event_queue *queue, const struct event_submission *event,
                        struct error *err)
{
    struct waiting waiting = {.event = event};
    int r = check_submission(event, err);

    if (r < 0)
        return r;
    pthread_mutex_lock(&queue->lock);
    *queue->last_waiting = &waiting;
    queue->last_waiting = &waiting.next;
    while (!waiting.is_done) {
        if (queue->is_flushing)
            pthread_cond_wait(&queue->flushed, &queue->lock);
        else
            flush_batch(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    if (waiting.result < 0 && err)
        *err = waiting.err;
    return waiting.result;
}

/* --- statistics ----------------------------------------------------------------------------------
 */

static int read_stats(struct event_queue *queue, struct connection *connection,
                      struct event_queue_stats *stats, struct error *err)
{
    uint64_t now_ms = queue->now_ms(), oldest_ms;
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT (SELECT ifnull(sum(events), 0) FROM tenants),"
                    " (SELECT count(*) FROM events WHERE lease <> 0),"
                    " (SELECT accepted_ms FROM events ORDER BY id LIMIT 1),"
                    " (SELECT ifnull(sum(event_bytes), 0) FROM tenants),"
                    " (SELECT count(*) FROM deliveries)");

    if (r < 0)
        return r;
    oldest_ms = (uint64_t)sqlite3_column_int64(row, 2);
    *stats = (struct event_queue_stats){
        .depth = (uint64_t)sqlite3_column_int64(row, 0),
        .leased = (uint64_t)sqlite3_column_int64(row, 1),
        .oldest_age_ms = sqlite3_column_type(row, 2) != SQLITE_NULL && oldest_ms < now_ms
                             ? now_ms - oldest_ms
                             : 0,
        .bytes = (uint64_t)sqlite3_column_int64(row, 3),
        .deliveries = (uint64_t)sqlite3_column_int64(row, 4),
        .dropped = atomic_load(&queue->dropped),
    };
    return 0;
}

int event_queue_stats(struct event_queue *queue, struct event_queue_stats *ret_stats,
                      struct error *err)
{
    struct event_queue_stats stats;
    struct connection *connection;
    int r = database_begin_read(queue->database, &connection, err);

    if (r < 0)
        return r;
    r = read_stats(queue, connection, &stats, err);
    database_end_read(connection);
    if (r == 0)
        *ret_stats = stats;
    return r;
}

int event_queue_depth(struct event_queue *queue, const char *tenant, uint64_t *ret_events,
                      struct error *err)
{
    struct connection *connection;
    sqlite3_stmt *row;
    int r = database_begin_read(queue->database, &connection, err);

    if (r < 0)
        return r;
    r = sql_row(connection, &row, err, "SELECT events FROM tenants WHERE name = ?1", TEXT(tenant));
    if (r == 1)
        *ret_events = (uint64_t)sqlite3_column_int64(row, 0);
    else if (r == 0)
        r = error_say(err, ENOENT, "there is no tenant '%s'", shown(tenant).text);
    database_end_read(connection);
    return r < 0 ? r : 0;
}
