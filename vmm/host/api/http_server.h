/*
 * The HTTP server: libmicrohttpd on TCP (with TLS where there is a certificate) and on a Unix
 * socket. It knows nothing of Lambda: a service (below) says how large a body may be, where a
 * request is handled, and handles it.
 *
 * Trust: peers are hostile. Bounded: connections of each listener, the time without a complete
 * request head, the time for a body and for taking an answer, the memory of heads, of one body and
 * of all bodies and answers together (and of any one owner's), the work that waits. One that sends
 * nothing holds a file descriptor for a few seconds, no thread. What two readers could take for
 * different requests (two lengths, a length and chunks, two hosts) is refused.
 * Threads: libmicrohttpd's (epoll, one a core) run what does not block; pools run what does.
 */
#ifndef MAYFLY_HOST_API_HTTP_SERVER_H
#define MAYFLY_HOST_API_HTTP_SERVER_H

#include "byte_budget.h"
#include "http_message.h"

struct http_server;
struct http_turn; /* a request being handled */

/* Where a request is handled. */
enum http_lane {
    HTTP_INLINE, /* on the server's own thread: never blocks; small bodies only */
    HTTP_SHORT,  /* waits for a disk at most */
    HTTP_LONG,   /* may take minutes: an invocation */
};

enum http_refusal {
    HTTP_BODY_TOO_LARGE, /* 413 */
    HTTP_HEAD_TOO_LARGE, /* 431: more than HTTP_MAX_HEADERS */
    HTTP_BAD_HEAD,       /* 400: not one request, or nobody's */
    HTTP_OVERLOADED,     /* 503 */
    HTTP_DISK_FULL,      /* 500: a large body found no room */
};

/* What a request's body may take, by its head. */
struct http_admission {
    size_t body_limit;
    struct byte_owner owner; /* whose share of the memory it is */
    bool may_spool;          /* it may be large: to a file, where there is a directory for it */
};

struct http_service {
    /* admit - the head is there, the body not. On the server's threads: it never blocks. A request
     * may be answered at once, without its body: fill @response (a status) for that. */
    void (*admit)(void *opaque, const struct http_request *request,
                  struct http_admission *ret_admission, struct http_response *response);
    enum http_lane (*lane)(void *opaque, const struct http_request *request);
    /* handle - fill @response, which has a status then. */
    void (*handle)(void *opaque, const struct http_request *request, struct http_response *response,
                   struct http_turn *turn);
    /* refuse - as handle, for what never gets there. */
    void (*refuse)(void *opaque, const struct http_request *request, enum http_refusal why,
                   struct http_response *response);
};

/*
 * http_turn_begin - send the response now, while its handler goes on (a streamed body). Only where
 * the lane is not HTTP_INLINE. Afterwards the response is no longer the handler's, and of the
 * request only the body may still be looked at.
 */
void http_turn_begin(struct http_turn *turn);

struct http_server_options {
    const char *listen;      /* "ADDRESS:PORT", "[v6]:PORT", port 0 for any; NULL: no TCP */
    const char *socket_path; /* NULL: none. An old socket there is replaced, nothing else is */
    unsigned socket_mode;    /* of its file; 0: 0600 */
    const char *tls_certificate_pem, *tls_key_pem; /* texts; both or neither */
    unsigned threads;                              /* of TCP; 0: one a core, at most 8 */
    unsigned max_connections;       /* of TCP; 0: 4096. The Unix socket has 512 of its own */
    unsigned head_timeout_s;        /* 0: 20 */
    unsigned body_timeout_s;        /* 0: 60, and a second more for every 128 KiB */
    unsigned response_timeout_s;    /* 0: 60, and what the size takes at this rate: */
    unsigned response_bytes_per_ms; /* 0: 16 */
    size_t body_memory_bytes;       /* of all bodies at once, and as much for all answers;
                                       0: 512 MiB */
    const char *spool_directory;    /* for large bodies; NULL: they stay in memory. Borrowed */
    size_t spool_bytes;             /* of all of them at once; 0: 2 GiB */
    unsigned short_threads, long_threads; /* 0: 8 and 1024 */
    const struct http_service *service;
    void *opaque; /* of the service */
};

/* http_server_start - returns 0 with *ret_server serving, or -errno (-EADDRINUSE, -EINVAL, …). */
int http_server_start(const struct http_server_options *options, struct http_server **ret_server,
                      struct error *err);

/* http_server_port - of TCP, for a port 0 that was asked for; 0: no TCP. */
unsigned http_server_port(const struct http_server *server);

/* http_server_stop - no new connections, what runs is finished and answered, then all is closed.
 * The caller first sees to it that what runs ends. Takes NULL. */
void http_server_stop(struct http_server *server);

#endif
