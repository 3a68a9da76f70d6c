/*
 * What CloudWatch Logs has of functions' logs, so that tools which read it there read it here:
 * FilterLogEvents and GetLogEvents, POST / with X-Amz-Target (JSON 1.1), signed for "logs".
 *
 * A group is /aws/lambda/<function>, a stream what one instance printed on a day:
 * 2026/01/31/[$LATEST]0123456789abcdef. Tokens are places in the log: "<segment>-<offset>"; a
 * forged one reads another place of the same log, or none.
 * Source: Amazon CloudWatch Logs API Reference, 2014-03-28.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_internal.h"
#include "common/fd.h"
#include "host/observe/log_store.h"

enum {
    EVENTS_MAX = 10000,
    SCAN_BYTES = 4 << 20,   /* read for one answer, at most: there may be a token without events */
    ANSWER_BYTES = 1 << 20, /* of messages in one answer, as Lambda's */
    TERMS_MAX = 16,
    STREAMS_MAX = 100,
    TOKEN_BYTES = 48,
};

static const char group_prefix[] = "/aws/lambda/", target_prefix[] = "Logs_20140328.";

struct log_search {
    char function[FUNCTION_NAME_MAX + 1];
    int64_t start_ms, end_ms; /* end_ms: excluded; INT64_MAX: none */
    size_t limit;
    struct log_position at;
    const char *stream_prefix; /* NULL: any */
    const json_t *streams;     /* array of names, or NULL: any */
    const char *stream;        /* one name, or NULL */
    char *terms[TERMS_MAX];    /* all of these; owned */
    size_t n_terms;
    json_t *events; /* owned */
    size_t answer_bytes;
    bool is_over; /* nothing is left for now */
};

/* --- answers --------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static int fail(struct api_turn *turn, const char *type,
                                                      const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    http_response_done(turn->response);
    api_reply_json(turn, 400, json_pack("{s:s, s:s+}", "__type", type, "message", text, ""));
    (void)http_response_header(turn->response, "x-amzn-ErrorType", type);
    return -1;
}

static int fail_parameter(struct api_turn *turn, const char *what)
{
    return fail(turn, "InvalidParameterException", "%s", what);
}

/* --- what is asked --------------------------------------------------------------------------- */

/* "/aws/lambda/f", or an ARN that ends in it. */
static int read_group(struct api_turn *turn, const json_t *object, struct log_search *search)
{
    const char *name = json_string_value(json_object_get(object, "logGroupName"));
    const char *identifier = json_string_value(json_object_get(object, "logGroupIdentifier"));
    const char *at = name ? name : identifier, *in_arn = at ? strstr(at, ":log-group:") : NULL;

    if (!at)
        return fail_parameter(turn, "logGroupName: it is required");
    if (in_arn && !name)
        at = in_arn + strlen(":log-group:");
    if (strncmp(at, group_prefix, sizeof(group_prefix) - 1) != 0)
        return fail(turn, "ResourceNotFoundException", "The specified log group does not exist.");
    at += sizeof(group_prefix) - 1;
    size_t len = strcspn(at, ":");
    if (len > FUNCTION_NAME_MAX || (at[len] && name))
        return fail(turn, "ResourceNotFoundException", "The specified log group does not exist.");
    memcpy(search->function, at, len);
    search->function[len] = '\0';
    return function_name_is_valid(search->function)
               ? 0
               : fail(turn, "ResourceNotFoundException", "The specified log group does not exist.");
}

static int read_number(struct api_turn *turn, const json_t *object, const char *name, int64_t max,
                       int64_t *ret_value)
{
    const json_t *value = json_object_get(object, name);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max)
        return fail(turn, "InvalidParameterException", "%s: it is not a number from 0 to %lld",
                    name, (long long)max);
    *ret_value = json_integer_value(value);
    return 0;
}

static int read_token(struct api_turn *turn, const json_t *object, struct log_search *search)
{
    const json_t *value = json_object_get(object, "nextToken");
    unsigned long long segment, offset;
    const char *text = json_string_value(value);
    int end = 0;

    if (!value || json_is_null(value))
        return 0;
    if (!text || sscanf(text, "%20llu-%20llu%n", &segment, &offset, &end) != 2 || text[end])
        return fail_parameter(turn, "The specified nextToken is invalid.");
    search->at = (struct log_position){segment, offset};
    return 0;
}

/* Words and "phrases", all of which must be there. Other patterns have characters of their own. */
static int read_pattern(struct api_turn *turn, const json_t *object, struct log_search *search)
{
    const char *at = json_string_value(json_object_get(object, "filterPattern"));

    while (at && *(at += strspn(at, " "))) {
        bool is_quoted = *at == '"';
        size_t len = is_quoted ? strcspn(at + 1, "\"") : strcspn(at, " \"");

        if (strchr("{[%?-", *at) || (is_quoted && at[len + 1] != '"') ||
            search->n_terms == TERMS_MAX)
            return fail_parameter(turn, "filterPattern: only words and \"phrases\" are known here");
        char *term = strndup(at + is_quoted, len);
        if (!term)
            return fail(turn, "ServiceUnavailableException", "out of memory");
        search->terms[search->n_terms++] = term;
        at += len + 2 * is_quoted;
    }
    return 0;
}

static int read_search(struct api_turn *turn, const json_t *object, struct log_search *search)
{
    int64_t limit = EVENTS_MAX;

    *search = (struct log_search){.end_ms = INT64_MAX};
    if (read_group(turn, object, search) < 0 ||
        read_number(turn, object, "startTime", INT64_MAX, &search->start_ms) < 0 ||
        read_number(turn, object, "endTime", INT64_MAX, &search->end_ms) < 0 ||
        read_number(turn, object, "limit", EVENTS_MAX, &limit) < 0 ||
        read_token(turn, object, search) < 0 || read_pattern(turn, object, search) < 0)
        return -1;
    search->limit = limit > 0 ? (size_t)limit : EVENTS_MAX;
    search->stream_prefix = json_string_value(json_object_get(object, "logStreamNamePrefix"));
    search->streams = json_object_get(object, "logStreamNames");
    if (search->streams &&
        (!json_is_array(search->streams) || json_array_size(search->streams) > STREAMS_MAX))
        return fail_parameter(turn, "logStreamNames: a list of up to 100 names");
    return 0;
}

static void search_done(struct log_search *search)
{
    for (size_t i = 0; i < search->n_terms; i++)
        free(search->terms[i]);
    json_decref(search->events);
}

/* --- looking --------------------------------------------------------------------------------- */

static const char *member(const json_t *line, const char *name)
{
    const char *text = json_string_value(json_object_get(line, name));

    return text ? text : "";
}

static int64_t time_of(const char *text)
{
    struct tm tm = {.tm_sec = 0};
    const char *dot = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    return (int64_t)timegm(&tm) * 1000 + (dot && *dot == '.' ? strtol(dot + 1, NULL, 10) : 0);
}

static void name_stream(const json_t *line, char *to, size_t size)
{
    const char *when = member(line, "time");

    snprintf(to, size, "%.4s/%.2s/%.2s/[%.20s]%.32s", when, when + 5, when + 8,
             member(line, "version"), member(line, "instance"));
}

static bool is_wanted_stream(const struct log_search *search, const char *name)
{
    size_t i;
    const json_t *each;

    if (search->stream_prefix &&
        strncmp(name, search->stream_prefix, strlen(search->stream_prefix)) != 0)
        return false;
    if (search->stream)
        return strcmp(name, search->stream) == 0;
    if (!search->streams || json_array_size(search->streams) == 0)
        return true;
    json_array_foreach(search->streams, i, each)
    {
        const char *text = json_string_value(each);

        if (text && strcmp(text, name) == 0)
            return true;
    }
    return false;
}

static bool has_terms(const struct log_search *search, const char *message)
{
    for (size_t i = 0; i < search->n_terms; i++)
        if (!strstr(message, search->terms[i]))
            return false;
    return true;
}

/* @at: where the line begins, which names it for ever. */
static void take_line(struct log_search *search, const char *text, size_t len,
                      const struct log_position *at)
{
    json_t *line = json_loadb(text, len, 0, NULL);
    const char *message = member(line, "message"), *when = member(line, "time");
    char stream[96], id[TOKEN_BYTES];

    if (strlen(when) != JSON_LINE_TIME_BYTES - 1) { /* a damaged disk */
        json_decref(line);
        return;
    }
    int64_t ms = time_of(when);
    name_stream(line, stream, sizeof(stream));
    if (ms >= search->start_ms && ms < search->end_ms && is_wanted_stream(search, stream) &&
        has_terms(search, message)) {
        snprintf(id, sizeof(id), "%020llu%020llu", (unsigned long long)at->segment,
                 (unsigned long long)at->offset_bytes);
        (void)json_array_append_new(search->events,
                                    json_pack("{s:s, s:I, s:s+, s:I, s:s}", "logStreamName", stream,
                                              "timestamp", (json_int_t)ms, "message", message, "\n",
                                              "ingestionTime", (json_int_t)ms, "eventId", id));
        search->answer_bytes += strlen(message);
    }
    json_decref(line);
}

static bool is_full(const struct log_search *search)
{
    return json_array_size(search->events) >= search->limit || search->answer_bytes > ANSWER_BYTES;
}

/* Returns how many bytes of @text were looked at. */
static size_t take_lines(struct log_search *search, const char *text, size_t len,
                         const struct log_position *from)
{
    size_t done = 0;

    while (done < len && !is_full(search)) {
        const char *end = memchr(text + done, '\n', len - done);
        size_t line_len = end ? (size_t)(end - text) + 1 - done : len - done;
        const struct log_position at = {from->segment, from->offset_bytes + done};

        take_line(search, text + done, line_len, &at);
        done += line_len;
    }
    return done;
}

/* Events from search->at on, which is where to go on afterwards. */
static int search_log(struct api_turn *turn, struct log_search *search, struct error *err)
{
    size_t scanned = 0;

    search->events = json_array();
    while (!is_full(search) && scanned < SCAN_BYTES) {
        struct log_position from = search->at;
        AUTO_FREE char *text = NULL;
        size_t len = 0;
        int r = log_store_scan(turn->api->options.logs, turn->tenant, search->function, &search->at,
                               &text, &len, err);

        if (r < 0)
            return r;
        if (len == 0) {
            search->is_over = true;
            return 0;
        }
        from = (struct log_position){search->at.segment, search->at.offset_bytes - len};
        size_t done = take_lines(search, text, len, &from);
        search->at.offset_bytes = from.offset_bytes + done;
        scanned += len;
    }
    return 0;
}

/* A function that has not printed yet has a group all the same. Answers itself (-1). */
static int search_or_fail(struct api_turn *turn, struct log_search *search)
{
    const struct function_key key = {turn->tenant, search->function, NULL};
    struct function *function = NULL;
    struct error err;
    int r = search_log(turn, search, &err);

    if (r == -ENOENT) {
        search->is_over = true;
        r = registry_find(turn->api->options.registry, &key, -1, &function, &err);
        function_free(function);
        if (r == -ENOENT)
            return fail(turn, "ResourceNotFoundException",
                        "The specified log group does not exist.");
    }
    return r < 0 ? api_fail_errno(turn, r == -EINVAL ? -EIO : r, &err) : 0;
}

/* --- operations ------------------------------------------------------------------------------ */

static void token_of(const struct log_search *search, char to[TOKEN_BYTES])
{
    snprintf(to, TOKEN_BYTES, "%llu-%llu", (unsigned long long)search->at.segment,
             (unsigned long long)search->at.offset_bytes);
}

static void reply(struct api_turn *turn, json_t *object)
{
    api_reply_json(turn, 200, object);
}

static void filter_log_events(struct api_turn *turn, const json_t *object)
{
    struct log_search search;
    char token[TOKEN_BYTES];

    if (read_search(turn, object, &search) == 0 && search_or_fail(turn, &search) == 0) {
        json_t *answer = json_pack("{s:O, s:[]}", "events", search.events, "searchedLogStreams");

        token_of(&search, token);
        if (!search.is_over)
            (void)json_object_set_new(answer, "nextToken", json_string(token));
        reply(turn, answer);
    }
    search_done(&search);
}

/* Always from the oldest: whoever wants the newest has FilterLogEvents with a startTime. */
static void get_log_events(struct api_turn *turn, const json_t *object)
{
    const char *stream = json_string_value(json_object_get(object, "logStreamName"));
    struct log_search search = {.limit = 0};
    char token[TOKEN_BYTES];

    if (!stream) {
        fail_parameter(turn, "logStreamName: it is required");
        return;
    }
    int r = read_search(turn, object, &search);
    search.stream = stream;
    if (r == 0 && search_or_fail(turn, &search) == 0) {
        token_of(&search, token);
        reply(turn, json_pack("{s:O, s:s, s:s}", "events", search.events, "nextForwardToken", token,
                              "nextBackwardToken", token));
    }
    search_done(&search);
}

static int read_body(struct api_turn *turn, json_t **ret_object)
{
    const struct http_request *request = turn->request;
    json_t *object =
        json_loadb((const char *)request->body, request->body_bytes, JSON_REJECT_DUPLICATES, NULL);

    if (!json_is_object(object)) {
        json_decref(object);
        return fail(turn, "SerializationException", "the body is not a JSON object");
    }
    *ret_object = object;
    return 0;
}

void handle_log_events(struct api_turn *turn)
{
    const char *target = http_header_find(turn->request, "x-amz-target");
    json_t *object = NULL;

    if (!target || strncmp(target, target_prefix, sizeof(target_prefix) - 1) != 0) {
        handle_sts(turn); /* which is at the same path */
        return;
    }
    if (api_authenticate(turn, "logs") < 0 || api_take_rate(turn) < 0)
        return;
    target += sizeof(target_prefix) - 1;
    bool is_filter = strcmp(target, "FilterLogEvents") == 0;
    if (!turn->api->options.logs || (!is_filter && strcmp(target, "GetLogEvents") != 0)) {
        fail(turn, "UnknownOperationException", "only FilterLogEvents and GetLogEvents are known");
        return;
    }
    if (read_body(turn, &object) < 0)
        return;
    if (is_filter)
        filter_log_events(turn, object);
    else
        get_log_events(turn, object);
    json_decref(object);
}
