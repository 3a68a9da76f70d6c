/* Options from tables: see cli_syntax.h. Process: the CLI. */
#include "cli_syntax.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"

enum { MAX_OPTIONS = 40, OPTION_BASE = 256, HELP_COLUMN = 22, VALUES_MAX = 4096 };

void cli_list_done(struct cli_list *list)
{
    free(list->values);
    *list = (struct cli_list){0};
}

static int list_add(struct cli_list *list, const char *value)
{
    if (list->n == VALUES_MAX)
        return -1;
    const char **larger = realloc(list->values, (list->n + 1) * sizeof(*larger));
    if (!larger)
        return -1;
    larger[list->n++] = value;
    list->values = larger;
    return 0;
}

/* -1: go on; else the exit status. */
static int take(const struct cli_syntax *syntax, const struct cli_option *option, const char *value,
                void *to)
{
    char *member = (char *)to + option->offset;
    const void *text = value;
    uint64_t number = 0;
    bool yes = true;

    switch (option->kind) {
    case CLI_FLAG:
        memcpy(member, &yes, sizeof(yes));
        return -1;
    case CLI_TEXT:
        memcpy(member, &text, sizeof(text));
        return -1;
    case CLI_NUMBER:
        if (!cli_parse_number(value, option->min, option->max, &number))
            return cli_usage(syntax->command, "--%s is a whole number from %llu to %llu, not '%s'",
                             option->name, (unsigned long long)option->min,
                             (unsigned long long)option->max, value);
        memcpy(member, &number, sizeof(number));
        return -1;
    case CLI_LIST:
        break;
    }
    struct cli_list list;
    memcpy(&list, member, sizeof(list));
    if (list_add(&list, value) < 0)
        return cli_usage(syntax->command, "--%s is there too often", option->name);
    memcpy(member, &list, sizeof(list));
    return -1;
}

/* What getopt_long() wants. Returns how many options there are. */
static int translate(const struct cli_syntax *syntax, struct option *known, char *letters)
{
    int n = 0;

    *letters++ = 'h';
    for (const struct cli_option *o = syntax->options; o->name && n < MAX_OPTIONS; o++, n++) {
        bool has_value = o->kind != CLI_FLAG;

        known[n] = (struct option){o->name, has_value ? required_argument : no_argument, NULL,
                                   OPTION_BASE + n};
        if (o->letter)
            *letters++ = o->letter;
        if (o->letter && has_value)
            *letters++ = ':';
    }
    known[n] = (struct option){"help", no_argument, NULL, 'h'};
    known[n + 1] = (struct option){0};
    *letters = '\0';
    return n;
}

/* The option that getopt_long() means by @code; NULL: none. */
static const struct cli_option *find(const struct cli_syntax *syntax, int code, int n)
{
    if (code >= OPTION_BASE && code < OPTION_BASE + n)
        return &syntax->options[code - OPTION_BASE];
    for (const struct cli_option *o = syntax->options; o->name; o++)
        if (o->letter && o->letter == code)
            return o;
    return NULL;
}

int cli_syntax_parse(const struct cli_syntax *syntax, int argc, char **argv, void *to)
{
    char letters[2 * MAX_OPTIONS + 2], shown[64];
    struct option known[MAX_OPTIONS + 2];
    int n = translate(syntax, known, letters), code, r = -1;

    snprintf(shown, sizeof(shown), "mayfly %s", syntax->command);
    argv[0] = shown; /* how getopt begins its messages */
    optind = 0;
    while (r < 0 && (code = getopt_long(argc, argv, letters, known, NULL)) != -1) {
        const struct cli_option *option = find(syntax, code, n);

        if (code == 'h') {
            cli_syntax_help(syntax, stdout);
            r = CLI_OK;
        } else if (!option) { /* getopt said what is wrong */
            fprintf(stderr, "Try 'mayfly %s --help'.\n", syntax->command);
            r = CLI_USAGE;
        } else {
            r = take(syntax, option, optarg, to);
        }
    }
    argv[0] = NULL; /* `shown` ends here */
    if (r >= 0)
        return r;
    if (argc - optind < syntax->min_arguments)
        return cli_usage(syntax->command, "%s", syntax->missing);
    if (argc - optind > syntax->max_arguments)
        return cli_usage(syntax->command, "what is '%s'?", argv[optind + syntax->max_arguments]);
    return -1;
}

/* --- help ------------------------------------------------------------------------------------- */

static void print_option(const struct cli_option *option, FILE *to)
{
    char left[80];
    int len = snprintf(left, sizeof(left), "  %s%.1s%s--%s%s%s", option->letter ? "-" : "",
                       option->letter ? &option->letter : "", option->letter ? ", " : "",
                       option->name, option->value ? " " : "", option->value ? option->value : "");

    if (len >= HELP_COLUMN)
        fprintf(to, "%s\n%*s", left, HELP_COLUMN, "");
    else
        fprintf(to, "%-*s", HELP_COLUMN, left);
    for (const char *c = option->help; *c; c++) {
        fputc(*c, to);
        if (*c == '\n')
            fprintf(to, "%*s", HELP_COLUMN, "");
    }
    fputc('\n', to);
}

static void print_usage(const struct cli_syntax *syntax, FILE *to)
{
    const char *line = syntax->usage;

    fputs("Usage:", to);
    for (;;) {
        int len = (int)strcspn(line, "\n");

        fprintf(to, "%smayfly %s%s%.*s\n", line == syntax->usage ? " " : "       ", syntax->command,
                len ? " " : "", len, line);
        if (line[len] == '\0')
            return;
        line += len + 1;
    }
}

void cli_syntax_help(const struct cli_syntax *syntax, FILE *to)
{
    fprintf(to, "mayfly %s - %s\n\n", syntax->command, syntax->summary);
    print_usage(syntax, to);
    if (syntax->about)
        fprintf(to, "\n%s", syntax->about);
    fputs("\nOptions\n", to);
    for (const struct cli_option *option = syntax->options; option->name; option++)
        print_option(option, to);
    fprintf(to, "  %-*s%s\n", HELP_COLUMN - 2, "-h, --help", "this text");
    if (syntax->examples)
        fprintf(to, "\n%s", syntax->examples);
}
