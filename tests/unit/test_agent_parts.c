/* The agent's smaller parts: environment, memory share, the link's sending side, the log pump. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest-agent/environment.h"
#include "guest-agent/function_cgroup.h"
#include "guest-agent/log_pump.h"
#include "guest-agent/proto/frame.h"
#include "guest-agent/runtime.h"

static const char *find(const struct environment *environment, const char *name)
{
    for (size_t i = 0; i < environment->n; i++)
        if (strncmp(environment->list[i], name, strlen(name)) == 0 &&
            environment->list[i][strlen(name)] == '=')
            return environment->list[i] + strlen(name) + 1;
    return NULL;
}

static int fill(struct environment *environment, const char *name, const char *value,
                bool is_python)
{
    Mayfly__Agent__Prepare__EnvironmentEntry entry;
    Mayfly__Agent__Prepare__EnvironmentEntry *entries[1] = {&entry};
    Mayfly__Agent__Prepare prepare;
    struct failure failure;
    char handler[] = "app.handler";

    mayfly__agent__prepare__init(&prepare);
    mayfly__agent__prepare__environment_entry__init(&entry);
    entry.key = strdup(name);
    entry.value = strdup(value);
    prepare.environment = entries;
    prepare.n_environment = 1;
    prepare.handler = handler;
    prepare.memory_mib = 256;
    const struct runtime_kind python = {.ops = &runtime_python,
                                        .dir = AGENT_PYTHON_DIR,
                                        .execution_environment = "AWS_Lambda_python3.11"};
    const struct runtime_kind provided = {.ops = &runtime_api, .dir = "/var/runtime"};
    int result = environment_fill(environment, &prepare, is_python ? &python : &provided, &failure);
    free(entry.key);
    free(entry.value);
    return result;
}

static void environment_rules(void **state)
{
    static struct environment environment;

    (void)state;
    assert_int_equal(fill(&environment, "KEY", "value", true), 0);
    assert_string_equal(find(&environment, "KEY"), "value");
    assert_string_equal(find(&environment, "_HANDLER"), "app.handler");
    assert_string_equal(find(&environment, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), "256");
    assert_string_equal(find(&environment, "LC_ALL"), "POSIX");
    assert_null(environment.list[environment.n]);
    assert_int_equal(fill(&environment, "_HANDLER", "evil", true), 0);
    assert_string_equal(find(&environment, "_HANDLER"), "app.handler");
    assert_int_equal(fill(&environment, "PATH", "/mine", false), 0);
    assert_string_equal(find(&environment, "PATH"), "/mine");
    assert_string_equal(find(&environment, "AWS_LAMBDA_RUNTIME_API"), "127.0.0.1:9001");
    assert_int_equal(fill(&environment, "LANG", "de_DE.UTF-8", true), 0);
    assert_null(find(&environment, "LC_ALL"));
    assert_int_equal(fill(&environment, "", "x", true), -EINVAL);
    assert_int_equal(fill(&environment, "A=B", "x", true), -EINVAL);
}

/* What Restored changes: its own fields first, then the host's map, as one block of bytes. */
static void environment_changes(void **state)
{
    static struct environment changes;
    static char big[ENVIRONMENT_MAX_BYTES + 1];
    static const char expected[] = "AWS_LAMBDA_LOG_STREAM_NAME=s\0MAYFLY_INSTANCE_ID=i\0EXTRA=x=y";
    char stream[] = "s", instance[] = "i", name[] = "EXTRA", value[] = "x=y", bad[] = "A=B";
    char own[] = "MAYFLY_INSTANCE_ID";
    Mayfly__Agent__Restored__EnvironmentEntry entries[2];
    Mayfly__Agent__Restored__EnvironmentEntry *list[] = {&entries[0], &entries[1]};
    Mayfly__Agent__Restored restored;
    struct failure failure;

    (void)state;
    mayfly__agent__restored__init(&restored);
    assert_int_equal(environment_fill_changes(&changes, &restored, &failure), 0);
    assert_int_equal(changes.used_bytes, 0);
    for (int i = 0; i < 2; i++)
        mayfly__agent__restored__environment_entry__init(&entries[i]);
    restored.log_stream = stream;
    restored.instance_id = instance;
    restored.environment = list;
    restored.n_environment = 2;
    entries[0].key = own;
    entries[0].value = value;
    entries[1].key = name;
    entries[1].value = value;
    assert_int_equal(environment_fill_changes(&changes, &restored, &failure), 0);
    assert_int_equal(changes.used_bytes, sizeof(expected));
    assert_memory_equal(changes.bytes, expected, sizeof(expected));
    entries[1].key = bad;
    assert_int_equal(environment_fill_changes(&changes, &restored, &failure), -EINVAL);
    entries[1].key = name;
    memset(big, 'v', sizeof(big) - 1);
    entries[1].value = big;
    assert_int_equal(environment_fill_changes(&changes, &restored, &failure), -E2BIG);
}

static void environment_is_bounded(void **state)
{
    static struct environment environment;
    static char value[ENVIRONMENT_MAX_BYTES + 1];

    (void)state;
    memset(value, 'v', sizeof(value) - 1);
    assert_int_equal(fill(&environment, "BIG", value, true), -E2BIG);
    environment.used_bytes = environment.n = 0;
    environment.is_full = false;
    for (int i = 0; i < ENVIRONMENT_MAX_VARIABLES; i++) {
        char name[16];

        snprintf(name, sizeof(name), "N%d", i);
        environment_set(&environment, name, "");
    }
    assert_false(environment.is_full);
    environment_set(&environment, "ONE_MORE", "");
    assert_true(environment.is_full);
    assert_int_equal(environment.n, ENVIRONMENT_MAX_VARIABLES);
}

static void memory_share(void **state)
{
    const uint64_t mib = 1 << 20;

    (void)state;
    /* A guest as large as the function: the agent's share is taken off what is free. */
    assert_int_equal(function_cgroup_memory_limit(128, 116 * mib, 108 * mib),
                     108 * mib - 4 * mib - 116 * mib / 64);
    /* A larger guest: the function gets what it was promised, and no more. */
    assert_int_equal(function_cgroup_memory_limit(128, 512 * mib, 480 * mib), 128 * mib);
    assert_int_equal(function_cgroup_memory_limit(128, 64 * mib, 1 * mib), 8 * mib);
    assert_int_equal(function_cgroup_memory_limit(0, 64 * mib, 1 * mib), 0);
}

/* Reads one frame from @fd and unpacks it; the caller frees it. */
static Mayfly__Agent__AgentMessage *receive(int fd)
{
    static uint8_t bytes[FRAME_MAX_BYTES + FRAME_HEADER_BYTES];
    Mayfly__Agent__AgentMessage *message;
    struct frame frame;
    size_t have = 0;

    while (frame_parse(bytes, have, &frame) == 0) {
        ssize_t got = read(fd, bytes + have, frame.total_bytes - have);

        assert_true(got > 0);
        have += (size_t)got;
    }
    message = mayfly__agent__agent_message__unpack(NULL, frame.message_bytes, frame.message);
    assert_non_null(message);
    return message;
}

static void large_results_are_whole(void **state)
{
    static const size_t sizes[] = {0, 1, 70000, 80000, 200000, AGENT_RESPONSE_MAX};
    struct host_link link = {.fd = -1};
    int pair[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    link.fd = pair[0];
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        Mayfly__Agent__InvokeResult result;
        Mayfly__Agent__AgentMessage *message;
        char id[] = "id";
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) { /* a socket does not hold 6 MiB: somebody has to write meanwhile */
            mayfly__agent__invoke_result__init(&result);
            result.request_id = id;
            result.payload.len = sizes[i];
            result.payload.data = malloc(sizes[i] + 1);
            memset(result.payload.data, 'p', sizes[i]);
            _exit(host_link_send_log(&link, MAYFLY__AGENT__LOG__STREAM__STDERR,
                                     (const uint8_t *)"log", 3, 7) != 0 ||
                  host_link_send_invoke_result(&link, &result) != 0 || host_link_flush(&link) != 0);
        }
        message = receive(pair[1]);
        assert_int_equal(message->body_case, MAYFLY__AGENT__AGENT_MESSAGE__BODY_LOG);
        assert_int_equal(message->log->dropped_bytes, 7);
        mayfly__agent__agent_message__free_unpacked(message, NULL);
        message = receive(pair[1]);
        assert_int_equal(message->body_case, MAYFLY__AGENT__AGENT_MESSAGE__BODY_INVOKE_RESULT);
        assert_string_equal(message->invoke_result->request_id, "id");
        assert_int_equal(message->invoke_result->payload.len, sizes[i]);
        for (size_t b = 0; b < sizes[i]; b++)
            assert_int_equal(message->invoke_result->payload.data[b], 'p');
        mayfly__agent__agent_message__free_unpacked(message, NULL);
    }
    close(pair[0]);
    close(pair[1]);
}

static void log_budget(void **state)
{
    struct host_link link = {.fd = -1};
    Mayfly__Agent__AgentMessage *message;
    struct log_pump pump;
    struct failure failure;
    char text[100];
    int null_fd = open("/dev/null", O_WRONLY);
    int writers[LOG_STREAMS];
    int pair[2];

    (void)state;
    memset(text, 't', sizeof(text));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    link.fd = pair[0];
    assert_int_equal(log_pump_open(&pump, 150, null_fd, writers, &failure), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(writers[LOG_STDERR], text, sizeof(text)), sizeof(text));
        assert_int_equal(log_pump_read(&pump, LOG_STDERR, &link), 0);
    }
    assert_int_equal(log_pump_end_phase(&pump, &link), 0);
    assert_int_equal(host_link_flush(&link), 0);
    static const size_t forwarded[] = {100, 50, 0};
    static const uint64_t dropped[] = {0, 0, 150};
    for (int i = 0; i < 3; i++) {
        message = receive(pair[1]);
        assert_int_equal(message->log->stream, MAYFLY__AGENT__LOG__STREAM__STDERR);
        assert_int_equal(message->log->data.len, forwarded[i]);
        assert_int_equal(message->log->dropped_bytes, dropped[i]);
        mayfly__agent__agent_message__free_unpacked(message, NULL);
    }
    log_pump_begin_phase(&pump);
    assert_int_equal(write(writers[LOG_STDOUT], text, 1), 1);
    close(writers[LOG_STDOUT]);
    close(writers[LOG_STDERR]);
    assert_int_equal(log_pump_drain(&pump, &link), 0);
    assert_int_equal(pump.read_fds[LOG_STDERR], -1); /* its end was seen */
    assert_int_equal(host_link_flush(&link), 0);
    message = receive(pair[1]);
    assert_int_equal(message->log->data.len, 1);
    mayfly__agent__agent_message__free_unpacked(message, NULL);
    log_pump_close(&pump);
    close(pair[0]);
    close(pair[1]);
    close(null_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(environment_rules),       cmocka_unit_test(environment_changes),
        cmocka_unit_test(environment_is_bounded),  cmocka_unit_test(memory_share),
        cmocka_unit_test(large_results_are_whole), cmocka_unit_test(log_budget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
