/* What `mayfly bench restore` tells: tables for a person, one object for a program. Process: the
 * CLI. */
#ifndef MAYFLY_CLI_BENCH_REPORT_H
#define MAYFLY_CLI_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench_options.h"
#include "bench_table.h"

struct bench_report {
    const struct bench_options *options; /* borrowed */
    const struct bench_figures *figures; /* borrowed; sorted */
    const char *kvm;                     /* as bench_host_json() has it */
    bool emulates_supervisor;
    /* Of the snapshot for each of options->memory_mib: where guests see the host's time-stamp
     * counter, each has to catch up with all the time since. */
    int64_t age_s[BENCH_MAX_SIZES];
};

/* bench_report_limits - those that this run can speak of. Returns how many. */
size_t bench_report_limits(const struct bench_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS]);

/* bench_report_peer - the figure of the plain way that @name is compared with: the same stage, else
 * its first exit. */
const char *bench_report_peer(const char *name);

void bench_report_print(const struct bench_report *report);

/* bench_report_json - owned. */
json_t *bench_report_json(const struct bench_report *report);

#endif
