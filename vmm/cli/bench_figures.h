/*
 * What a benchmark measured: named series of samples, and what is told of them. Process: the CLI
 * and the programs of tests/bench. One thread.
 */
#ifndef MAYFLY_CLI_BENCH_FIGURES_H
#define MAYFLY_CLI_BENCH_FIGURES_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* bench_sort - ascending, as bench_percentile() wants them. */
void bench_sort(double *values, size_t n);

/*
 * bench_percentile - of @n sorted values: the smallest that @percent of them do not exceed (nearest
 * rank), so always one that was measured. 0 of none. @percent: 0 to 100.
 */
double bench_percentile(const double *sorted, size_t n, unsigned percent);

/* bench_host_json - what the figures were measured on: machine, processor, kernel, KVM, release,
 * and how much else there is to do ("load", of the last minute). Owned. @kvm: "hardware", "emulates
 * supervisor mode" or such; a literal. */
json_t *bench_host_json(const char *kvm);

/* The samples of one thing. */
struct bench_series {
    const char *name;    /* "shell.first_exit"; a literal */
    const char *unit;    /* "us", "bytes" or "percent" (of a core); a literal */
    uint32_t memory_mib; /* of the guests */
    size_t n, size;
    double *values; /* owned; in the order they came, until bench_figures_sort() */
};

struct bench_figures {
    struct bench_series *series; /* owned; in the order they were first added to */
    size_t n;
};

/* bench_figures_add - one more sample. 0 or -ENOMEM. @name, @unit: literals. */
int bench_figures_add(struct bench_figures *figures, const char *name, const char *unit,
                      uint32_t memory_mib, double value, struct error *err);

/* bench_figures_find - NULL where there is no sample. Borrowed until the next add. */
const struct bench_series *bench_figures_find(const struct bench_figures *figures, const char *name,
                                              uint32_t memory_mib);

/* bench_figures_sort - measuring is over: percentiles may be asked for. */
void bench_figures_sort(struct bench_figures *figures);

/* bench_figures_at - percentile of a series by name, after the sort; 0 where there is none. */
double bench_figures_at(const struct bench_figures *figures, const char *name, uint32_t memory_mib,
                        unsigned percent);

void bench_figures_done(struct bench_figures *figures);

#endif
