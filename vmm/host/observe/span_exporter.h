/*
 * Sends what invocations did as spans to an OpenTelemetry collector (OTLP/HTTP, JSON), from a
 * thread of its own. Putting never waits; a collector that is slow or away costs spans, which are
 * counted, never an invocation.
 *
 * Of each invocation: the invocation itself (server), and as its children what its instance took
 * (acquire, with the restore or init phase that was waited for below it) and the function's run,
 * whose id the function was told as its parent.
 * Trust: the endpoint is the administrator's; its answers are thrown away, redirects not followed.
 * Source: OpenTelemetry Protocol 1.3, "OTLP/HTTP"; semantic conventions of FaaS.
 */
#ifndef MAYFLY_HOST_OBSERVE_SPAN_EXPORTER_H
#define MAYFLY_HOST_OBSERVE_SPAN_EXPORTER_H

#include "host/pool/dispatcher.h"
#include "host/store/registry.h"
#include "trace_context.h"

struct span_exporter;

/* One invocation; plain data, copied. */
struct span_record {
    char trace_id[TRACE_ID_BYTES], parent_id[SPAN_ID_BYTES];
    char server_id[SPAN_ID_BYTES], run_id[SPAN_ID_BYTES];
    uint64_t begin_unix_ns, end_unix_ns;
    uint64_t run_begin_unix_ns; /* 0: it did not run */
    uint64_t acquire_us, restore_us, init_us, duration_us;
    char tenant[FUNCTION_NAME_MAX + 1], function[FUNCTION_NAME_MAX + 1];
    char version[VERSION_TEXT_BYTES], request_id[REQUEST_ID_BYTES], instance[INSTANCE_ID_BYTES];
    uint32_t memory_mib;
    enum pool_start start;
    enum invocation_kind kind;
    bool is_host_error;
};

/* span_exporter_new - to @endpoint ("http://host:4318"; /v1/traces is added where it has no path).
 */
int span_exporter_new(const char *endpoint, struct span_exporter **ret_exporter, struct error *err);
void span_exporter_put(struct span_exporter *exporter, const struct span_record *record);

/* span_exporter_dropped - invocations whose spans never arrived. */
uint64_t span_exporter_dropped(const struct span_exporter *exporter);

/* span_exporter_free - sends what is left, for a few seconds at most. Takes NULL. */
void span_exporter_free(struct span_exporter *exporter);

/* span_exporter_json - the message for @n records; *ret_text is owned. NULL: no memory. */
char *span_exporter_json(const struct span_record *records, size_t n);

#endif
