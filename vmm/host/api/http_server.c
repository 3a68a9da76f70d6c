/* Listeners and threads: see http_server.h; requests are in http_exchange.c. */
#include "http_server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "http_server_internal.h"

enum {
    BACKLOG = 1024,
    /* Request and response heads: headers of 16 KiB, a log of 4 KB as base64. */
    HEAD_BYTES = 48 << 10,
    /* Of a connection's answers, in the kernel: what nobody reads must not grow to its own limit.
     */
    SEND_BUFFER_BYTES = 512 << 10,
    UNIX_CONNECTIONS = 512,
    UNIX_THREADS = 1,
    SHORT_WAITING = 1024,
    LONG_WAITING = 4096,
    STOP_POLL_US = 2000,
    ANSWER_US = 5000000,
};

/* --- sockets --------------------------------------------------------------------------------- */

/* "host:port" or "[host]:port". */
static int split_address(const char *text, char *host, size_t host_size, char *port,
                         size_t port_size, struct error *err)
{
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;

    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (!colon || len == 0 || len >= host_size || strlen(colon + 1) == 0 ||
        strlen(colon + 1) >= port_size || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        atoi(colon + 1) > 65535)
        return error_say(err, EINVAL, "listen: '%s' is not ADDRESS:PORT", text);
    memcpy(host, text, len);
    host[len] = '\0';
    snprintf(port, port_size, "%s", colon + 1);
    return 0;
}

static int listen_tcp(const char *text, int *ret_socket, unsigned *ret_port, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV | AI_NUMERICHOST};
    struct addrinfo *found = NULL;
    char host[128], port[8];
    const int on = 1, send_bytes = SEND_BUFFER_BYTES;
    int r = split_address(text, host, sizeof(host), port, sizeof(port), err);

    if (r < 0)
        return r;
    int e = getaddrinfo(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port, &hints, &found);
    if (e)
        return error_say(err, EINVAL, "listen: '%s': %s", text, gai_strerror(e));
    AUTO_FD fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes)) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        r = error_set(err, errno, "listen on '%s'", text);
        freeaddrinfo(found);
        return r;
    }
    freeaddrinfo(found);
    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    char number[8];
    if (getsockname(fd, (struct sockaddr *)&bound, &len) < 0 ||
        getnameinfo((struct sockaddr *)&bound, len, NULL, 0, number, sizeof(number),
                    NI_NUMERICSERV))
        return error_set(err, EIO, "find the port of '%s'", text);
    *ret_port = (unsigned)atoi(number);
    *ret_socket = fd_steal(&fd);
    return 0;
}

/* Only a socket is replaced, and only one that nobody serves any more. */
static int clear_path(const struct sockaddr_un *address, struct error *err)
{
    struct stat st;

    if (lstat(address->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "look at '%s'", address->sun_path);
    if (!S_ISSOCK(st.st_mode))
        return error_say(err, EEXIST, "'%s' is there and is no socket", address->sun_path);
    AUTO_FD probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0)
        return error_say(err, EADDRINUSE, "somebody serves '%s' already", address->sun_path);
    if (unlink(address->sun_path) < 0)
        return error_set(err, errno, "remove the old socket '%s'", address->sun_path);
    return 0;
}

static int listen_unix(const char *path, unsigned mode, int *ret_socket, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return error_say(err, ENAMETOOLONG, "the socket's path '%s' is longer than %zu", path,
                         sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    int r = clear_path(&address, err);
    if (r < 0)
        return r;
    AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Nobody connects between bind() and listen(), so there is no moment with wider rights. */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        chmod(path, mode ? mode : 0600) < 0 || listen(fd, BACKLOG) < 0)
        return error_set(err, errno, "listen on '%s'", path);
    *ret_socket = fd_steal(&fd);
    return 0;
}

/* --- daemons --------------------------------------------------------------------------------- */

/* Paths and queries are decoded in one place, ours: libmicrohttpd leaves them alone. */
static size_t leave_escapes(void *opaque, struct MHD_Connection *connection, char *text)
{
    (void)opaque;
    (void)connection;
    return strlen(text);
}

static int start_daemon(struct http_server *server, int fd, bool is_unix, struct error *err)
{
    const struct http_server_options *options = &server->options;
    struct http_listener *listener = &server->listeners[server->n_listeners];
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO;
    unsigned threads = is_unix ? UNIX_THREADS : options->threads;
    unsigned connections = is_unix ? UNIX_CONNECTIONS : options->max_connections;
    struct MHD_OptionItem more[4] = {{MHD_OPTION_END, 0, NULL}};
    size_t n = 0;

    listener->server = server;
    listener->is_unix = is_unix;
    listener->socket = fd;
    if (threads > 1)
        more[n++] = (struct MHD_OptionItem){MHD_OPTION_THREAD_POOL_SIZE, threads, NULL};
    if (!is_unix && options->tls_certificate_pem) {
        listener->is_tls = true;
        flags |= MHD_USE_TLS;
        more[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0,
                                            (char *)(uintptr_t)options->tls_certificate_pem};
        more[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0,
                                            (char *)(uintptr_t)options->tls_key_pem};
    }
    more[n] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    errno = 0;
    listener->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_exchange_handle, listener, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES, MHD_OPTION_CONNECTION_LIMIT,
        connections, MHD_OPTION_CONNECTION_TIMEOUT, options->body_timeout_s,
        MHD_OPTION_URI_LOG_CALLBACK, http_exchange_uri, listener, MHD_OPTION_UNESCAPE_CALLBACK,
        leave_escapes, NULL, MHD_OPTION_NOTIFY_COMPLETED, http_exchange_completed, listener,
        MHD_OPTION_NOTIFY_CONNECTION, http_connections_notify, &server->connections,
        MHD_OPTION_ARRAY, more, MHD_OPTION_END);
    if (!listener->daemon)
        return listener->is_tls && !errno
                   ? error_say(err, EINVAL, "cannot serve TLS: is the certificate that of the key?")
                   : error_set(err, errno ? errno : EIO, "start the HTTP server");
    server->n_listeners++;
    return 0;
}

static void defaults(struct http_server_options *options)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (!options->threads)
        options->threads = cores < 1 ? 1 : cores > 8 ? 8 : (unsigned)cores;
    if (!options->max_connections)
        options->max_connections = 4096;
    if (!options->head_timeout_s)
        options->head_timeout_s = 20;
    if (!options->body_timeout_s)
        options->body_timeout_s = 60;
    if (!options->response_timeout_s)
        options->response_timeout_s = 60;
    if (!options->response_bytes_per_ms)
        options->response_bytes_per_ms = 16;
    if (!options->body_memory_bytes)
        options->body_memory_bytes = 512u << 20;
    if (!options->spool_bytes)
        options->spool_bytes = (size_t)2 << 30;
    if (!options->short_threads)
        options->short_threads = 8;
    if (!options->long_threads)
        options->long_threads = 1024;
}

static int add_listener(struct http_server *server, bool is_unix, struct error *err)
{
    AUTO_FD fd = -1;
    int r = is_unix ? listen_unix(server->socket_path, server->options.socket_mode, &fd, err)
                    : listen_tcp(server->options.listen, &fd, &server->port, err);

    if (r < 0)
        return r;
    r = start_daemon(server, fd, is_unix, err);
    if (r == 0)
        (void)fd_steal(&fd); /* libmicrohttpd closes it */
    return r;
}

int http_server_start(const struct http_server_options *options, struct http_server **ret_server,
                      struct error *err)
{
    struct http_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return error_set(err, ENOMEM, "start the HTTP server");
    server->options = *options;
    defaults(&server->options);
    byte_budget_init(&server->bodies.memory, server->options.body_memory_bytes);
    byte_budget_init(&server->bodies.disk, server->options.spool_bytes);
    byte_budget_init(&server->responses, server->options.body_memory_bytes);
    server->bodies.directory = options->spool_directory;
    r = http_connections_init(&server->connections, server->options.head_timeout_s * 1000, err);
    if (r < 0) {
        free(server);
        return r;
    }
    if (options->socket_path && !(server->socket_path = strdup(options->socket_path)))
        r = error_set(err, ENOMEM, "start the HTTP server");
    if (r == 0)
        r = work_pool_new(server->options.short_threads, SHORT_WAITING, &server->short_pool, err);
    if (r == 0)
        r = work_pool_new(server->options.long_threads, LONG_WAITING, &server->long_pool, err);
    if (r == 0 && options->listen)
        r = add_listener(server, false, err);
    if (r == 0 && options->socket_path)
        r = add_listener(server, true, err);
    server->options.listen = server->options.socket_path = NULL;
    server->options.tls_certificate_pem = server->options.tls_key_pem = NULL;
    if (r < 0) {
        http_server_stop(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

unsigned http_server_port(const struct http_server *server)
{
    return server->port;
}

/*
 * Until all that was being handled is answered. Handlers get the time that they need, clients a
 * little to take their answers. A connection that is suspended may not be closed under whoever
 * resumes it, so at the end nothing is suspended, and nothing can be.
 */
static void wait_for_answers(struct http_server *server)
{
    uint64_t until_us = 0;

    while (atomic_load(&server->n_turns) > 0) {
        if (atomic_load(&server->n_suspended) > 0)
            until_us = 0;
        else if (until_us == 0)
            until_us = clock_now_us() + ANSWER_US;
        else if (clock_now_us() > until_us)
            break;
        usleep(STOP_POLL_US);
    }
    atomic_store(&server->is_closing, true);
    while (atomic_load(&server->n_suspended) > 0)
        usleep(STOP_POLL_US);
}

void http_server_stop(struct http_server *server)
{
    if (!server)
        return;
    for (size_t i = 0; i < server->n_listeners; i++) {
        MHD_socket fd = MHD_quiesce_daemon(server->listeners[i].daemon);

        if (fd != MHD_INVALID_SOCKET)
            close(fd);
        if (server->listeners[i].is_unix)
            unlink(server->socket_path);
    }
    atomic_store(&server->is_stopping, true);
    wait_for_answers(server);
    for (size_t i = 0; i < server->n_listeners; i++)
        MHD_stop_daemon(server->listeners[i].daemon);
    work_pool_free(server->short_pool);
    work_pool_free(server->long_pool);
    http_connections_done(&server->connections);
    free(server->socket_path);
    free(server);
}
