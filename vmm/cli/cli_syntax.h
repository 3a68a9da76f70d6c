/*
 * A command's options, said once: they are parsed, explained by --help and completed in shells from
 * the same table. Process: the CLI. Its input is the user's own command line.
 */
#ifndef MAYFLY_CLI_CLI_SYNTAX_H
#define MAYFLY_CLI_CLI_SYNTAX_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum cli_option_kind {
    CLI_FLAG,   /* bool: no value */
    CLI_TEXT,   /* const char *: borrowed from argv */
    CLI_NUMBER, /* uint64_t, from min to max */
    CLI_LIST,   /* struct cli_list: may be repeated */
};

/* What a shell offers for a value. */
enum cli_completion { COMPLETE_NOTHING, COMPLETE_FILE, COMPLETE_DIRECTORY, COMPLETE_FUNCTION };

struct cli_list {
    const char **values; /* owned: cli_list_done(); what they point to is borrowed from argv */
    size_t n;
};

void cli_list_done(struct cli_list *list);

struct cli_option {
    const char *name; /* without "--"; NULL ends a table */
    char letter;      /* its short form, or 0 */
    enum cli_option_kind kind;
    size_t offset;     /* of its member in the command's options */
    const char *value; /* what --help calls its value; NULL for a flag */
    const char *help;  /* lines are broken by '\n' */
    uint64_t min, max;
    enum cli_completion completion;
};

struct cli_syntax {
    const char *command; /* "deploy" */
    const char *summary; /* one line */
    const char *usage;   /* what follows the command's name; several lines are several ways */
    const char *about;   /* paragraphs before the options */
    const struct cli_option *options;
    const char *examples; /* after the options: examples and exit statuses */
    int min_arguments, max_arguments;
    const char *missing; /* what to say where there are fewer */
    enum cli_completion argument;
};

/*
 * cli_syntax_parse - argv[0] is the command. Fills @to, a struct that the options' offsets are in,
 * and leaves the arguments at argv[optind]. Returns -1 to go on, else the exit status: CLI_OK after
 * --help, CLI_USAGE after a line on stderr. Lists in @to are to be freed in every case.
 */
int cli_syntax_parse(const struct cli_syntax *syntax, int argc, char **argv, void *to);

/* cli_syntax_help - all of it, as --help prints it. */
void cli_syntax_help(const struct cli_syntax *syntax, FILE *to);

#endif
