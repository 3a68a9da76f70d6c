/* What a pool of shells does next, without any shell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/pool/shell_policy.h"

enum { NOW = 1000 };

static void expect(const struct shell_demand *demand, size_t n, uint32_t per_shape, uint32_t limit,
                   enum shell_action action, size_t shape)
{
    struct shell_step step = shell_policy_next(demand, n, per_shape, limit, NOW);

    assert_int_equal(step.action, action);
    if (action != SHELL_REST)
        assert_int_equal(step.shape, shape);
}

static void test_nothing(void **state)
{
    (void)state;
    expect(NULL, 0, 4, 16, SHELL_REST, 0);
    assert_true(shell_policy_next(NULL, 0, 4, 16, NOW).at_ns == UINT64_MAX);
}

static void test_refills(void **state)
{
    struct shell_demand demand[] = {{.ready = 1, .making = 1, .last_used = 1}};

    (void)state;
    expect(demand, 1, 3, 16, SHELL_MAKE, 0);
    demand[0].making = 2;
    expect(demand, 1, 3, 16, SHELL_REST, 0);
    /* One of the two that are being made is for a caller. */
    demand[0].waiting = 1;
    expect(demand, 1, 3, 16, SHELL_MAKE, 0);
    expect(demand, 1, 0, 16, SHELL_END, 0);
    demand[0].ready = 0;
    expect(demand, 1, 0, 16, SHELL_REST, 0);
}

static void test_callers_first(void **state)
{
    struct shell_demand demand[] = {
        {.ready = 9, .last_used = 3},
        {.ready = 0, .last_used = 2},
        {.waiting = 2, .making = 1, .last_used = 1, .retry_at_ns = NOW + 1}};

    (void)state;
    expect(demand, 3, 3, 16, SHELL_MAKE, 2);
    demand[2].making = 2;
    expect(demand, 3, 3, 16, SHELL_END, 0);
    demand[0].ready = 3;
    expect(demand, 3, 3, 16, SHELL_MAKE, 1);
}

static void test_pauses(void **state)
{
    struct shell_demand demand[] = {{.last_used = 1, .retry_at_ns = NOW + 5},
                                    {.last_used = 2, .retry_at_ns = NOW + 3}};

    (void)state;
    expect(demand, 2, 1, 16, SHELL_REST, 0);
    assert_int_equal(shell_policy_next(demand, 2, 1, 16, NOW).at_ns, NOW + 3);
    demand[0].retry_at_ns = NOW;
    expect(demand, 2, 1, 16, SHELL_MAKE, 0);
    assert_int_equal(shell_policy_pause_ns(1), 100000000);
    assert_int_equal(shell_policy_pause_ns(2), 200000000);
    assert_true(shell_policy_pause_ns(9) == UINT64_C(25600000000));
    assert_true(shell_policy_pause_ns(10) == UINT64_C(30000000000));
    assert_true(shell_policy_pause_ns(UINT32_MAX) == UINT64_C(30000000000));
}

/* The least recently used shape gives way, and no two shapes take turns at it. */
static void test_limit(void **state)
{
    struct shell_demand demand[] = {{.ready = 3, .last_used = 5}, {.ready = 1, .last_used = 9}};
    uint32_t allotted[2];

    (void)state;
    shell_policy_allot(demand, 2, 3, 4, allotted);
    assert_int_equal(allotted[0], 1);
    assert_int_equal(allotted[1], 3);
    expect(demand, 2, 3, 4, SHELL_END, 0);
    demand[0].ready = 1;
    expect(demand, 2, 3, 4, SHELL_MAKE, 1);
    demand[1].ready = 3;
    expect(demand, 2, 3, 4, SHELL_REST, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing),
                                       cmocka_unit_test(test_refills),
                                       cmocka_unit_test(test_callers_first),
                                       cmocka_unit_test(test_pauses), cmocka_unit_test(test_limit)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
