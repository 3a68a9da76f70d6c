/* The arguments of `mayfly run`, and the small parsers they use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli_common.h"
#include "cli/run_options.h"

enum { MAX_ARGUMENTS = 32 };

/* Splits @line at '|' and parses; the texts stay until the next call. */
static int parse(const char *line, struct run_options *options)
{
    static char copy[8192];
    char *arguments[MAX_ARGUMENTS + 1] = {NULL};
    static char name[] = "run";
    int n = 0;

    snprintf(copy, sizeof(copy), "%s", line);
    arguments[n++] = name;
    for (char *word = strtok(copy, "|"); word && n < MAX_ARGUMENTS; word = strtok(NULL, "|"))
        arguments[n++] = word;
    return run_options_parse(n, arguments, options);
}

static void test_defaults(void **state)
{
    struct run_options options;

    (void)state;
    unsetenv("MAYFLY_STATE");
    assert_int_equal(parse("path/to/my fn.v2.zip|--handler|app.handler", &options), -1);
    assert_string_equal(options.runtime, "python3.11");
    assert_string_equal(options.image, "python3.11");
    assert_string_equal(options.kernel, "linux-6.12");
    assert_string_equal(options.event, "{}");
    assert_string_equal(options.state, "/var/lib/mayfly");
    assert_string_equal(options.function_name, "my-fn");
    assert_int_equal(options.memory_mib, 128);
    assert_int_equal(options.tmp_mib, 512);
    assert_int_equal(options.vcpus, 1);
    assert_int_equal(options.timeout_ms, 3000);
    run_options_done(&options);
}

static void test_everything(void **state)
{
    struct run_options options;

    (void)state;
    assert_int_equal(parse("--runtime|provided.al2023|--memory|256|--vcpus|2|--timeout|1.5|--env|"
                           "A=b=c|--env|B_2=|--json|--state|/s|--image|i|fn/",
                           &options),
                     -1);
    assert_string_equal(options.runtime, "provided");
    assert_string_equal(options.handler, "bootstrap");
    assert_string_equal(options.image, "i");
    assert_string_equal(options.function_name, "fn");
    assert_int_equal(options.timeout_ms, 1500);
    assert_int_equal(options.n_environment, 2);
    assert_string_equal(options.environment[0].name, "A");
    assert_string_equal(options.environment[0].value, "b=c");
    assert_string_equal(options.environment[1].value, "");
    assert_true(options.json);
    run_options_done(&options);
}

static void test_wrong(void **state)
{
    static const char *const lines[] = {"--handler|a.b",
                                        "fn",
                                        "fn|more|--handler|a.b",
                                        "fn|--handler|a.b|--memory|64",
                                        "fn|--handler|a.b|--memory|1e3",
                                        "fn|--handler|a.b|--memory|99999999999999999999",
                                        "fn|--handler|a.b|--memory|-1",
                                        "fn|--handler|a.b|--vcpus|0",
                                        "fn|--handler|a.b|--timeout|0",
                                        "fn|--handler|a.b|--timeout|901",
                                        "fn|--handler|a.b|--timeout|nan",
                                        "fn|--handler|a.b|--timeout|0x1",
                                        "fn|--handler|a.b|--env|X",
                                        "fn|--handler|a.b|--env|=x",
                                        "fn|--handler|a.b|--env|1A=x",
                                        "fn|--handler|a.b|--env|A-B=x",
                                        "fn|--handler|a.b|--env|A=1|--env|A=2",
                                        "fn|--handler|a.b|--runtime|java",
                                        "fn|--handler|a.b|--what"};
    struct run_options options;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        if (parse(lines[i], &options) != CLI_USAGE)
            fail_msg("taken: %s", lines[i]);
        run_options_done(&options);
    }
}

static void test_environment_limit(void **state)
{
    char line[6000] = "fn|--handler|a.b|--env|A=";
    size_t len = strlen(line);
    struct run_options options;

    (void)state;
    memset(line + len, 'x', RUN_MAX_ENVIRONMENT_BYTES - 1);
    line[len + RUN_MAX_ENVIRONMENT_BYTES - 1] = 0;
    assert_int_equal(parse(line, &options), -1);
    run_options_done(&options);
    strcat(line, "x");
    assert_int_equal(parse(line, &options), CLI_USAGE);
    run_options_done(&options);
}

static void test_state_variable(void **state)
{
    struct run_options options;

    (void)state;
    setenv("MAYFLY_STATE", "/elsewhere", 1);
    assert_int_equal(parse("fn|--handler|a.b", &options), -1);
    assert_string_equal(options.state, "/elsewhere");
    run_options_done(&options);
    unsetenv("MAYFLY_STATE");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_everything),
        cmocka_unit_test(test_wrong), cmocka_unit_test(test_environment_limit),
        cmocka_unit_test(test_state_variable)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
