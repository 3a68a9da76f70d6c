/* The command's side of the daemon: options from tables, paths, what deploying compares, its zips,
 * and streams that are read as they come. */
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

#include "cli/api_client.h"
#include "cli/cli_common.h"
#include "cli/cli_syntax.h"
#include "cli/daemon_session.h"
#include "cli/deploy.h"
#include "cli/deploy_zip.h"
#include "cli/eventstream_read.h"
#include "common/bytes.h"
#include "host/api/eventstream.h"
#include "host/instance/package.h"

/* --- options -----------------------------------------------------------------------------------
 */

struct values {
    bool flag;
    const char *text;
    uint64_t number;
    struct cli_list list;
};

static const struct cli_option table[] = {
    {"flag", 'f', CLI_FLAG, offsetof(struct values, flag), NULL, "a flag", 0, 0, COMPLETE_NOTHING},
    {"text", 0, CLI_TEXT, offsetof(struct values, text), "TEXT", "a text", 0, 0, COMPLETE_NOTHING},
    {"number", 'n', CLI_NUMBER, offsetof(struct values, number), "N", "a number\nof two lines", 2,
     9, COMPLETE_NOTHING},
    {"list", 'l', CLI_LIST, offsetof(struct values, list), "X", "a list", 0, 0, COMPLETE_NOTHING},
    {.name = NULL}};

static const struct cli_syntax syntax = {.command = "test",
                                         .summary = "a test",
                                         .usage = "A [OPTIONS]\nB",
                                         .options = table,
                                         .min_arguments = 1,
                                         .max_arguments = 2,
                                         .missing = "an argument is missing"};

static int parse(const char *line, struct values *values, int *ret_first)
{
    static char copy[512], name[] = "test";
    char *arguments[20] = {name, NULL};
    extern int optind;
    int n = 1;

    *values = (struct values){0};
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        arguments[n++] = word;
    arguments[n] = NULL;
    int r = cli_syntax_parse(&syntax, n, arguments, values);
    *ret_first = optind;
    if (r < 0)
        assert_string_equal(arguments[optind], "first");
    return r;
}

static void test_options(void **state)
{
    struct values values;
    int first;

    (void)state;
    assert_int_equal(parse("first --flag --text=a --number 9 -l x --list y", &values, &first), -1);
    assert_true(values.flag);
    assert_string_equal(values.text, "a");
    assert_int_equal(values.number, 9);
    assert_int_equal(values.list.n, 2);
    assert_string_equal(values.list.values[1], "y");
    cli_list_done(&values.list);
    assert_int_equal(parse("-fn2 first second", &values, &first), -1);
    assert_true(values.flag);
    assert_int_equal(values.number, 2);
    assert_int_equal(parse("--flag", &values, &first), CLI_USAGE);
    assert_int_equal(parse("a b c", &values, &first), CLI_USAGE);
    assert_int_equal(parse("a --number 10", &values, &first), CLI_USAGE);
    assert_int_equal(parse("a --number 3x", &values, &first), CLI_USAGE);
    assert_int_equal(parse("a --text", &values, &first), CLI_USAGE);
    assert_int_equal(parse("a --nothing", &values, &first), CLI_USAGE);
    assert_int_equal(parse("--help", &values, &first), CLI_OK);
}

static void test_help_lines_up(void **state)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);

    (void)state;
    cli_syntax_help(&syntax, to);
    fclose(to);
    assert_non_null(strstr(text, "Usage: mayfly test A [OPTIONS]\n       mayfly test B\n"));
    assert_non_null(strstr(text, "  -n, --number N      a number\n"
                                 "                      of two lines\n"));
    free(text);
}

/* --- names and paths ---------------------------------------------------------------------------
 */

static void test_paths(void **state)
{
    char path[64], name[] = "f:live", plain[] = "f", arn[] = "arn:aws:lambda:r:1:function:f";
    const char *qualifier;
    struct error err;

    (void)state;
    assert_int_equal(api_path(path, sizeof(path), &err, "/x/%s?Q=%s", "a/b", "$LATEST"), 0);
    assert_string_equal(path, "/x/a%2Fb?Q=%24LATEST");
    assert_int_equal(api_path(path, 20, &err, "/x/%s", "aaaaaaaaaaaaaaaaaaaaaaaaa"), -ENAMETOOLONG);
    daemon_split_name(name, &qualifier);
    assert_string_equal(name, "f");
    assert_string_equal(qualifier, "live");
    daemon_split_name(plain, &qualifier);
    assert_null(qualifier);
    daemon_split_name(arn, &qualifier);
    assert_null(qualifier);
}

/* --- what deploying compares -------------------------------------------------------------------
 */

static void test_difference(void **state)
{
    static const char *const environment[] = {"STAGE=test", "EQ=a=b"};
    struct deploy_wanted wanted = {.name = "f",
                                   .runtime = "python3.11",
                                   .handler = "app.handler",
                                   .memory_mib = 256,
                                   .environment = environment,
                                   .n_environment = 2,
                                   .has_environment = true,
                                   .concurrency = -1};
    json_t *have = json_loads("{\"Runtime\":\"python3.11\",\"Handler\":\"app.handler\","
                              "\"MemorySize\":256,\"Timeout\":9,\"Description\":\"\","
                              "\"Environment\":{\"Variables\":{\"EQ\":\"a=b\","
                              "\"STAGE\":\"test\"}}}",
                              0, NULL);

    (void)state;
    json_t *settings = deploy_settings(&wanted), *difference = deploy_difference(have, settings);
    assert_int_equal(json_object_size(difference), 0);
    json_decref(difference);
    json_decref(settings);

    wanted.memory_mib = 512;
    wanted.timeout_s = 10;
    wanted.n_environment = 1;
    settings = deploy_settings(&wanted);
    difference = deploy_difference(have, settings);
    assert_int_equal(json_object_size(difference), 3);
    assert_int_equal(json_integer_value(json_object_get(difference, "MemorySize")), 512);
    assert_int_equal(json_integer_value(json_object_get(difference, "Timeout")), 10);
    assert_non_null(json_object_get(difference, "Environment"));
    json_decref(difference);
    json_decref(settings);

    /* No environment wanted, none there: the same, though it is not shown. */
    wanted = (struct deploy_wanted){.name = "f", .has_environment = true, .concurrency = -1};
    settings = deploy_settings(&wanted);
    json_object_del(have, "Environment");
    difference = deploy_difference(have, settings);
    assert_int_equal(json_object_size(difference), 0);
    json_decref(difference);
    json_decref(settings);
    json_decref(have);
}

/* --- zips --------------------------------------------------------------------------------------
 */

static char directory[] = "/tmp/mayfly-test-deploy-XXXXXX";

static void put(const char *name, const char *text, mode_t mode)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fchmod(fileno(file), mode), 0);
    fclose(file);
}

static void make_below(const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static int remove_tree(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static void test_same_files_same_zip(void **state)
{
    struct deploy_zip first, second, third;
    char link[256], path[300];
    struct error err;

    (void)state;
    assert_non_null(mkdtemp(directory));
    put("app.py", "def handler(e, c): return 1\n", 0644);
    put("tool", "#!/bin/sh\n", 0755);
    snprintf(link, sizeof(link), "%s/link", directory);
    assert_int_equal(symlink("app.py", link), 0);
    assert_int_equal(deploy_zip_make(directory, &first, &err), 0);
    assert_int_equal(first.n_files, 2);

    /* What does not belong to it makes no difference, nor does time. */
    make_below("__pycache__");
    put("__pycache__/app.pyc", "x", 0644);
    make_below(".git");
    put(".git/HEAD", "x", 0644);
    put("mayfly.yaml", "functions: []\n", 0644);
    snprintf(path, sizeof(path), "touch -d 2001-01-01 '%s/app.py'", directory);
    assert_int_equal(system(path), 0);
    assert_int_equal(setenv("TZ", "Asia/Tokyo", 1), 0);
    assert_int_equal(deploy_zip_make(directory, &second, &err), 0);
    assert_string_equal(first.sha256, second.sha256);
    assert_int_equal(first.len_bytes, second.len_bytes);

    put("app.py", "def handler(e, c): return 2\n", 0644);
    assert_int_equal(deploy_zip_make(directory, &third, &err), 0);
    assert_string_not_equal(first.sha256, third.sha256);

    /* It is what the daemon takes: modes and links are in it. */
    snprintf(path, sizeof(path), "%s.zip", directory);
    FILE *file = fopen(path, "w");
    assert_int_equal(fwrite(first.data, 1, first.len_bytes, file), first.len_bytes);
    fclose(file);
    struct package *package = NULL;
    assert_int_equal(package_open(path, &package, &err), 0);
    assert_int_equal(package->n_entries, 3);
    assert_int_equal(package_find(package, "tool")->mode, 0755);
    assert_int_equal(package_find(package, "link")->type, PACKAGE_LINK);
    package_free(package);
    unlink(path);
    deploy_zip_done(&first);
    deploy_zip_done(&second);
    deploy_zip_done(&third);
}

static void test_nothing_to_zip(void **state)
{
    struct deploy_zip zip;
    struct error err;

    (void)state;
    assert_int_equal(deploy_zip_make("/nonexistent/place", &zip, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/place"));
}

/* --- streams -----------------------------------------------------------------------------------
 */

struct seen {
    char text[4096];
    int stop_at, n;
};

static int on_event(void *opaque, const char *type, const uint8_t *payload, size_t len)
{
    struct seen *seen = opaque;
    size_t used = strlen(seen->text);

    snprintf(seen->text + used, sizeof(seen->text) - used, "%s:%.*s;", type, (int)len,
             (const char *)payload);
    return ++seen->n == seen->stop_at ? -EPIPE : 0;
}

static size_t stream(uint8_t to[4096])
{
    static const struct {
        const char *type, *payload;
    } frames[] = {{"PayloadChunk", "one"}, {"PayloadChunk", ""}, {"InvokeComplete", "{}"}};
    size_t len = 0, frame_len;
    uint8_t *frame;

    for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
        assert_int_equal(eventstream_frame(frames[i].type, "text/plain", frames[i].payload,
                                           strlen(frames[i].payload), &frame, &frame_len),
                         0);
        memcpy(to + len, frame, frame_len);
        len += frame_len;
        free(frame);
    }
    return len;
}

static void test_stream_in_pieces(void **state)
{
    uint8_t data[4096];
    size_t len = stream(data);

    (void)state;
    for (size_t piece = 1; piece <= len; piece += piece < 40 ? 1 : 97) {
        struct seen seen = {.n = 0};
        struct eventstream_reader reader = {.on_event = on_event, .opaque = &seen};

        for (size_t at = 0; at < len; at += piece)
            assert_int_equal(
                eventstream_read(&reader, data + at, len - at < piece ? len - at : piece), 0);
        assert_string_equal(seen.text, "PayloadChunk:one;PayloadChunk:;InvokeComplete:{};");
        assert_int_equal(reader.len, 0);
        eventstream_reader_done(&reader);
    }
}

static void test_stream_damaged(void **state)
{
    uint8_t data[4096], damaged[4096];
    size_t len = stream(data);

    (void)state;
    for (size_t i = 0; i < len; i++) {
        struct seen seen = {.n = 0};
        struct eventstream_reader reader = {.on_event = on_event, .opaque = &seen};

        memcpy(damaged, data, len);
        damaged[i] ^= 0x41;
        assert_int_equal(eventstream_read(&reader, damaged, len), -EBADMSG);
        eventstream_reader_done(&reader);
    }
}

static void test_stream_stopped(void **state)
{
    struct seen seen = {.stop_at = 2};
    struct eventstream_reader reader = {.on_event = on_event, .opaque = &seen};
    uint8_t data[4096];
    size_t len = stream(data);

    (void)state;
    assert_int_equal(eventstream_read(&reader, data, len), -EPIPE);
    assert_int_equal(seen.n, 2);
    eventstream_reader_done(&reader);
}

/* --- nobody there ------------------------------------------------------------------------------
 */

static void test_no_daemon(void **state)
{
    const struct api_client_options options = {
        .socket = "/tmp/mayfly-nobody.sock", .state = "/tmp/nobody", .interrupt_fd = -1};
    struct api_client *client = NULL;
    struct error err;

    (void)state;
    assert_int_equal(api_client_new(&options, &client, &err), 0);
    assert_int_equal(api_client_json(client, "GET", "/healthz", NULL, NULL, &err), -EHOSTDOWN);
    assert_non_null(strstr(err.text, "/tmp/mayfly-nobody.sock"));
    assert_non_null(strstr(err.text, "mayflyd --state /tmp/nobody"));
    api_client_free(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_help_lines_up),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_difference),
        cmocka_unit_test_teardown(test_same_files_same_zip, remove_tree),
        cmocka_unit_test(test_nothing_to_zip),
        cmocka_unit_test(test_stream_in_pieces),
        cmocka_unit_test(test_stream_damaged),
        cmocka_unit_test(test_stream_stopped),
        cmocka_unit_test(test_no_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
