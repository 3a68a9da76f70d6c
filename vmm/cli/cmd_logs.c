/* `mayfly logs`: what a function printed, as the daemon kept it. Process: the CLI. Messages are the
 * function's own: they cannot drive a terminal. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"
#include "daemon_session.h"

#define COMMAND "logs"

enum { PATH_BYTES = 2048, LINE_MAX_BYTES = 8 << 20 };

struct logs_options {
    struct daemon_options daemon;
    const char *since, *request_id;
    uint64_t limit;
    bool follow, messages;
};

#define OPTION(name, letter, kind, member, value, help, min, max)                                  \
    {                                                                                              \
        name, letter, kind, offsetof(struct logs_options, member), value, help, min, max,          \
            COMPLETE_NOTHING                                                                       \
    }

static const struct cli_option options[] = {
    OPTION("follow", 'f', CLI_FLAG, follow, NULL, "stay, and show what is logged from now on", 0,
           0),
    OPTION("since", 0, CLI_TEXT, since, "WHEN",
           "how long ago (90s, 15m, 2h, 7d) or a moment in UTC:\n"
           "2026-01-31T12:00:00Z",
           0, 0),
    OPTION("limit", 'n', CLI_NUMBER, limit, "N", "so many lines at most, the newest (default 1000)",
           1, 10000),
    OPTION("request-id", 0, CLI_TEXT, request_id, "ID", "only of this invocation", 0, 0),
    OPTION("messages", 'm', CLI_FLAG, messages, NULL, "only what was printed, without times", 0, 0),
    DAEMON_OPTIONS(struct logs_options),
    {.name = NULL}};

const struct cli_syntax logs_syntax = {
    .command = COMMAND,
    .summary = "what a function printed, and how its invocations went",
    .usage = "NAME [OPTIONS]",
    .about = "Oldest line first: time, version, the request's first digits, text. START, END and "
             "REPORT\n"
             "lines are the host's. With --json one object a line.\n",
    .options = options,
    .examples =
        "Examples\n"
        "  mayfly logs wordcount --since 15m\n"
        "  mayfly logs wordcount --follow\n"
        "\n"
        "Exit status: 0, 2 wrong usage or no such function, 3 the daemon does not answer, 130\n"
        "interrupted.\n",
    .min_arguments = 1,
    .max_arguments = 1,
    .missing = "which function? 'mayfly ls' lists them",
    .argument = COMPLETE_FUNCTION,
};

/* A line that has not ended yet. */
struct logs {
    const struct logs_options *options;
    char *line; /* owned */
    size_t len, size;
};

static void print_line(const struct logs *logs, const char *line, size_t len)
{
    json_t *object = json_loadb(line, len, 0, NULL);
    const char *message = json_text(object, "message");
    size_t message_len = json_string_length(json_object_get(object, "message"));

    if (!object)
        return;
    if (!logs->options->messages)
        printf("%.23s  %-7s  %-8.8s  ", json_text(object, "time"), json_text(object, "version"),
               json_text(object, "request_id"));
    while (message_len > 0 && message[message_len - 1] == '\n')
        message_len--;
    cli_print_text(stdout, message, message_len);
    putchar('\n');
    json_decref(object);
}

static int take_line(struct logs *logs, const char *line, size_t len)
{
    if (len == 0) /* the daemon says that it is still there */
        return 0;
    if (logs->options->daemon.json) {
        fwrite(line, 1, len, stdout);
        putchar('\n');
    } else {
        print_line(logs, line, len);
    }
    return ferror(stdout) ? -EPIPE : 0;
}

static int keep(struct logs *logs, const char *data, size_t len)
{
    if (logs->len + len > LINE_MAX_BYTES)
        return -EFBIG;
    if (logs->size - logs->len < len) {
        size_t size = 2 * (logs->len + len);
        char *larger = realloc(logs->line, size);

        if (!larger)
            return -ENOMEM;
        logs->line = larger;
        logs->size = size;
    }
    if (len > 0)
        memcpy(logs->line + logs->len, data, len);
    logs->len += len;
    return 0;
}

static int on_data(void *opaque, const void *data, size_t len)
{
    struct logs *logs = opaque;
    const char *at = data, *end = at + len;
    int r = 0;

    while (r == 0 && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t piece = (size_t)((newline ? newline : end) - at);

        r = keep(logs, at, piece);
        if (r == 0 && newline) {
            r = take_line(logs, logs->line, logs->len);
            logs->len = 0;
        }
        at += piece + (newline ? 1 : 0);
    }
    return r == 0 && fflush(stdout) != 0 ? -EPIPE : r;
}

/* Parameters in ASCII order, as a signature wants them. */
static int path_of(const struct logs_options *o, const char *name, char path[PATH_BYTES],
                   struct error *err)
{
    char part[PATH_BYTES], limit[24];
    size_t used;
    int r = api_path(path, PATH_BYTES, err, "/mayfly/v1/functions/%s/logs?", name);

    snprintf(limit, sizeof(limit), "%llu", (unsigned long long)o->limit);
    const struct {
        const char *name, *value;
    } parameters[] = {{"follow", o->follow ? "true" : NULL},
                      {"limit", o->limit ? limit : NULL},
                      {"request_id", o->request_id},
                      {"since", o->since}};
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]) && r == 0; i++) {
        if (!parameters[i].value)
            continue;
        r = api_path(part, sizeof(part), err, "%s", parameters[i].value);
        used = strlen(path);
        if (r == 0 && snprintf(path + used, PATH_BYTES - used, "%s=%s&", parameters[i].name,
                               part) >= (int)(PATH_BYTES - used))
            r = error_say(err, ENAMETOOLONG, "that is too long for a URL");
    }
    path[strlen(path) - 1] = '\0'; /* the last '&', or the '?' */
    return r;
}

static int logs(struct daemon_session *session, const struct logs_options *o, const char *name)
{
    struct logs state = {.options = o};
    char path[PATH_BYTES];
    struct api_request request = {
        .method = "GET", .path = path, .on_data = on_data, .opaque = &state};
    struct api_reply reply;
    struct error err;
    int r = path_of(o, name, path, &err);

    if (r == 0)
        r = api_client_call(session->client, &request, &reply, &err);
    if (r == 0)
        api_reply_done(&reply);
    free(state.line);
    /* Whoever follows ends it by Ctrl-C, or by closing the pipe. */
    if (r == -EINTR && o->follow)
        return CLI_INTERRUPTED;
    return r < 0 ? daemon_session_fail(session, &err) : daemon_flush(session);
}

int cmd_logs(int argc, char **argv)
{
    struct logs_options o = {.follow = false};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&logs_syntax, argc, argv, &o);

    if (status < 0 && o.request_id && o.follow)
        status = cli_usage(COMMAND, "--request-id or --follow, not both");
    if (status < 0)
        status = daemon_session_open(COMMAND, &o.daemon, &session);
    if (status < 0)
        status = logs(&session, &o, argv[optind]);
    daemon_session_done(&session);
    return status;
}
