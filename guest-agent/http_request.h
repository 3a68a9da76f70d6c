/*
 * One HTTP/1.1 request, as the Runtime API needs it, on top of http_parser (Debian's
 * libhttp-parser-dev, which Node.js used for years). Input: hostile. Everything is bounded here.
 */
#ifndef MAYFLY_AGENT_HTTP_REQUEST_H
#define MAYFLY_AGENT_HTTP_REQUEST_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest-agent/agent.h"

enum {
    HTTP_TARGET_MAX = 512,
    HTTP_FIELD_MAX = 64,
    HTTP_ERROR_TYPE_MAX = 128,
    HTTP_ERROR_BODY_MAX = 48 << 10 /* as base64, in a trailer */
};

struct http_request;

/* http_body_room - the headers are there: where shall the body go? *ret_size bytes at most are
 * written to the returned buffer (borrowed until the request is complete); NULL: drop it. */
typedef uint8_t *http_body_room(struct http_request *request, void *opaque, size_t *ret_size);

struct http_request {
    http_parser parser;
    http_body_room *body_room;
    void *opaque;
    char target[HTTP_TARGET_MAX + 1];         /* path and query; "" if it was longer */
    char error_type[HTTP_ERROR_TYPE_MAX + 1]; /* Lambda-Runtime-Function-Error-Type, or "" */
    char content_type[AGENT_CONTENT_TYPE_MAX + 1];
    char error_body[HTTP_ERROR_BODY_MAX + 1]; /* Lambda-Runtime-Function-Error-Body, or "" */
    size_t target_len, field_len, error_type_len, content_type_len, error_body_len;
    char field[HTTP_FIELD_MAX + 1]; /* name of the header that is being read */
    bool is_target_long, is_value, is_complete, has_headers, expects_continue, keeps_alive;
    bool is_streaming; /* Lambda-Runtime-Function-Response-Mode: streaming */
    uint8_t *body;
    size_t body_size, body_bytes;
    bool is_body_long; /* more came than body_size */
};

/* http_request_begin - forget the last request of this connection; a new one follows. */
void http_request_begin(struct http_request *request, http_body_room *body_room, void *opaque);

/*
 * http_request_feed - parse the next bytes of the connection.
 * *ret_used is how many belong to this request; less than @len_bytes only if it is complete.
 * Returns 1 complete (is_complete, method and all are valid), 0 more is needed, -EPROTO if it is no
 * HTTP/1.x request: the connection must be closed.
 */
int http_request_feed(struct http_request *request, const uint8_t *data, size_t len_bytes,
                      size_t *ret_used);

#endif
