/* The HTTP server with a small service, over real sockets: limits, lanes, streams, bad peers. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/api/api_internal.h"
#include "host/api/http_server.h"
#include "http_client.h"

enum { BODY_LIMIT = 1 << 20, STREAM_PARTS = 40, PART_BYTES = 100000, HALF_OPEN = 1000 };

/* --- the service: /inline, /short and /long echo, /stream streams, /early refuses at the head ---
 */

static atomic_int n_handled;
static atomic_int last_write;

static size_t body_limit(void *opaque, const struct http_request *request,
                         struct http_response *response)
{
    (void)opaque;
    if (strcmp(request->path, "/early") == 0)
        response->status = 403;
    return BODY_LIMIT;
}

static enum http_lane lane(void *opaque, const struct http_request *request)
{
    (void)opaque;
    return strcmp(request->path, "/inline") == 0  ? HTTP_INLINE
           : strcmp(request->path, "/short") == 0 ? HTTP_SHORT
                                                  : HTTP_LONG;
}

static void stream(struct http_response *response, struct http_turn *turn)
{
    struct stream_pipe *pipe;
    char *part = malloc(PART_BYTES);
    int r = 0;

    assert_non_null(part);
    assert_int_equal(stream_pipe_new(&pipe), 0);
    response->status = 200;
    response->stream = &stream_pipe_ops;
    response->stream_opaque = pipe;
    http_turn_begin(turn);
    for (int i = 0; i < STREAM_PARTS && r == 0; i++) {
        memset(part, 'a' + i % 26, PART_BYTES);
        r = stream_pipe_write(pipe, part, PART_BYTES);
    }
    atomic_store(&last_write, r);
    stream_pipe_end(pipe, false);
    free(part);
}

static void handle(void *opaque, const struct http_request *request, struct http_response *response,
                   struct http_turn *turn)
{
    char about[64];

    (void)opaque;
    atomic_fetch_add(&n_handled, 1);
    if (strcmp(request->path, "/stream") == 0) {
        stream(response, turn);
        return;
    }
    if (strcmp(request->path, "/slow") == 0)
        usleep(300000);
    response->status = 200;
    snprintf(about, sizeof(about), "%s %s %d", request->method, request->query, request->origin);
    http_response_header(response, "X-About", about);
    response->body = malloc(request->body_bytes + 1);
    assert_non_null(response->body);
    if (request->body_bytes)
        memcpy(response->body, request->body, request->body_bytes);
    response->body_bytes = request->body_bytes;
}

static void refuse(void *opaque, const struct http_request *request, enum http_refusal why,
                   struct http_response *response)
{
    (void)opaque;
    (void)request;
    response->status = why == HTTP_OVERLOADED ? 503 : 413;
}

static const struct http_service service = {body_limit, lane, handle, refuse};

static char socket_path[64];

static struct http_server *start(struct http_server_options options)
{
    struct http_server *server = NULL;
    struct error err = {0};

    snprintf(socket_path, sizeof(socket_path), "/tmp/mayfly-test-http-%d.sock", getpid());
    options.listen = "127.0.0.1:0";
    options.socket_path = socket_path;
    options.service = &service;
    if (http_server_start(&options, &server, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(http_server_port(server) > 0);
    return server;
}

static void ask(int fd, const char *method, const char *target, const void *body, size_t len,
                struct http_answer *answer)
{
    char head[512];
    int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                     method, target, len);

    client_send(fd, head, (size_t)n);
    (void)client_try_send(fd, body, len);
    client_read(fd, answer);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_lanes(void **state)
{
    static const char *const targets[] = {"/inline?a=%20b", "/short?a=%20b", "/long?a=%20b"};
    struct http_server *server = start((struct http_server_options){.threads = 2});
    char value[64];

    (void)state;
    for (int is_unix = 0; is_unix < 2; is_unix++) {
        AUTO_FD fd = is_unix ? client_unix(socket_path) : client_tcp(http_server_port(server));

        for (int i = 0; i < 9; i++) { /* one connection, kept */
            struct http_answer answer;

            ask(fd, "PUT", targets[i % 3], "hello", 5, &answer);
            assert_int_equal(answer.status, 200);
            assert_int_equal(answer.body_len, 5);
            assert_memory_equal(answer.body, "hello", 5);
            assert_string_equal(client_header(&answer, "X-About", value, sizeof(value)),
                                is_unix ? "PUT a=%20b 0" : "PUT a=%20b 1");
            http_answer_done(&answer);
        }
    }
    http_server_stop(server);
    assert_int_equal(access(socket_path, F_OK), -1);
}

static void test_bodies(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    AUTO_FREE char *body = malloc(3 * BODY_LIMIT);
    struct http_answer answer;

    (void)state;
    assert_non_null(body);
    for (size_t i = 0; i < 3 * BODY_LIMIT; i++)
        body[i] = (char)('a' + i % 23);
    AUTO_FD fd = client_tcp(http_server_port(server));
    ask(fd, "POST", "/short", body, BODY_LIMIT, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, BODY_LIMIT);
    assert_memory_equal(answer.body, body, BODY_LIMIT);
    http_answer_done(&answer);
    /* A large body never runs on the server's own thread, wherever the service wants it. */
    ask(fd, "POST", "/inline", body, 200000, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    int handled = atomic_load(&n_handled);
    ask(fd, "POST", "/short", body, BODY_LIMIT + 1, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    ask(fd, "POST", "/short", body, 3 * BODY_LIMIT, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    ask(fd, "POST", "/early", body, 100, &answer);
    assert_int_equal(answer.status, 403);
    http_answer_done(&answer);
    assert_int_equal(atomic_load(&n_handled), handled);
    /* So large that nobody waits for it. */
    static const char huge[] =
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    AUTO_FD other = client_tcp(http_server_port(server));
    client_send(other, huge, sizeof(huge) - 1);
    client_read(other, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    http_server_stop(server);
}

static void test_chunked_body(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    AUTO_FD fd = client_tcp(http_server_port(server));
    static const char head[] =
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    AUTO_FREE char *chunk = calloc(1, 65536 + 16);
    struct http_answer answer;

    (void)state;
    assert_non_null(chunk);
    client_send(fd, head, sizeof(head) - 1);
    client_send(fd, "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", 21);
    client_read(fd, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, 6);
    http_answer_done(&answer);
    /* No length announced: cut where the limit is. */
    client_send(fd, head, sizeof(head) - 1);
    int len = sprintf(chunk, "10000\r\n");
    memset(chunk + len, 'x', 65536);
    memcpy(chunk + len + 65536, "\r\n", 2);
    for (int i = 0; i < BODY_LIMIT / 65536 + 1; i++)
        client_send(fd, chunk, (size_t)len + 65536 + 2);
    client_send(fd, "0\r\n\r\n", 5);
    client_read(fd, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    http_server_stop(server);
}

static void test_body_memory(void **state)
{
    struct http_server *server =
        start((struct http_server_options){.threads = 1, .body_memory_bytes = 256 << 10});
    AUTO_FREE char *body = calloc(1, BODY_LIMIT);
    AUTO_FD fd = client_tcp(http_server_port(server));
    struct http_answer answer;

    (void)state;
    ask(fd, "POST", "/short", body, 100000, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    ask(fd, "POST", "/short", body, BODY_LIMIT, &answer);
    assert_int_equal(answer.status, 503);
    http_answer_done(&answer);
    ask(fd, "POST", "/short", body, 100000, &answer); /* what was taken was given back */
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    http_server_stop(server);
}

/* A thousand that never finish their request: the others are served meanwhile, and they are cut
 * off. */
static void test_half_open(void **state)
{
    static const char part[] = "POST /short HTTP/1.1\r\nHost: x\r\nX-Slow: ";
    struct rlimit limit = {.rlim_cur = 0};
    int fds[HALF_OPEN];
    struct http_answer answer;
    char byte;

    (void)state;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 8192 ? limit.rlim_max : 8192;
    if (limit.rlim_cur < 2 * HALF_OPEN + 64 || setrlimit(RLIMIT_NOFILE, &limit) < 0)
        skip();
    struct http_server *server =
        start((struct http_server_options){.threads = 2, .head_timeout_s = 4});
    for (int i = 0; i < HALF_OPEN; i++) {
        fds[i] = client_tcp(http_server_port(server));
        client_send(fds[i], part, i % 2 ? sizeof(part) - 1 : 3);
    }
    AUTO_FD fd = client_tcp(http_server_port(server));
    ask(fd, "POST", "/short", "hello", 5, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    for (int i = 0; i < HALF_OPEN; i++) {
        assert_int_equal(recv(fds[i], &byte, 1, 0), 0); /* ends: not by our doing */
        close(fds[i]);
    }
    http_server_stop(server);
}

/* A byte now and then does not prolong a request's time. */
static void test_drip(void **state)
{
    struct http_server *server =
        start((struct http_server_options){.threads = 1, .head_timeout_s = 1});
    AUTO_FD fd = client_tcp(http_server_port(server));
    int r = 0;

    (void)state;
    client_send(fd, "GET /inline HTTP/1.1\r\nX: ", 25);
    for (int i = 0; i < 1000 && r == 0; i++) {
        usleep(50000);
        r = client_try_send(fd, "x", 1);
    }
    assert_true(r == -EPIPE || r == -ECONNRESET);
    http_server_stop(server);
}

static void test_stream(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    AUTO_FD fd = client_tcp(http_server_port(server));
    struct http_answer answer;

    (void)state;
    ask(fd, "POST", "/stream", "", 0, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, STREAM_PARTS * PART_BYTES);
    for (int i = 0; i < STREAM_PARTS; i++)
        assert_int_equal(answer.body[i * PART_BYTES + 5], 'a' + i % 26);
    http_answer_done(&answer);
    assert_int_equal(atomic_load(&last_write), 0);
    http_server_stop(server);
}

/* One that goes away in the middle of a stream: the producer is told, nothing is left. */
static void test_stream_abandoned(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    static const char head[] = "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n";
    char some[1000];

    (void)state;
    for (int i = 0; i < 20; i++) {
        int fd = client_tcp(http_server_port(server));

        client_send(fd, head, sizeof(head) - 1);
        assert_true(recv(fd, some, sizeof(some), 0) > 0);
        close(fd);
    }
    http_server_stop(server); /* returns: no producer waits for ever */
    assert_int_equal(atomic_load(&last_write), -EPIPE);
}

/* Clients that leave while their request is being worked on. */
static void test_gone_meanwhile(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 2});
    static const char head[] = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";

    (void)state;
    for (int i = 0; i < 20; i++) {
        int fd = client_tcp(http_server_port(server));

        client_send(fd, head, sizeof(head) - 1);
        close(fd);
    }
    http_server_stop(server);
}

static void test_stop_answers(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    static const char head[] = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    AUTO_FD fd = client_tcp(http_server_port(server));
    int handled = atomic_load(&n_handled);
    struct http_answer answer;

    (void)state;
    client_send(fd, head, sizeof(head) - 1);
    while (atomic_load(&n_handled) == handled)
        usleep(1000);
    http_server_stop(server);
    client_read(fd, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
}

static void test_bad_http(void **state)
{
    static const char *const texts[] = {
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /inline HTTP/9.9\r\n\r\n",
        "GET /inline HTTP/1.1\r\nNo colon\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    };
    struct http_server *server = start((struct http_server_options){.threads = 1});
    struct http_answer answer;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int fd = client_tcp(http_server_port(server));

        client_send(fd, texts[i], strlen(texts[i]));
        shutdown(fd, SHUT_WR);
        client_read(fd, &answer);
        assert_true(answer.status == 0 || answer.status >= 400);
        http_answer_done(&answer);
        close(fd);
    }
    /* A head larger than its memory. */
    AUTO_FD fd = client_tcp(http_server_port(server));
    AUTO_FREE char *big = malloc(200000);
    assert_non_null(big);
    memset(big, 'a', 200000);
    memcpy(big, "GET /inline HTTP/1.1\r\nX: ", 25);
    (void)client_try_send(fd, big, 200000);
    client_read(fd, &answer);
    assert_true(answer.status == 0 || answer.status >= 400);
    http_answer_done(&answer);
    AUTO_FD good = client_tcp(http_server_port(server));
    ask(good, "GET", "/inline", "", 0, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    http_server_stop(server);
}

static void test_addresses(void **state)
{
    static const char *const bad[] = {
        "",  "9555", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "no.such.host:1",
        ":1"};
    struct http_server *server = NULL;
    struct error err;
    struct stat st;
    char path[80];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct http_server_options options = {.listen = bad[i], .service = &service};

        if (http_server_start(&options, &server, &err) != -EINVAL)
            fail_msg("taken: %s", bad[i]);
    }
    server = start((struct http_server_options){.threads = 1});
    assert_int_equal(stat(socket_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct http_server *second = NULL;
    struct http_server_options options = {.socket_path = socket_path, .service = &service};
    assert_int_equal(http_server_start(&options, &second, &err), -EADDRINUSE);
    http_server_stop(server);
    /* What is no socket stays. */
    snprintf(path, sizeof(path), "%s.file", socket_path);
    AUTO_FD file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    options.socket_path = path;
    assert_int_equal(http_server_start(&options, &second, &err), -EEXIST);
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lanes),          cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_chunked_body),   cmocka_unit_test(test_body_memory),
        cmocka_unit_test(test_half_open),      cmocka_unit_test(test_drip),
        cmocka_unit_test(test_stream),         cmocka_unit_test(test_stream_abandoned),
        cmocka_unit_test(test_gone_meanwhile), cmocka_unit_test(test_stop_answers),
        cmocka_unit_test(test_bad_http),       cmocka_unit_test(test_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
