/* Shared by http_server.c, http_exchange.c and http_connections.c only. */
#ifndef MAYFLY_HOST_API_HTTP_SERVER_INTERNAL_H
#define MAYFLY_HOST_API_HTTP_SERVER_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "http_body.h"
#include "http_server.h"
#include "work_pool.h"

enum { LISTENERS_MAX = 2, INLINE_BODY_BYTES = 64 << 10 };

struct http_connection;

struct http_connections {
    pthread_mutex_t lock; /* of the list, and of what is in its members */
    pthread_cond_t changed;
    struct http_connection *first;
    pthread_t sweeper;
    unsigned head_timeout_ms;
    bool is_ending;
};

struct http_listener {
    struct http_server *server;
    struct MHD_Daemon *daemon; /* owned */
    int socket;                /* the daemon's, once it runs */
    bool is_unix, is_tls;
};

struct http_server {
    struct http_server_options options; /* texts and paths not kept but for socket_path (owned) */
    char *socket_path;
    struct http_listener listeners[LISTENERS_MAX];
    size_t n_listeners;
    unsigned port;
    struct http_connections connections;
    struct work_pool *short_pool, *long_pool; /* owned */
    struct http_body_room bodies;
    struct byte_budget responses; /* memory of answers that are being sent */
    atomic_bool is_stopping;      /* nothing new is handled */
    atomic_bool is_closing;       /* nothing is suspended any more */
    atomic_uint n_turns;          /* requests from their handling until they are answered */
    atomic_uint n_suspended;      /* requests whose connection is suspended */
};

/* --- http_connections.c: who is connected, and who has had his time --- */

int http_connections_init(struct http_connections *connections, unsigned head_timeout_ms,
                          struct error *err);
void http_connections_done(struct http_connections *connections);

/* Both given to libmicrohttpd: MHD_OPTION_NOTIFY_CONNECTION. */
void http_connections_notify(void *opaque, struct MHD_Connection *connection, void **socket_context,
                             enum MHD_ConnectionNotificationCode code);

/* http_connections_deadline - cut @connection off unless it is called again within @ms; 0: never;
 * a request is over: the head timeout. */
void http_connections_deadline(struct http_connections *connections,
                               struct MHD_Connection *connection, uint64_t ms);

/* --- http_head.c: what the head of a request says --- */

/*
 * http_head_split - a request's target: "/path?query", or with scheme and authority as a proxy gets
 * it (RFC 9112 §3.2). *ret_block is owned and holds the texts; *ret_authority is NULL without one.
 */
int http_head_split(const char *uri, char **ret_block, const char **ret_authority,
                    struct http_request *request);
/* http_head_read - method, headers (*ret_headers owned; their texts are libmicrohttpd's until the
 * request is completed) and peer. -E2BIG: too many; -ENOMEM. */
int http_head_read(const struct http_listener *listener, struct MHD_Connection *connection,
                   const char *method, struct http_header **ret_headers,
                   struct http_request *request);
/*
 * http_head_is_one_request - whatever stands before us must have read the same request that we do:
 * one length or chunks, one host (that of the target, if it has one), names that no one trims.
 * Source: RFC 9112 §3.2.2, §6.3, §11.2.
 */
bool http_head_is_one_request(const struct http_request *request, const char *authority);

/* --- http_exchange.c: one request and its response; all given to libmicrohttpd --- */

void *http_exchange_uri(void *opaque, const char *uri, struct MHD_Connection *connection);
enum MHD_Result http_exchange_handle(void *opaque, struct MHD_Connection *connection,
                                     const char *url, const char *method, const char *version,
                                     const char *upload, size_t *upload_bytes, void **context);
void http_exchange_completed(void *opaque, struct MHD_Connection *connection, void **context,
                             enum MHD_RequestTerminationCode why);

#endif
