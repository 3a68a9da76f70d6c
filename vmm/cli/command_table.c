/* Which commands there are: see commands.h. Process: the CLI. */
#include <string.h>

#include "cmd_image.h"
#include "commands.h"
#include "common/bytes.h"

static const struct command daemon_commands[] = {
    {"deploy", cmd_deploy, "give functions to the daemon, or bring them up to date",
     &deploy_syntax},
    {"invoke", cmd_invoke, "run a deployed function once, with an event", &invoke_syntax},
    {"ls", cmd_ls, "list the functions", &ls_syntax},
    {"get", cmd_get, "all that is known of one function", &get_syntax},
    {"rm", cmd_rm, "remove functions, or published versions of them", &rm_syntax},
    {"logs", cmd_logs, "what a function printed, and how its invocations went", &logs_syntax},
    {"top", cmd_top, "what the functions do, refreshed", &top_syntax},
    {"metrics", cmd_metrics, "all that the daemon counts, as Prometheus reads it", &metrics_syntax},
};

static const struct command host_commands[] = {
    {"run", cmd_run, "run a function in a microVM, once, without a daemon", NULL},
    {"image", cmd_image, "build, import, list, check and remove root images and kernels", NULL},
    {"snapshot", cmd_snapshot, "list, check, move and remove the frozen microVMs", NULL},
    {"bench", cmd_bench, "measure what starts from a snapshot cost here", NULL},
    {"doctor", cmd_doctor, "what this host offers, and what to do about what it lacks", NULL},
    {"backup", cmd_backup, "functions, code and queue of this host in one file", &backup_syntax},
    {"restore-backup", cmd_restore_backup, "such a file into an empty state directory",
     &restore_backup_syntax},
    {"completion", cmd_completion, "what a shell completes", NULL},
};

const struct command_group command_groups[] = {
    {"Functions, at a running mayflyd", daemon_commands, ARRAY_LEN(daemon_commands)},
    {"This host", host_commands, ARRAY_LEN(host_commands)},
};

const size_t n_command_groups = ARRAY_LEN(command_groups);

const struct command *command_find(const char *name)
{
    for (size_t g = 0; g < n_command_groups; g++)
        for (size_t i = 0; i < command_groups[g].n; i++)
            if (strcmp(command_groups[g].commands[i].name, name) == 0)
                return &command_groups[g].commands[i];
    return NULL;
}
