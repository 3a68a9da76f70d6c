/*
 * Which trace an invocation belongs to: X-Amzn-Trace-Id and W3C traceparent, read, made and mapped
 * to each other.
 *
 *   X-Amzn-Trace-Id: Root=1-<8 hex>-<24 hex>;Parent=<16 hex>;Sampled=<0 or 1>
 *   traceparent:     00-<32 hex>-<16 hex>-<2 hex>
 *
 * Trust: headers are a client's. What is not of this form counts as not sent; what goes on is
 * written anew, never copied. Where both are sent, each is passed on as what it is: the former to
 * the function and the response, the latter to spans. Threads: any.
 * Source: AWS X-Ray Developer Guide, "Tracing header"; W3C Trace Context §3.2.
 */
#ifndef MAYFLY_HOST_OBSERVE_TRACE_CONTEXT_H
#define MAYFLY_HOST_OBSERVE_TRACE_CONTEXT_H

#include <stdbool.h>

enum {
    TRACE_ID_BYTES = 33, /* hexadecimal digits and a 0, as all here */
    SPAN_ID_BYTES = 17,
    TRACE_ROOT_BYTES = 36,
    TRACE_AMZN_BYTES = 80,
    TRACE_PARENT_BYTES = 56,
};

struct trace_context {
    char trace_id[TRACE_ID_BYTES]; /* of spans */
    char parent_id[SPAN_ID_BYTES]; /* the caller's span; "" where there is none */
    char root[TRACE_ROOT_BYTES];   /* X-Ray's form */
    char root_parent[SPAN_ID_BYTES];
    bool is_sampled;
    bool has_traceparent; /* the client sent a valid one */
};

/*
 * trace_context_read - @amzn, @traceparent: headers or NULL. Without a valid one a trace begins
 * here; @ratio of these (and of those whose header leaves it open) are sampled. Never fails.
 */
void trace_context_read(struct trace_context *ret_context, const char *amzn,
                        const char *traceparent, double ratio);

/* trace_context_amzn - the header; @parent: NULL for the caller's. */
void trace_context_amzn(const struct trace_context *context, const char *parent,
                        char ret_text[TRACE_AMZN_BYTES]);
void trace_context_traceparent(const struct trace_context *context, const char *parent,
                               char ret_text[TRACE_PARENT_BYTES]);

/* trace_span_id - a new one. */
void trace_span_id(char ret_id[SPAN_ID_BYTES]);

#endif
