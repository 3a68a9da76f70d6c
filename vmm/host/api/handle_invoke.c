/* Invocations: synchronous, asynchronous, dry, streamed. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/fd.h"
#include "eventstream.h"
#include "host/json_check.h"
#include "invoke.h"

enum {
    CLIENT_CONTEXT_BYTES = 3583,
    LOG_BASE64_BYTES = API_LOG_TAIL_BYTES / 3 * 4 + 8,
    END_MS = 60000, /* for a client to take what is left once the function has ended */
};

enum invocation_type { REQUEST_RESPONSE, EVENT, DRY_RUN };

/* What the headers of an invocation say; texts owned. */
struct invoke_input {
    struct api_target target;
    enum invocation_type type;
    bool wants_log;
    char *client_context; /* JSON, decoded; or NULL */
    const char *client_context_base64;
    const char *trace_id, *traceparent; /* the latter may be NULL; into the next */
    struct invoke_trace trace;
    char arn[API_ARN_BYTES]; /* that was invoked */
    const void *payload;
    size_t payload_bytes;
};

/* --- what was sent --------------------------------------------------------------------------- */

static void input_done(struct invoke_input *input)
{
    free(input->client_context);
}

static int read_kind(struct api_turn *turn, bool is_stream, struct invoke_input *input)
{
    const char *type = http_header_find(turn->request, "x-amz-invocation-type");
    const char *log = http_header_find(turn->request, "x-amz-log-type");

    input->type = REQUEST_RESPONSE;
    if (type && strcmp(type, "DryRun") == 0)
        input->type = DRY_RUN;
    else if (type && !is_stream && strcmp(type, "Event") == 0)
        input->type = EVENT;
    else if (type && strcmp(type, "RequestResponse") != 0)
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.40s' at 'invocationType' failed to "
                        "satisfy constraint: Member must satisfy enum value set: [%s"
                        "RequestResponse, DryRun]",
                        type, is_stream ? "" : "Event, ");
    if (log && strcmp(log, "Tail") != 0 && strcmp(log, "None") != 0)
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.40s' at 'logType' failed to satisfy "
                        "constraint: Member must satisfy enum value set: [None, Tail]",
                        log);
    input->wants_log = log && strcmp(log, "Tail") == 0;
    return 0;
}

static int read_client_context(struct api_turn *turn, struct invoke_input *input)
{
    const char *text = http_header_find(turn->request, "x-amz-client-context");
    struct error err;
    size_t len = 0;

    if (!text || !*text)
        return 0;
    if (strlen(text) > CLIENT_CONTEXT_BYTES)
        return api_fail(turn, API_INVALID_CONTENT, "Client context must be no more than %d bytes.",
                        CLIENT_CONTEXT_BYTES);
    size_t size = strlen(text) + 1;
    input->client_context = calloc(1, size);
    if (!input->client_context)
        return api_fail(turn, API_SERVICE, "out of memory");
    if (sodium_base642bin((uint8_t *)input->client_context, size - 1, text, strlen(text), NULL,
                          &len, NULL, sodium_base64_VARIANT_ORIGINAL) != 0 ||
        json_check(input->client_context, len, &err) < 0)
        return api_fail(turn, API_INVALID_CONTENT,
                        "Client context must be a valid Base64-encoded JSON object.");
    input->client_context_base64 = text;
    return 0;
}

static int read_input(struct api_turn *turn, bool is_stream, struct invoke_input *input)
{
    const struct http_request *request = turn->request;
    struct error err;

    *input = (struct invoke_input){.payload = request->body, .payload_bytes = request->body_bytes};
    if (api_read_target(turn, API_QUALIFIER_OPTIONAL, &input->target) < 0 ||
        read_kind(turn, is_stream, input) < 0 || read_client_context(turn, input) < 0)
        return -1;
    if (input->payload_bytes == 0) {
        input->payload = "{}";
        input->payload_bytes = 2;
    } else if (json_check(input->payload, input->payload_bytes, &err) < 0) {
        return api_fail(turn, API_INVALID_CONTENT, "Could not parse request body into json: %s",
                        err.text);
    }
    api_function_arn(turn->api, turn->account_id, input->target.key.name,
                     input->target.key.qualifier, input->arn);
    invoke_read_trace(turn, &input->trace);
    input->trace_id = input->trace.amzn;
    input->traceparent = input->trace.traceparent[0] ? input->trace.traceparent : NULL;
    return 0;
}

/* --- running --------------------------------------------------------------------------------- */

void invoke_read_trace(struct api_turn *turn, struct invoke_trace *ret_trace)
{
    struct trace_context context;

    trace_context_read(&context, http_header_find(turn->request, "x-amzn-trace-id"),
                       http_header_find(turn->request, "traceparent"),
                       turn->api->options.trace_ratio);
    ret_trace->traceparent[0] = '\0';
    trace_context_amzn(&context, NULL, ret_trace->amzn);
    (void)http_response_header(turn->response, "X-Amzn-Trace-Id", ret_trace->amzn);
    if (!context.has_traceparent)
        return;
    trace_context_traceparent(&context, NULL, ret_trace->traceparent);
    (void)http_response_header(turn->response, "traceparent", ret_trace->traceparent);
}

int invoke_find(struct api_turn *turn, const struct function_key *key,
                struct function **ret_function)
{
    double roll = (double)randombytes_random() / 4294967296.0;
    struct error err;
    int r = registry_find_served(turn->api->options.registry, key, roll, ret_function, &err);

    return r < 0 ? api_fail_function(turn, r, key, &err) : 0;
}

int invoke_run(struct api_turn *turn, const struct api_invocation *invocation,
               struct api_invocation_result *ret_result, struct error *err)
{
    const struct api_options *options = &turn->api->options;

    ret_result->payload = NULL;
    ret_result->payload_bytes = ret_result->log_tail_bytes = 0;
    ret_result->error = API_NO_ERROR;
    ret_result->start = NULL;
    return options->backend->invoke(options->backend_opaque, invocation, ret_result, err);
}

void invoke_fail(struct api_turn *turn, int r, const struct function_key *key,
                 const struct error *err)
{
    if (r == -EAGAIN)
        api_fail_throttled(turn, err->text);
    else if (r == -ESHUTDOWN)
        api_fail(turn, API_UNAVAILABLE, "the service is being stopped");
    else if (r == -EBUSY)
        api_fail(turn, API_CONFLICT,
                 "The operation cannot be performed at this time. The function is currently in the "
                 "following state: Pending");
    else if (r == -EINVAL)
        api_fail(turn, API_NOT_READY, "The function cannot run: %s", err->text);
    else
        api_fail_function(turn, r, key, err);
}

static void invocation_of(const struct api_turn *turn, const struct invoke_input *input,
                          const struct function *function, struct api_invocation *ret)
{
    *ret = (struct api_invocation){.function = function,
                                   .request_id = turn->request_id,
                                   .payload = input->payload,
                                   .payload_bytes = input->payload_bytes,
                                   .client_context = input->client_context,
                                   .trace_id = input->trace_id,
                                   .traceparent = input->traceparent,
                                   .invoked_arn = input->arn,
                                   .wants_log = input->wants_log};
}

static const char *error_word(enum api_function_error error)
{
    return error == API_ERROR_HANDLED ? "Handled" : "Unhandled";
}

static void log_base64(const struct api_invocation_result *result, char ret_text[LOG_BASE64_BYTES])
{
    sodium_bin2base64(ret_text, LOG_BASE64_BYTES, (const uint8_t *)result->log_tail,
                      result->log_tail_bytes, sodium_base64_VARIANT_ORIGINAL);
}

/* Where the time went, for who asks by X-Mayfly-Timing. Source: W3C Server Timing. */
static void reply_timing(struct api_turn *turn, const struct api_invocation_result *result)
{
    char text[120];

    if (!result->start || !http_header_find(turn->request, "x-mayfly-timing"))
        return;
    snprintf(text, sizeof(text), "start;desc=%s, acquire;dur=%.3f, guest;dur=%.3f", result->start,
             (double)result->acquire_us / 1e3, (double)result->guest_us / 1e3);
    (void)http_response_header(turn->response, "Server-Timing", text);
}

static void reply_result(struct api_turn *turn, const struct invoke_input *input,
                         const struct function *function, struct api_invocation_result *result)
{
    char log[LOG_BASE64_BYTES];

    api_reply_bytes(turn, 200, "application/json", result->payload, result->payload_bytes);
    result->payload = NULL;
    (void)http_response_header(turn->response, "X-Amz-Executed-Version", function->version_text);
    if (result->error != API_NO_ERROR)
        (void)http_response_header(turn->response, "X-Amz-Function-Error",
                                   error_word(result->error));
    if (input->wants_log) {
        log_base64(result, log);
        (void)http_response_header(turn->response, "X-Amz-Log-Result", log);
    }
    reply_timing(turn, result);
}

static void run_now(struct api_turn *turn, const struct invoke_input *input,
                    const struct function *function)
{
    struct api_invocation_result result;
    struct api_invocation invocation;
    struct error err;

    invocation_of(turn, input, function, &invocation);
    int r = invoke_run(turn, &invocation, &result, &err);
    if (r < 0)
        invoke_fail(turn, r, &input->target.key, &err);
    else
        reply_result(turn, input, function, &result);
}

static void enqueue(struct api_turn *turn, const struct invoke_input *input, unsigned status)
{
    const struct api_options *options = &turn->api->options;
    struct event_submission event = {.key = input->target.key,
                                     .request_id = turn->request_id,
                                     .payload = input->payload,
                                     .payload_len_bytes = input->payload_bytes,
                                     .client_context = input->client_context_base64,
                                     .trace = input->trace_id,
                                     .traceparent = input->traceparent};
    struct error err;

    if (!options->queue) {
        api_fail(turn, API_UNAVAILABLE, "asynchronous invocations are switched off");
        return;
    }
    int r = event_queue_enqueue(options->queue, &event, &err);
    if (r == -EAGAIN) { /* in the word that SDKs know */
        api_fail_throttled(turn, "CallerRateLimitExceeded");
        return;
    }
    if (r < 0) {
        invoke_fail(turn, r == -EINVAL ? -EIO : r, &input->target.key, &err);
        return;
    }
    if (options->backend->queued)
        options->backend->queued(options->backend_opaque);
    api_reply_empty(turn, status);
}

void handle_invoke(struct api_turn *turn)
{
    struct function *function = NULL;
    struct invoke_input input;

    if (read_input(turn, false, &input) < 0) {
        input_done(&input);
        return;
    }
    if (input.type == EVENT) {
        enqueue(turn, &input, 202);
    } else if (invoke_find(turn, &input.target.key, &function) == 0) {
        if (input.type == DRY_RUN)
            api_reply_empty(turn, 204);
        else
            run_now(turn, &input, function);
    }
    function_free(function);
    input_done(&input);
}

/* The old asynchronous call: its answer has the status in its body, too. */
void handle_invoke_async(struct api_turn *turn)
{
    struct invoke_input input;

    if (read_input(turn, false, &input) == 0) {
        enqueue(turn, &input, 202);
        if (turn->response->status == 202)
            api_reply_json(turn, 202, json_pack("{s:i}", "Status", 202));
    }
    input_done(&input);
}

/* --- streamed -------------------------------------------------------------------------------- */

struct stream {
    struct api_turn *turn;
    const struct function *function;
    struct stream_pipe *pipe; /* NULL before the first part */
    uint64_t deadline_ns;     /* of what is being written */
    bool is_torn;             /* a write failed: what the client has is no whole stream */
};

/* The head goes out with the first part: until then a failure still is a status. */
static int stream_begin(struct stream *stream)
{
    struct api_turn *turn = stream->turn;
    struct http_response *response = turn->response;

    if (stream_pipe_new(&stream->pipe) < 0)
        return -ENOMEM;
    response->status = 200;
    response->stream = &stream_pipe_ops;
    response->stream_opaque = stream->pipe;
    (void)http_response_header(response, "Content-Type", "application/vnd.amazon.eventstream");
    (void)http_response_header(response, "X-Amz-Executed-Version", stream->function->version_text);
    (void)http_response_header(response, "x-amzn-RequestId", turn->request_id);
    atomic_fetch_add(&turn->api->answers[2], 1);
    turn->response = NULL;
    http_turn_begin(turn->http);
    return 0;
}

static int write_frame(struct stream *stream, const char *type, const char *content_type,
                       const void *data, size_t len)
{
    AUTO_FREE uint8_t *frame = NULL;
    size_t frame_len = 0;
    int r = eventstream_frame(type, content_type, data, len, &frame, &frame_len);

    return r < 0 ? r : stream_pipe_write(stream->pipe, frame, frame_len, stream->deadline_ns);
}

static int write_part(void *opaque, const struct response_part *part)
{
    struct stream *stream = opaque;
    const uint8_t *from = part->data;
    size_t len = part->len_bytes;
    int r = stream->pipe ? 0 : stream_begin(stream);

    stream->deadline_ns = part->deadline_ns;

    while (r == 0 && len > 0) {
        size_t n = len < EVENTSTREAM_PAYLOAD_MAX ? len : EVENTSTREAM_PAYLOAD_MAX;

        r = write_frame(stream, "PayloadChunk", "application/octet-stream", from, n);
        from += n;
        len -= n;
    }
    stream->is_torn = stream->is_torn || r < 0;
    return r;
}

/* InvokeComplete: with what went wrong, where something did. */
static int write_end(struct stream *stream, const struct api_invocation_result *result,
                     bool wants_log)
{
    char log[LOG_BASE64_BYTES];
    json_t *object = json_object();

    if (result->error != API_NO_ERROR) {
        (void)json_object_set_new(object, "ErrorCode", json_string(error_word(result->error)));
        (void)json_object_set_new(
            object, "ErrorDetails",
            json_stringn((const char *)result->payload, result->payload_bytes));
    }
    if (wants_log) {
        log_base64(result, log);
        (void)json_object_set_new(object, "LogResult", json_string(log));
    }
    AUTO_FREE char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    return text ? write_frame(stream, "InvokeComplete", "application/json", text, strlen(text))
                : -ENOMEM;
}

static void run_stream(struct api_turn *turn, const struct invoke_input *input,
                       const struct function *function)
{
    struct stream stream = {.turn = turn, .function = function};
    struct api_invocation_result result;
    struct api_invocation invocation;
    struct error err;

    invocation_of(turn, input, function, &invocation);
    invocation.on_part = write_part;
    invocation.opaque = &stream;
    int r = invoke_run(turn, &invocation, &result, &err);
    if (r < 0 && !stream.pipe) {
        invoke_fail(turn, r, &input->target.key, &err);
        return;
    }
    if (r == 0 && !stream.pipe)
        r = stream_begin(&stream);
    stream.deadline_ns = clock_now_ns() + END_MS * 1000000ull;
    const struct response_part rest = {.data = result.payload,
                                       .len_bytes = result.payload_bytes,
                                       .deadline_ns = stream.deadline_ns};
    if (r == 0 && stream.is_torn)
        r = -EPIPE;
    if (r == 0 && result.error == API_NO_ERROR)
        r = write_part(&stream, &rest);
    if (r == 0)
        r = write_end(&stream, &result, input->wants_log);
    free(result.payload);
    if (stream.pipe)
        stream_pipe_end(stream.pipe, r < 0);
    else
        api_fail(turn, API_SERVICE, "out of memory");
}

void handle_invoke_stream(struct api_turn *turn)
{
    struct function *function = NULL;
    struct invoke_input input;

    if (read_input(turn, true, &input) == 0 &&
        invoke_find(turn, &input.target.key, &function) == 0) {
        if (input.type == DRY_RUN)
            api_reply_empty(turn, 204);
        else
            run_stream(turn, &input, function);
    }
    function_free(function);
    input_done(&input);
}
