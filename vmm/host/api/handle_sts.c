/*
 * STS GetCallerIdentity: frameworks ask who they are before anything else, at the same endpoint.
 * The query protocol: a form in, XML out. Nothing else of STS is here.
 * Source: AWS Security Token Service API Reference, GetCallerIdentity, Common Errors.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "common/fd.h"

#define STS_NAMESPACE "https://sts.amazonaws.com/doc/2011-06-15/"

enum { ANSWER_BYTES = 2048, MESSAGE_BYTES = 512 };

static void reply_xml(struct api_turn *turn, unsigned status, const char *text)
{
    char *own = strdup(text);

    http_response_done(turn->response);
    api_reply_bytes(turn, own ? status : 500, "text/xml", own, strlen(text));
}

/* For XML's text: what would be markup, or no text, goes. */
static void clean(const char *from, char to[MESSAGE_BYTES])
{
    size_t n = 0;

    for (; *from && n + 1 < MESSAGE_BYTES; from++)
        to[n++] = (unsigned char)*from < 0x20 || (unsigned char)*from > 0x7e || strchr("<>&", *from)
                      ? '?'
                      : *from;
    to[n] = '\0';
}

static void fail_xml(struct api_turn *turn, unsigned status, const char *code, const char *message)
{
    char words[MESSAGE_BYTES], text[ANSWER_BYTES];

    clean(message, words);
    snprintf(text, sizeof(text),
             "<ErrorResponse xmlns=\"" STS_NAMESPACE "\"><Error><Type>%s</Type><Code>%s</Code>"
             "<Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>\n",
             status < 500 ? "Sender" : "Receiver", code, words, turn->request_id);
    reply_xml(turn, status, text);
}

/* What the checks of signatures answered, in STS's words. */
static void translate_failure(struct api_turn *turn)
{
    const struct http_response *response = turn->response;
    json_t *object =
        json_loadb(response->body ? response->body : "", response->body_bytes, 0, NULL);
    const char *message = json_string_value(json_object_get(object, "message"));
    char code[64] = "";

    if (!message)
        message = json_string_value(json_object_get(object, "Message"));
    for (size_t i = 0; i < response->n_headers; i++)
        if (strcmp(response->headers[i].name, "x-amzn-ErrorType") == 0)
            snprintf(code, sizeof(code), "%.*s", (int)strcspn(response->headers[i].value, ":"),
                     response->headers[i].value);
    size_t len = strlen(code), suffix = strlen("Exception");
    if (strcmp(code, "UnrecognizedClientException") == 0)
        snprintf(code, sizeof(code), "InvalidClientTokenId");
    else if (strcmp(code, "InvalidSignatureException") == 0)
        snprintf(code, sizeof(code), "SignatureDoesNotMatch");
    else if (len > suffix && strcmp(code + len - suffix, "Exception") == 0)
        code[len - suffix] = '\0';
    unsigned status = response->status;
    AUTO_FREE char *own = strdup(message ? message : "");
    json_decref(object);
    fail_xml(turn, status, code, own ? own : "");
}

/* A form's member: of the query or of the body. */
static int take_action(struct api_turn *turn, char ret_action[64])
{
    const struct http_request *request = turn->request;
    AUTO_FREE char *text = request->body_bytes
                               ? strndup((const char *)request->body, request->body_bytes)
                               : strdup(request->query);
    struct http_query form = {.n = 0};
    struct error err;

    if (!text || http_query_read(text, &form, &err) < 0)
        return -1;
    const char *action = http_query_find(&form, "Action");
    snprintf(ret_action, 64, "%s", action ? action : "");
    http_query_done(&form);
    return 0;
}

void handle_sts(struct api_turn *turn)
{
    char action[64], text[ANSWER_BYTES], user[2 * FUNCTION_NAME_MAX + 64];

    if (take_action(turn, action) < 0) {
        fail_xml(turn, 400, "MalformedQueryString", "the form cannot be read");
        return;
    }
    if (!action[0]) {
        api_fail(turn, API_UNKNOWN_OPERATION, "there is no operation at this path");
        return;
    }
    if (strcmp(action, "GetCallerIdentity") != 0) {
        fail_xml(turn, 400, "InvalidAction", "of STS, this host has GetCallerIdentity only");
        return;
    }
    if (api_authenticate(turn, "sts") < 0 || api_take_rate(turn) < 0) {
        translate_failure(turn);
        return;
    }
    api_user_arn(turn, user, sizeof(user));
    snprintf(text, sizeof(text),
             "<GetCallerIdentityResponse xmlns=\"" STS_NAMESPACE "\"><GetCallerIdentityResult>"
             "<Arn>%s</Arn><UserId>%s</UserId><Account>%s</Account></GetCallerIdentityResult>"
             "<ResponseMetadata><RequestId>%s</RequestId></ResponseMetadata>"
             "</GetCallerIdentityResponse>\n",
             user, turn->key ? turn->key->id : turn->tenant, turn->account_id, turn->request_id);
    reply_xml(turn, 200, text);
}
