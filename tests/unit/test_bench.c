/* `mayfly bench restore` but for the measuring: arguments, percentiles, limits, the plot's script.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/bench_figures.h"
#include "cli/bench_options.h"
#include "cli/bench_plot.h"
#include "cli/bench_report.h"
#include "cli/cli_common.h"

enum { MAX_ARGUMENTS = 32 };

/* --- arguments ------------------------------------------------------------------------------- */

/* Splits @line at '|' and parses; the texts stay until the next call. */
static int parse(const char *line, struct bench_options *options)
{
    static char copy[1024];
    char *arguments[MAX_ARGUMENTS + 1] = {NULL};
    static char name[] = "restore";
    int n = 0;

    snprintf(copy, sizeof(copy), "%s", line);
    arguments[n++] = name;
    for (char *word = strtok(copy, "|"); word && n < MAX_ARGUMENTS; word = strtok(NULL, "|"))
        arguments[n++] = word;
    return bench_options_parse(n, arguments, options);
}

static void test_defaults(void **state)
{
    struct bench_options options;

    (void)state;
    unsetenv("MAYFLY_STATE");
    assert_int_equal(parse("", &options), -1);
    assert_int_equal(options.count, 200);
    assert_int_equal(options.parallel, 16);
    assert_int_equal(options.alive, 0);
    assert_int_equal(options.boots, 1);
    assert_int_equal(options.n_memory, 3);
    assert_int_equal(options.memory_mib[2], 2048);
    assert_null(options.json);
    assert_null(options.plot);
    assert_string_equal(options.state, "/var/lib/mayfly");
}

static void test_everything(void **state)
{
    struct bench_options options;

    (void)state;
    assert_int_equal(parse("--count|3|--parallel|0|--alive|500|--boots|2|--memory|1024,128,256|"
                           "--json|-|--plot|p.svg|--state|/s",
                           &options),
                     -1);
    assert_int_equal(options.count, 3);
    assert_int_equal(options.parallel, 0);
    assert_int_equal(options.alive, 500);
    assert_int_equal(options.boots, 2);
    assert_int_equal(options.n_memory, 3);
    assert_int_equal(options.memory_mib[0], 128);
    assert_int_equal(options.memory_mib[1], 256);
    assert_int_equal(options.memory_mib[2], 1024);
    assert_string_equal(options.json, "-");
    assert_string_equal(options.plot, "p.svg");
    assert_string_equal(options.state, "/s");
}

static void test_wrong(void **state)
{
    static const char *const lines[] = {"--count|0",
                                        "--count|many",
                                        "--count|100001",
                                        "--parallel|1001",
                                        "--alive|-1",
                                        "--boots|1001",
                                        "--memory|64",
                                        "--memory|128,",
                                        "--memory|,128",
                                        "--memory|128,,256",
                                        "--memory|128;256",
                                        "--memory|128,128",
                                        "--memory|20480",
                                        "--memory|99999999999999999999128",
                                        "--memory|128,129,130,131,132,133,134,135,136",
                                        "--plot|-",
                                        "--json",
                                        "--what",
                                        "128"};
    struct bench_options options;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (parse(lines[i], &options) != CLI_USAGE)
            fail_msg("taken: %s", lines[i]);
}

/* --- figures --------------------------------------------------------------------------------- */

static void test_percentile(void **state)
{
    double hundred[100], three[] = {30, 10, 20};

    (void)state;
    for (size_t i = 0; i < 100; i++)
        hundred[i] = (double)(100 - i);
    bench_sort(hundred, 100);
    assert_true(bench_percentile(hundred, 100, 50) == 50);
    assert_true(bench_percentile(hundred, 100, 90) == 90);
    assert_true(bench_percentile(hundred, 100, 99) == 99);
    assert_true(bench_percentile(hundred, 100, 100) == 100);
    assert_true(bench_percentile(hundred, 100, 0) == 1);
    bench_sort(three, 3);
    assert_true(bench_percentile(three, 3, 50) == 20);
    assert_true(bench_percentile(three, 3, 99) == 30);
    assert_true(bench_percentile(three, 1, 1) == 10);
    assert_true(bench_percentile(three, 0, 50) == 0);
}

static void test_series(void **state)
{
    struct bench_figures figures = {0};

    (void)state;
    for (int i = 1000; i > 0; i--) {
        assert_int_equal(bench_figures_add(&figures, "a", "us", 128, i, NULL), 0);
        assert_int_equal(bench_figures_add(&figures, "a", "us", 512, 2 * i, NULL), 0);
    }
    assert_int_equal(bench_figures_add(&figures, "b", "bytes", 128, 7, NULL), 0);
    bench_figures_sort(&figures);
    assert_int_equal(figures.n, 3);
    assert_int_equal(bench_figures_find(&figures, "a", 128)->n, 1000);
    assert_true(bench_figures_at(&figures, "a", 128, 50) == 500);
    assert_true(bench_figures_at(&figures, "a", 512, 50) == 1000);
    assert_true(bench_figures_at(&figures, "b", 128, 99) == 7);
    assert_null(bench_figures_find(&figures, "b", 512));
    assert_true(bench_figures_at(&figures, "c", 128, 50) == 0);
    bench_figures_done(&figures);
    bench_figures_done(&figures);
}

/* --- the report ------------------------------------------------------------------------------ */

static const struct sample {
    const char *name, *unit;
    uint32_t memory_mib;
    double value;
} samples[] = {
    {"plain.restored", "us", 128, 8000},     {"plain.first_exit", "us", 128, 8100},
    {"no_shell.restored", "us", 128, 20000}, {"shell.restored", "us", 128, 80},
    {"shell.first_exit", "us", 128, 270},    {"shell.first_exit", "us", 512, 540.5},
    {"shell.restored", "us", 512, 100},      {"shell.first_result", "us", 128, 20000},
    {"boot.first_result", "us", 128, 1e7},   {"burst.all_first_exit", "us", 128, 90000},
    {"alive.guest", "bytes", 128, 4096},
};

static void fill(struct bench_figures *figures)
{
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        assert_int_equal(bench_figures_add(figures, samples[i].name, samples[i].unit,
                                           samples[i].memory_mib, samples[i].value, NULL),
                         0);
    bench_figures_sort(figures);
}

static const struct bench_options two_sizes = {
    .count = 1, .parallel = 8, .memory_mib = {128, 512}, .n_memory = 2};

static const struct bench_limit *find_limit(const struct bench_limit *limits, size_t n,
                                            const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(limits[i].what, what))
            return &limits[i];
    return NULL;
}

static void test_limits(void **state)
{
    struct bench_figures figures = {0};
    struct bench_report report = {
        .options = &two_sizes, .figures = &figures, .kvm = "hardware", .emulates_supervisor = true};
    struct bench_limit limits[BENCH_MAX_LIMITS];

    (void)state;
    assert_int_equal(bench_report_limits(&report, limits), 0); /* nothing was measured */
    fill(&figures);
    size_t n = bench_report_limits(&report, limits);
    assert_true(bench_limit_is_met(find_limit(limits, n, "restored, p50")));
    assert_false(bench_limit_is_met(find_limit(limits, n, "first exit, p50")));
    assert_true(find_limit(limits, n, "plain is slower")->reached == 30);
    assert_true(bench_limit_is_met(find_limit(limits, n, "plain is slower")));
    assert_true(find_limit(limits, n, "cold boot")->reached == 500);
    assert_true(bench_limit_is_met(find_limit(limits, n, "first result, p50")));
    assert_true(bench_limit_is_met(find_limit(limits, n, "restored: largest")));
    assert_false(bench_limit_is_met(find_limit(limits, n, "first exit: largest")));
    assert_true(find_limit(limits, n, "burst")->asked == 80000);
    assert_false(bench_limit_is_met(find_limit(limits, n, "burst")));
    assert_true(bench_limit_is_met(find_limit(limits, n, "guest memory")));
    assert_null(find_limit(limits, n, "monitor memory"));
    report.emulates_supervisor = false;
    n = bench_report_limits(&report, limits);
    assert_false(bench_limit_is_met(find_limit(limits, n, "first result, p50")));
    bench_figures_done(&figures);
}

static void test_peers(void **state)
{
    (void)state;
    assert_string_equal(bench_report_peer("shell.restored_monitor"), "plain.restored");
    assert_string_equal(bench_report_peer("shell.first_exit"), "plain.first_exit");
    assert_string_equal(bench_report_peer("shell.first_result"), "plain.first_exit");
    assert_string_equal(bench_report_peer("boot.teardown"), "plain.teardown");
}

static void test_json(void **state)
{
    struct bench_figures figures = {0};
    const struct bench_report report = {
        .options = &two_sizes, .figures = &figures, .kvm = "hardware"};
    json_t *first, *ratio;

    (void)state;
    fill(&figures);
    json_t *all = bench_report_json(&report);
    assert_non_null(all);
    assert_string_equal(json_string_value(json_object_get(json_object_get(all, "host"), "kvm")),
                        "hardware");
    json_t *list = json_object_get(all, "figures");
    assert_int_equal(json_array_size(list), sizeof(samples) / sizeof(samples[0]));
    first = json_array_get(list, 3);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "shell.restored");
    assert_int_equal(json_integer_value(json_object_get(first, "n")), 1);
    assert_true(json_real_value(json_object_get(first, "p99")) == 80);
    ratio = json_object_get(json_object_get(first, "ratio_to"), "plain.restored");
    assert_true(json_real_value(ratio) == 0.01);
    /* No plain of 512 MiB was measured, and bytes have no peer. */
    assert_null(json_object_get(json_array_get(list, 5), "ratio_to"));
    assert_null(json_object_get(json_array_get(list, json_array_size(list) - 1), "ratio_to"));
    json_decref(all);
    bench_figures_done(&figures);
}

/* --- the plot -------------------------------------------------------------------------------- */

static void test_script(void **state)
{
    struct bench_figures figures = {0};
    char *script = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&script, &len);

    (void)state;
    fill(&figures);
    bench_plot_script(stream, &figures, two_sizes.memory_mib, two_sizes.n_memory);
    fclose(stream);
    assert_non_null(strstr(script, "$d0 << END\n8.1000 0\n8.1000 1.00000\nEND\n"));
    assert_non_null(strstr(script, "$m3 << END\n128 0.2700 0.2700\n512 0.5405 0.5405\nEND\n"));
    assert_non_null(strstr(script, "set logscale x\n"));
    assert_non_null(strstr(script, "set xtics (128, 512)\n"));
    assert_non_null(strstr(script, "plot $d0 "));
    assert_non_null(strstr(script, "title 'shell: first result'"));
    free(script);
    bench_figures_done(&figures);
}

/* Curves without samples must not be plotted: gnuplot takes an empty block for an error. */
static void test_script_with_gaps(void **state)
{
    struct bench_figures figures = {0};
    char *script = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&script, &len);

    (void)state;
    bench_figures_add(&figures, "shell.restored", "us", 128, 80, NULL);
    bench_figures_sort(&figures);
    bench_plot_script(stream, &figures, two_sizes.memory_mib, 1);
    fclose(stream);
    assert_non_null(strstr(script, "plot $d2 "));
    assert_null(strstr(script, "plot $d0 "));
    assert_null(strstr(script, ", \\\n"));
    free(script);
    bench_figures_done(&figures);
}

/* A program called gnuplot that does as @script says is all that is found. */
static void fake_gnuplot(const char *directory, const char *script)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/gnuplot", directory);
    unlink(path);
    setenv("PATH", directory, 1);
    if (!script)
        return;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\n", script);
    fchmod(fileno(file), 0755);
    fclose(file);
}

static void test_gnuplot(void **state)
{
    struct bench_figures figures = {0};
    char directory[] = "/tmp/mayfly-test-bench-XXXXXX", svg[64], line[64] = "";
    struct error err;

    (void)state;
    fill(&figures);
    assert_non_null(mkdtemp(directory));
    snprintf(svg, sizeof(svg), "%s/out.svg", directory);
    fake_gnuplot(directory, NULL);
    assert_int_equal(bench_plot_check(&err), -ENOENT);
    assert_non_null(strstr(err.text, "gnuplot-nox"));
    fake_gnuplot(directory, "echo 'line 3:\tno way' >&2; exit 1");
    assert_int_equal(bench_plot_draw(svg, &figures, two_sizes.memory_mib, 2, &err), -EIO);
    assert_non_null(strstr(err.text, "line 3: no way"));
    assert_int_equal(access(svg, F_OK), -1);
    fake_gnuplot(directory, "read first; echo \"<svg>$first</svg>\"");
    assert_int_equal(bench_plot_check(&err), 0);
    assert_int_equal(bench_plot_draw(svg, &figures, two_sizes.memory_mib, 2, &err), 0);
    FILE *file = fopen(svg, "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    assert_string_equal(line, "<svg>$d0 << END</svg>\n");
    fake_gnuplot(directory, NULL);
    unlink(svg);
    assert_int_equal(rmdir(directory), 0); /* no temporary file is left */
    bench_figures_done(&figures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_everything),
        cmocka_unit_test(test_wrong),    cmocka_unit_test(test_percentile),
        cmocka_unit_test(test_series),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_peers),    cmocka_unit_test(test_json),
        cmocka_unit_test(test_script),   cmocka_unit_test(test_script_with_gaps),
        cmocka_unit_test(test_gnuplot)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
