/* The conversation with an agent: see agent_client.h. Process: the host's. Input: hostile. */
#include "agent_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "agent_stream.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/text.h"

enum {
    PIECE_BYTES = 1 << 20, /* of one CodeEntry, as agent.proto has it */
    ENTROPY_BYTES = 32,
    RESTORED_ENTROPY_BYTES = 64,
    BOOT_ID_BYTES = 16,
    SHUTDOWN_SEND_MS = 200,
    PART_MAX_BYTES = 1 << 20, /* of one ResponsePart, likewise */
    COLLECT_MIN_BYTES = 64 << 10,
    CONTENT_TYPE_BYTES = 260,
};

struct agent_client {
    struct agent_stream stream; /* owned */
    agent_log *log;
    void *opaque;       /* borrowed: @log's */
    uint64_t log_bytes; /* passed on in this phase */
};

static uint64_t deadline_in(uint64_t timeout_ms)
{
    return clock_now_ns() + timeout_ms * 1000000u;
}

/* protobuf-c wants non-const text and data, but packing only reads them. */
static char *text(const char *from)
{
    return (char *)(uintptr_t)(from ? from : "");
}

static ProtobufCBinaryData bytes(const void *data, size_t len)
{
    return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)(uintptr_t)data};
}

int agent_client_new(int fd, int end_fd, int interrupt_fd, agent_log *log, void *opaque,
                     struct agent_client **ret_client, struct error *err)
{
    struct agent_client *client = calloc(1, sizeof(*client));

    if (!client) {
        close(fd);
        return error_set(err, ENOMEM, "talk to the guest's agent");
    }
    agent_stream_init(&client->stream, fd, end_fd, interrupt_fd);
    client->log = log;
    client->opaque = opaque;
    *ret_client = client;
    return 0;
}

void agent_client_free(struct agent_client *client)
{
    if (!client)
        return;
    agent_stream_done(&client->stream);
    free(client);
}

void agent_client_remind(struct agent_client *client, uint64_t at_ns, void (*remind)(void *opaque),
                         void *opaque)
{
    client->stream.remind_ns = at_ns;
    client->stream.remind = remind;
    client->stream.remind_opaque = opaque;
}

void agent_result_done(struct agent_result *result)
{
    free(result->payload);
    result->payload = NULL;
    result->payload_bytes = 0;
}

/* --- receiving -----------------------------------------------------------------------------------
 */

/* An agent keeps its limit by itself; one that its function has taken over does not. */
static void pass_log(struct agent_client *client, const Mayfly__Agent__Log *log)
{
    uint64_t room = AGENT_LOG_MAX_BYTES - client->log_bytes;
    size_t n = log->data.len < room ? log->data.len : (size_t)room;

    client->log_bytes += n;
    if (client->log)
        client->log(client->opaque, log->stream == MAYFLY__AGENT__LOG__STREAM__STDERR,
                    log->data.data, n, log->dropped_bytes + (log->data.len - n));
}

static const char *name_of(Mayfly__Agent__AgentMessage__BodyCase body)
{
    switch (body) {
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_HELLO:
        return "Hello";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_INIT_RESULT:
        return "InitResult";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_LOG:
        return "Log";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_INVOKE_RESULT:
        return "InvokeResult";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_PRELOADED:
        return "Preloaded";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_FROZEN:
        return "Frozen";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESTORE_RESULT:
        return "RestoreResult";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESPONSE_PART:
        return "ResponsePart";
    case MAYFLY__AGENT__AGENT_MESSAGE__BODY__NOT_SET:
    default:
        return "an unknown message";
    }
}

/* What every first message of a guest's life carries. */
static int fresh_entropy(uint8_t *to, size_t len, struct error *err)
{
    if (getrandom(to, len, 0) != (ssize_t)len)
        return error_set(err, errno, "get entropy for the guest");
    return 0;
}

static int64_t wall_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void copy_text(char *to, size_t size, const char *from)
{
    text_clean(to, size, from, strlen(from));
}

/* A streamed response, as far as it has come. */
struct streamed {
    const struct agent_event *event;
    uint64_t deadline_ns, total_bytes;
    bool has_begun, is_unread;
    uint8_t *collected; /* owned; where nobody takes parts */
    size_t collected_bytes, size;
};

static int collect(struct streamed *streamed, const ProtobufCBinaryData *data)
{
    size_t needed = streamed->collected_bytes + data->len;

    if (streamed->total_bytes > AGENT_RESPONSE_MAX_BYTES)
        return 0;
    if (needed > streamed->size) {
        size_t size = needed < COLLECT_MIN_BYTES ? COLLECT_MIN_BYTES : needed * 2;
        uint8_t *grown = realloc(streamed->collected, size);

        if (!grown)
            return -ENOMEM;
        streamed->collected = grown;
        streamed->size = size;
    }
    if (data->len > 0)
        memcpy(streamed->collected + streamed->collected_bytes, data->data, data->len);
    streamed->collected_bytes = needed;
    return 0;
}

static int pass_part(struct streamed *streamed, const Mayfly__Agent__ResponsePart *from,
                     struct error *err)
{
    const struct agent_event *event = streamed->event;
    char content_type[CONTENT_TYPE_BYTES];
    struct response_part part = {
        .data = from->data.data, .len_bytes = from->data.len, .deadline_ns = streamed->deadline_ns};

    if (from->data.len > PART_MAX_BYTES)
        return error_say(err, EPROTO, "the guest's agent sent a part of %zu bytes", from->data.len);
    streamed->total_bytes += from->data.len;
    if (!streamed->has_begun) {
        copy_text(content_type, sizeof(content_type), from->content_type);
        part.content_type = content_type;
        streamed->has_begun = true;
    }
    if (streamed->total_bytes > RESPONSE_STREAM_MAX_BYTES || streamed->is_unread)
        return 0;
    if (event->on_part)
        streamed->is_unread = event->on_part(event->part_opaque, &part) < 0;
    else if (collect(streamed, &from->data) < 0)
        return error_set(err, ENOMEM, "take the function's response");
    return 0;
}

/* A message that may come before the one that is waited for. 1: it was one of those. */
static int pass_on(struct agent_client *client, const Mayfly__Agent__AgentMessage *message,
                   Mayfly__Agent__AgentMessage__BodyCase wanted, struct streamed *streamed,
                   struct error *err)
{
    if (message->body_case == MAYFLY__AGENT__AGENT_MESSAGE__BODY_LOG &&
        wanted != MAYFLY__AGENT__AGENT_MESSAGE__BODY_HELLO) {
        pass_log(client, message->log);
        return 1;
    }
    if (message->body_case == MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESPONSE_PART && streamed) {
        int r = pass_part(streamed, message->response_part, err);

        return r < 0 ? r : 1;
    }
    return error_say(err, EPROTO, "the guest's agent sent %s where %s was due",
                     name_of(message->body_case), name_of(wanted));
}

/* Waits for a message of kind @wanted, passing logs on, and parts if there is @streamed to take
 * them. *ret_message is owned. */
static int expect_streamed(struct agent_client *client,
                           Mayfly__Agent__AgentMessage__BodyCase wanted, uint64_t deadline_ns,
                           struct streamed *streamed, Mayfly__Agent__AgentMessage **ret_message,
                           struct error *err)
{
    for (;;) {
        Mayfly__Agent__AgentMessage *message;
        int r = agent_stream_receive(&client->stream, deadline_ns, &message, err);

        if (r < 0)
            return r;
        if (message->body_case == wanted) {
            *ret_message = message;
            return 0;
        }
        r = pass_on(client, message, wanted, streamed, err);
        mayfly__agent__agent_message__free_unpacked(message, NULL);
        if (r < 0)
            return r;
    }
}

static int expect(struct agent_client *client, Mayfly__Agent__AgentMessage__BodyCase wanted,
                  uint64_t deadline_ns, Mayfly__Agent__AgentMessage **ret_message,
                  struct error *err)
{
    return expect_streamed(client, wanted, deadline_ns, NULL, ret_message, err);
}

int agent_client_hello(struct agent_client *client, uint64_t timeout_ms,
                       struct agent_hello *ret_hello, struct error *err)
{
    Mayfly__Agent__AgentMessage *message;
    int r = expect(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_HELLO, deadline_in(timeout_ms),
                   &message, err);

    if (r < 0)
        return r;
    const Mayfly__Agent__Hello *hello = message->hello;
    if (hello->protocol_version != AGENT_PROTOCOL_VERSION) {
        r = error_say(err, EPROTO,
                      "the image's agent speaks protocol version %u, this host %d: build the "
                      "image again",
                      hello->protocol_version, AGENT_PROTOCOL_VERSION);
    } else {
        copy_text(ret_hello->agent_version, sizeof(ret_hello->agent_version), hello->agent_version);
        copy_text(ret_hello->kernel_version, sizeof(ret_hello->kernel_version),
                  hello->kernel_version);
        copy_text(ret_hello->runtime, sizeof(ret_hello->runtime), hello->runtime);
        ret_hello->start_tsc = hello->start_tsc;
        ret_hello->hello_tsc = hello->hello_tsc;
    }
    mayfly__agent__agent_message__free_unpacked(message, NULL);
    return r;
}

/* Fills @result from the parts that both result messages have. */
static int take_result(struct agent_result *result, uint32_t outcome,
                       const ProtobufCBinaryData *payload, const char *message, struct error *err)
{
    if (outcome > OUTCOME_AGENT_ERROR)
        return error_say(err, EPROTO, "the guest's agent sent the unknown outcome %u", outcome);
    *result = (struct agent_result){.outcome = (enum agent_outcome)outcome};
    copy_text(result->message, sizeof(result->message), message);
    size_t len = payload->len;
    if (len > AGENT_RESPONSE_MAX_BYTES) { /* the agent should have said so itself */
        result->outcome = OUTCOME_RESPONSE_TOO_LARGE;
        len = 0;
    }
    result->payload = malloc(len + 1);
    if (!result->payload)
        return error_set(err, ENOMEM, "take the function's result");
    if (len > 0)
        memcpy(result->payload, payload->data, len);
    result->payload[len] = 0;
    result->payload_bytes = len;
    return 0;
}

/* --- init phase ----------------------------------------------------------------------------------
 */

/* The map entries of Prepare: one block, owned by the caller. */
struct environment {
    Mayfly__Agent__Prepare__EnvironmentEntry *entries;
    Mayfly__Agent__Prepare__EnvironmentEntry **pointers;
};

static int fill_environment(struct environment *environment, const struct agent_prepare *prepare)
{
    size_t n = prepare->n_environment ? prepare->n_environment : 1;

    environment->entries = calloc(n, sizeof(*environment->entries));
    environment->pointers = calloc(n, sizeof(void *));
    if (!environment->entries || !environment->pointers)
        return -ENOMEM;
    for (size_t i = 0; i < prepare->n_environment; i++) {
        mayfly__agent__prepare__environment_entry__init(&environment->entries[i]);
        environment->entries[i].key = text(prepare->environment[i].name);
        environment->entries[i].value = text(prepare->environment[i].value);
        environment->pointers[i] = &environment->entries[i];
    }
    return 0;
}

static int send_prepare(struct agent_client *client, const struct agent_prepare *from,
                        const struct environment *environment, uint64_t deadline_ns,
                        struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__Prepare prepare;
    uint8_t entropy[ENTROPY_BYTES];
    int r = fresh_entropy(entropy, sizeof(entropy), err);

    if (r < 0)
        return r;
    mayfly__agent__prepare__init(&prepare);
    prepare.runtime = text(from->runtime);
    prepare.handler = text(from->handler);
    prepare.n_environment = from->n_environment;
    prepare.environment = environment->pointers;
    prepare.function_name = text(from->function_name);
    prepare.function_version = text(from->function_version);
    prepare.function_arn = text(from->function_arn);
    prepare.log_group = text(from->log_group);
    prepare.log_stream = text(from->log_stream);
    prepare.memory_mib = from->memory_mib;
    prepare.init_timeout_ms = from->init_timeout_ms;
    prepare.tmp_bytes = from->tmp_bytes;
    prepare.max_log_bytes = from->max_log_bytes;
    prepare.wall_clock_ns = wall_clock_ns();
    prepare.entropy = bytes(entropy, sizeof(entropy));
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_PREPARE;
    message.prepare = &prepare;
    r = agent_stream_send(&client->stream, &message, deadline_ns, err);
    explicit_bzero(entropy, sizeof(entropy));
    return r;
}

/* One piece of an entry's content: [@at, @at + @len). */
static int send_piece(struct agent_client *client, const struct package_entry *from,
                      const uint8_t *data, size_t len, bool append, uint64_t deadline_ns,
                      struct error *err)
{
    static const Mayfly__Agent__CodeEntry__Type types[] = {
        [PACKAGE_FILE] = MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE,
        [PACKAGE_DIRECTORY] = MAYFLY__AGENT__CODE_ENTRY__TYPE__DIRECTORY,
        [PACKAGE_LINK] = MAYFLY__AGENT__CODE_ENTRY__TYPE__SYMLINK,
    };
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__CodeEntry entry;

    mayfly__agent__code_entry__init(&entry);
    entry.path = text(from->path);
    entry.type = types[from->type];
    entry.mode = from->mode;
    entry.data = bytes(data, len);
    entry.append = append;
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_ENTRY;
    message.code_entry = &entry;
    return agent_stream_send(&client->stream, &message, deadline_ns, err);
}

static int send_entry(struct agent_client *client, const struct package *package,
                      const struct package_entry *entry, uint8_t *buffer, uint64_t deadline_ns,
                      struct error *err)
{
    uint64_t at = 0;

    do {
        uint64_t left = entry->len_bytes - at;
        size_t len = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        int r = package_read(package, entry, at, buffer, len);

        if (r < 0)
            return error_set(err, -r, "read the package");
        r = send_piece(client, entry, buffer, len, at > 0, deadline_ns, err);
        if (r < 0)
            return r;
        at += len;
    } while (at < entry->len_bytes);
    return 0;
}

/* Sends the whole package, or less if the agent has something to say already: its refusal. */
static int send_code(struct agent_client *client, const struct package *package,
                     uint64_t deadline_ns, struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__CodeEnd end = MAYFLY__AGENT__CODE_END__INIT;
    AUTO_FREE uint8_t *buffer = malloc(PIECE_BYTES);

    if (!buffer)
        return error_set(err, ENOMEM, "send the package");
    for (size_t i = 0; i < package->n_entries; i++) {
        if (agent_stream_pending(&client->stream))
            return 0;
        int r = send_entry(client, package, &package->entries[i], buffer, deadline_ns, err);
        if (r < 0)
            return r;
    }
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_END;
    message.code_end = &end;
    return agent_stream_send(&client->stream, &message, deadline_ns, err);
}

int agent_client_init(struct agent_client *client, const struct agent_prepare *prepare,
                      const struct package *package, uint64_t send_timeout_ms,
                      uint64_t answer_timeout_ms, struct agent_result *ret_result,
                      struct error *err)
{
    struct environment environment = {0};
    Mayfly__Agent__AgentMessage *message;
    uint64_t deadline_ns = deadline_in(send_timeout_ms);
    int r = fill_environment(&environment, prepare);

    client->log_bytes = 0;
    if (r < 0)
        error_set(err, -r, "send the function's environment");
    else
        r = send_prepare(client, prepare, &environment, deadline_ns, err);
    free(environment.entries);
    free(environment.pointers);
    if (r == 0)
        r = send_code(client, package, deadline_ns, err);
    if (r == 0)
        r = expect(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_INIT_RESULT,
                   deadline_in(answer_timeout_ms), &message, err);
    if (r < 0)
        return r;
    const Mayfly__Agent__InitResult *from = message->init_result;
    r = take_result(ret_result, (uint32_t)from->outcome, &from->error_json, from->message, err);
    if (r == 0) {
        ret_result->duration_us = from->duration_us;
        ret_result->memory_peak_bytes = from->memory_peak_bytes;
    }
    mayfly__agent__agent_message__free_unpacked(message, NULL);
    return r;
}

/* --- invocation ----------------------------------------------------------------------------------
 */

struct restored_message {
    Mayfly__Agent__HostMessage message;
    Mayfly__Agent__Restored restored;
    uint8_t entropy[RESTORED_ENTROPY_BYTES], boot_id[BOOT_ID_BYTES];
};

/* @to points into itself: it must stay where it is. */
static int fill_restored(struct restored_message *to, const struct agent_rebirth *from,
                         struct error *err)
{
    int r = fresh_entropy(to->entropy, sizeof(to->entropy), err);

    if (r == 0)
        r = fresh_entropy(to->boot_id, sizeof(to->boot_id), err);
    if (r < 0)
        return r;
    mayfly__agent__host_message__init(&to->message);
    mayfly__agent__restored__init(&to->restored);
    to->restored.wall_clock_ns = wall_clock_ns();
    to->restored.entropy = bytes(to->entropy, sizeof(to->entropy));
    to->restored.boot_id = bytes(to->boot_id, sizeof(to->boot_id));
    to->restored.instance_id = text(from->instance_id);
    to->restored.hostname = text(from->hostname);
    to->restored.log_stream = text(from->log_stream);
    to->message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_RESTORED;
    to->message.restored = &to->restored;
    return 0;
}

static int send_invoke(struct agent_client *client, const struct agent_event *event,
                       uint64_t deadline_ns, struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__Invoke invoke;

    if (event->len_bytes > AGENT_EVENT_MAX_BYTES)
        return error_say(err, EMSGSIZE, "the event has %zu bytes, the limit is %d",
                         event->len_bytes, AGENT_EVENT_MAX_BYTES);
    mayfly__agent__invoke__init(&invoke);
    invoke.request_id = text(event->request_id);
    invoke.timeout_ms = event->timeout_ms;
    invoke.event = bytes(event->data, event->len_bytes);
    invoke.client_context = text(event->client_context);
    invoke.identity = text(event->identity);
    invoke.trace_id = text(event->trace_id);
    invoke.invoked_arn = text(event->invoked_arn);
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_INVOKE;
    message.invoke = &invoke;
    if (!event->rebirth)
        return agent_stream_send(&client->stream, &message, deadline_ns, err);
    struct restored_message restored;
    int r = fill_restored(&restored, event->rebirth, err);
    return r < 0 ? r
                 : agent_stream_send_pair(&client->stream, &restored.message, &message, deadline_ns,
                                          err);
}

/* What was streamed and not handed out is the payload. */
static int take_streamed(struct streamed *streamed, struct agent_result *result, struct error *err)
{
    uint64_t limit =
        streamed->event->on_part ? RESPONSE_STREAM_MAX_BYTES : AGENT_RESPONSE_MAX_BYTES;

    if (result->outcome != OUTCOME_OK || !streamed->has_begun)
        return 0;
    if (streamed->total_bytes > limit) {
        result->outcome = OUTCOME_RESPONSE_TOO_LARGE;
        snprintf(result->message, sizeof(result->message), "the response is over %llu bytes",
                 (unsigned long long)limit);
    } else if (streamed->collected) {
        uint8_t *text = realloc(streamed->collected, streamed->collected_bytes + 1);

        if (!text)
            return error_set(err, ENOMEM, "take the function's response");
        text[streamed->collected_bytes] = 0;
        free(result->payload);
        result->payload = text;
        result->payload_bytes = streamed->collected_bytes;
        streamed->collected = NULL;
    }
    return 0;
}

static int take_invoke_result(const Mayfly__Agent__InvokeResult *from, struct streamed *streamed,
                              struct agent_result *ret_result, struct error *err)
{
    struct agent_result result;
    int r;

    if (strcmp(from->request_id, streamed->event->request_id) != 0)
        return error_say(err, EPROTO, "the guest's agent answered another request than %s",
                         streamed->event->request_id);
    r = take_result(&result, (uint32_t)from->outcome, &from->payload, from->message, err);
    if (r < 0)
        return r;
    r = take_streamed(streamed, &result, err);
    if (r < 0) {
        agent_result_done(&result);
        return r;
    }
    result.duration_us = from->duration_us;
    result.memory_peak_bytes = from->memory_peak_bytes;
    *ret_result = result;
    return 0;
}

int agent_client_invoke(struct agent_client *client, const struct agent_event *event,
                        uint64_t send_timeout_ms, uint64_t answer_timeout_ms,
                        struct agent_result *ret_result, struct error *err)
{
    /* A part's reader may wait as long as the function may run, not as long as its guest may take
     * to say that its time is over. */
    struct streamed streamed = {.event = event,
                                .deadline_ns = deadline_in(event->timeout_ms < answer_timeout_ms
                                                               ? event->timeout_ms
                                                               : answer_timeout_ms)};
    Mayfly__Agent__AgentMessage *message;
    int r = send_invoke(client, event, deadline_in(send_timeout_ms), err);

    client->log_bytes = 0;
    if (r == 0)
        r = expect_streamed(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_INVOKE_RESULT,
                            deadline_in(answer_timeout_ms), &streamed, &message, err);
    if (r == 0) {
        r = take_invoke_result(message->invoke_result, &streamed, ret_result, err);
        mayfly__agent__agent_message__free_unpacked(message, NULL);
    }
    free(streamed.collected);
    return r;
}

/* --- snapshots -----------------------------------------------------------------------------------
 */

int agent_client_preload(struct agent_client *client, const char *runtime, uint32_t memory_mib,
                         uint64_t tmp_bytes, uint32_t max_log_bytes, uint64_t answer_timeout_ms,
                         struct agent_result *ret_result, struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__Preload preload;
    Mayfly__Agent__AgentMessage *answer;
    const ProtobufCBinaryData nothing = {0};
    uint8_t entropy[ENTROPY_BYTES];
    int r = fresh_entropy(entropy, sizeof(entropy), err);

    client->log_bytes = 0;
    if (r < 0)
        return r;
    mayfly__agent__preload__init(&preload);
    preload.runtime = text(runtime);
    preload.memory_mib = memory_mib;
    preload.tmp_bytes = tmp_bytes;
    preload.max_log_bytes = max_log_bytes;
    preload.wall_clock_ns = wall_clock_ns();
    preload.entropy = bytes(entropy, sizeof(entropy));
    preload.timeout_ms = (uint32_t)answer_timeout_ms;
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_PRELOAD;
    message.preload = &preload;
    r = agent_stream_send(&client->stream, &message, deadline_in(answer_timeout_ms), err);
    if (r == 0)
        r = expect(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_PRELOADED,
                   deadline_in(answer_timeout_ms + SHUTDOWN_SEND_MS), &answer, err);
    if (r < 0)
        return r;
    r = take_result(ret_result, (uint32_t)answer->preloaded->outcome, &nothing,
                    answer->preloaded->message, err);
    mayfly__agent__agent_message__free_unpacked(answer, NULL);
    return r;
}

int agent_client_freeze(struct agent_client *client, uint32_t settle_ms, uint32_t hooks_timeout_ms,
                        uint64_t answer_timeout_ms, struct agent_result *ret_result,
                        struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__Freeze freeze = MAYFLY__AGENT__FREEZE__INIT;
    Mayfly__Agent__AgentMessage *answer;

    client->log_bytes = 0;
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_FREEZE;
    freeze.settle_ms = settle_ms;
    freeze.timeout_ms = hooks_timeout_ms;
    message.freeze = &freeze;
    int r = agent_stream_send(&client->stream, &message, deadline_in(answer_timeout_ms), err);
    if (r == 0)
        r = expect(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_FROZEN,
                   deadline_in(answer_timeout_ms), &answer, err);
    if (r < 0)
        return r;
    r = take_result(ret_result, (uint32_t)answer->frozen->outcome, &answer->frozen->error_json,
                    answer->frozen->message, err);
    mayfly__agent__agent_message__free_unpacked(answer, NULL);
    return r;
}

int agent_client_reborn(struct agent_client *client, const struct agent_rebirth *rebirth,
                        uint64_t send_timeout_ms, struct error *err)
{
    struct restored_message restored;
    int r = fill_restored(&restored, rebirth, err);

    return r < 0 ? r
                 : agent_stream_send(&client->stream, &restored.message,
                                     deadline_in(send_timeout_ms), err);
}

int agent_client_awaken(struct agent_client *client, const struct agent_rebirth *rebirth,
                        uint64_t answer_timeout_ms, struct agent_result *ret_result,
                        struct error *err)
{
    uint64_t deadline_ns = deadline_in(answer_timeout_ms);
    struct restored_message restored;
    Mayfly__Agent__AgentMessage *answer;
    int r = fill_restored(&restored, rebirth, err);

    client->log_bytes = 0;
    if (r < 0)
        return r;
    restored.restored.wants_result = true;
    restored.restored.timeout_ms = (uint32_t)answer_timeout_ms;
    r = agent_stream_send(&client->stream, &restored.message, deadline_ns, err);
    if (r == 0)
        r = expect(client, MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESTORE_RESULT, deadline_ns, &answer,
                   err);
    if (r < 0)
        return r;
    const Mayfly__Agent__RestoreResult *from = answer->restore_result;
    r = take_result(ret_result, (uint32_t)from->outcome, &from->error_json, from->message, err);
    if (r == 0)
        ret_result->duration_us = from->duration_us;
    mayfly__agent__agent_message__free_unpacked(answer, NULL);
    return r;
}

int agent_client_shutdown(struct agent_client *client, uint32_t grace_ms, struct error *err)
{
    Mayfly__Agent__HostMessage message = MAYFLY__AGENT__HOST_MESSAGE__INIT;
    Mayfly__Agent__Shutdown shutdown = MAYFLY__AGENT__SHUTDOWN__INIT;

    shutdown.grace_ms = grace_ms;
    message.body_case = MAYFLY__AGENT__HOST_MESSAGE__BODY_SHUTDOWN;
    message.shutdown = &shutdown;
    return agent_stream_send(&client->stream, &message, deadline_in(SHUTDOWN_SEND_MS), err);
}
