/* Metrics: values, the text for Prometheus, hostile labels, limits, threads. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/utf8.h"
#include "host/observe/metrics.h"

static struct metric_family *family(struct metrics *metrics, const struct metric_description *d)
{
    struct metric_family *made = NULL;
    struct error err = {0};

    if (metrics_family(metrics, d, &made, &err) != 0)
        fail_msg("%s", err.text);
    return made;
}

static char *text_of(struct metrics *metrics)
{
    struct error err = {0};
    char *text = NULL;
    size_t len = 0;

    assert_int_equal(metrics_write(metrics, &text, &len, &err), 0);
    assert_int_equal(strlen(text), len);
    return text;
}

static void writes(struct metrics *metrics, const char *expected)
{
    char *text = text_of(metrics);

    assert_string_equal(text, expected);
    free(text);
}

static void test_counters_and_gauges(void **state)
{
    struct metrics *metrics = metrics_new();
    const struct metric_description counter = {.type = METRIC_COUNTER,
                                               .name = "events_total",
                                               .help = "Events\\ of\nall.",
                                               .labels = {"tenant", "function"}};
    const struct metric_description gauge = {
        .type = METRIC_GAUGE, .name = "depth", .help = "Depth."};
    struct metric_family *events = family(metrics, &counter), *depth = family(metrics, &gauge);
    const char *const f[] = {"alice", "f"}, *const g[] = {"alice", "g"}, *const none[] = {NULL, ""};

    (void)state;
    metric_add(metric_of(events, f), 1);
    metric_add(metric_of(events, f), 2);
    metric_add(metric_of(events, f), -5); /* a counter does not fall */
    metric_add(metric_of(events, f), NAN);
    metric_add(metric_of(events, g), 0.5);
    metric_add(metric_of(events, none), 9007199254740992.0);
    assert_ptr_equal(metric_of(events, f), metric_of(events, f));
    assert_ptr_not_equal(metric_of(events, f), metric_of(events, g));
    metric_set(metric_of(depth, NULL), 7);
    metric_add(metric_of(depth, NULL), -10);
    writes(metrics, "# HELP events_total Events\\\\ of\\nall.\n"
                    "# TYPE events_total counter\n"
                    "events_total{tenant=\"alice\",function=\"f\"} 3\n"
                    "events_total{tenant=\"alice\",function=\"g\"} 0.5\n"
                    "events_total{tenant=\"\",function=\"\"} 9007199254740992\n"
                    "# HELP depth Depth.\n"
                    "# TYPE depth gauge\n"
                    "depth -3\n");
    assert_true(metric_value(metric_of(depth, NULL)) == -3);
    metric_set(metric_of(depth, NULL), INFINITY);
    char *text = text_of(metrics);
    assert_non_null(strstr(text, "depth +Inf\n"));
    free(text);
    metrics_free(metrics);
    metrics_free(NULL);
}

static void test_histograms(void **state)
{
    static const double bounds[] = {0.1, 1, 10};
    struct metrics *metrics = metrics_new();
    const struct metric_description d = {.type = METRIC_HISTOGRAM,
                                         .name = "seconds",
                                         .help = "S.",
                                         .labels = {"f"},
                                         .bounds = bounds,
                                         .n_bounds = 3};
    const struct metric_description usual = {
        .type = METRIC_HISTOGRAM, .name = "usual", .help = "U."};
    struct metric *metric = metric_of(family(metrics, &d), (const char *const[]){"x"});

    (void)state;
    metric_observe(metric, 0.1); /* bounds belong to their bucket */
    metric_observe(metric, 0.5);
    metric_observe(metric, 0.5);
    metric_observe(metric, 100);
    assert_true(metric_value(metric) == 4);
    writes(metrics, "# HELP seconds S.\n"
                    "# TYPE seconds histogram\n"
                    "seconds_bucket{f=\"x\",le=\"0.1\"} 1\n"
                    "seconds_bucket{f=\"x\",le=\"1\"} 3\n"
                    "seconds_bucket{f=\"x\",le=\"10\"} 3\n"
                    "seconds_bucket{f=\"x\",le=\"+Inf\"} 4\n"
                    "seconds_sum{f=\"x\"} 101.09999999999999\n"
                    "seconds_count{f=\"x\"} 4\n");
    metric_observe(metric_of(family(metrics, &usual), NULL), 0.0002);
    char *text = text_of(metrics);
    assert_non_null(
        strstr(text, "usual_bucket{le=\"0.0001\"} 0\nusual_bucket{le=\"0.00025\"} 1\n"));
    assert_non_null(strstr(text, "usual_bucket{le=\"900\"} 1\nusual_bucket{le=\"+Inf\"} 1\n"));
    free(text);
    metrics_free(metrics);
}

static void test_hostile_labels(void **state)
{
    struct metrics *metrics = metrics_new();
    const struct metric_description d = {
        .type = METRIC_COUNTER, .name = "c", .help = "C.", .labels = {"a", "b"}};
    struct metric_family *c = family(metrics, &d);
    char large[1000];

    (void)state;
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    metric_add(metric_of(c, (const char *const[]){"\"} 1\nfaked 2\n#\\", "\x1b[2J"}), 1);
    metric_add(metric_of(c, (const char *const[]){"\xc3\xa4\xff\xfe", "\xed\xa0\x80"}), 1);
    metric_add(metric_of(c, (const char *const[]){large, large}), 1);
    char *text = text_of(metrics);
    assert_non_null(strstr(text, "c{a=\"\\\"} 1\\nfaked 2\\n#\\\\\",b=\"?[2J\"} 1\n"));
    assert_non_null(strstr(text, "c{a=\"\xc3\xa4\",b=\"\"} 1\n"));
    assert_null(strstr(text, "\nfaked"));
    assert_true(utf8_check(text, strlen(text), NULL));
    assert_true(strlen(text) < 600);
    free(text);
    metrics_free(metrics);
}

static void test_too_many_series(void **state)
{
    struct metrics *metrics = metrics_new();
    const struct metric_description d = {
        .type = METRIC_COUNTER, .name = "c", .help = "C.", .labels = {"f"}, .max_series = 10};
    struct metric_family *c = family(metrics, &d);
    char name[32];
    const char *const values[] = {name};

    (void)state;
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        metric_add(metric_of(c, values), 1);
    }
    strcpy(name, "f3");
    assert_true(metric_value(metric_of(c, values)) == 1);
    strcpy(name, "f999");
    assert_true(metric_value(metric_of(c, values)) == 990);
    char *text = text_of(metrics);
    size_t lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')); at++)
        lines++;
    assert_int_equal(lines, 2 + 10 + 1);
    assert_non_null(strstr(text, "c{f=\"other\"} 990\n"));
    free(text);
    metrics_free(metrics);
}

static void refuse(struct metrics *metrics, struct metric_description d, int code)
{
    struct metric_family *made = NULL;
    struct error err = {0};

    assert_int_equal(metrics_family(metrics, &d, &made, &err), -code);
    assert_null(made);
}

static void test_bad_descriptions(void **state)
{
    static const double falling[] = {1, 1}, endless[] = {INFINITY};
    struct metrics *metrics = metrics_new();

    (void)state;
    family(metrics,
           &(struct metric_description){.type = METRIC_GAUGE, .name = "there", .help = "H."});
    refuse(metrics,
           (struct metric_description){.type = METRIC_GAUGE, .name = "there", .help = "H."},
           EEXIST);
    refuse(metrics, (struct metric_description){.type = METRIC_GAUGE, .name = "1x", .help = "H."},
           EINVAL);
    refuse(metrics, (struct metric_description){.type = METRIC_GAUGE, .name = "a b", .help = "H."},
           EINVAL);
    refuse(metrics, (struct metric_description){.type = METRIC_GAUGE, .name = "", .help = "H."},
           EINVAL);
    refuse(metrics, (struct metric_description){.type = METRIC_GAUGE, .name = "x", .help = NULL},
           EINVAL);
    refuse(metrics,
           (struct metric_description){
               .type = METRIC_GAUGE, .name = "x", .help = "H.", .labels = {"a-b"}},
           EINVAL);
    refuse(metrics,
           (struct metric_description){
               .type = METRIC_HISTOGRAM, .name = "x", .help = "H.", .labels = {"le"}},
           EINVAL);
    refuse(
        metrics,
        (struct metric_description){
            .type = METRIC_HISTOGRAM, .name = "x", .help = "H.", .bounds = falling, .n_bounds = 2},
        EINVAL);
    refuse(
        metrics,
        (struct metric_description){
            .type = METRIC_HISTOGRAM, .name = "x", .help = "H.", .bounds = endless, .n_bounds = 1},
        EINVAL);
    refuse(
        metrics,
        (struct metric_description){
            .type = METRIC_COUNTER, .name = "x", .help = "H.", .max_series = METRIC_SERIES_MAX + 1},
        EINVAL);
    metrics_free(metrics);
}

static void ask(void *opaque)
{
    metric_set(opaque, 42);
}

static void test_collectors(void **state)
{
    struct metrics *metrics = metrics_new();
    struct metric *depth = metric_of(
        family(metrics,
               &(struct metric_description){.type = METRIC_GAUGE, .name = "depth", .help = "D."}),
        NULL);
    struct error err = {0};

    (void)state;
    assert_int_equal(metrics_on_write(metrics, ask, depth, &err), 0);
    writes(metrics, "# HELP depth D.\n# TYPE depth gauge\ndepth 42\n");
    for (int i = 1; i < 16; i++)
        assert_int_equal(metrics_on_write(metrics, ask, depth, &err), 0);
    assert_int_equal(metrics_on_write(metrics, ask, depth, &err), -ENOSPC);
    metrics_free(metrics);
}

enum { THREADS = 4, ROUNDS = 5000, NAMES = 50 };

struct shared {
    struct metrics *metrics;
    struct metric_family *counter, *histogram;
};

static void *count(void *opaque)
{
    struct shared *shared = opaque;
    char name[32];
    const char *const values[] = {name};

    for (int i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof(name), "f%d", i % NAMES);
        metric_add(metric_of(shared->counter, values), 1);
        metric_observe(metric_of(shared->histogram, values), 1);
        if (i % 1000 == 0) {
            struct error err = {0};
            char *text = NULL;
            size_t len;

            if (metrics_write(shared->metrics, &text, &len, &err) == 0)
                free(text);
        }
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state)
{
    struct metrics *metrics = metrics_new();
    const struct metric_description c = {
        .type = METRIC_COUNTER, .name = "c", .help = "C.", .labels = {"f"}};
    const struct metric_description h = {
        .type = METRIC_HISTOGRAM, .name = "h", .help = "H.", .labels = {"f"}};
    struct shared shared = {metrics, family(metrics, &c), family(metrics, &h)};
    pthread_t threads[THREADS];
    double counted = 0, observed = 0;
    char name[32];
    const char *const values[] = {name};

    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, &shared), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        counted += metric_value(metric_of(shared.counter, values));
        observed += metric_value(metric_of(shared.histogram, values));
    }
    assert_true(counted == THREADS * ROUNDS);
    assert_true(observed == THREADS * ROUNDS);
    metrics_free(metrics);
}

/* A tenant's text: its series, nothing of others', of the host or of what is shared. */
static void test_one_tenants(void **state)
{
    struct metrics *metrics = metrics_new();
    const struct metric_description counter = {.type = METRIC_COUNTER,
                                               .name = "events_total",
                                               .help = "E.",
                                               .labels = {"tenant", "function"},
                                               .max_series = 3};
    const struct metric_description gauge = {.type = METRIC_GAUGE, .name = "depth", .help = "D."};
    struct metric_family *events = family(metrics, &counter);
    struct error err;
    char *text = NULL;
    size_t len = 0;

    (void)state;
    metric_set(metric_of(family(metrics, &gauge), NULL), 1);
    metric_add(metric_of(events, (const char *[]){"alice", "f"}), 1);
    metric_add(metric_of(events, (const char *[]){"bob", "alice"}), 1);
    metric_add(metric_of(events, (const char *[]){"alice", "g"}), 2);
    metric_add(metric_of(events, (const char *[]){"carol", "h"}), 1); /* shared: too many */
    assert_int_equal(metrics_write_of(metrics, "tenant", "alice", &text, &len, &err), 0);
    assert_string_equal(text, "# HELP events_total E.\n# TYPE events_total counter\n"
                              "events_total{tenant=\"alice\",function=\"f\"} 1\n"
                              "events_total{tenant=\"alice\",function=\"g\"} 2\n");
    free(text);
    /* Who is called as the shared series are has no second one. */
    assert_int_equal(metrics_write_of(metrics, "tenant", "other", &text, &len, &err), 0);
    assert_null(strstr(text, "events_total{"));
    free(text);
    assert_ptr_equal(metric_of(events, (const char *[]){"other", "other"}),
                     metric_of(events, (const char *[]){"dave", "i"}));
    metrics_free(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_and_gauges), cmocka_unit_test(test_histograms),
        cmocka_unit_test(test_hostile_labels),      cmocka_unit_test(test_too_many_series),
        cmocka_unit_test(test_bad_descriptions),    cmocka_unit_test(test_collectors),
        cmocka_unit_test(test_one_tenants),         cmocka_unit_test(test_threads_lose_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
