/*
 * Reporting: see run_report.h. Process: the CLI. A result is hostile: it is passed through byte for
 * byte on its own, but put into an object of ours only if it really is JSON.
 */
#include "run_report.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"
#include "common/bytes.h"
#include "host/json_check.h"
#include "host/pool/lambda_error.h"

enum { SUMMARY_MAX_BYTES = 256 * 1024 };

/* --- the error object ----------------------------------------------------------------------------
 */

/* Any bytes as one JSON value: themselves if they are one, else their text. NULL without memory. */
static char *as_json(const uint8_t *payload, size_t len)
{
    struct error ignored;

    if (json_check(payload, len, &ignored) == 0)
        return strndup((const char *)payload, len);
    json_t *text = json_stringn((const char *)payload, len); /* NULL if it is not UTF-8 */
    if (!text)
        text = json_string("(the response is neither JSON nor text)");
    char *encoded = json_dumps(text, JSON_ENCODE_ANY | JSON_COMPACT);
    json_decref(text);
    return encoded;
}

static char *dump(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    json_decref(object);
    return text;
}

/* The error as JSON text, owned; NULL without memory. */
static char *error_json(const struct run_report *report)
{
    if (report->host_error.code != 0)
        return dump(
            json_pack("{s:s, s:s}", "errorType",
                      report->host_error.code == EINTR ? "Mayfly.Interrupted" : "Mayfly.HostError",
                      "errorMessage", report->host_error.text));
    if ((report->result.outcome == OUTCOME_FUNCTION_ERROR ||
         report->result.outcome == OUTCOME_EXITED) &&
        report->result.payload_bytes > 0)
        return as_json(report->result.payload, report->result.payload_bytes);
    return lambda_error_json(&report->result, report->request_id, report->limit_ms);
}

/* --- one line of it ------------------------------------------------------------------------------
 */

/* Control characters, C1 ones (c2 80 to c2 9f) too, must not reach a terminal. @text is UTF-8. */
static void defuse(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7f) {
            *c = ' ';
        } else if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f) {
            c[0] = ' ';
            c[1] = ' ';
        }
    }
}

/* "errorType: errorMessage" of an error object, for stderr. */
static void print_summary(const char *error)
{
    json_t *object = strlen(error) > SUMMARY_MAX_BYTES ? NULL : json_loads(error, 0, NULL);
    const char *type = json_string_value(json_object_get(object, "errorType"));
    const char *message = json_string_value(json_object_get(object, "errorMessage"));
    char line[400];

    snprintf(line, sizeof(line), "%s%s%s", type ? type : "an error without a type",
             message ? ": " : "", message ? message : "");
    defuse(line);
    fprintf(stderr, "mayfly run: the function failed: %s\n", line);
    json_decref(object);
}

/* --- for a person --------------------------------------------------------------------------------
 */

static void print_time(const char *name, uint64_t us, const char *note)
{
    if (us >= 1000000)
        fprintf(stderr, "  %-12s %9.2f s   %s\n", name, (double)us / 1e6, note);
    else
        fprintf(stderr, "  %-12s %9.2f ms  %s\n", name, (double)us / 1e3, note);
}

static void print_table(const struct run_report *report)
{
    const struct instance_timings *times = &report->timings;

    fputs("\n  stage             time\n", stderr);
    print_time("decompress", times->decompress_us,
               times->decompress_us ? "" : "(image and kernel were cached)");
    print_time("VM create", times->vm_create_us, "");
    if (times->restore_us > 0) {
        print_time("restore", times->restore_us, "");
    } else {
        print_time("kernel", times->kernel_us, "");
        print_time("agent ready", times->agent_ready_us, "");
    }
    if (times->init_us > 0)
        print_time("init phase", times->init_us, "");
    print_time("invoke", times->invoke_us, "");
    print_time("total", report->total_us, "");
    fprintf(stderr, "\n  memory: function's peak %.1f of %u MiB, monitor's own %.1f MiB\n",
            (double)report->result.memory_peak_bytes / (1 << 20), report->memory_mib,
            (double)report->monitor_bytes / (1 << 20));
    fprintf(stderr, "  request %s\n", report->request_id);
}

static int print_plain(const struct run_report *report)
{
    const struct agent_result *result = &report->result;

    if (report->host_error.code != 0)
        return 0;
    if (result->outcome == OUTCOME_OK) {
        fwrite(result->payload, 1, result->payload_bytes, stdout);
        fputc('\n', stdout);
    } else {
        char *error = error_json(report);

        if (!error)
            return -ENOMEM;
        puts(error);
        fflush(stdout);
        print_summary(error);
        free(error);
    }
    fflush(stdout);
    print_table(report);
    return 0;
}

/* --- for a program -------------------------------------------------------------------------------
 */

static json_int_t number(uint64_t value)
{
    return (json_int_t)value;
}

static char *timings_json(const struct run_report *report)
{
    const struct instance_timings *times = &report->timings;

    return dump(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "restore",
                          number(times->restore_us), "decompress", number(times->decompress_us),
                          "vm_create", number(times->vm_create_us), "kernel",
                          number(times->kernel_us), "agent_ready", number(times->agent_ready_us),
                          "init", number(times->init_us), "invoke", number(times->invoke_us),
                          "total", number(report->total_us)));
}

static char *memory_json(const struct run_report *report)
{
    return dump(json_pack("{s:I, s:I, s:I}", "limit", number((uint64_t)report->memory_mib << 20),
                          "peak", number(report->result.memory_peak_bytes), "monitor_private",
                          number(report->monitor_bytes)));
}

static int print_json(const struct run_report *report)
{
    bool ok = report->host_error.code == 0 && report->result.outcome == OUTCOME_OK;
    const char *status = report->host_error.code != 0 ? "host-error" : ok ? "ok" : "function-error";
    char *result =
        ok ? as_json(report->result.payload, report->result.payload_bytes) : strdup("null");
    char *error = ok ? strdup("null") : error_json(report);
    char *timings = timings_json(report), *memory = memory_json(report);
    int r = result && error && timings && memory ? 0 : -ENOMEM;

    if (r == 0)
        printf("{\"status\":\"%s\",\"result\":%s,\"error\":%s,\"start\":\"%s\",\"timings_us\":%s,"
               "\"memory_bytes\":%s,\"request_id\":\"%s\"}\n",
               status, result, error, report->start, timings, memory, report->request_id);
    if (r == 0 && !ok && report->host_error.code == 0)
        print_summary(error);
    free(result);
    free(error);
    free(timings);
    free(memory);
    return r;
}

/* --- both ----------------------------------------------------------------------------------------
 */

int run_report_print(const struct run_report *report)
{
    int r;

    if (report->host_error.code != 0)
        cli_complain("run", "%s", report->host_error.text);
    r = report->json ? print_json(report) : print_plain(report);
    if (fflush(stdout) != 0 || ferror(stdout))
        r = -EIO;
    if (r < 0)
        cli_complain("run", "the result could not be written: %s", strerror(-r));
    if (report->host_error.code == EINTR)
        return CLI_INTERRUPTED;
    if (r < 0 || report->host_error.code != 0)
        return CLI_HOST_ERROR;
    return report->result.outcome == OUTCOME_OK ? CLI_OK : CLI_FUNCTION_ERROR;
}

void run_report_done(struct run_report *report)
{
    if (report->has_result)
        agent_result_done(&report->result);
    report->has_result = false;
}
