/*
 * GET /mayfly/v1/functions/NAME/logs: what a function printed, and what it prints from now on. The
 * definition is in README.md.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_internal.h"
#include "common/fd.h"
#include "host/observe/log_store.h"

enum {
    LIMIT_DEFAULT = 1000,
    AGO_MAX_S = 10 * 366 * 86400,
    FOLLOW_BYTES = 256 << 10, /* of what there was: it stays until the client has taken it */
};

struct logs_input {
    struct api_target target;
    struct log_query query;
    bool follows;
};

/* --- what is asked --------------------------------------------------------------------------- */

/* "90s", "15m", "2h", "7d" → seconds; -1: not of that form. */
static int64_t read_ago(const char *text)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 9 || strlen(text) != digits + 1)
        return -1;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (text[digits] == units[i].unit) {
            int64_t seconds = strtoll(text, NULL, 10) * units[i].seconds;

            return seconds < AGO_MAX_S ? seconds : AGO_MAX_S;
        }
    return -1;
}

/* "2026-01-31T12:00:00Z", with a fraction or not → milliseconds since 1970; -1: it is none. */
static int64_t read_time(const char *text)
{
    struct tm tm = {.tm_sec = 0};
    const char *at = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t ms = 0, unit = 100;

    if (at && *at == '.' && isdigit((unsigned char)at[1]))
        for (at++; isdigit((unsigned char)*at); at++, unit /= 10)
            ms += (*at - '0') * unit;
    if (!at || strcmp(at, "Z") != 0)
        return -1;
    time_t seconds = timegm(&tm);
    return seconds < 0 ? -1 : seconds * 1000 + ms;
}

static int read_since(struct api_turn *turn, const char *text, char to[JSON_LINE_TIME_BYTES])
{
    int64_t ago_s = read_ago(text), at_ms = ago_s < 0 ? read_time(text) : 0;

    if (at_ms < 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "since: '%.64s' is neither a time (2026-01-31T12:00:00Z) nor how long ago "
                        "(90s, 15m, 2h, 7d)",
                        text);
    if (ago_s >= 0)
        at_ms = (int64_t)json_line_now_ms() - ago_s * 1000;
    json_line_time(at_ms > 0 ? (uint64_t)at_ms : 0, to);
    return 0;
}

static int read_limit(struct api_turn *turn, const char *text, size_t *ret_limit)
{
    size_t digits = strspn(text, "0123456789");
    unsigned long limit = digits > 0 && digits < 7 && !text[digits] ? strtoul(text, NULL, 10) : 0;

    if (limit < 1 || limit > LOG_READ_LINES_MAX)
        return api_fail(turn, API_INVALID_PARAMETER, "limit: '%.64s' is not from 1 to %d", text,
                        LOG_READ_LINES_MAX);
    *ret_limit = limit;
    return 0;
}

static int read_parameter(struct api_turn *turn, const struct http_header *parameter,
                          struct logs_input *input)
{
    const char *name = parameter->name, *value = parameter->value;

    if (strcmp(name, "since") == 0)
        return read_since(turn, value, input->query.since);
    if (strcmp(name, "limit") == 0)
        return read_limit(turn, value, &input->query.limit);
    if (strcmp(name, "request_id") == 0) {
        input->query.request_id = value;
        return strlen(value) == REQUEST_ID_BYTES - 1
                   ? 0
                   : api_fail(turn, API_INVALID_PARAMETER, "request_id: '%.64s' is none", value);
    }
    if (strcmp(name, "follow") == 0) {
        input->follows = strcmp(value, "true") == 0;
        return input->follows || strcmp(value, "false") == 0
                   ? 0
                   : api_fail(turn, API_INVALID_PARAMETER,
                              "follow: '%.64s' is neither true nor false", value);
    }
    return api_fail(turn, API_INVALID_PARAMETER,
                    "'%.64s' is none of since, limit, request_id and follow", name);
}

/* Parameters of a presigned request are not ours. */
static int read_input(struct api_turn *turn, struct logs_input *input)
{
    int r = api_read_target(turn, API_QUALIFIER_NONE, &input->target);

    input->query = (struct log_query){.limit = LIMIT_DEFAULT};
    input->follows = false;
    for (size_t i = 0; i < turn->query.n && r == 0; i++)
        if (strncasecmp(turn->query.parameters[i].name, "X-Amz-", 6) != 0)
            r = read_parameter(turn, &turn->query.parameters[i], input);
    if (r == 0 && input->follows && input->query.request_id)
        r = api_fail(turn, API_INVALID_PARAMETER, "follow and request_id exclude each other");
    if (input->follows)
        input->query.max_bytes = FOLLOW_BYTES;
    return r;
}

/* --- answers --------------------------------------------------------------------------------- */

/* First what there was, then what comes. */
struct log_stream_body {
    struct log_follower *follower; /* owned */
    char *text;                    /* owned */
    size_t at, len;
};

static ptrdiff_t stream_read(void *opaque, uint8_t *to, size_t size)
{
    struct log_stream_body *stream = opaque;
    size_t n = stream->len - stream->at;

    if (n == 0)
        return log_follower_read(stream->follower, to, size);
    n = n < size ? n : size;
    memcpy(to, stream->text + stream->at, n);
    stream->at += n;
    if (stream->at == stream->len)
        free(mem_steal(&stream->text));
    return (ptrdiff_t)n;
}

static void stream_set_wake(void *opaque, void (*wake)(void *), void *wake_opaque)
{
    const struct log_stream_body *stream = opaque;

    log_follower_on_more(stream->follower, wake, wake_opaque);
}

static void stream_close(void *opaque)
{
    struct log_stream_body *stream = opaque;

    log_follower_on_more(stream->follower, NULL, NULL);
    log_follower_free(stream->follower);
    free(stream->text);
    free(stream);
}

static const struct http_stream_ops log_stream_ops = {.read = stream_read,
                                                      .set_wake = stream_set_wake,
                                                      .close = stream_close,
                                                      .buffer_bytes = FOLLOW_BYTES};

/* @text is taken over. */
static void reply_stream(struct api_turn *turn, const struct logs_input *input, char *text,
                         size_t len, const struct log_position *from)
{
    struct log_stream_body *stream = calloc(1, sizeof(*stream));
    struct error err;
    int r = stream ? log_follower_new(turn->api->options.logs, turn->tenant, input->target.key.name,
                                      from, &stream->follower, &err)
                   : -ENOMEM;

    if (r < 0) {
        free(stream);
        free(text);
        if (r == -EAGAIN)
            api_fail(turn, API_TOO_MANY_REQUESTS, "%s", err.text);
        else if (r == -ESHUTDOWN)
            api_fail(turn, API_UNAVAILABLE, "%s", err.text);
        else
            api_fail(turn, API_SERVICE, "out of memory");
        return;
    }
    stream->text = text;
    stream->len = len;
    turn->response->status = 200;
    turn->response->stream = &log_stream_ops;
    turn->response->stream_opaque = stream;
    (void)http_response_header(turn->response, "Content-Type", "application/x-ndjson");
}

/* Nothing was logged: is there such a function at all? Answers itself if not (-1). */
static int check_function(struct api_turn *turn, const struct logs_input *input)
{
    struct function *function = NULL;
    struct error err;
    int r = registry_find(turn->api->options.registry, &input->target.key, -1, &function, &err);

    function_free(function);
    return r < 0 ? api_fail_function(turn, r, &input->target.key, &err) : 0;
}

void handle_logs(struct api_turn *turn)
{
    struct log_position end = {0, 0};
    struct logs_input input;
    char *text = NULL;
    size_t len = 0;
    struct error err;

    if (read_input(turn, &input) < 0)
        return;
    if (!turn->api->options.logs) {
        api_fail(turn, API_UNAVAILABLE, "no logs are kept here");
        return;
    }
    int r = log_store_read(turn->api->options.logs, turn->tenant, input.target.key.name,
                           &input.query, &text, &len, &end, &err);
    if (r == -ENOENT && check_function(turn, &input) < 0)
        return;
    if (r < 0 && r != -ENOENT) {
        api_fail_errno(turn, r == -EINVAL ? -EIO : r, &err);
        return;
    }
    if (input.follows) {
        reply_stream(turn, &input, text, len, &end);
        return;
    }
    if (!text)
        text = strdup("");
    if (text)
        api_reply_bytes(turn, 200, "application/x-ndjson", text, len);
    else
        api_fail(turn, API_SERVICE, "out of memory");
}

/* What is logged later is there again. */
void handle_delete_logs(struct api_turn *turn)
{
    struct api_target target;

    if (api_read_target(turn, API_QUALIFIER_NONE, &target) < 0)
        return;
    if (turn->api->options.logs)
        log_store_remove(turn->api->options.logs, turn->tenant, target.key.name);
    api_reply_empty(turn, 204);
}
