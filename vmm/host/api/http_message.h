/*
 * A request and a response, as plain data: what the HTTP server, the signature check, the router
 * and the handlers have in common. Nothing here knows of sockets.
 *
 * Trust: a request is a client's choice from end to end. Invariant: texts are percent-decoded in
 * exactly one place (http_query_read, router_match), never twice; what stays raw says so.
 */
#ifndef MAYFLY_HOST_API_HTTP_MESSAGE_H
#define MAYFLY_HOST_API_HTTP_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    HTTP_MAX_HEADERS = 100,
    HTTP_MAX_PARAMETERS = 128,
    HTTP_RESPONSE_HEADERS = 64,
};

enum http_origin { HTTP_FROM_UNIX, HTTP_FROM_LOOPBACK, HTTP_FROM_NETWORK };

struct http_header {
    const char *name;
    const char *value;
};

struct http_request {
    const char *method;
    const char *path;  /* raw: as on the wire, up to '?' */
    const char *query; /* raw: after '?', or "" */
    const struct http_header *headers;
    size_t n_headers;
    const uint8_t *body; /* may be NULL if body_bytes is 0 */
    size_t body_bytes;
    enum http_origin origin;
    char peer[64]; /* numeric address, or "" on the Unix socket */
    bool is_tls;
};

/* http_header_find - the first header of that name (any case), or NULL. */
const char *http_header_find(const struct http_request *request, const char *name);

/* http_percent_decode - @len characters at @text into @to (@size with the 0). -EINVAL for a broken
 * escape or an encoded 0 byte, -ENAMETOOLONG. '+' stays '+' (RFC 3986). */
int http_percent_decode(const char *text, size_t len, char *to, size_t size);

/* Query parameters, decoded; all texts in one owned block. */
struct http_query {
    struct http_header parameters[HTTP_MAX_PARAMETERS];
    size_t n;
    char *text; /* owned: http_query_done() */
};

/* http_query_read - -EINVAL for broken escapes or too many. Parameters keep their order. */
int http_query_read(const char *raw, struct http_query *ret_query, struct error *err);
void http_query_done(struct http_query *query);
/* http_query_find - the first of that name (case matters), or NULL. */
const char *http_query_find(const struct http_query *query, const char *name);

/*
 * A body that comes in pieces. The server calls read() on its own threads; it must not block.
 * read: up to @size bytes into @to: how many, 0 nothing yet (the server suspends the request until
 * http_stream_ops.wait's callback is run), -1 the end, -2 broken off.
 */
struct http_stream_ops {
    ptrdiff_t (*read)(void *opaque, uint8_t *to, size_t size);
    /* The server's way to be told that read() has more: stored; called by the producer. */
    void (*set_wake)(void *opaque, void (*wake)(void *), void *wake_opaque);
    void (*close)(void *opaque); /* once: no more read(); the client has all of it or is gone */
    size_t buffer_bytes;         /* that it may hold in memory for a slow client */
};

struct http_response {
    unsigned status;
    struct {
        char *name; /* owned, as the value */
        char *value;
    } headers[HTTP_RESPONSE_HEADERS];
    size_t n_headers;
    char *body; /* owned; may be NULL */
    size_t body_bytes;
    const struct http_stream_ops *stream; /* NULL: body is all there is */
    void *stream_opaque;                  /* closed through stream->close */
    bool has_file;                        /* the body is a file's first file_bytes instead */
    int file;                             /* owned where has_file */
    uint64_t file_bytes;
};

/* http_response_header - add one; both copied. Line breaks and control characters in the value
 * become blanks, so that no header is forged. -ENOMEM, -ENOSPC when there are too many. */
int http_response_header(struct http_response *response, const char *name, const char *value);

/* http_response_done - frees all, closes stream and file; the response is empty then. */
void http_response_done(struct http_response *response);

#endif
