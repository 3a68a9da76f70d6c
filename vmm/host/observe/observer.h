/*
 * What is seen of an invocation: its line in the daemon's log, the function's own log, metrics,
 * spans. One place, so that whoever runs functions says "it begins" and "it ended" and no more.
 *
 *   observer_begin() → dispatcher_invoke() with what it filled in → observer_end()
 *
 * Nothing here waits. Threads: any; an observation belongs to the one that invokes.
 */
#ifndef MAYFLY_HOST_OBSERVE_OBSERVER_H
#define MAYFLY_HOST_OBSERVE_OBSERVER_H

#include "host/api/api.h"
#include "daemon_log.h"
#include "daemon_metrics.h"
#include "host/pool/dispatcher.h"
#include "log_store.h"
#include "span_exporter.h"
#include "trace_context.h"

/* All borrowed, any may be NULL. */
struct observer {
    struct daemon_log *log;
    struct log_store *logs;
    struct daemon_metrics *metrics;
    struct span_exporter *spans;
    double trace_ratio; /* of invocations that bring no decision of their own */
};

/* What a function has printed without ending the line. */
struct observed_line {
    size_t len;
    char bytes[LOG_MESSAGE_MAX];
};

struct observation {
    const struct observer *observer;
    const struct function *function; /* borrowed from the invocation, as request_id */
    const char *request_id;
    char instance_id[INSTANCE_ID_BYTES];
    struct trace_context trace;
    char run_id[SPAN_ID_BYTES], server_id[SPAN_ID_BYTES];
    char trace_text[TRACE_AMZN_BYTES];
    uint64_t begin_unix_ns, begin_ns, run_begin_ns;
    struct metric *in_flight;
    bool has_started;
    uint64_t dropped_bytes;
    uint32_t left_lines;           /* that may be put: a line costs more than its bytes */
    struct observed_line lines[2]; /* of standard output, of standard error */
};

/* observer_begin - fills @event's callbacks and trace id; all it points to must stay until the end.
 * @observer: NULL for none. */
void observer_begin(const struct observer *observer, struct observation *ret_observation,
                    const struct api_invocation *invocation, struct invocation *event);

/* observer_end - @r: dispatcher_invoke()'s, with its *result if it is 0, else *err. @ret_tail: what
 * X-Amz-Log-Result is to have; NULL: nobody asks. */
void observer_end(struct observation *observation, int r, const struct invocation_result *result,
                  const struct error *err, struct log_tail *ret_tail);

/* A build's init phase: observer_on_output is its agent_log, the observation its opaque; @r and
 * *@result are dispatcher_build()'s. */
agent_log observer_on_output;
void observer_begin_init(const struct observer *observer, struct observation *ret_observation,
                         const struct function *function);
void observer_end_init(struct observation *observation, int r,
                       const struct invocation_result *result);

#endif
