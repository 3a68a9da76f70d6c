/* The conversation with an agent, over a socket pair whose other end plays good and hostile guests.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent.pb-c.h"
#include "common/clock.h"
#include "common/fd.h"
#include "guest-agent/proto/frame.h"
#include "host/instance/agent_client.h"

static const char request_id[] = "12345678-1234-4123-8123-123456789abc";

struct scene {
    struct agent_client *client;
    int guest; /* the guest's end */
    int ended, interrupt;
    char log[4096];
    size_t log_bytes;
    uint64_t dropped;
    unsigned megabytes; /* to be streamed */
};

static void on_log(void *opaque, bool is_stderr, const void *data, size_t len, uint64_t dropped)
{
    struct scene *scene = opaque;

    (void)is_stderr;
    if (len > 0 && len < sizeof(scene->log) - scene->log_bytes) {
        memcpy(scene->log + scene->log_bytes, data, len);
        scene->log_bytes += len;
    }
    scene->dropped += dropped;
}

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    scene->guest = pair[1];
    scene->ended = eventfd(0, EFD_CLOEXEC);
    scene->interrupt = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(agent_client_new(pair[0], scene->ended, scene->interrupt, on_log, scene,
                                      &scene->client, NULL),
                     0);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;

    agent_client_free(scene->client);
    if (scene->guest >= 0)
        close(scene->guest);
    close(scene->ended);
    close(scene->interrupt);
    free(scene);
    return 0;
}

/* --- the guest's side ----------------------------------------------------------------------------
 */

static void guest_sends_bytes(struct scene *scene, const void *data, size_t len)
{
    uint8_t header[FRAME_HEADER_BYTES];

    frame_put_header(header, len);
    assert_int_equal(fd_write_all(scene->guest, header, sizeof(header)), 0);
    assert_int_equal(fd_write_all(scene->guest, data, len), 0);
}

static void guest_sends(struct scene *scene, const Mayfly__Agent__AgentMessage *message)
{
    size_t len = mayfly__agent__agent_message__get_packed_size(message);
    uint8_t *data = malloc(len);

    mayfly__agent__agent_message__pack(message, data);
    guest_sends_bytes(scene, data, len);
    free(data);
}

static void guest_says_hello(struct scene *scene, uint32_t version, const char *agent_version)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__Hello hello;

    mayfly__agent__hello__init(&hello);
    hello.protocol_version = version;
    hello.agent_version = (char *)(uintptr_t)agent_version;
    hello.start_tsc = 77;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_HELLO;
    message.hello = &hello;
    guest_sends(scene, &message);
}

static void guest_logs(struct scene *scene, const char *text, uint64_t dropped)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__Log log = MAYFLY__AGENT__LOG__INIT;

    log.data.data = (uint8_t *)(uintptr_t)text;
    log.data.len = strlen(text);
    log.dropped_bytes = dropped;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_LOG;
    message.log = &log;
    guest_sends(scene, &message);
}

static void guest_answers(struct scene *scene, const char *id, uint32_t outcome,
                          const void *payload, size_t len, const char *why)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__InvokeResult result;

    mayfly__agent__invoke_result__init(&result);
    result.request_id = (char *)(uintptr_t)id;
    result.outcome = (Mayfly__Agent__Outcome)outcome;
    result.payload.data = (uint8_t *)(uintptr_t)payload;
    result.payload.len = len;
    result.message = (char *)(uintptr_t)why;
    result.duration_us = 42;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_INVOKE_RESULT;
    message.invoke_result = &result;
    guest_sends(scene, &message);
}

static void guest_initialises(struct scene *scene, uint32_t outcome, const char *why)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__InitResult result;

    mayfly__agent__init_result__init(&result);
    result.outcome = (Mayfly__Agent__Outcome)outcome;
    result.message = (char *)(uintptr_t)why;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_INIT_RESULT;
    message.init_result = &result;
    guest_sends(scene, &message);
}

/* The next message from the host; owned by the caller. */
static Mayfly__Agent__HostMessage *guest_receives(struct scene *scene)
{
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame frame;

    assert_int_equal(fd_read_all(scene->guest, header, sizeof(header)), 0);
    assert_int_equal(frame_parse(header, sizeof(header), &frame), 0);
    size_t len = frame.total_bytes - FRAME_HEADER_BYTES;
    uint8_t *data = malloc(len);
    assert_int_equal(fd_read_all(scene->guest, data, len), 0);
    Mayfly__Agent__HostMessage *message = mayfly__agent__host_message__unpack(NULL, len, data);
    free(data);
    assert_non_null(message);
    return message;
}

/* --- what the host makes of it -------------------------------------------------------------------
 */

static void invoke_fails(struct scene *scene, int code, const char *words)
{
    struct agent_event event = {
        .request_id = request_id, .data = "{}", .len_bytes = 2, .timeout_ms = 100};
    struct agent_result result;
    struct error err = {0};

    assert_int_equal(agent_client_invoke(scene->client, &event, 200, 200, &result, &err), -code);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
}

static void test_hello(void **state)
{
    struct scene *scene = *state;
    struct agent_hello hello;

    guest_says_hello(scene, 1, "1.2\x1b[2J\n");
    assert_int_equal(agent_client_hello(scene->client, 1000, &hello, NULL), 0);
    assert_string_equal(hello.agent_version, "1.2?[2J");
    assert_int_equal(hello.start_tsc, 77);
}

static void test_other_version(void **state)
{
    struct scene *scene = *state;
    struct agent_hello hello;
    struct error err;

    guest_says_hello(scene, 2, "2.0");
    assert_int_equal(agent_client_hello(scene->client, 1000, &hello, &err), -EPROTO);
    assert_non_null(strstr(err.text, "version 2"));
}

static void test_log_before_hello(void **state)
{
    struct scene *scene = *state;
    struct agent_hello hello;
    struct error err;

    guest_logs(scene, "x", 0);
    assert_int_equal(agent_client_hello(scene->client, 1000, &hello, &err), -EPROTO);
    assert_non_null(strstr(err.text, "sent Log where Hello was due"));
}

static void test_invoke(void **state)
{
    struct scene *scene = *state;
    struct agent_event event = {.request_id = request_id,
                                .data = "{\"k\":1}",
                                .len_bytes = 7,
                                .timeout_ms = 3000,
                                .trace_id = "Root=1"};
    struct agent_result result;

    guest_logs(scene, "one\n", 0);
    guest_logs(scene, "two\n", 5);
    guest_answers(scene, request_id, OUTCOME_OK, "[1]", 3, "");
    assert_int_equal(agent_client_invoke(scene->client, &event, 1000, 1000, &result, NULL), 0);
    assert_int_equal(result.outcome, OUTCOME_OK);
    assert_string_equal((char *)result.payload, "[1]");
    assert_int_equal(result.duration_us, 42);
    assert_string_equal(scene->log, "one\ntwo\n");
    assert_int_equal(scene->dropped, 5);
    agent_result_done(&result);

    Mayfly__Agent__HostMessage *seen = guest_receives(scene);
    assert_int_equal(seen->body_case, MAYFLY__AGENT__HOST_MESSAGE__BODY_INVOKE);
    assert_int_equal(seen->invoke->timeout_ms, 3000);
    assert_memory_equal(seen->invoke->event.data, "{\"k\":1}", 7);
    assert_string_equal(seen->invoke->trace_id, "Root=1");
    assert_string_equal(seen->invoke->identity, "");
    mayfly__agent__host_message__free_unpacked(seen, NULL);
}

static void guest_streams(struct scene *scene, const void *data, size_t len, const char *type)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__ResponsePart part = MAYFLY__AGENT__RESPONSE_PART__INIT;

    part.data.data = (uint8_t *)(uintptr_t)data;
    part.data.len = len;
    if (type)
        part.content_type = (char *)(uintptr_t)type;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESPONSE_PART;
    message.response_part = &part;
    guest_sends(scene, &message);
}

/* What a reader of parts has seen; it goes after @leave_after of them. */
struct reader {
    char text[64], type[64];
    unsigned n, leave_after;
};

static int read_part(void *opaque, const struct response_part *part)
{
    struct reader *reader = opaque;

    assert_int_equal(part->content_type != NULL, reader->n == 0);
    if (part->content_type)
        snprintf(reader->type, sizeof(reader->type), "%s", part->content_type);
    strncat(reader->text, part->data, part->len_bytes);
    assert_true(part->deadline_ns > 0);
    return ++reader->n == reader->leave_after ? -EPIPE : 0;
}

static void streams(struct scene *scene, struct reader *reader, struct agent_result *ret_result)
{
    const struct agent_event event = {.request_id = request_id,
                                      .data = "{}",
                                      .len_bytes = 2,
                                      .timeout_ms = 3000,
                                      .on_part = reader ? read_part : NULL,
                                      .part_opaque = reader};

    assert_int_equal(agent_client_invoke(scene->client, &event, 1000, 1000, ret_result, NULL), 0);
}

static void test_parts(void **state)
{
    struct scene *scene = *state;
    struct reader reader = {.leave_after = 0}, hasty = {.leave_after = 1};
    struct agent_result result;

    guest_streams(scene, "one ", 4, "text/\x1b[2Jx");
    guest_logs(scene, "between\n", 0);
    guest_streams(scene, "two", 3, "ignored/twice");
    guest_answers(scene, request_id, OUTCOME_OK, "", 0, "");
    streams(scene, &reader, &result);
    assert_string_equal(reader.text, "one two");
    assert_string_equal(reader.type, "text/?[2Jx");
    assert_string_equal(scene->log, "between\n");
    assert_int_equal(result.payload_bytes, 0);
    agent_result_done(&result);
    /* One that leaves misses the rest, and the function ends as it would have. */
    guest_streams(scene, "one", 3, "t");
    guest_streams(scene, "two", 3, NULL);
    guest_answers(scene, request_id, OUTCOME_FUNCTION_ERROR, "{}", 2, "");
    streams(scene, &hasty, &result);
    assert_string_equal(hasty.text, "one");
    assert_int_equal(result.outcome, OUTCOME_FUNCTION_ERROR);
    assert_string_equal((char *)result.payload, "{}");
    agent_result_done(&result);
    /* Without a reader they are the response. */
    guest_streams(scene, "{\"a\":", 5, "t");
    guest_streams(scene, "1}", 2, NULL);
    guest_answers(scene, request_id, OUTCOME_OK, "", 0, "");
    streams(scene, NULL, &result);
    assert_string_equal((char *)result.payload, "{\"a\":1}");
    assert_int_equal(result.payload_bytes, 7);
    agent_result_done(&result);
    /* Parts that nobody asked for. */
    guest_streams(scene, "x", 1, "t");
    assert_int_equal(agent_client_hello(scene->client, 1000, &(struct agent_hello){0}, NULL),
                     -EPROTO);
}

/* A megabyte a part, from a thread of its own: no socket holds that much. */
static void *stream_megabytes(void *opaque)
{
    struct scene *scene = opaque;
    char *megabyte = calloc(1, 1 << 20);

    for (unsigned i = 0; i < scene->megabytes; i++) {
        memset(megabyte, (int)i, 1 << 20);
        guest_streams(scene, megabyte, 1 << 20, i == 0 ? "t" : NULL);
    }
    guest_answers(scene, request_id, OUTCOME_OK, "", 0, "");
    free(megabyte);
    return NULL;
}

/* What nobody takes is collected up to the limit of a response, and not beyond. */
static void test_parts_too_large(void **state)
{
    struct scene *scene = *state;
    struct agent_result result;
    pthread_t guest;

    scene->megabytes = 7;
    assert_int_equal(pthread_create(&guest, NULL, stream_megabytes, scene), 0);
    streams(scene, NULL, &result);
    pthread_join(guest, NULL);
    assert_int_equal(result.outcome, OUTCOME_RESPONSE_TOO_LARGE);
    assert_int_equal(result.payload_bytes, 0);
    agent_result_done(&result);
}

static int check_megabyte(void *opaque, const struct response_part *part)
{
    unsigned *n = opaque;
    const uint8_t *bytes = part->data;

    assert_int_equal(part->len_bytes, 1 << 20);
    assert_int_equal(bytes[0], *n);
    assert_int_equal(bytes[part->len_bytes - 1], *n);
    ++*n;
    return 0;
}

static void test_twenty_megabytes(void **state)
{
    struct scene *scene = *state;
    unsigned seen = 0;
    const struct agent_event event = {.request_id = request_id,
                                      .data = "{}",
                                      .len_bytes = 2,
                                      .timeout_ms = 60000,
                                      .on_part = check_megabyte,
                                      .part_opaque = &seen};
    struct agent_result result;
    pthread_t guest;

    scene->megabytes = 20;
    assert_int_equal(pthread_create(&guest, NULL, stream_megabytes, scene), 0);
    assert_int_equal(agent_client_invoke(scene->client, &event, 60000, 60000, &result, NULL), 0);
    pthread_join(guest, NULL);
    assert_int_equal(seen, 20);
    assert_int_equal(result.outcome, OUTCOME_OK);
    agent_result_done(&result);
}

static void guest_awakes(struct scene *scene, uint32_t outcome, const char *error, const char *why)
{
    Mayfly__Agent__AgentMessage message = MAYFLY__AGENT__AGENT_MESSAGE__INIT;
    Mayfly__Agent__RestoreResult result;

    mayfly__agent__restore_result__init(&result);
    result.outcome = (Mayfly__Agent__Outcome)outcome;
    result.error_json.data = (uint8_t *)(uintptr_t)error;
    result.error_json.len = strlen(error);
    result.message = (char *)(uintptr_t)why;
    result.duration_us = 7;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESTORE_RESULT;
    message.restore_result = &result;
    guest_sends(scene, &message);
}

static void test_awaken(void **state)
{
    struct scene *scene = *state;
    const struct agent_rebirth rebirth = {.instance_id = "00ff", .hostname = "h"};
    struct agent_result result;
    struct error err;

    guest_logs(scene, "hook\n", 0);
    guest_awakes(scene, OUTCOME_FUNCTION_ERROR, "{}", "a hook\nraised");
    assert_int_equal(agent_client_awaken(scene->client, &rebirth, 1000, &result, NULL), 0);
    assert_int_equal(result.outcome, OUTCOME_FUNCTION_ERROR);
    assert_string_equal((char *)result.payload, "{}");
    assert_string_equal(result.message, "a hook?raised");
    assert_int_equal(result.duration_us, 7);
    assert_string_equal(scene->log, "hook\n");
    agent_result_done(&result);

    Mayfly__Agent__HostMessage *seen = guest_receives(scene);
    assert_int_equal(seen->body_case, MAYFLY__AGENT__HOST_MESSAGE__BODY_RESTORED);
    assert_true(seen->restored->wants_result);
    assert_int_equal(seen->restored->timeout_ms, 1000);
    assert_int_equal(seen->restored->entropy.len, 64);
    assert_int_equal(seen->restored->boot_id.len, 16);
    assert_string_equal(seen->restored->instance_id, "00ff");
    mayfly__agent__host_message__free_unpacked(seen, NULL);

    guest_awakes(scene, 99, "", "");
    assert_int_equal(agent_client_awaken(scene->client, &rebirth, 1000, &result, &err), -EPROTO);
    assert_non_null(strstr(err.text, "unknown outcome"));
}

static void test_awaken_answers(void **state)
{
    struct scene *scene = *state;
    const struct agent_rebirth rebirth = {.instance_id = "00ff", .hostname = "h"};
    struct agent_result result;
    struct error err;

    guest_answers(scene, request_id, OUTCOME_OK, "1", 1, "");
    assert_int_equal(agent_client_awaken(scene->client, &rebirth, 1000, &result, &err), -EPROTO);
    assert_non_null(strstr(err.text, "sent InvokeResult where RestoreResult was due"));
    assert_int_equal(agent_client_awaken(scene->client, &rebirth, 50, &result, &err), -ETIMEDOUT);
}

static void test_wrong_answers(void **state)
{
    struct scene *scene = *state;

    guest_answers(scene, "other", OUTCOME_OK, "1", 1, "");
    invoke_fails(scene, EPROTO, "another request");
    guest_answers(scene, request_id, 99, "1", 1, "");
    invoke_fails(scene, EPROTO, "unknown outcome");
    guest_initialises(scene, OUTCOME_OK, "");
    invoke_fails(scene, EPROTO, "sent InitResult where InvokeResult was due");
    guest_sends_bytes(scene, "\xff\xff\xff", 3);
    invoke_fails(scene, EPROTO, "no message");
}

static void test_frame_lengths(void **state)
{
    static const uint8_t too_long[] = {1, 0, 128, 0}, empty[] = {0, 0, 0, 0};
    struct scene *scene = *state;

    assert_int_equal(fd_write_all(scene->guest, too_long, 4), 0);
    invoke_fails(scene, EPROTO, "length");
    tear_down(state);
    set_up(state);
    scene = *state;
    assert_int_equal(fd_write_all(scene->guest, empty, 4), 0);
    invoke_fails(scene, EPROTO, "length");
}

static void test_silence(void **state)
{
    struct scene *scene = *state;
    uint64_t start = clock_now_us();

    invoke_fails(scene, ETIMEDOUT, "in time");
    assert_in_range(clock_now_us() - start, 190000, 2000000);
}

static void test_half_a_frame(void **state)
{
    struct scene *scene = *state;

    assert_int_equal(fd_write_all(scene->guest, "\x10\0\0\0half", 8), 0);
    invoke_fails(scene, ETIMEDOUT, "in time");
}

static void test_gone(void **state)
{
    struct scene *scene = *state;

    close(scene->guest);
    scene->guest = -1;
    invoke_fails(scene, ECONNRESET, "");
}

static void test_vm_end(void **state)
{
    struct scene *scene = *state;
    uint64_t one = 1;

    assert_int_equal(write(scene->ended, &one, sizeof(one)), sizeof(one));
    invoke_fails(scene, ECONNRESET, "VM ended");
}

static void test_interrupt(void **state)
{
    struct scene *scene = *state;
    uint64_t one = 1;

    assert_int_equal(write(scene->interrupt, &one, sizeof(one)), sizeof(one));
    invoke_fails(scene, EINTR, "interrupted");
}

/* A million unknown fields: 2 MB of input that would unpack into a hundred. */
static void *send_amplification(void *opaque)
{
    struct scene *scene = opaque;
    size_t len = 2 << 20;
    uint8_t *data = malloc(len), header[FRAME_HEADER_BYTES];

    for (size_t i = 0; i < len; i += 2) {
        data[i] = 0x78; /* field 15, varint */
        data[i + 1] = 0;
    }
    frame_put_header(header, len);
    if (fd_write_all(scene->guest, header, sizeof(header)) == 0)
        fd_write_all(scene->guest, data, len);
    free(data);
    return NULL;
}

static void test_amplification(void **state)
{
    struct scene *scene = *state;
    struct agent_hello hello;
    struct error err;
    pthread_t thread;

    pthread_create(&thread, NULL, send_amplification, scene);
    assert_int_equal(agent_client_hello(scene->client, 10000, &hello, &err), -EPROTO);
    pthread_join(thread, NULL);
}

/* Logs without end must not hold off the deadline. */
static void *log_forever(void *opaque)
{
    struct scene *scene = opaque;
    static const uint8_t log[] = {4, 0, 0, 0, 0x1a, 2, 0x08, 1};

    while (fd_write_all(scene->guest, log, sizeof(log)) == 0)
        ;
    return NULL;
}

static void test_flood(void **state)
{
    struct scene *scene = *state;
    uint64_t start = clock_now_us();
    pthread_t thread;

    pthread_create(&thread, NULL, log_forever, scene);
    invoke_fails(scene, ETIMEDOUT, "in time");
    assert_in_range(clock_now_us() - start, 100000, 3000000);
    agent_client_free(scene->client);
    scene->client = NULL;
    pthread_join(thread, NULL);
}

static void count_reminder(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* Whoever waits is reminded once, whether the guest is silent or talks without end. */
static void test_reminder(void **state)
{
    struct scene *scene = *state;
    unsigned n = 0;
    pthread_t thread;

    agent_client_remind(scene->client, clock_now_ns() + 20000000, count_reminder, &n);
    invoke_fails(scene, ETIMEDOUT, "in time");
    assert_int_equal(n, 1);
    agent_client_remind(scene->client, clock_now_ns() + 3600000000000, count_reminder, &n);
    invoke_fails(scene, ETIMEDOUT, "in time"); /* it does not move the deadline */
    assert_int_equal(n, 1);
    agent_client_remind(scene->client, 0, NULL, NULL);
    invoke_fails(scene, ETIMEDOUT, "in time");
    agent_client_remind(scene->client, clock_now_ns() + 20000000, count_reminder, &n);
    pthread_create(&thread, NULL, log_forever, scene);
    invoke_fails(scene, ETIMEDOUT, "in time");
    assert_int_equal(n, 2);
    agent_client_free(scene->client);
    scene->client = NULL;
    pthread_join(thread, NULL);
}

static void *send_large(void *opaque)
{
    struct scene *scene = opaque;
    char *payload = malloc(AGENT_RESPONSE_MAX_BYTES + 1);

    memset(payload, '1', AGENT_RESPONSE_MAX_BYTES + 1);
    guest_answers(scene, request_id, OUTCOME_OK, payload, AGENT_RESPONSE_MAX_BYTES, "");
    guest_answers(scene, request_id, OUTCOME_OK, payload, AGENT_RESPONSE_MAX_BYTES + 1, "");
    free(payload);
    return NULL;
}

static void test_large_answers(void **state)
{
    struct scene *scene = *state;
    struct agent_event event = {
        .request_id = request_id, .data = "{}", .len_bytes = 2, .timeout_ms = 100};
    struct agent_result result;
    pthread_t thread;

    pthread_create(&thread, NULL, send_large, scene);
    assert_int_equal(agent_client_invoke(scene->client, &event, 9000, 9000, &result, NULL), 0);
    assert_int_equal(result.outcome, OUTCOME_OK);
    assert_int_equal(result.payload_bytes, AGENT_RESPONSE_MAX_BYTES);
    agent_result_done(&result);
    assert_int_equal(agent_client_invoke(scene->client, &event, 9000, 9000, &result, NULL), 0);
    assert_int_equal(result.outcome, OUTCOME_RESPONSE_TOO_LARGE);
    agent_result_done(&result);
    pthread_join(thread, NULL);
}

/* --- the init phase, with a real package ---------------------------------------------------------
 */

static struct package *make_package(char *directory, size_t large_bytes)
{
    struct package *package;
    char path[128];
    FILE *file;

    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/app.py", directory);
    file = fopen(path, "w");
    fputs("x", file);
    fclose(file);
    snprintf(path, sizeof(path), "%s/data", directory);
    file = fopen(path, "w");
    for (size_t i = 0; i < large_bytes; i++)
        fputc('a' + (int)(i % 23), file);
    fclose(file);
    assert_int_equal(package_open(directory, &package, NULL), 0);
    return package;
}

static void remove_package(struct package *package, const char *directory)
{
    char command[96];

    package_free(package);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    assert_int_equal(system(command), 0);
}

enum { LARGE = (2 << 20) + 12345 };

static void *play_agent(void *opaque)
{
    struct scene *scene = opaque;
    Mayfly__Agent__HostMessage *message = guest_receives(scene);
    size_t data_bytes = 0, entries = 0;

    assert_int_equal(message->body_case, MAYFLY__AGENT__HOST_MESSAGE__BODY_PREPARE);
    assert_string_equal(message->prepare->handler, "app.handler");
    assert_int_equal(message->prepare->n_environment, 1);
    assert_string_equal(message->prepare->environment[0]->key, "K");
    assert_int_equal(message->prepare->entropy.len, 32);
    mayfly__agent__host_message__free_unpacked(message, NULL);
    while ((message = guest_receives(scene))->body_case ==
           MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_ENTRY) {
        Mayfly__Agent__CodeEntry *entry = message->code_entry;

        entries++;
        if (strcmp(entry->path, "data") == 0) {
            assert_int_equal(entry->append, data_bytes > 0);
            for (size_t i = 0; i < entry->data.len; i++)
                assert_int_equal(entry->data.data[i], 'a' + (data_bytes + i) % 23);
            data_bytes += entry->data.len;
        }
        mayfly__agent__host_message__free_unpacked(message, NULL);
    }
    assert_int_equal(message->body_case, MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_END);
    mayfly__agent__host_message__free_unpacked(message, NULL);
    assert_int_equal(data_bytes, LARGE);
    assert_int_equal(entries, 4);
    guest_initialises(scene, OUTCOME_OK, "");
    return NULL;
}

static void test_init(void **state)
{
    static const struct agent_variable variables[] = {{"K", "V"}};
    struct scene *scene = *state;
    char directory[] = "/tmp/mayfly-test-XXXXXX";
    struct package *package = make_package(directory, LARGE);
    struct agent_prepare prepare = {.runtime = "python3.11",
                                    .handler = "app.handler",
                                    .environment = variables,
                                    .n_environment = 1};
    struct agent_result result;
    pthread_t thread;

    pthread_create(&thread, NULL, play_agent, scene);
    assert_int_equal(agent_client_init(scene->client, &prepare, package, 9000, 9000, &result, NULL),
                     0);
    assert_int_equal(result.outcome, OUTCOME_OK);
    agent_result_done(&result);
    pthread_join(thread, NULL);
    remove_package(package, directory);
}

/* An agent that refuses before it read the code: no deadlock, its reason is heard. */
static void test_early_refusal(void **state)
{
    struct scene *scene = *state;
    char directory[] = "/tmp/mayfly-test-XXXXXX";
    struct package *package = make_package(directory, 1000);
    struct agent_prepare prepare = {.runtime = "java", .handler = "x"};
    struct agent_result result;

    guest_initialises(scene, OUTCOME_AGENT_ERROR, "no such\nruntime");
    assert_int_equal(agent_client_init(scene->client, &prepare, package, 1000, 1000, &result, NULL),
                     0);
    assert_int_equal(result.outcome, OUTCOME_AGENT_ERROR);
    assert_string_equal(result.message, "no such?runtime");
    agent_result_done(&result);
    remove_package(package, directory);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hello),
        TEST(test_other_version),
        TEST(test_log_before_hello),
        TEST(test_invoke),
        TEST(test_awaken),
        TEST(test_awaken_answers),
        TEST(test_parts),
        TEST(test_twenty_megabytes),
        TEST(test_parts_too_large),
        TEST(test_wrong_answers),
        TEST(test_frame_lengths),
        TEST(test_silence),
        TEST(test_half_a_frame),
        TEST(test_gone),
        TEST(test_vm_end),
        TEST(test_interrupt),
        TEST(test_amplification),
        TEST(test_flood),
        TEST(test_reminder),
        TEST(test_large_answers),
        TEST(test_init),
        TEST(test_early_refusal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
