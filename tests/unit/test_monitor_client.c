/*
 * The host against monitors that misbehave. The program is its own monitor: run as one
 * (--control-fd 3 --name WAY), it does what WAY says instead of serving a VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fd.h"
#include "hypervisor/monitor_client.h"
#include "hypervisor/monitor_spawn.h"

enum { CONTROL = 3 };

/* --- the monitor's side --------------------------------------------------------------------------
 */

static void send_message(Mayfly__Monitor__Message *message)
{
    uint8_t data[4096];
    size_t len = mayfly__monitor__message__pack(message, data);

    fd_send_message(CONTROL, data, len, NULL, 0);
}

static void send_reply(uint32_t code, const char *text)
{
    Mayfly__Monitor__Message message = MAYFLY__MONITOR__MESSAGE__INIT;
    Mayfly__Monitor__Reply reply;

    mayfly__monitor__reply__init(&reply);
    reply.error_code = code;
    reply.error_text = (char *)(uintptr_t)text;
    message.body_case = MAYFLY__MONITOR__MESSAGE__BODY_REPLY;
    message.reply = &reply;
    send_message(&message);
}

static void send_event(Mayfly__Monitor__Event__Kind kind, const char *text)
{
    Mayfly__Monitor__Message message = MAYFLY__MONITOR__MESSAGE__INIT;
    Mayfly__Monitor__Event event;

    mayfly__monitor__event__init(&event);
    event.kind = kind;
    event.text = (char *)(uintptr_t)text;
    message.body_case = MAYFLY__MONITOR__MESSAGE__BODY_EVENT;
    message.event = &event;
    send_message(&message);
}

static int behave(const char *way)
{
    char request[4096];
    bool is = recv(CONTROL, request, sizeof(request), 0) >= 0;

    if (!is || strcmp(way, "exit") == 0) {
        fputs("first line\nlast \033[31mwords\n", stderr);
        return 7;
    }
    if (strcmp(way, "abort") == 0)
        raise(SIGKILL);
    if (strcmp(way, "garbage") == 0)
        send(CONTROL, "\xff\xff\xff", 3, 0);
    if (strcmp(way, "huge") == 0) {
        char *data = calloc(1, 100000);

        send(CONTROL, data, 100000, 0);
        free(data);
    }
    if (strcmp(way, "fds") == 0) {
        int fds[2] = {0, 1};

        fd_send_message(CONTROL, "", 1, fds, 2);
    }
    if (strcmp(way, "refuse") == 0)
        send_reply(EBUSY, "no\nway");
    if (strcmp(way, "code") == 0)
        send_reply(4000000000u, "");
    if (strcmp(way, "panic") == 0) {
        send_event(MAYFLY__MONITOR__EVENT__KIND__PANIC, "Kernel panic\x1b[2J");
        send_event(MAYFLY__MONITOR__EVENT__KIND__SHUTDOWN, "later");
    }
    if (strcmp(way, "ok") == 0)
        send_reply(0, "");
    if (strcmp(way, "flood") == 0)
        for (;;)
            send_event(MAYFLY__MONITOR__EVENT__KIND__RESET, "");
    for (;;)
        pause();
}

/* Exits with 40 + the number of open descriptors above 3, and checks the rest of its start. */
static int report_start(void)
{
    int open_fds = 0, death = 0;

    for (int fd = CONTROL + 1; fd < 1024; fd++)
        open_fds += fcntl(fd, F_GETFD) >= 0;
    prctl(PR_GET_PDEATHSIG, &death);
    if (death != SIGKILL || getsid(0) != getpid() || getenv("HOME"))
        return 39;
    return 40 + open_fds;
}

/* --- the host's side -----------------------------------------------------------------------------
 */

static struct monitor_client *spawn(const char *way)
{
    struct monitor_client *client = NULL;
    struct error err;

    if (monitor_client_open("/proc/self/exe", way, NULL, &client, &err) < 0)
        fail_msg("%s", err.text);
    return client;
}

static int request(struct monitor_client *client, uint64_t timeout_ms, struct error *err)
{
    Mayfly__Monitor__Request message = MAYFLY__MONITOR__REQUEST__INIT;
    Mayfly__Monitor__Status status = MAYFLY__MONITOR__STATUS__INIT;
    Mayfly__Monitor__Reply *reply = NULL;

    message.body_case = MAYFLY__MONITOR__REQUEST__BODY_STATUS;
    message.status = &status;
    int r = monitor_client_request(client, &message, NULL, 0, timeout_ms, &reply, err);
    if (reply)
        mayfly__monitor__reply__free_unpacked(reply, NULL);
    return r;
}

static void fails(const char *way, int code, const char *words)
{
    struct monitor_client *client = spawn(way);
    struct error err = {0};

    assert_int_equal(request(client, 5000, &err), -code);
    if (!strstr(err.text, words))
        fail_msg("%s: '%s' does not say '%s'", way, err.text, words);
    monitor_client_close(client);
}

static void test_death(void **state)
{
    (void)state;
    fails("exit", ECONNRESET, "exited with status 7: last ?[31mwords");
    fails("abort", ECONNRESET, "killed by signal 9");
}

static void test_nonsense(void **state)
{
    (void)state;
    fails("garbage", ECONNRESET, "no message");
    fails("huge", ECONNRESET, "no message");
    fails("fds", ECONNRESET, "no message");
}

static void test_refusal(void **state)
{
    (void)state;
    fails("refuse", EBUSY, "no?way");
    fails("code", EIO, "refused");
}

static void test_good(void **state)
{
    struct monitor_client *client = spawn("ok");
    struct error err;

    (void)state;
    assert_int_equal(request(client, 5000, &err), 0);
    assert_int_equal(monitor_client_end(client, NULL), VM_ALIVE);
    monitor_client_close(client);
}

static void test_events(void **state)
{
    struct monitor_client *client = spawn("panic");
    struct error err;
    const char *text;

    (void)state;
    assert_int_equal(request(client, 300, &err), -ETIMEDOUT);
    assert_int_equal(monitor_client_end(client, &text), VM_END_PANIC);
    assert_string_equal(text, "the guest kernel panicked: Kernel panic?[2J");
    struct pollfd readable = {.fd = monitor_client_fd(client), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 0), 1);
    monitor_client_poll(client);
    assert_int_equal(poll(&readable, 1, 0), 1);
    assert_int_equal(request(client, 300, &err), -ECONNRESET);
    monitor_client_close(client);
}

static void test_silence(void **state)
{
    struct monitor_client *client = spawn("silent");
    struct error err;
    uint64_t start = clock_now_us();

    (void)state;
    assert_int_equal(request(client, 200, &err), -ETIMEDOUT);
    assert_in_range(clock_now_us() - start, 190000, 1500000);
    monitor_client_close(client);
}

static void test_flood(void **state)
{
    struct monitor_client *client = spawn("flood");
    struct error err;
    uint64_t start = clock_now_us();

    (void)state;
    assert_int_equal(request(client, 300, &err), -ETIMEDOUT);
    monitor_client_close(client);
    assert_in_range(clock_now_us() - start, 200000, 5000000);
}

static void test_no_program(void **state)
{
    struct monitor_client *client = NULL;
    struct error err;

    (void)state;
    assert_int_equal(monitor_client_open("/nonexistent/mayfly-vmm", "x", NULL, &client, &err),
                     -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/mayfly-vmm"));
    assert_int_equal(monitor_client_open("/etc/passwd", "x", NULL, &client, &err), -EACCES);
}

/* No descriptor, environment or session of ours in the child. */
static void test_start(void **state)
{
    struct monitor_process process;
    int status = 0, leaked = dup(1); /* not CLOEXEC: only close_range() keeps it away */

    (void)state;
    assert_int_equal(monitor_spawn("/proc/self/exe", "start", NULL, &process, NULL), 0);
    assert_int_equal(monitor_reap(&process, 10000, &status), 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 40);
    close(leaked);
    close(process.pidfd);
    close(process.control);
    close(process.output);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_death),   cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_refusal), cmocka_unit_test(test_good),
        cmocka_unit_test(test_events),  cmocka_unit_test(test_silence),
        cmocka_unit_test(test_flood),   cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_start),
    };

    if (argc == 5 && strcmp(argv[1], "--control-fd") == 0)
        _exit(strcmp(argv[4], "start") == 0 ? report_start() : behave(argv[4]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
