/* Logs: lines of JSON from any bytes, the daemon's log, the functions' store. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "host/observe/daemon_log.h"
#include "host/observe/log_store.h"

static char place[64];
static _Atomic uint64_t fake_ms;

static int make_place(void **state)
{
    (void)state;
    fake_ms = json_line_now_ms(); /* as the files' times, or they are swept */
    snprintf(place, sizeof(place), "/tmp/mayfly-test-logs-XXXXXX");
    return mkdtemp(place) ? 0 : -1;
}

static int remove_place(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", place);
    return system(command);
}

static char *path_of(const char *name, char to[256])
{
    snprintf(to, 256, "%s/%s", place, name);
    return to;
}

/* --- lines ----------------------------------------------------------------------------------- */

static json_t *parse(const char *text, size_t len)
{
    json_error_t error;
    json_t *value = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);

    if (!value)
        fail_msg("%s in %.*s", error.text, (int)len, text);
    return value;
}

static void test_line(void **state)
{
    static const char hostile[] = "a\"\\\n\x01\xff\xc3\xa4\xed\xa0\x80z";
    char to[512];
    struct json_line line;

    (void)state;
    json_line_begin(&line, to, sizeof(to));
    json_line_bytes(&line, "message", hostile, sizeof(hostile) - 1);
    json_line_integer(&line, "n", 18446744073709551u);
    json_line_thousandths(&line, "ms", 12034);
    size_t len = json_line_end(&line);
    assert_int_equal(to[len - 1], '\n');
    assert_ptr_equal(memchr(to, '\n', len), to + len - 1);
    json_t *object = parse(to, len);
    assert_string_equal(json_string_value(json_object_get(object, "message")),
                        "a\"\\\n\x01\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    assert_true(json_real_value(json_object_get(object, "ms")) > 12.0339);
    json_decref(object);
}

/* Whatever the bytes and wherever the buffer ends: one object, one line. */
static void test_line_is_cut(void **state)
{
    unsigned char bytes[300];
    char to[700];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(i * 7 + i / 3);
    for (size_t size = JSON_LINE_LEAST_BYTES; size < sizeof(to); size++) {
        struct json_line line;

        memset(to, '#', sizeof(to));
        json_line_begin(&line, to, size);
        json_line_text(&line, "time", "now");
        json_line_bytes(&line, "a", bytes, size % sizeof(bytes));
        json_line_bytes(&line, "b", bytes, sizeof(bytes));
        json_line_integer(&line, "c", size);
        size_t len = json_line_end(&line);
        assert_true(len <= size);
        assert_int_equal(to[size < sizeof(to) - 1 ? size : sizeof(to) - 1], '#');
        json_t *object = parse(to, len);
        assert_non_null(json_object_get(object, "time"));
        json_decref(object);
    }
}

static void test_time(void **state)
{
    char text[JSON_LINE_TIME_BYTES];

    (void)state;
    json_line_time(1769860800123, text);
    assert_string_equal(text, "2026-01-31T12:00:00.123Z");
}

/* --- the daemon's log ------------------------------------------------------------------------ */

static char *read_file(const char *name)
{
    char path[256];
    uint8_t *data = NULL;
    size_t len = 0;
    struct error err;

    if (fd_read_file(path_of(name, path), 1 << 24, &data, &len, &err) < 0)
        fail_msg("%s", err.text);
    return (char *)data;
}

static void test_daemon_log(void **state)
{
    const struct log_field fields[] = {LOG_TEXT("request_id", "r"), LOG_TEXT("tenant", NULL),
                                       LOG_NUMBER("status", 200), LOG_MS("duration_ms", 1500)};
    char path[256], moved[256];
    struct daemon_log *log = NULL;
    struct error err;

    (void)state;
    assert_int_equal(daemon_log_open(path_of("d.log", path), LEVEL_INFO, &log, &err), 0);
    daemon_log_write(log, LEVEL_DEBUG, "no", NULL, 0);
    daemon_log_write(log, LEVEL_INFO, "yes", fields, 4);
    daemon_log_write(log, LEVEL_ERROR, "bad \xff\n", NULL, 0);
    daemon_log_close(log);
    char *text = read_file("d.log");
    assert_null(strstr(text, "\"no\""));
    assert_non_null(strstr(text, "\"level\":\"info\",\"message\":\"yes\",\"request_id\":\"r\","
                                 "\"status\":200,\"duration_ms\":1.500}\n"));
    assert_non_null(strstr(text, "\"level\":\"error\",\"message\":\"bad \xef\xbf\xbd\\u000a\"}\n"));
    free(text);
    /* Moved away and reopened: as logrotate does. */
    assert_int_equal(daemon_log_open(path, LEVEL_INFO, &log, &err), 0);
    assert_int_equal(rename(path, path_of("d.1", moved)), 0);
    daemon_log_reopen(log);
    for (int i = 0; i < 500 && access(path, F_OK) < 0; i++)
        usleep(10000);
    daemon_log_write(log, LEVEL_INFO, "anew", NULL, 0);
    daemon_log_close(log);
    text = read_file("d.log");
    assert_non_null(strstr(text, "anew"));
    assert_null(strstr(text, "yes"));
    free(text);
    /* What a client can bring about at will does not fill the disk. */
    assert_int_equal(daemon_log_open(path, LEVEL_INFO, &log, &err), 0);
    for (int i = 0; i < 1000; i++)
        daemon_log_write_rarely(log, LEVEL_WARNING, "rare", NULL, 0);
    sleep(1);
    daemon_log_write_rarely(log, LEVEL_WARNING, "after", NULL, 0);
    daemon_log_close(log);
    text = read_file("d.log");
    size_t rare = 0;
    for (const char *at = text; (at = strstr(at, "\"rare\"")); at++)
        rare++;
    assert_in_range(rare, 50, 999);
    assert_non_null(strstr(text, "\"left_out\":"));
    assert_non_null(strstr(text, "\"after\""));
    free(text);
    assert_int_equal(daemon_log_open("/nowhere/at/all", LEVEL_INFO, &log, &err), -ENOENT);
}

/* Nobody reads the pipe: writers go on, lines are dropped, closing ends. */
static void test_daemon_log_is_stuck(void **state)
{
    char path[256], text[1024];
    struct daemon_log *log = NULL;
    struct error err;

    (void)state;
    assert_int_equal(mkfifo(path_of("fifo", path), 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_int_equal(daemon_log_open(path, LEVEL_INFO, &log, &err), 0);
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int i = 0; i < 4000; i++)
        daemon_log_write(log, LEVEL_INFO, text, NULL, 0);
    assert_true(daemon_log_dropped(log) > 0);
    daemon_log_close(log);
    close(reader);
}

/* --- the store ------------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
    return fake_ms;
}

static struct log_store *open_store(const struct log_store_options *more)
{
    struct log_store_options options = *more;
    struct log_store *store = NULL;
    char path[256];
    struct error err;

    options.path = path_of("logs", path);
    options.now_ms = now_ms;
    if (log_store_open(&options, &store, &err) < 0)
        fail_msg("%s", err.text);
    return store;
}

static void put(struct log_store *store, const char *function, const char *request_id,
                const char *message)
{
    const struct log_entry entry = {.tenant = "alice",
                                    .function = function,
                                    .time_ms = fake_ms,
                                    .request_id = request_id,
                                    .version = "$LATEST",
                                    .instance = "i",
                                    .stream = LOG_STDOUT,
                                    .message = message,
                                    .message_bytes = strlen(message)};

    log_store_put(store, &entry);
}

static char *read_store(struct log_store *store, const char *function,
                        const struct log_query *query)
{
    struct log_position end;
    char *text = NULL;
    size_t len = 0;
    struct error err;

    if (log_store_read(store, "alice", function, query, &text, &len, &end, &err) < 0)
        return NULL;
    assert_int_equal(strlen(text), len);
    return text;
}

static size_t lines_of(const char *text)
{
    size_t n = 0;

    for (; (text = strchr(text, '\n')); text++)
        n++;
    return n;
}

/* What was put is written when the store is closed. */
static struct log_store *reopen(struct log_store *store)
{
    log_store_close(store);
    return open_store(&(struct log_store_options){0});
}

static void test_store(void **state)
{
    const struct log_query all = {.limit = 100};
    struct log_query query = {.limit = 100, .request_id = "two"};

    (void)state;
    fake_ms = 1769860800000;
    struct log_store *store = open_store(&(struct log_store_options){0});
    assert_null(read_store(store, "f", &all));
    put(store, "f", "one", "first\xff");
    fake_ms += 1000;
    put(store, "f", "two", "second");
    put(store, "g", "one", "of another function");
    fake_ms += 1000;
    put(store, "f", "two", "third");
    put(store, "..", "two", "no name");
    store = reopen(store);
    char *text = read_store(store, "f", &all);
    assert_non_null(text);
    const char *expected =
        "{\"time\":\"2026-01-31T12:00:00.000Z\",\"request_id\":\"one\",\"version\":\"$LATEST\","
        "\"instance\":\"i\",\"stream\":\"stdout\",\"message\":\"first\xef\xbf\xbd\"}\n";
    assert_int_equal(strncmp(text, expected, strlen(expected)), 0);
    assert_int_equal(lines_of(text), 3);
    free(text);
    text = read_store(store, "f", &query);
    assert_int_equal(lines_of(text), 2);
    assert_null(strstr(text, "first"));
    free(text);
    query = (struct log_query){.limit = 1};
    text = read_store(store, "f", &query);
    assert_int_equal(lines_of(text), 1);
    assert_non_null(strstr(text, "third"));
    free(text);
    query = (struct log_query){.limit = 10, .since = "2026-01-31T12:00:01.000Z"};
    text = read_store(store, "f", &query);
    assert_int_equal(lines_of(text), 2);
    free(text);
    assert_null(read_store(store, "..", &all));
    assert_null(read_store(store, "h", &all));
    log_store_remove(store, "alice", "f");
    store = reopen(store);
    assert_null(read_store(store, "f", &all));
    text = read_store(store, "g", &all);
    assert_int_equal(lines_of(text), 1);
    free(text);
    log_store_close(store);
}

/* Bytes of a function are bounded; the newest are there. */
static void test_store_limits(void **state)
{
    const struct log_store_options small = {.function_bytes = 64 << 10, .rate_bytes_s = 1ull << 40};
    const struct log_query all = {.limit = 10000};
    char message[LOG_MESSAGE_MAX + 100];
    struct stat st;
    char path[256], name[64];
    uint64_t bytes = 0;

    (void)state;
    struct log_store *store = open_store(&small);
    memset(message, 'm', sizeof(message) - 1);
    message[sizeof(message) - 1] = '\0';
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "r%d", i);
        put(store, "f", name, message);
    }
    store = reopen(store);
    for (int i = 1; i < 1000; i++) {
        snprintf(name, sizeof(name), "logs/alice/f/%010d", i);
        if (stat(path_of(name, path), &st) == 0)
            bytes += (uint64_t)st.st_size;
    }
    assert_in_range(bytes, 30 << 10, 64 << 10);
    char *text = read_store(store, "f", &all);
    assert_non_null(strstr(text, "\"r199\""));
    assert_null(strstr(text, "\"r1\""));
    json_t *object = parse(text, strcspn(text, "\n"));
    assert_int_equal(json_string_length(json_object_get(object, "message")), LOG_MESSAGE_MAX);
    json_decref(object);
    free(text);
    log_store_close(store);
}

static void test_store_rate(void **state)
{
    const struct log_store_options slow = {.rate_bytes_s = 1000};
    const struct log_query all = {.limit = 10000};

    (void)state;
    fake_ms = 1769860800000;
    struct log_store *store = open_store(&slow);
    for (int i = 0; i < 1000; i++)
        put(store, "f", "r", "0123456789");
    /* Time goes on once they were taken. */
    char *text = NULL;
    for (int i = 0; i < 500 && !text; i++) {
        usleep(10000);
        text = read_store(store, "f", &all);
    }
    assert_non_null(text);
    free(text);
    usleep(200000);
    fake_ms += 60000;
    put(store, "f", "r", "the last");
    store = reopen(store);
    text = read_store(store, "f", &all);
    assert_in_range(lines_of(text), 10, 60);
    assert_non_null(strstr(text, "lines were dropped: more than 1000 bytes a second"));
    assert_non_null(strstr(text, "the last"));
    free(text);
    log_store_close(store);
}

/* What was silent for too long goes, and of a tenant what is too much: the longest silent first. */
static void test_store_sweeps(void **state)
{
    const struct log_query all = {.limit = 100};
    char message[3001], name[16];

    (void)state;
    struct log_store *store = open_store(&(struct log_store_options){0});
    memset(message, 'x', 3000);
    message[3000] = '\0';
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(store, name, "r", message);
        store = reopen(store);
        usleep(1100000); /* whole seconds count */
    }
    log_store_close(store);
    store = open_store(&(struct log_store_options){.tenant_bytes = 7000});
    put(store, "f3", "r", "again");
    store = reopen(store);
    assert_null(read_store(store, "f0", &all));
    assert_null(read_store(store, "f1", &all));
    char *text = read_store(store, "f3", &all);
    assert_non_null(text);
    free(text);
    fake_ms += 15ull * 86400 * 1000;
    put(store, "g", "r", "later");
    store = reopen(store);
    assert_null(read_store(store, "f3", &all));
    log_store_close(store);
}

/* A crash left half a line: what comes after is whole. */
static void test_store_after_crash(void **state)
{
    const struct log_query all = {.limit = 100};
    char path[256];

    (void)state;
    struct log_store *store = open_store(&(struct log_store_options){0});
    put(store, "f", "r", "before");
    log_store_close(store);
    FILE *file = fopen(path_of("logs/alice/f/0000000001", path), "a");
    fputs("{\"time\":\"20", file);
    fclose(file);
    store = open_store(&(struct log_store_options){0});
    put(store, "f", "r", "after");
    store = reopen(store);
    char *text = read_store(store, "f", &all);
    assert_int_equal(lines_of(text), 2);
    assert_non_null(strstr(text, "after"));
    free(text);
    log_store_close(store);
}

/* --- following ------------------------------------------------------------------------------- */

struct reader {
    struct log_follower *follower;
    char text[1 << 20];
    size_t len;
};

static atomic_uint wakes;

static void count_wake(void *opaque)
{
    (void)opaque;
    atomic_fetch_add(&wakes, 1);
}

/* Until @needle was read, or for 20 s. */
static bool reads(struct reader *reader, const char *needle)
{
    for (int i = 0; i < 2000; i++) {
        ptrdiff_t n = log_follower_read(reader->follower, reader->text + reader->len, 700);

        if (n < 0)
            return false;
        reader->len += (size_t)n;
        reader->text[reader->len] = '\0';
        if (strstr(reader->text, needle))
            return true;
        if (n == 0)
            usleep(10000);
    }
    return false;
}

static void test_follow(void **state)
{
    const struct log_store_options small = {.function_bytes = 256 << 10,
                                            .rate_bytes_s = 1ull << 40};
    const struct log_position start = {0, 0};
    struct reader *reader = calloc(1, sizeof(*reader));
    char name[32], message[2001];
    struct error err;

    (void)state;
    struct log_store *store = open_store(&small);
    assert_int_equal(log_follower_new(store, "alice", "f", &start, &reader->follower, &err), 0);
    log_follower_on_more(reader->follower, count_wake, NULL);
    assert_int_equal(log_follower_read(reader->follower, reader->text, 100), 0);
    put(store, "f", "r", "hello");
    put(store, "g", "r", "not this");
    assert_true(reads(reader, "\"hello\"}\n"));
    assert_true(wakes > 0);
    assert_null(strstr(reader->text, "not this"));
    /* Over several segments, nothing is lost and nothing twice. */
    memset(message, 'x', 2000);
    message[2000] = '\0';
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "r%d", i);
        put(store, "f", name, message);
        usleep(100);
    }
    assert_true(reads(reader, "\"r99\""));
    assert_true(reads(reader, "}\n"));
    const char *at = reader->text;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "\"r%d\"", i);
        at = strstr(at, name);
        assert_non_null(at);
        assert_null(strstr(at + 1, name));
    }
    log_store_end_followers(store);
    assert_false(reads(reader, "never"));
    log_follower_free(reader->follower);
    assert_int_equal(log_follower_new(store, "alice", "f", &start, &reader->follower, &err),
                     -ESHUTDOWN);
    log_store_close(store);
    free(reader);
}

static void test_followers_are_bounded(void **state)
{
    struct log_follower *followers[LOG_FOLLOWERS_TENANT_MAX + 1];
    const struct log_position start = {0, 0};
    struct error err;

    (void)state;
    struct log_store *store = open_store(&(struct log_store_options){0});
    for (int i = 0; i < LOG_FOLLOWERS_TENANT_MAX; i++)
        assert_int_equal(log_follower_new(store, "alice", "f", &start, &followers[i], &err), 0);
    struct log_follower **last = &followers[LOG_FOLLOWERS_TENANT_MAX];
    assert_int_equal(log_follower_new(store, "alice", "f", &start, last, &err), -EAGAIN);
    assert_int_equal(log_follower_new(store, "bob", "f", &start, last, &err), 0);
    for (int i = 0; i <= LOG_FOLLOWERS_TENANT_MAX; i++)
        log_follower_free(followers[i]);
    log_store_close(store);
}

int main(void)
{
#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, remove_place)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_line_is_cut),
        cmocka_unit_test(test_time),
        IN_PLACE(test_daemon_log),
        IN_PLACE(test_daemon_log_is_stuck),
        IN_PLACE(test_store),
        IN_PLACE(test_store_limits),
        IN_PLACE(test_store_rate),
        IN_PLACE(test_store_sweeps),
        IN_PLACE(test_store_after_crash),
        IN_PLACE(test_follow),
        IN_PLACE(test_followers_are_bounded),
    };

    return cmocka_run_group_tests_name("logs", tests, NULL, NULL);
}
