/*
 * Lambda's Runtime API, version 2018-06-01, on 127.0.0.1:9001, for a function that brings its own
 * runtime: an executable `bootstrap`.
 *
 * Process: mayfly-agent. Input: HTTP from anything that the function runs: hostile. Bounds:
 * CONNECTIONS connections, and one body buffer that one request at a time may fill.
 * All state is static: there is one runtime.
 * Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".
 */
#include "guest-agent/runtime_api.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest-agent/base64.h"
#include "guest-agent/http_connection.h"

#define API "/2018-06-01/runtime/"

enum { TAG_LISTEN, TAG_CONNECTION, CONNECTIONS = 8, INPUT_BYTES = 32 << 10 };

enum route {
    ROUTE_NEXT,
    ROUTE_RESTORE_NEXT,
    ROUTE_RESPONSE,
    ROUTE_ERROR,
    ROUTE_INIT_ERROR,
    ROUTE_RESTORE_ERROR,
    ROUTE_UNKNOWN
};

static struct {
    struct runtime_host host;
    bool is_ready;                       /* "next" was asked for once: the init phase is over */
    bool has_failed;                     /* init/error was posted */
    bool is_event_delivered;             /* the invocation's event was handed out */
    bool is_freezing;                    /* the session waits until a next call is asked for */
    bool is_waking;                      /* restore/next was answered, invocation/next not asked */
    bool is_wake_awaited;                /* and the session waits until it is */
    struct http_connection *sleeper;     /* asked restore/next and has not got it */
    const struct invocation *invocation; /* NULL: none is running */
    struct http_connection *waiter;      /* asked for the next event and has not got it */
    struct http_connection *uploader;    /* whose body is in the shared buffer */
    struct http_connection *streamer;    /* uploader, whose response has begun in parts */
    struct runtime_answer trailer;       /* comes after the piece that it came with */
    struct http_connection *replying;    /* gets its 202 or 413 once the host has the answer */
    struct http_connection connections[CONNECTIONS];
} api;

static int listen_fd = -1; /* owned */

/* A code and words for each way to refuse, as Lambda's own service answers them. */
struct refusal {
    int status;
    const char *type, *message;
};

static const struct refusal bad_request_id = {400, "InvalidRequestID", "Invalid request ID"};
static const struct refusal bad_state = {403, "InvalidStateTransition",
                                         "State transition is not allowed"};
static const struct refusal not_found = {404, "NotFound", "No such path in the runtime API"};
static const struct refusal bad_method = {405, "MethodNotAllowed", "Method not allowed"};
static const struct refusal too_large = {413, "RequestEntityTooLarge",
                                         "Exceeded maximum allowed payload size (6291456 bytes)."};
static const struct runtime_answer nothing = {.word = RUNTIME_NOTHING};

/* After anything that may have closed a connection: nobody points to it any more. */
static void forget_if_closed(const struct http_connection *connection)
{
    if (connection->fd >= 0)
        return;
    if (api.waiter == connection)
        api.waiter = NULL;
    if (api.sleeper == connection)
        api.sleeper = NULL;
    if (api.uploader == connection)
        api.uploader = NULL;
    if (api.streamer == connection)
        api.streamer = NULL;
    if (api.replying == connection)
        api.replying = NULL;
}

static void drop_connection(struct http_connection *connection)
{
    http_connection_close(connection);
    forget_if_closed(connection);
}

static void push(struct http_connection *connection)
{
    http_connection_push(connection);
    forget_if_closed(connection);
}

/* ---- answers ---- */

static void prepare_acceptance(struct http_connection *connection)
{
    static const char body[] = "{\"status\":\"OK\"}\n";

    http_answer_begin(connection, 202, sizeof(body) - 1);
    http_answer_text(connection, body);
}

static void prepare_refusal(struct http_connection *connection, const struct refusal *refusal)
{
    char body[256];
    int used = snprintf(body, sizeof(body), "{\"errorMessage\":\"%s\",\"errorType\":\"%s\"}\n",
                        refusal->message, refusal->type);

    http_answer_begin(connection, refusal->status, (size_t)used);
    http_answer_text(connection, body);
}

static void refuse(struct http_connection *connection, const struct refusal *refusal)
{
    prepare_refusal(connection, refusal);
    push(connection);
}

/* Hand the event to a connection that waits for it. False if its headers do not fit. */
static bool deliver(struct http_connection *connection)
{
    const struct invocation *invocation = api.invocation;
    char deadline[24];

    snprintf(deadline, sizeof(deadline), "%llu", (unsigned long long)invocation->deadline_unix_ms);
    http_answer_begin(connection, 200, invocation->event_bytes);
    http_answer_header(connection, "Lambda-Runtime-Aws-Request-Id", invocation->request_id);
    http_answer_header(connection, "Lambda-Runtime-Deadline-Ms", deadline);
    http_answer_header(connection, "Lambda-Runtime-Invoked-Function-Arn", invocation->arn);
    http_answer_header(connection, "Lambda-Runtime-Trace-Id", invocation->trace_id);
    http_answer_header(connection, "Lambda-Runtime-Client-Context", invocation->client_context);
    http_answer_header(connection, "Lambda-Runtime-Cognito-Identity", invocation->identity);
    http_answer_body(connection, invocation->event, invocation->event_bytes);
    if (connection->is_too_long)
        return false;
    api.waiter = NULL;
    api.is_event_delivered = true;
    push(connection);
    return true;
}

/* Answer restore/next, if it was asked: the runtime now runs its after-restore hooks. */
static bool wake(void)
{
    struct http_connection *connection = api.sleeper;

    if (!connection)
        return false;
    api.sleeper = NULL;
    api.is_waking = true;
    http_answer_begin(connection, 200, 0);
    http_answer_text(connection, "");
    push(connection);
    return true;
}

static int api_invoke(const struct invocation *invocation, struct failure *failure)
{
    wake(); /* an event that comes without a snapshot wakes it as well */
    api.invocation = invocation;
    api.is_event_delivered = false;
    if (!api.waiter || deliver(api.waiter))
        return 0;
    api.invocation = NULL;
    return failure_say(failure, E2BIG, "client context and identity are over %d bytes",
                       HTTP_HEAD_MAX);
}

/* ---- requests ---- */

/* Does @target, which ends with "/<tail>", begin with the current request's id? */
static bool names_current(const char *target, const char *tail)
{
    const char *id = api.invocation ? api.invocation->request_id : "";
    size_t len = strlen(id);

    return len > 0 && api.is_event_delivered && (size_t)(tail - target) == len &&
           memcmp(target, id, len) == 0;
}

/* Which call is it? @ret_is_current: its request id, where there is one, is the current one. */
static enum route find_route(const struct http_request *request, bool *ret_is_current)
{
    const char *target = request->target;
    const char *tail;

    *ret_is_current = false;
    if (strcmp(target, API "invocation/next") == 0)
        return ROUTE_NEXT;
    if (strcmp(target, API "init/error") == 0)
        return ROUTE_INIT_ERROR;
    if (strcmp(target, API "restore/next") == 0)
        return ROUTE_RESTORE_NEXT;
    if (strcmp(target, API "restore/error") == 0)
        return ROUTE_RESTORE_ERROR;
    if (strncmp(target, API "invocation/", strlen(API "invocation/")) != 0)
        return ROUTE_UNKNOWN;
    target += strlen(API "invocation/");
    tail = strrchr(target, '/');
    if (!tail)
        return ROUTE_UNKNOWN;
    *ret_is_current = names_current(target, tail);
    if (strcmp(tail, "/response") == 0)
        return ROUTE_RESPONSE;
    return strcmp(tail, "/error") == 0 ? ROUTE_ERROR : ROUTE_UNKNOWN;
}

/* May this be posted now? */
static bool is_allowed(enum route route, bool is_current)
{
    if (route == ROUTE_INIT_ERROR)
        return !api.is_ready && !api.has_failed;
    if (route == ROUTE_RESTORE_ERROR)
        return api.is_waking;
    return is_current;
}

/* Only a body that will be used is kept, and only one at a time. */
static uint8_t *body_room(struct http_request *request, void *opaque, size_t *ret_size)
{
    struct http_connection *connection = opaque;
    bool is_current;
    enum route route = find_route(request, &is_current);

    if (request->expects_continue) {
        static const char proceed[] = "HTTP/1.1 100 Continue\r\n\r\n";

        (void)!send(connection->fd, proceed, sizeof(proceed) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    *ret_size = route == ROUTE_RESPONSE ? AGENT_RESPONSE_MAX : AGENT_ERROR_MAX;
    if (!is_allowed(route, is_current))
        return NULL;
    if (api.uploader || request->parser.method != HTTP_POST)
        return NULL;
    api.uploader = connection;
    if (request->parser.content_length < *ret_size)
        reserve_ready(api.host.body, (size_t)request->parser.content_length);
    return api.host.body->bytes;
}

static struct runtime_answer ask_next(struct http_connection *connection)
{
    bool is_wake_awaited = api.is_wake_awaited;

    if (api.waiter || api.sleeper || api.has_failed || api.is_event_delivered) {
        refuse(connection, &bad_state);
        return nothing;
    }
    api.waiter = connection;
    api.is_waking = api.is_wake_awaited = false;
    if (!api.is_ready) {
        api.is_ready = true;
        return (struct runtime_answer){.word = RUNTIME_READY};
    }
    if (is_wake_awaited)
        return (struct runtime_answer){.word = RUNTIME_AWAKE};
    if (api.is_freezing) {
        api.is_freezing = false;
        return (struct runtime_answer){.word = RUNTIME_AT_REST};
    }
    if (api.invocation && !deliver(connection))
        return (struct runtime_answer){.word = RUNTIME_BROKEN};
    return nothing;
}

/* The runtime is initialised and would run its after-restore hooks once this is answered. */
static struct runtime_answer ask_restore_next(struct http_connection *connection)
{
    if (api.is_ready || api.has_failed) {
        refuse(connection, &bad_state);
        return nothing;
    }
    api.sleeper = connection;
    api.is_ready = true;
    return (struct runtime_answer){.word = RUNTIME_READY};
}

/* An error without a body still has its type in a header. Only harmless characters are quoted. */
static void describe_empty_error(const struct http_request *request, struct runtime_answer *answer)
{
    static char text[HTTP_ERROR_TYPE_MAX + 64];
    const char *type = request->error_type;

    if (type[0] == '\0' || type[strspn(type, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                             "0123456789._-")] != '\0')
        type = "Function.Unknown";
    answer->body_bytes =
        (size_t)snprintf(text, sizeof(text), "{\"errorMessage\":\"\",\"errorType\":\"%s\"}", type);
    answer->body = (const uint8_t *)text;
}

/* The error that a streamed response ended with: its object is in a trailer. */
static void describe_trailer(const struct http_request *request, struct runtime_answer *answer)
{
    static uint8_t object[HTTP_ERROR_BODY_MAX];

    answer->word = RUNTIME_ERROR;
    answer->content_type = NULL;
    answer->body = object;
    answer->body_bytes = base64_decode(request->error_body, object, sizeof(object));
    if (answer->body_bytes == 0)
        describe_empty_error(request, answer);
}

/* A copy: the answer outlives the request. */
static const char *content_type_of(const struct http_request *request)
{
    static char copy[AGENT_CONTENT_TYPE_MAX + 1];

    snprintf(copy, sizeof(copy), "%s",
             request->content_type[0] ? request->content_type : "application/octet-stream");
    return copy;
}

/* What has come of a streamed response so far, if it is this connection's. */
static struct runtime_answer take_part(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    struct runtime_answer answer = {.word = RUNTIME_PART, .body = api.host.body->bytes};
    bool is_current;

    if (connection->fd < 0 || api.uploader != connection || !request->is_streaming ||
        find_route(request, &is_current) != ROUTE_RESPONSE || request->is_complete)
        return nothing;
    answer.content_type = api.streamer == connection ? NULL : content_type_of(request);
    api.streamer = connection;
    answer.body_bytes = request->body_bytes;
    request->body_bytes = 0;
    return answer;
}

/* A response or an error has arrived in whole. The host is answered first, the runtime after it. */
static struct runtime_answer take_post(struct http_connection *connection, enum route route)
{
    const struct http_request *request = &connection->request;
    static const enum runtime_word words[] = {[ROUTE_RESPONSE] = RUNTIME_RESULT,
                                              [ROUTE_ERROR] = RUNTIME_ERROR,
                                              [ROUTE_INIT_ERROR] = RUNTIME_INIT_ERROR,
                                              [ROUTE_RESTORE_ERROR] = RUNTIME_RESTORE_ERROR};
    struct runtime_answer answer = {
        .word = words[route], .body = api.host.body->bytes, .body_bytes = request->body_bytes};

    bool is_begun = api.streamer == connection;

    api.uploader = api.streamer = NULL;
    api.replying = connection;
    if (route == ROUTE_INIT_ERROR || route == ROUTE_RESTORE_ERROR) {
        api.has_failed = true;
        api.is_waking = false;
    } else {
        api.invocation = NULL;
        api.is_event_delivered = false;
    }
    if (route == ROUTE_RESPONSE && request->is_body_long) {
        prepare_refusal(connection, &too_large);
        return (struct runtime_answer){.word = RUNTIME_TOO_LARGE};
    }
    if (route != ROUTE_RESPONSE && answer.body_bytes == 0)
        describe_empty_error(request, &answer);
    if (route == ROUTE_RESPONSE && request->is_streaming) {
        answer.content_type = is_begun ? NULL : content_type_of(request);
        if (request->error_type[0] || request->error_body[0]) {
            api.trailer = nothing;
            describe_trailer(request, &api.trailer);
            answer.word = RUNTIME_PART;
        }
    }
    prepare_acceptance(connection);
    return answer;
}

/* A whole request: answer it, and tell the session what it means. */
static struct runtime_answer serve(struct http_connection *connection)
{
    const struct http_request *request = &connection->request;
    bool is_current;
    enum route route = find_route(request, &is_current);
    bool is_get = route == ROUTE_NEXT || route == ROUTE_RESTORE_NEXT;
    const struct refusal *refusal = NULL;

    connection->is_last = !request->keeps_alive;
    if (route == ROUTE_UNKNOWN)
        refusal = &not_found;
    else if (request->parser.method != (is_get ? HTTP_GET : HTTP_POST))
        refusal = &bad_method;
    else if (is_get)
        return route == ROUTE_NEXT ? ask_next(connection) : ask_restore_next(connection);
    else if (!is_allowed(route, is_current))
        refusal = route == ROUTE_INIT_ERROR || route == ROUTE_RESTORE_ERROR ? &bad_state
                                                                            : &bad_request_id;
    else if (api.uploader != connection) /* another connection's answer was on its way first */
        refusal = &bad_state;
    else
        return take_post(connection, route);
    if (api.uploader == connection)
        api.uploader = NULL;
    refuse(connection, refusal);
    return nothing;
}

/*
 * Bytes from a connection. A request is served when it is whole; one that is sent before the last
 * one was answered has no place in this API, and ends the connection.
 */
static struct runtime_answer read_connection(struct http_connection *connection)
{
    static uint8_t input[INPUT_BYTES];
    struct runtime_answer answer = nothing;
    ssize_t got = recv(connection->fd, input, sizeof(input), MSG_DONTWAIT);
    size_t start = 0;

    if (got < 0 && errno == EAGAIN)
        return nothing;
    if (got <= 0 || api.waiter == connection || api.sleeper == connection) {
        drop_connection(connection);
        return nothing;
    }
    while (connection->fd >= 0 && start < (size_t)got) {
        bool is_served =
            api.waiter == connection || api.sleeper == connection || api.replying == connection;
        size_t used = 0;
        int result = is_served || connection->is_writing
                         ? -EPROTO
                         : http_request_feed(&connection->request, input + start,
                                             (size_t)got - start, &used);

        if (result < 0)
            drop_connection(connection);
        if (result <= 0)
            break;
        start += used;
        answer = serve(connection);
        if (connection->fd >= 0)
            http_request_begin(&connection->request, body_room, connection);
    }
    return answer.word == RUNTIME_NOTHING ? take_part(connection) : answer;
}

/* ---- the ops ---- */

void runtime_api_reset(const struct runtime_host *host)
{
    api.host = *host;
    api.is_ready = api.has_failed = api.is_event_delivered = false;
    api.is_freezing = api.is_waking = api.is_wake_awaited = false;
    api.invocation = NULL;
    api.trailer = nothing;
    api.waiter = api.sleeper = api.uploader = api.streamer = api.replying = NULL;
    for (size_t i = 0; i < CONNECTIONS; i++)
        api.connections[i].fd = -1;
}

void runtime_api_adopt(int fd)
{
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        struct http_connection *connection = &api.connections[i];

        if (connection->fd < 0 && http_connection_open(connection, fd, api.host.epoll_fd,
                                                       api.host.first_tag + TAG_CONNECTION + i,
                                                       body_room, connection) == 0)
            return;
    }
    close(fd);
}

static void accept_connection(void)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    int one = 1;

    if (fd < 0)
        return;
    /* Our answers are written whole, so nothing is gained by waiting to fill a segment. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    runtime_api_adopt(fd);
}

static int api_open(const struct runtime_host *host, bool is_preload, struct spawn_plan *plan,
                    struct failure *failure)
{
    static const char *const programs[] = {AGENT_TASK_DIR "/bootstrap", "/opt/bootstrap", NULL};
    static char *const arguments[] = {NULL};
    struct epoll_event watch = {.events = EPOLLIN, .data.u32 = host->first_tag + TAG_LISTEN};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(AGENT_RUNTIME_API_PORT),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    (void)is_preload; /* there is no load() */
    runtime_api_reset(host);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listen_fd < 0 || bind(listen_fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listen_fd, CONNECTIONS) < 0 ||
        epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, listen_fd, &watch) < 0)
        return failure_set(failure, errno, "serve the runtime API on port %d",
                           AGENT_RUNTIME_API_PORT);
    plan->programs = programs;
    plan->arguments = arguments;
    plan->files[3] = -1;
    return 0;
}

static void api_spawned(void)
{
}

/* A runtime that waits for "next", of either kind, is at rest. */
static int api_freeze(struct failure *failure)
{
    (void)failure;
    if (api.waiter || api.sleeper)
        return 1;
    api.is_freezing = true;
    return 0;
}

static int api_restore(const struct restoration *restoration, struct failure *failure)
{
    (void)restoration; /* a process cannot be given another environment from outside */
    (void)failure;
    api.is_wake_awaited = wake();
    return api.is_wake_awaited ? 0 : 1;
}

static struct runtime_answer take_trailer(void)
{
    struct runtime_answer trailer = api.trailer;

    api.trailer = nothing;
    return trailer;
}

static struct runtime_answer api_on_ready(uint32_t tag, uint32_t events)
{
    struct http_connection *connection;

    if (tag == TAG_LISTEN && listen_fd >= 0)
        accept_connection();
    if (tag < TAG_CONNECTION || tag >= TAG_CONNECTION + CONNECTIONS)
        return nothing;
    connection = &api.connections[tag - TAG_CONNECTION];
    if (events == 0)
        return take_trailer();
    if (connection->fd < 0)
        return nothing;
    if (!connection->is_writing)
        return read_connection(connection);
    if (events & EPOLLOUT)
        push(connection);
    else
        drop_connection(connection);
    return nothing;
}

static void api_settle(void)
{
    struct http_connection *connection = api.replying;

    api.replying = NULL;
    if (connection)
        push(connection);
}

static bool has_input(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* The process has ended; what it posted last may still be in a socket. */
static struct runtime_answer api_last_words(void)
{
    struct runtime_answer answer = take_trailer();

    for (size_t i = 0; i < CONNECTIONS && answer.word == RUNTIME_NOTHING; i++) {
        struct http_connection *connection = &api.connections[i];

        while (answer.word == RUNTIME_NOTHING && connection->fd >= 0 && !connection->is_writing &&
               has_input(connection->fd))
            answer = read_connection(connection);
    }
    return answer;
}

static void api_close(void)
{
    if (listen_fd < 0) /* then there are no connections either */
        return;
    for (size_t i = 0; i < CONNECTIONS; i++)
        drop_connection(&api.connections[i]);
    close(listen_fd);
    listen_fd = -1;
    api.invocation = NULL;
}

const struct runtime_ops runtime_api = {.open = api_open,
                                        .spawned = api_spawned,
                                        .load = NULL,
                                        .invoke = api_invoke,
                                        .freeze = api_freeze,
                                        .restore = api_restore,
                                        .on_ready = api_on_ready,
                                        .settle = api_settle,
                                        .last_words = api_last_words,
                                        .close = api_close};
