/* The queue of asynchronous events: leases, retries, ages, destinations, limits, threads. */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/events/event_queue.h"
#include "registry_fixture.h"

enum { LEASE_MS = 60000 };

struct fixture {
    struct registry_fixture registry;
    struct event_queue *queue;
    char id[REQUEST_ID_BYTES]; /* of the last that was enqueued */
};

static char last_dropped[640]; /* what the log would say */

static void note_dropped(void *opaque, const char *request_id, const char *text)
{
    (void)opaque;
    assert_int_equal(strlen(request_id), REQUEST_ID_BYTES - 1);
    snprintf(last_dropped, sizeof(last_dropped), "%s", text);
}

static void open_queue(struct fixture *f, bool sole, uint64_t max_events, uint64_t max_bytes)
{
    struct event_queue_options options = {.sole = sole,
                                          .max_tenant_events = max_events,
                                          .max_tenant_bytes = max_bytes,
                                          .dropped = note_dropped,
                                          .now_ms = fixture_clock};
    struct error err = {0};

    event_queue_close(f->queue);
    fixture_expect(
        event_queue_open(registry_database(f->registry.registry), &options, &f->queue, &err), 0,
        &err, "");
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f)
        return -1;
    fixture_open(&f->registry);
    fixture_create(&f->registry, "f", "x");
    fixture_create(&f->registry, "g", "x");
    open_queue(f, true, 0, 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    event_queue_close(f->queue);
    fixture_close(&f->registry);
    free(f);
    return 0;
}

static int try_enqueue(struct fixture *f, struct function_key key, const char *payload,
                       struct error *err)
{
    struct event_submission event = {
        .key = key, .request_id = f->id, .payload = payload, .payload_len_bytes = strlen(payload)};

    assert_int_equal(identity_request(f->id, err), 0);
    return event_queue_enqueue(f->queue, &event, err);
}

static void enqueue(struct fixture *f, const char *function, const char *payload)
{
    struct error err = {0};

    fixture_expect(try_enqueue(f, fixture_key(function, NULL), payload, &err), 0, &err, "");
}

static size_t claim(struct fixture *f, struct event **events, size_t max, uint64_t *wait_ms)
{
    struct error err = {0};
    size_t n = 99;

    fixture_expect(event_queue_claim(f->queue, max, LEASE_MS, NULL, events, &n, wait_ms, &err), 0,
                   &err, "");
    return n;
}

static struct event *claim_one(struct fixture *f)
{
    struct event *event;

    assert_int_equal(claim(f, &event, 1, NULL), 1);
    return event;
}

static bool finish(struct fixture *f, struct event *event, enum event_outcome outcome)
{
    struct event_result result = {.outcome = outcome,
                                  .status = 200,
                                  .executed_version = outcome == EVENT_THROTTLED ? NULL : "$LATEST",
                                  .function_error =
                                      outcome == EVENT_FUNCTION_FAILED ? "Unhandled" : NULL,
                                  .response = "{\"n\": 1}",
                                  .response_len_bytes = 8,
                                  .error_message = "it broke\n"};
    struct error err = {0};
    bool again = false;

    fixture_expect(event_queue_finish(f->queue, event, &result, &again, &err), 0, &err, "");
    event_free(event);
    return again;
}

static uint64_t depth(struct fixture *f)
{
    struct event_queue_stats stats;
    struct error err = {0};

    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    return stats.depth;
}

/* --- leases --------------------------------------------------------------------------------------
 */

static void test_an_event_comes_as_it_was_sent(void **state)
{
    struct fixture *f = *state;
    struct event_submission submission = {.key = fixture_key("f", ""),
                                          .request_id = "00000000-1111-4222-8333-444444444444",
                                          .payload = "{\"a\":\"\\u0000\"}",
                                          .payload_len_bytes = 14,
                                          .client_context = "e30=",
                                          .trace = "Root=1-2-3",
                                          .traceparent = "00-0a-0b-01"};
    struct event_queue_stats stats;
    struct error err = {0};
    uint64_t wait_ms;
    struct event *event;

    assert_int_equal(claim(f, &event, 1, &wait_ms), 0);
    assert_true(wait_ms == UINT64_MAX);
    fixture_expect(event_queue_enqueue(f->queue, &submission, &err), 0, &err, "");
    fixture_expect(event_queue_enqueue(f->queue, &submission, &err), EEXIST, &err, "already");
    fixture_now_ms += 5;
    assert_int_equal(claim(f, &event, 1, &wait_ms), 1);
    assert_int_equal(wait_ms, LEASE_MS);
    assert_string_equal(event->request_id, submission.request_id);
    assert_string_equal(event->tenant, "alice");
    assert_string_equal(event->function, "f");
    assert_string_equal(event->qualifier, "$LATEST");
    assert_string_equal(event->client_context, "e30=");
    assert_string_equal(event->trace, "Root=1-2-3");
    assert_string_equal(event->traceparent, "00-0a-0b-01");
    assert_int_equal(event->payload_len_bytes, 14);
    assert_memory_equal(event->payload, submission.payload, 14);
    assert_int_equal(event->attempt, 1);
    assert_int_equal(event->claims, 1);
    assert_int_equal(event->accepted_ms, fixture_now_ms - 5);
    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.depth, 1);
    assert_int_equal(stats.leased, 1);
    assert_int_equal(stats.oldest_age_ms, 5);
    assert_int_equal(stats.bytes, 512 + 14);
    assert_false(finish(f, event, EVENT_SUCCEEDED));
    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.depth + stats.leased + stats.bytes + stats.oldest_age_ms, 0);
}

/* How many leases were lost. */
static size_t extend(struct fixture *f, const struct event *event, uint64_t lease_ms)
{
    const struct event_lease lease = {event->id, event->lease};
    struct error err = {0};
    size_t n_lost = 99;

    fixture_expect(event_queue_extend(f->queue, &lease, 1, lease_ms, &n_lost, &err), 0, &err, "");
    return n_lost;
}

static void test_leases_end(void **state)
{
    struct fixture *f = *state;
    struct event_result result = {.outcome = EVENT_SUCCEEDED};
    struct event *first, *second, *none;
    struct error err = {0};

    enqueue(f, "f", "1");
    first = claim_one(f);
    assert_int_equal(claim(f, &none, 1, NULL), 0);
    fixture_now_ms += LEASE_MS - 1;
    assert_int_equal(extend(f, first, LEASE_MS), 0);
    fixture_now_ms += LEASE_MS - 1;
    assert_int_equal(claim(f, &none, 1, NULL), 0);
    fixture_now_ms += 1;
    second = claim_one(f);
    assert_string_equal(second->request_id, first->request_id);
    assert_int_equal(second->attempt, 1);
    assert_int_equal(second->claims, 2);
    fixture_expect(event_queue_finish(f->queue, first, &result, NULL, &err), ESTALE, &err, "lease");
    assert_int_equal(extend(f, first, 1), 1);
    assert_int_equal(depth(f), 1);
    /* Late, but nobody else has it: fine. */
    fixture_now_ms += 10 * LEASE_MS;
    fixture_expect(event_queue_finish(f->queue, second, &result, NULL, &err), 0, &err, "");
    assert_int_equal(depth(f), 0);
    event_free(first);
    event_free(second);
}

static void test_leases_of_the_dead(void **state)
{
    struct fixture *f = *state;
    struct event *event, *none;

    enqueue(f, "f", "1");
    event_free(claim_one(f));
    open_queue(f, false, 0, 0);
    assert_int_equal(claim(f, &none, 1, NULL), 0);
    open_queue(f, true, 0, 0);
    event = claim_one(f);
    assert_int_equal(event->claims, 2);
    finish(f, event, EVENT_SUCCEEDED);
}

static void test_what_kills_its_workers_is_given_up(void **state)
{
    struct fixture *f = *state;
    struct event *none;

    enqueue(f, "f", "1");
    for (int i = 0; i < EVENT_ACCIDENTS_MAX; i++) {
        event_free(claim_one(f));
        open_queue(f, true, 0, 0);
    }
    assert_int_equal(claim(f, &none, 1, NULL), 0);
    assert_int_equal(depth(f), 0);
}

static void test_turns_between_functions(void **state)
{
    struct fixture *f = *state;
    struct event *events[EVENT_CLAIM_MAX];
    size_t n, of_g = 0;

    for (int i = 0; i < 30; i++)
        enqueue(f, "f", "1");
    enqueue(f, "g", "1");
    enqueue(f, "g", "2");
    n = claim(f, events, 4, NULL);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        of_g += strcmp(events[i]->function, "g") == 0;
        event_free(events[i]);
    }
    assert_int_equal(of_g, 2);
    n = claim(f, events, EVENT_CLAIM_MAX, NULL);
    assert_int_equal(n, 28);
    for (size_t i = 0; i < n; i++)
        event_free(events[i]);
}

/* --- again and again -----------------------------------------------------------------------------
 */

/* Room for a function by its name, or for so many of a tenant's. */
struct room {
    const char *refused_function;
    size_t max_own;
    unsigned n_asked;
};

static bool has_room(void *opaque, const char *tenant, const char *function, size_t n_own,
                     size_t n_claimed)
{
    struct room *room = opaque;

    room->n_asked++;
    assert_true(n_own <= n_claimed);
    assert_true(tenant[0] != '\0');
    return n_own < room->max_own &&
           (!room->refused_function || !function || strcmp(function, room->refused_function) != 0);
}

static size_t claim_with(struct fixture *f, struct room *room, struct event **events, size_t max,
                         uint64_t *wait_ms)
{
    const struct event_room asked = {has_room, room};
    struct error err = {0};
    size_t n = 99;

    fixture_expect(event_queue_claim(f->queue, max, LEASE_MS, &asked, events, &n, wait_ms, &err), 0,
                   &err, "");
    return n;
}

static void test_room(void **state)
{
    struct room room = {.refused_function = "f", .max_own = 3};
    struct event *events[8];
    struct fixture *f = *state;
    uint64_t wait_ms = 0;

    for (int i = 0; i < 4; i++) {
        enqueue(f, "f", "1");
        enqueue(f, "g", "2");
    }
    assert_int_equal(claim_with(f, &room, events, 8, &wait_ms), 3);
    for (int i = 0; i < 3; i++)
        assert_string_equal(events[i]->function, "g");
    /* What is due waits for room, so what there is to wait for is the end of a lease. */
    assert_int_equal(wait_ms, LEASE_MS);
    for (int i = 0; i < 3; i++)
        finish(f, events[i], EVENT_SUCCEEDED);
    room.max_own = 0;
    assert_int_equal(claim_with(f, &room, events, 8, &wait_ms), 0);
    assert_true(wait_ms == UINT64_MAX);
    room = (struct room){.max_own = 2};
    assert_int_equal(claim_with(f, &room, events, 1, &wait_ms), 1);
    assert_int_equal(wait_ms, 0); /* there is more, at once */
    finish(f, events[0], EVENT_SUCCEEDED);
    assert_int_equal(claim_with(f, &room, events, 8, NULL), 2);
    finish(f, events[0], EVENT_SUCCEEDED);
    finish(f, events[1], EVENT_SUCCEEDED);
    assert_int_equal(depth(f), 2);
}

static void test_retries(void **state)
{
    struct fixture *f = *state;
    struct event *event, *none;
    uint64_t wait_ms;

    enqueue(f, "f", "1");
    assert_true(finish(f, claim_one(f), EVENT_FUNCTION_FAILED));
    assert_int_equal(claim(f, &none, 1, &wait_ms), 0);
    assert_int_equal(wait_ms, 60000);
    fixture_now_ms += 60000;
    event = claim_one(f);
    assert_int_equal(event->attempt, 2);
    assert_true(finish(f, event, EVENT_FUNCTION_FAILED));
    assert_int_equal(claim(f, &none, 1, &wait_ms), 0);
    assert_int_equal(wait_ms, 120000);
    fixture_now_ms += 120000;
    event = claim_one(f);
    assert_int_equal(event->attempt, 3);
    assert_false(finish(f, event, EVENT_FUNCTION_FAILED));
    assert_int_equal(depth(f), 0);
}

static void test_throttles_do_not_count(void **state)
{
    static const uint64_t expected[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300};
    struct fixture *f = *state;
    struct event *event, *none;
    uint64_t wait_ms;

    enqueue(f, "f", "1");
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        event = claim_one(f);
        assert_int_equal(event->attempt, 1);
        assert_true(finish(f, event, EVENT_THROTTLED));
        assert_int_equal(claim(f, &none, 1, &wait_ms), 0);
        assert_int_equal(wait_ms, expected[i] * 1000);
        fixture_now_ms += wait_ms;
    }
}

static void configure(struct fixture *f, const char *qualifier, int64_t retries, int64_t age_s,
                      const char *on_success, const char *on_failure)
{
    struct function_key key = fixture_key("f", qualifier);
    struct event_config_change change = {retries, age_s, on_success, on_failure};
    struct error err = {0};

    fixture_expect(registry_put_event_config(f->registry.registry, &key, &change, NULL, &err), 0,
                   &err, "");
}

static void test_policies(void **state)
{
    struct fixture *f = *state;
    struct event *none;
    uint64_t wait_ms;

    configure(f, NULL, 0, 60, NULL, NULL);
    enqueue(f, "f", "1");
    assert_false(finish(f, claim_one(f), EVENT_FUNCTION_FAILED));
    /* Throttled beyond its age: it ends when its age does, without another attempt. */
    enqueue(f, "f", "1");
    for (int i = 0; i < 6; i++) {
        finish(f, claim_one(f), EVENT_THROTTLED);
        claim(f, &none, 1, &wait_ms);
        fixture_now_ms += wait_ms;
    }
    assert_int_equal(claim(f, &none, 1, &wait_ms), 0);
    assert_true(wait_ms == UINT64_MAX);
    assert_int_equal(depth(f), 0);
    /* Abandoned: never again, whatever the policy. */
    enqueue(f, "g", "1");
    assert_false(finish(f, claim_one(f), EVENT_ABANDONED));
    assert_int_equal(depth(f), 0);
}

/* --- destinations --------------------------------------------------------------------------------
 */

static struct delivery *claim_delivery(struct fixture *f)
{
    struct delivery *delivery;
    struct error err = {0};
    size_t n = 0;

    fixture_expect(event_queue_claim_deliveries(f->queue, 1, 1000, NULL, &delivery, &n, NULL, &err),
                   0, &err, "");
    assert_int_equal(n, 1);
    return delivery;
}

static void no_delivery(struct fixture *f)
{
    struct delivery *delivery;
    struct error err = {0};
    size_t n = 9;

    fixture_expect(event_queue_claim_deliveries(f->queue, 1, 1000, NULL, &delivery, &n, NULL, &err),
                   0, &err, "");
    assert_int_equal(n, 0);
}

static json_t *parse(const void *body, size_t len)
{
    json_t *json = json_loadb(body, len, 0, NULL);

    assert_non_null(json);
    return json;
}

static const char *text_at(json_t *json, const char *outer, const char *inner)
{
    return json_string_value(json_object_get(json_object_get(json, outer), inner));
}

static void test_record_of_a_success(void **state)
{
    struct fixture *f = *state;
    struct delivery *delivery;
    struct error err = {0};

    configure(f, NULL, -1, -1, "file:good", "file:bad");
    fixture_now_ms = 1573754165568;
    enqueue(f, "f", "{\"ask\": [1, \"\xc3\xa4\"]}");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    delivery = claim_delivery(f);
    assert_int_equal(delivery->kind, DELIVERY_ON_SUCCESS);
    assert_string_equal(delivery->target, "file:good");
    assert_string_equal(delivery->tenant, "alice");
    assert_string_equal(delivery->request_id, f->id);
    json_t *json = parse(delivery->body, delivery->body_len_bytes);
    assert_string_equal(json_string_value(json_object_get(json, "version")), "1.0");
    assert_string_equal(json_string_value(json_object_get(json, "timestamp")),
                        "2019-11-14T17:56:05.568Z");
    assert_string_equal(text_at(json, "requestContext", "requestId"), f->id);
    assert_string_equal(text_at(json, "requestContext", "functionArn"),
                        "arn:aws:lambda:us-east-1:000000000001:function:f:$LATEST");
    assert_string_equal(text_at(json, "requestContext", "condition"), "Success");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "requestContext"),
                                                        "approximateInvokeCount")),
                     1);
    assert_int_equal(
        json_array_size(json_object_get(json_object_get(json, "requestPayload"), "ask")), 2);
    assert_string_equal(text_at(json, "responseContext", "executedVersion"), "$LATEST");
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json, "responseContext"), "statusCode")),
        200);
    assert_null(text_at(json, "responseContext", "functionError"));
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json, "responsePayload"), "n")), 1);
    json_decref(json);
    fixture_expect(event_queue_delivered(f->queue, delivery, DELIVERY_DONE, NULL, &err), 0, &err,
                   "");
    fixture_expect(event_queue_delivered(f->queue, delivery, DELIVERY_DONE, NULL, &err), ESTALE,
                   &err, "lease");
    delivery_free(delivery);
    no_delivery(f);
}

static void set_dead_letter(struct fixture *f, const char *target)
{
    struct function_key key = fixture_key("f", NULL);
    struct function_settings settings = {.members = SETS_DEAD_LETTER, .dead_letter = target};
    struct error err = {0};

    fixture_expect(
        registry_update_settings(f->registry.registry, &key, &settings, NULL, NULL, &err), 0, &err,
        "");
    fixture_build(&f->registry, "f", NULL);
}

static void test_records_of_failures(void **state)
{
    struct fixture *f = *state;
    struct delivery *delivery;

    configure(f, NULL, 0, 60, "file:good", "https://example.org/in?x=1");
    set_dead_letter(f, "file:letters");
    enqueue(f, "f", "[7]");
    finish(f, claim_one(f), EVENT_FUNCTION_FAILED);
    delivery = claim_delivery(f);
    assert_int_equal(delivery->kind, DELIVERY_ON_FAILURE);
    assert_string_equal(delivery->target, "https://example.org/in?x=1");
    json_t *json = parse(delivery->body, delivery->body_len_bytes);
    assert_string_equal(text_at(json, "requestContext", "condition"), "RetriesExhausted");
    assert_string_equal(text_at(json, "responseContext", "functionError"), "Unhandled");
    json_decref(json);
    delivery_free(delivery);
    delivery = claim_delivery(f);
    assert_int_equal(delivery->kind, DELIVERY_DEAD_LETTER);
    assert_string_equal(delivery->target, "file:letters");
    assert_string_equal(delivery->error_code, "200");
    assert_string_equal(delivery->error_message, "it broke");
    assert_int_equal(delivery->body_len_bytes, 3);
    assert_memory_equal(delivery->body, "[7]", 3);
    delivery_free(delivery);
    /* One that got too old without ever running. */
    enqueue(f, "f", "[8]");
    fixture_now_ms += 60000;
    struct event *none;
    assert_int_equal(claim(f, &none, 1, NULL), 0);
    for (int i = 0; i < 4; i++) { /* the two of before, whose leases are over, and two new ones */
        delivery = claim_delivery(f);
        if (delivery->kind == DELIVERY_ON_FAILURE &&
            strstr(delivery->body, "\"EventAgeExceeded\"")) {
            json = parse(delivery->body, delivery->body_len_bytes);
            assert_null(json_object_get(json, "responseContext"));
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(json, "requestContext"),
                                                   "approximateInvokeCount")),
                0);
            json_decref(json);
            i = 100;
        }
        delivery_free(delivery);
        assert_int_not_equal(i, 3);
    }
}

static void test_hostile_responses(void **state)
{
    struct fixture *f = *state;
    char *large = malloc(EVENT_PAYLOAD_MAX + 1);
    const struct {
        const char *response;
        size_t len;
        json_type type;
    } cases[] = {
        {"\",\"x\":1}", 8, JSON_STRING}, /* would break out */
        {"\xff\xfe", 2, JSON_NULL},
        {"", 0, JSON_NULL},
        {"{\"a\":1}", 7, JSON_OBJECT},
        {"1 2", 3, JSON_STRING},
        {NULL, 0, JSON_NULL},
        {large, EVENT_PAYLOAD_MAX + 1, JSON_NULL},
    };
    struct error err = {0};

    assert_non_null(large);
    memset(large, '1', EVENT_PAYLOAD_MAX + 1);
    configure(f, NULL, -1, -1, "file:good", NULL);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct event_result result = {.outcome = EVENT_SUCCEEDED,
                                      .status = 200,
                                      .executed_version = "$LATEST",
                                      .response = cases[i].response,
                                      .response_len_bytes = cases[i].len};
        enqueue(f, "f", "1");
        struct event *event = claim_one(f);
        fixture_expect(event_queue_finish(f->queue, event, &result, NULL, &err), 0, &err, "");
        event_free(event);
        struct delivery *delivery = claim_delivery(f);
        json_t *json = parse(delivery->body, delivery->body_len_bytes);
        assert_int_equal(json_typeof(json_object_get(json, "responsePayload")), cases[i].type);
        assert_int_equal(json_object_size(json), 6);
        json_decref(json);
        fixture_expect(event_queue_delivered(f->queue, delivery, DELIVERY_DONE, NULL, &err), 0,
                       &err, "");
        delivery_free(delivery);
    }
    free(large);
}

static void test_functions_as_destinations(void **state)
{
    struct fixture *f = *state;
    struct event_queue_stats stats;
    struct error err = {0};
    struct event *event;

    configure(f, NULL, -1, -1, "arn:aws:lambda:us-east-1:000000000001:function:g", NULL);
    struct event_submission traced = {.key = fixture_key("f", NULL),
                                      .request_id = f->id,
                                      .payload = "1",
                                      .payload_len_bytes = 1,
                                      .trace = "Root=1-2-3",
                                      .traceparent = "00-0a-0b-01"};
    fixture_expect(identity_request(f->id, &err), 0, &err, "");
    fixture_expect(event_queue_enqueue(f->queue, &traced, &err), 0, &err, "");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    event = claim_one(f);
    assert_string_equal(event->trace, "Root=1-2-3"); /* the trace goes on */
    assert_string_equal(event->traceparent, "00-0a-0b-01");
    assert_string_equal(event->function, "g");
    assert_string_equal(event->qualifier, "$LATEST");
    assert_string_not_equal(event->request_id, f->id);
    assert_non_null(strstr(event->payload, f->id));
    finish(f, event, EVENT_SUCCEEDED);
    /* Itself: round and round, but not for ever. */
    configure(f, NULL, -1, -1, "arn:aws:lambda:us-east-1:000000000001:function:f:$LATEST", NULL);
    enqueue(f, "f", "1");
    for (int i = 0; i <= EVENT_HOPS_MAX; i++)
        finish(f, claim_one(f), EVENT_SUCCEEDED);
    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.depth, 0);
    assert_int_equal(stats.dropped, 1);
    assert_string_equal(
        last_dropped, "tenant 'alice': a record of 'f' for 'arn:aws:lambda:us-east-1:000000000001:"
                      "function:f:$LATEST' is dropped: events led to events too often");
    /* Another tenant's, and one that is not there: dropped, and counted. */
    struct function_key bobs = {"bob", "f", NULL};
    struct code_staged *code = fixture_stage(&f->registry, "x");
    fixture_expect(registry_create_function(f->registry.registry, &bobs, &fixture_settings, code,
                                            NULL, 0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
    configure(f, NULL, -1, -1, "arn:aws:lambda:us-east-1:000000000002:function:f", NULL);
    enqueue(f, "f", "1");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    assert_non_null(strstr(last_dropped, "it is no function of this tenant's"));
    configure(f, NULL, -1, -1, "arn:aws:lambda:us-east-1:000000000001:function:none", NULL);
    enqueue(f, "f", "1");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    assert_non_null(strstr(last_dropped, "there is no such function"));
    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.depth, 0);
    assert_int_equal(stats.dropped, 3);
}

static void test_deliveries_are_tried_again(void **state)
{
    struct fixture *f = *state;
    struct event_queue_stats stats;
    struct error err = {0};
    bool dropped = true;

    configure(f, NULL, -1, -1, "http://127.0.0.1/", NULL);
    enqueue(f, "f", "1");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    for (uint32_t attempt = 1; attempt <= 5; attempt++) {
        struct delivery *delivery = claim_delivery(f);
        assert_int_equal(delivery->attempt, attempt);
        fixture_expect(event_queue_delivered(f->queue, delivery, DELIVERY_FAILED, &dropped, &err),
                       0, &err, "");
        assert_int_equal(dropped, attempt == 5);
        delivery_free(delivery);
        no_delivery(f);
        fixture_now_ms += 2000000;
    }
    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    assert_int_equal(stats.deliveries + stats.bytes, 0);
    assert_int_equal(stats.dropped, 1);
}

/* In turn between tenants, where there is room; a refused one is dropped at once. */
static void test_turns_between_tenants(void **state)
{
    static const struct event_config_change change = {-1, -1, "file:good", NULL};
    struct code_staged *code = NULL;
    struct function_key key = {"bob", "b", NULL};
    struct fixture *f = *state;
    struct room room = {.max_own = 2};
    const struct event_room asked = {has_room, &room};
    struct delivery *deliveries[8];
    struct error err = {0};
    uint64_t wait_ms = 0;
    bool dropped = false;
    size_t n = 0;

    code = fixture_stage(&f->registry, "x");
    fixture_expect(registry_create_function(f->registry.registry, &key, &fixture_settings, code,
                                            NULL, 0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
    fixture_expect(registry_put_event_config(f->registry.registry, &key, &change, NULL, &err), 0,
                   &err, "");
    configure(f, NULL, -1, -1, "file:good", NULL);
    for (int i = 0; i < 5; i++) {
        enqueue(f, "f", "1");
        finish(f, claim_one(f), EVENT_SUCCEEDED);
    }
    for (int i = 0; i < 2; i++) {
        fixture_expect(try_enqueue(f, key, "1", &err), 0, &err, "");
        finish(f, claim_one(f), EVENT_SUCCEEDED);
    }
    fixture_expect(
        event_queue_claim_deliveries(f->queue, 8, 1000, &asked, deliveries, &n, &wait_ms, &err), 0,
        &err, "");
    assert_int_equal(n, 4); /* two of each, though alice has five */
    assert_int_equal(wait_ms, 1000);
    for (size_t i = 0; i + 1 < n; i++)
        assert_string_not_equal(deliveries[i]->tenant, deliveries[i + 1]->tenant);
    fixture_expect(event_queue_delivered(f->queue, deliveries[0], DELIVERY_REFUSED, &dropped, &err),
                   0, &err, "");
    assert_true(dropped);
    for (size_t i = 0; i < n; i++)
        delivery_free(deliveries[i]);
}

/* --- limits --------------------------------------------------------------------------------------
 */

static void test_refusals(void **state)
{
    struct fixture *f = *state;
    struct event_submission event = {.key = fixture_key("f", NULL), .request_id = f->id};
    char *large = calloc(1, EVENT_PAYLOAD_MAX + 1);
    struct error err = {0};

    assert_non_null(large);
    fixture_expect(try_enqueue(f, fixture_key("none", NULL), "1", &err), ENOENT, &err, "not found");
    fixture_expect(try_enqueue(f, fixture_key("f", "9"), "1", &err), ENOENT, &err, "not found");
    fixture_expect(try_enqueue(f, fixture_key("f", "live"), "1", &err), ENOENT, &err, "not found");
    fixture_expect(try_enqueue(f, fixture_key("f", "a b"), "1", &err), EINVAL, &err, "qualifier");
    fixture_expect(try_enqueue(f, (struct function_key){"bob", "f", NULL}, "1", &err), ENOENT, &err,
                   "not found");
    event.payload = large;
    event.payload_len_bytes = EVENT_PAYLOAD_MAX + 1;
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), E2BIG, &err, "too large");
    event.payload_len_bytes = EVENT_PAYLOAD_MAX;
    event.request_id = "x";
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), EINVAL, &err, "request id");
    event.request_id = f->id;
    event.trace = "a\nb";
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), EINVAL, &err, "trace");
    event.trace = NULL;
    event.traceparent = "a\nb";
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), EINVAL, &err, "traceparent");
    event.traceparent = NULL;
    memset(large, 'x', EVENT_CLIENT_CONTEXT_MAX + 1);
    event.client_context = large;
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), EINVAL, &err, "client context");
    event.client_context = NULL;
    assert_int_equal(depth(f), 0);
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), 0, &err, "");
    struct event *back = claim_one(f);
    assert_int_equal(back->payload_len_bytes, EVENT_PAYLOAD_MAX);
    assert_memory_equal(back->payload, large, EVENT_PAYLOAD_MAX);
    event_free(back);
    free(large);
}

static void test_a_full_queue(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    uint64_t events = 0;

    open_queue(f, true, 3, 0);
    for (int i = 0; i < 3; i++)
        enqueue(f, "f", "1");
    fixture_expect(try_enqueue(f, fixture_key("f", NULL), "1", &err), EAGAIN, &err, "full");
    fixture_expect(event_queue_depth(f->queue, "alice", &events, &err), 0, &err, "");
    assert_int_equal(events, 3);
    fixture_expect(event_queue_depth(f->queue, "bob", &events, &err), 0, &err, "");
    assert_int_equal(events, 0);
    fixture_expect(event_queue_depth(f->queue, "carol", &events, &err), ENOENT, &err, "carol");
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    enqueue(f, "f", "1");
    /* By bytes; a record that finds no room is dropped, the event is done with all the same. */
    open_queue(f, true, 100, 3 * 513 + 200);
    fixture_expect(try_enqueue(f, fixture_key("f", NULL), "1", &err), EAGAIN, &err, "full");
    configure(f, NULL, -1, -1, "file:good", NULL);
    finish(f, claim_one(f), EVENT_SUCCEEDED);
    assert_int_equal(depth(f), 2);
    no_delivery(f);
    assert_non_null(strstr(last_dropped, "queue is full"));
}

static void test_deleted_functions(void **state)
{
    struct fixture *f = *state;
    struct function_key key = fixture_key("f", NULL);
    struct event_result result = {.outcome = EVENT_SUCCEEDED};
    struct error err = {0};
    struct event *event;

    enqueue(f, "f", "1");
    enqueue(f, "f", "2");
    event = claim_one(f);
    fixture_expect(registry_delete(f->registry.registry, &key, &err), 0, &err, "");
    assert_int_equal(depth(f), 0);
    assert_int_equal(fixture_number(&f->registry, "SELECT count(*) FROM payloads"), 0);
    fixture_expect(event_queue_finish(f->queue, event, &result, NULL, &err), ESTALE, &err, "lease");
    event_free(event);
}

/* --- threads -------------------------------------------------------------------------------------
 */

enum { THREADS = 6, EVENTS_EACH = 60 };

struct worker {
    struct fixture *fixture;
    size_t done;
};

static void *enqueue_many(void *opaque)
{
    struct worker *worker = opaque;

    for (int i = 0; i < EVENTS_EACH; i++) {
        char id[REQUEST_ID_BYTES];
        struct error err = {0};
        struct event_submission event = {.key = fixture_key(i % 2 ? "f" : "g", NULL),
                                         .request_id = id,
                                         .payload = "1",
                                         .payload_len_bytes = 1};

        if (i % 10 == 9)
            event.key.name = "none"; /* refused, in the same batch as others that are not */
        if (identity_request(id, &err) == 0 &&
            event_queue_enqueue(worker->fixture->queue, &event, &err) == 0)
            worker->done++;
    }
    return NULL;
}

static void *work_off(void *opaque)
{
    struct event_result result = {.outcome = EVENT_SUCCEEDED};
    struct worker *worker = opaque;
    struct event *events[8];
    struct error err = {0};
    size_t n = 1;

    while (n > 0 && event_queue_claim(worker->fixture->queue, 8, LEASE_MS, NULL, events, &n, NULL,
                                      &err) == 0)
        for (size_t i = 0; i < n; i++) {
            worker->done +=
                event_queue_finish(worker->fixture->queue, events[i], &result, NULL, &err) == 0;
            event_free(events[i]);
        }
    return NULL;
}

static size_t run_threads(struct fixture *f, void *(*body)(void *))
{
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    size_t done = 0;

    for (size_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.fixture = f};
        assert_int_equal(pthread_create(&threads[i], NULL, body, &workers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        done += workers[i].done;
    }
    return done;
}

static void test_many_threads(void **state)
{
    struct fixture *f = *state;
    size_t expected = THREADS * (EVENTS_EACH - EVENTS_EACH / 10);

    assert_int_equal(run_threads(f, enqueue_many), expected);
    assert_int_equal(depth(f), expected);
    assert_int_equal(run_threads(f, work_off), expected);
    assert_int_equal(depth(f), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_event_comes_as_it_was_sent),
        TEST(test_leases_end),
        TEST(test_leases_of_the_dead),
        TEST(test_what_kills_its_workers_is_given_up),
        TEST(test_turns_between_functions),
        TEST(test_room),
        TEST(test_retries),
        TEST(test_throttles_do_not_count),
        TEST(test_policies),
        TEST(test_record_of_a_success),
        TEST(test_records_of_failures),
        TEST(test_hostile_responses),
        TEST(test_functions_as_destinations),
        TEST(test_deliveries_are_tried_again),
        TEST(test_turns_between_tenants),
        TEST(test_refusals),
        TEST(test_a_full_queue),
        TEST(test_deleted_functions),
        TEST(test_many_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
