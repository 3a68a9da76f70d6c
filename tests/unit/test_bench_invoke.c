/* `mayfly bench invoke` but for the measuring: arguments, what others print, limits, the plot. */
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

#include "cli/bench_client.h"
#include "cli/bench_invoke_options.h"
#include "cli/bench_invoke_report.h"
#include "cli/bench_output.h"
#include "cli/bench_state.h"
#include "cli/bench_wrk.h"
#include "cli/cli_common.h"
#include "host/store/registry.h"

enum { MAX_ARGUMENTS = 32 };

/* --- arguments ------------------------------------------------------------------------------- */

/* Splits @line at '|' and parses; the texts stay until the next call. */
static int parse(const char *line, struct bench_invoke_options *options)
{
    static char copy[1024];
    char *arguments[MAX_ARGUMENTS + 1] = {NULL};
    static char name[] = "invoke";
    int n = 0;

    snprintf(copy, sizeof(copy), "%s", line);
    arguments[n++] = name;
    for (char *word = strtok(copy, "|"); word && n < MAX_ARGUMENTS; word = strtok(NULL, "|"))
        arguments[n++] = word;
    return bench_invoke_options_parse(n, arguments, options);
}

static void test_arguments(void **state)
{
    struct bench_invoke_options options;

    (void)state;
    unsetenv("MAYFLY_STATE");
    assert_int_equal(parse("", &options), -1);
    assert_int_equal(options.count, 100);
    assert_int_equal(options.burst, 50);
    assert_int_equal(options.functions, 10000);
    assert_string_equal(options.state, "/var/lib/mayfly");
    assert_int_equal(parse("--count|3|--seconds|0|--functions|10|--burst|0|--bursts|2|--json|-|"
                           "--plot|p.svg|--state|/s",
                           &options),
                     -1);
    assert_int_equal(options.count, 3);
    assert_int_equal(options.seconds, 0);
    assert_int_equal(options.functions, 10);
    assert_int_equal(options.burst, 0);
    assert_int_equal(options.bursts, 2);
    assert_string_equal(options.json, "-");
    assert_string_equal(options.plot, "p.svg");
    assert_string_equal(options.state, "/s");
}

static void test_wrong_arguments(void **state)
{
    static const char *const lines[] = {"--count|0",     "--count|x",  "--seconds|601",
                                        "--burst|501",   "--burst|-1", "--functions|10001",
                                        "--bursts|0",    "--plot|-",   "--json",
                                        "--parallel|16", "what"};
    struct bench_invoke_options options;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (parse(lines[i], &options) != CLI_USAGE)
            fail_msg("taken: %s", lines[i]);
}

/* --- what others print ----------------------------------------------------------------------- */

static void test_timing(void **state)
{
    struct bench_answer answer = {.status = 200};

    (void)state;
    bench_client_parse_timing(" start;desc=restored, acquire;dur=1.250, guest;dur=20.007\r\n",
                              &answer);
    assert_int_equal(answer.start, BENCH_RESTORED);
    assert_int_equal(answer.acquire_us, 1250);
    assert_int_equal(answer.guest_us, 20007);
    answer = (struct bench_answer){.status = 200};
    bench_client_parse_timing(" start;desc=warm, acquire;dur=x, guest;dur=-1", &answer);
    assert_int_equal(answer.start, BENCH_WARM);
    assert_int_equal(answer.acquire_us, 0);
    assert_int_equal(answer.guest_us, 0);
    answer = (struct bench_answer){.status = 200};
    bench_client_parse_timing(" cache;desc=warm", &answer);
    assert_int_equal(answer.start, BENCH_START_UNKNOWN);
}

static void test_wrk(void **state)
{
    static const char good[] = "Running 3s test @ http://127.0.0.1:1/f\n"
                               "  1 threads and 16 connections\n"
                               "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n"
                               "    Latency     6.39ms   13.88ms 100.22ms   90.73%\n"
                               "  Latency Distribution\n"
                               "     50%  760.00us\n"
                               "     75%    5.39ms\n"
                               "     99%    1.50s\n"
                               "  50000 requests in 3.19s, 5.72MB read\n"
                               "  Socket errors: connect 1, read 2, write 0, timeout 4\n"
                               "  Non-2xx or 3xx responses: 12\n"
                               "Requests/sec:  15666.15\n"
                               "Transfer/sec:      1.79MB\n";
    struct bench_wrk_result result;

    (void)state;
    assert_int_equal(bench_wrk_parse(good, &result), 0);
    assert_true(result.per_second == 15666.15);
    assert_true(result.p50_us == 760);
    assert_true(result.p99_us == 1.5e6);
    assert_int_equal(result.bad, 19);
    assert_int_equal(bench_wrk_parse("Requests/sec:  10.50\n", &result), 0);
    assert_int_equal(result.bad, 0);
    assert_int_equal(bench_wrk_parse("unable to connect\n", &result), -EBADMSG);
}

/* --- limits, JSON, plot ---------------------------------------------------------------------- */

static const struct sample {
    const char *name, *unit;
    double value;
} samples[] = {
    {"warm.cpu", "us", 90},       {"warm.host", "us", 301},   {"restored.host", "us", 1000},
    {"dry.signed", "1/s", 12000}, {"rss.1000", "bytes", 1e9}, {"get.10", "us", 100},
    {"get.10000", "us", 140},     {"list.10", "us", 100},     {"burst.warm_before", "us", 10000},
    {"dry.host", "us", 50},       {"list.10000", "us", 200},  {"burst.warm_during", "us", 20000},
};

static void fill(struct bench_figures *figures)
{
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        assert_int_equal(
            bench_figures_add(figures, samples[i].name, samples[i].unit, 0, samples[i].value, NULL),
            0);
    bench_figures_sort(figures);
}

static const struct bench_limit *find_limit(const struct bench_limit *limits, size_t n,
                                            const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(limits[i].what, what))
            return &limits[i];
    fail_msg("no limit '%s'", what);
    return NULL;
}

static const struct bench_invoke_options options_of_report = {.count = 1, .burst = 4};

static void test_limits(void **state)
{
    struct bench_figures figures = {0};
    struct bench_invoke_report report = {
        .options = &options_of_report, .figures = &figures, .kvm = "hardware"};
    struct bench_limit limits[BENCH_MAX_LIMITS];

    (void)state;
    assert_int_equal(bench_invoke_limits(&report, limits), 0); /* nothing was measured */
    fill(&figures);
    size_t n = bench_invoke_limits(&report, limits);
    assert_true(bench_limit_is_met(find_limit(limits, n, "processor time")));
    assert_false(bench_limit_is_met(find_limit(limits, n, "warm: wall")));
    assert_null(find_limit(limits, n, "warm: wall")->why);
    assert_true(bench_limit_is_met(find_limit(limits, n, "restored: wall")));
    assert_true(bench_limit_is_met(find_limit(limits, n, "invocations, signed")));
    assert_false(bench_limit_is_met(find_limit(limits, n, "1,000 functions")));
    assert_true(bench_limit_is_met(find_limit(limits, n, "GetFunction")));
    assert_false(bench_limit_is_met(find_limit(limits, n, "ListFunctions")));
    assert_true(find_limit(limits, n, "burst")->reached == 2);
    assert_true(bench_limit_is_met(find_limit(limits, n, "burst")));
    for (size_t i = 0; i < n; i++)
        assert_null(strstr(limits[i].what, "unsigned")); /* it was not measured */
    report.emulates_supervisor = true;
    bench_invoke_limits(&report, limits);
    assert_non_null(find_limit(limits, n, "warm: wall")->why);
    bench_figures_done(&figures);
}

static void test_json(void **state)
{
    struct bench_figures figures = {0};
    const struct bench_invoke_report report = {.options = &options_of_report,
                                               .figures = &figures,
                                               .kvm = "emulates supervisor mode",
                                               .emulates_supervisor = true};

    (void)state;
    fill(&figures);
    json_t *all = bench_invoke_json(&report);
    assert_non_null(all);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(all, "asked"), "burst")),
                     4);
    assert_int_equal(json_array_size(json_object_get(all, "figures")),
                     sizeof(samples) / sizeof(samples[0]));
    json_t *figure = json_array_get(json_object_get(all, "figures"), 0);
    assert_string_equal(json_string_value(json_object_get(figure, "name")), "warm.cpu");
    assert_true(json_real_value(json_object_get(figure, "p99")) == 90);
    assert_null(json_object_get(figure, "memory_mib"));
    json_t *met = json_array_get(json_object_get(all, "limits"), 0);
    assert_true(json_is_true(json_object_get(met, "met")));
    assert_null(json_object_get(met, "why"));
    json_t *missed = json_array_get(json_object_get(all, "limits"), 1);
    assert_true(json_is_false(json_object_get(missed, "met")));
    assert_non_null(json_object_get(missed, "why"));
    json_decref(all);
    bench_figures_done(&figures);
}

static void test_script(void **state)
{
    struct bench_figures figures = {0};
    char *script = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&script, &len);

    (void)state;
    fill(&figures);
    bench_invoke_script(stream, &figures);
    fclose(stream);
    assert_non_null(strstr(script, "$d0 << END\n0.0500 0\n0.0500 1.00000\nEND\n"));
    assert_non_null(strstr(script, "title 'warm, beside the burst'"));
    assert_null(strstr(script, "title 'of the burst'")); /* no samples: not plotted */
    free(script);
    bench_figures_done(&figures);
}

/* --- where it goes --------------------------------------------------------------------------- */

static void test_output(void **state)
{
    char directory[] = "/tmp/mayfly-test-invoke-XXXXXX", path[64];
    struct error err;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/none/f.json", directory);
    assert_int_equal(bench_output_check(path, NULL, &err), -ENOENT);
    snprintf(path, sizeof(path), "%s/f.json", directory);
    assert_int_equal(bench_output_check(path, NULL, &err), 0);
    assert_int_equal(bench_output_json(path, json_pack("{s:i}", "a", 1), &err), 0);
    json_t *read = json_load_file(path, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(read, "a")), 1);
    json_decref(read);
    unlink(path);
    rmdir(directory);
}

/* --- states ---------------------------------------------------------------------------------- */

static int stop_at_three(void *opaque, uint64_t done, uint64_t total, struct error *err)
{
    (void)err;
    assert_int_equal(total, 4);
    *(uint64_t *)opaque = done;
    return done == 3 ? -EINTR : 0;
}

static void test_state(void **state)
{
    char directory[] = "/tmp/mayfly-test-invoke-XXXXXX", path[PATH_MAX + 32];
    struct bench_state made = {.path = ""};
    struct registry_options options = {.state = path};
    struct function_page page;
    struct registry *registry;
    struct stat st;
    uint64_t done = 0;
    struct error err;

    (void)state;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(bench_state_make(directory, &made, &err), -ENOENT); /* no images */
    snprintf(path, sizeof(path), "%s/images", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/snapshots", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/snapshots/some", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(bench_state_make(directory, &made, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_nlink, 2);
    snprintf(path, sizeof(path), "%s/some", made.path);
    assert_int_equal(bench_state_fill(path, 4, stop_at_three, &done, &err), -EINTR);
    assert_int_equal(done, 3);
    snprintf(path, sizeof(path), "%s/all", made.path);
    assert_int_equal(bench_state_fill(path, 4, NULL, NULL, &err), 0);
    assert_int_equal(registry_open(&options, &registry, &err), 0);
    assert_int_equal(registry_list(registry, "default", false, NULL, 0, &page, &err), 0);
    assert_int_equal(page.n, 4);
    assert_string_equal(page.functions[3]->name, "function-000003");
    assert_int_equal(page.functions[3]->state, FUNCTION_ACTIVE);
    function_page_done(&page);
    registry_close(registry);
    bench_state_remove(&made);
    bench_state_remove(&made);
    snprintf(path, sizeof(path), "%s/snapshots/some", directory);
    assert_int_equal(unlink(path), 0); /* it stayed */
    snprintf(path, sizeof(path), "%s/snapshots", directory);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/images", directory);
    rmdir(path);
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_timing),    cmocka_unit_test(test_wrk),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_json),
        cmocka_unit_test(test_script),    cmocka_unit_test(test_output),
        cmocka_unit_test(test_state)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
