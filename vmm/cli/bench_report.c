/* Tables and JSON: see bench_report.h. Process: the CLI. */
#include "bench_report.h"

#include <stdio.h>
#include <string.h>

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

/* How the cost of a restore grows from the smallest memory to the largest. */
static double growth(const struct bench_report *report, const char *name)
{
    const struct bench_options *options = report->options;

    if (options->n_memory < 2)
        return 0;
    return bench_ratio(
        bench_figures_at(report->figures, name, options->memory_mib[options->n_memory - 1], 50),
        bench_figures_at(report->figures, name, options->memory_mib[0], 50));
}

/* The smallest of the sizes that the largest of one figure must stay under. */
static void add_latency_limits(const struct bench_report *report, struct bench_limits *limits)
{
    const struct bench_figures *figures = report->figures;
    uint32_t mib = report->options->memory_mib[0];
    double exit_us = bench_figures_at(figures, "shell.first_exit", mib, 50);
    double result_us = bench_figures_at(figures, "shell.first_result", mib, 50);

    bench_limits_add(limits,
                     (struct bench_limit){"restored, p50", "us", 80,
                                          bench_figures_at(figures, "shell.restored", mib, 50),
                                          false, NULL});
    bench_limits_add(limits,
                     (struct bench_limit){"first exit, p50", "us", 250, exit_us, false, NULL});
    bench_limits_add(limits,
                     (struct bench_limit){"first exit, p99", "us", 1000,
                                          bench_figures_at(figures, "shell.first_exit", mib, 99),
                                          false, NULL});
    bench_limits_add(
        limits, (struct bench_limit){
                    "plain is slower to its first exit", "x", 30,
                    bench_ratio(bench_figures_at(figures, "plain.first_exit", mib, 50), exit_us),
                    true, NULL});
    bench_limits_add(limits, (struct bench_limit){"first result, p50", "us",
                                                  report->emulates_supervisor ? 50000 : 5000,
                                                  result_us, false, NULL});
    bench_limits_add(
        limits, (struct bench_limit){
                    "a cold boot is slower to its first result", "x", 500,
                    bench_ratio(bench_figures_at(figures, "boot.first_result", mib, 50), result_us),
                    true, NULL});
    bench_limits_add(limits, (struct bench_limit){"restored: largest memory to smallest", "x", 2,
                                                  growth(report, "shell.restored"), false, NULL});
    bench_limits_add(limits, (struct bench_limit){"first exit: largest memory to smallest", "x", 2,
                                                  growth(report, "shell.first_exit"), false, NULL});
}

static void add_crowd_limits(const struct bench_report *report, struct bench_limits *limits)
{
    const struct bench_figures *figures = report->figures;
    uint32_t mib = report->options->memory_mib[0];

    /* Asked of 100 clones on 2 cores: of other numbers in proportion. */
    bench_limits_add(
        limits, (struct bench_limit){"burst: the last clone's first exit", "us",
                                     1e4 * (double)report->options->parallel,
                                     bench_figures_at(figures, "burst.all_first_exit", mib, 50),
                                     false, NULL});
    bench_limits_add(limits, (struct bench_limit){
                                 "idle clone: guest memory, max", "bytes", 1 << 20,
                                 bench_figures_at(figures, "alive.guest", mib, 100), false, NULL});
    bench_limits_add(limits,
                     (struct bench_limit){"idle clone: monitor memory, max", "bytes", 1 << 20,
                                          bench_figures_at(figures, "alive.monitor", mib, 100),
                                          false, NULL});
}

size_t bench_report_limits(const struct bench_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS])
{
    struct bench_limits limits = {.list = ret_limits};

    add_latency_limits(report, &limits);
    add_crowd_limits(report, &limits);
    return limits.n;
}

/* --- tables ---------------------------------------------------------------------------------- */

static void print_series(const struct bench_report *report, const struct bench_series *series)
{
    double to_plain = ratio(report, series);

    bench_print_series(series);
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

void bench_report_print(const struct bench_report *report)
{
    struct bench_limit limits[BENCH_MAX_LIMITS];

    for (size_t i = 0; i < report->options->n_memory; i++)
        print_figures(report, report->options->memory_mib[i], report->age_s[i]);
    bench_print_limits(limits, bench_report_limits(report, limits));
    printf("\nKVM: %s. 'to plain': p50 to that of the plain way's same stage, else its first "
           "exit.\n",
           report->kvm);
}

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *series_json(const struct bench_report *report, const struct bench_series *series)
{
    double to_plain = ratio(report, series);
    json_t *object = bench_series_json(series);

    if (to_plain > 0)
        json_object_set_new(object, "ratio_to",
                            json_pack("{s:f}", bench_report_peer(series->name), to_plain));
    return object;
}

json_t *bench_report_json(const struct bench_report *report)
{
    const struct bench_options *options = report->options;
    json_t *figures = json_array(), *snapshots = json_array();
    struct bench_limit limits[BENCH_MAX_LIMITS];
    size_t n_limits = bench_report_limits(report, limits);

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
                     bench_limits_json(limits, n_limits));
}
