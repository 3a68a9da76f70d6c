/* `mayfly`: finds the command and runs it. The root of the process; prints nothing of its own but
 * help and version. */
#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"

static void print_help(FILE *to)
{
    fputs("mayfly - run functions, each in its own KVM microVM\n\n"
          "Usage: mayfly COMMAND [OPTIONS]\n",
          to);
    for (size_t g = 0; g < n_command_groups; g++) {
        fprintf(to, "\n%s:\n", command_groups[g].title);
        for (size_t i = 0; i < command_groups[g].n; i++)
            fprintf(to, "  %-15s %s\n", command_groups[g].commands[i].name,
                    command_groups[g].commands[i].what);
    }
    fputs("\n'mayfly COMMAND --help' explains a command; --version prints the version.\n", to);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    const struct command *command = command_find(name);

    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        puts("mayfly " MAYFLY_VERSION);
        return CLI_OK;
    }
    if (strcmp(name, "help") == 0 && argc > 2 && (command = command_find(argv[2]))) {
        char help[] = "--help", *asked[] = {argv[2], help, NULL};

        return command->run(2, asked);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (command)
        return command->run(argc - 1, argv + 1);
    if (name[0] == '\0') {
        print_help(stderr);
        return CLI_USAGE;
    }
    return cli_usage("", "'%s' is not a command", name);
}
