/* Connections of the Runtime API, see http_connection.h. Process: mayfly-agent; input: the
 * function's. */
#include "guest-agent/http_connection.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

int http_connection_open(struct http_connection *connection, int fd, int epoll_fd, uint32_t tag,
                         http_body_room *body_room, void *opaque)
{
    struct epoll_event watch = {.events = EPOLLIN, .data.u32 = tag};

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &watch) < 0)
        return -errno;
    connection->fd = fd;
    connection->epoll_fd = epoll_fd;
    connection->tag = tag;
    connection->is_writing = connection->is_last = connection->is_too_long = false;
    connection->head_bytes = connection->body_bytes = connection->sent_bytes = 0;
    http_request_begin(&connection->request, body_room, opaque);
    return 0;
}

void http_connection_close(struct http_connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd); /* leaves the epoll set by itself: it has no duplicate */
    connection->fd = -1;
}

static const char *status_words(int status)
{
    switch (status) {
    case 200:
        return "200 OK";
    case 202:
        return "202 Accepted";
    case 400:
        return "400 Bad Request";
    case 403:
        return "403 Forbidden";
    case 405:
        return "405 Method Not Allowed";
    case 413:
        return "413 Request Entity Too Large";
    default:
        return "404 Not Found";
    }
}

static void append(struct http_connection *connection, const char *text, size_t len)
{
    if (len > HTTP_HEAD_MAX - connection->head_bytes) {
        connection->is_too_long = true;
        return;
    }
    memcpy(connection->head + connection->head_bytes, text, len);
    connection->head_bytes += len;
}

void http_answer_begin(struct http_connection *connection, int status, size_t body_bytes)
{
    char head[192];
    int used = snprintf(head, sizeof(head),
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n%s",
                        status_words(status), body_bytes,
                        connection->is_last ? "Connection: close\r\n" : "");

    connection->head_bytes = connection->body_bytes = connection->sent_bytes = 0;
    connection->is_too_long = false;
    append(connection, head, (size_t)used);
}

void http_answer_header(struct http_connection *connection, const char *name, const char *value)
{
    size_t start;

    if (value[0] == '\0')
        return;
    append(connection, name, strlen(name));
    append(connection, ": ", 2);
    start = connection->head_bytes;
    append(connection, value, strlen(value));
    for (size_t i = start; i < connection->head_bytes; i++)
        if ((unsigned char)connection->head[i] < ' ' || connection->head[i] == 0x7f)
            connection->head[i] = ' ';
    append(connection, "\r\n", 2);
}

void http_answer_text(struct http_connection *connection, const char *text)
{
    append(connection, "\r\n", 2);
    append(connection, text, strlen(text));
}

void http_answer_body(struct http_connection *connection, const uint8_t *body, size_t body_bytes)
{
    append(connection, "\r\n", 2);
    connection->body = body;
    connection->body_bytes = body_bytes;
}

static void watch_output(struct http_connection *connection, bool want)
{
    struct epoll_event watch = {.events = want ? EPOLLOUT : EPOLLIN, .data.u32 = connection->tag};

    if (connection->is_writing == want)
        return;
    connection->is_writing = want;
    if (epoll_ctl(connection->epoll_fd, EPOLL_CTL_MOD, connection->fd, &watch) < 0)
        http_connection_close(connection);
}

/* One sendmsg(2) of what is left. False if nothing more can be done now. */
static bool send_some(struct http_connection *connection)
{
    size_t sent_head = connection->sent_bytes < connection->head_bytes ? connection->sent_bytes
                                                                       : connection->head_bytes;
    size_t sent_body = connection->sent_bytes - sent_head;
    struct iovec parts[2] = {{connection->head + sent_head, connection->head_bytes - sent_head}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 1};
    ssize_t sent;

    if (connection->body_bytes > 0) {
        parts[1].iov_base = (void *)(uintptr_t)(connection->body + sent_body); /* only read */
        parts[1].iov_len = connection->body_bytes - sent_body;
        message.msg_iovlen = 2;
    }
    sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
        connection->sent_bytes += (size_t)sent;
        return true;
    }
    if (errno == EAGAIN)
        watch_output(connection, true);
    else
        http_connection_close(connection);
    return false;
}

void http_connection_push(struct http_connection *connection)
{
    if (connection->fd < 0)
        return;
    while (connection->sent_bytes < connection->head_bytes + connection->body_bytes)
        if (!send_some(connection))
            return;
    connection->head_bytes = connection->body_bytes = connection->sent_bytes = 0;
    if (connection->is_last)
        http_connection_close(connection);
    else
        watch_output(connection, false);
}
