/*
 * Connections and their deadlines. libmicrohttpd's own timeout starts anew with each byte, so one
 * that sends a byte now and then would hold a connection for ever: here it is cut off when its time
 * for a request head, a body or an answer is over. Cutting off is shutdown(2): libmicrohttpd then
 * sees the end of the stream and closes as always.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "http_server_internal.h"

enum { SWEEP_MS = 500 };

struct http_connection {
    struct http_connection *next, **at; /* in the list */
    int socket;                         /* borrowed from libmicrohttpd until it says CLOSED */
    uint64_t deadline_ms;               /* 0: none */
};

static uint64_t now_ms(void)
{
    return clock_now_us() / 1000;
}

/* What it has not taken by now is thrown away when the socket is closed, and not kept in the kernel
 * until it does. */
static void cut_off(const struct http_connection *c)
{
    const struct linger at_once = {.l_onoff = 1};

    (void)setsockopt(c->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    (void)shutdown(c->socket, SHUT_RDWR);
}

static void *sweeper_main(void *opaque)
{
    struct http_connections *connections = opaque;

    pthread_mutex_lock(&connections->lock);
    while (!connections->is_ending) {
        uint64_t now = now_ms();
        struct timespec until;

        for (struct http_connection *c = connections->first; c; c = c->next)
            if (c->deadline_ms && c->deadline_ms <= now)
                cut_off(c);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SWEEP_MS * 1000000l;
        until.tv_sec += until.tv_nsec / 1000000000l;
        until.tv_nsec %= 1000000000l;
        if (connections->first)
            pthread_cond_timedwait(&connections->changed, &connections->lock, &until);
        else
            pthread_cond_wait(&connections->changed, &connections->lock);
    }
    pthread_mutex_unlock(&connections->lock);
    return NULL;
}

int http_connections_init(struct http_connections *connections, unsigned head_timeout_ms,
                          struct error *err)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&connections->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&connections->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    connections->first = NULL;
    connections->is_ending = false;
    connections->head_timeout_ms = head_timeout_ms;
    int e = pthread_create(&connections->sweeper, NULL, sweeper_main, connections);
    if (e)
        return error_set(err, e, "start a thread for connections' deadlines");
    return 0;
}

void http_connections_done(struct http_connections *connections)
{
    pthread_mutex_lock(&connections->lock);
    connections->is_ending = true;
    pthread_cond_signal(&connections->changed);
    pthread_mutex_unlock(&connections->lock);
    pthread_join(connections->sweeper, NULL);
    pthread_cond_destroy(&connections->changed);
    pthread_mutex_destroy(&connections->lock);
}

static void add(struct http_connections *connections, struct MHD_Connection *connection,
                void **socket_context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct http_connection *c = info ? calloc(1, sizeof(*c)) : NULL;

    *socket_context = c;
    if (!c) /* then only libmicrohttpd's timeout holds */
        return;
    c->socket = info->connect_fd;
    pthread_mutex_lock(&connections->lock);
    c->deadline_ms = now_ms() + connections->head_timeout_ms;
    c->next = connections->first;
    c->at = &connections->first;
    if (c->next)
        c->next->at = &c->next;
    else
        pthread_cond_signal(&connections->changed);
    connections->first = c;
    pthread_mutex_unlock(&connections->lock);
}

/* Before libmicrohttpd closes the socket, so the sweeper never meets another's. */
static void forget(struct http_connections *connections, struct http_connection *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&connections->lock);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    pthread_mutex_unlock(&connections->lock);
    free(c);
}

void http_connections_notify(void *opaque, struct MHD_Connection *connection, void **socket_context,
                             enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        add(opaque, connection, socket_context);
    } else {
        forget(opaque, *socket_context);
        *socket_context = NULL;
    }
}

void http_connections_deadline(struct http_connections *connections,
                               struct MHD_Connection *connection, uint64_t ms)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_connection *c = info ? info->socket_context : NULL;

    if (!c)
        return;
    pthread_mutex_lock(&connections->lock);
    c->deadline_ms = ms ? now_ms() + ms : 0;
    pthread_mutex_unlock(&connections->lock);
}
