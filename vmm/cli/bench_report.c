/* Tables and JSON: see bench_report.h. Process: the CLI. */
#include "bench_report.h"

#include <stdio.h>
#include <string.h>

#include "cli_common.h"
#include "common/bytes.h"

/* --- against the plain way ------------------------------------------------------------------- */

const char *bench_report_peer(const char *name)
{
    const char *stage = strchr(name, '.');

    if (stage && strncmp(stage, ".restored", strlen(".restored")) == 0)
        return "plain.restored";
    if (stage && strcmp(stage, ".teardown") == 0)
        return "plain.teardown";
    return "plain.first_exit";
}

/* Memory, and processor time, are no latencies. */
static bool is_latency(const struct bench_series *series)
{
    size_t len = strlen(series->name);

    return strcmp(series->unit, "us") == 0 &&
           (len < strlen("_cpu") || strcmp(series->name + len - strlen("_cpu"), "_cpu") != 0);
}

/* 0: there is nothing to compare with. */
static double ratio(const struct bench_report *report, const struct bench_series *series)
{
    const char *peer = bench_report_peer(series->name);
    double plain = bench_figures_at(report->figures, peer, series->memory_mib, 50);

    return !is_latency(series) || plain <= 0
               ? 0
               : bench_percentile(series->values, series->n, 50) / plain;
}

/* --- what was asked for ---------------------------------------------------------------------- */

struct limits {
    struct bench_limit *list; /* room for BENCH_MAX_LIMITS */
    size_t n;
};

/* A figure that was not measured (0) is not spoken of. */
static void add(struct limits *limits, struct bench_limit limit)
{
    if (limit.reached > 0 && limits->n < BENCH_MAX_LIMITS)
        limits->list[limits->n++] = limit;
}

static double divided(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* How the cost of a restore grows from the smallest memory to the largest. */
static double growth(const struct bench_report *report, const char *name)
{
    const struct bench_options *options = report->options;

    if (options->n_memory < 2)
        return 0;
    return divided(
        bench_figures_at(report->figures, name, options->memory_mib[options->n_memory - 1], 50),
        bench_figures_at(report->figures, name, options->memory_mib[0], 50));
}

/* The smallest of the sizes that the largest of one figure must stay under. */
static void add_latency_limits(const struct bench_report *report, struct limits *limits)
{
    const struct bench_figures *figures = report->figures;
    uint32_t mib = report->options->memory_mib[0];
    double exit_us = bench_figures_at(figures, "shell.first_exit", mib, 50);
    double result_us = bench_figures_at(figures, "shell.first_result", mib, 50);

    add(limits, (struct bench_limit){"restored, p50", "us", 80,
                                     bench_figures_at(figures, "shell.restored", mib, 50), false});
    add(limits, (struct bench_limit){"first exit, p50", "us", 250, exit_us, false});
    add(limits,
        (struct bench_limit){"first exit, p99", "us", 1000,
                             bench_figures_at(figures, "shell.first_exit", mib, 99), false});
    add(limits,
        (struct bench_limit){
            "plain is slower to its first exit", "x", 30,
            divided(bench_figures_at(figures, "plain.first_exit", mib, 50), exit_us), true});
    add(limits, (struct bench_limit){"first result, p50", "us",
                                     report->emulates_supervisor ? 50000 : 5000, result_us, false});
    add(limits,
        (struct bench_limit){
            "a cold boot is slower to its first result", "x", 500,
            divided(bench_figures_at(figures, "boot.first_result", mib, 50), result_us), true});
    add(limits, (struct bench_limit){"restored: largest memory to smallest", "x", 2,
                                     growth(report, "shell.restored"), false});
    add(limits, (struct bench_limit){"first exit: largest memory to smallest", "x", 2,
                                     growth(report, "shell.first_exit"), false});
}

static void add_crowd_limits(const struct bench_report *report, struct limits *limits)
{
    const struct bench_figures *figures = report->figures;
    uint32_t mib = report->options->memory_mib[0];

    /* Asked of 100 clones on 2 cores: of other numbers in proportion. */
    add(limits,
        (struct bench_limit){"burst: the last clone's first exit", "us",
                             1e4 * (double)report->options->parallel,
                             bench_figures_at(figures, "burst.all_first_exit", mib, 50), false});
    add(limits, (struct bench_limit){"idle clone: guest memory, max", "bytes", 1 << 20,
                                     bench_figures_at(figures, "alive.guest", mib, 100), false});
    add(limits, (struct bench_limit){"idle clone: monitor memory, max", "bytes", 1 << 20,
                                     bench_figures_at(figures, "alive.monitor", mib, 100), false});
}

size_t bench_report_limits(const struct bench_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS])
{
    struct limits limits = {.list = ret_limits};

    add_latency_limits(report, &limits);
    add_crowd_limits(report, &limits);
    return limits.n;
}

bool bench_limit_is_met(const struct bench_limit *limit)
{
    return limit->at_least ? limit->reached >= limit->asked : limit->reached <= limit->asked;
}

/* --- tables ---------------------------------------------------------------------------------- */

enum { VALUE_BYTES = 24 };

static const char *value_text(char to[VALUE_BYTES], const char *unit, double value)
{
    if (strcmp(unit, "x") == 0)
        snprintf(to, VALUE_BYTES, "%.3g x", value);
    else if (strcmp(unit, "percent") == 0)
        snprintf(to, VALUE_BYTES, "%.2f %%", value);
    else if (strcmp(unit, "bytes") == 0)
        snprintf(to, VALUE_BYTES, "%.0f KiB", value / 1024);
    else if (value < 1e3)
        snprintf(to, VALUE_BYTES, "%.1f us", value);
    else if (value < 1e6)
        snprintf(to, VALUE_BYTES, "%.2f ms", value / 1e3);
    else
        snprintf(to, VALUE_BYTES, "%.2f s", value / 1e6);
    return to;
}

static void print_series(const struct bench_report *report, const struct bench_series *series)
{
    static const unsigned percents[] = {50, 90, 99, 100};
    double to_plain = ratio(report, series);
    char text[VALUE_BYTES];

    printf("  %-26s%6zu", series->name, series->n);
    for (size_t i = 0; i < ARRAY_LEN(percents); i++)
        printf("%12s", value_text(text, series->unit,
                                  bench_percentile(series->values, series->n, percents[i])));
    if (to_plain > 0)
        printf("%12.4f", to_plain);
    putchar('\n');
}

static void print_figures(const struct bench_report *report, uint32_t memory_mib, int64_t age_s)
{
    char title[32];

    snprintf(title, sizeof(title), "guests of %u MiB", memory_mib);
    printf("%-28s%6s%12s%12s%12s%12s%12s\n", title, "n", "p50", "p90", "p99", "max", "to plain");
    for (size_t i = 0; i < report->figures->n; i++)
        if (report->figures->series[i].memory_mib == memory_mib)
            print_series(report, &report->figures->series[i]);
    printf("  from a snapshot that is %lld s old\n\n", (long long)age_s);
}

static void print_limits(const struct bench_report *report)
{
    struct bench_limit limits[BENCH_MAX_LIMITS];
    size_t n = bench_report_limits(report, limits);
    bool colour = cli_colour(stdout);

    printf("%-44s%14s%14s\n", "asked for", "asked", "reached");
    for (size_t i = 0; i < n; i++) {
        const struct bench_limit *limit = &limits[i];
        char asked[VALUE_BYTES], reached[VALUE_BYTES];
        bool met = bench_limit_is_met(limit);

        printf("  %-42s%3s%11s%14s  %s%s%s\n", limit->what,
               limit->at_least ? ">=" : "<=", value_text(asked, limit->unit, limit->asked),
               value_text(reached, limit->unit, limit->reached),
               !colour ? ""
               : met   ? "\033[32m"
                       : "\033[33m",
               met ? "yes" : "no", colour ? "\033[0m" : "");
    }
}

void bench_report_print(const struct bench_report *report)
{
    for (size_t i = 0; i < report->options->n_memory; i++)
        print_figures(report, report->options->memory_mib[i], report->age_s[i]);
    print_limits(report);
    printf("\nKVM: %s. 'to plain': p50 to that of the plain way's same stage, else its first "
           "exit.\n",
           report->kvm);
}

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *series_json(const struct bench_report *report, const struct bench_series *series)
{
    double to_plain = ratio(report, series);
    json_t *object =
        json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f, s:f}", "name", series->name, "unit",
                  series->unit, "memory_mib", (int)series->memory_mib, "n", (int)series->n, "p50",
                  bench_percentile(series->values, series->n, 50), "p90",
                  bench_percentile(series->values, series->n, 90), "p99",
                  bench_percentile(series->values, series->n, 99), "max",
                  bench_percentile(series->values, series->n, 100));

    if (to_plain > 0)
        json_object_set_new(object, "ratio_to",
                            json_pack("{s:f}", bench_report_peer(series->name), to_plain));
    return object;
}

static json_t *limits_json(const struct bench_report *report)
{
    struct bench_limit limits[BENCH_MAX_LIMITS];
    size_t n = bench_report_limits(report, limits);
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:f, s:f, s:b}", "what",
                                              limits[i].what, "unit", limits[i].unit, "wanted",
                                              limits[i].at_least ? "at least" : "at most", "asked",
                                              limits[i].asked, "reached", limits[i].reached, "met",
                                              (int)bench_limit_is_met(&limits[i])));
    return list;
}

json_t *bench_report_json(const struct bench_report *report)
{
    const struct bench_options *options = report->options;
    json_t *figures = json_array(), *snapshots = json_array();

    for (size_t i = 0; i < report->figures->n; i++)
        json_array_append_new(figures, series_json(report, &report->figures->series[i]));
    for (size_t i = 0; i < options->n_memory; i++)
        json_array_append_new(snapshots,
                              json_pack("{s:i, s:I}", "memory_mib", (int)options->memory_mib[i],
                                        "age_s", (json_int_t)report->age_s[i]));
    return json_pack("{s:o, s:{s:i, s:i, s:i, s:i}, s:o, s:o, s:o}", "host",
                     bench_host_json(report->kvm), "asked", "count", (int)options->count,
                     "parallel", (int)options->parallel, "alive", (int)options->alive, "boots",
                     (int)options->boots, "snapshots", snapshots, "figures", figures, "limits",
                     limits_json(report));
}
