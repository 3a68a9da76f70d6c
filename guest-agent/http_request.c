/* Bounded HTTP requests, see http_request.h. Process: mayfly-agent; input: the function's. */
#include "guest-agent/http_request.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* Append to a bounded string; false if it does not fit (and then nothing is appended). */
static bool append(char *to, size_t *len, size_t max, const char *from, size_t n)
{
    if (n > max - *len)
        return false;
    memcpy(to + *len, from, n);
    *len += n;
    to[*len] = '\0';
    return true;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = parser->data;

    if (!append(request->target, &request->target_len, HTTP_TARGET_MAX, at, len))
        request->is_target_long = true;
    return 0;
}

static int on_header_field(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = parser->data;

    if (request->is_value) {
        request->is_value = false;
        request->field_len = 0;
        request->field[0] = '\0';
    }
    /* A name that is too long is none that we look for: fill the room so that it matches nothing.
     */
    if (!append(request->field, &request->field_len, HTTP_FIELD_MAX, at, len))
        request->field_len = HTTP_FIELD_MAX;
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = parser->data;

    request->is_value = true;
    if (strcasecmp(request->field, "Lambda-Runtime-Function-Error-Type") == 0)
        append(request->error_type, &request->error_type_len, HTTP_ERROR_TYPE_MAX, at, len);
    if (strcasecmp(request->field, "Lambda-Runtime-Function-Error-Body") == 0)
        append(request->error_body, &request->error_body_len, HTTP_ERROR_BODY_MAX, at, len);
    if (strcasecmp(request->field, "Content-Type") == 0)
        append(request->content_type, &request->content_type_len, AGENT_CONTENT_TYPE_MAX, at, len);
    if (strcasecmp(request->field, "Lambda-Runtime-Function-Response-Mode") == 0 && len == 9 &&
        strncasecmp(at, "streaming", len) == 0)
        request->is_streaming = true;
    if (strcasecmp(request->field, "Expect") == 0 && len == 12 &&
        strncasecmp(at, "100-continue", len) == 0)
        request->expects_continue = true;
    return 0;
}

static int on_headers_complete(http_parser *parser)
{
    struct http_request *request = parser->data;

    if (request->is_target_long)
        request->target[0] = '\0';
    request->has_headers = true;
    request->body = request->body_room(request, request->opaque, &request->body_size);
    if (!request->body)
        request->body_size = 0;
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    struct http_request *request = parser->data;
    size_t room = request->body_size - request->body_bytes;

    if (len > room) {
        request->is_body_long = true;
        len = room;
    }
    if (len > 0)
        memcpy(request->body + request->body_bytes, at, len);
    request->body_bytes += len;
    return 0;
}

static int on_message_complete(http_parser *parser)
{
    struct http_request *request = parser->data;

    request->is_complete = true;
    request->keeps_alive = http_should_keep_alive(parser) != 0;
    http_parser_pause(parser, 1); /* what follows is the next request */
    return 0;
}

void http_request_begin(struct http_request *request, http_body_room *body_room, void *opaque)
{
    /* But for the texts: of those the ends are enough. */
    request->target[0] = request->error_type[0] = request->field[0] = '\0';
    request->content_type[0] = request->error_body[0] = '\0';
    request->target_len = request->field_len = request->error_type_len = 0;
    request->content_type_len = request->error_body_len = 0;
    request->is_target_long = request->is_value = request->is_complete = false;
    request->has_headers = request->expects_continue = request->keeps_alive = false;
    request->is_streaming = request->is_body_long = false;
    request->body = NULL;
    request->body_size = request->body_bytes = 0;
    http_parser_init(&request->parser, HTTP_REQUEST);
    request->parser.data = request;
    request->body_room = body_room;
    request->opaque = opaque;
}

int http_request_feed(struct http_request *request, const uint8_t *data, size_t len_bytes,
                      size_t *ret_used)
{
    static const http_parser_settings settings = {.on_url = on_url,
                                                  .on_header_field = on_header_field,
                                                  .on_header_value = on_header_value,
                                                  .on_headers_complete = on_headers_complete,
                                                  .on_body = on_body,
                                                  .on_message_complete = on_message_complete};

    *ret_used = http_parser_execute(&request->parser, &settings, (const char *)data, len_bytes);
    if (request->parser.upgrade)
        return -EPROTO;
    if (request->is_complete)
        return request->parser.http_major == 1 ? 1 : -EPROTO;
    return HTTP_PARSER_ERRNO(&request->parser) == HPE_OK ? 0 : -EPROTO;
}
