/* What operators and tenants ask of the daemon over HTTP: health, metrics, logs; traces' headers.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "api_fixture.h"
#include "common/bytes.h"
#include "common/fd.h"
#include "host/observe/log_store.h"

#define LOGS "/mayfly/v1/functions"
#define ROOT "1-5759e988-bd862e3fe1be46a994272793"

static void test_health(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_answer got;

    json_decref(expect_ok(fixture, "GET", "/healthz", "", 200));
    json_t *ready = expect_ok(fixture, "GET", "/readyz", "", 200);
    assert_true(json_is_true(json_object_get(ready, "ready")));
    json_decref(ready);
    fixture_seen.is_unready = true;
    call(fixture, "GET", "/readyz", NULL, "", &got);
    assert_int_equal(got.http.status, 503);
    assert_true(json_is_false(json_object_get(got.json, "ready")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(got.json, "reasons"), 0)),
                        "warming up");
    api_answer_done(&got);
}

static void expect_metrics(int fd, const char *headers, int status, const char *words)
{
    struct api_answer got;

    call_on(fd, "GET", "/metrics", headers, "", 0, &got);
    assert_int_equal(got.http.status, status);
    if (words && !strstr(got.http.body, words))
        fail_msg("no '%s' in %s", words, got.http.body);
    api_answer_done(&got);
}

/* All tenants' for who is on this host by its socket; a key's own tenant else. */
static void test_metrics(void **state)
{
    struct api_fixture *fixture = *state;
    int tcp = client_tcp(http_server_port(fixture->server));
    char *signature;

    expect_metrics(fixture->fd, NULL, 200, "tenant=\"\"");
    expect_metrics(fixture->fd, "X-Mayfly-Tenant: alice\r\n", 200, "tenant=\"alice\"");
    expect_metrics(tcp, NULL, 403, NULL);
    signature = sign("GET", "/metrics", "", "localhost", "", fixture_key_id, fixture_secret,
                     (int64_t)time(NULL));
    expect_metrics(tcp, signature, 200, "tenant=\"alice\"");
    free(signature);
    close(tcp);
}

/* --- logs ------------------------------------------------------------------------------------ */

static void put(struct api_fixture *fixture, const char *tenant, const char *function,
                const char *request_id, const char *message)
{
    const struct log_entry entry = {.tenant = tenant,
                                    .function = function,
                                    .time_ms = json_line_now_ms(),
                                    .request_id = request_id,
                                    .version = "$LATEST",
                                    .instance = "i",
                                    .stream = LOG_STDERR,
                                    .message = message,
                                    .message_bytes = strlen(message)};

    log_store_put(fixture->logs, &entry);
}

/* GETs until the answer has @words, for 20 s at most. */
static void expect_lines(struct api_fixture *fixture, const char *target, const char *words)
{
    struct api_answer got;

    for (int i = 0; i < 1000; i++) {
        call(fixture, "GET", target, NULL, "", &got);
        assert_int_equal(got.http.status, 200);
        bool found = got.http.body_len > 0 && strstr(got.http.body, words);
        api_answer_done(&got);
        if (found)
            return;
        usleep(20000);
    }
    fail_msg("never '%s' at %s", words, target);
}

static void refuse(struct api_fixture *fixture, const char *query)
{
    char target[256];

    snprintf(target, sizeof(target), LOGS "/f/logs?%s", query);
    expect_error(fixture, "GET", target, NULL, "", 400, "InvalidParameterValueException", NULL);
}

static void test_logs(void **state)
{
    static const char *const bad[] = {
        "since=yesterday",
        "since=2026-01-31",
        "since=99999999999999s",
        "limit=0",
        "limit=10001",
        "limit=1x",
        "limit=",
        "follow=yes",
        "request_id=1",
        "what=1",
        "since=-1s",
        "since=2026-01-31T12:00:00",
        "follow=true&request_id=00000000-0000-4000-8000-000000000001"};
    struct api_fixture *fixture = *state;
    const char *id = "00000000-0000-4000-8000-000000000001";

    expect_error(fixture, "GET", LOGS "/f/logs", NULL, "", 404, "ResourceNotFoundException", NULL);
    deploy(fixture, "f");
    json_decref(expect_ok(fixture, "GET", LOGS "/f/logs", "", 200));
    put(fixture, "alice", "f", id, "hello");
    put(fixture, "alice", "f", "00000000-0000-4000-8000-000000000002", "world");
    put(fixture, "bob", "g", id, "of bob");
    expect_lines(fixture, LOGS "/f/logs", "\"stream\":\"stderr\",\"message\":\"world\"}\n");
    expect_lines(fixture, LOGS "/f/logs?since=1h&limit=1&follow=false", "world");
    expect_lines(fixture, LOGS "/f/logs?request_id=00000000-0000-4000-8000-000000000001", "hello");
    expect_lines(fixture, LOGS "/f/logs?since=2026-01-31T12:00:00.5Z", "hello");
    expect_error(fixture, "GET", LOGS "/g/logs", NULL, "", 404, "ResourceNotFoundException", NULL);
    expect_error(fixture, "GET", LOGS "/f:1/logs", NULL, "", 400, "InvalidParameterValueException",
                 NULL);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        refuse(fixture, bad[i]);
    /* A deleted function's log can be read; until it is removed. */
    json_decref(expect_ok(fixture, "DELETE", "/2015-03-31/functions/f", "", 204));
    expect_lines(fixture, LOGS "/f/logs", "hello");
    json_decref(expect_ok(fixture, "DELETE", LOGS "/f/logs", "", 204));
    struct api_answer got;
    for (int i = 0, status = 200; i < 1000 && status != 404; i++) {
        call(fixture, "GET", LOGS "/f/logs", NULL, "", &got);
        status = got.http.status;
        api_answer_done(&got);
        if (status != 404)
            usleep(20000);
        if (i == 999)
            fail_msg("they are not removed");
    }
}

/* Reads until @words came. */
static void read_until(int fd, const char *words)
{
    char text[16384];
    size_t len = 0;

    while (len + 1 < sizeof(text)) {
        ssize_t n = read(fd, text + len, sizeof(text) - len - 1);

        if (n <= 0)
            fail_msg("it ended before '%s'", words);
        len += (size_t)n;
        text[len] = '\0';
        if (strstr(text, words))
            return;
    }
    fail_msg("no '%s' in %s", words, text);
}

static void test_follow(void **state)
{
    static const char request[] =
        "GET " LOGS "/f/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct api_fixture *fixture = *state;
    int one = client_unix(fixture->socket_path), two = client_unix(fixture->socket_path);

    deploy(fixture, "f");
    put(fixture, "alice", "f", "r", "before");
    expect_lines(fixture, LOGS "/f/logs", "before");
    client_send(one, request, sizeof(request) - 1);
    read_until(one, "before");
    client_send(two, request, sizeof(request) - 1);
    read_until(two, "before");
    put(fixture, "alice", "f", "r", "then");
    read_until(one, "then");
    read_until(two, "then");
    close(two); /* who goes away does not keep the others */
    put(fixture, "alice", "f", "r", "later");
    read_until(one, "later");
    log_store_end_followers(fixture->logs);
    read_until(one, "0\r\n\r\n");
    close(one);
}

/* --- CloudWatch Logs' way -------------------------------------------------------------------- */

#define FILTER "X-Amz-Target: Logs_20140328.FilterLogEvents\r\n"
#define GET "X-Amz-Target: Logs_20140328.GetLogEvents\r\n"

/* The answer to a request that must succeed; json_decref() it. */
static json_t *ask_logs(struct api_fixture *fixture, const char *target, const char *body)
{
    struct api_answer got;

    call(fixture, "POST", "/", target, body, &got);
    if (got.http.status != 200)
        fail_msg("%s: %d %s", body, got.http.status, got.http.body);
    json_t *answer = json_incref(got.json);
    api_answer_done(&got);
    return answer;
}

static void refuse_logs(struct api_fixture *fixture, const char *body, const char *type)
{
    struct api_answer got;

    call(fixture, "POST", "/", FILTER, body, &got);
    assert_int_equal(got.http.status, 400);
    assert_string_equal(text_of(got.json, "__type"), type);
    assert_true(strlen(text_of(got.json, "message")) > 0);
    api_answer_done(&got);
}

static size_t events_in(const json_t *answer)
{
    return json_array_size(json_object_get(answer, "events"));
}

static void test_log_events(void **state)
{
    struct api_fixture *fixture = *state;
    char body[512], message[32];
    size_t n = 0, pages = 0;

    deploy(fixture, "f");
    json_t *answer = ask_logs(fixture, FILTER, "{\"logGroupName\": \"/aws/lambda/f\"}");
    assert_int_equal(events_in(answer), 0);
    json_decref(answer);
    for (int i = 0; i < 25; i++) {
        snprintf(message, sizeof(message), "number %d.", i);
        put(fixture, "alice", "f", "r", message);
    }
    expect_lines(fixture, LOGS "/f/logs", "number 24.");
    /* In pages, each event once, in order. */
    snprintf(body, sizeof(body), "{\"logGroupName\": \"/aws/lambda/f\", \"limit\": 10}");
    for (bool is_over = false; !is_over; pages++) {
        answer = ask_logs(fixture, FILTER, body);
        for (size_t i = 0; i < events_in(answer); i++, n++) {
            const json_t *event = json_array_get(json_object_get(answer, "events"), i);

            snprintf(message, sizeof(message), "number %zu.\n", n);
            assert_string_equal(text_of(event, "message"), message);
            assert_non_null(strstr(text_of(event, "logStreamName"), "/[$LATEST]i"));
        }
        const char *token = json_string_value(json_object_get(answer, "nextToken"));
        is_over = !token;
        if (token)
            snprintf(body, sizeof(body),
                     "{\"logGroupName\": \"/aws/lambda/f\", \"limit\": 10, \"nextToken\": \"%s\"}",
                     token);
        json_decref(answer);
    }
    assert_int_equal(n, 25);
    assert_in_range(pages, 3, 4);
    answer = ask_logs(fixture, FILTER,
                      "{\"logGroupName\": \"/aws/lambda/f\", \"startTime\": 1000,"
                      " \"filterPattern\": \"number \\\"r 7.\\\"\"}");
    assert_int_equal(events_in(answer), 1);
    snprintf(body, sizeof(body),
             "{\"logGroupIdentifier\": \"arn:aws:logs:r:1:log-group:/aws/lambda/f:*\","
             " \"logStreamName\": \"%s\", \"startFromHead\": true}",
             text_of(json_array_get(json_object_get(answer, "events"), 0), "logStreamName"));
    json_decref(answer);
    answer = ask_logs(fixture, GET, body);
    assert_int_equal(events_in(answer), 25);
    assert_true(strlen(text_of(answer, "nextForwardToken")) > 0);
    json_decref(answer);
    answer = ask_logs(fixture, FILTER, "{\"logGroupName\": \"/aws/lambda/f\", \"endTime\": 1000}");
    assert_int_equal(events_in(answer), 0);
    json_decref(answer);
}

static void test_log_events_refused(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    put(fixture, "bob", "g", "r", "of bob");
#define GROUP "{\"logGroupName\": \"/aws/lambda/f\", "
    refuse_logs(fixture, "{\"logGroupName\": \"/aws/lambda/g\"}", "ResourceNotFoundException");
    refuse_logs(fixture, "{\"logGroupName\": \"/aws/lambda/..\"}", "ResourceNotFoundException");
    refuse_logs(fixture, "{\"logGroupName\": \"/aws/lambda/f:x\"}", "ResourceNotFoundException");
    refuse_logs(fixture, "{\"logGroupName\": \"f\"}", "ResourceNotFoundException");
    refuse_logs(fixture, "{}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"limit\": 10001}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"startTime\": -1}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"nextToken\": \"x\"}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"nextToken\": \"1-1x\"}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"filterPattern\": \"{ $.a = 1 }\"}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"filterPattern\": \"\\\"open\"}", "InvalidParameterException");
    refuse_logs(fixture, GROUP "\"logStreamNames\": 1}", "InvalidParameterException");
    refuse_logs(fixture, "[]", "SerializationException");
    refuse_logs(fixture, "{\"a\"", "SerializationException");
    /* A place that was never there, or is no longer: nothing, and no harm. */
    json_decref(ask_logs(fixture, FILTER,
                         GROUP "\"nextToken\": \"18446744073709551615-18446744073709551615\"}"));
}

/* --- traces ---------------------------------------------------------------------------------- */

static void invoke_with(struct api_fixture *fixture, const char *headers, const char *expected)
{
    struct api_answer got;
    char value[256];

    call(fixture, "POST", "/2015-03-31/functions/f/invocations", headers, "{}", &got);
    assert_int_equal(got.http.status, 200);
    client_header(&got.http, "X-Amzn-Trace-Id", value, sizeof(value));
    if (expected)
        assert_string_equal(value, expected);
    assert_string_equal(fixture_seen.trace_id, value);
    assert_int_equal(strncmp(value, "Root=1-", 7), 0);
    assert_int_equal(strspn(value + 7, "0123456789abcdef"), 8);
    assert_int_equal(strspn(value + 16, "0123456789abcdef"), 24);
    api_answer_done(&got);
}

static void test_trace_headers(void **state)
{
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    invoke_with(fixture, NULL, NULL);
    invoke_with(fixture, "X-Amzn-Trace-Id: \xff\xfe nonsense; Root=\r\n", NULL);
    invoke_with(fixture, "X-Amzn-Trace-Id: Root=" ROOT ";Sampled=1\r\n", "Root=" ROOT ";Sampled=1");
    invoke_with(fixture, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
                "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1");
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, api_fixture_set_up, api_fixture_tear_down)
    const struct CMUnitTest tests[] = {CASE(test_health),       CASE(test_metrics),
                                       CASE(test_logs),         CASE(test_follow),
                                       CASE(test_log_events),   CASE(test_log_events_refused),
                                       CASE(test_trace_headers)};

    return cmocka_run_group_tests_name("operator", tests, NULL, NULL);
}
