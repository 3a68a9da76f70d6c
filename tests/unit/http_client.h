/* A small HTTP client for tests: whole exchanges over loopback or a Unix socket, and raw bytes. */
#ifndef MAYFLY_TESTS_HTTP_CLIENT_H
#define MAYFLY_TESTS_HTTP_CLIENT_H

#include <stddef.h>

struct http_answer {
    int status; /* 0: the connection ended without one */
    char *text; /* owned: head and body as they came, with a 0 after them */
    size_t len;
    const char *body; /* in text, chunks joined */
    size_t body_len;
};

/* Connected sockets; fail the test where they cannot be had. */
int client_tcp(unsigned port);
int client_unix(const char *path);

/* client_send - everything, or the test fails; client_try_send - 0 or -errno. */
void client_send(int fd, const void *data, size_t len);
int client_try_send(int fd, const void *data, size_t len);

/* client_read - one response (by Content-Length, chunks, or the end). http_answer_done() it. */
void client_read(int fd, struct http_answer *ret_answer);
void http_answer_done(struct http_answer *answer);

/* client_header - the value of a header in an answer, into @to; "" if it is not there. */
const char *client_header(const struct http_answer *answer, const char *name, char *to,
                          size_t size);

#endif
