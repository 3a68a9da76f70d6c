/* `mayfly top` and `mayfly metrics`: what the daemon counts. Process: the CLI. */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli_common.h"
#include "commands.h"
#include "common/clock.h"
#include "daemon_session.h"
#include "top_reading.h"

enum { DEFAULT_INTERVAL_S = 2, DEFAULT_HEIGHT = 24, HEAD_LINES = 4 };

struct top_options {
    struct daemon_options daemon;
    uint64_t interval_s;
    bool once;
};

/* --- metrics -----------------------------------------------------------------------------------
 */

static const struct cli_option metrics_options[] = {DAEMON_OPTIONS(struct top_options),
                                                    {.name = NULL}};

const struct cli_syntax metrics_syntax = {
    .command = "metrics",
    .summary = "all that the daemon counts, as Prometheus reads it",
    .usage = "[OPTIONS]",
    .about = "The same text as GET /metrics. With --json: {\"metrics\": TEXT}.\n",
    .options = metrics_options,
    .examples = "Exit status: 0, 2 wrong usage, 3 the daemon does not answer.\n",
};

static int read_metrics(struct daemon_session *session, struct api_reply *ret, struct error *err)
{
    const struct api_request request = {.method = "GET", .path = "/metrics"};

    return api_client_call(session->client, &request, ret, err);
}

static int metrics(struct daemon_session *session, const struct top_options *o)
{
    struct api_reply reply;
    struct error err;
    int r = read_metrics(session, &reply, &err);

    if (r < 0)
        return daemon_session_fail(session, &err);
    if (o->daemon.json)
        r = cli_print_json(json_pack("{s:s}", "metrics", reply.body), &err);
    else
        fwrite(reply.body, 1, reply.body_bytes, stdout);
    api_reply_done(&reply);
    return r < 0 ? daemon_session_fail(session, &err) : daemon_flush(session);
}

int cmd_metrics(int argc, char **argv)
{
    struct top_options o = {.once = false};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&metrics_syntax, argc, argv, &o);

    if (status < 0)
        status = daemon_session_open("metrics", &o.daemon, &session);
    if (status < 0)
        status = metrics(&session, &o);
    daemon_session_done(&session);
    return status;
}

/* --- top ---------------------------------------------------------------------------------------
 */

static const struct cli_option top_options[] = {
    {"interval", 'i', CLI_NUMBER, offsetof(struct top_options, interval_s), "SECONDS",
     "between two readings: 1 to 3600 (default 2)", 1, 3600, COMPLETE_NOTHING},
    {"once", 0, CLI_FLAG, offsetof(struct top_options, once), NULL,
     "one table, of one interval; --json does so, too", 0, 0, COMPLETE_NOTHING},
    DAEMON_OPTIONS(struct top_options),
    {.name = NULL}};

const struct cli_syntax top_syntax = {
    .command = "top",
    .summary = "what the functions do, refreshed",
    .usage = "[OPTIONS]",
    .about =
        "INV/S, ERRORS, THROTTLED and the three kinds of starts are of the last interval, as P50 "
        "and\n"
        "P99 of the functions' durations are; NOW is how many run at the moment, TOTAL how many\n"
        "have run since the daemon began. WARM: an instance was waiting; RESTORED: one was\n"
        "restored from the snapshot; COLD: something had to be built first. Ctrl-C ends it.\n",
    .options = top_options,
    .examples =
        "Exit status: 0 (after Ctrl-C, too), 2 wrong usage, 3 the daemon does not answer.\n",
};

static const struct top_function *before_of(const struct top_reading *before,
                                            const struct top_function *function)
{
    return top_reading_find(before, function->tenant, function->name);
}

static int take(struct daemon_session *session, struct top_reading *ret, struct error *err)
{
    struct api_reply reply;
    int r = read_metrics(session, &reply, err);

    if (r < 0)
        return r;
    r = top_reading_take((const char *)reply.body, clock_now_ns(), ret, err);
    api_reply_done(&reply);
    return r;
}

static double seconds_between(const struct top_reading *before, const struct top_reading *now)
{
    return (double)(now->at_ns - before->at_ns) / 1e9;
}

static json_t *duration_json(double seconds)
{
    return seconds < 0 ? json_null() : json_real(seconds);
}

static int print_json(const struct top_reading *before, const struct top_reading *now,
                      struct error *err)
{
    json_t *functions = json_array();

    for (size_t i = 0; i < now->n; i++) {
        const struct top_function *f = &now->functions[i];
        struct top_row row;

        top_row_of(f, before_of(before, f), seconds_between(before, now), &row);
        (void)json_array_append_new(
            functions,
            json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "tenant",
                      f->tenant, "function", f->name, "per_second", row.per_second, "total",
                      f->counts.invocations, "concurrency", f->counts.concurrency, "errors",
                      row.errors, "throttled", row.throttles, "warm", row.warm, "restored",
                      row.restored, "cold", row.cold, "p50_s", duration_json(row.p50_s), "p99_s",
                      duration_json(row.p99_s)));
    }
    return cli_print_json(json_pack("{s:f, s:{s:f, s:f}, s:f, s:{s:f, s:f, s:f}, s:o}", "seconds",
                                    seconds_between(before, now), "instances", "busy", now->busy,
                                    "idle", now->idle, "queued", now->queued, "memory_bytes",
                                    "available", now->memory_available_bytes, "instances",
                                    now->instances_bytes, "daemon", now->resident_bytes,
                                    "functions", functions),
                          err);
}

static void print_duration(double seconds)
{
    if (seconds < 0)
        printf("  %8s", "-");
    else if (seconds < 1)
        printf("  %5.1f ms", seconds * 1e3);
    else
        printf("  %6.2f s", seconds);
}

/* Names are clients' choices, but of a pattern; tenants are the administrator's. */
static void print_table(const struct top_reading *before, const struct top_reading *now,
                        size_t max_rows)
{
    int width = 8;
    bool tenants = false;

    printf("instances: %.0f busy, %.0f idle", now->busy, now->idle);
    if (now->shells > 0)
        printf("; %.0f shells ready", now->shells);
    printf("; queued events: %.0f\n", now->queued);
    printf("memory: %.0f MiB of instances, %.1f MiB of the daemon, %.0f MiB available\n\n",
           now->instances_bytes / (1 << 20), now->resident_bytes / (1 << 20),
           now->memory_available_bytes / (1 << 20));
    for (size_t i = 0; i < now->n; i++) {
        int len = (int)strlen(now->functions[i].name);

        width = len > width ? len : width;
        tenants = tenants || strcmp(now->functions[i].tenant, now->functions[0].tenant) != 0;
    }
    printf("%s%-*s %8s %5s %9s%10s%10s %5s %8s %5s %7s %9s\n", tenants ? "TENANT     " : "", width,
           "FUNCTION", "INV/S", "NOW", "TOTAL", "P50", "P99", "WARM", "RESTORED", "COLD", "ERRORS",
           "THROTTLED");
    for (size_t i = 0; i < now->n && i < max_rows; i++) {
        const struct top_function *f = &now->functions[i];
        struct top_row row;

        top_row_of(f, before_of(before, f), seconds_between(before, now), &row);
        if (tenants)
            printf("%-10.10s ", f->tenant);
        printf("%-*s %8.1f %5.0f %9.0f", width, f->name, row.per_second, f->counts.concurrency,
               f->counts.invocations);
        print_duration(row.p50_s);
        print_duration(row.p99_s);
        printf(" %5.0f %8.0f %5.0f %7.0f %9.0f\n", row.warm, row.restored, row.cold, row.errors,
               row.throttles);
    }
    if (now->n == 0)
        puts("nothing has been invoked yet");
}

static size_t rows_that_fit(void)
{
    struct winsize size;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row == 0)
        return DEFAULT_HEIGHT - HEAD_LINES;
    return size.ws_row > HEAD_LINES + 1 ? size.ws_row - HEAD_LINES - 1u : 1u;
}

/* One interval: sleeps, reads, prints. 1: Ctrl-C ended it. */
static int tick(struct daemon_session *session, const struct top_options *o,
                struct top_reading *before, struct error *err)
{
    struct pollfd interrupt = {.fd = session->interrupt_fd, .events = POLLIN};
    struct top_reading now;
    bool single = o->once || o->daemon.json;

    if (poll(&interrupt, 1, (int)(o->interval_s * 1000)) > 0)
        return 1;
    int r = take(session, &now, err);
    if (r < 0)
        return r == -EINTR ? 1 : r;
    if (o->daemon.json) {
        r = print_json(before, &now, err);
    } else {
        if (!single && isatty(STDOUT_FILENO))
            fputs("\033[H\033[2J", stdout);
        print_table(before, &now, single ? SIZE_MAX : rows_that_fit());
        fflush(stdout);
    }
    top_reading_done(before);
    *before = now;
    return r < 0 ? r : single;
}

static int top(struct daemon_session *session, const struct top_options *o)
{
    struct top_reading before = {.n = 0};
    struct error err;
    int r = take(session, &before, &err);

    while (r == 0)
        r = ferror(stdout) ? 1 : tick(session, o, &before, &err);
    top_reading_done(&before);
    return r < 0 ? daemon_session_fail(session, &err) : daemon_flush(session);
}

int cmd_top(int argc, char **argv)
{
    struct top_options o = {.interval_s = DEFAULT_INTERVAL_S};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&top_syntax, argc, argv, &o);

    if (status < 0)
        status = daemon_session_open("top", &o.daemon, &session);
    if (status < 0)
        status = top(&session, &o);
    daemon_session_done(&session);
    return status;
}
