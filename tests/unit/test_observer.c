/* What is seen of an invocation: reports, lines of output, spans, metrics, readiness. */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "host/observe/lambda_report.h"
#include "host/observe/observer.h"
#include "host/observe/readiness.h"
#include "registry_fixture.h"

#define ID "00000000-0000-4000-8000-000000000001"
#define ROOT "1-5759e988-bd862e3fe1be46a994272793"

static struct invocation_result result_of(enum invocation_kind kind)
{
    return (struct invocation_result){.kind = kind,
                                      .start = START_WARM,
                                      .instance_id = "0123456789abcdef",
                                      .acquire_us = 12,
                                      .duration_us = 1234,
                                      .billed_ms = 2,
                                      .memory_peak_bytes = 40 << 20};
}

/* --- reports --------------------------------------------------------------------------------- */

static void report_is(const struct lambda_report *report, const char *expected)
{
    char text[REPORT_TEXT_BYTES];

    assert_int_equal(lambda_report_report(report, text), strlen(expected));
    assert_string_equal(text, expected);
}

/* As Lambda prints them, to the last tab: what reads REPORT lines reads these. */
static void test_report(void **state)
{
    struct invocation_result result = result_of(INVOKED_OK);
    struct lambda_report report = {
        .request_id = ID, .version = "7", .memory_mib = 128, .timeout_ms = 3000, .result = &result};
    struct trace_context trace = {.root = ROOT, .is_sampled = true};
    char text[REPORT_TEXT_BYTES];

    (void)state;
    lambda_report_start(&report, text);
    assert_string_equal(text, "START RequestId: " ID " Version: 7");
    lambda_report_end(&report, text);
    assert_string_equal(text, "END RequestId: " ID);
    assert_int_equal(lambda_report_timeout(&report, text), 0);
#define PLAIN                                                                                      \
    "REPORT RequestId: " ID "\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\t"    \
    "Max Memory Used: 40 MB"
    report_is(&report, PLAIN "\t");
    result.init_us = 111110;
    report_is(&report, PLAIN "\tInit Duration: 111.11 ms\t");
    result.init_us = 0;
    result.restore_us = 2500;
    report_is(&report, PLAIN "\tRestore Duration: 2.50 ms\tBilled Restore Duration: 0 ms\t");
    result.restore_us = 0;
    result.kind = INVOKED_TIMEOUT;
    report_is(&report, PLAIN "\tStatus: timeout\t");
    assert_true(lambda_report_timeout(&report, text) > 0);
    assert_non_null(strstr(text, "Z " ID " Task timed out after 3.00 seconds"));
    result.kind = INVOKED_OK;
    report.trace = &trace;
    report.segment_id = "53995c3f42cd8ad8";
    report_is(&report,
              PLAIN "\t\nXRAY TraceId: " ROOT "\tSegmentId: 53995c3f42cd8ad8\tSampled: true\t");
}

static void test_report_tail(void **state)
{
    struct invocation_result result = result_of(INVOKED_OK);
    const struct lambda_report report = {
        .request_id = ID, .version = "$LATEST", .memory_mib = 128, .result = &result};
    struct log_tail tail;

    (void)state;
    log_tail_add(&result.log_tail, "no end", 6);
    lambda_report_tail(&report, &tail);
    const char *expected = "START RequestId: " ID " Version: $LATEST\nno end\nEND RequestId: " ID
                           "\nREPORT RequestId: " ID;
    assert_memory_equal(tail.bytes, expected, strlen(expected));
    assert_int_equal(tail.bytes[tail.len_bytes - 1], '\n');
}

/* --- an invocation --------------------------------------------------------------------------- */

struct place {
    char path[64];
    struct observer observer;
};

static struct place open_place(void)
{
    struct place place;
    struct log_store_options logs;
    struct error err;
    char path[128];

    memset(&place, 0, sizeof(place));
    snprintf(place.path, sizeof(place.path), "/tmp/mayfly-test-observer-XXXXXX");
    assert_non_null(mkdtemp(place.path));
    snprintf(path, sizeof(path), "%s/logs", place.path);
    logs = (struct log_store_options){.path = path};
    assert_int_equal(log_store_open(&logs, &place.observer.logs, &err), 0);
    snprintf(path, sizeof(path), "%s/daemon.log", place.path);
    assert_int_equal(daemon_log_open(path, LEVEL_INFO, &place.observer.log, &err), 0);
    assert_int_equal(daemon_metrics_new(&place.observer.metrics, &err), 0);
    return place;
}

/* What was logged; closes it all. *ret_texts: the function's and the daemon's, owned. */
static void close_place(struct place *place, char *ret_texts[2])
{
    char command[128], path[128];
    size_t len;
    struct error err;

    log_store_close(place->observer.logs);
    daemon_log_close(place->observer.log);
    daemon_metrics_free(place->observer.metrics);
    snprintf(path, sizeof(path), "%s/logs/alice/f/0000000001", place->path);
    assert_int_equal(fd_read_file(path, 1 << 24, (uint8_t **)&ret_texts[0], &len, &err), 0);
    snprintf(path, sizeof(path), "%s/daemon.log", place->path);
    assert_int_equal(fd_read_file(path, 1 << 24, (uint8_t **)&ret_texts[1], &len, &err), 0);
    snprintf(command, sizeof(command), "rm -rf '%s'", place->path);
    assert_int_equal(system(command), 0);
}

static const struct function function = {
    .tenant = "alice", .name = "f", .memory_mib = 512, .timeout_s = 3, .version_text = "$LATEST"};

static const struct api_invocation invocation = {.function = &function,
                                                 .request_id = ID,
                                                 .trace_id = "Root=" ROOT
                                                             ";Parent=53995c3f42cd8ad8;Sampled=1"};

/* The messages of a log, in order, by a '|' after each; free() it. */
static char *messages_of(const char *text)
{
    char *all = calloc(1, strlen(text) + 1);

    while (*text) {
        size_t len = strcspn(text, "\n");
        json_t *line = json_loadb(text, len, 0, NULL);

        assert_non_null(line);
        assert_string_equal(json_string_value(json_object_get(line, "request_id")), ID);
        strcat(all, json_string_value(json_object_get(line, "message")));
        strcat(all, "|");
        json_decref(line);
        text += len + 1;
    }
    return all;
}

static void test_invocation(void **state)
{
    struct place place = open_place();
    struct invocation_result result = result_of(INVOKED_OK);
    struct invocation event = {.version = NULL};
    struct observation seen;
    char *texts[2], long_line[LOG_MESSAGE_MAX + 10], *metrics = NULL;
    struct error err;

    (void)state;
    observer_begin(&place.observer, &seen, &invocation, &event);
    assert_string_equal(event.trace_id, invocation.trace_id); /* no spans: as it came */
    event.on_log(event.opaque, false, "init", 4, 0);
    event.on_start(event.opaque, &result);
    event.on_log(event.opaque, false, "one\ntw", 6, 0);
    event.on_log(event.opaque, true, "err\n\n", 5, 0);
    event.on_log(event.opaque, false, "o\n", 2, 7);
    memset(long_line, 'x', sizeof(long_line));
    event.on_log(event.opaque, false, long_line, sizeof(long_line), 0);
    observer_end(&seen, 0, &result, NULL, NULL);
    assert_int_equal(daemon_metrics_write(place.observer.metrics, "alice", &metrics, &err), 0);
    assert_non_null(strstr(metrics, "mayfly_invocations_total{tenant=\"alice\",function=\"f\","
                                    "kind=\"ok\"} 1\n"));
    assert_non_null(strstr(metrics, "mayfly_gb_seconds_total{tenant=\"alice\"} 0.001\n"));
    assert_non_null(strstr(metrics, "mayfly_concurrency{tenant=\"alice\",function=\"f\"} 0\n"));
    assert_null(strstr(metrics, "process_resident"));
    free(metrics);
    close_place(&place, texts);
    char *messages = messages_of(texts[0]);
    const char *expected = "init|START RequestId: " ID " Version: $LATEST|one|err||two|xxx";
    assert_int_equal(strncmp(messages, expected, strlen(expected)), 0);
    assert_non_null(strstr(messages, "x|xxxxxxxxxx|MAYFLY 7 bytes of output were dropped"));
    assert_non_null(strstr(messages, "|END RequestId: " ID "|REPORT RequestId: " ID "\t"));
    free(messages);
    json_t *line = json_loads(texts[1], 0, NULL);
    assert_non_null(line);
    assert_string_equal(json_string_value(json_object_get(line, "start")), "warm");
    assert_string_equal(json_string_value(json_object_get(line, "status")), "ok");
    assert_string_equal(json_string_value(json_object_get(line, "instance")), "0123456789abcdef");
    assert_int_equal(json_integer_value(json_object_get(line, "billed_ms")), 2);
    json_decref(line);
    free(texts[0]);
    free(texts[1]);
}

/* Throttled ones print nothing; one that the host failed is counted as the host's. */
static void test_failures(void **state)
{
    struct place place = open_place();
    struct invocation_result result = result_of(INVOKED_THROTTLED);
    struct invocation event = {.version = NULL};
    struct error err = {.text = "no disk"};
    struct observation seen;
    char *texts[2], *metrics = NULL;

    (void)state;
    result.throttle = THROTTLE_FUNCTION;
    observer_begin(&place.observer, &seen, &invocation, &event);
    observer_end(&seen, 0, &result, NULL, NULL);
    observer_begin(&place.observer, &seen, &invocation, &event);
    observer_end(&seen, -EIO, NULL, &err, NULL);
    result = result_of(INVOKED_FUNCTION_ERROR); /* its init phase */
    observer_begin(&place.observer, &seen, &invocation, &event);
    observer_end(&seen, 0, &result, NULL, NULL);
    assert_int_equal(daemon_metrics_write(place.observer.metrics, NULL, &metrics, &err), 0);
    assert_non_null(strstr(metrics, "mayfly_throttles_total{tenant=\"alice\",function=\"f\","
                                    "reason=\"function\"} 1\n"));
    assert_non_null(strstr(metrics, "mayfly_host_errors_total{tenant=\"alice\"} 1\n"));
    assert_non_null(strstr(metrics, "process_resident_memory_bytes "));
    free(metrics);
    close_place(&place, texts);
    char *messages = messages_of(texts[0]);
    const char *expected = "START RequestId: " ID " Version: $LATEST|END RequestId: " ID "|REPORT";
    assert_int_equal(strncmp(messages, expected, strlen(expected)), 0);
    free(messages);
    assert_non_null(strstr(texts[1], "\"level\":\"warning\",\"message\":\"throttled\""));
    assert_non_null(strstr(texts[1], "\"status\":\"host_error\",\"error\":\"no disk\""));
    free(texts[0]);
    free(texts[1]);
}

/* --- spans ----------------------------------------------------------------------------------- */

static struct span_record record_of(const char *request_id)
{
    struct span_record record = {.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
                                 .parent_id = "00f067aa0ba902b7",
                                 .server_id = "1111111111111111",
                                 .run_id = "2222222222222222",
                                 .begin_unix_ns = 1000000000,
                                 .end_unix_ns = 1030000000,
                                 .run_begin_unix_ns = 1010000000,
                                 .acquire_us = 10000,
                                 .restore_us = 4000,
                                 .duration_us = 15000,
                                 .tenant = "alice",
                                 .function = "f",
                                 .version = "1",
                                 .memory_mib = 128,
                                 .start = START_RESTORED,
                                 .kind = INVOKED_TIMEOUT};

    snprintf(record.request_id, sizeof(record.request_id), "%s", request_id);
    return record;
}

static const json_t *span_called(const json_t *spans, const char *name)
{
    size_t i;
    json_t *span;

    json_array_foreach(spans, i, span)
    {
        if (strcmp(json_string_value(json_object_get(span, "name")), name) == 0)
            return span;
    }
    fail_msg("no span '%s'", name);
    return NULL;
}

static const char *member(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "";
}

static void test_span_json(void **state)
{
    const struct span_record records[] = {record_of(ID), record_of("other")};
    AUTO_FREE char *text = span_exporter_json(records, 2);
    json_t *message = json_loads(text, 0, NULL);
    const json_t *resource = json_array_get(json_object_get(message, "resourceSpans"), 0);
    const json_t *scope = json_array_get(json_object_get(resource, "scopeSpans"), 0);
    const json_t *spans = json_object_get(scope, "spans");

    (void)state;
    assert_int_equal(json_array_size(spans), 8);
    const json_t *server = span_called(spans, "f"), *acquire = span_called(spans, "acquire");
    const json_t *restore = span_called(spans, "restore"), *run = span_called(spans, "run");
    assert_string_equal(member(server, "parentSpanId"), "00f067aa0ba902b7");
    assert_string_equal(member(server, "startTimeUnixNano"), "1000000000");
    assert_string_equal(member(json_object_get(server, "status"), "message"), "timeout");
    assert_string_equal(member(acquire, "parentSpanId"), "1111111111111111");
    assert_string_equal(member(acquire, "endTimeUnixNano"), "1010000000");
    assert_string_equal(member(restore, "parentSpanId"), member(acquire, "spanId"));
    assert_string_equal(member(restore, "startTimeUnixNano"), "1006000000");
    assert_string_equal(member(run, "spanId"), "2222222222222222");
    assert_string_equal(member(run, "endTimeUnixNano"), "1025000000");
    json_decref(message);
}

/* A collector that takes connections and says nothing: spans are lost, nothing else. */
static void test_deaf_collector(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    AUTO_FD listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct span_record record = record_of(ID);
    struct span_exporter *exporter = NULL;
    struct error err;
    char url[64];

    (void)state;
    assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", ntohs(address.sin_port));
    assert_int_equal(span_exporter_new(url, &exporter, &err), 0);
    for (int i = 0; i < 20000; i++)
        span_exporter_put(exporter, &record);
    assert_true(span_exporter_dropped(exporter) > 10000);
    shutdown(listener, SHUT_RDWR); /* whoever waits for it hears that it is gone */
    close(fd_steal(&listener));
    span_exporter_free(exporter);
}

/* --- readiness ------------------------------------------------------------------------------- */

static void test_readiness(void **state)
{
    struct registry_fixture store;
    struct api_readiness readiness;

    (void)state;
    fixture_open(&store);
    struct readiness_sources sources = {.registry = store.registry,
                                        .tenant = "alice",
                                        .images_path = store.state,
                                        .kernel = "linux",
                                        .kvm_path = "/dev/null"};
    readiness_check(&sources, &readiness);
    assert_int_equal(readiness.n, 1);
    assert_non_null(strstr(readiness.reasons[0], "no runtime has its images"));
    assert_null(strstr(readiness.reasons[0], store.state));
    sources.kvm_path = "/dev/no-kvm";
    sources.tenant = "nobody";
    sources.is_stopping = true;
    readiness_check(&sources, &readiness);
    assert_int_equal(readiness.n, 4);
    assert_string_equal(readiness.reasons[0], "it is being stopped");
    assert_non_null(strstr(readiness.reasons[2], "open /dev/no-kvm: No such file"));
    fixture_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report),     cmocka_unit_test(test_report_tail),
        cmocka_unit_test(test_invocation), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_span_json),  cmocka_unit_test(test_deaf_collector),
        cmocka_unit_test(test_readiness),
    };

    return cmocka_run_group_tests_name("observer", tests, NULL, NULL);
}
