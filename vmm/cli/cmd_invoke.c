/*
 * `mayfly invoke`: one event to a deployed function. Process: the CLI. A response is the
 * function's choice: it is passed through byte for byte on its own, and put into an object of ours
 * only if it is JSON.
 */
#include <errno.h>
#include <sodium.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_common.h"
#include "commands.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"
#include "daemon_session.h"
#include "eventstream_read.h"
#include "stage_ticker.h"

#define COMMAND "invoke"

enum {
    EVENT_MAX_BYTES = 6 << 20,
    LOG_MAX_BYTES = 64 << 10,
    SUMMARY_MAX_BYTES = 256 << 10,
    PATH_BYTES = 1024,
    CONTEXT_MAX_BYTES = 3583,
};

struct invoke_options {
    struct daemon_options daemon;
    const char *event, *qualifier, *context;
    bool async, dry, log, stream;
};

#define OPTION(name, letter, kind, member, value, help, completion)                                \
    {                                                                                              \
        name, letter, kind, offsetof(struct invoke_options, member), value, help, 0, 0, completion \
    }

static const struct cli_option options[] = {
    OPTION("event", 'e', CLI_TEXT, event, "JSON",
           "the event (default {}); @FILE reads a file, - standard\n"
           "input; 6 MB (--async: 1 MB)",
           COMPLETE_FILE),
    OPTION("qualifier", 'q', CLI_TEXT, qualifier, "Q",
           "a version's number or an alias; NAME:Q says the same", COMPLETE_NOTHING),
    OPTION("async", 0, CLI_FLAG, async, NULL,
           "queue it: the daemon keeps the event until it has run, and\n"
           "tries again where it fails",
           COMPLETE_NOTHING),
    OPTION("stream", 0, CLI_FLAG, stream, NULL, "print the response as it comes (up to 200 MB)",
           COMPLETE_NOTHING),
    OPTION("log", 'l', CLI_FLAG, log, NULL, "show the end of the function's log (4 KB) on stderr",
           COMPLETE_NOTHING),
    OPTION("dry-run", 0, CLI_FLAG, dry, NULL, "only check that it could be invoked",
           COMPLETE_NOTHING),
    OPTION("client-context", 0, CLI_TEXT, context, "JSON",
           "what the handler sees as context.client_context", COMPLETE_NOTHING),
    DAEMON_OPTIONS(struct invoke_options),
    {.name = NULL}};

const struct cli_syntax invoke_syntax = {
    .command = COMMAND,
    .summary = "run a deployed function once, with an event",
    .usage = "NAME[:QUALIFIER] [OPTIONS]",
    .about =
        "The response goes to stdout as the function gave it; its log (--log) and what went wrong\n"
        "go to stderr.\n",
    .options = options,
    .examples =
        "Examples\n"
        "  mayfly invoke wordcount --event '{\"text\":\"to be or not to be\"}' --log\n"
        "  mayfly invoke wordcount:live --event @event.json\n"
        "  echo '{}' | mayfly invoke wordcount -e - --json | jq .result\n"
        "\n"
        "Exit status: 0 the handler returned (--async: the event is queued); 1 it failed (stdout\n"
        "has the error as Lambda words it); 2 wrong usage or event, or no such function; 3 the\n"
        "daemon could not; 130 interrupted.\n",
    .min_arguments = 1,
    .max_arguments = 1,
    .missing = "which function? 'mayfly ls' lists them",
    .argument = COMPLETE_FUNCTION,
};

/* What came of it. */
struct answer {
    uint8_t *payload; /* owned, a 0 after it; of a streamed response only its error's */
    size_t payload_bytes;
    char *log; /* owned, text; NULL: not asked for */
    bool failed;
    char kind[32], version[24], request_id[64];
    uint64_t took_us;
};

struct invoke {
    struct invoke_options options;
    struct daemon_session session;
    char *name; /* borrowed from argv; written to */
    uint8_t *event;
    size_t event_bytes;
    struct stage_ticker *ticker; /* while nothing has come */
    struct eventstream_reader stream;
    bool complete; /* the stream said how it ended */
    bool tail_is_newline, has_output;
    struct answer answer;
};

/* --- what is sent ------------------------------------------------------------------------------
 */

static int read_event(struct invoke *invoke, struct error *err)
{
    const char *given = invoke->options.event ? invoke->options.event : "{}";
    bool is_file = given[0] == '@' || strcmp(given, "-") == 0;
    int r = 0;

    if (is_file) {
        r = cli_read_input(given[0] == '@' ? given + 1 : given, EVENT_MAX_BYTES,
                           invoke->session.interrupt_fd, &invoke->event, &invoke->event_bytes, err);
    } else {
        invoke->event = (uint8_t *)strdup(given);
        invoke->event_bytes = strlen(given);
        if (!invoke->event)
            r = error_set(err, ENOMEM, "take it");
    }
    if (r < 0)
        return r == -EINTR ? r : error_wrap(err, "the event (--event)");
    return 0;
}

static int encode_context(const char *context, char *to, size_t size, struct error *err)
{
    size_t len = strlen(context);

    if (sodium_base64_ENCODED_LEN(len, sodium_base64_VARIANT_ORIGINAL) > CONTEXT_MAX_BYTES)
        return error_say(err, EINVAL, "--client-context: more than %d bytes as base64",
                         CONTEXT_MAX_BYTES);
    int n = snprintf(to, size, "X-Amz-Client-Context: ");
    sodium_bin2base64(to + n, size - (size_t)n, (const uint8_t *)context, len,
                      sodium_base64_VARIANT_ORIGINAL);
    return 0;
}

/* --- a streamed response -----------------------------------------------------------------------
 */

static void stop_ticker(struct invoke *invoke)
{
    stage_ticker_free(invoke->ticker);
    invoke->ticker = NULL;
}

static int decode_log(struct invoke *invoke, const char *base64)
{
    size_t size = LOG_MAX_BYTES, len = 0;

    free(invoke->answer.log);
    invoke->answer.log = calloc(1, size + 1);
    if (!invoke->answer.log)
        return -ENOMEM;
    if (sodium_base642bin((uint8_t *)invoke->answer.log, size, base64, strlen(base64), NULL, &len,
                          NULL, sodium_base64_VARIANT_ORIGINAL) != 0)
        invoke->answer.log[0] = '\0';
    return 0;
}

static int take_complete(struct invoke *invoke, const uint8_t *payload, size_t len)
{
    json_t *object = json_loadb((const char *)payload, len, 0, NULL);
    struct answer *answer = &invoke->answer;
    const char *code = json_text(object, "ErrorCode"), *log = json_text(object, "LogResult");

    invoke->complete = true;
    answer->failed = *code != '\0';
    snprintf(answer->kind, sizeof(answer->kind), "%s", code);
    if (answer->failed) {
        free(answer->payload);
        answer->payload = (uint8_t *)strdup(json_text(object, "ErrorDetails"));
        answer->payload_bytes = answer->payload ? strlen((char *)answer->payload) : 0;
    }
    int r = *log ? decode_log(invoke, log) : 0;
    json_decref(object);
    return r;
}

static int on_event(void *opaque, const char *type, const uint8_t *payload, size_t len)
{
    struct invoke *invoke = opaque;

    stop_ticker(invoke);
    if (strcmp(type, "InvokeComplete") == 0)
        return take_complete(invoke, payload, len);
    if (strcmp(type, "PayloadChunk") != 0 || len == 0)
        return 0;
    invoke->has_output = true;
    invoke->tail_is_newline = payload[len - 1] == '\n';
    return fwrite(payload, 1, len, stdout) == len && fflush(stdout) == 0 ? 0 : -EPIPE;
}

static int on_stream(void *opaque, const void *data, size_t len)
{
    struct invoke *invoke = opaque;

    return eventstream_read(&invoke->stream, data, len);
}

/* --- the call ----------------------------------------------------------------------------------
 */

static void keep_header(struct api_client *client, const char *name, char *to, size_t size)
{
    const char *value = api_client_header(client, name);

    text_clean(to, size, value ? value : "", value ? strlen(value) : 0);
}

static int take_answer(struct invoke *invoke, struct api_reply *reply)
{
    struct api_client *client = invoke->session.client;
    struct answer *answer = &invoke->answer;
    const char *log = api_client_header(client, "X-Amz-Log-Result");

    keep_header(client, "X-Amz-Executed-Version", answer->version, sizeof(answer->version));
    keep_header(client, "x-amzn-RequestId", answer->request_id, sizeof(answer->request_id));
    if (invoke->options.stream)
        return 0;
    keep_header(client, "X-Amz-Function-Error", answer->kind, sizeof(answer->kind));
    answer->failed = answer->kind[0] != '\0';
    answer->payload = mem_steal(&reply->body);
    answer->payload_bytes = reply->body_bytes;
    return log ? decode_log(invoke, log) : 0;
}

static int path_of(const struct invoke *invoke, char path[PATH_BYTES], struct error *err)
{
    const char *qualifier = invoke->options.qualifier;
    const char *start = invoke->options.stream ? "/2021-11-15/functions" : "/2015-03-31/functions";
    const char *end = invoke->options.stream ? "response-streaming-invocations" : "invocations";
    char name[PATH_BYTES], rest[PATH_BYTES] = "";
    int r = api_path(name, sizeof(name), err, "%s", invoke->name);

    if (r == 0 && qualifier)
        r = api_path(rest, sizeof(rest), err, "?Qualifier=%s", qualifier);
    if (r == 0 && snprintf(path, PATH_BYTES, "%s/%s/%s%s", start, name, end, rest) >= PATH_BYTES)
        r = error_say(err, ENAMETOOLONG, "the function's name is too long");
    return r;
}

static int call(struct invoke *invoke, struct error *err)
{
    const struct invoke_options *o = &invoke->options;
    char path[PATH_BYTES], context[CONTEXT_MAX_BYTES + 64];
    const char *headers[6] = {"Content-Type: application/json"};
    struct api_request request = {.method = "POST",
                                  .path = path,
                                  .body = invoke->event,
                                  .body_bytes = invoke->event_bytes,
                                  .headers = headers,
                                  .on_data = o->stream ? on_stream : NULL,
                                  .opaque = invoke};
    struct api_reply reply;
    size_t n = 1;
    int r = path_of(invoke, path, err);

    if (o->async || o->dry)
        headers[n++] = o->async ? "X-Amz-Invocation-Type: Event" : "X-Amz-Invocation-Type: DryRun";
    if (o->log)
        headers[n++] = "X-Amz-Log-Type: Tail";
    if (r == 0 && o->context) {
        r = encode_context(o->context, context, sizeof(context), err);
        headers[n++] = context;
    }
    if (r < 0)
        return r;
    uint64_t began_us = clock_now_us();
    invoke->ticker = stage_ticker_new();
    stage_ticker_say(invoke->ticker, "waiting for the function");
    r = api_client_call(invoke->session.client, &request, &reply, err);
    stop_ticker(invoke);
    invoke->answer.took_us = clock_now_us() - began_us;
    if (r < 0)
        return r;
    r = take_answer(invoke, &reply);
    api_reply_done(&reply);
    if (r < 0)
        return error_set(err, -r, "take the answer");
    if (o->stream && !o->dry && !invoke->complete)
        return error_say(err, EIO, "the response broke off before its end");
    return 0;
}

/* --- telling -----------------------------------------------------------------------------------
 */

/* "errorType: errorMessage" of an error object, for stderr. */
static void print_summary(const struct answer *answer)
{
    json_t *object = answer->payload_bytes > SUMMARY_MAX_BYTES || !answer->payload
                         ? NULL
                         : json_loadb((char *)answer->payload, answer->payload_bytes, 0, NULL);
    const char *type = json_text(object, "errorType"), *message = json_text(object, "errorMessage");
    char line[400];

    snprintf(line, sizeof(line), "%s%s%s", *type ? type : "an error without a type",
             *message ? ": " : "", message);
    cli_complain(COMMAND, "the function failed: %s", line);
    json_decref(object);
}

/* Any bytes as JSON: themselves if they are, else as text. */
static json_t *as_json(const struct answer *answer)
{
    const char *text = answer->payload ? (const char *)answer->payload : "";
    json_t *value = json_loadb(text, answer->payload_bytes, JSON_DECODE_ANY, NULL);

    if (!value)
        value = json_stringn(text, answer->payload_bytes);
    return value ? value : json_null();
}

static int print_json(const struct invoke *invoke, struct error *err)
{
    const struct answer *answer = &invoke->answer;
    bool empty = invoke->options.async || invoke->options.dry;
    const char *status = answer->failed          ? "function-error"
                         : invoke->options.async ? "queued"
                         : invoke->options.dry   ? "could-run"
                                                 : "ok";
    json_t *object =
        json_pack("{s:s, s:o, s:o, s:s, s:s, s:I}", "status", status, "result",
                  answer->failed || empty ? json_null() : as_json(answer), "error",
                  answer->failed ? as_json(answer) : json_null(), "version", answer->version,
                  "request_id", answer->request_id, "round_trip_us", (json_int_t)answer->took_us);

    if (object && answer->log) {
        json_t *log = json_string(answer->log);

        (void)json_object_set_new(object, "log", log ? log : json_string("(it is not UTF-8)"));
    }
    int r = json_dumpf(object, stdout, JSON_COMPACT) < 0 || putchar('\n') < 0 ? -EIO : 0;
    json_decref(object);
    return r < 0 ? error_set(err, -r, "write the result") : 0;
}

static void print_plain(const struct invoke *invoke)
{
    const struct answer *answer = &invoke->answer;

    if (invoke->options.async)
        printf("queued; request %s\n", answer->request_id);
    else if (invoke->options.dry)
        printf("it could be invoked\n");
    else if (invoke->options.stream && !answer->failed)
        fputs(invoke->has_output && !invoke->tail_is_newline && isatty(STDOUT_FILENO) ? "\n" : "",
              stdout);
    else if (answer->payload) {
        fputs(invoke->has_output && !invoke->tail_is_newline ? "\n" : "", stdout);
        fwrite(answer->payload, 1, answer->payload_bytes, stdout);
        putchar('\n');
    }
}

static int tell(const struct invoke *invoke)
{
    const struct answer *answer = &invoke->answer;
    struct error err;

    if (invoke->options.daemon.json) {
        if (print_json(invoke, &err) < 0)
            return daemon_session_fail(&invoke->session, &err);
    } else {
        print_plain(invoke);
        if (daemon_flush(&invoke->session) != CLI_OK)
            return CLI_HOST_ERROR;
        if (answer->log)
            cli_print_text(stderr, answer->log, strlen(answer->log));
    }
    if (answer->failed)
        print_summary(answer);
    return answer->failed ? CLI_FUNCTION_ERROR : CLI_OK;
}

/* --- the command -------------------------------------------------------------------------------
 */

static int check(const struct invoke_options *o)
{
    if (o->async + o->dry + o->stream > 1)
        return cli_usage(COMMAND, "only one of --async, --dry-run and --stream");
    if (o->stream && o->daemon.json)
        return cli_usage(COMMAND, "--stream prints the response as it comes: no --json with it");
    if (o->log && (o->async || o->dry))
        return cli_usage(COMMAND, "--log: there is none yet; 'mayfly logs NAME' has it later");
    return -1;
}

static int run(struct invoke *invoke)
{
    const char *qualifier;
    struct error err;

    daemon_split_name(invoke->name, &qualifier);
    if (qualifier && invoke->options.qualifier)
        return cli_usage(COMMAND, "'%s' and --qualifier: say it once", qualifier);
    if (qualifier)
        invoke->options.qualifier = qualifier;
    if (read_event(invoke, &err) < 0 || call(invoke, &err) < 0)
        return daemon_session_fail(&invoke->session, &err);
    return tell(invoke);
}

int cmd_invoke(int argc, char **argv)
{
    struct invoke invoke = {.stream = {.on_event = on_event}};
    int status = cli_syntax_parse(&invoke_syntax, argc, argv, &invoke.options);

    invoke.stream.opaque = &invoke;
    if (status < 0)
        status = check(&invoke.options);
    if (status < 0)
        status = daemon_session_open(COMMAND, &invoke.options.daemon, &invoke.session);
    if (status < 0) {
        invoke.name = argv[optind];
        status = run(&invoke);
    }
    eventstream_reader_done(&invoke.stream);
    free(invoke.answer.payload);
    free(invoke.answer.log);
    free(invoke.event);
    daemon_session_done(&invoke.session);
    return status;
}
