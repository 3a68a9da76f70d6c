/* `mayfly backup` and `mayfly restore-backup`: a state directory's durable part in one file, on the
 * host that has it. Process: the CLI. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"
#include "host/store/state_backup.h"
#include "progress.h"

struct backup_options {
    const char *state;
    bool json;
};

static const struct cli_option options[] = {
    {"state", 0, CLI_TEXT, offsetof(struct backup_options, state), "DIR",
     "the state directory (default $MAYFLY_STATE, /var/lib/mayfly)", 0, 0, COMPLETE_DIRECTORY},
    {"json", 0, CLI_FLAG, offsetof(struct backup_options, json), NULL,
     "print one JSON object on stdout", 0, 0, COMPLETE_NOTHING},
    {.name = NULL}};

const struct cli_syntax backup_syntax = {
    .command = "backup",
    .summary = "functions, code and queue of this host in one file",
    .usage = "FILE [OPTIONS]",
    .about =
        "A tar.zst of one moment, while the daemon goes on or not: its database (functions,\n"
        "versions, aliases, settings, queued events), the code, and its own access key, so keep\n"
        "the file as secret as that. Images and snapshots are not in it: images are built, and\n"
        "snapshots made again when a function is first used.\n",
    .options = options,
    .examples = "Examples\n"
                "  mayfly backup /backup/mayfly-$(date +%F).tar.zst\n"
                "  tar --zstd -tf /backup/mayfly-2026-01-31.tar.zst\n"
                "\n"
                "Exit status: 0, 2 wrong usage or no such state, 3 it failed, 130 interrupted.\n",
    .min_arguments = 1,
    .max_arguments = 1,
    .missing = "into which file?",
    .argument = COMPLETE_FILE,
};

const struct cli_syntax restore_backup_syntax = {
    .command = "restore-backup",
    .summary = "such a file into an empty state directory",
    .usage = "FILE [OPTIONS]",
    .about = "Reads and checks all of it before anything gets its place. Start mayflyd on the "
             "directory\n"
             "afterwards; it needs images there (mayfly image build, or make install-assets).\n",
    .options = options,
    .examples = "Example\n"
                "  mayfly restore-backup mayfly.tar.zst --state /var/lib/mayfly\n"
                "\n"
                "Exit status: 0, 2 wrong usage or file, 3 it failed, 130 interrupted.\n",
    .min_arguments = 1,
    .max_arguments = 1,
    .missing = "from which file?",
    .argument = COMPLETE_FILE,
};

static int status_of(const struct error *err)
{
    switch (err->code) {
    case EINTR:
        return CLI_INTERRUPTED;
    case ENOENT:
    case EEXIST:
    case EINVAL:
    case EBADMSG:
    case ENOTSUP:
    case EISDIR:
    case ENOTDIR:
        return CLI_USAGE;
    default:
        return CLI_HOST_ERROR;
    }
}

static int tell(const struct backup_options *o, const char *done, const char *file,
                const struct state_backup_result *result)
{
    struct error err;
    int r = 0;

    if (o->json)
        r = cli_print_json(
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "file", file, "bytes",
                      (json_int_t)result->bytes, "functions", (json_int_t)result->functions,
                      "versions", (json_int_t)result->versions, "codes", (json_int_t)result->codes,
                      "events", (json_int_t)result->events),
            &err);
    else
        printf("%s %s: %llu functions, %llu versions, %llu zips, %llu queued events; %.1f MiB\n",
               done, file, (unsigned long long)result->functions,
               (unsigned long long)result->versions, (unsigned long long)result->codes,
               (unsigned long long)result->events, (double)result->bytes / (1 << 20));
    return r == 0 && fflush(stdout) == 0 ? CLI_OK : CLI_HOST_ERROR;
}

static int run(const struct cli_syntax *syntax, int argc, char **argv,
               int (*work)(const struct state_backup_options *, struct state_backup_result *,
                           struct error *),
               const char *done)
{
    struct backup_options o = {.json = false};
    const volatile sig_atomic_t *interrupted = NULL;
    struct state_backup_result result;
    struct progress progress;
    struct error err;
    int status = cli_syntax_parse(syntax, argc, argv, &o);

    if (status >= 0)
        return status;
    if (cli_catch_interrupts(&interrupted) < 0) {
        cli_complain(syntax->command, "catch interrupts: no descriptor is left");
        return CLI_HOST_ERROR;
    }
    progress_init(&progress);
    const struct state_backup_options backup = {.state = cli_state_directory(o.state),
                                                .file = argv[optind],
                                                .cancel = interrupted,
                                                .progress =
                                                    progress.terminal ? progress_report : NULL,
                                                .opaque = &progress};
    int r = work(&backup, &result, &err);
    progress_done(&progress, r == 0);
    if (r < 0) {
        cli_complain(syntax->command, "%s", err.text);
        return status_of(&err);
    }
    return tell(&o, done, argv[optind], &result);
}

int cmd_backup(int argc, char **argv)
{
    return run(&backup_syntax, argc, argv, state_backup_write, "wrote");
}

int cmd_restore_backup(int argc, char **argv)
{
    return run(&restore_backup_syntax, argc, argv, state_backup_restore, "restored");
}
