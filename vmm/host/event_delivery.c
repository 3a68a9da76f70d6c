/* Records on their way out of the host: see event_queue.h. Process: the daemon's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "event_internal.h"

#define BACKOFF_BASE_MS 1000ull

enum { ATTEMPTS_MAX = 5, LEASE_MAX_MS = 3600 * 1000 };

void delivery_free(struct delivery *delivery)
{
    free(delivery);
}

static const char *put(char **to, const void *from, size_t len)
{
    char *at = *to;

    memcpy(at, from, len);
    at[len] = '\0';
    *to += len + 1;
    return at;
}

static const char *put_column(char **to, sqlite3_stmt *row, int column)
{
    const char *text = column_text(row, column);

    return put(to, text, strlen(text));
}

/* Columns: id, kind, tenant, target, error_code, error_message, request_id, attempts, body. */
static struct delivery *make_delivery(sqlite3_stmt *row)
{
    const void *body = sqlite3_column_blob(row, 8);
    size_t len = body ? (size_t)sqlite3_column_bytes(row, 8) : 0, texts = 0;
    struct delivery *delivery;

    for (int column = 2; column <= 5; column++)
        texts += strlen(column_text(row, column)) + 1;
    delivery = calloc(1, sizeof(*delivery) + texts + len + 1);
    if (!delivery)
        return NULL;
    char *to = (char *)(delivery + 1);
    delivery->id = (uint64_t)sqlite3_column_int64(row, 0);
    delivery->kind = (enum delivery_kind)sqlite3_column_int(row, 1);
    delivery->attempt = (uint32_t)sqlite3_column_int64(row, 7) + 1;
    delivery->tenant = put_column(&to, row, 2);
    delivery->target = put_column(&to, row, 3);
    delivery->error_code = put_column(&to, row, 4);
    delivery->error_message = put_column(&to, row, 5);
    strncpy(delivery->request_id, column_text(row, 6), sizeof(delivery->request_id) - 1);
    delivery->body = put(&to, len ? body : "", len);
    delivery->body_len_bytes = len;
    return delivery;
}

/* The one that is due longest: 1 with *ret_delivery, 0, or -errno. */
static int claim_one(struct connection *connection, uint64_t now_ms, uint64_t until_ms,
                     struct delivery **ret_delivery, struct error *err)
{
    struct delivery *delivery;
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT d.id, d.kind, t.name, d.target, d.error_code, d.error_message,"
                    " d.request_id, d.attempts, b.body FROM deliveries d"
                    " CROSS JOIN tenants t ON t.id = d.tenant_id"
                    " CROSS JOIN delivery_bodies b ON b.delivery_id = d.id"
                    " WHERE d.due_ms <= ?1 ORDER BY d.due_ms LIMIT 1",
                    NUMBER(now_ms));

    if (r <= 0)
        return r;
    delivery = make_delivery(row);
    sqlite3_reset(row);
    if (!delivery)
        return error_set(err, ENOMEM, "claim a delivery");
    r = event_ticket(&delivery->lease, err);
    if (r == 0)
        r = sql_run(connection, err, "UPDATE deliveries SET lease = ?2, due_ms = ?3 WHERE id = ?1",
                    NUMBER(delivery->id), NUMBER(delivery->lease), NUMBER(until_ms));
    if (r < 0) {
        delivery_free(delivery);
        return r;
    }
    *ret_delivery = delivery;
    return 1;
}

/* 1 if there is something to claim now. */
static int look(struct connection *connection, uint64_t now_ms, uint64_t *ret_wait_ms,
                struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err, "SELECT due_ms FROM deliveries ORDER BY due_ms LIMIT 1");

    if (r < 0)
        return r;
    uint64_t due_ms = r == 1 ? (uint64_t)sqlite3_column_int64(row, 0) : UINT64_MAX;
    *ret_wait_ms = r == 0 ? UINT64_MAX : due_ms > now_ms ? due_ms - now_ms : 0;
    return *ret_wait_ms == 0;
}

static int claim(struct event_queue *queue, struct delivery **deliveries, size_t max,
                 uint64_t lease_ms, size_t *ret_n, uint64_t *ret_wait_ms, struct error *err)
{
    uint64_t now_ms = queue->now_ms();
    struct connection *connection;
    size_t n = 0;
    int r = event_begin(queue, &connection, err);

    if (r < 0)
        return r;
    while (r == 0 && n < max) {
        r = claim_one(connection, now_ms, now_ms + lease_ms, &deliveries[n], err);
        if (r == 0)
            break;
        if (r == 1) {
            n++;
            r = 0;
        }
    }
    if (r == 0) {
        r = look(connection, now_ms, ret_wait_ms, err);
        r = r < 0 ? r : 0;
    }
    r = event_end(queue, connection, r, err);
    for (size_t i = 0; r < 0 && i < n; i++)
        delivery_free(deliveries[i]);
    *ret_n = n;
    return r;
}

int event_queue_claim_deliveries(struct event_queue *queue, size_t max, uint64_t lease_ms,
                                 struct delivery **ret_deliveries, size_t *ret_n,
                                 uint64_t *ret_wait_ms, struct error *err)
{
    struct delivery *deliveries[EVENT_CLAIM_MAX];
    struct connection *connection;
    uint64_t wait_ms = 0;
    size_t n = 0;
    int r;

    if (max == 0 || max > EVENT_CLAIM_MAX || lease_ms == 0 || lease_ms > LEASE_MAX_MS)
        return error_say(err, EINVAL, "claim %zu deliveries for %llu ms", max,
                         (unsigned long long)lease_ms);
    r = database_begin_read(queue->database, &connection, err);
    if (r < 0)
        return r;
    r = look(connection, queue->now_ms(), &wait_ms, err);
    database_end_read(connection);
    if (r == 1)
        r = claim(queue, deliveries, max, lease_ms, &n, &wait_ms, err);
    if (r < 0)
        return r;
    memcpy(ret_deliveries, deliveries, n * sizeof(deliveries[0]));
    *ret_n = n;
    if (ret_wait_ms)
        *ret_wait_ms = wait_ms;
    return 0;
}

static int finish(struct event_queue *queue, struct connection *connection,
                  const struct delivery *delivery, bool success, bool *ret_dropped,
                  struct error *err)
{
    bool again = !success && delivery->attempt < ATTEMPTS_MAX;
    uint64_t due_ms = queue->now_ms() + (BACKOFF_BASE_MS << (2 * delivery->attempt));
    int r = again ? sql_run(connection, err,
                            "UPDATE deliveries SET lease = 0, attempts = attempts + 1, due_ms = ?3"
                            " WHERE id = ?1 AND lease = ?2",
                            NUMBER(delivery->id), NUMBER(delivery->lease), NUMBER(due_ms))
                  : sql_run(connection, err, "DELETE FROM deliveries WHERE id = ?1 AND lease = ?2",
                            NUMBER(delivery->id), NUMBER(delivery->lease));

    if (r == 0 && connection_changes(connection) == 0)
        return error_say(err, ESTALE, "the delivery's lease is over");
    *ret_dropped = !success && !again;
    queue->new_dropped += *ret_dropped;
    return r;
}

int event_queue_delivered(struct event_queue *queue, const struct delivery *delivery, bool success,
                          bool *ret_dropped, struct error *err)
{
    struct connection *connection;
    bool dropped = false;
    int r = event_begin(queue, &connection, err);

    if (r < 0)
        return r;
    r = finish(queue, connection, delivery, success, &dropped, err);
    r = event_end(queue, connection, r, err);
    if (r == 0 && ret_dropped)
        *ret_dropped = dropped;
    return r;
}
