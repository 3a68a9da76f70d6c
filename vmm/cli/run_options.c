/* The arguments of `mayfly run`: see run_options.h. Process: the CLI. */
#include "run_options.h"

#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"
#include "common/cpu_template.h"
#include "host/instance/package.h"

static const char help[] =
    "mayfly run - run a function in a microVM, once\n"
    "\n"
    "Usage: mayfly run DIR|ZIP --handler FILE.FUNCTION [OPTIONS]\n"
    "\n"
    "  DIR|ZIP            the function: its code and what it ships (250 MB unpacked, a ZIP or tar\n"
    "                     of 50 MB); found in the guest at /var/task\n"
    "  --runtime NAME     python3.11 (default), nodejs18.x, or provided: an executable "
    "'bootstrap'\n"
    "                     that uses the Lambda Runtime API\n"
    "  --handler NAME     what to call, such as app.handler; 'provided' needs none\n"
    "  --event JSON       the event (default {}); @FILE reads a file, - standard input; 6 MB\n"
    "  --memory MIB       of the function: 128 (default) to 10240\n"
    "  --tmp MIB          size of /tmp, beside that: 512 (default) to 10240\n"
    "  --vcpus N          1 (default) to 32\n"
    "  --timeout SECONDS  of one invocation: 3 (default) to 900\n"
    "  --env NAME=VALUE   an environment variable; may be repeated\n"
    "  --json             one JSON object on stdout: status, result, error, times, memory\n"
    "  --boot             boot the guest; without it, the function's snapshot is restored, or\n"
    "                     made the first time\n"
    "  --cpu-template NAME  show the guest only what every processor of a level has, so that its\n"
    "                     snapshot can move: portable (x86-64-v2), portable-v3 (x86-64-v3)\n"
    "  --snapshot NAME    restore this one (mayfly snapshot ls), in place of DIR|ZIP\n"
    "  --console FILE     keep what the guest kernel prints\n"
    "  --image NAME       another root image than the runtime's own (mayfly image ls)\n"
    "  --kernel NAME      another guest kernel than linux-6.12\n"
    "  --require-jail     fail where this host does not allow a whole jail around the monitor\n"
    "                     (what is missing is said on stderr otherwise; see mayfly doctor)\n"
    "  --no-jail          DEBUGGING ONLY: a function that breaks out of its VM is on this host\n"
    "                     with your rights\n"
    "  --state DIR        images and running instances (default $MAYFLY_STATE, /var/lib/mayfly)\n"
    "\n"
    "The result goes to stdout; the function's own output, the times and errors go to stderr.\n"
    "\n"
    "Example: mayfly run examples/wordcount --handler app.handler --event '{\"text\":\"to be\"}'\n"
    "\n"
    "Exit status: 0 the handler returned; 1 it failed (stdout has the error as Lambda words it);\n"
    "2 wrong usage, package or event; 3 the host could not run it; 130 interrupted.\n";

enum option_code {
    OPTION_RUNTIME = 256,
    OPTION_HANDLER,
    OPTION_EVENT,
    OPTION_MEMORY,
    OPTION_TMP,
    OPTION_VCPUS,
    OPTION_TIMEOUT,
    OPTION_ENV,
    OPTION_JSON,
    OPTION_CONSOLE,
    OPTION_IMAGE,
    OPTION_KERNEL,
    OPTION_STATE,
    OPTION_BOOT,
    OPTION_SNAPSHOT,
    OPTION_NO_JAIL,
    OPTION_REQUIRE_JAIL,
    OPTION_CPU_TEMPLATE,
    OPTION_OUTPUT = 'o',
    OPTION_HELP = 'h',
};

static const struct option known[] = {
    {"runtime", required_argument, NULL, OPTION_RUNTIME},
    {"handler", required_argument, NULL, OPTION_HANDLER},
    {"event", required_argument, NULL, OPTION_EVENT},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"tmp", required_argument, NULL, OPTION_TMP},
    {"vcpus", required_argument, NULL, OPTION_VCPUS},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"env", required_argument, NULL, OPTION_ENV},
    {"json", no_argument, NULL, OPTION_JSON},
    {"console", required_argument, NULL, OPTION_CONSOLE},
    {"image", required_argument, NULL, OPTION_IMAGE},
    {"kernel", required_argument, NULL, OPTION_KERNEL},
    {"state", required_argument, NULL, OPTION_STATE},
    {"boot", no_argument, NULL, OPTION_BOOT},
    {"snapshot", required_argument, NULL, OPTION_SNAPSHOT},
    {"no-jail", no_argument, NULL, OPTION_NO_JAIL},
    {"require-jail", no_argument, NULL, OPTION_REQUIRE_JAIL},
    {"cpu-template", required_argument, NULL, OPTION_CPU_TEMPLATE},
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0}};

static int usage_number(const char *option, uint64_t min, uint64_t max, const char *given)
{
    return cli_usage("run", "--%s is a whole number from %llu to %llu, not '%s'", option,
                     (unsigned long long)min, (unsigned long long)max, given);
}

/* One NAME=VALUE. Lambda's rule for names: a letter, then letters, digits, underscores. */
static int add_variable(struct run_options *options, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0, n = options->n_environment;
    size_t total = strlen(text) - (equals ? 1 : 0);

    for (size_t i = 0; i < len; i++)
        if (!isalpha((unsigned char)text[0]) ||
            (!isalnum((unsigned char)text[i]) && text[i] != '_'))
            len = 0;
    if (len == 0)
        return cli_usage("run", "--env is NAME=VALUE, the name of letters, digits and _: '%s'",
                         text);
    for (size_t i = 0; i < n; i++) {
        total += strlen(options->environment[i].name) + strlen(options->environment[i].value);
        if (strlen(options->names[i]) == len && strncmp(options->names[i], text, len) == 0)
            return cli_usage("run", "--env names '%s' twice", options->names[i]);
    }
    if (total > RUN_MAX_ENVIRONMENT_BYTES)
        return cli_usage("run", "--env: the variables have more than %d bytes together",
                         RUN_MAX_ENVIRONMENT_BYTES);
    struct agent_variable *variables = realloc(options->environment, (n + 1) * sizeof(*variables));
    if (variables)
        options->environment = variables;
    char **names = variables ? realloc(options->names, (n + 1) * sizeof(*names)) : NULL;
    if (names)
        options->names = names;
    char *name = names ? strndup(text, len) : NULL;
    if (!name)
        return cli_usage("run", "out of memory");
    options->names[n] = name;
    options->environment[n] = (struct agent_variable){.name = name, .value = equals + 1};
    options->n_environment = n + 1;
    return -1;
}

static int take_option(struct run_options *options, int code, const char *value)
{
    switch (code) {
    case OPTION_RUNTIME:
        options->runtime = value;
        return -1;
    case OPTION_HANDLER:
        options->handler = value;
        return -1;
    case OPTION_EVENT:
        options->event = value;
        return -1;
    case OPTION_CPU_TEMPLATE:
        if (!cpu_template_find(value))
            return cli_usage("run", "--cpu-template is one of %s, not '%s'", cpu_template_names(),
                             value);
        options->cpu_template = value;
        return -1;
    case OPTION_MEMORY:
        if (!cli_parse_number(value, 128, 10240, &options->memory_mib))
            return usage_number("memory", 128, 10240, value);
        return -1;
    case OPTION_TMP:
        if (!cli_parse_number(value, 512, 10240, &options->tmp_mib))
            return usage_number("tmp", 512, 10240, value);
        return -1;
    case OPTION_VCPUS:
        if (!cli_parse_number(value, 1, 32, &options->vcpus))
            return usage_number("vcpus", 1, 32, value);
        return -1;
    case OPTION_TIMEOUT:
        if (!cli_parse_seconds(value, 1, 900000, &options->timeout_ms))
            return cli_usage("run", "--timeout is a number of seconds up to 900, not '%s'", value);
        return -1;
    case OPTION_ENV:
        return add_variable(options, value);
    case OPTION_SNAPSHOT:
        options->snapshot = value;
        return -1;
    case OPTION_OUTPUT:
        options->output = value;
        return -1;
    case OPTION_BOOT:
        options->boot = true;
        return -1;
    case OPTION_NO_JAIL:
        options->no_jail = true;
        return -1;
    case OPTION_REQUIRE_JAIL:
        options->require_jail = true;
        return -1;
    case OPTION_JSON:
        options->json = true;
        return -1;
    case OPTION_CONSOLE:
        options->console = value;
        return -1;
    case OPTION_IMAGE:
        options->image = value;
        options->image_given = true;
        return -1;
    case OPTION_KERNEL:
        options->kernel = value;
        return -1;
    case OPTION_STATE:
        options->state = value;
        return -1;
    case OPTION_HELP:
        fputs(help, stdout);
        return CLI_OK;
    default: /* getopt said what is wrong */
        fputs("Try 'mayfly run --help'.\n", stderr);
        return CLI_USAGE;
    }
}

/* "provided" has Lambda's names for it too; each runtime has an image of its own. */
static int choose_runtime(struct run_options *options)
{
    bool provided = strcmp(options->runtime, "provided") == 0 ||
                    strncmp(options->runtime, "provided.", strlen("provided.")) == 0;

    if (!provided && strcmp(options->runtime, "python3.11") != 0 &&
        strcmp(options->runtime, "nodejs18.x") != 0)
        return cli_usage("run", "there is no runtime '%s': python3.11, nodejs18.x or provided",
                         options->runtime);
    if (provided)
        options->runtime = "provided";
    if (!options->handler && !provided)
        return cli_usage("run", "--handler is missing: FILE.FUNCTION, such as app.handler");
    if (!options->handler)
        options->handler = "bootstrap";
    if (!options->image)
        options->image = provided ? "base" : options->runtime;
    return -1;
}

/* "path/to/word count.zip" → "word-count". */
static void name_function(struct run_options *options)
{
    char *name = options->function_name;
    size_t len = strlen(options->package), start;

    while (len > 1 && options->package[len - 1] == '/')
        len--;
    for (start = len; start > 0 && options->package[start - 1] != '/';)
        start--;
    size_t n = 0;
    for (size_t i = start; i < len && n < sizeof(options->function_name) - 1; i++) {
        unsigned char c = (unsigned char)options->package[i];

        if (c == '.' && n > 0)
            break;
        name[n++] = isalnum(c) || c == '_' ? (char)c : '-';
    }
    name[n] = '\0';
    if (strspn(name, "-") == n)
        snprintf(name, sizeof(options->function_name), "function");
}

int run_options_parse(int argc, char **argv, struct run_options *options)
{
    static char shown_name[] = "mayfly run"; /* how getopt begins its messages */
    int code, r = -1;

    *options = (struct run_options){.runtime = "python3.11",
                                    .event = "{}",
                                    .kernel = "linux-6.12",
                                    .memory_mib = 128,
                                    .tmp_mib = 512,
                                    .vcpus = 1,
                                    .timeout_ms = 3000};
    bool is_create = strcmp(argv[0], "create") == 0;
    argv[0] = shown_name;
    optind = 0;
    while (r < 0 && (code = getopt_long(argc, argv, "ho:", known, NULL)) != -1)
        r = take_option(options, code, optarg);
    if (r >= 0)
        return r;
    options->state = cli_state_directory(options->state);
    if (options->no_jail && options->require_jail)
        return cli_usage("run", "--no-jail or --require-jail, not both");
    if (is_create && !options->output)
        return cli_usage("snapshot", "create: -o NAME is missing");
    if (!is_create && options->output)
        return cli_usage("run", "-o belongs to 'mayfly snapshot create'");
    if (options->snapshot && optind < argc)
        return cli_usage("run", "--snapshot has its function already: what is '%s'?", argv[optind]);
    if (options->snapshot && (options->boot || is_create))
        return cli_usage("run", "--snapshot restores: it goes with neither --boot nor create");
    if (options->snapshot)
        return -1;
    if (optind >= argc)
        return cli_usage("run", "which function? a directory or a ZIP is missing");
    if (optind + 1 < argc)
        return cli_usage("run", "one function at a time: what is '%s'?", argv[optind + 1]);
    options->package = argv[optind];
    name_function(options);
    return choose_runtime(options);
}

void run_options_done(struct run_options *options)
{
    for (size_t i = 0; i < options->n_environment; i++)
        free(options->names[i]);
    free(options->names);
    free(options->environment);
    *options = (struct run_options){0};
}
