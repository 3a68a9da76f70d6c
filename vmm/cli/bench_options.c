/* The arguments of `mayfly bench restore`: see bench_options.h. Process: the CLI. */
#include "bench_options.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"

#define COMMAND "bench"

enum {
    MAX_COUNT = 100000,
    MAX_PARALLEL = 1000,
    MAX_ALIVE = 10000,
    MAX_BOOTS = 1000,
    MEMORY_MIN_MIB = 128,
    MEMORY_MAX_MIB = 10240,
};

static const char help[] =
    "mayfly bench restore - what a start from a snapshot costs on this host\n"
    "\n"
    "Usage: mayfly bench restore [OPTIONS]\n"
    "\n"
    "  --count N        rounds, 200; each measures every way once, so that all see the same "
    "machine\n"
    "  --memory MIB,…   guest memory sizes, 128,512,2048; the first time, each is booted once to\n"
    "                   make its snapshots\n"
    "  --boots N        cold boots to compare with, 1, spread over the rounds; 0: none\n"
    "  --parallel N     waiting shells that are then restored all at once, 16; 0: none\n"
    "  --alive N        clones that live at once while the memory of each is measured, 0: none\n"
    "  --json FILE      write all figures; '-': print them in place of the tables\n"
    "  --plot FILE.svg  draw the distribution of latencies, and latency against memory size; "
    "needs\n"
    "                   gnuplot\n"
    "  --state DIR      images, snapshots (default $MAYFLY_STATE, /var/lib/mayfly)\n"
    "\n"
    "The ways, all in this one run:\n"
    "  boot             a guest booted, a function initialised and invoked in it\n"
    "  plain            what forkers of microVMs usually do: VM, interrupt controllers and PIT,\n"
    "                   memory mapped copy-on-write, memslot, vCPU, its state, run, tear down\n"
    "  no_shell         ours with nothing prepared: monitor process, VM, devices, then the "
    "restore\n"
    "  shell            ours into a shell: a monitor that waits with all of that made\n"
    "  burst            all --parallel shells at the same moment\n"
    "  alive            --alive clones that wait for their first event: what each has of its own,\n"
    "                   guest and monitor; host: that and what the kernel keeps for it; cpu\n"
    "\n"
    "and what is timed, from the moment it is asked for:\n"
    "  restored         all is in place, the first guest instruction is next\n"
    "  first_exit       the guest has run, and KVM came back from it for the first time\n"
    "  agent_answers    the agent in the guest has heard who it is, and said so\n"
    "  first_result     the handler's result is here: def handler(event, context): return event\n"
    "  teardown         from the decision to end it until nothing of it is left\n"
    "  …_monitor        of that, from the moment the monitor took the request on\n"
    "  …_cpu            the processor time that monitor and guest spent on it, whatever else ran\n"
    "\n"
    "Example: mayfly bench restore --count 50 --memory 128 --alive 100 --json - | jq .limits\n"
    "\n"
    "Exit status: 0 measured, fast or slow; 2 wrong usage; 3 it could not be measured;\n"
    "130 interrupted.\n";

enum option_code {
    OPTION_COUNT = 256,
    OPTION_PARALLEL,
    OPTION_MEMORY,
    OPTION_ALIVE,
    OPTION_BOOTS,
    OPTION_JSON,
    OPTION_PLOT,
    OPTION_STATE,
    OPTION_HELP = 'h',
};

static const struct option known[] = {{"count", required_argument, NULL, OPTION_COUNT},
                                      {"parallel", required_argument, NULL, OPTION_PARALLEL},
                                      {"memory", required_argument, NULL, OPTION_MEMORY},
                                      {"alive", required_argument, NULL, OPTION_ALIVE},
                                      {"boots", required_argument, NULL, OPTION_BOOTS},
                                      {"json", required_argument, NULL, OPTION_JSON},
                                      {"plot", required_argument, NULL, OPTION_PLOT},
                                      {"state", required_argument, NULL, OPTION_STATE},
                                      {"help", no_argument, NULL, OPTION_HELP},
                                      {NULL, 0, NULL, 0}};

static int take_number(const char *option, const char *given, uint64_t min, uint64_t max,
                       uint64_t *ret)
{
    if (cli_parse_number(given, min, max, ret))
        return -1;
    return cli_usage(COMMAND, "--%s is a whole number from %llu to %llu, not '%s'", option,
                     (unsigned long long)min, (unsigned long long)max, given);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* "128,512": sorted, since figures are compared with those of the smallest size. */
static int take_memory(struct bench_options *options, const char *given)
{
    uint64_t mib = 0;
    const char *at = given;
    char number[16];
    size_t n = 0;

    for (bool more = true; more; n++) {
        size_t len = strcspn(at, ",");

        snprintf(number, sizeof(number), "%.*s", len < sizeof(number) ? (int)len : 0, at);
        if (!cli_parse_number(number, MEMORY_MIN_MIB, MEMORY_MAX_MIB, &mib))
            return cli_usage(COMMAND,
                             "--memory is a list of MiB from %d to %d, such as 128,512: %s",
                             MEMORY_MIN_MIB, MEMORY_MAX_MIB, given);
        if (n == BENCH_MAX_SIZES)
            return cli_usage(COMMAND, "--memory takes up to %d sizes", BENCH_MAX_SIZES);
        options->memory_mib[n] = (uint32_t)mib;
        more = at[len] == ',';
        at += len + 1;
    }
    qsort(options->memory_mib, n, sizeof(options->memory_mib[0]), compare);
    for (size_t i = 1; i < n; i++)
        if (options->memory_mib[i] == options->memory_mib[i - 1])
            return cli_usage(COMMAND, "--memory names %u MiB twice", options->memory_mib[i]);
    options->n_memory = n;
    return -1;
}

static int take_option(struct bench_options *options, int code, const char *value)
{
    switch (code) {
    case OPTION_COUNT:
        return take_number("count", value, 1, MAX_COUNT, &options->count);
    case OPTION_PARALLEL:
        return take_number("parallel", value, 0, MAX_PARALLEL, &options->parallel);
    case OPTION_ALIVE:
        return take_number("alive", value, 0, MAX_ALIVE, &options->alive);
    case OPTION_BOOTS:
        return take_number("boots", value, 0, MAX_BOOTS, &options->boots);
    case OPTION_MEMORY:
        return take_memory(options, value);
    case OPTION_JSON:
        options->json = value;
        return -1;
    case OPTION_PLOT:
        options->plot = value;
        return -1;
    case OPTION_STATE:
        options->state = value;
        return -1;
    case OPTION_HELP:
        fputs(help, stdout);
        return CLI_OK;
    default: /* getopt said what is wrong */
        fputs("Try 'mayfly bench restore --help'.\n", stderr);
        return CLI_USAGE;
    }
}

int bench_options_parse(int argc, char **argv, struct bench_options *options)
{
    static char shown_name[] = "mayfly bench restore"; /* how getopt begins its messages */
    int code, r = -1;

    *options = (struct bench_options){
        .count = 200, .parallel = 16, .boots = 1, .memory_mib = {128, 512, 2048}, .n_memory = 3};
    argv[0] = shown_name;
    optind = 0;
    while (r < 0 && (code = getopt_long(argc, argv, "h", known, NULL)) != -1)
        r = take_option(options, code, optarg);
    if (r >= 0)
        return r;
    options->state = cli_state_directory(options->state);
    if (optind < argc)
        return cli_usage(COMMAND, "restore takes no '%s'", argv[optind]);
    if (options->plot && strcmp(options->plot, "-") == 0)
        return cli_usage(COMMAND, "--plot wants a file's name");
    return -1;
}
