/*
 * Records on their way out: targets as tenants write them, one POST against a real server, and the
 * sender between a real queue, a spool and that server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "host/api/http_server.h"
#include "host/events/delivery_http.h"
#include "host/events/delivery_sender.h"
#include "host/events/delivery_target.h"
#include "registry_fixture.h"

enum { PATIENCE_MS = 60000, BIG_BYTES = 1 << 20 };

/* --- targets ---------------------------------------------------------------------------------- */

static void test_targets(void **state)
{
    static const char *const good[] = {
        "file:a",
        "file:A-b_c.9",
        "http://example.com",
        "http://example.com/",
        "https://example.com/a/b?c=d&e=%20",
        "http://example.com:8080/hook",
        "http://example.com:80/",
        "http://10.0.0.1/", /* who may be reached is known when it is connected to */
        "http://[2001:db8::1]:9000/x",
        "https://xn--bcher-kva.example/",
    };
    static const char *const bad[] = {
        "",
        "file:",
        "file:.",
        "file:..",
        "file:../x",
        "file:/etc/passwd",
        "file:a/b",
        "file:a b",
        "file:.x",
        "file:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "File:a",
        "http:",
        "http:/",
        "http://",
        "http:///",
        "http:///x",
        "http:/example.com",
        "http:example.com",
        "HTTP://example.com",
        "ftp://example.com/",
        "gopher://example.com/",
        "example.com",
        "//example.com",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://@example.com/",
        "http://example.com#x",
        "http://example.com/#",
        "http://example.com/a?b#c",
        "http://example.com:0/",
        "http://example.com:25/",
        "http://example.com:22/",
        "http://example.com:1023/",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://example.com:-1/",
        "http://example.com\\@10.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nHost: x",
        "http://ex\xc3\xa4mple.com/",
        "http://[::1",
        "http://[fe80::1%25eth0]/",
        "http://[::g]/",
        "http://?x",
        "http://%00/",
        "arn:aws:sqs:us-east-1:000000000001:queue",
    };
    enum delivery_target_kind kind;
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        if (delivery_target_check(good[i], &kind, &err) != 0)
            fail_msg("%s: %s", good[i], err.text);
        assert_int_equal(kind, good[i][0] == 'f' ? TARGET_FILE : TARGET_HTTP);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (delivery_target_check(bad[i], &kind, &err) != -EINVAL)
            fail_msg("'%s' is taken", bad[i]);
    assert_string_equal(delivery_target_spool("file:x"), "x");
}

/* --- a server ----------------------------------------------------------------------------------
 */

static struct {
    atomic_uint n_posts, n_slow, n_failures_left;
    atomic_bool is_released; /* what is slow goes on */
    char body[256], content_type[64], request_id[64], code[16], message[128], method[8];
} seen;

static void admit(void *opaque, const struct http_request *request,
                  struct http_admission *ret_admission, struct http_response *response)
{
    (void)opaque, (void)request, (void)response;
    *ret_admission = (struct http_admission){.body_limit = 4 << 20};
}

static enum http_lane lane(void *opaque, const struct http_request *request)
{
    (void)opaque, (void)request;
    return HTTP_LONG;
}

static void copy_header(const struct http_request *request, const char *name, char *to, size_t size)
{
    const char *value = http_header_find(request, name);

    snprintf(to, size, "%s", value ? value : "(none)");
}

static void take(const struct http_request *request)
{
    snprintf(seen.body, sizeof(seen.body), "%.*s", (int)request->body_bytes,
             (const char *)request->body);
    snprintf(seen.method, sizeof(seen.method), "%s", request->method);
    copy_header(request, "content-type", seen.content_type, sizeof(seen.content_type));
    copy_header(request, "requestid", seen.request_id, sizeof(seen.request_id));
    copy_header(request, "errorcode", seen.code, sizeof(seen.code));
    copy_header(request, "errormessage", seen.message, sizeof(seen.message));
    atomic_fetch_add(&seen.n_posts, 1);
}

static void handle(void *opaque, const struct http_request *request, struct http_response *response,
                   struct http_turn *turn)
{
    (void)opaque, (void)turn;
    response->status = 200;
    if (strcmp(request->path, "/redirect") == 0) {
        response->status = 307;
        http_response_header(response, "Location", "/ok");
    } else if (strcmp(request->path, "/broken") == 0) {
        response->status = 500;
    } else if (strcmp(request->path, "/slow") == 0) {
        atomic_fetch_add(&seen.n_slow, 1);
        while (!atomic_load(&seen.is_released))
            usleep(1000);
    } else if (strcmp(request->path, "/big") == 0) {
        response->body = calloc(1, BIG_BYTES);
        assert_non_null(response->body);
        response->body_bytes = BIG_BYTES;
        take(request);
    } else if (atomic_load(&seen.n_failures_left) > 0) {
        atomic_fetch_sub(&seen.n_failures_left, 1);
        response->status = 503;
    } else {
        take(request);
    }
}

static void refuse(void *opaque, const struct http_request *request, enum http_refusal why,
                   struct http_response *response)
{
    (void)opaque, (void)request, (void)why;
    response->status = 503;
}

static const struct http_service service = {admit, lane, handle, refuse};

struct fixture {
    struct registry_fixture registry;
    struct event_queue *queue;
    struct delivery_sender *sender;
    struct http_server *server;
    struct network loopback;
    char url[64], path[256];
};

static _Atomic(struct delivery_sender *) woken;
static char said[1024];
static atomic_uint n_said;

static void has_delivery(void *opaque)
{
    struct delivery_sender *sender = atomic_load(&woken);

    (void)opaque;
    if (sender)
        delivery_sender_wake(sender);
}

static void failed(const char *request_id, const char *text)
{
    (void)request_id;
    if (atomic_fetch_add(&n_said, 1) == 0)
        snprintf(said, sizeof(said), "%s", text);
}

static const char *url_of(struct fixture *f, const char *path)
{
    snprintf(f->url, sizeof(f->url), "http://127.0.0.1:%u%s", http_server_port(f->server), path);
    return f->url;
}

static int set_up(void **state)
{
    struct http_server_options options = {
        .listen = "127.0.0.1:0", .service = &service, .threads = 1};
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};

    memset(&seen, 0, sizeof(seen));
    n_said = 0;
    said[0] = '\0';
    if (!f || http_server_start(&options, &f->server, &err) != 0 ||
        network_parse("127.0.0.1", &f->loopback, &err) != 0)
        return -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    http_server_stop(f->server);
    free(f);
    return 0;
}

/* --- one post --------------------------------------------------------------------------------- */

static int post(struct fixture *f, const char *url, bool is_allowed, struct error *err)
{
    const struct delivery_http_options options = {
        .allowed = &f->loopback, .n_allowed = is_allowed, .timeout_ms = 1000};
    const struct delivery_header headers[] = {{"RequestID", "id"}, {"ErrorMessage", ""}};
    struct delivery_http *client = NULL;
    int r;

    assert_int_equal(delivery_http_new(&options, &client, err), 0);
    r = delivery_http_post(client, url, headers, 2, "{\"a\":1}", 7, err);
    delivery_http_free(client);
    return r;
}

static void test_posts(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    fixture_expect(post(f, url_of(f, "/ok"), true, &err), 0, &err, "");
    assert_string_equal(seen.body, "{\"a\":1}");
    assert_string_equal(seen.method, "POST");
    assert_string_equal(seen.content_type, "application/json");
    assert_string_equal(seen.request_id, "id");
    assert_string_equal(seen.message, "");
    assert_string_equal(seen.code, "(none)");
    fixture_expect(post(f, url_of(f, "/big"), true, &err), 0, &err, "");
    fixture_expect(post(f, url_of(f, "/broken"), true, &err), EPROTO, &err, "status 500");
    assert_int_equal(seen.n_posts, 2);
    fixture_expect(post(f, url_of(f, "/redirect"), true, &err), EPROTO, &err, "not followed");
    assert_int_equal(seen.n_posts, 2);
    fixture_expect(post(f, url_of(f, "/slow"), true, &err), ETIMEDOUT, &err, "in time");
    atomic_store(&seen.is_released, true);
    fixture_expect(post(f, "http://127.0.0.1:9/", true, &err), ECONNREFUSED, &err, "127.0.0.1");
    fixture_expect(post(f, "http://name.invalid/", true, &err), EIO, &err, "name.invalid");
    /* What the environment says of proxies is the administrator's shell, not ours. */
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:9", 1);
    fixture_expect(post(f, url_of(f, "/ok"), true, &err), 0, &err, "");
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
}

static void test_no_way_in(void **state)
{
    static const char *const ways[] = {
        "127.0.0.1",       "localhost",          "2130706433", "0x7f.1", "0177.0.0.1", "127.1",
        "[::1]",           "[::ffff:127.0.0.1]", "0.0.0.0",    "[::]",   "0",          "10.0.0.1",
        "169.254.169.254", "[64:ff9b::7f00:1]",  "[fe80::1]",
    };
    struct fixture *f = *state;
    struct error err = {0};
    char url[128];

    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        snprintf(url, sizeof(url), "http://%s:%u/ok", ways[i], http_server_port(f->server));
        int r = post(f, url, false, &err);
        if (r != -EACCES || !strstr(err.text, "destinations.allow"))
            fail_msg("%s: %d, %s", url, r, err.text);
    }
    assert_int_equal(seen.n_posts, 0);
    /* One address is allowed, not the network around it. */
    snprintf(url, sizeof(url), "http://127.0.0.2:%u/ok", http_server_port(f->server));
    fixture_expect(post(f, url, true, &err), EACCES, &err, "127.0.0.2 is loopback");
    snprintf(url, sizeof(url), "http://[::ffff:127.0.0.1]:%u/ok", http_server_port(f->server));
    fixture_expect(post(f, url, true, &err), 0, &err, "");
}

/* In a network namespace of its own: lo with a global address. 0, 1 wrong, 2 cannot. */
static int try_own_address(struct fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct ifreq request = {.ifr_name = "lo"};
    struct error err = {0};

    if (unshare(CLONE_NEWNET) < 0)
        return 2;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_flags = IFF_UP;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        return 2;
    snprintf(request.ifr_name, sizeof(request.ifr_name), "lo:0");
    inet_pton(AF_INET, "9.9.9.9", &address.sin_addr);
    memcpy(&request.ifr_addr, &address, sizeof(address));
    if (ioctl(fd, SIOCSIFADDR, &request) < 0)
        return 2;
    if (post(f, "http://9.9.9.9:8080/", false, &err) != -EACCES ||
        !strstr(err.text, "an address of this host"))
        return 1;
    network_parse("9.9.9.9/32", &f->loopback, &err);
    return post(f, "http://9.9.9.9:8080/", true, &err) == -ECONNREFUSED ? 0 : 1;
}

static void test_own_address(void **state)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(try_own_address(*state));
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        skip(); /* no rights to make a network namespace */
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- the sender ------------------------------------------------------------------------------- */

static void create_for(struct fixture *f, const char *tenant, const char *name)
{
    struct code_staged *code = fixture_stage(&f->registry, "x");
    struct function_key key = {tenant, name, NULL};
    struct error err = {0};

    fixture_expect(registry_create_function(f->registry.registry, &key, &fixture_settings, code,
                                            NULL, 0, NULL, &err),
                   0, &err, "");
    code_staged_free(code);
}

static int set_up_sender(void **state)
{
    const struct event_queue_options options = {
        .sole = true, .delivery_base_ms = 1, .has_delivery = has_delivery};
    struct error err = {0};
    int r = set_up(state);

    if (r < 0)
        return r;
    struct fixture *f = *state;
    fixture_open(&f->registry);
    fixture_create(&f->registry, "f", "x");
    create_for(f, "bob", "g");
    fixture_expect(
        event_queue_open(registry_database(f->registry.registry), &options, &f->queue, &err), 0,
        &err, "");
    return 0;
}

static void start_sender(struct fixture *f, bool is_allowed)
{
    const struct delivery_sender_options options = {.queue = f->queue,
                                                    .spool = fixture_path(&f->registry, "spool"),
                                                    .allowed = &f->loopback,
                                                    .n_allowed = is_allowed,
                                                    .threads = 4,
                                                    .timeout_ms = PATIENCE_MS,
                                                    .failed = failed};
    struct error err = {0};

    fixture_expect(delivery_sender_new(&options, &f->sender, &err), 0, &err, "");
    atomic_store(&woken, f->sender);
}

static void stop_sender(struct fixture *f)
{
    atomic_store(&woken, NULL);
    delivery_sender_free(f->sender);
    f->sender = NULL;
}

static int tear_down_sender(void **state)
{
    struct fixture *f = *state;

    stop_sender(f);
    event_queue_close(f->queue);
    fixture_close(&f->registry);
    return tear_down(state);
}

static void configure(struct fixture *f, const char *tenant, const char *function,
                      const char *on_success, const char *on_failure)
{
    struct function_key key = {tenant, function, NULL};
    struct event_config_change change = {0, -1, on_success, on_failure};
    struct error err = {0};

    fixture_expect(registry_put_event_config(f->registry.registry, &key, &change, NULL, &err), 0,
                   &err, "");
}

/* An event that ends so. */
static void end_event(struct fixture *f, const char *tenant, const char *function,
                      enum event_outcome outcome)
{
    char id[REQUEST_ID_BYTES];
    struct event_submission event = {.key = {tenant, function, NULL},
                                     .request_id = id,
                                     .payload = "{\"n\":\n1}",
                                     .payload_len_bytes = 8};
    struct event_result result = {.outcome = outcome,
                                  .status = 200,
                                  .executed_version = "$LATEST",
                                  .response = "7",
                                  .response_len_bytes = 1,
                                  .error_message = "it \"broke\"\r\nX-Forged: yes"};
    struct event *claimed;
    struct error err = {0};
    size_t n = 0;

    fixture_expect(identity_request(id, &err), 0, &err, "");
    fixture_expect(event_queue_enqueue(f->queue, &event, &err), 0, &err, "");
    fixture_expect(event_queue_claim(f->queue, 1, 60000, NULL, &claimed, &n, NULL, &err), 0, &err,
                   "");
    assert_int_equal(n, 1);
    fixture_expect(event_queue_finish(f->queue, claimed, &result, NULL, &err), 0, &err, "");
    event_free(claimed);
}

static struct event_queue_stats stats_of(struct fixture *f)
{
    struct event_queue_stats stats;
    struct error err = {0};

    fixture_expect(event_queue_stats(f->queue, &stats, &err), 0, &err, "");
    return stats;
}

static void wait_for_count(atomic_uint *count, unsigned n)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    while (atomic_load(count) < n) {
        if (clock_now_us() > until_us)
            fail_msg("%u of %u; %s", atomic_load(count), n, said);
        usleep(1000);
    }
}

static void wait_for_deliveries(struct fixture *f, uint64_t left)
{
    uint64_t until_us = clock_now_us() + PATIENCE_MS * 1000ull;

    while (stats_of(f).deliveries > left) {
        assert_true(clock_now_us() < until_us);
        usleep(2000);
    }
}

static char *read_spool(struct fixture *f, const char *name)
{
    uint8_t *data = NULL;
    size_t len = 0;

    snprintf(f->path, sizeof(f->path), "%s/%s", fixture_path(&f->registry, "spool"), name);
    assert_int_equal(fd_read_file(f->path, 1 << 20, &data, &len, NULL), 0);
    return (char *)data;
}

static void set_dead_letter(struct fixture *f, const char *target)
{
    struct function_key key = fixture_key("f", NULL);
    struct function_settings settings = {.members = SETS_DEAD_LETTER, .dead_letter = target};
    struct error err = {0};

    fixture_expect(
        registry_update_settings(f->registry.registry, &key, &settings, NULL, NULL, &err), 0, &err,
        "");
    fixture_build(&f->registry, "f", NULL);
}

static void test_to_files(void **state)
{
    struct fixture *f = *state;

    start_sender(f, false);
    configure(f, "alice", "f", "file:good", "file:bad");
    set_dead_letter(f, "file:dead");
    end_event(f, "alice", "f", EVENT_SUCCEEDED);
    end_event(f, "alice", "f", EVENT_FUNCTION_FAILED);
    end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 0);
    char *text = read_spool(f, "alice/good.jsonl");
    assert_non_null(strstr(text, "\"condition\":\"Success\""));
    assert_non_null(strstr(text, "\"requestPayload\":{\"n\": 1}"));
    char *second = strchr(text, '\n');
    assert_non_null(second);
    assert_ptr_equal(strchr(second + 1, '\n'), text + strlen(text) - 1); /* two lines */
    free(text);
    text = read_spool(f, "alice/bad.jsonl");
    assert_non_null(strstr(text, "\"condition\":\"RetriesExhausted\""));
    free(text);
    text = read_spool(f, "alice/dead.jsonl");
    assert_non_null(strstr(text,
                           "\"ErrorCode\":\"200\",\"ErrorMessage\":\"it \\\"broke\\\"??X-Forged: "
                           "yes\"},\"Body\":{\"n\": 1}}\n"));
    free(text);
    assert_int_equal(stats_of(f).dropped, 0);
    assert_int_equal(n_said, 0);
}

static void test_to_endpoints(void **state)
{
    struct fixture *f = *state;

    start_sender(f, true);
    atomic_store(&seen.n_failures_left, 2); /* sent again, then */
    configure(f, "alice", "f", url_of(f, "/ok"), NULL);
    end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 0);
    assert_int_equal(seen.n_posts, 1);
    assert_non_null(strstr(seen.body, "{\"version\":\"1.0\",\"timestamp\":\""));
    assert_string_equal(seen.request_id, "(none)");
    set_dead_letter(f, url_of(f, "/ok"));
    end_event(f, "alice", "f", EVENT_FUNCTION_FAILED);
    wait_for_deliveries(f, 0);
    assert_string_equal(seen.body, "{\"n\":\n1}");
    assert_string_equal(seen.code, "200");
    assert_string_equal(seen.message, "it \"broke\"??X-Forged: yes");
    assert_int_equal(strlen(seen.request_id), REQUEST_ID_BYTES - 1);
    assert_int_equal(stats_of(f).dropped, 0);
}

static void test_drops(void **state)
{
    struct fixture *f = *state;

    start_sender(f, true);
    configure(f, "alice", "f", url_of(f, "/broken"), NULL);
    end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 0);
    assert_int_equal(stats_of(f).dropped, 1);
    assert_non_null(strstr(said, "tenant 'alice': the record for the on-success destination is "
                                 "dropped after 5 attempts: "));
    assert_non_null(strstr(said, "status 500"));
    stop_sender(f);
    /* Not to be reached: dropped at once, and the log says why. */
    n_said = 0;
    start_sender(f, false);
    end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 0);
    assert_int_equal(stats_of(f).dropped, 2);
    assert_non_null(strstr(said, "after 1 attempt: "));
    assert_non_null(strstr(said, "127.0.0.1 is loopback"));
    assert_int_equal(seen.n_posts, 0);
    /* However many there are, the log stays short. */
    for (int i = 0; i < 100; i++)
        end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 0);
    assert_int_equal(stats_of(f).dropped, 102);
    assert_true(n_said <= 60);
}

/* One tenant's endpoint that does not answer leaves threads for the others. */
static void test_slow_endpoints(void **state)
{
    struct fixture *f = *state;

    start_sender(f, true);
    configure(f, "alice", "f", url_of(f, "/slow"), NULL);
    configure(f, "bob", "g", "file:good", NULL);
    for (int i = 0; i < 8; i++)
        end_event(f, "alice", "f", EVENT_SUCCEEDED);
    wait_for_count(&seen.n_slow, 3);
    for (int i = 0; i < 20; i++)
        end_event(f, "bob", "g", EVENT_SUCCEEDED);
    wait_for_deliveries(f, 8);
    assert_int_equal(seen.n_slow, 3); /* of four threads; none of them has ended since */
    /* Broken off, they are not lost. */
    stop_sender(f);
    assert_true(stats_of(f).deliveries >= 5);
    assert_int_equal(stats_of(f).dropped, 0);
    atomic_store(&seen.is_released, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test_setup_teardown(test_posts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_way_in, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_own_address, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_to_files, set_up_sender, tear_down_sender),
        cmocka_unit_test_setup_teardown(test_to_endpoints, set_up_sender, tear_down_sender),
        cmocka_unit_test_setup_teardown(test_drops, set_up_sender, tear_down_sender),
        cmocka_unit_test_setup_teardown(test_slow_endpoints, set_up_sender, tear_down_sender),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
