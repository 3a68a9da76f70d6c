/* What `mayfly bench restore` tells: tables for a person, one object for a program. Process: the
 * CLI. */
#ifndef MAYFLY_CLI_BENCH_REPORT_H
#define MAYFLY_CLI_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench_figures.h"
#include "bench_options.h"

struct bench_report {
    const struct bench_options *options; /* borrowed */
    const struct bench_figures *figures; /* borrowed; sorted */
    const char *kvm;                     /* as bench_host_json() has it */
    bool emulates_supervisor;
    /* Of the snapshot for each of options->memory_mib: where guests see the host's time-stamp
     * counter, each has to catch up with all the time since. */
    int64_t age_s[BENCH_MAX_SIZES];
};

/* A figure that was asked for, and what became of it. */
struct bench_limit {
    const char *what;
    const char *unit; /* "us", "bytes", or "x" for a ratio */
    double asked, reached;
    bool at_least; /* reached should be asked or more; else asked or less */
};

enum { BENCH_MAX_LIMITS = 16 };

/* bench_report_limits - those that this run can speak of. Returns how many. */
size_t bench_report_limits(const struct bench_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS]);

bool bench_limit_is_met(const struct bench_limit *limit);

/* bench_report_peer - the figure of the plain way that @name is compared with: the same stage, else
 * its first exit. */
const char *bench_report_peer(const char *name);

void bench_report_print(const struct bench_report *report);

/* bench_report_json - owned. */
json_t *bench_report_json(const struct bench_report *report);

#endif
