/* What is seen of an invocation: see observer.h. Process: mayflyd. What a function prints is
 * hostile: cut into lines of bounded length here, cleaned by the log store. */
#include "observer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "json_line.h"
#include "lambda_report.h"

static const char *const starts[] = {"warm", "restored", "cold"};

static uint64_t unix_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

enum { LINES_MAX = 20000 }; /* of an event's output: the log's queue is everybody's */

/* --- the function's log ---------------------------------------------------------------------- */

static void put(const struct observation *seen, enum log_stream stream, const void *message,
                size_t len)
{
    const struct log_entry entry = {.tenant = seen->function->tenant,
                                    .function = seen->function->name,
                                    .time_ms = json_line_now_ms(),
                                    .request_id = seen->request_id,
                                    .version = seen->function->version_text,
                                    .instance = seen->instance_id,
                                    .stream = stream,
                                    .message = message,
                                    .message_bytes = len};

    log_store_put(seen->observer->logs, &entry);
}

static void put_line(struct observation *seen, unsigned is_stderr)
{
    struct observed_line *line = &seen->lines[is_stderr];

    if (seen->left_lines == 0) {
        seen->dropped_bytes += line->len + 1;
        line->len = 0;
        return;
    }
    seen->left_lines--;
    put(seen, is_stderr ? LOG_STDERR : LOG_STDOUT, line->bytes, line->len);
    line->len = 0;
}

void observer_on_output(void *opaque, bool is_stderr, const void *data, size_t len_bytes,
                        uint64_t dropped_bytes)
{
    struct observation *seen = opaque;
    struct observed_line *line = &seen->lines[is_stderr];
    const char *from = data;

    if (!seen->observer->logs)
        return;
    seen->dropped_bytes += dropped_bytes;
    while (len_bytes > 0) {
        const char *feed = memchr(from, '\n', len_bytes);
        size_t n = feed ? (size_t)(feed - from) : len_bytes, room = sizeof(line->bytes) - line->len;
        bool is_whole = feed && n <= room;

        n = n < room ? n : room;
        memcpy(line->bytes + line->len, from, n);
        line->len += n;
        if (is_whole || line->len == sizeof(line->bytes))
            put_line(seen, is_stderr);
        from += n + is_whole;
        len_bytes -= n + is_whole;
    }
}

static void end_output(struct observation *seen)
{
    char text[96];

    for (unsigned i = 0; i < 2; i++)
        if (seen->lines[i].len > 0)
            put_line(seen, i);
    if (seen->dropped_bytes > 0)
        put(seen, LOG_PLATFORM, text,
            (size_t)snprintf(text, sizeof(text),
                             "MAYFLY %llu bytes of output were dropped: too many for one event",
                             (unsigned long long)seen->dropped_bytes));
    seen->dropped_bytes = 0;
}

static struct lambda_report report_of(const struct observation *seen,
                                      const struct invocation_result *result)
{
    return (struct lambda_report){.request_id = seen->request_id,
                                  .version = seen->function->version_text,
                                  .memory_mib = seen->function->memory_mib,
                                  .timeout_ms = seen->function->timeout_s * 1000ull,
                                  .result = result,
                                  .trace = seen->observer->spans ? &seen->trace : NULL,
                                  .segment_id = seen->run_id};
}

static void log_start(struct observation *seen)
{
    const struct lambda_report report = report_of(seen, NULL);
    char text[REPORT_TEXT_BYTES];

    seen->has_started = true;
    if (seen->observer->logs)
        put(seen, LOG_PLATFORM, text, lambda_report_start(&report, text));
}

static void log_end(struct observation *seen, const struct invocation_result *result)
{
    const struct lambda_report report = report_of(seen, result);
    char text[REPORT_TEXT_BYTES];
    size_t len;

    if (!seen->has_started) /* its init phase failed */
        log_start(seen);
    if (!seen->observer->logs)
        return;
    end_output(seen);
    len = lambda_report_timeout(&report, text);
    if (len > 0)
        put(seen, LOG_PLATFORM, text, len);
    put(seen, LOG_PLATFORM, text, lambda_report_end(&report, text));
    put(seen, LOG_PLATFORM, text, lambda_report_report(&report, text));
}

static void on_start(void *opaque, const struct invocation_result *so_far)
{
    struct observation *seen = opaque;

    if (seen->observer->logs)
        end_output(seen); /* of the init phase */
    memcpy(seen->instance_id, so_far->instance_id, sizeof(seen->instance_id));
    seen->run_begin_ns = clock_now_ns();
    log_start(seen);
}

/* --- the daemon's log ------------------------------------------------------------------------ */

static void write_line(const struct observation *seen, const struct invocation_result *result)
{
    static const char *const kinds[] = {"ok", "function_error", "timeout", "sandbox_error",
                                        "throttled"};
    bool is_throttled = result->kind == INVOKED_THROTTLED;
    enum log_level level =
        is_throttled || result->kind == INVOKED_SANDBOX_ERROR ? LEVEL_WARNING : LEVEL_INFO;
    const struct log_field fields[] = {
        LOG_TEXT("request_id", seen->request_id),
        LOG_TEXT("tenant", seen->function->tenant),
        LOG_TEXT("function", seen->function->name),
        LOG_TEXT("version", seen->function->version_text),
        LOG_TEXT("status", kinds[result->kind]),
        LOG_TEXT("reason", dispatcher_throttle_words(result->throttle)),
        LOG_TEXT("trace_id", seen->trace.root),
        LOG_NUMBER("acquire_us", result->acquire_us),
        LOG_TEXT("instance", seen->instance_id),
        LOG_TEXT("start", starts[result->start]),
        LOG_MS("duration_ms", result->duration_us),
        LOG_NUMBER("billed_ms", result->billed_ms),
        LOG_NUMBER("memory_mb", seen->function->memory_mib),
        LOG_NUMBER("memory_used_mb", result->memory_peak_bytes >> 20),
        LOG_MS("restore_ms", result->restore_us),
        LOG_MS("init_ms", result->init_us),
    };
    size_t n = is_throttled ? 8 : 14;

    if (!is_throttled && result->init_us)
        n = 16;
    else if (!is_throttled && result->restore_us)
        n = 15;
    if (is_throttled)
        daemon_log_write_rarely(seen->observer->log, level, "throttled", fields, n);
    else
        daemon_log_write(seen->observer->log, level, "invocation", fields, n);
}

static void write_failure(const struct observation *seen, const struct error *err)
{
    const struct log_field fields[] = {LOG_TEXT("request_id", seen->request_id),
                                       LOG_TEXT("tenant", seen->function->tenant),
                                       LOG_TEXT("function", seen->function->name),
                                       LOG_TEXT("version", seen->function->version_text),
                                       LOG_TEXT("status", "host_error"),
                                       LOG_TEXT("error", err ? err->text : "")};

    daemon_log_write(seen->observer->log, LEVEL_WARNING, "invocation", fields,
                     sizeof(fields) / sizeof(fields[0]));
}

/* --- spans ----------------------------------------------------------------------------------- */

static void put_spans(const struct observation *seen, const struct invocation_result *result)
{
    const struct function *function = seen->function;
    struct span_record record = {.begin_unix_ns = seen->begin_unix_ns,
                                 .end_unix_ns =
                                     seen->begin_unix_ns + clock_now_ns() - seen->begin_ns,
                                 .memory_mib = function->memory_mib,
                                 .is_host_error = !result};

    if (!seen->observer->spans || !seen->trace.is_sampled)
        return;
    if (seen->run_begin_ns)
        record.run_begin_unix_ns = seen->begin_unix_ns + seen->run_begin_ns - seen->begin_ns;
    if (result) {
        record.acquire_us = result->acquire_us;
        record.restore_us = result->restore_us;
        record.init_us = result->init_us;
        record.duration_us = result->duration_us;
        record.start = result->start;
        record.kind = result->kind;
    }
    memcpy(record.trace_id, seen->trace.trace_id, sizeof(record.trace_id));
    memcpy(record.parent_id, seen->trace.parent_id, sizeof(record.parent_id));
    memcpy(record.server_id, seen->server_id, sizeof(record.server_id));
    memcpy(record.run_id, seen->run_id, sizeof(record.run_id));
    memcpy(record.instance, seen->instance_id, sizeof(record.instance));
    snprintf(record.tenant, sizeof(record.tenant), "%s", function->tenant);
    snprintf(record.function, sizeof(record.function), "%s", function->name);
    snprintf(record.version, sizeof(record.version), "%s", function->version_text);
    snprintf(record.request_id, sizeof(record.request_id), "%s", seen->request_id);
    span_exporter_put(seen->observer->spans, &record);
}

/* The function's parent is its run's span, where there will be one; else whoever called. */
static void begin_trace(struct observation *seen, const char *amzn, const char *traceparent)
{
    const struct observer *observer = seen->observer;
    bool has_spans;

    trace_context_read(&seen->trace, amzn, traceparent, observer->trace_ratio);
    has_spans = observer->spans && seen->trace.is_sampled;
    seen->server_id[0] = seen->run_id[0] = '\0';
    if (has_spans)
        trace_span_id(seen->server_id);
    if (has_spans || !seen->trace.root_parent[0])
        trace_span_id(seen->run_id);
    trace_context_amzn(&seen->trace, seen->run_id[0] ? seen->run_id : NULL, seen->trace_text);
}

/* --- an invocation --------------------------------------------------------------------------- */

static void begin(const struct observer *observer, struct observation *seen,
                  const struct function *function, const char *request_id)
{
    static const struct observer none = {.log = NULL};

    seen->observer = observer ? observer : &none;
    seen->function = function;
    seen->request_id = request_id;
    seen->instance_id[0] = '\0';
    seen->lines[0].len = seen->lines[1].len = 0;
    seen->dropped_bytes = 0;
    seen->left_lines = LINES_MAX;
    seen->has_started = false;
    seen->run_begin_ns = 0;
    seen->in_flight = NULL;
}

void observer_begin(const struct observer *observer, struct observation *ret_observation,
                    const struct api_invocation *invocation, struct invocation *event)
{
    struct observation *seen = ret_observation;

    begin(observer, seen, invocation->function, invocation->request_id);
    seen->begin_unix_ns = unix_ns();
    seen->begin_ns = clock_now_ns();
    begin_trace(seen, invocation->trace_id, invocation->traceparent);
    event->trace_id = seen->trace_text;
    event->on_start = on_start;
    event->opaque = seen;
    if (seen->observer->logs)
        event->on_log = observer_on_output;
    if (seen->observer->metrics)
        seen->in_flight = daemon_metrics_begin(seen->observer->metrics, seen->function->tenant,
                                               seen->function->name);
}

void observer_end(struct observation *observation, int r, const struct invocation_result *result,
                  const struct error *err, struct log_tail *ret_tail)
{
    struct observation *seen = observation;
    const struct observer *observer = seen->observer;
    const struct function *function = seen->function;

    if (r < 0) {
        if (observer->logs)
            end_output(seen);
        if (observer->metrics)
            daemon_metrics_fail(observer->metrics, seen->in_flight, function->tenant);
        if (observer->log)
            write_failure(seen, err);
        put_spans(seen, NULL);
        return;
    }
    if (result->kind != INVOKED_THROTTLED)
        log_end(seen, result);
    if (observer->metrics)
        daemon_metrics_end(observer->metrics, seen->in_flight, function->tenant, function->name,
                           function->memory_mib, result);
    if (observer->log)
        write_line(seen, result);
    put_spans(seen, result);
    if (ret_tail) {
        const struct lambda_report report = report_of(seen, result);

        lambda_report_tail(&report, ret_tail);
    }
}

/* --- an init phase, in a build --------------------------------------------------------------- */

void observer_begin_init(const struct observer *observer, struct observation *ret_observation,
                         const struct function *function)
{
    begin(observer, ret_observation, function, "");
}

void observer_end_init(struct observation *observation, int r,
                       const struct invocation_result *result)
{
    struct daemon_metrics *metrics = observation->observer->metrics;

    if (observation->observer->logs)
        end_output(observation);
    if (!metrics || r == -ESHUTDOWN)
        return;
    if (r < 0 || result->kind == INVOKED_THROTTLED)
        daemon_metrics_build(metrics, BUILD_HOST_FAILED);
    else
        daemon_metrics_build(metrics,
                             result->kind == INVOKED_OK ? BUILD_OK : BUILD_FUNCTION_FAILED);
}
