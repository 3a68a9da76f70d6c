/*
 * One request on its way through the server: head → (refused, or) body → handled here or on a pool
 * → response, perhaps streamed. libmicrohttpd calls in on the connection's thread; while a pool has
 * the request the connection is suspended, so that the two never meet.
 *
 * Ownership: counted. libmicrohttpd holds one reference until the request is completed, a pool's
 * job another until its handler returned (it may outlive a client that went away).
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/fd.h"
#include "http_server_internal.h"

enum {
    DRAIN_BYTES = 96 << 20, /* of a body too large that is read and thrown away, so that the client
                               reads our answer and does not just see its connection break */
    FIRST_BODY_BYTES = 16 << 10,
    STREAM_BLOCK_BYTES = 32 << 10,
    BODY_BYTES_PER_MS = 128,
};

enum stage { STAGE_HEAD, STAGE_BODY, STAGE_WORKING, STAGE_DONE };

struct http_turn {
    atomic_uint n_references;
    struct http_listener *listener;
    struct MHD_Connection *connection; /* borrowed; valid until completed */
    char *target;                      /* owned: the raw path, 0, the raw query */
    struct http_header *headers; /* owned; texts borrowed from libmicrohttpd until completed */
    struct http_request request;
    struct http_response response;
    enum stage stage;
    uint8_t *body; /* owned */
    size_t body_size, body_limit;
    bool is_refused;
    bool is_counted; /* in n_turns */
    bool is_begun;   /* the connection was resumed: the response is the server's */
    pthread_mutex_t stream_lock;
    bool waits_for_stream; /* by stream_lock: suspended until there is more */
};

static struct http_turn *turn_new(struct http_listener *listener, const char *uri,
                                  struct MHD_Connection *connection)
{
    struct http_turn *turn = calloc(1, sizeof(*turn));

    if (!turn)
        return NULL;
    turn->target = strdup(uri);
    if (!turn->target) {
        free(turn);
        return NULL;
    }
    atomic_init(&turn->n_references, 1);
    pthread_mutex_init(&turn->stream_lock, NULL);
    turn->listener = listener;
    turn->connection = connection;
    char *query = strchr(turn->target, '?');
    turn->request.path = turn->target;
    turn->request.query = "";
    if (query) {
        *query = '\0';
        turn->request.query = query + 1;
    }
    return turn;
}

static void account_body(struct http_turn *turn, size_t size)
{
    struct http_server *server = turn->listener->server;

    if (size > turn->body_size)
        atomic_fetch_add(&server->body_bytes, size - turn->body_size);
    else
        atomic_fetch_sub(&server->body_bytes, turn->body_size - size);
    turn->body_size = size;
}

static void turn_unref(struct http_turn *turn)
{
    if (atomic_fetch_sub(&turn->n_references, 1) != 1)
        return;
    http_response_done(&turn->response);
    free(turn->body);
    account_body(turn, 0);
    free(turn->headers);
    free(turn->target);
    pthread_mutex_destroy(&turn->stream_lock);
    free(turn);
}

void *http_exchange_uri(void *opaque, const char *uri, struct MHD_Connection *connection)
{
    return turn_new(opaque, uri, connection);
}

/* --- the head -------------------------------------------------------------------------------- */

struct header_sink {
    struct http_header *headers;
    size_t n, max;
};

static enum MHD_Result take_header(void *opaque, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    struct header_sink *sink = opaque;

    (void)kind;
    if (sink->n == sink->max)
        return MHD_NO;
    sink->headers[sink->n++] = (struct http_header){name, value ? value : ""};
    return MHD_YES;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;

        memcpy(&v4, address, sizeof(v4));
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof(v6));
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == 127);
}

static void learn_peer(struct http_turn *turn)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(turn->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct http_request *request = &turn->request;

    if (turn->listener->is_unix) {
        request->origin = HTTP_FROM_UNIX;
        return;
    }
    request->origin = HTTP_FROM_NETWORK;
    if (!info || !info->client_addr)
        return;
    if (info->client_addr->sa_family == AF_INET) {
        struct sockaddr_in v4;

        memcpy(&v4, info->client_addr, sizeof(v4));
        inet_ntop(AF_INET, &v4.sin_addr, request->peer, sizeof(request->peer));
    } else if (info->client_addr->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;

        memcpy(&v6, info->client_addr, sizeof(v6));
        inet_ntop(AF_INET6, &v6.sin6_addr, request->peer, sizeof(request->peer));
    } else {
        return;
    }
    if (is_loopback(info->client_addr))
        request->origin = HTTP_FROM_LOOPBACK;
}

static int read_head(struct http_turn *turn, const char *method)
{
    struct header_sink sink = {.max = HTTP_MAX_HEADERS};
    int n = MHD_get_connection_values(turn->connection, MHD_HEADER_KIND, NULL, NULL);

    if (n < 0 || n > HTTP_MAX_HEADERS)
        return -E2BIG;
    sink.headers = turn->headers = calloc((size_t)n + 1, sizeof(*turn->headers));
    if (!turn->headers)
        return -ENOMEM;
    sink.max = (size_t)n;
    MHD_get_connection_values(turn->connection, MHD_HEADER_KIND, take_header, &sink);
    turn->request.method = method;
    turn->request.headers = turn->headers;
    turn->request.n_headers = sink.n;
    turn->request.is_tls = turn->listener->is_tls;
    learn_peer(turn);
    return 0;
}

/* --- the body -------------------------------------------------------------------------------- */

/* The length that was announced; 0 where it comes in chunks. */
static uint64_t announced_bytes(const struct http_turn *turn)
{
    const char *text = http_header_find(&turn->request, "content-length");

    return text ? strtoull(text, NULL, 10) : 0;
}

static void refuse(struct http_turn *turn, enum http_refusal why)
{
    const struct http_server_options *options = &turn->listener->server->options;

    if (turn->is_refused)
        return;
    turn->is_refused = true;
    http_response_done(&turn->response);
    options->service->refuse(options->opaque, &turn->request, why, &turn->response);
    free(turn->body);
    turn->body = NULL;
    turn->request.body_bytes = 0;
    account_body(turn, 0);
}

/* Room for @more bytes. The sum of all bodies is bounded, too: one client's hundred uploads must
 * not take the memory that instances live in. */
static bool make_room(struct http_turn *turn, size_t more)
{
    struct http_server *server = turn->listener->server;
    size_t need = turn->request.body_bytes + more;
    size_t size = turn->body_size ? turn->body_size : FIRST_BODY_BYTES;

    if (need > turn->body_limit) {
        refuse(turn, HTTP_BODY_TOO_LARGE);
        return false;
    }
    if (need <= turn->body_size)
        return true;
    while (size < need)
        size *= 2;
    /* What was announced is a hint where to end, never a reason to take more than came. */
    uint64_t announced = announced_bytes(turn);
    if (announced >= need && announced < size)
        size = announced;
    if (atomic_load(&server->body_bytes) + size > server->options.body_memory_bytes) {
        refuse(turn, HTTP_OVERLOADED);
        return false;
    }
    uint8_t *body = realloc(turn->body, size);
    if (!body) {
        refuse(turn, HTTP_OVERLOADED);
        return false;
    }
    turn->body = body;
    account_body(turn, size);
    return true;
}

static void take_body(struct http_turn *turn, const char *upload, size_t len)
{
    if (turn->is_refused || !make_room(turn, len))
        return;
    memcpy(turn->body + turn->request.body_bytes, upload, len);
    turn->request.body_bytes += len;
    turn->request.body = turn->body;
}

/* --- the response ---------------------------------------------------------------------------- */

static void resume(struct http_turn *turn)
{
    struct http_server *server = turn->listener->server;

    MHD_resume_connection(turn->connection);
    atomic_fetch_sub(&server->n_suspended, 1);
}

/* False: the connections are about to be closed. */
static bool suspend(struct http_turn *turn)
{
    struct http_server *server = turn->listener->server;

    /* Counted first, then looked: http_server_stop() does it the other way round, so one of the two
     * sees the other. */
    atomic_fetch_add(&server->n_suspended, 1);
    if (atomic_load(&server->is_closing)) {
        atomic_fetch_sub(&server->n_suspended, 1);
        return false;
    }
    MHD_suspend_connection(turn->connection);
    return true;
}

/* The producer has more, or ended. */
static void wake(void *opaque)
{
    struct http_turn *turn = opaque;

    pthread_mutex_lock(&turn->stream_lock);
    if (turn->waits_for_stream) {
        turn->waits_for_stream = false;
        resume(turn);
    }
    pthread_mutex_unlock(&turn->stream_lock);
}

static ssize_t read_stream(void *opaque, uint64_t position, char *to, size_t size)
{
    struct http_turn *turn = opaque;
    struct http_response *response = &turn->response;

    (void)position;
    /* Looking and going to sleep are one: a wake in between would be lost. */
    pthread_mutex_lock(&turn->stream_lock);
    ptrdiff_t n = response->stream->read(response->stream_opaque, (uint8_t *)to, size);
    if (n == 0 && suspend(turn))
        turn->waits_for_stream = true;
    else if (n == 0)
        n = -2;
    pthread_mutex_unlock(&turn->stream_lock);
    if (n == -1)
        return MHD_CONTENT_READER_END_OF_STREAM;
    return n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR : n;
}

static enum MHD_Result send_response(struct http_turn *turn)
{
    struct http_response *from = &turn->response;
    struct MHD_Response *response;
    unsigned status = from->status ? from->status : 500;

    turn->stage = STAGE_DONE;
    if (from->stream) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES,
                                                     read_stream, turn, NULL);
        from->stream->set_wake(from->stream_opaque, wake, turn);
    } else {
        response = MHD_create_response_from_buffer(
            from->body_bytes, from->body ? (void *)from->body : (void *)turn->target,
            from->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
        if (response)
            from->body = NULL;
    }
    if (!response)
        return MHD_NO;
    for (size_t i = 0; i < from->n_headers; i++)
        MHD_add_response_header(response, from->headers[i].name, from->headers[i].value);
    enum MHD_Result r = MHD_queue_response(turn->connection, status, response);
    MHD_destroy_response(response);
    return r;
}

/* --- handling -------------------------------------------------------------------------------- */

static void call_handler(struct http_turn *turn)
{
    const struct http_server_options *options = &turn->listener->server->options;

    options->service->handle(options->opaque, &turn->request, &turn->response, turn);
}

void http_turn_begin(struct http_turn *turn)
{
    if (turn->is_begun)
        return;
    turn->is_begun = true;
    resume(turn);
}

/* On a pool's thread. */
static void work(void *opaque)
{
    struct http_turn *turn = opaque;

    call_handler(turn);
    http_turn_begin(turn);
    turn_unref(turn);
}

static enum MHD_Result handle(struct http_turn *turn)
{
    struct http_server *server = turn->listener->server;
    enum http_lane lane = server->options.service->lane(server->options.opaque, &turn->request);

    turn->stage = STAGE_DONE;
    turn->is_counted = true;
    atomic_fetch_add(&server->n_turns, 1);
    if (atomic_load(&server->is_stopping)) {
        refuse(turn, HTTP_OVERLOADED);
        return send_response(turn);
    }
    if (lane == HTTP_INLINE && turn->request.body_bytes > INLINE_BODY_BYTES)
        lane = HTTP_SHORT;
    if (lane == HTTP_INLINE) {
        turn->is_begun = true;
        call_handler(turn);
        return send_response(turn);
    }
    if (!suspend(turn)) {
        refuse(turn, HTTP_OVERLOADED);
        return send_response(turn);
    }
    atomic_fetch_add(&turn->n_references, 1);
    if (work_pool_submit(lane == HTTP_SHORT ? server->short_pool : server->long_pool, work, turn) <
        0) {
        refuse(turn, HTTP_OVERLOADED);
        resume(turn);
        turn_unref(turn);
    }
    return MHD_YES; /* called again once it is resumed */
}

static enum MHD_Result begin(struct http_turn *turn, const char *method)
{
    struct http_server *server = turn->listener->server;
    const struct http_server_options *options = &server->options;
    uint64_t announced;

    turn->stage = STAGE_BODY;
    if (read_head(turn, method) < 0) {
        turn->request.headers = NULL;
        turn->request.n_headers = 0;
        turn->request.method = method;
        refuse(turn, HTTP_BODY_TOO_LARGE);
        return send_response(turn);
    }
    announced = announced_bytes(turn);
    http_connections_deadline(&server->connections, turn->connection,
                              options->body_timeout_s * 1000ull +
                                  (announced < DRAIN_BYTES ? announced : 0) / BODY_BYTES_PER_MS);
    turn->body_limit =
        options->service->body_limit(options->opaque, &turn->request, &turn->response);
    if (announced > turn->body_limit && !turn->response.status)
        refuse(turn, HTTP_BODY_TOO_LARGE);
    if (turn->response.status) {
        turn->is_refused = true;
        /* Without a body to come, or with one that is not worth reading, at once. */
        if (announced > DRAIN_BYTES)
            return send_response(turn);
    }
    return MHD_YES;
}

enum MHD_Result http_exchange_handle(void *opaque, struct MHD_Connection *connection,
                                     const char *url, const char *method, const char *version,
                                     const char *upload, size_t *upload_bytes, void **context)
{
    struct http_turn *turn = *context;

    (void)opaque;
    (void)connection;
    (void)url;
    (void)version;
    if (!turn) /* there was no memory for it */
        return MHD_NO;
    switch (turn->stage) {
    case STAGE_HEAD:
        return begin(turn, method);
    case STAGE_BODY:
        if (*upload_bytes > 0) {
            take_body(turn, upload, *upload_bytes);
            *upload_bytes = 0;
            return MHD_YES;
        }
        http_connections_deadline(&turn->listener->server->connections, connection, 0);
        if (turn->is_refused)
            return send_response(turn);
        turn->stage = STAGE_WORKING;
        return handle(turn);
    case STAGE_WORKING:
    case STAGE_DONE:
        break;
    }
    return send_response(turn);
}

void http_exchange_completed(void *opaque, struct MHD_Connection *connection, void **context,
                             enum MHD_RequestTerminationCode why)
{
    struct http_turn *turn = *context;

    (void)opaque;
    (void)why;
    if (!turn)
        return;
    *context = NULL;
    if (turn->is_counted)
        atomic_fetch_sub(&turn->listener->server->n_turns, 1);
    http_connections_deadline(&turn->listener->server->connections, connection,
                              turn->listener->server->connections.head_timeout_ms);
    /* After this the producer wakes nobody: it may go on with a body that no one reads. */
    if (turn->response.stream) {
        turn->response.stream->close(turn->response.stream_opaque);
        turn->response.stream = NULL;
    }
    turn_unref(turn);
}
