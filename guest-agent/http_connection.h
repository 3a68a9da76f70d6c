/*
 * A connection to the Runtime API: a request comes in (http_request.h), one answer goes out. Never
 * waits: what the socket does not take at once is written when it is writable again.
 */
#ifndef MAYFLY_AGENT_HTTP_CONNECTION_H
#define MAYFLY_AGENT_HTTP_CONNECTION_H

#include "guest-agent/http_request.h"

enum { HTTP_HEAD_MAX = 16 << 10 };

struct http_connection {
    int fd;           /* owned; -1: closed */
    int epoll_fd;     /* borrowed; watches fd for input, or for output while is_writing */
    uint32_t tag;     /* data.u32 there */
    bool is_writing;  /* part of the answer is still to be written */
    bool is_last;     /* close once the answer is written */
    bool is_too_long; /* the answer's head did not fit */
    struct http_request request;
    char head[HTTP_HEAD_MAX]; /* of the answer; a short body may be in it as well */
    size_t head_bytes, sent_bytes;
    const uint8_t *body; /* of the answer, after the head; borrowed until it is written */
    size_t body_bytes;
};

/*
 * http_connection_open - take over @fd, a connected stream socket. Returns 0 or -errno (and then
 * @fd is still the caller's). @body_room, @opaque: see http_request_begin().
 */
int http_connection_open(struct http_connection *connection, int fd, int epoll_fd, uint32_t tag,
                         http_body_room *body_room, void *opaque);
void http_connection_close(struct http_connection *connection);

/*
 * An answer is built in this order: http_answer_begin(), any http_answer_header(), then one of
 * http_answer_text() and http_answer_body(), then http_connection_push() now or later.
 * A header with an empty value is left out; control characters in it become spaces, so that no
 * value can start a header of its own. What does not fit sets is_too_long.
 */
void http_answer_begin(struct http_connection *connection, int status, size_t body_bytes);
void http_answer_header(struct http_connection *connection, const char *name, const char *value);
void http_answer_text(struct http_connection *connection, const char *text);
void http_answer_body(struct http_connection *connection, const uint8_t *body, size_t body_bytes);

/* http_connection_push - write what can be written; the connection may be closed afterwards. */
void http_connection_push(struct http_connection *connection);

#endif
