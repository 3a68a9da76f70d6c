/* Table, JSON and plot: see bench_invoke_report.h. Process: the CLI. */
#include "bench_invoke_report.h"

#include "bench_plot.h"
#include "common/bytes.h"

/* --- what was asked for ---------------------------------------------------------------------- */

static double at(const struct bench_invoke_report *report, const char *name, unsigned percent)
{
    return bench_figures_at(report->figures, name, 0, percent);
}

static double ratio(const struct bench_invoke_report *report, const char *of, const char *to,
                    unsigned percent)
{
    return bench_ratio(at(report, of, percent), at(report, to, percent));
}

static const char *if_emulated(const struct bench_invoke_report *report, const char *why)
{
    return report->emulates_supervisor ? why : NULL;
}

static const char cold_caches[] =
    "between two invocations this KVM emulates a guest's kernel for milliseconds: the same code\n"
    "      then runs from cold caches (see dry.cpu beside dry.cpu_cold)";
static const char busy_cores[] =
    "this KVM emulates guest kernels: each start keeps a core busy for tens of milliseconds, and\n"
    "      so does each warm invocation";

static void add_latency(const struct bench_invoke_report *report, struct bench_limits *limits)
{
    const char *cold = if_emulated(report, cold_caches);

    bench_limits_add(limits, (struct bench_limit){"warm: the daemon's processor time, p50", "us",
                                                  100, at(report, "warm.cpu", 50), false, cold});
    bench_limits_add(limits, (struct bench_limit){"warm: wall time without the guest, p50", "us",
                                                  300, at(report, "warm.host", 50), false, cold});
    bench_limits_add(limits,
                     (struct bench_limit){"restored: wall time without the guest, p50", "us", 1000,
                                          at(report, "restored.host", 50), false, cold});
}

static void add_rates(const struct bench_invoke_report *report, struct bench_limits *limits)
{
    static const char shared[] = "wrk has one of the cores, or a part of it";

    bench_limits_add(limits, (struct bench_limit){"dry invocations, signed", "1/s", 10000,
                                                  at(report, "dry.signed", 50), true, shared});
    bench_limits_add(limits, (struct bench_limit){"dry invocations, unsigned", "1/s", 10000,
                                                  at(report, "dry.unsigned", 50), true, shared});
}

static void add_scale(const struct bench_invoke_report *report, struct bench_limits *limits)
{
    bench_limits_add(limits, (struct bench_limit){"mayflyd with 1,000 functions", "bytes", 20 << 20,
                                                  at(report, "rss.1000", 50), false, NULL});
    bench_limits_add(limits,
                     (struct bench_limit){"GetFunction: of 10,000 to of 10, p50", "x", 1.5,
                                          ratio(report, "get.10000", "get.10", 50), false, NULL});
    bench_limits_add(limits,
                     (struct bench_limit){"ListFunctions: of 10,000 to of 10, p50", "x", 1.5,
                                          ratio(report, "list.10000", "list.10", 50), false, NULL});
}

size_t bench_invoke_limits(const struct bench_invoke_report *report,
                           struct bench_limit ret_limits[BENCH_MAX_LIMITS])
{
    struct bench_limits limits = {.list = ret_limits};

    add_latency(report, &limits);
    add_rates(report, &limits);
    add_scale(report, &limits);
    bench_limits_add(
        &limits, (struct bench_limit){"warm p99 beside a burst of starts to without", "x", 2,
                                      ratio(report, "burst.warm_during", "burst.warm_before", 99),
                                      false, if_emulated(report, busy_cores)});
    return limits.n;
}

/* --- telling --------------------------------------------------------------------------------- */

void bench_invoke_print(const struct bench_invoke_report *report)
{
    struct bench_limit limits[BENCH_MAX_LIMITS];

    printf("%-28s%6s%12s%12s%12s%12s\n", "invocations", "n", "p50", "p90", "p99", "max");
    for (size_t i = 0; i < report->figures->n; i++) {
        bench_print_series(&report->figures->series[i]);
        putchar('\n');
    }
    putchar('\n');
    bench_print_limits(limits, bench_invoke_limits(report, limits));
    printf("\nKVM: %s. Bursts of %llu. Times of the host are what its client sees, less the "
           "guest's.\n",
           report->kvm, (unsigned long long)report->options->burst);
}

json_t *bench_invoke_json(const struct bench_invoke_report *report)
{
    const struct bench_invoke_options *options = report->options;
    struct bench_limit limits[BENCH_MAX_LIMITS];
    size_t n_limits = bench_invoke_limits(report, limits);
    json_t *figures = json_array();

    for (size_t i = 0; i < report->figures->n; i++)
        json_array_append_new(figures, bench_series_json(&report->figures->series[i]));
    return json_pack("{s:o, s:{s:i, s:i, s:i, s:i, s:i}, s:o, s:o}", "host",
                     bench_host_json(report->kvm), "asked", "count", (int)options->count, "seconds",
                     (int)options->seconds, "functions", (int)options->functions, "burst",
                     (int)options->burst, "bursts", (int)options->bursts, "figures", figures,
                     "limits", bench_limits_json(limits, n_limits));
}

/* --- the plot -------------------------------------------------------------------------------- */

static const struct curve {
    const char *series, *title, *colour;
    unsigned panel;
} curves[] = {
    {"dry.host", "dry, caches warm", "#888888", 0},
    {"dry.host_cold", "dry, after a guest", "#e69f00", 0},
    {"warm.host", "warm, without the guest", "#009e73", 0},
    {"restored.host", "restored, without the guest", "#cc79a7", 0},
    {"burst.warm_before", "warm, alone", "#009e73", 1},
    {"burst.warm_during", "warm, beside the burst", "#d55e00", 1},
    {"burst.first_result", "of the burst", "#0072b2", 1},
};

/* gnuplot refuses to plot an empty block, and a panel without curves. */
static void write_panel(FILE *to, const struct bench_figures *figures, unsigned panel)
{
    const char *lead = "plot ";
    bool any = false;

    for (size_t c = 0; c < ARRAY_LEN(curves); c++) {
        if (curves[c].panel != panel || !bench_figures_find(figures, curves[c].series, 0))
            continue;
        fprintf(to, "%s$d%zu using 1:2 with steps lw 2 lc rgb '%s' title '%s'", lead, c,
                curves[c].colour, curves[c].title);
        lead = ", \\\n     ";
        any = true;
    }
    fputs(any ? "\n" : "plot [0:1] 0 notitle\n", to);
}

void bench_invoke_script(FILE *to, const void *opaque)
{
    const struct bench_figures *figures = opaque;

    for (size_t c = 0; c < ARRAY_LEN(curves); c++)
        bench_plot_distribution(to, c, bench_figures_find(figures, curves[c].series, 0));
    fputs("set terminal svg size 1200,520 dynamic background '#ffffff' font 'sans-serif,13'\n"
          "set multiplot layout 1,2\n"
          "set grid lc rgb '#dddddd'\n"
          "set border 3\n"
          "set tics nomirror\n"
          "set format y '%g'\n"
          "set key outside below center horizontal\n"
          "set logscale x\n"
          "set xlabel 'latency, ms' offset 0,0.7\n"
          "set ylabel 'share of invocations'\n"
          "set yrange [0:1]\n"
          "set ytics 0,0.25,1\n"
          "set title 'What the host adds to an invocation'\n",
          to);
    write_panel(to, figures, 0);
    fputs("set title 'A warm function beside a burst of starts of another'\n", to);
    if (!bench_figures_find(figures, "burst.warm_during", 0))
        fputs("unset logscale x\n", to);
    write_panel(to, figures, 1);
    fputs("unset multiplot\n", to);
}
