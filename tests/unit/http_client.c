/* See http_client.h. */
#include "http_client.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATIENCE_S = 120, MAX_ANSWER = 32 << 20 };

static int patient(int fd)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    return fd;
}

int client_tcp(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return patient(fd);
}

int client_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return patient(fd);
}

int client_try_send(int fd, const void *data, size_t len)
{
    const char *from = data;

    while (len > 0) {
        ssize_t n = send(fd, from, len, MSG_NOSIGNAL);

        if (n < 0)
            return -errno;
        from += n;
        len -= (size_t)n;
    }
    return 0;
}

void client_send(int fd, const void *data, size_t len)
{
    assert_int_equal(client_try_send(fd, data, len), 0);
}

const char *client_header(const struct http_answer *answer, const char *name, char *to, size_t size)
{
    const char *line = answer->text;

    to[0] = '\0';
    while (line && (line = strstr(line, "\r\n")) && strncmp(line, "\r\n\r\n", 4) != 0) {
        line += 2;
        if (strncasecmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            line += strlen(name) + 1;
            line += strspn(line, " ");
            snprintf(to, size, "%.*s", (int)strcspn(line, "\r"), line);
            break;
        }
    }
    return to;
}

/* Joins chunks in place; false: the last one is not there yet. */
static int join_chunks(char *body, size_t len, size_t *ret_len)
{
    size_t at = 0, to = 0;

    for (;;) {
        char *end = memchr(body + at, '\n', len - at);

        if (!end)
            return 0;
        size_t n = strtoul(body + at, NULL, 16);
        at = (size_t)(end - body) + 1;
        if (n == 0) {
            *ret_len = to;
            return len - at >= 2;
        }
        if (len - at < n + 2)
            return 0;
        memmove(body + to, body + at, n);
        to += n;
        at += n + 2;
    }
}

/* Is the response complete? Sets the body then. */
static int is_complete(struct http_answer *answer, int at_end)
{
    char value[64];
    char *head = answer->text ? strstr(answer->text, "\r\n\r\n") : NULL;

    if (!head)
        return 0;
    answer->body = head + 4;
    size_t have = answer->len - (size_t)(head + 4 - answer->text);
    if (strcasecmp(client_header(answer, "Transfer-Encoding", value, sizeof(value)), "chunked") ==
        0) {
        char *copy = malloc(have + 1);

        assert_non_null(copy);
        memcpy(copy, answer->body, have);
        copy[have] = '\0';
        int done = join_chunks(copy, have, &answer->body_len);
        if (done)
            memcpy(head + 4, copy, answer->body_len);
        free(copy);
        return done;
    }
    if (strncmp(answer->text, "HTTP/1.1 204", 12) == 0) { /* has no body, and says nothing of it */
        answer->body_len = 0;
        return 1;
    }
    client_header(answer, "Content-Length", value, sizeof(value));
    answer->body_len = value[0] ? strtoul(value, NULL, 10) : have;
    return value[0] ? have >= answer->body_len : at_end;
}

void client_read(int fd, struct http_answer *ret_answer)
{
    struct http_answer answer = {.status = 0};
    ssize_t n = 1;
    size_t size = 0;

    while (!is_complete(&answer, n == 0) && n > 0) {
        if (answer.len + 1 >= size) {
            size = size ? size * 2 : 65536;
            assert_true(size <= MAX_ANSWER);
            answer.text = realloc(answer.text, size);
            assert_non_null(answer.text);
        }
        n = recv(fd, answer.text + answer.len, size - answer.len - 1, 0);
        if (n > 0)
            answer.len += (size_t)n;
        answer.text[answer.len] = '\0';
    }
    if (answer.text && strncmp(answer.text, "HTTP/1.1 ", 9) == 0)
        answer.status = atoi(answer.text + 9);
    *ret_answer = answer;
}

void http_answer_done(struct http_answer *answer)
{
    free(answer->text);
    *answer = (struct http_answer){.status = 0};
}
