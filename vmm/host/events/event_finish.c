/*
 * The end of an attempt, and of events: see event_queue.h. Process: the daemon's. Everything that
 * an end leads to is in the transaction that ends it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "common/text.h"
#include "event_internal.h"

enum { THROTTLE_MOST = 300, MESSAGE_BYTES = 1024, ARN_COLONS = 6 };

/* --- rows ----------------------------------------------------------------------------------------
 */

static void copy_text(sqlite3_stmt *row, int column, char *to, size_t size)
{
    snprintf(to, size, "%s", column_text(row, column));
}

void event_read_row(sqlite3_stmt *row, struct event_row *r)
{
    r->id = (uint64_t)sqlite3_column_int64(row, 0);
    r->ids = (struct function_ids){sqlite3_column_int64(row, 1), sqlite3_column_int64(row, 2)};
    copy_text(row, 3, r->tenant, sizeof(r->tenant));
    copy_text(row, 4, r->function, sizeof(r->function));
    copy_text(row, 5, r->account_id, sizeof(r->account_id));
    copy_text(row, 6, r->qualifier, sizeof(r->qualifier));
    copy_text(row, 7, r->request_id, sizeof(r->request_id));
    r->accepted_ms = (uint64_t)sqlite3_column_int64(row, 8);
    r->due_ms = (uint64_t)sqlite3_column_int64(row, 9);
    r->failures = (uint32_t)sqlite3_column_int64(row, 10);
    r->throttles = (uint32_t)sqlite3_column_int64(row, 11);
    r->claims = (uint32_t)sqlite3_column_int64(row, 12);
    r->hops = (uint32_t)sqlite3_column_int64(row, 13);
}

int event_read_policy(struct connection *connection, const struct event_row *event,
                      struct event_config *ret_policy, struct error *err)
{
    sqlite3_stmt *row;
    int r = sql_row(connection, &row, err,
                    "SELECT retries, max_age_s, on_success, on_failure FROM event_configs"
                    " WHERE function_id = ?1 AND qualifier = ?2",
                    NUMBER(event->ids.function_id), TEXT(event->qualifier));

    *ret_policy =
        (struct event_config){.retries = EVENT_RETRIES_DEFAULT, .max_age_s = EVENT_AGE_DEFAULT_S};
    if (r == 1) {
        ret_policy->retries = (uint32_t)sqlite3_column_int64(row, 0);
        ret_policy->max_age_s = (uint32_t)sqlite3_column_int64(row, 1);
        copy_text(row, 2, ret_policy->on_success, sizeof(ret_policy->on_success));
        copy_text(row, 3, ret_policy->on_failure, sizeof(ret_policy->on_failure));
    }
    return r < 0 ? r : 0;
}

/* Of the version that the qualifier stands for now; "" where there is none. */
static int read_dead_letter(struct connection *connection, const struct event_row *event,
                            char ret_target[TARGET_BYTES], struct error *err)
{
    enum qualifier_kind kind;
    struct error ignored;
    sqlite3_stmt *row;
    uint32_t number;
    int r;

    ret_target[0] = '\0';
    if (check_qualifier(event->qualifier, &kind, &number, &ignored) < 0)
        return 0;
    r = kind == QUALIFIER_ALIAS
            ? sql_row(connection, &row, err,
                      "SELECT v.dead_letter FROM aliases a JOIN versions v"
                      " ON v.function_id = a.function_id AND v.number = a.version"
                      " WHERE a.function_id = ?1 AND a.name = ?2",
                      NUMBER(event->ids.function_id), TEXT(event->qualifier))
            : sql_row(connection, &row, err,
                      "SELECT dead_letter FROM versions WHERE function_id = ?1 AND number = ?2",
                      NUMBER(event->ids.function_id), NUMBER(number));
    if (r == 1)
        copy_text(row, 0, ret_target, TARGET_BYTES);
    return r < 0 ? r : 0;
}

/* --- sending -------------------------------------------------------------------------------------
 */

/* What goes to a target; borrowed. */
struct parcel {
    const struct event_row *row;
    const struct event *event;
    enum delivery_kind kind;
    const char *target;
    const void *body;
    size_t len;
    const char *error_code, *error_message;
};

/* arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>], as target_check() had it. */
static bool split_arn(const char *arn, const char *account_id, char name[FUNCTION_NAME_MAX + 1],
                      const char **ret_qualifier)
{
    const char *at = arn;

    for (int colons = 0; colons < ARN_COLONS; colons++) {
        if (colons == 4 &&
            (strncmp(at, account_id, ACCOUNT_ID_BYTES - 1) != 0 || at[ACCOUNT_ID_BYTES - 1] != ':'))
            return false; /* another tenant's: as if it were not there */
        at = strchr(at, ':');
        if (!at)
            return false;
        at++;
    }
    size_t len = strcspn(at, ":");
    if (len == 0 || len > FUNCTION_NAME_MAX)
        return false;
    memcpy(name, at, len);
    name[len] = '\0';
    *ret_qualifier = at[len] == ':' ? at + len + 1 : NULL;
    return true;
}

/* Never held up by it, the event's end only says why. */
static int drop(struct event_queue *queue, const struct parcel *parcel, const char *why)
{
    memcpy(queue->dropped_id, parcel->row->request_id, sizeof(queue->dropped_id));
    error_say(&queue->dropped_why, EIO, "tenant '%s': a record of '%s' for '%s' is dropped: %s",
              parcel->row->tenant, parcel->row->function, shown(parcel->target).text, why);
    queue->new_dropped++;
    return 0;
}

static const char no_room[] = "the tenant's queue is full";

/* 1 sent, 0 dropped, -errno. */
static int send_to_function(struct event_queue *queue, struct connection *connection,
                            const struct parcel *parcel, struct error *err)
{
    char name[FUNCTION_NAME_MAX + 1], request_id[REQUEST_ID_BYTES];
    struct function_key key = {.tenant = parcel->row->tenant, .name = name};
    struct new_event event = {.hops = parcel->row->hops + 1,
                              .request_id = request_id,
                              .trace = parcel->event->trace,
                              .traceparent = parcel->event->traceparent,
                              .payload = parcel->body,
                              .payload_len_bytes = parcel->len};
    enum qualifier_kind kind;
    int r;

    if (event.hops > EVENT_HOPS_MAX)
        return drop(queue, parcel, "events led to events too often");
    if (!split_arn(parcel->target, parcel->row->account_id, name, &key.qualifier))
        return drop(queue, parcel, "it is no function of this tenant's");
    r = row_check_qualifier(connection, &key, &event.ids, &kind, &event.qualifier, err);
    if (r == -ENOENT || r == -EINVAL)
        return drop(queue, parcel, "there is no such function");
    if (r == 0)
        r = event_check_room(queue, connection, event.ids.tenant_id, parcel->len, err);
    if (r <= 0)
        return r < 0 ? r : drop(queue, parcel, no_room);
    r = identity_request(request_id, err);
    if (r == 0)
        r = event_insert(queue, connection, &event, err);
    return r < 0 ? r : 1;
}

/* As above. */
static int send_out(struct event_queue *queue, struct connection *connection,
                    const struct parcel *parcel, struct error *err)
{
    const struct event_row *row = parcel->row;
    int r = event_check_room(queue, connection, row->ids.tenant_id, parcel->len, err);

    if (r <= 0)
        return r < 0 ? r : drop(queue, parcel, no_room);
    r = sql_run(connection, err,
                "INSERT INTO deliveries (tenant_id, kind, target, request_id, error_code,"
                " error_message, due_ms, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                NUMBER(row->ids.tenant_id), NUMBER(parcel->kind), TEXT(parcel->target),
                TEXT(row->request_id), TEXT(parcel->error_code), TEXT(parcel->error_message),
                NUMBER(queue->now_ms()), NUMBER(parcel->len + 512));
    if (r == 0)
        r = sql_run(connection, err, "INSERT INTO delivery_bodies VALUES (?1, ?2)",
                    NUMBER(connection_last_id(connection)), BLOB(parcel->body, parcel->len));
    queue->new_deliveries += r == 0;
    return r < 0 ? r : 1;
}

/* What cannot be sent is dropped and counted, as Lambda does: the event's end is not held up. */
static int send(struct event_queue *queue, struct connection *connection,
                const struct parcel *parcel, struct error *err)
{
    int r = strncmp(parcel->target, "arn:", 4) == 0
                ? send_to_function(queue, connection, parcel, err)
                : send_out(queue, connection, parcel, err);

    return r < 0 ? r : 0;
}

static int send_record(struct event_queue *queue, struct connection *connection,
                       const struct event_record *record, const struct event *event,
                       const char *target, struct error *err)
{
    struct parcel parcel = {.row = record->row,
                            .event = event,
                            .kind = strcmp(record->condition, "Success") == 0 ? DELIVERY_ON_SUCCESS
                                                                              : DELIVERY_ON_FAILURE,
                            .target = target,
                            .error_code = "",
                            .error_message = ""};
    AUTO_FREE char *text = NULL;
    int r = event_record_make(record, &text, &parcel.len, err);

    parcel.body = text;
    return r < 0 ? r : send(queue, connection, &parcel, err);
}

/* The event itself; why it is there stands beside it. */
static int send_dead_letter(struct event_queue *queue, struct connection *connection,
                            const struct event_record *record, const struct event *event,
                            struct error *err)
{
    const char *said = record->result ? record->result->error_message : NULL;
    char target[TARGET_BYTES], code[16], message[MESSAGE_BYTES];
    struct parcel parcel = {.row = record->row,
                            .event = event,
                            .kind = DELIVERY_DEAD_LETTER,
                            .target = target,
                            .body = record->payload,
                            .len = record->payload_len_bytes,
                            .error_code = code,
                            .error_message = message};
    int r = read_dead_letter(connection, record->row, target, err);

    if (r < 0 || target[0] == '\0')
        return r;
    said = said ? said : record->condition;
    text_clean(message, sizeof(message), said, strlen(said));
    snprintf(code, sizeof(code), "%u", record->result ? record->result->status : 0);
    return send(queue, connection, &parcel, err);
}

int event_end_for_good(struct event_queue *queue, struct connection *connection,
                       const struct event_row *row, const struct event_config *policy,
                       const char *condition, const struct event_result *result,
                       const struct event *event, struct error *err)
{
    bool is_success = strcmp(condition, "Success") == 0;
    const char *target = is_success ? policy->on_success : policy->on_failure;
    const struct event_record record = {
        .now_ms = queue->now_ms(),
        .region = queue->region,
        .row = row,
        .condition = condition,
        .invoke_count = row->failures + (result && result->executed_version ? 1 : 0),
        .payload = event->payload,
        .payload_len_bytes = event->payload_len_bytes,
        .result = result,
    };
    /* First away with it: its bytes make room for its record's. */
    int r = sql_run(connection, err, "DELETE FROM events WHERE id = ?1", NUMBER(row->id));

    if (r == 0 && target[0])
        r = send_record(queue, connection, &record, event, target, err);
    if (r == 0 && !is_success)
        r = send_dead_letter(queue, connection, &record, event, err);
    return r;
}

/* --- finishing -----------------------------------------------------------------------------------
 */

/* @base_ms doubled @times times, up to @most times it. */
static uint64_t backoff_ms(uint64_t base_ms, uint32_t times, uint64_t most)
{
    uint64_t factor = times < 32 ? 1ull << times : most;

    return base_ms * (factor < most ? factor : most);
}

/* Not later than its age allows: then its failure is due. */
static int try_again(struct event_queue *queue, struct connection *connection,
                     const struct event_row *row, const struct event_config *policy,
                     bool is_throttle, struct error *err)
{
    uint64_t end_ms = row->accepted_ms + policy->max_age_s * 1000ull;
    uint64_t due_ms =
        queue->now_ms() +
        (is_throttle ? backoff_ms(queue->throttle_base_ms, row->throttles, THROTTLE_MOST)
                     : backoff_ms(queue->retry_base_ms, row->failures, 1u << EVENT_RETRIES_MAX));

    return sql_run(connection, err,
                   "UPDATE events SET lease = 0, due_ms = ?2, failures = failures + ?3,"
                   " throttles = throttles + ?4 WHERE id = ?1",
                   NUMBER(row->id), NUMBER(due_ms < end_ms ? due_ms : end_ms), NUMBER(!is_throttle),
                   NUMBER(is_throttle));
}

static int finish(struct event_queue *queue, struct connection *connection,
                  const struct event *event, const struct event_result *result, bool *ret_again,
                  struct error *err)
{
    struct event_config policy;
    struct event_row read;
    sqlite3_stmt *row;
    bool again;
    int r = sql_row(connection, &row, err,
                    "SELECT " EVENT_COLUMNS EVENT_FROM " WHERE e.id = ?1 AND e.lease = ?2",
                    NUMBER(event->id), NUMBER(event->lease));

    if (r == 0)
        return error_say(err, ESTALE, "the event's lease is over");
    if (r < 0)
        return r;
    event_read_row(row, &read);
    sqlite3_reset(row);
    r = event_read_policy(connection, &read, &policy, err);
    if (r < 0)
        return r;
    again = result->outcome == EVENT_THROTTLED ||
            (result->outcome == EVENT_FUNCTION_FAILED && read.failures < policy.retries);
    *ret_again = again;
    if (again)
        return try_again(queue, connection, &read, &policy, result->outcome == EVENT_THROTTLED,
                         err);
    return event_end_for_good(queue, connection, &read, &policy,
                              result->outcome == EVENT_SUCCEEDED ? "Success" : "RetriesExhausted",
                              result, event, err);
}

int event_queue_finish(struct event_queue *queue, const struct event *event,
                       const struct event_result *result, bool *ret_again, struct error *err)
{
    struct connection *connection;
    bool again = false;
    int r = event_begin(queue, &connection, err);

    if (r < 0)
        return r;
    r = finish(queue, connection, event, result, &again, err);
    r = event_end(queue, connection, r, err);
    if (r == 0 && ret_again)
        *ret_again = again;
    return r;
}
