/*
 * Figures as tables and JSON, and what was asked for beside what was reached: what the commands of
 * `mayfly bench` have in common. Process: the CLI. Input: our own figures.
 */
#ifndef MAYFLY_CLI_BENCH_TABLE_H
#define MAYFLY_CLI_BENCH_TABLE_H

#include <stdbool.h>

#include "bench_figures.h"

/* A figure that was asked for, and what became of it. */
struct bench_limit {
    const char *what;
    const char *unit; /* "us", "bytes", "1/s", or "x" for a ratio */
    double asked, reached;
    bool at_least;   /* reached should be asked or more; else asked or less */
    const char *why; /* it falls short, as far as was seen; NULL: nothing to say */
};

enum { BENCH_MAX_LIMITS = 24, BENCH_VALUE_BYTES = 24 };

/* Limits as they are collected: room for BENCH_MAX_LIMITS. */
struct bench_limits {
    struct bench_limit *list; /* borrowed */
    size_t n;
};

/* bench_limits_add - a figure that was not measured (0) is not spoken of. */
void bench_limits_add(struct bench_limits *limits, struct bench_limit limit);

bool bench_limit_is_met(const struct bench_limit *limit);

/* bench_ratio - a to b; 0 where there is no b. */
double bench_ratio(double a, double b);

/* bench_value_text - "3.20 ms", "812 KiB"; returns @to. */
const char *bench_value_text(char to[BENCH_VALUE_BYTES], const char *unit, double value);

/* bench_print_series - one line of a table: name, n, p50, p90, p99, max; without its end. */
void bench_print_series(const struct bench_series *series);

void bench_print_limits(const struct bench_limit *limits, size_t n);

/* Both owned. */
json_t *bench_series_json(const struct bench_series *series);
json_t *bench_limits_json(const struct bench_limit *limits, size_t n);

#endif
