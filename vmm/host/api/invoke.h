/* Running a function for a request: what Invoke and function URLs have in common (handle_invoke.c).
 */
#ifndef MAYFLY_HOST_API_INVOKE_H
#define MAYFLY_HOST_API_INVOKE_H

#include "api_internal.h"
#include "host/observe/trace_context.h"

/* invoke_find - the version that @key means, an alias's shares rolled for. Answers itself (-1). */
int invoke_find(struct api_turn *turn, const struct function_key *key,
                struct function **ret_function);

/* An invocation's trace, as headers have it. */
struct invoke_trace {
    char amzn[TRACE_AMZN_BYTES];
    char traceparent[TRACE_PARENT_BYTES]; /* "": the client sent none */
};

/* invoke_read_trace - the request's trace, or a new one; its headers are added to the response. */
void invoke_read_trace(struct api_turn *turn, struct invoke_trace *ret_trace);

/* invoke_run - one invocation through the backend. 0 with *ret_result (free its payload), or the
 * backend's -errno. */
int invoke_run(struct api_turn *turn, const struct api_invocation *invocation,
               struct api_invocation_result *ret_result, struct error *err);

/* invoke_fail - answer what the backend's @r is to a client. */
void invoke_fail(struct api_turn *turn, int r, const struct function_key *key,
                 const struct error *err);

#endif
