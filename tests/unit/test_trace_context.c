/* Trace headers: valid, broken, hostile, mapped to each other, kept with an event. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "host/observe/trace_context.h"

#define ROOT "1-5759e988-bd862e3fe1be46a994272793"
#define ROOT_ID "5759e988bd862e3fe1be46a994272793"
#define PARENT "53995c3f42cd8ad8"
#define W3C_ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define W3C_PARENT "00f067aa0ba902b7"

static struct trace_context read_headers(const char *amzn, const char *traceparent, double ratio)
{
    struct trace_context context;

    trace_context_read(&context, amzn, traceparent, ratio);
    return context;
}

static void amzn_is(const struct trace_context *context, const char *expected)
{
    char text[TRACE_AMZN_BYTES];

    trace_context_amzn(context, NULL, text);
    assert_string_equal(text, expected);
}

static void test_amzn(void **state)
{
    struct trace_context context =
        read_headers("Root=" ROOT ";Parent=" PARENT ";Sampled=1;Lineage=x", NULL, 0);
    char text[TRACE_PARENT_BYTES];

    (void)state;
    amzn_is(&context, "Root=" ROOT ";Parent=" PARENT ";Sampled=1");
    assert_string_equal(context.trace_id, ROOT_ID);
    assert_string_equal(context.parent_id, PARENT);
    trace_context_traceparent(&context, W3C_PARENT, text);
    assert_string_equal(text, "00-" ROOT_ID "-" W3C_PARENT "-01");
    context = read_headers(" Sampled=0; Root=1-5759E988-BD862E3FE1BE46A994272793", NULL, 1);
    amzn_is(&context, "Root=" ROOT ";Sampled=0");
    context = read_headers("Root=" ROOT ";Sampled=?", NULL, 1);
    assert_true(context.is_sampled);
    context = read_headers("Root=" ROOT, NULL, 0);
    assert_false(context.is_sampled);
}

static void test_traceparent(void **state)
{
    struct trace_context context = read_headers(NULL, "00-" W3C_ID "-" W3C_PARENT "-01", 0);

    (void)state;
    assert_true(context.has_traceparent && context.is_sampled);
    amzn_is(&context, "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=" W3C_PARENT ";Sampled=1");
    context = read_headers(NULL, "00-" W3C_ID "-" W3C_PARENT "-00", 1);
    assert_true(context.has_traceparent && !context.is_sampled);
    context = read_headers(NULL, "cc-" W3C_ID "-" W3C_PARENT "-0b-what-comes", 0);
    assert_true(context.has_traceparent && context.is_sampled);
}

/* What is none: another trace begins. */
static void test_broken(void **state)
{
    static const char *const amzn[] = {"",
                                       ";",
                                       ";;;=",
                                       "Root",
                                       "Root=",
                                       "Root=1",
                                       "Root=2-5759e988-bd862e3fe1be46a994272793",
                                       "Root=1-5759e98-bd862e3fe1be46a994272793",
                                       "Root=1-5759e988-bd862e3fe1be46a99427279g",
                                       "Root=1-5759e988_bd862e3fe1be46a994272793",
                                       "Root=1-5759e988-000000000000000000000000",
                                       "Root=" ROOT ";Parent=1",
                                       "Root=" ROOT ";Parent=0000000000000000",
                                       "Root=" ROOT ";Root=" ROOT,
                                       "Parent=" PARENT ";Sampled=1",
                                       "\xff\xfe\x01\n",
                                       ("root=" ROOT),
                                       "Root=1-zzzzzzzz-bd862e3fe1be46a994272793"};
    static const char *const w3c[] = {"",
                                      "00",
                                      "00-" W3C_ID "-" W3C_PARENT,
                                      "00-" W3C_ID "-" W3C_PARENT "-01x",
                                      "ff-" W3C_ID "-" W3C_PARENT "-01",
                                      "00-00000000000000000000000000000000-" W3C_PARENT "-01",
                                      "00-" W3C_ID "-0000000000000000-01",
                                      "00-" W3C_ID "x" W3C_PARENT "-01",
                                      "0x-" W3C_ID "-" W3C_PARENT "-01",
                                      "00-" W3C_ID "-" W3C_PARENT "-0x"};
    struct trace_context context;
    char longest[3000];

    (void)state;
    for (size_t i = 0; i < sizeof(amzn) / sizeof(amzn[0]); i++) {
        context = read_headers(amzn[i], NULL, 0);
        assert_string_not_equal(context.root, ROOT);
        assert_int_equal(strlen(context.root), 35);
        assert_int_equal(strlen(context.trace_id), 32);
        assert_string_equal(context.parent_id, "");
        assert_false(context.is_sampled);
    }
    for (size_t i = 0; i < sizeof(w3c) / sizeof(w3c[0]); i++) {
        context = read_headers(NULL, w3c[i], 1);
        assert_false(context.has_traceparent);
        assert_string_not_equal(context.trace_id, W3C_ID);
        assert_string_equal(context.parent_id, "");
        assert_true(context.is_sampled);
    }
    snprintf(longest, sizeof(longest), "Root=" ROOT ";%0*d", 2900, 0);
    context = read_headers(longest, longest, 0);
    assert_string_not_equal(context.root, ROOT);
}

/* Each is passed on as what it is; and what was passed on is read as it was. */
static void test_both(void **state)
{
    const char *w3c = "00-" W3C_ID "-" W3C_PARENT "-01";
    struct trace_context context =
        read_headers("Root=" ROOT ";Parent=" PARENT ";Sampled=1", w3c, 0);
    struct trace_context again;
    char amzn[TRACE_AMZN_BYTES], text[TRACE_PARENT_BYTES];

    (void)state;
    amzn_is(&context, "Root=" ROOT ";Parent=" PARENT ";Sampled=1");
    assert_string_equal(context.trace_id, W3C_ID);
    assert_string_equal(context.parent_id, W3C_PARENT);
    trace_context_traceparent(&context, NULL, text);
    assert_string_equal(text, w3c);
    trace_context_amzn(&context, NULL, amzn);
    again = read_headers(amzn, text, 0);
    assert_memory_equal(&again, &context, sizeof(context));
    context = read_headers(NULL, NULL, 1);
    trace_context_amzn(&context, NULL, amzn);
    again = read_headers(amzn, NULL, 0);
    assert_memory_equal(&again, &context, sizeof(context));
}

/* Of traces that begin here, about a part. */
static void test_ratio(void **state)
{
    unsigned sampled = 0;

    (void)state;
    for (int i = 0; i < 4000; i++) {
        struct trace_context context = read_headers(NULL, NULL, 0.5);

        sampled += context.is_sampled;
    }
    assert_in_range(sampled, 1500, 2500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amzn),   cmocka_unit_test(test_traceparent),
        cmocka_unit_test(test_broken), cmocka_unit_test(test_both),
        cmocka_unit_test(test_ratio),
    };

    return cmocka_run_group_tests_name("trace context", tests, NULL, NULL);
}
