/* What `mayfly top` reads: the text of metrics, damaged text, and rates between two readings. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/metrics_text.h"
#include "cli/top_reading.h"
#include "common/bytes.h"

static int keep_last(void *opaque, const struct metric_sample *sample)
{
    *(struct metric_sample *)opaque = *sample;
    return 0;
}

static void test_text(void **state)
{
    struct metric_sample sample;
    struct error err;

    (void)state;
    assert_int_equal(metrics_text_read("# HELP a b\n# TYPE a counter\n\n"
                                       "a{x=\"1\",y=\"q\\\"\\\\\\n,}\",} 1.5e3 1700000000\n",
                                       keep_last, &sample, &err),
                     0);
    assert_string_equal(sample.name, "a");
    assert_string_equal(metric_sample_label(&sample, "y"), "q\"\\\n,}");
    assert_string_equal(metric_sample_label(&sample, "z"), "");
    assert_true(sample.value == 1500);
    assert_int_equal(metrics_text_read("b +Inf", keep_last, &sample, &err), 0);
    assert_true(isinf(sample.value));
    assert_int_equal(metrics_text_read("", keep_last, &sample, &err), 0);
}

static void test_text_damaged(void **state)
{
    static const char *const wrong[] = {
        "a",          "a ",       "a x",       "{b=\"c\"} 1",    "a{b} 1",
        "a{b=\"c} 1", "a{b=c} 1", "a{b=\"c\"", "a{b=\"\\x\"} 1", "a{=\"c\"} 1",
        "a 1x",       "\x80 1",   "a{b=\"\\"};
    struct metric_sample sample;
    struct error err;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char text[64];

        snprintf(text, sizeof(text), "good 1\n%s", wrong[i]);
        assert_int_equal(metrics_text_read(text, keep_last, &sample, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "line 2"));
    }
}

/* @ok, @failed events, of them @warm on warm instances, the rest restored; all but @slow took less
 * than 0.1 s. */
static void take(unsigned ok, unsigned failed, unsigned warm, unsigned slow,
                 struct top_reading *ret)
{
    unsigned all = ok + failed;
    char text[2048];
    struct error err;

    snprintf(text, sizeof(text),
             "mayfly_invocations_total{tenant=\"t\",function=\"f\",kind=\"ok\"} %u\n"
             "mayfly_invocations_total{tenant=\"t\",function=\"f\",kind=\"timeout\"} %u\n"
             "mayfly_starts_total{tenant=\"t\",function=\"f\",kind=\"warm\"} %u\n"
             "mayfly_starts_total{tenant=\"t\",function=\"f\",kind=\"restored\"} %u\n"
             "mayfly_concurrency{tenant=\"t\",function=\"f\"} 3\n"
             "mayfly_duration_seconds_bucket{tenant=\"t\",function=\"f\",le=\"0.1\"} %u\n"
             "mayfly_duration_seconds_bucket{tenant=\"t\",function=\"f\",le=\"0.2\"} %u\n"
             "mayfly_duration_seconds_bucket{tenant=\"t\",function=\"f\",le=\"+Inf\"} %u\n"
             "mayfly_instances{state=\"busy\"} 2\nmayfly_instances{state=\"idle\"} 5\n"
             "something_new{function=\"other\"} 1\n",
             ok, failed, warm, all - warm, all - slow, all, all);
    assert_int_equal(top_reading_take(text, 0, ret, &err), 0);
}

static void test_rates(void **state)
{
    struct top_reading before, now;
    struct top_row row;

    (void)state;
    take(10, 0, 5, 0, &before);
    take(108, 2, 100, 50, &now);
    assert_int_equal(now.n, 2);
    assert_true(now.busy == 2 && now.idle == 5);
    const struct top_function *function = top_reading_find(&now, "t", "f");
    assert_non_null(function);
    assert_null(top_reading_find(&now, "other", "f"));
    top_row_of(function, top_reading_find(&before, "t", "f"), 10, &row);
    assert_true(row.per_second == 10 && row.errors == 2 && row.warm == 95 && row.restored == 5);
    assert_true(function->counts.concurrency == 3);
    assert_true(fabs(row.p50_s - 0.1) < 1e-9); /* 50 of 100 were below 0.1 */
    assert_true(row.p99_s > 0.1 && row.p99_s <= 0.2);

    /* Nothing ran; a daemon that began anew; a function that is new. */
    top_row_of(function, function, 10, &row);
    assert_true(row.per_second == 0 && row.p50_s < 0);
    top_row_of(top_reading_find(&before, "t", "f"), function, 10, &row);
    assert_true(row.per_second == 1 && row.warm == 5 && row.p50_s >= 0);
    top_row_of(function, NULL, 10, &row);
    assert_true(row.per_second == 11);
    top_reading_done(&before);
    top_reading_done(&now);
}

static void test_nothing_there(void **state)
{
    struct top_reading reading;
    struct error err;

    (void)state;
    assert_int_equal(top_reading_take("up 1\n", 0, &reading, &err), 0);
    assert_int_equal(reading.n, 0);
    assert_null(top_reading_find(&reading, "t", "f"));
    top_reading_done(&reading);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_damaged),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_nothing_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
