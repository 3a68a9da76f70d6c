/*
 * The lines that Lambda prints around what a function printed: START, END, REPORT. Pure text.
 * Restores are not billed: what a function would have to be started for is this host's own choice.
 * Source: AWS Lambda Developer Guide, "Sending function logs to CloudWatch Logs".
 */
#ifndef MAYFLY_HOST_OBSERVE_LAMBDA_REPORT_H
#define MAYFLY_HOST_OBSERVE_LAMBDA_REPORT_H

#include "host/pool/dispatcher.h"
#include "trace_context.h"

enum { REPORT_TEXT_BYTES = 640 };

/* What a report is of; borrowed. */
struct lambda_report {
    const char *request_id, *version;
    uint32_t memory_mib;
    uint64_t timeout_ms;
    const struct invocation_result *result;
    const struct trace_context *trace; /* NULL, or not sampled: not said */
    const char *segment_id;            /* of the function's span; with trace */
};

/* Each without a line feed at its end; returns the length. REPORT has one within, where it is
 * traced. A timeout's text is "" for what did not time out. */
size_t lambda_report_start(const struct lambda_report *report, char to[REPORT_TEXT_BYTES]);
size_t lambda_report_timeout(const struct lambda_report *report, char to[REPORT_TEXT_BYTES]);
size_t lambda_report_end(const struct lambda_report *report, char to[REPORT_TEXT_BYTES]);
size_t lambda_report_report(const struct lambda_report *report, char to[REPORT_TEXT_BYTES]);

/* lambda_report_tail - the last bytes of all of it, with the function's output between: what
 * X-Amz-Log-Result has. */
void lambda_report_tail(const struct lambda_report *report, struct log_tail *ret_tail);

#endif
