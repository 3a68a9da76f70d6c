/* What pools decide and count, and what the dispatcher makes of outcomes: nothing runs here. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/pool/concurrency.h"
#include "host/pool/dispatcher.h"
#include "host/pool/pool_policy.h"

/* --- policy ---------------------------------------------------------------------------------- */

static void test_tracks_the_peak(void **state)
{
    const struct pool_provision provision = {.minimum = 2, .maximum = 20, .target = 0.7};
    struct pool_peaks peaks = {.current = 0};

    (void)state;
    assert_int_equal(pool_policy_track(&provision, &peaks), 2);
    pool_peaks_note(&peaks, 1);
    assert_int_equal(pool_policy_track(&provision, &peaks), 2);
    pool_peaks_note(&peaks, 7);
    assert_int_equal(pool_policy_track(&provision, &peaks), 10);
    pool_peaks_note(&peaks, 8);
    assert_int_equal(pool_policy_track(&provision, &peaks), 12);
    pool_peaks_note(&peaks, 3);
    assert_int_equal(pool_policy_track(&provision, &peaks), 12);
    pool_peaks_note(&peaks, UINT32_MAX);
    assert_int_equal(pool_policy_track(&provision, &peaks), 20);
}

/* Down only when the load stayed low for all the intervals that are looked back at. */
static void test_shrinks_late(void **state)
{
    const struct pool_provision provision = {.minimum = 1, .maximum = 20, .target = 0.5};
    struct pool_peaks peaks = {.current = 0};

    (void)state;
    pool_peaks_note(&peaks, 6);
    for (int i = 1; i < POOL_PEAKS; i++) {
        pool_peaks_next(&peaks, 2);
        assert_int_equal(pool_policy_track(&provision, &peaks), 12);
    }
    pool_peaks_next(&peaks, 2);
    assert_int_equal(pool_policy_track(&provision, &peaks), 4);
}

static void test_fixed_number(void **state)
{
    const struct pool_provision fixed = {.minimum = 5, .maximum = 5, .target = 1.0};
    const struct pool_provision bad[] = {{.minimum = 3, .maximum = 2, .target = 0.7},
                                         {.minimum = 1, .maximum = 2, .target = 0.0},
                                         {.minimum = 1, .maximum = 2, .target = 1.1},
                                         {.minimum = 1, .maximum = 2, .target = -1.0},
                                         {.minimum = 1, .maximum = 2, .target = 0.0 / 0.0}};
    struct pool_peaks peaks = {.current = 0};

    (void)state;
    assert_int_equal(pool_policy_track(&fixed, &peaks), 5);
    pool_peaks_note(&peaks, 50);
    assert_int_equal(pool_policy_track(&fixed, &peaks), 5);
    assert_true(pool_provision_check(&fixed));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(pool_provision_check(&bad[i]));
}

static void test_what_may_end(void **state)
{
    const struct pool_idle spare = {.idle_ns = 100, .live = 3, .provisioned = 2};
    const struct pool_idle promised = {.idle_ns = 100, .live = 2, .provisioned = 2};

    (void)state;
    assert_true(pool_policy_may_end(&spare, REASON_KEEP_ALIVE, 100));
    assert_false(pool_policy_may_end(&spare, REASON_KEEP_ALIVE, 101));
    assert_true(pool_policy_may_end(&spare, REASON_ROOM, 101));
    assert_true(pool_policy_may_end(&spare, REASON_MEMORY, 101));
    assert_false(pool_policy_may_end(&promised, REASON_KEEP_ALIVE, 1));
    assert_false(pool_policy_may_end(&promised, REASON_ROOM, 1));
    assert_false(pool_policy_may_end(&promised, REASON_MEMORY, 1));
    assert_true(pool_policy_may_end(&promised, REASON_DISTRESS, 1));
}

/* --- concurrency ----------------------------------------------------------------------------- */

static void test_limits(void **state)
{
    const struct concurrency_limits shared = {.reserved = CONCURRENCY_UNRESERVED, .unreserved = 3};
    const struct concurrency_limits own = {.reserved = 1, .unreserved = 3}, none = {.reserved = 0};
    struct concurrency *table = concurrency_new();
    struct counted_function *a = concurrency_find(table, "t", "a");
    struct counted_function *b = concurrency_find(table, "t", "b");
    struct counted_function *other = concurrency_find(table, "u", "a");
    bool is_reserved;

    (void)state;
    assert_ptr_equal(a, concurrency_find(table, "t", "a"));
    assert_ptr_not_equal(a, other);
    assert_int_equal(concurrency_enter(a, &shared, &is_reserved), CONCURRENCY_ENTERED);
    assert_false(is_reserved);
    assert_int_equal(concurrency_enter(a, &shared, &is_reserved), CONCURRENCY_ENTERED);
    assert_int_equal(concurrency_enter(b, &shared, &is_reserved), CONCURRENCY_ENTERED);
    assert_int_equal(concurrency_enter(b, &shared, &is_reserved), CONCURRENCY_ACCOUNT_FULL);
    /* Another account, and a function with a reservation, are not concerned. */
    assert_int_equal(concurrency_enter(other, &shared, &is_reserved), CONCURRENCY_ENTERED);
    struct counted_function *c = concurrency_find(table, "t", "c");
    assert_int_equal(concurrency_enter(c, &own, &is_reserved), CONCURRENCY_ENTERED);
    assert_true(is_reserved);
    assert_int_equal(concurrency_enter(c, &own, &is_reserved), CONCURRENCY_FUNCTION_FULL);
    assert_int_equal(concurrency_enter(c, &none, &is_reserved), CONCURRENCY_FUNCTION_FULL);
    assert_int_equal(c->counters.throttled, 2);
    concurrency_leave(table, c, true);
    assert_int_equal(concurrency_enter(b, &shared, &is_reserved), CONCURRENCY_ACCOUNT_FULL);
    concurrency_leave(table, a, false);
    assert_int_equal(concurrency_enter(b, &shared, &is_reserved), CONCURRENCY_ENTERED);
    concurrency_free(table);
}

static void count(void *opaque, const char *tenant, const char *name,
                  const struct function_counters *counters)
{
    (void)tenant;
    (void)name;
    (void)counters;
    ++*(int *)opaque;
}

static int functions_of(struct concurrency *table)
{
    int n = 0;

    concurrency_each(table, count, &n);
    return n;
}

static void test_forgotten(void **state)
{
    const struct concurrency_limits shared = {.reserved = CONCURRENCY_UNRESERVED, .unreserved = 3};
    struct concurrency *table = concurrency_new();
    struct counted_function *a = concurrency_find(table, "t", "a");
    bool is_reserved;

    (void)state;
    concurrency_enter(a, &shared, &is_reserved);
    concurrency_forget(table, "t", "a");
    concurrency_forget(table, "t", "unknown");
    assert_int_equal(functions_of(table), 1);
    concurrency_leave(table, a, is_reserved);
    assert_int_equal(functions_of(table), 0);
    concurrency_find(table, "t", "a");
    concurrency_forget(table, "t", "a");
    assert_int_equal(functions_of(table), 0);
    concurrency_free(table);
}

/* --- results --------------------------------------------------------------------------------- */

static void test_log_tail(void **state)
{
    static struct log_tail tail;
    static char text[3 * LOG_TAIL_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 7 + i / 256);
    for (size_t piece = 1; piece < sizeof(text); piece = piece * 3 + 1) {
        tail.len_bytes = 0;
        for (size_t at = 0, n; at < sizeof(text); at += n) {
            n = piece < sizeof(text) - at ? piece : sizeof(text) - at;
            log_tail_add(&tail, text + at, n);
            size_t kept = at + n < LOG_TAIL_BYTES ? at + n : LOG_TAIL_BYTES;
            assert_int_equal(tail.len_bytes, kept);
            assert_memory_equal(tail.bytes, text + at + n - kept, kept);
        }
    }
}

static struct agent_result result_of(enum agent_outcome outcome, const char *payload)
{
    struct agent_result result = {.outcome = outcome,
                                  .payload = (uint8_t *)strdup(payload),
                                  .payload_bytes = strlen(payload),
                                  .memory_peak_bytes = UINT64_MAX,
                                  .message = "it \"fell\""};

    return result;
}

static void expect(enum agent_outcome outcome, const char *payload, enum invocation_kind kind,
                   const char *words)
{
    struct invocation_result to = {.duration_us = 2001};
    struct agent_result result = result_of(outcome, payload);

    assert_int_equal(dispatcher_take_result(&to, &result, "id-1", 3000, 128), 0);
    assert_int_equal(to.kind, kind);
    if (!strstr((const char *)to.payload, words))
        fail_msg("'%s' is not in '%s'", words, (const char *)to.payload);
    assert_int_equal(to.payload_bytes, strlen((const char *)to.payload));
    assert_int_equal(to.billed_ms, 3);
    assert_int_equal(to.memory_peak_bytes, 128 << 20);
    invocation_result_done(&to);
}

static void test_outcomes(void **state)
{
    (void)state;
    expect(OUTCOME_OK, "{\"a\":1}", INVOKED_OK, "{\"a\":1}");
    expect(OUTCOME_OK, "", INVOKED_OK, "");
    expect(OUTCOME_FUNCTION_ERROR, "{\"errorType\":\"E\"}", INVOKED_FUNCTION_ERROR, "\"E\"");
    expect(OUTCOME_FUNCTION_ERROR, "", INVOKED_FUNCTION_ERROR, "Runtime.ExitError");
    expect(OUTCOME_EXITED, "", INVOKED_FUNCTION_ERROR, "it \\\"fell\\\"");
    expect(OUTCOME_OUT_OF_MEMORY, "", INVOKED_FUNCTION_ERROR, "Runtime.OutOfMemory");
    expect(OUTCOME_RESPONSE_TOO_LARGE, "x", INVOKED_FUNCTION_ERROR, "ResponseSizeTooLarge");
    expect(OUTCOME_TIMEOUT, "", INVOKED_TIMEOUT, "id-1 Error: Task timed out after 3.00 seconds");
    expect(OUTCOME_AGENT_ERROR, "", INVOKED_SANDBOX_ERROR, "it \\\"fell\\\"");
}

static void test_memory_left_to_others(void **state)
{
    (void)state;
    assert_int_equal(pool_policy_leave(0), 256 << 20);
    assert_int_equal(pool_policy_leave(UINT64_C(2) << 30), 256 << 20);
    assert_int_equal(pool_policy_leave(UINT64_C(20) << 30), UINT64_C(1) << 30);
}

static void test_billing(void **state)
{
    static const uint64_t cases[][2] = {{0, 0}, {1, 1}, {1000, 1}, {1001, 2}, {9000000, 3000}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct invocation_result to = {.duration_us = cases[i][0]};
        struct agent_result result = result_of(OUTCOME_OK, "1");

        assert_int_equal(dispatcher_take_result(&to, &result, "id", 3000, 128), 0);
        assert_int_equal(to.billed_ms, cases[i][1]);
        invocation_result_done(&to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tracks_the_peak), cmocka_unit_test(test_shrinks_late),
        cmocka_unit_test(test_fixed_number),    cmocka_unit_test(test_what_may_end),
        cmocka_unit_test(test_limits),          cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_log_tail),        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_billing),         cmocka_unit_test(test_memory_left_to_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
