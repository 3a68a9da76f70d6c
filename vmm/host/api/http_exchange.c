/*
 * One request on its way through the server: head → (refused, or) body → handled here or on a pool
 * → response, perhaps streamed. libmicrohttpd calls in on the connection's thread; while a pool has
 * the request the connection is suspended, so that the two never meet.
 *
 * Ownership: counted. libmicrohttpd holds one reference until the request is completed, a pool's
 * job another until its handler returned (it may outlive a client that went away).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/fd.h"
#include "http_server_internal.h"

enum {
    DRAIN_BYTES = 96 << 20, /* of a body too large that is read and thrown away, so that the client
                               reads our answer and does not just see its connection break */
    STREAM_BLOCK_BYTES = 32 << 10,
    BODY_BYTES_PER_MS = 128,
};

enum stage { STAGE_HEAD, STAGE_BODY, STAGE_WORKING, STAGE_DONE };

struct http_turn {
    atomic_uint n_references;
    struct http_listener *listener;
    struct MHD_Connection *connection; /* borrowed; valid until completed */
    char *target;                      /* owned: (authority, 0,) raw path, 0, raw query */
    struct http_header *headers; /* owned; texts borrowed from libmicrohttpd until completed */
    struct http_request request;
    struct http_response response;
    enum stage stage;
    const char *authority; /* of a target in absolute form: in target; else NULL */
    struct http_admission admission;
    struct http_body body;
    size_t response_bytes; /* taken from the budget of responses */
    /* Of a stream: how much was handed out, how long the client took for it, since when it has the
     * last block (0: it has taken it). */
    uint64_t sent_bytes, client_ms, block_ms;
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
    if (http_head_split(uri, &turn->target, &turn->authority, &turn->request) < 0) {
        free(turn);
        return NULL;
    }
    atomic_init(&turn->n_references, 1);
    pthread_mutex_init(&turn->stream_lock, NULL);
    turn->listener = listener;
    turn->connection = connection;
    return turn;
}

static void turn_unref(struct http_turn *turn)
{
    if (atomic_fetch_sub(&turn->n_references, 1) != 1)
        return;
    http_response_done(&turn->response);
    http_body_done(&turn->body);
    free(turn->headers);
    free(turn->target);
    pthread_mutex_destroy(&turn->stream_lock);
    free(turn);
}

void *http_exchange_uri(void *opaque, const char *uri, struct MHD_Connection *connection)
{
    return turn_new(opaque, uri, connection);
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
    if (turn->stage == STAGE_DONE) /* a handler that streams may still read the body */
        return;
    turn->request.body = NULL;
    turn->request.body_bytes = 0;
    http_body_done(&turn->body);
}

static void take_body(struct http_turn *turn, const char *upload, size_t len)
{
    if (turn->is_refused)
        return;
    if (turn->body.used_bytes + len > turn->admission.body_limit) {
        refuse(turn, HTTP_BODY_TOO_LARGE);
        return;
    }
    int r = http_body_append(&turn->body, upload, len, announced_bytes(turn));
    if (r < 0)
        refuse(turn, r == -ENOSPC || r == -EDQUOT ? HTTP_DISK_FULL : HTTP_OVERLOADED);
}

static void end_body(struct http_turn *turn)
{
    http_connections_deadline(&turn->listener->server->connections, turn->connection, 0);
    if (turn->is_refused)
        return;
    if (http_body_end(&turn->body, &turn->request.body) < 0)
        refuse(turn, HTTP_OVERLOADED);
    else
        turn->request.body_bytes = turn->body.used_bytes;
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

static void set_deadline(struct http_turn *turn, uint64_t ms)
{
    http_connections_deadline(&turn->listener->server->connections, turn->connection, ms);
}

/* How long a client may take for an answer of that size. */
static uint64_t response_ms(const struct http_turn *turn, uint64_t bytes)
{
    const struct http_server_options *options = &turn->listener->server->options;

    return options->response_timeout_s * 1000ull + bytes / options->response_bytes_per_ms;
}

/*
 * A client that takes a stream too slowly uses up its time; what the producer takes for the next
 * part is not the client's. @n: of the block that it gets now, 0: it waits for the producer.
 */
static void time_client(struct http_turn *turn, size_t n)
{
    uint64_t now = clock_now_us() / 1000;

    if (turn->block_ms)
        turn->client_ms += now - turn->block_ms;
    turn->sent_bytes += n;
    turn->block_ms = n ? now : 0;
    if (n == 0) {
        set_deadline(turn, 0);
        return;
    }
    uint64_t allowed_ms = response_ms(turn, turn->sent_bytes);
    set_deadline(turn, allowed_ms > turn->client_ms ? allowed_ms - turn->client_ms : 1);
}

static ssize_t read_stream(void *opaque, uint64_t position, char *to, size_t size)
{
    struct http_turn *turn = opaque;
    struct http_response *response = &turn->response;

    (void)position;
    /* Looking and going to sleep are one: a wake in between would be lost. */
    pthread_mutex_lock(&turn->stream_lock);
    ptrdiff_t n = response->stream->read(response->stream_opaque, (uint8_t *)to, size);
    if (n >= 0)
        time_client(turn, (size_t)n);
    if (n == 0 && suspend(turn))
        turn->waits_for_stream = true;
    else if (n == 0)
        n = -2;
    pthread_mutex_unlock(&turn->stream_lock);
    if (n == -1)
        return MHD_CONTENT_READER_END_OF_STREAM;
    return n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR : n;
}

/* Memory for the answer; where there is none left for this owner, he gets a short one. */
static void reserve_response(struct http_turn *turn)
{
    const struct http_response *response = &turn->response;
    size_t bytes = response->stream ? response->stream->buffer_bytes : response->body_bytes;

    if (turn->is_refused ||
        byte_budget_take(&turn->listener->server->responses, &turn->admission.owner, bytes) == 0) {
        turn->response_bytes = turn->is_refused ? 0 : bytes;
        return;
    }
    refuse(turn, HTTP_OVERLOADED);
}

static struct MHD_Response *make_response(struct http_turn *turn)
{
    struct http_response *from = &turn->response;
    struct MHD_Response *response;

    if (from->stream) {
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES,
                                                     read_stream, turn, NULL);
        from->stream->set_wake(from->stream_opaque, wake, turn);
    } else if (from->has_file) {
        response = MHD_create_response_from_fd64(from->file_bytes, from->file);
        if (response)
            from->has_file = false; /* libmicrohttpd closes it */
    } else {
        response = MHD_create_response_from_buffer(
            from->body_bytes, from->body ? (void *)from->body : (void *)turn->target,
            from->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
        if (response)
            from->body = NULL;
    }
    return response;
}

static enum MHD_Result send_response(struct http_turn *turn)
{
    struct http_response *from = &turn->response;

    turn->stage = STAGE_DONE;
    reserve_response(turn);
    unsigned status = from->status ? from->status : 500;
    uint64_t bytes = from->has_file ? from->file_bytes : from->body_bytes;
    struct MHD_Response *response = make_response(turn);
    if (!response)
        return MHD_NO;
    for (size_t i = 0; i < from->n_headers; i++)
        MHD_add_response_header(response, from->headers[i].name, from->headers[i].value);
    set_deadline(turn, response_ms(turn, bytes));
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

/* Does the client wait for leave to send its body? Then a refusal need not read it. */
static bool waits_for_leave(const struct http_turn *turn)
{
    const char *expect = http_header_find(&turn->request, "expect");

    return expect && strcasecmp(expect, "100-continue") == 0;
}

/* Answers at once, and the connection ends: what would follow is not known to be a request. */
static enum MHD_Result reject(struct http_turn *turn, enum http_refusal why)
{
    refuse(turn, why);
    (void)http_response_header(&turn->response, "Connection", "close");
    return send_response(turn);
}

static enum MHD_Result begin(struct http_turn *turn, const char *method, const char *version)
{
    struct http_server *server = turn->listener->server;
    const struct http_server_options *options = &server->options;

    turn->stage = STAGE_BODY;
    int r =
        http_head_read(turn->listener, turn->connection, method, &turn->headers, &turn->request);
    if (r < 0) {
        turn->request.method = method;
        return reject(turn, r == -E2BIG ? HTTP_HEAD_TOO_LARGE : HTTP_OVERLOADED);
    }
    if (!http_head_is_one_request(&turn->request, turn->authority) ||
        (strcmp(version, "HTTP/1.0") != 0 && !http_header_find(&turn->request, "host")))
        return reject(turn, HTTP_BAD_HEAD);
    uint64_t announced = announced_bytes(turn);
    set_deadline(turn, options->body_timeout_s * 1000ull +
                           (announced < DRAIN_BYTES ? announced : 0) / BODY_BYTES_PER_MS);
    options->service->admit(options->opaque, &turn->request, &turn->admission, &turn->response);
    http_body_init(&turn->body, &server->bodies, &turn->admission.owner, turn->admission.may_spool);
    if (turn->response.status)
        turn->is_refused = true;
    else if (announced > turn->admission.body_limit)
        refuse(turn, HTTP_BODY_TOO_LARGE);
    /* A body that is not worth reading, or that need not be sent. */
    if (turn->is_refused && (announced > DRAIN_BYTES || waits_for_leave(turn)))
        return send_response(turn);
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
    if (!turn) /* there was no memory for it */
        return MHD_NO;
    switch (turn->stage) {
    case STAGE_HEAD:
        return begin(turn, method, version);
    case STAGE_BODY:
        if (*upload_bytes > 0) {
            take_body(turn, upload, *upload_bytes);
            *upload_bytes = 0;
            return MHD_YES;
        }
        end_body(turn);
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
    byte_budget_give(&turn->listener->server->responses, &turn->admission.owner,
                     turn->response_bytes);
    turn_unref(turn);
}
