/* The arguments of `mayfly bench invoke`: see bench_invoke_options.h. Process: the CLI. */
#include "bench_invoke_options.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli_common.h"

#define COMMAND "bench"

enum {
    MAX_COUNT = 100000,
    MAX_SECONDS = 600,
    MAX_FUNCTIONS = 10000,
    MAX_BURST = 500,
    MAX_BURSTS = 100,
};

static const char help[] =
    "mayfly bench invoke - what the host adds to an invocation\n"
    "\n"
    "Usage: mayfly bench invoke [OPTIONS]\n"
    "\n"
    "It starts a mayflyd of its own, on a state directory of its own below --state, and deploys\n"
    "small functions there; nothing is left of them.\n"
    "\n"
    "  --count N        rounds, 100; each sends some requests of every kind, one after the other\n"
    "  --seconds N      of dry invocations by wrk, signed and unsigned each, 6; 0: none\n"
    "  --functions N    of the largest registry that is looked up in, 10000; 0: none\n"
    "  --burst N        starts at once of one function, beside warm invocations of another, 50;\n"
    "                   0: none\n"
    "  --bursts N       how many times, 3\n"
    "  --json FILE      write all figures; '-': print them in place of the tables\n"
    "  --plot FILE.svg  draw distributions; needs gnuplot\n"
    "  --state DIR      images, snapshots (default $MAYFLY_STATE, /var/lib/mayfly)\n"
    "\n"
    "What is measured, in one run and by turns:\n"
    "  warm.total       a warm invocation as its client sees it: request sent to first byte back,\n"
    "                   over TCP on loopback\n"
    "  warm.host        of that, all but the guest's time (event sent to result here)\n"
    "  warm.cpu         processor time of mayflyd for it, in all its threads\n"
    "  restored.…       the same of a function without a warm instance: .acquire, until it was\n"
    "                   restored\n"
    "  dry.…            everything but the guest: .host alone, with caches warm; .host_cold right\n"
    "                   after a guest has run; .cpu, .cpu_cold\n"
    "  dry.signed       dry invocations a second, many at once, with a Signature Version 4;\n"
    "  dry.unsigned     without\n"
    "  get.N, list.N    GetFunction, and a page of 10 of ListFunctions, with N functions\n"
    "  rss.N            memory of a mayflyd with N functions, all of them looked up\n"
    "  burst.…          .warm_before and .warm_during: warm.total without and with the burst;\n"
    "                   .first_result, .all_results: of the burst itself\n"
    "\n"
    "Example: mayfly bench invoke --count 20 --burst 10 --json - | jq .limits\n"
    "\n"
    "Exit status: 0 measured, fast or slow; 2 wrong usage; 3 it could not be measured;\n"
    "130 interrupted.\n";

enum option_code {
    OPTION_COUNT = 256,
    OPTION_SECONDS,
    OPTION_FUNCTIONS,
    OPTION_BURST,
    OPTION_BURSTS,
    OPTION_JSON,
    OPTION_PLOT,
    OPTION_STATE,
    OPTION_HELP = 'h',
};

static const struct option known[] = {{"count", required_argument, NULL, OPTION_COUNT},
                                      {"seconds", required_argument, NULL, OPTION_SECONDS},
                                      {"functions", required_argument, NULL, OPTION_FUNCTIONS},
                                      {"burst", required_argument, NULL, OPTION_BURST},
                                      {"bursts", required_argument, NULL, OPTION_BURSTS},
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

static int take_option(struct bench_invoke_options *options, int code, const char *value)
{
    switch (code) {
    case OPTION_COUNT:
        return take_number("count", value, 1, MAX_COUNT, &options->count);
    case OPTION_SECONDS:
        return take_number("seconds", value, 0, MAX_SECONDS, &options->seconds);
    case OPTION_FUNCTIONS:
        return take_number("functions", value, 0, MAX_FUNCTIONS, &options->functions);
    case OPTION_BURST:
        return take_number("burst", value, 0, MAX_BURST, &options->burst);
    case OPTION_BURSTS:
        return take_number("bursts", value, 1, MAX_BURSTS, &options->bursts);
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
        fputs("Try 'mayfly bench invoke --help'.\n", stderr);
        return CLI_USAGE;
    }
}

int bench_invoke_options_parse(int argc, char **argv, struct bench_invoke_options *options)
{
    static char shown_name[] = "mayfly bench invoke"; /* how getopt begins its messages */
    int code, r = -1;

    *options = (struct bench_invoke_options){
        .count = 100, .seconds = 6, .functions = 10000, .burst = 50, .bursts = 3};
    argv[0] = shown_name;
    optind = 0;
    while (r < 0 && (code = getopt_long(argc, argv, "h", known, NULL)) != -1)
        r = take_option(options, code, optarg);
    if (r >= 0)
        return r;
    options->state = cli_state_directory(options->state);
    if (optind < argc)
        return cli_usage(COMMAND, "invoke takes no '%s'", argv[optind]);
    if (options->plot && strcmp(options->plot, "-") == 0)
        return cli_usage(COMMAND, "--plot wants a file's name");
    return -1;
}
