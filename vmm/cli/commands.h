/* The commands of `mayfly`: each takes its own argv (argv[0] is its name), returns the exit status
 * (cli_common.h). Process: the CLI. */
#ifndef MAYFLY_CLI_COMMANDS_H
#define MAYFLY_CLI_COMMANDS_H

#include <stddef.h>

#include "cli_syntax.h"

/* On this host. */
int cmd_run(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_backup(int argc, char **argv);
int cmd_restore_backup(int argc, char **argv);
int cmd_completion(int argc, char **argv);

/* At a daemon. */
int cmd_deploy(int argc, char **argv);
int cmd_invoke(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_get(int argc, char **argv);
int cmd_rm(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_metrics(int argc, char **argv);

extern const struct cli_syntax deploy_syntax, invoke_syntax, ls_syntax, get_syntax, rm_syntax,
    logs_syntax, top_syntax, metrics_syntax, backup_syntax, restore_backup_syntax;

/* A command, as help and completion have it. */
struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
    const struct cli_syntax *syntax; /* NULL: it has its own help */
};

struct command_group {
    const char *title;
    const struct command *commands;
    size_t n;
};

extern const struct command_group command_groups[];
extern const size_t n_command_groups;

/* command_find - by its name; NULL: there is none. */
const struct command *command_find(const char *name);

#endif
