/* Records on their way out of the host: see event_queue.h. Process: the daemon's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "event_internal.h"

enum { ATTEMPTS_MAX = 5, LEASE_MAX_MS = 3600 * 1000, EXAMINED_MAX = 512, PAUSE_MS = 50 };

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

/* The deliveries claimed in one call. */
struct claim {
    struct event_queue *queue;
    struct connection *connection;
    const struct event_room *room;
    uint64_t now_ms, until_ms;
    struct delivery **deliveries;
    size_t n, max;
    size_t examined;
    bool is_round; /* nothing is left that is due and that there is room for */
};

/* The tenant's that is due longest: 1 taken, 0, or -errno. */
static int claim_of(struct claim *claim, int64_t tenant_id, struct error *err)
{
    struct delivery *delivery;
    sqlite3_stmt *row;
    int r = sql_row(claim->connection, &row, err,
                    "SELECT d.id, d.kind, t.name, d.target, d.error_code, d.error_message,"
                    " d.request_id, d.attempts, b.body FROM deliveries d"
                    " CROSS JOIN tenants t ON t.id = d.tenant_id"
                    " CROSS JOIN delivery_bodies b ON b.delivery_id = d.id"
                    " WHERE d.tenant_id = ?1 AND d.due_ms <= ?2 ORDER BY d.due_ms LIMIT 1",
                    NUMBER(tenant_id), NUMBER(claim->now_ms));

    if (r <= 0)
        return r;
    delivery = make_delivery(row);
    sqlite3_reset(row);
    if (!delivery)
        return error_set(err, ENOMEM, "claim a delivery");
    r = event_ticket(&delivery->lease, err);
    if (r == 0)
        r = sql_run(claim->connection, err,
                    "UPDATE deliveries SET lease = ?2, due_ms = ?3 WHERE id = ?1",
                    NUMBER(delivery->id), NUMBER(delivery->lease), NUMBER(claim->until_ms));
    if (r < 0) {
        delivery_free(delivery);
        return r;
    }
    claim->deliveries[claim->n++] = delivery;
    return 1;
}

static bool has_room(const struct claim *claim, const char *tenant)
{
    size_t n_own = 0;

    if (!claim->room)
        return true;
    for (size_t i = 0; i < claim->n; i++)
        n_own += strcmp(claim->deliveries[i]->tenant, tenant) == 0;
    return claim->room->has(claim->room->opaque, tenant, NULL, n_own, claim->n);
}

/* The next tenant after the cursor that has deliveries, from the start again after the last. */
static int next_tenant(struct claim *claim, int64_t *ret_tenant_id, bool *ret_has_room,
                       struct error *err)
{
    sqlite3_stmt *row;
    int r = 0;

    for (int round = 0; r == 0 && round < 2; round++) {
        r = sql_row(claim->connection, &row, err,
                    "SELECT id, name FROM tenants WHERE id = (SELECT tenant_id FROM deliveries"
                    " WHERE tenant_id > ?1 ORDER BY tenant_id LIMIT 1)",
                    NUMBER(round == 0 ? claim->queue->delivery_cursor : 0));
        if (r == 1) {
            *ret_tenant_id = sqlite3_column_int64(row, 0);
            *ret_has_room = has_room(claim, column_text(row, 1));
        }
    }
    return r;
}

/* In turn from tenant to tenant, until a whole round finds nothing. */
static int claim_in_turn(struct claim *claim, struct error *err)
{
    int64_t tenant_id = 0, first_idle = -1;
    bool is_room = false;
    int r = 0;

    while (claim->n < claim->max && claim->examined < EXAMINED_MAX) {
        r = next_tenant(claim, &tenant_id, &is_room, err);
        if (r <= 0 || tenant_id == first_idle) {
            claim->is_round = true;
            break;
        }
        r = is_room ? claim_of(claim, tenant_id, err) : 0;
        if (r < 0)
            break;
        if (r == 1)
            first_idle = -1;
        else if (first_idle < 0)
            first_idle = tenant_id;
        claim->queue->delivery_cursor = tenant_id;
        claim->examined++;
    }
    return r < 0 ? r : 0;
}

/* As event_claim.c's. */
static int read_wait(struct connection *connection, uint64_t after_ms, uint64_t now_ms,
                     uint64_t *ret_wait_ms, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT due_ms FROM deliveries WHERE due_ms > ?1 ORDER BY due_ms LIMIT 1",
                    NUMBER(after_ms));

    if (r <= 0) {
        *ret_wait_ms = UINT64_MAX;
        return r;
    }
    uint64_t due_ms = (uint64_t)sqlite3_column_int64(row, 0);
    *ret_wait_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    return 0;
}

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
    if (r == 0)
        r = read_wait(claim->connection, claim->is_round ? claim->now_ms : 0, claim->now_ms,
                      ret_wait_ms, err);
    if (claim->n == 0 && claim->examined == EXAMINED_MAX && *ret_wait_ms < PAUSE_MS)
        *ret_wait_ms = PAUSE_MS; /* many have something due that there is no room for */
    r = event_end(claim->queue, claim->connection, r, err);
    for (size_t i = 0; r < 0 && i < claim->n; i++)
        delivery_free(claim->deliveries[i]);
    return r;
}

int event_queue_claim_deliveries(struct event_queue *queue, size_t max, uint64_t lease_ms,
                                 const struct event_room *room, struct delivery **ret_deliveries,
                                 size_t *ret_n, uint64_t *ret_wait_ms, struct error *err)
{
    struct delivery *deliveries[EVENT_CLAIM_MAX];
    struct claim claim = {
        .queue = queue, .room = room, .now_ms = queue->now_ms(), .deliveries = deliveries};
    uint64_t wait_ms = 0;
    int r;

    if (max == 0 || max > EVENT_CLAIM_MAX || lease_ms == 0 || lease_ms > LEASE_MAX_MS)
        return error_say(err, EINVAL, "claim %zu deliveries for %llu ms", max,
                         (unsigned long long)lease_ms);
    claim.max = max;
    claim.until_ms = claim.now_ms + lease_ms;
    r = look(queue, &wait_ms, err);
    if (r == 0 && wait_ms == 0)
        r = claim_now(&claim, &wait_ms, err);
    if (r < 0)
        return r;
    memcpy(ret_deliveries, deliveries, claim.n * sizeof(deliveries[0]));
    *ret_n = claim.n;
    if (ret_wait_ms)
        *ret_wait_ms = wait_ms;
    return 0;
}

static int finish(struct event_queue *queue, struct connection *connection,
                  const struct delivery *delivery, enum delivery_outcome outcome, bool *ret_dropped,
                  struct error *err)
{
    bool again = outcome == DELIVERY_FAILED && delivery->attempt < ATTEMPTS_MAX;
    uint64_t due_ms = queue->now_ms() + (queue->delivery_base_ms << (2 * delivery->attempt));
    int r = again ? sql_run(connection, err,
                            "UPDATE deliveries SET lease = 0, attempts = attempts + 1, due_ms = ?3"
                            " WHERE id = ?1 AND lease = ?2",
                            NUMBER(delivery->id), NUMBER(delivery->lease), NUMBER(due_ms))
                  : sql_run(connection, err, "DELETE FROM deliveries WHERE id = ?1 AND lease = ?2",
                            NUMBER(delivery->id), NUMBER(delivery->lease));

    if (r == 0 && connection_changes(connection) == 0)
        return error_say(err, ESTALE, "the delivery's lease is over");
    *ret_dropped = outcome != DELIVERY_DONE && !again;
    queue->new_dropped += *ret_dropped;
    return r;
}

int event_queue_delivered(struct event_queue *queue, const struct delivery *delivery,
                          enum delivery_outcome outcome, bool *ret_dropped, struct error *err)
{
    struct connection *connection;
    bool dropped = false;
    int r = event_begin(queue, &connection, err);

    if (r < 0)
        return r;
    r = finish(queue, connection, delivery, outcome, &dropped, err);
    r = event_end(queue, connection, r, err);
    if (r == 0 && ret_dropped)
        *ret_dropped = dropped;
    return r;
}
