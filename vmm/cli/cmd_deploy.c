/* `mayfly deploy`: functions, from the command line or from mayfly.yaml, to the daemon. Process:
 * the CLI. */
#include <errno.h>
#include <limits.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_common.h"
#include "commands.h"
#include "common/fd.h"
#include "daemon_session.h"
#include "deploy.h"
#include "host/deploy_file.h"

#define COMMAND "deploy"
#define DEFAULT_FILE "mayfly.yaml"

struct deploy_options {
    struct daemon_options daemon;
    const char *name, *runtime, *handler, *description, *role, *alias, *file;
    uint64_t memory_mib, timeout_s, tmp_mib, concurrency;
    struct cli_list environment;
    bool publish, no_wait;
};

enum { NO_CONCURRENCY = 1000000 + 1 }; /* not said */

#define OPTION(name, letter, kind, member, value, help, ...)                                       \
    {                                                                                              \
        name, letter, kind, offsetof(struct deploy_options, member), value, help, __VA_ARGS__      \
    }

static const struct cli_option options[] = {
    OPTION("name", 'n', CLI_TEXT, name, "NAME",
           "what it is called (default: the directory's name); in a\n"
           "mayfly.yaml: deploy only this one",
           0, 0, COMPLETE_FUNCTION),
    OPTION("runtime", 'r', CLI_TEXT, runtime, "NAME",
           "python3.11, nodejs18.x, or provided: an executable\n"
           "'bootstrap' that speaks the Lambda Runtime API",
           0, 0, COMPLETE_NOTHING),
    OPTION("handler", 0, CLI_TEXT, handler, "NAME", "what to call: FILE.FUNCTION, as app.handler",
           0, 0, COMPLETE_NOTHING),
    OPTION("memory", 'm', CLI_NUMBER, memory_mib, "MIB", "128 (default) to 10240", 128, 10240,
           COMPLETE_NOTHING),
    OPTION("timeout", 't', CLI_NUMBER, timeout_s, "SECONDS",
           "of one invocation: 1 to 900 (default 3)", 1, 900, COMPLETE_NOTHING),
    OPTION("tmp", 0, CLI_NUMBER, tmp_mib, "MIB", "of /tmp: 512 (default) to 10240", 512, 10240,
           COMPLETE_NOTHING),
    OPTION("env", 'e', CLI_LIST, environment, "K=V",
           "an environment variable; may be repeated; together they\n"
           "replace those that the function has",
           0, 0, COMPLETE_NOTHING),
    OPTION("concurrency", 0, CLI_NUMBER, concurrency, "N",
           "reserve so many invocations at once for it; no more run", 0, 1000000, COMPLETE_NOTHING),
    OPTION("description", 0, CLI_TEXT, description, "TEXT", "a line about it", 0, 0,
           COMPLETE_NOTHING),
    OPTION("role", 0, CLI_TEXT, role, "ARN",
           "kept for tools that ask for it; Mayfly gives it no rights", 0, 0, COMPLETE_NOTHING),
    OPTION("publish", 'p', CLI_FLAG, publish, NULL,
           "publish a version of it, which never changes again", 0, 0, COMPLETE_NOTHING),
    OPTION("alias", 'a', CLI_TEXT, alias, "NAME",
           "publish, and let this alias point to that version", 0, 0, COMPLETE_NOTHING),
    OPTION("no-wait", 0, CLI_FLAG, no_wait, NULL, "return when the daemon has it, and builds it", 0,
           0, COMPLETE_NOTHING),
    OPTION("file", 'f', CLI_TEXT, file, "FILE",
           "deploy what this file lists (default " DEFAULT_FILE ")", 0, 0, COMPLETE_FILE),
    DAEMON_OPTIONS(struct deploy_options),
    {.name = NULL}};

const struct cli_syntax deploy_syntax = {
    .command = COMMAND,
    .summary = "give functions to the daemon, or bring them up to date",
    .usage = "DIR|ZIP --runtime NAME --handler FILE.FUNCTION [OPTIONS]\n"
             "[--file FILE] [OPTIONS]",
    .about =
        "Packs the function's files, sends them, and waits until the function can be invoked: the\n"
        "daemon boots it once, runs its init phase and keeps a snapshot that every later start is\n"
        "restored from. Only what differs from what is deployed is changed; what you do not say\n"
        "stays as it is. .git, __pycache__ and mayfly.yaml are left out.\n"
        "\n"
        "Without DIR it deploys what ./mayfly.yaml lists:\n"
        "\n"
        "  functions:\n"
        "    - name: wordcount\n"
        "      runtime: python3.11\n"
        "      handler: app.handler\n"
        "      code: src                    # directory or ZIP, from the file's place; default .\n"
        "      memory: 256                  # MiB; the rest may be left out, too\n"
        "      timeout: 10                  # seconds\n"
        "      environment: [STAGE=test, \"GREETING=hello, you\"]\n"
        "      concurrency: 10              # reserved\n",
    .options = options,
    .examples =
        "Examples\n"
        "  mayfly deploy examples/wordcount --runtime python3.11 --handler app.handler\n"
        "  mayfly deploy --alias live       # all of ./mayfly.yaml, published as 'live'\n"
        "  mayfly invoke wordcount --event '{\"text\":\"to be\"}'\n"
        "\n"
        "Exit status: 0 all can be invoked; 1 one is deployed, but its init phase fails; 2 wrong\n"
        "usage, package or file; 3 the daemon could not; 130 interrupted.\n",
    .min_arguments = 0,
    .max_arguments = 1,
    .argument = COMPLETE_DIRECTORY,
};

/* All that is under way. */
struct deploy {
    struct deploy_options options;
    struct daemon_session session;
    json_t *told; /* for --json */
    int status;
};

/* --- telling -----------------------------------------------------------------------------------
 */

static void tell_json(struct deploy *deploy, const struct deploy_wanted *wanted,
                      const struct deploy_outcome *outcome)
{
    static const char *const words[] = {[DEPLOY_UNCHANGED] = "unchanged",
                                        [DEPLOY_CREATED] = "created",
                                        [DEPLOY_UPDATED] = "updated"};
    json_t *object = json_pack("{s:s, s:s, s:O, s:s, s:s, s:f}", "name", wanted->name, "action",
                               words[outcome->action], "changed", outcome->changed, "state",
                               outcome->failed ? "Failed" : "Active", "arn",
                               json_text(outcome->configuration, "FunctionArn"), "seconds",
                               (double)outcome->took_ms / 1000.0);

    if (outcome->version[0])
        (void)json_object_set_new(object, "version", json_string(outcome->version));
    if (outcome->failed)
        (void)json_object_set_new(object, "reason", json_string(outcome->reason));
    (void)json_array_append_new(deploy->told, object);
}

/* "Code, MemorySize" */
static void join_names(const json_t *names, char *to, size_t size)
{
    size_t used = 0;

    to[0] = '\0';
    for (size_t i = 0; i < json_array_size(names) && used < size; i++)
        used += (size_t)snprintf(to + used, size - used, "%s%s", i ? ", " : "",
                                 json_string_value(json_array_get(names, i)));
}

static void tell(struct deploy *deploy, const struct deploy_wanted *wanted,
                 const struct deploy_outcome *outcome)
{
    const json_t *have = outcome->configuration;
    char changed[300];

    join_names(outcome->changed, changed, sizeof(changed));
    printf("%s: ", wanted->name);
    if (outcome->action == DEPLOY_UNCHANGED)
        fputs("unchanged", stdout);
    else
        printf("%s%s%s%s in %.1f s", outcome->action == DEPLOY_CREATED ? "created" : "updated",
               changed[0] ? " (" : "", changed, changed[0] ? ")" : "",
               (double)outcome->took_ms / 1000.0);
    printf("; %s, %s, %lld MiB, %lld s\n", json_text(have, "Runtime"), json_text(have, "Handler"),
           (long long)json_whole(have, "MemorySize"), (long long)json_whole(have, "Timeout"));
    if (outcome->version[0])
        printf("  version %s%s%s\n", outcome->version, wanted->alias ? ", alias " : "",
               wanted->alias ? wanted->alias : "");
    fflush(stdout);
    if (outcome->failed)
        cli_complain(COMMAND, "'%s' %s: %s", wanted->name,
                     strcmp(json_text(have, "State"), "Active") == 0
                         ? "goes on as it was, its update failed"
                         : "is deployed, but cannot run",
                     outcome->reason[0] ? outcome->reason : "its init phase failed");
    else if (wanted->no_wait && outcome->action != DEPLOY_UNCHANGED)
        fputs("  the daemon builds it: 'mayfly ls' says when it is Active\n", stderr);
    else if (!deploy->options.file && outcome->action != DEPLOY_UNCHANGED && isatty(STDERR_FILENO))
        fprintf(stderr, "  invoke it: mayfly invoke %s%s%s --event '{}'\n", wanted->name,
                wanted->alias ? ":" : "", wanted->alias ? wanted->alias : "");
}

/* --- doing -------------------------------------------------------------------------------------
 */

static void deploy_one(struct deploy *deploy, const struct deploy_wanted *wanted)
{
    struct stage_ticker *ticker = stage_ticker_new();
    struct deploy_outcome outcome;
    struct error err;
    int r = deploy_function(deploy->session.client, wanted, ticker, deploy->session.interrupt_fd,
                            &outcome, &err);

    stage_ticker_free(ticker);
    if (r < 0) {
        if (r != -EHOSTDOWN && r != -EINTR)
            error_wrap(&err, "'%s'", wanted->name);
        deploy->status = daemon_session_fail(&deploy->session, &err);
        return;
    }
    if (deploy->options.daemon.json)
        tell_json(deploy, wanted, &outcome);
    else
        tell(deploy, wanted, &outcome);
    if (outcome.failed)
        deploy->status = CLI_FUNCTION_ERROR;
    deploy_outcome_done(&outcome);
}

/* "path/to/word count/" → "word-count". */
static void name_of(const char *path, char name[65])
{
    char real[PATH_MAX];
    size_t n = 0;

    if (!realpath(path, real)) /* what is wrong with it, packing will say */
        snprintf(real, sizeof(real), "%s", path);
    const char *slash = strrchr(real, '/');
    for (const char *c = slash ? slash + 1 : real; *c && *c != '.' && n < 64; c++)
        name[n++] = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", *c)
                        ? *c
                        : '-';
    name[n] = '\0';
    if (strspn(name, "-") == n)
        snprintf(name, 65, "function");
}

static void deploy_directory(struct deploy *deploy, const char *path)
{
    const struct deploy_options *o = &deploy->options;
    char name[65];
    struct deploy_wanted wanted = {
        .name = o->name ? o->name : name,
        .code = path,
        .runtime = o->runtime,
        .handler = o->handler,
        .description = o->description,
        .role = o->role,
        .memory_mib = o->memory_mib,
        .timeout_s = o->timeout_s,
        .tmp_mib = o->tmp_mib,
        .environment = o->environment.values,
        .n_environment = o->environment.n,
        .has_environment = o->environment.n > 0,
        .concurrency = o->concurrency == NO_CONCURRENCY ? -1 : (int64_t)o->concurrency,
        .publish = o->publish,
        .alias = o->alias,
        .no_wait = o->no_wait};

    name_of(path, name);
    if (!wanted.handler && wanted.runtime && strncmp(wanted.runtime, "provided", 8) == 0)
        wanted.handler = "bootstrap";
    deploy_one(deploy, &wanted);
}

/* @code is relative to where the file is. */
static int place(const char *file, const char *code, char path[PATH_MAX])
{
    const char *slash = strrchr(file, '/');
    int len = slash && code[0] != '/' ? (int)(slash - file) + 1 : 0;

    return snprintf(path, PATH_MAX, "%.*s%s", len, file, code) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static void deploy_listed(struct deploy *deploy, const char *file,
                          const struct deploy_function *function)
{
    char path[PATH_MAX];
    struct deploy_wanted wanted = {.name = function->name,
                                   .code = path,
                                   .runtime = function->runtime,
                                   .handler = function->handler,
                                   .description = function->description,
                                   .role = function->role,
                                   .memory_mib = function->memory,
                                   .timeout_s = function->timeout,
                                   .tmp_mib = function->tmp,
                                   .environment = (const char *const *)function->environment,
                                   .n_environment = function->n_environment,
                                   .has_environment = function->environment != NULL,
                                   .concurrency =
                                       function->concurrency ? *function->concurrency : -1,
                                   .publish = deploy->options.publish,
                                   .alias = deploy->options.alias,
                                   .no_wait = deploy->options.no_wait};

    if (place(file, function->code ? function->code : ".", path) < 0)
        deploy->status = cli_usage(COMMAND, "%s: the path of '%s' is too long", file, wanted.name);
    else
        deploy_one(deploy, &wanted);
}

/* One after the other; goes on after a failure that is one function's own. */
static void deploy_file(struct deploy *deploy, const char *path)
{
    const char *only = deploy->options.name;
    struct deploy_file *file = NULL;
    struct error err;
    bool found = false;

    if (deploy_file_load(path, &file, &err) < 0) {
        deploy->status = err.code == ENOENT && !deploy->options.file
                             ? cli_usage(COMMAND, "there is no " DEFAULT_FILE
                                                  " here: say which directory to deploy, or "
                                                  "--file FILE")
                             : daemon_session_fail(&deploy->session, &err);
        return;
    }
    for (unsigned i = 0; i < file->n_functions && deploy->status != CLI_HOST_ERROR &&
                         deploy->status != CLI_INTERRUPTED;
         i++) {
        if (only && strcmp(only, file->functions[i].name) != 0)
            continue;
        found = true;
        deploy_listed(deploy, path, &file->functions[i]);
    }
    deploy_file_free(file);
    if (!found)
        deploy->status = cli_usage(COMMAND, "%s has no function '%s'", path, only);
}

/* What only makes sense for one function, and NAME=VALUE. -1: go on. */
static int check(const struct deploy_options *o, bool has_directory)
{
    if (o->no_wait && (o->publish || o->alias))
        return cli_usage(COMMAND, "--no-wait: a version can only be published of what is built");
    if (has_directory && o->file)
        return cli_usage(COMMAND, "a directory or --file, not both");
    if (!has_directory &&
        (o->runtime || o->handler || o->memory_mib || o->timeout_s || o->tmp_mib ||
         o->environment.n || o->concurrency != NO_CONCURRENCY || o->description || o->role))
        return cli_usage(COMMAND, "which directory? Without one, all of this is read from %s",
                         o->file ? o->file : DEFAULT_FILE);
    for (size_t i = 0; i < o->environment.n; i++) {
        const char *equals = strchr(o->environment.values[i], '=');

        if (!equals || equals == o->environment.values[i])
            return cli_usage(COMMAND, "--env is NAME=VALUE, not '%s'", o->environment.values[i]);
    }
    return -1;
}

static void run(struct deploy *deploy, const char *directory)
{
    struct error err;

    if (directory)
        deploy_directory(deploy, directory);
    else
        deploy_file(deploy, deploy->options.file ? deploy->options.file : DEFAULT_FILE);
    if (deploy->options.daemon.json && json_array_size(deploy->told) > 0 &&
        cli_print_json(json_pack("{s:O}", "functions", deploy->told), &err) < 0)
        deploy->status = daemon_session_fail(&deploy->session, &err);
}

int cmd_deploy(int argc, char **argv)
{
    struct deploy deploy = {.options = {.concurrency = NO_CONCURRENCY}, .told = json_array()};
    int status = cli_syntax_parse(&deploy_syntax, argc, argv, &deploy.options);
    const char *directory = status < 0 && optind < argc ? argv[optind] : NULL;

    if (status < 0)
        status = check(&deploy.options, directory != NULL);
    if (status < 0)
        status = daemon_session_open(COMMAND, &deploy.options.daemon, &deploy.session);
    if (status < 0) {
        run(&deploy, directory);
        status = deploy.status;
    }
    daemon_session_done(&deploy.session);
    cli_list_done(&deploy.options.environment);
    json_decref(deploy.told);
    return status;
}
