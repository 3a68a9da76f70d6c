/* HTTP to event and back, for function URLs: shared by function_url*.c and their tests. */
#ifndef MAYFLY_HOST_API_FUNCTION_URL_H
#define MAYFLY_HOST_API_FUNCTION_URL_H

#include <jansson.h>

#include "host/store/registry_attached.h"
#include "http_message.h"

/* Who and where, for an event's requestContext; borrowed. */
struct url_context {
    const char *account_id, *id, *domain, *request_id;
    const char *path; /* raw, as the function sees it: begins with '/' */
    int64_t now_ms;
    /* Of a URL that wants signatures: the caller's access key and user ("" where it was let in
     * without); NULL of one that does not, whose Authorization header then is the function's. */
    const char *caller, *user_arn;
    const char *source_ip; /* who asks, behind proxies; NULL: the peer */
    bool is_https;         /* for the client, whether or not it is here */
};

/*
 * function_url_event - payload format 2.0. NULL: no memory, or a query that cannot be decoded.
 * Source: "Invoking Lambda function URLs", request payload format.
 */
json_t *function_url_event(const struct http_request *request, const struct url_context *context);

/* function_url_is_timeout - does @payload, an error object, say that the function ran too long? */
bool function_url_is_timeout(const char *payload, size_t len_bytes);

/*
 * function_url_response - what @payload (a function's JSON) says about status, headers and body; an
 * answer without statusCode is the body itself, as it is. -EBADMSG if it cannot be a response
 * (502). Source: "Invoking Lambda function URLs", response payload format.
 */
int function_url_response(const char *payload, size_t len_bytes, struct http_response *response);

/*
 * function_url_head - status, headers and cookies of a streamed response from its prelude, a JSON
 * object (statusCode: 200 if it has none). -EBADMSG as above.
 */
int function_url_head(const char *prelude, size_t len_bytes, struct http_response *response);

/*
 * function_url_cors - headers for a cross-origin request, by the URL's configuration (@cors: its
 * JSON or ""). Returns 1 if the request is a preflight, answered hereby; else 0.
 */
int function_url_cors(const struct http_request *request, const char *cors,
                      struct http_response *response);

#endif
