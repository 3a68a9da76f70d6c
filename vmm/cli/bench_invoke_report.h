/* What `mayfly bench invoke` tells: a table for a person, one object for a program, a plot.
 * Process: the CLI. */
#ifndef MAYFLY_CLI_BENCH_INVOKE_REPORT_H
#define MAYFLY_CLI_BENCH_INVOKE_REPORT_H

#include <stdio.h>

#include "bench_invoke_options.h"
#include "bench_table.h"

struct bench_invoke_report {
    const struct bench_invoke_options *options; /* borrowed */
    const struct bench_figures *figures;        /* borrowed; sorted */
    const char *kvm;                            /* as bench_host_json() has it */
    bool emulates_supervisor;
};

/* bench_invoke_limits - those that this run can speak of. Returns how many. */
size_t bench_invoke_limits(const struct bench_invoke_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS]);

void bench_invoke_print(const struct bench_invoke_report *report);

/* bench_invoke_json - owned. */
json_t *bench_invoke_json(const struct bench_invoke_report *report);

/* bench_invoke_script - a bench_plot_writer of two panels; @opaque: the figures. */
void bench_invoke_script(FILE *to, const void *opaque);

#endif
