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
#include <sys/mman.h>
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

enum {
    BODY_LIMIT = 1 << 20,
    UPLOAD_LIMIT = 16 << 20,
    FILE_BYTES = 5 << 20,
    LARGE_ANSWER = 24 << 20,
    STREAM_PARTS = 40,
    LONG_STREAM = 400,
    PART_BYTES = 100000,
    HALF_OPEN = 1000
};

/* --- the service: /inline, /short and /long echo, /stream streams, /early refuses at the head ---
 */

static atomic_int n_handled;
static atomic_int last_write;

/* /mine: an unknown owner's, /yours: another's; the others are all of one known. */
static void admit(void *opaque, const struct http_request *request,
                  struct http_admission *ret_admission, struct http_response *response)
{
    bool is_mine = strcmp(request->path, "/mine") == 0;
    bool is_yours = strcmp(request->path, "/yours") == 0;

    (void)opaque;
    if (strcmp(request->path, "/early") == 0)
        response->status = 403;
    *ret_admission = (struct http_admission){
        .body_limit = strcmp(request->path, "/upload") == 0 ? UPLOAD_LIMIT : BODY_LIMIT,
        .owner = {.id = is_mine    ? 1
                        : is_yours ? 2
                                   : 3,
                  .is_known = !is_mine && !is_yours},
        .may_spool = strcmp(request->path, "/upload") == 0};
}

static enum http_lane lane(void *opaque, const struct http_request *request)
{
    (void)opaque;
    return strcmp(request->path, "/inline") == 0  ? HTTP_INLINE
           : strcmp(request->path, "/short") == 0 ? HTTP_SHORT
                                                  : HTTP_LONG;
}

static void stream(struct http_response *response, struct http_turn *turn, int n_parts)
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
    for (int i = 0; i < n_parts && r == 0; i++) {
        memset(part, 'a' + i % 26, PART_BYTES);
        r = stream_pipe_write(pipe, part, PART_BYTES, clock_now_ns() + 60000000000ull);
    }
    atomic_store(&last_write, r);
    stream_pipe_end(pipe, false);
    free(part);
}

/* A reader that takes nothing holds the writer up to the deadline, and one that goes frees it. */
static void test_pipe_deadline(void **state)
{
    static const uint8_t data[300 << 10];
    struct stream_pipe *pipe;
    uint8_t some[100];

    (void)state;
    assert_int_equal(stream_pipe_new(&pipe), 0);
    uint64_t start_ns = clock_now_ns();
    assert_int_equal(stream_pipe_write(pipe, data, sizeof(data), start_ns + 30000000), -ETIMEDOUT);
    assert_true(clock_now_ns() - start_ns >= 30000000);
    assert_int_equal(stream_pipe_ops.read(pipe, some, sizeof(some)), sizeof(some));
    assert_int_equal(stream_pipe_write(pipe, data, sizeof(some), 0), 0); /* there is room */
    stream_pipe_ops.close(pipe);
    assert_int_equal(stream_pipe_write(pipe, data, 1, UINT64_MAX), -EPIPE);
    stream_pipe_end(pipe, true);
}

static void handle(void *opaque, const struct http_request *request, struct http_response *response,
                   struct http_turn *turn)
{
    char about[64];

    (void)opaque;
    atomic_fetch_add(&n_handled, 1);
    if (strcmp(request->path, "/stream") == 0 || strcmp(request->path, "/stream/long") == 0) {
        stream(response, turn, strcmp(request->path, "/stream") == 0 ? STREAM_PARTS : LONG_STREAM);
        return;
    }
    if (strcmp(request->path, "/slow") == 0)
        usleep(300000);
    response->status = 200;
    if (strcmp(request->path, "/file") == 0) {
        response->has_file = true;
        response->file = memfd_create("code", MFD_CLOEXEC);
        response->file_bytes = FILE_BYTES;
        assert_int_equal(ftruncate(response->file, FILE_BYTES), 0);
        assert_int_equal(pwrite(response->file, "end", 3, FILE_BYTES - 3), 3);
        return;
    }
    if (strcmp(request->path, "/large") == 0) {
        response->body_bytes = LARGE_ANSWER;
        response->body = calloc(1, LARGE_ANSWER);
        assert_non_null(response->body);
        return;
    }
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
    static const unsigned statuses[] = {[HTTP_BODY_TOO_LARGE] = 413,
                                        [HTTP_HEAD_TOO_LARGE] = 431,
                                        [HTTP_BAD_HEAD] = 400,
                                        [HTTP_OVERLOADED] = 503,
                                        [HTTP_DISK_FULL] = 507};

    response->status = statuses[why];
}

static const struct http_service service = {admit, lane, handle, refuse};

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

/* Nor a body's; one that comes at a fair rate has the time that it needs. */
static void test_drip_body(void **state)
{
    struct http_server *server =
        start((struct http_server_options){.threads = 1, .body_timeout_s = 1});
    static const char head[] = "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    static const char chunks[] =
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    AUTO_FD fd = client_tcp(http_server_port(server)),
            second = client_tcp(http_server_port(server));
    int r = 0, r_second = 0;

    (void)state;
    client_send(fd, head, sizeof(head) - 1);
    client_send(second, chunks, sizeof(chunks) - 1);
    for (int i = 0; i < 1000 && (r == 0 || r_second == 0); i++) {
        usleep(50000);
        r = r ? r : client_try_send(fd, "x", 1);
        r_second = r_second ? r_second : client_try_send(second, "1\r\nx\r\n", 6);
    }
    assert_true(r == -EPIPE || r == -ECONNRESET);
    assert_true(r_second == -EPIPE || r_second == -ECONNRESET);
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

/* --- slow readers ---------------------------------------------------------------------------- */

/* A client that asks for @target and takes nothing; its buffers hold little. */
static int ask_and_sleep(struct http_server *server, const char *target)
{
    char head[128];
    int fd = client_tcp(http_server_port(server));
    int size = 4096;

    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    int n = snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target);
    client_send(fd, head, (size_t)n);
    return fd;
}

/* The time for an answer is a second and what its size is worth: a file's and a block's, too. */
static void test_slow_readers(void **state)
{
    struct http_server *server = start((struct http_server_options){
        .threads = 1, .response_timeout_s = 1, .response_bytes_per_ms = 10000});
    struct http_answer answer;

    (void)state;
    atomic_store(&last_write, 0);
    int stream = ask_and_sleep(server, "/stream/long");
    /* The producer waits for the client, until that one's time is over. */
    while (atomic_load(&last_write) != -EPIPE)
        usleep(20000);
    close(stream);
    AUTO_FD fd = client_tcp(http_server_port(server));
    ask(fd, "GET", "/file", "", 0, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, FILE_BYTES);
    assert_memory_equal(answer.body + FILE_BYTES - 3, "end", 3);
    http_answer_done(&answer);
    http_server_stop(server);
}

/* Answers that nobody takes are bounded, as bodies are; and one owner's leave room for another's.
 */
static void test_response_memory(void **state)
{
    struct http_server *server =
        start((struct http_server_options){.threads = 1, .body_memory_bytes = 100 << 20});
    AUTO_FD fd = client_tcp(http_server_port(server));
    struct http_answer answer;
    int fds[2];

    (void)state;
    for (int i = 0; i < 2; i++) { /* half of it: 50 of 100 MiB */
        fds[i] = ask_and_sleep(server, "/large");
        char first;
        assert_int_equal(recv(fds[i], &first, 1, MSG_PEEK), 1);
    }
    ask(fd, "GET", "/large", "", 0, &answer);
    assert_int_equal(answer.status, 503);
    http_answer_done(&answer);
    ask(fd, "POST", "/yours", "other", 5, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    for (int i = 0; i < 2; i++)
        close(fds[i]);
    do { /* given back, as soon as the server noticed */
        ask(fd, "GET", "/large", "", 0, &answer);
        int status = answer.status;
        http_answer_done(&answer);
        if (status == 200)
            break;
        usleep(10000);
    } while (true);
    http_server_stop(server);
}

/* --- uploads --------------------------------------------------------------------------------- */

static void test_owners_share(void **state)
{
    struct http_server *server =
        start((struct http_server_options){.threads = 1, .body_memory_bytes = 400 << 10});
    AUTO_FREE char *body = calloc(1, BODY_LIMIT);
    AUTO_FD mine = client_tcp(http_server_port(server)),
            second = client_tcp(http_server_port(server)),
            yours = client_tcp(http_server_port(server));
    static const char head[] = "POST /mine HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n";
    struct http_answer answer;

    (void)state;
    client_send(mine, head, sizeof(head) - 1); /* 90 of the 100 KiB that an unknown one may have */
    client_send(mine, body, 89999);
    ask(yours, "POST", "/yours", body, 10, &answer); /* so that it was read by now */
    http_answer_done(&answer);
    do {
        ask(second, "POST", "/mine", body, 60000, &answer);
        int status = answer.status;
        http_answer_done(&answer);
        if (status == 503)
            break;
    } while (true);
    ask(yours, "POST", "/yours", body, 60000, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    ask(yours, "POST", "/short", body, 150000, &answer); /* a known one: half */
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    client_send(mine, body, 1);
    client_read(mine, &answer);
    assert_int_equal(answer.status, 200);
    http_answer_done(&answer);
    http_server_stop(server);
}

static void test_spooled(void **state)
{
    char directory[] = "/tmp/mayfly-test-spool-XXXXXX";
    AUTO_FREE char *body = malloc(UPLOAD_LIMIT + 1);
    struct http_answer answer;

    (void)state;
    assert_non_null(mkdtemp(directory));
    assert_non_null(body);
    for (size_t i = 0; i <= UPLOAD_LIMIT; i++)
        body[i] = (char)(i * 7 + i / 4096);
    struct http_server *server =
        start((struct http_server_options){.threads = 1,
                                           .body_memory_bytes = 8 << 20, /* too little in memory */
                                           .spool_directory = directory,
                                           .spool_bytes = 64 << 20});
    AUTO_FD fd = client_tcp(http_server_port(server));
    static const size_t sizes[] = {1, 1 << 20, (1 << 20) + 1, 3 << 20};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        ask(fd, "POST", "/upload", body, sizes[i], &answer);
        assert_int_equal(answer.status, 200);
        assert_int_equal(answer.body_len, sizes[i]);
        assert_memory_equal(answer.body, body, sizes[i]);
        http_answer_done(&answer);
    }
    /* Without its length. */
    static const char head[] =
        "POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n";
    client_send(fd, head, sizeof(head) - 1);
    client_send(fd, body, 2 << 20);
    client_send(fd, "\r\n0\r\n\r\n", 7);
    client_read(fd, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, 2 << 20);
    assert_memory_equal(answer.body, body, 2 << 20);
    http_answer_done(&answer);
    ask(fd, "POST", "/upload", body, UPLOAD_LIMIT + 1, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    http_server_stop(server);
    assert_int_equal(rmdir(directory), 0); /* nothing was left in it */
    /* And where nothing can be written. */
    server = start((struct http_server_options){.threads = 1, .spool_directory = directory});
    AUTO_FD late = client_tcp(http_server_port(server));
    ask(late, "POST", "/upload", body, 3 << 20, &answer);
    assert_int_equal(answer.status, 503);
    http_answer_done(&answer);
    http_server_stop(server);
}

/* Who would be refused need not send: the answer comes instead of "100 Continue". */
static void test_expect(void **state)
{
    static const char refused[] = "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
                                  "Expect: 100-continue\r\n\r\n";
    static const char large[] = "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n"
                                "Expect: 100-continue\r\n\r\n";
    static const char good[] = "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                               "Expect: 100-Continue\r\n\r\n";
    struct http_server *server = start((struct http_server_options){.threads = 1});
    struct http_answer answer;
    char go_on[64];

    (void)state;
    AUTO_FD first = client_tcp(http_server_port(server));
    client_send(first, refused, sizeof(refused) - 1);
    client_read(first, &answer);
    assert_int_equal(answer.status, 403);
    http_answer_done(&answer);
    AUTO_FD second = client_tcp(http_server_port(server));
    client_send(second, large, sizeof(large) - 1);
    client_read(second, &answer);
    assert_int_equal(answer.status, 413);
    http_answer_done(&answer);
    AUTO_FD third = client_tcp(http_server_port(server));
    client_send(third, good, sizeof(good) - 1);
    ssize_t n = recv(third, go_on, sizeof(go_on), 0);
    assert_true(n > 12);
    assert_memory_equal(go_on, "HTTP/1.1 100", 12);
    client_send(third, "hello", 5);
    client_read(third, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.body_len, 5);
    http_answer_done(&answer);
    http_server_stop(server);
}

/* --- what two readers would take for different requests ---------------------------------------
 */

static void test_smuggling(void **state)
{
    static const char *const texts[] = {
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
        "0\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /inline HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /inline HTTP/1.1\r\n\r\n",
        "GET /inline HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
        "GET http://other/inline HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    struct http_server *server = start((struct http_server_options){.threads = 1});
    int handled = atomic_load(&n_handled);
    struct http_answer answer;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int fd = client_tcp(http_server_port(server));
        static const char more[] = "GET /inline HTTP/1.1\r\nHost: x\r\n\r\n";

        client_send(fd, texts[i], strlen(texts[i]));
        (void)client_try_send(fd, more, sizeof(more) - 1); /* would be the smuggled one */
        client_read(fd, &answer);
        if (answer.status != 400 && answer.status != 0)
            fail_msg("%s: %d", texts[i], answer.status);
        http_answer_done(&answer);
        client_read(fd, &answer);
        assert_int_equal(answer.status, 0); /* and that is the end of the connection */
        http_answer_done(&answer);
        close(fd);
    }
    assert_int_equal(atomic_load(&n_handled), handled);
    http_server_stop(server);
}

/* Requests one after the other in one go, answered in their order; a target in absolute form. */
static void test_pipelined(void **state)
{
    static const char two[] = "POST /short?1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
                              "GET http://X/inline?2 HTTP/1.1\r\nHost: x\r\n\r\n"
                              "GET http://x?3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    struct http_server *server = start((struct http_server_options){.threads = 1});
    AUTO_FD fd = client_tcp(http_server_port(server));
    char text[4096];
    size_t len = 0;
    ssize_t n;

    (void)state;
    client_send(fd, two, sizeof(two) - 1);
    while ((n = recv(fd, text + len, sizeof(text) - 1 - len, 0)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    const char *first = strstr(text, "POST 1 "), *second = strstr(text, "GET 2 "),
               *third = strstr(text, "GET 3 ");
    assert_true(first && second && third && first < second && second < third);
    http_server_stop(server);
}

static void test_many_headers(void **state)
{
    struct http_server *server = start((struct http_server_options){.threads = 1});
    AUTO_FREE char *head = malloc(1 << 20);
    struct http_answer answer;

    (void)state;
    assert_non_null(head);
    for (int count = 90; count <= 5000; count = count * 3 / 2) {
        AUTO_FD fd = client_tcp(http_server_port(server));
        int n = sprintf(head, "GET /inline HTTP/1.1\r\nHost: x\r\n");

        for (int i = 0; i < count; i++)
            n += sprintf(head + n, "A%d: b\r\n", i);
        n += sprintf(head + n, "\r\n");
        (void)client_try_send(fd, head, (size_t)n);
        client_read(fd, &answer);
        assert_true(answer.status == (count < HTTP_MAX_HEADERS ? 200 : 431) ||
                    (count > 1000 && (answer.status == 0 || answer.status == 413)));
        http_answer_done(&answer);
    }
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
        cmocka_unit_test(test_lanes),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_chunked_body),
        cmocka_unit_test(test_body_memory),
        cmocka_unit_test(test_half_open),
        cmocka_unit_test(test_drip),
        cmocka_unit_test(test_drip_body),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_abandoned),
        cmocka_unit_test(test_gone_meanwhile),
        cmocka_unit_test(test_stop_answers),
        cmocka_unit_test(test_bad_http),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_pipe_deadline),
        cmocka_unit_test(test_slow_readers),
        cmocka_unit_test(test_response_memory),
        cmocka_unit_test(test_owners_share),
        cmocka_unit_test(test_spooled),
        cmocka_unit_test(test_expect),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_many_headers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
