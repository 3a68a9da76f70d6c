/* Lambda's exceptions: names, statuses and shapes, by API reference and service model. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api_internal.h"

/* Who is to blame, and whether the member is "message" or "Message": both differ by exception. */
static const struct {
    const char *name;
    unsigned status;
    bool is_user;
    bool is_capital;
} exceptions[] = {
    [API_INVALID_PARAMETER] = {"InvalidParameterValueException", 400, true, false},
    [API_VALIDATION] = {"ValidationException", 400, true, false},
    [API_INVALID_CONTENT] = {"InvalidRequestContentException", 400, true, false},
    [API_NOT_FOUND] = {"ResourceNotFoundException", 404, true, true},
    [API_CONFLICT] = {"ResourceConflictException", 409, true, false},
    [API_TOO_MANY_REQUESTS] = {"TooManyRequestsException", 429, true, false},
    [API_TOO_LARGE] = {"RequestTooLargeException", 413, true, false},
    [API_HEAD_TOO_LARGE] = {"RequestHeaderFieldsTooLargeException", 431, true, false},
    [API_BAD_HEAD] = {"BadRequestException", 400, true, false},
    [API_CODE_STORAGE] = {"CodeStorageExceededException", 400, true, false},
    [API_POLICY_LENGTH] = {"PolicyLengthExceededException", 400, true, false},
    [API_PRECONDITION] = {"PreconditionFailedException", 412, true, false},
    [API_SERVICE] = {"ServiceException", 500, false, true},
    [API_UNAVAILABLE] = {"ServiceUnavailableException", 503, false, true},
    [API_NO_PROVISIONED] = {"ProvisionedConcurrencyConfigNotFoundException", 404, true, false},
    [API_NOT_READY] = {"ResourceNotReadyException", 502, false, false},
    [API_UNKNOWN_OPERATION] = {"UnknownOperationException", 404, true, true},
    [API_METHOD_NOT_ALLOWED] = {"MethodNotAllowedException", 405, true, true},
    [API_BAD_SIGNATURE] = {"InvalidSignatureException", 403, true, false},
    [API_INCOMPLETE_SIGNATURE] = {"IncompleteSignatureException", 403, true, false},
    [API_UNKNOWN_KEY] = {"UnrecognizedClientException", 403, true, false},
    [API_MISSING_TOKEN] = {"MissingAuthenticationTokenException", 403, true, false},
    [API_ACCESS_DENIED] = {"AccessDeniedException", 403, true, true},
};

int api_fail(struct api_turn *turn, enum api_exception exception, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    /* Cut in the middle of a character, or of a client's broken one: still valid JSON. */
    json_t *message = json_string(text);
    if (!message) {
        for (char *c = text; *c; c++)
            if ((unsigned char)*c >= 0x80)
                *c = '?';
        message = json_string(text);
    }
    http_response_done(turn->response);
    json_t *object =
        json_pack("{s:s, s:o*}", "Type", exceptions[exception].is_user ? "User" : "Service",
                  exceptions[exception].is_capital ? "Message" : "message", message);
    api_reply_json(turn, exceptions[exception].status, object);
    (void)http_response_header(turn->response, "x-amzn-ErrorType", exceptions[exception].name);
    if (exception == API_TOO_MANY_REQUESTS)
        (void)http_response_header(turn->response, "Retry-After", "1");
    return -1;
}

int api_fail_throttled(struct api_turn *turn, const char *reason)
{
    http_response_done(turn->response);
    api_reply_json(turn, 429,
                   json_pack("{s:s, s:s, s:s}", "Type", "User", "message", "Rate Exceeded.",
                             "Reason", reason));
    (void)http_response_header(turn->response, "x-amzn-ErrorType",
                               exceptions[API_TOO_MANY_REQUESTS].name);
    (void)http_response_header(turn->response, "Retry-After", "1");
    return -1;
}

int api_fail_errno(struct api_turn *turn, int r, const struct error *err)
{
    const struct api_options *options = &turn->api->options;
    enum api_exception exception = API_SERVICE;

    switch (r) {
    case -ENOENT:
        exception = API_NOT_FOUND;
        break;
    case -EEXIST:
    case -EBUSY:
        exception = API_CONFLICT;
        break;
    case -EINVAL:
        exception = API_INVALID_PARAMETER;
        break;
    case -E2BIG:
        exception = API_TOO_LARGE;
        break;
    case -EDQUOT:
        exception = API_CODE_STORAGE;
        break;
    case -ESTALE:
        exception = API_PRECONDITION;
        break;
    case -EAGAIN:
        exception = API_TOO_MANY_REQUESTS;
        break;
    default:
        break;
    }
    if (exception != API_SERVICE)
        return api_fail(turn, exception, "%s", err->text);
    /* What is wrong with the host is not the client's to read. */
    if (options->backend->failed)
        options->backend->failed(options->backend_opaque, turn->request_id, err->text);
    return api_fail(turn, API_SERVICE, "%s",
                    r == -ENOSPC ? "The service has no storage left; nothing was changed."
                                 : "An internal error occurred; the service's log has the reason.");
}

int api_fail_function(struct api_turn *turn, int r, const struct function_key *key,
                      const struct error *err)
{
    char arn[API_ARN_BYTES];

    if (r != -ENOENT)
        return api_fail_errno(turn, r, err);
    api_function_arn(turn->api, turn->account_id, key->name, key->qualifier, arn);
    return api_fail(turn, API_NOT_FOUND, "Function not found: %s", arn);
}
