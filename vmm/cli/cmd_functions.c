/* `mayfly ls`, `get` and `rm`: the functions that a daemon has. Process: the CLI. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"
#include "daemon_session.h"

#define FUNCTIONS "/2015-03-31/functions"

enum { PATH_BYTES = 1024, PAGES_MAX = 100000 };

struct functions_options {
    struct daemon_options daemon;
    bool versions;
};

/* --- pages -------------------------------------------------------------------------------------
 */

/* All of a listing, its @member's items of every page in one array. @path has no query but @query
 * ("FunctionVersion=ALL&"), which goes before Marker in ASCII order. */
static int list_all(struct api_client *client, const char *path, const char *query,
                    const char *member, json_t **ret_items, struct error *err)
{
    json_t *items = json_array();
    char marker[PATH_BYTES] = "", whole[3 * PATH_BYTES];
    int r = 0;

    for (size_t page = 0; r == 0 && page < PAGES_MAX; page++) {
        json_t *object = NULL;

        snprintf(whole, sizeof(whole), "%s?%s%s%s", path, query, marker[0] ? "Marker=" : "",
                 marker);
        size_t len = strlen(whole);
        if (whole[len - 1] == '?' || whole[len - 1] == '&')
            whole[len - 1] = '\0';
        r = api_client_json(client, "GET", whole, NULL, &object, err);
        if (r < 0)
            break;
        (void)json_array_extend(items, json_object_get(object, member));
        r = api_path(marker, sizeof(marker), err, "%s", json_text(object, "NextMarker"));
        json_decref(object);
        if (!marker[0])
            break;
    }
    if (r < 0) {
        json_decref(items);
        return r;
    }
    *ret_items = items;
    return 0;
}

/* --- ls ----------------------------------------------------------------------------------------
 */

static const struct cli_option ls_options[] = {{"versions", 0, CLI_FLAG,
                                                offsetof(struct functions_options, versions), NULL,
                                                "published versions, too", 0, 0, COMPLETE_NOTHING},
                                               DAEMON_OPTIONS(struct functions_options),
                                               {.name = NULL}};

const struct cli_syntax ls_syntax = {
    .command = "ls",
    .summary = "list the functions",
    .usage = "[OPTIONS]",
    .options = ls_options,
    .examples = "Exit status: 0, 2 wrong usage, 3 the daemon does not answer.\n",
};

/* What a person wants to know first: can it be invoked? */
static const char *state_of(const json_t *function)
{
    const char *update = json_text(function, "LastUpdateStatus");

    if (strcmp(json_text(function, "State"), "Active") != 0)
        return json_text(function, "State");
    if (strcmp(update, "InProgress") == 0)
        return "Updating";
    return strcmp(update, "Failed") == 0 ? "UpdateFailed" : "Active";
}

static int widest(const json_t *functions, const char *member, int least)
{
    for (size_t i = 0; i < json_array_size(functions); i++) {
        int len = (int)strlen(json_text(json_array_get(functions, i), member));

        least = len > least ? len : least;
    }
    return least;
}

static void print_list(const json_t *functions, bool versions)
{
    int name = widest(functions, "FunctionName", 4), runtime = widest(functions, "Runtime", 7);
    int handler = widest(functions, "Handler", 7), state = 6;

    for (size_t i = 0; i < json_array_size(functions); i++) {
        int len = (int)strlen(state_of(json_array_get(functions, i)));

        state = len > state ? len : state;
    }
    printf("%-*s  %s%-*s  %-*s  %-*s  %9s  %7s  %s\n", name, "NAME", versions ? "VERSION  " : "",
           state, "STATE", runtime, "RUNTIME", handler, "HANDLER", "MEMORY", "TIMEOUT", "MODIFIED");
    for (size_t i = 0; i < json_array_size(functions); i++) {
        const json_t *f = json_array_get(functions, i);
        char version[32] = "";

        if (versions)
            snprintf(version, sizeof(version), "%-7.20s  ", json_text(f, "Version"));
        printf("%-*s  %s%-*s  %-*s  %-*s  %5lld MiB  %5lld s  %.19s\n", name,
               json_text(f, "FunctionName"), version, state, state_of(f), runtime,
               json_text(f, "Runtime"), handler, json_text(f, "Handler"),
               (long long)json_whole(f, "MemorySize"), (long long)json_whole(f, "Timeout"),
               json_text(f, "LastModified"));
    }
}

static int ls(struct daemon_session *session, const struct functions_options *o)
{
    json_t *functions = NULL;
    struct error err;
    int r = list_all(session->client, FUNCTIONS, o->versions ? "FunctionVersion=ALL&" : "",
                     "Functions", &functions, &err);

    if (r == 0 && o->daemon.json)
        r = cli_print_json(json_pack("{s:o}", "functions", functions), &err);
    else if (r == 0 && json_array_size(functions) == 0)
        puts("no functions yet: 'mayfly deploy --help' says how to give it one");
    else if (r == 0)
        print_list(functions, o->versions);
    if (r < 0)
        return daemon_session_fail(session, &err);
    if (!o->daemon.json)
        json_decref(functions);
    return daemon_flush(session);
}

int cmd_ls(int argc, char **argv)
{
    struct functions_options o = {.versions = false};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&ls_syntax, argc, argv, &o);

    if (status < 0)
        status = daemon_session_open("ls", &o.daemon, &session);
    if (status < 0)
        status = ls(&session, &o);
    daemon_session_done(&session);
    return status;
}

/* --- get ---------------------------------------------------------------------------------------
 */

static const struct cli_option get_options[] = {DAEMON_OPTIONS(struct functions_options),
                                                {.name = NULL}};

const struct cli_syntax get_syntax = {
    .command = "get",
    .summary = "all that is known of one function",
    .usage = "NAME[:QUALIFIER] [OPTIONS]",
    .about = "QUALIFIER is a version's number or an alias.\n",
    .options = get_options,
    .examples =
        "Exit status: 0, 2 wrong usage or no such function, 3 the daemon does not answer.\n",
    .min_arguments = 1,
    .max_arguments = 1,
    .missing = "which function? 'mayfly ls' lists them",
    .argument = COMPLETE_FUNCTION,
};

static void print_line(const char *name, const char *value)
{
    if (*value)
        printf("%-13s %s\n", name, value);
}

static void print_environment(const json_t *configuration)
{
    json_t *variables = json_object_get(json_object_get(configuration, "Environment"), "Variables");
    const char *name, *what = "environment";
    json_t *value;

    json_object_foreach(variables, name, value)
    {
        printf("%-13s %s=", what, name);
        const char *text = json_string_value(value);
        cli_print_text(stdout, text ? text : "", text ? strlen(text) : 0);
        putchar('\n');
        what = "";
    }
}

static void print_function(const json_t *object)
{
    const json_t *c = json_object_get(object, "Configuration");
    const json_t *reserved =
        json_object_get(json_object_get(object, "Concurrency"), "ReservedConcurrentExecutions");
    const json_t *aliases = json_object_get(object, "Aliases");
    const json_t *versions = json_object_get(object, "Versions");

    print_line("name", json_text(c, "FunctionName"));
    print_line("arn", json_text(c, "FunctionArn"));
    print_line("description", json_text(c, "Description"));
    print_line("version", json_text(c, "Version"));
    print_line("state", state_of(c));
    print_line("because", json_text(c, "StateReason"));
    print_line("because", json_text(c, "LastUpdateStatusReason"));
    print_line("runtime", json_text(c, "Runtime"));
    print_line("handler", json_text(c, "Handler"));
    printf("%-13s %lld MiB, /tmp %lld MiB\n", "memory", (long long)json_whole(c, "MemorySize"),
           (long long)json_whole(json_object_get(c, "EphemeralStorage"), "Size"));
    printf("%-13s %lld s\n", "timeout", (long long)json_whole(c, "Timeout"));
    if (json_is_integer(reserved))
        printf("%-13s %lld reserved\n", "concurrency", (long long)json_integer_value(reserved));
    print_environment(c);
    printf("%-13s %lld bytes, SHA-256 %s\n", "code", (long long)json_whole(c, "CodeSize"),
           json_text(c, "CodeSha256"));
    print_line("modified", json_text(c, "LastModified"));
    for (size_t i = 0; i < json_array_size(aliases); i++)
        printf("%-13s %s → version %s\n", i ? "" : "aliases",
               json_text(json_array_get(aliases, i), "Name"),
               json_text(json_array_get(aliases, i), "FunctionVersion"));
    for (size_t i = 1; i < json_array_size(versions); i++) /* the first is $LATEST */
        printf("%-13s %s  %s  %.19s\n", i > 1 ? "" : "versions",
               json_text(json_array_get(versions, i), "Version"),
               state_of(json_array_get(versions, i)),
               json_text(json_array_get(versions, i), "LastModified"));
}

static int add_list(struct api_client *client, const char *name, const char *kind,
                    const char *member, json_t *object, struct error *err)
{
    json_t *items = NULL;
    char path[PATH_BYTES];
    int r = api_path(path, sizeof(path), err, FUNCTIONS "/%s/%s", name, kind);

    if (r == 0)
        r = list_all(client, path, "", member, &items, err);
    if (r == 0)
        (void)json_object_set_new(object, member, items);
    return r;
}

static int get(struct daemon_session *session, const struct functions_options *o, char *name)
{
    const char *qualifier;
    json_t *object = NULL;
    char path[PATH_BYTES];
    struct error err;

    daemon_split_name(name, &qualifier);
    int r = qualifier
                ? api_path(path, sizeof(path), &err, FUNCTIONS "/%s?Qualifier=%s", name, qualifier)
                : api_path(path, sizeof(path), &err, FUNCTIONS "/%s", name);
    if (r == 0)
        r = api_client_json(session->client, "GET", path, NULL, &object, &err);
    if (r == 0 && !qualifier)
        r = add_list(session->client, name, "aliases", "Aliases", object, &err);
    if (r == 0 && !qualifier)
        r = add_list(session->client, name, "versions", "Versions", object, &err);
    if (r == 0 && o->daemon.json)
        r = cli_print_json(json_incref(object), &err);
    else if (r == 0)
        print_function(object);
    json_decref(object);
    return r < 0 ? daemon_session_fail(session, &err) : daemon_flush(session);
}

int cmd_get(int argc, char **argv)
{
    struct functions_options o = {.versions = false};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&get_syntax, argc, argv, &o);

    if (status < 0)
        status = daemon_session_open("get", &o.daemon, &session);
    if (status < 0)
        status = get(&session, &o, argv[optind]);
    daemon_session_done(&session);
    return status;
}

/* --- rm ----------------------------------------------------------------------------------------
 */

static const struct cli_option rm_options[] = {DAEMON_OPTIONS(struct functions_options),
                                               {.name = NULL}};

const struct cli_syntax rm_syntax = {
    .command = "rm",
    .summary = "remove functions, or published versions of them",
    .usage = "NAME[:VERSION]... [OPTIONS]",
    .about =
        "NAME alone removes the function with all its versions, aliases, settings and waiting\n"
        "events. What runs is let finish.\n",
    .options = rm_options,
    .examples =
        "Examples\n"
        "  mayfly rm wordcount\n"
        "  mayfly rm wordcount:3\n"
        "\n"
        "Exit status: 0 all are gone, 2 wrong usage or no such function, 3 the daemon could not.\n",
    .min_arguments = 1,
    .max_arguments = 1000,
    .missing = "which function? 'mayfly ls' lists them",
    .argument = COMPLETE_FUNCTION,
};

static int rm_one(struct daemon_session *session, char *name, struct error *err)
{
    const char *qualifier;
    char path[PATH_BYTES];

    daemon_split_name(name, &qualifier);
    int r = qualifier
                ? api_path(path, sizeof(path), err, FUNCTIONS "/%s?Qualifier=%s", name, qualifier)
                : api_path(path, sizeof(path), err, FUNCTIONS "/%s", name);
    return r < 0 ? r : api_client_json(session->client, "DELETE", path, NULL, NULL, err);
}

static int rm(struct daemon_session *session, const struct functions_options *o, int n,
              char **names)
{
    json_t *removed = json_array();
    int status = CLI_OK;
    struct error err;

    for (int i = 0; i < n && status != CLI_HOST_ERROR && status != CLI_INTERRUPTED; i++) {
        json_t *name = json_string(names[i]);

        if (rm_one(session, names[i], &err) < 0) {
            status = daemon_session_fail(session, &err);
        } else {
            if (!o->daemon.json)
                printf("removed %s\n", json_string_value(name));
            (void)json_array_append(removed, name);
        }
        json_decref(name);
    }
    if (!o->daemon.json)
        json_decref(removed);
    else if (cli_print_json(json_pack("{s:o}", "removed", removed), &err) < 0)
        status = daemon_session_fail(session, &err);
    return status != CLI_OK ? status : daemon_flush(session);
}

int cmd_rm(int argc, char **argv)
{
    struct functions_options o = {.versions = false};
    struct daemon_session session = {.client = NULL};
    int status = cli_syntax_parse(&rm_syntax, argc, argv, &o);

    if (status < 0)
        status = daemon_session_open("rm", &o.daemon, &session);
    if (status < 0)
        status = rm(&session, &o, argc - optind, argv + optind);
    daemon_session_done(&session);
    return status;
}
