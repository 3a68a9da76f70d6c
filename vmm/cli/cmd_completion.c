/* `mayfly completion bash`: from the command table and the options' tables, so that it knows what
 * this program knows. Process: the CLI. */
#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"

static const char help[] =
    "mayfly completion - what a shell completes\n"
    "\n"
    "Usage: mayfly completion bash\n"
    "\n"
    "Prints a script for bash. For this shell:      source <(mayfly completion bash)\n"
    "for all: mayfly completion bash >/usr/share/bash-completion/completions/mayfly\n"
    "(make install does that). Names of functions are asked of the running daemon.\n";

/* What is offered after "--option", or for the command's own argument. */
static void print_offer(enum cli_completion completion)
{
    static const char *const offers[] = {
        [COMPLETE_NOTHING] = "return",
        [COMPLETE_FILE] = "COMPREPLY=($(compgen -f -- \"$word\"))",
        [COMPLETE_DIRECTORY] = "COMPREPLY=($(compgen -d -- \"$word\"))",
        [COMPLETE_FUNCTION] = "COMPREPLY=($(compgen -W \"$(_mayfly_functions)\" -- \"$word\"))"};

    fputs(offers[completion], stdout);
}

static void print_case(const struct cli_option *option)
{
    if (option->kind == CLI_FLAG)
        return;
    fputs("        ", stdout);
    if (option->letter)
        printf("-%c|", option->letter);
    printf("--%s) ", option->name);
    print_offer(option->completion);
    fputs("; return ;;\n", stdout);
}

static void print_command(const struct command *command)
{
    const struct cli_syntax *syntax = command->syntax;

    printf("    %s)\n", command->name);
    if (!syntax) {
        /* It has its help; its subcommands and options are read there. */
        printf("        _mayfly_from_help %s ;;\n", command->name);
        return;
    }
    fputs("        case $before in\n", stdout);
    for (const struct cli_option *o = syntax->options; o->name; o++)
        print_case(o);
    fputs(
        "        esac\n        if [[ $word == -* ]]; then\n            COMPREPLY=($(compgen -W \"",
        stdout);
    for (const struct cli_option *o = syntax->options; o->name; o++)
        printf("--%s ", o->name);
    fputs("--help\" -- \"$word\"))\n            return\n        fi\n        ", stdout);
    print_offer(syntax->argument);
    fputs(" ;;\n", stdout);
}

static void print_bash(void)
{
    fputs("# bash completion of mayfly " MAYFLY_VERSION ": mayfly completion bash\n"
          "_mayfly_functions() {\n"
          "    mayfly ls \"${daemon[@]}\" 2>/dev/null | awk 'NR > 1 { print $1 }'\n"
          "}\n"
          "_mayfly_from_help() {\n"
          "    local text; text=$(mayfly \"$1\" --help 2>/dev/null)\n"
          "    if [[ $word == -* ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$(grep -oE -- '--[a-z][a-z-]+' <<<\"$text\" | sort "
          "-u)\" "
          "-- \"$word\"))\n"
          "    elif ((COMP_CWORD == 2)); then\n"
          "        COMPREPLY=($(compgen -W \"$(sed -nE \"s/^ +mayfly $1 ([a-z]+).*/\\1/p\" "
          "<<<\"$text\" | sort -u)\" -- \"$word\") $(compgen -f -- \"$word\"))\n"
          "    else\n"
          "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
          "    fi\n"
          "}\n"
          "_mayfly() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} i\n"
          "    local daemon=() # which one was named on this line\n"
          "    COMPREPLY=()\n"
          "    for ((i = 2; i < COMP_CWORD - 1; i++)); do\n"
          "        case ${COMP_WORDS[i]} in --state|--tenant|--endpoint)\n"
          "            daemon+=(\"${COMP_WORDS[i]}\" \"${COMP_WORDS[i+1]}\") ;;\n"
          "        esac\n"
          "    done\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W \"",
          stdout);
    for (size_t g = 0; g < n_command_groups; g++)
        for (size_t i = 0; i < command_groups[g].n; i++)
            printf("%s ", command_groups[g].commands[i].name);
    fputs("help --help --version\" -- \"$word\"))\n"
          "        return\n"
          "    fi\n"
          "    case ${COMP_WORDS[1]} in\n",
          stdout);
    for (size_t g = 0; g < n_command_groups; g++)
        for (size_t i = 0; i < command_groups[g].n; i++)
            print_command(&command_groups[g].commands[i]);
    fputs("    esac\n"
          "}\n"
          "complete -F _mayfly mayfly\n",
          stdout);
}

int cmd_completion(int argc, char **argv)
{
    const char *shell = argc > 1 ? argv[1] : "";

    if (strcmp(shell, "--help") == 0 || strcmp(shell, "-h") == 0) {
        fputs(help, stdout);
        return CLI_OK;
    }
    if (argc > 2)
        return cli_usage("completion", "what is '%s'?", argv[2]);
    if (strcmp(shell, "bash") != 0)
        return shell[0] ? cli_usage("completion", "it knows bash, not '%s'", shell)
                        : cli_usage("completion", "for which shell? bash");
    print_bash();
    return fflush(stdout) == 0 ? CLI_OK : CLI_HOST_ERROR;
}
