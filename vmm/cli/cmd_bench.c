/* `mayfly bench`: finds what is to be measured. Process: the CLI. */
#include <stdio.h>
#include <string.h>

#include "bench_invoke.h"
#include "bench_restore.h"
#include "cli_common.h"
#include "commands.h"

static const char help[] = "mayfly bench - measure what this host does, with real guests\n"
                           "\n"
                           "  mayfly bench restore   starts from a snapshot: latency, memory, many "
                           "at once; against a\n"
                           "                         cold boot and the usual sequence of KVM "
                           "calls\n"
                           "  mayfly bench invoke    invocations through mayflyd: what the host "
                           "adds to them, rates,\n"
                           "                         memory, lookups, a burst beside a warm "
                           "function\n"
                           "\n"
                           "'mayfly bench restore --help' says what is measured, and how.\n";

int cmd_bench(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        fputs(help, stdout);
        return CLI_OK;
    }
    if (strcmp(name, "restore") == 0)
        return bench_restore(argc - 1, argv + 1);
    if (strcmp(name, "invoke") == 0)
        return bench_invoke(argc - 1, argv + 1);
    return name[0] ? cli_usage("bench", "'%s' is nothing that it measures", name)
                   : cli_usage("bench", "measure what?");
}
