/* Lambda's error objects: see lambda_error.h. */
#include "lambda_error.h"

#include <jansson.h>
#include <stdio.h>

char *lambda_error_text(const char *type, const char *message)
{
    json_t *object = json_pack("{s:s, s:s}", "errorType", type, "errorMessage", message);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    return text;
}

char *lambda_error_json(const struct agent_result *result, const char *request_id,
                        uint64_t limit_ms)
{
    const char *type = "Runtime.ExitError";
    char message[512];

    switch (result->outcome) {
    case OUTCOME_TIMEOUT:
        type = "Sandbox.Timedout";
        snprintf(message, sizeof(message), "RequestId: %s Error: Task timed out after %.2f seconds",
                 request_id, (double)limit_ms / 1000.0);
        break;
    case OUTCOME_OUT_OF_MEMORY:
        type = "Runtime.OutOfMemory";
        snprintf(message, sizeof(message),
                 "RequestId: %s Error: Runtime exited with error: signal: killed", request_id);
        break;
    case OUTCOME_RESPONSE_TOO_LARGE:
        type = "Function.ResponseSizeTooLarge";
        snprintf(message, sizeof(message),
                 "Response payload size exceeded maximum allowed payload size (%d bytes).",
                 AGENT_RESPONSE_MAX_BYTES);
        break;
    case OUTCOME_OK:
    case OUTCOME_FUNCTION_ERROR:
    case OUTCOME_EXITED:
    case OUTCOME_AGENT_ERROR:
        snprintf(message, sizeof(message), "RequestId: %s Error: %s", request_id,
                 result->message[0] ? result->message
                                    : "Runtime exited without providing a reason");
        break;
    }
    return lambda_error_text(type, message);
}
