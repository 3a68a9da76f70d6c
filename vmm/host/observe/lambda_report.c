/* Lambda's own lines: see lambda_report.h. Process: the host's daemon. */
#include "lambda_report.h"

#include <stdio.h>
#include <string.h>

#include "json_line.h"

static size_t length(int n)
{
    return n < 0 ? 0 : n < REPORT_TEXT_BYTES ? (size_t)n : REPORT_TEXT_BYTES - 1;
}

size_t lambda_report_start(const struct lambda_report *report, char to[REPORT_TEXT_BYTES])
{
    return length(snprintf(to, REPORT_TEXT_BYTES, "START RequestId: %s Version: %s",
                           report->request_id, report->version));
}

size_t lambda_report_timeout(const struct lambda_report *report, char to[REPORT_TEXT_BYTES])
{
    char now[JSON_LINE_TIME_BYTES];

    to[0] = '\0';
    if (report->result->kind != INVOKED_TIMEOUT)
        return 0;
    json_line_time(json_line_now_ms(), now);
    return length(snprintf(to, REPORT_TEXT_BYTES, "%s %s Task timed out after %.2f seconds", now,
                           report->request_id, (double)report->timeout_ms / 1000));
}

size_t lambda_report_end(const struct lambda_report *report, char to[REPORT_TEXT_BYTES])
{
    return length(snprintf(to, REPORT_TEXT_BYTES, "END RequestId: %s", report->request_id));
}

static const char *status_of(const struct invocation_result *result)
{
    if (result->kind == INVOKED_TIMEOUT)
        return "\tStatus: timeout";
    return result->kind == INVOKED_SANDBOX_ERROR ? "\tStatus: error" : "";
}

size_t lambda_report_report(const struct lambda_report *report, char to[REPORT_TEXT_BYTES])
{
    const struct invocation_result *result = report->result;
    char start[96] = "", trace[128] = "";

    if (result->init_us)
        snprintf(start, sizeof(start), "\tInit Duration: %.2f ms", (double)result->init_us / 1000);
    else if (result->restore_us)
        snprintf(start, sizeof(start), "\tRestore Duration: %.2f ms\tBilled Restore Duration: 0 ms",
                 (double)result->restore_us / 1000);
    if (report->trace && report->trace->is_sampled)
        snprintf(trace, sizeof(trace), "\nXRAY TraceId: %s\tSegmentId: %s\tSampled: true\t",
                 report->trace->root, report->segment_id);
    return length(snprintf(to, REPORT_TEXT_BYTES,
                           "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %llu ms\t"
                           "Memory Size: %u MB\tMax Memory Used: %llu MB%s%s\t%s",
                           report->request_id, (double)result->duration_us / 1000,
                           (unsigned long long)result->billed_ms, report->memory_mib,
                           (unsigned long long)(result->memory_peak_bytes >> 20), start,
                           status_of(result), trace));
}

static void add_line(struct log_tail *tail, const char *text, size_t len)
{
    log_tail_add(tail, text, len);
    log_tail_add(tail, "\n", 1);
}

void lambda_report_tail(const struct lambda_report *report, struct log_tail *ret_tail)
{
    const struct log_tail *output = &report->result->log_tail;
    char text[REPORT_TEXT_BYTES];
    size_t len;

    ret_tail->len_bytes = 0;
    add_line(ret_tail, text, lambda_report_start(report, text));
    log_tail_add(ret_tail, output->bytes, output->len_bytes);
    if (output->len_bytes > 0 && output->bytes[output->len_bytes - 1] != '\n')
        log_tail_add(ret_tail, "\n", 1);
    len = lambda_report_timeout(report, text);
    if (len > 0)
        add_line(ret_tail, text, len);
    add_line(ret_tail, text, lambda_report_end(report, text));
    add_line(ret_tail, text, lambda_report_report(report, text));
}
