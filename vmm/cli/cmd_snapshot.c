/*
 * `mayfly snapshot`: look after the frozen microVMs of this host. Process: the CLI.
 * Its arguments are the administrator's; what the store or an archive holds is checked by
 * snapshot/. stdout has the result only; progress and errors go to stderr.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli_common.h"
#include "cli/cmd_snapshot_print.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "common/bytes.h"
#include "common/fd.h"

#define COMMAND "snapshot"

static const char help[] =
    "mayfly snapshot - the frozen microVMs that functions of this host start from\n"
    "\n"
    "A snapshot is a microVM that was stopped in mid-air: its memory, its CPU and its devices.\n"
    "Starting from one takes milliseconds, booting takes seconds. Snapshots form a tree: a base\n"
    "(kernel and agent are up), below it a runtime (the interpreter is loaded), below that the\n"
    "functions (their init phase is done). Each keeps only what differs from its parent.\n"
    "\n"
    "  mayfly snapshot create DIR|ZIP … -o NAME   make one; options as of 'mayfly run'\n"
    "  mayfly snapshot ls                   what there is, children below their parents\n"
    "  mayfly snapshot inspect NAME         all that is known of one\n"
    "  mayfly snapshot verify [NAME]        read and check every byte of one, or of all\n"
    "  mayfly snapshot rm NAME...           remove; --recursive: with all that are below\n"
    "  mayfly snapshot gc                   remove what nobody can use: snapshots without a name\n"
    "                                       or a child, left-overs, the cache over its limit\n"
    "  mayfly snapshot export NAME FILE     one snapshot and its parents, as a tar archive\n"
    "  mayfly snapshot import FILE          take over such an archive; it is checked first\n"
    "\n"
    "NAME is a snapshot's name or the first 8 or more digits of its id. A name in brackets now\n"
    "stands for a newer snapshot. CACHED is memory that is ready to be mapped; it is made on the\n"
    "first start from a snapshot, and can go at any time: running VMs keep theirs.\n"
    "\n"
    "Options\n"
    "  --state DIR        host state (default: $MAYFLY_STATE, /var/lib/mayfly)\n"
    "  --json             print the result as one JSON object\n"
    "  --recursive        rm: the snapshots below go too\n"
    "  --cache-limit MIB  gc: how much flattened memory may stay (default: 8192)\n"
    "\n"
    "Examples\n"
    "  mayfly snapshot ls\n"
    "  mayfly snapshot export hello hello.tar && scp hello.tar other-host:\n"
    "  mayfly snapshot import hello.tar && mayfly run --snapshot hello --event '{}'\n"
    "  mayfly snapshot rm python3.11 --recursive && mayfly snapshot gc\n"
    "\n"
    "Exit status: 0 done, 2 wrong usage, 3 it failed (one line on stderr says why).\n";

struct options {
    const char *state; /* NULL: not given */
    uint64_t cache_limit_mib;
    bool json, recursive, help;
};

/* One command under way. */
struct context {
    struct options options;
    struct snapshot_store *store; /* owned */
    struct progress progress;
};

/* --- the commands: arguments are what follows the options, their number has been checked ------ */

static int inspect_named(struct context *context, const char *name, struct snapshot_info *info,
                         struct error *err)
{
    char id[SNAPSHOT_ID_HEX + 1];
    int r = snapshot_store_find(context->store, name, id, err);

    return r < 0 ? r : snapshot_store_inspect(context->store, id, info, err);
}

static int do_ls(struct context *context, char **arguments, struct error *err)
{
    AUTO_FREE struct snapshot_info *list = NULL;
    size_t n = 0;
    int r = snapshot_store_list(context->store, &list, &n, err);

    (void)arguments;
    if (r < 0)
        return r;
    if (context->options.json) {
        json_t *snapshots = json_array();

        for (size_t i = 0; i < n; i++)
            json_array_append_new(snapshots, snapshot_to_json(&list[i]));
        return cli_print_json(json_pack("{s:o}", "snapshots", snapshots), err);
    }
    if (n == 0)
        printf("no snapshots in '%s'\n", cli_state_directory(context->options.state));
    else
        snapshot_print_tree(list, n);
    return 0;
}

static int do_inspect(struct context *context, char **arguments, struct error *err)
{
    struct snapshot_info info;
    int r = inspect_named(context, arguments[0], &info, err);

    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(snapshot_to_json(&info), err);
    snapshot_print_info(&info);
    return 0;
}

static int verify_list(struct context *context, const struct snapshot_info *list, size_t n,
                       struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = list[i].problem[0] ? error_say(err, EBADMSG, "%s", list[i].problem)
                               : snapshot_store_verify(context->store, list[i].manifest.id, err);
    progress_done(&context->progress, r == 0);
    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(json_pack("{s:s, s:I}", "status", "ok", "snapshots", (json_int_t)n),
                              err);
    for (size_t i = 0; i < n; i++)
        printf("%s: good (%.*s)\n", list[i].manifest.name, SNAPSHOT_ID_SHOWN, list[i].manifest.id);
    return 0;
}

static int do_verify(struct context *context, char **arguments, struct error *err)
{
    AUTO_FREE struct snapshot_info *list = NULL;
    struct snapshot_info one;
    size_t n = 1;
    int r = arguments[0] ? inspect_named(context, arguments[0], &one, err)
                         : snapshot_store_list(context->store, &list, &n, err);

    return r < 0 ? r : verify_list(context, list ? list : &one, n, err);
}

static int do_rm(struct context *context, char **arguments, struct error *err)
{
    size_t n = 0;

    for (; arguments[n]; n++) {
        int r =
            snapshot_store_remove(context->store, arguments[n], context->options.recursive, err);

        if (r < 0)
            return r;
    }
    if (context->options.json)
        return cli_print_json(json_pack("{s:s, s:I}", "status", "ok", "removed", (json_int_t)n),
                              err);
    return 0;
}

static int do_gc(struct context *context, char **arguments, struct error *err)
{
    struct snapshot_gc gc;
    int r;

    (void)arguments;
    snapshot_store_set_cache_limit(context->store, context->options.cache_limit_mib << 20);
    r = snapshot_store_gc(context->store, &gc, err);
    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I}", "status", "ok", "snapshots",
                                        (json_int_t)gc.snapshots, "cached", (json_int_t)gc.cached,
                                        "names", (json_int_t)gc.names, "freed_bytes",
                                        (json_int_t)gc.freed_bytes),
                              err);
    printf("removed: %u snapshots, %u flattened memories, %u names; %.1f MiB freed\n", gc.snapshots,
           gc.cached, gc.names, (double)gc.freed_bytes / 1048576);
    return 0;
}

static int do_export(struct context *context, char **arguments, struct error *err)
{
    char id[SNAPSHOT_ID_HEX + 1];
    int r = snapshot_store_find(context->store, arguments[0], id, err);

    if (r == 0)
        r = snapshot_store_export(context->store, id, arguments[1], err);
    progress_done(&context->progress, r == 0);
    if (r == 0 && context->options.json)
        return cli_print_json(
            json_pack("{s:s, s:s, s:s}", "status", "ok", "id", id, "file", arguments[1]), err);
    return r;
}

static int do_import(struct context *context, char **arguments, struct error *err)
{
    struct snapshot_info info;
    char id[SNAPSHOT_ID_HEX + 1];
    int r = snapshot_store_import(context->store, arguments[0], id, err);

    progress_done(&context->progress, r == 0);
    if (r == 0)
        r = snapshot_store_inspect(context->store, id, &info, err);
    if (r < 0)
        return r;
    if (context->options.json)
        return cli_print_json(
            json_pack("{s:s, s:s, s:s}", "status", "ok", "id", id, "name", info.manifest.name),
            err);
    printf("%s  %.*s\n", info.manifest.name, SNAPSHOT_ID_SHOWN, id);
    return 0;
}

static const struct subcommand {
    const char *name;
    int (*run)(struct context *context, char **arguments, struct error *err);
    int n_min, n_max;
} subcommands[] = {
    {"ls", do_ls, 0, 0},         {"inspect", do_inspect, 1, 1}, {"verify", do_verify, 0, 1},
    {"rm", do_rm, 1, INT_MAX},   {"gc", do_gc, 0, 0},           {"export", do_export, 2, 2},
    {"import", do_import, 1, 1},
};

/* --- options --------------------------------------------------------------------------------- */

/* CLI_OK, or CLI_USAGE after saying what is wrong. Arguments end up at argv[optind]. */
static int parse_options(int argc, char **argv, struct options *options)
{
    enum { STATE = 256, JSON, RECURSIVE, CACHE_LIMIT };
    static const struct option known[] = {{"state", required_argument, NULL, STATE},
                                          {"json", no_argument, NULL, JSON},
                                          {"recursive", no_argument, NULL, RECURSIVE},
                                          {"cache-limit", required_argument, NULL, CACHE_LIMIT},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option;

    *options = (struct options){.cache_limit_mib = SNAPSHOT_CACHE_BYTES_DEFAULT >> 20};
    optind = 0; /* as if getopt had never run */
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (option) {
        case STATE:
            options->state = optarg;
            break;
        case JSON:
            options->json = true;
            break;
        case RECURSIVE:
            options->recursive = true;
            break;
        case CACHE_LIMIT:
            if (!cli_parse_number(optarg, 0, UINT32_MAX, &options->cache_limit_mib))
                return cli_usage(COMMAND, "--cache-limit '%s' is no number of MiB", optarg);
            break;
        case 'h':
            options->help = true;
            break;
        default:
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

static int open_store(struct context *context, struct error *err)
{
    const volatile sig_atomic_t *cancelled = NULL;
    char path[PATH_MAX];
    int r = cli_catch_interrupts(&cancelled);

    if (r < 0)
        return error_set(err, -r, "watch for Ctrl-C");
    if (snprintf(path, sizeof(path), "%s/snapshots", cli_state_directory(context->options.state)) >=
        (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "state directory");
    r = snapshot_store_open(path, &context->store, err);
    if (r < 0)
        return r;
    snapshot_store_on_progress(context->store, progress_report, &context->progress);
    snapshot_store_set_cancel(context->store, cancelled);
    return 0;
}

static int run_subcommand(const struct subcommand *subcommand, struct context *context,
                          char **arguments)
{
    struct error err = {0};
    int r = open_store(context, &err);

    progress_init(&context->progress);
    if (r == 0)
        r = subcommand->run(context, arguments, &err);
    snapshot_store_close(context->store);
    if (r >= 0)
        return CLI_OK;
    cli_complain(COMMAND, "%s: %s", subcommand->name, err.text);
    if (context->options.json)
        cli_print_json(json_pack("{s:s, s:{s:s}}", "status", "error", "error", "message", err.text),
                       NULL);
    return r == -EINTR ? CLI_INTERRUPTED : CLI_HOST_ERROR;
}

int cmd_snapshot(int argc, char **argv)
{
    struct context context = {0};

    /* Making one is running a function up to its first event: the same options, the same file. */
    if (argc > 1 && strcmp(argv[1], "create") == 0)
        return cmd_run(argc - 1, argv + 1);
    int status = parse_options(argc, argv, &context.options);
    if (status != CLI_OK)
        return status;
    if (context.options.help) {
        fputs(help, stdout);
        return CLI_OK;
    }
    int n = argc - optind - 1;
    if (n < 0)
        return cli_usage(COMMAND,
                         "say what to do: create, ls, inspect, verify, rm, gc, export or import");
    const char *name = argv[optind];
    for (size_t i = 0; i < ARRAY_LEN(subcommands); i++) {
        if (strcmp(subcommands[i].name, name) != 0)
            continue;
        if (n < subcommands[i].n_min || n > subcommands[i].n_max)
            return cli_usage(COMMAND, "'%s' has too few or too many arguments", name);
        return run_subcommand(&subcommands[i], &context, argv + optind + 1);
    }
    return cli_usage(COMMAND, "'%s' is not a command", name);
}
