/* `mayfly`: finds the command and runs it. The root of the process; prints nothing of its own but
 * help and version. */
#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "cmd_image.h"
#include "commands.h"
#include "common/bytes.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"run", cmd_run, "run a function in a microVM, once"},
    {"image", cmd_image, "build, import, list, check and remove root images and kernels"},
    {"snapshot", cmd_snapshot, "list, check, move and remove the frozen microVMs"},
    {"bench", cmd_bench, "measure what starts from a snapshot cost here"},
    {"doctor", cmd_doctor, "what this host offers, and what to do about what it lacks"},
};

static void print_help(FILE *to)
{
    fputs("mayfly - run functions, each in its own KVM microVM\n\n"
          "Usage: mayfly COMMAND [OPTIONS]\n\nCommands:\n",
          to);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
    fputs("\n'mayfly COMMAND --help' explains a command; --version prints the version.\n", to);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        puts("mayfly " MAYFLY_VERSION);
        return CLI_OK;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (name[0] == '\0') {
        print_help(stderr);
        return CLI_USAGE;
    }
    return cli_usage("", "'%s' is not a command", name);
}
