/* Lambda's words for how an event ended when the runtime cannot say it itself. */
#ifndef MAYFLY_HOST_POOL_LAMBDA_ERROR_H
#define MAYFLY_HOST_POOL_LAMBDA_ERROR_H

#include "host/instance/agent_client.h"

/*
 * lambda_error_json - {"errorType": …, "errorMessage": …} for @result, which is not OK.
 * @limit_ms: the time it had. Returns owned text (free()), or NULL without memory. Any thread.
 */
char *lambda_error_json(const struct agent_result *result, const char *request_id,
                        uint64_t limit_ms);

/* lambda_error_text - likewise, of a type and a message of the caller's. */
char *lambda_error_text(const char *type, const char *message);

#endif
