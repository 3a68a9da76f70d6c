/* Tables and JSON of figures: see bench_table.h. Process: the CLI. */
#include "bench_table.h"

#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "common/bytes.h"

void bench_limits_add(struct bench_limits *limits, struct bench_limit limit)
{
    if (limit.reached > 0 && limits->n < BENCH_MAX_LIMITS)
        limits->list[limits->n++] = limit;
}

bool bench_limit_is_met(const struct bench_limit *limit)
{
    return limit->at_least ? limit->reached >= limit->asked : limit->reached <= limit->asked;
}

double bench_ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* --- tables ---------------------------------------------------------------------------------- */

const char *bench_value_text(char to[BENCH_VALUE_BYTES], const char *unit, double value)
{
    if (strcmp(unit, "x") == 0)
        snprintf(to, BENCH_VALUE_BYTES, "%.3g x", value);
    else if (strcmp(unit, "percent") == 0)
        snprintf(to, BENCH_VALUE_BYTES, "%.2f %%", value);
    else if (strcmp(unit, "bytes") == 0)
        snprintf(to, BENCH_VALUE_BYTES, "%.0f KiB", value / 1024);
    else if (strcmp(unit, "1/s") == 0)
        snprintf(to, BENCH_VALUE_BYTES, "%.0f /s", value);
    else if (value < 1e3)
        snprintf(to, BENCH_VALUE_BYTES, "%.1f us", value);
    else if (value < 1e6)
        snprintf(to, BENCH_VALUE_BYTES, "%.2f ms", value / 1e3);
    else
        snprintf(to, BENCH_VALUE_BYTES, "%.2f s", value / 1e6);
    return to;
}

void bench_print_series(const struct bench_series *series)
{
    static const unsigned percents[] = {50, 90, 99, 100};
    char text[BENCH_VALUE_BYTES];

    printf("  %-26s%6zu", series->name, series->n);
    for (size_t i = 0; i < ARRAY_LEN(percents); i++)
        printf("%12s", bench_value_text(text, series->unit,
                                        bench_percentile(series->values, series->n, percents[i])));
}

static void print_limit(const struct bench_limit *limit, bool colour)
{
    char asked[BENCH_VALUE_BYTES], reached[BENCH_VALUE_BYTES];
    bool met = bench_limit_is_met(limit);

    printf("  %-42s%3s%11s%14s  %s%s%s\n", limit->what,
           limit->at_least ? ">=" : "<=", bench_value_text(asked, limit->unit, limit->asked),
           bench_value_text(reached, limit->unit, limit->reached),
           !colour ? ""
           : met   ? "\033[32m"
                   : "\033[33m",
           met ? "yes" : "no", colour ? "\033[0m" : "");
    if (!met && limit->why)
        printf("      %s\n", limit->why);
}

void bench_print_limits(const struct bench_limit *limits, size_t n)
{
    bool colour = cli_colour(stdout);

    printf("%-44s%14s%14s\n", "asked for", "asked", "reached");
    for (size_t i = 0; i < n; i++)
        print_limit(&limits[i], colour);
}

/* --- JSON ------------------------------------------------------------------------------------ */

json_t *bench_series_json(const struct bench_series *series)
{
    json_t *object =
        json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f}", "name", series->name, "unit", series->unit,
                  "n", (int)series->n, "p50", bench_percentile(series->values, series->n, 50),
                  "p90", bench_percentile(series->values, series->n, 90), "p99",
                  bench_percentile(series->values, series->n, 99), "max",
                  bench_percentile(series->values, series->n, 100));

    if (series->memory_mib > 0)
        json_object_set_new(object, "memory_mib", json_integer((json_int_t)series->memory_mib));
    return object;
}

static json_t *limit_json(const struct bench_limit *limit)
{
    bool met = bench_limit_is_met(limit);
    json_t *object = json_pack("{s:s, s:s, s:s, s:f, s:f, s:b}", "what", limit->what, "unit",
                               limit->unit, "wanted", limit->at_least ? "at least" : "at most",
                               "asked", limit->asked, "reached", limit->reached, "met", (int)met);

    if (!met && limit->why)
        json_object_set_new(object, "why", json_string(limit->why));
    return object;
}

json_t *bench_limits_json(const struct bench_limit *limits, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, limit_json(&limits[i]));
    return list;
}
