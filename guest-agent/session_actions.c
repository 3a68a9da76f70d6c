/*
 * Actions: what the agent does when the table of session_table.c calls for it. Process:
 * mayfly-agent. Host messages are trusted to be meant well, not to be right.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest-agent/boot_mounts.h"
#include "guest-agent/clock_entropy.h"
#include "guest-agent/session_internal.h"

enum {
    INIT_TIMEOUT_MS = 10000,       /* where Prepare names none; as in Lambda */
    INVOKE_TIMEOUT_MS = 3000,      /* where Invoke names none; as in Lambda */
    TIMEOUT_MAX_MS = 24 * 3600000, /* keeps sums of times small */
    BODY_BYTES = AGENT_RESPONSE_MAX + RESERVE_PAGE
};

RESERVE_STATIC(body, BODY_BYTES);

void session_begin_phase(struct session *session, uint64_t timeout_ms, uint64_t default_ms)
{
    if (timeout_ms == 0)
        timeout_ms = default_ms;
    if (timeout_ms > TIMEOUT_MAX_MS)
        timeout_ms = TIMEOUT_MAX_MS;
    session->phase_start_ns = agent_monotonic_ns();
    session->timeout_ms = timeout_ms;
    session->deadline_ns = session->phase_start_ns + timeout_ms * 1000000;
    session->invocation.deadline_unix_ms = agent_unix_ms() + timeout_ms;
}

uint64_t session_phase_us(const struct session *session)
{
    return (agent_monotonic_ns() - session->phase_start_ns) / 1000;
}

void session_end_runtime(struct session *session)
{
    function_cgroup_kill(&session->cgroup);
    session->runtime->close();
}

/* ---- how it ended ---- */

static void describe_exit(struct session *session, struct ending *ending)
{
    int status = session->exit_status;

    if (function_cgroup_oom_kills(&session->cgroup) > session->oom_kills) {
        ending->outcome = MAYFLY__AGENT__OUTCOME__OUT_OF_MEMORY;
        snprintf(ending->message, sizeof(ending->message),
                 "Runtime exited with error: signal: killed (out of its %u MiB of memory)",
                 session->memory_mib);
        return;
    }
    ending->outcome = MAYFLY__AGENT__OUTCOME__EXITED;
    if (WIFSIGNALED(status))
        snprintf(ending->message, sizeof(ending->message),
                 "Runtime exited with error: signal: %d (%s)", WTERMSIG(status),
                 sigdescr_np(WTERMSIG(status)) ? sigdescr_np(WTERMSIG(status)) : "unknown");
    else if (WEXITSTATUS(status) != 0)
        snprintf(ending->message, sizeof(ending->message),
                 "Runtime exited with error: exit status %d", WEXITSTATUS(status));
    else
        snprintf(ending->message, sizeof(ending->message),
                 "Runtime exited without providing a reason (exit status 0)");
}

/* What a runtime may say depends on what it was asked; anything else breaks the protocol. */
static enum session_event expected_event(const struct session *session, enum session_event event)
{
    enum session_state asked_in;

    switch (event) {
    case EVENT_PRELOADED:
        asked_in = STATE_PRELOADING;
        break;
    case EVENT_READY:
    case EVENT_INIT_ERROR:
        asked_in = STATE_INIT;
        break;
    case EVENT_RESULT:
    case EVENT_PART:
    case EVENT_ERROR:
    case EVENT_TOO_LARGE:
        asked_in = STATE_BUSY;
        break;
    case EVENT_AT_REST:
    case EVENT_FREEZE_ERROR:
        asked_in = STATE_FREEZING;
        break;
    case EVENT_LAST_ERROR:
        asked_in = session->state == STATE_INIT ? STATE_INIT : STATE_BUSY;
        break;
    case EVENT_RESTORE_ERROR: /* a restoration that came with an event fails with it */
        asked_in = session->state == STATE_BUSY ? STATE_BUSY : STATE_RESTORING;
        break;
    case EVENT_AWAKE:
        asked_in = STATE_RESTORING;
        break;
    default:
        return event;
    }
    return session->state == asked_in ? event : EVENT_BROKEN;
}

static void describe_too_large(struct ending *ending, int max_bytes)
{
    ending->outcome = MAYFLY__AGENT__OUTCOME__RESPONSE_TOO_LARGE;
    ending->body_bytes = 0;
    snprintf(ending->message, sizeof(ending->message), "the response is over %d bytes", max_bytes);
}

void session_describe(struct session *session, const struct session_input *input,
                      struct ending *ending)
{
    ending->body = input->answer.body;
    ending->body_bytes = input->answer.body_bytes;
    ending->message[0] = '\0';
    switch (expected_event(session, input->event)) {
    case EVENT_PRELOADED:
    case EVENT_READY:
    case EVENT_RESULT:
    case EVENT_AT_REST:
    case EVENT_AWAKE:
        ending->outcome = MAYFLY__AGENT__OUTCOME__OK;
        break;
    case EVENT_INIT_ERROR:
    case EVENT_ERROR:
    case EVENT_FREEZE_ERROR:
    case EVENT_RESTORE_ERROR:
        ending->outcome = MAYFLY__AGENT__OUTCOME__FUNCTION_ERROR;
        break;
    case EVENT_TOO_LARGE:
        describe_too_large(ending, AGENT_RESPONSE_MAX);
        break;
    case EVENT_DEADLINE:
        ending->outcome = MAYFLY__AGENT__OUTCOME__TIMEOUT;
        snprintf(ending->message, sizeof(ending->message),
                 "Task timed out after %llu.%02llu seconds",
                 (unsigned long long)(session->timeout_ms / 1000),
                 (unsigned long long)(session->timeout_ms % 1000 / 10));
        break;
    case EVENT_EXIT:
        describe_exit(session, ending);
        break;
    case EVENT_LAST_ERROR:
        ending->outcome = MAYFLY__AGENT__OUTCOME__EXITED;
        snprintf(ending->message, sizeof(ending->message), "the runtime ended with an error");
        break;
    default:
        ending->body_bytes = 0;
        ending->outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR;
        snprintf(ending->message, sizeof(ending->message),
                 "the runtime broke the protocol with the agent");
    }
}

/* ---- results ---- */

static int send_init_result(struct session *session, struct ending *ending)
{
    Mayfly__Agent__InitResult result;
    int sent;

    mayfly__agent__init_result__init(&result);
    session->deadline_ns = 0;
    result.outcome = ending->outcome;
    result.error_json.data = (uint8_t *)(uintptr_t)ending->body; /* packing only reads it */
    result.error_json.len = ending->body_bytes;
    result.duration_us = session_phase_us(session);
    result.memory_peak_bytes = function_cgroup_peak(&session->cgroup);
    result.message = ending->message;
    sent = log_pump_end_phase(&session->logs, &session->link);
    return sent < 0 ? sent : host_link_send_init_result(&session->link, &result);
}

static int send_invoke_result(struct session *session, const char *request_id,
                              struct ending *ending)
{
    Mayfly__Agent__InvokeResult result;
    int sent;

    mayfly__agent__invoke_result__init(&result);
    session->deadline_ns = 0;
    result.request_id = (char *)(uintptr_t)request_id; /* packing only reads it */
    result.outcome = ending->outcome;
    result.payload.data = (uint8_t *)(uintptr_t)ending->body;
    result.payload.len = ending->body_bytes;
    result.duration_us = session_phase_us(session);
    result.memory_peak_bytes = function_cgroup_peak(&session->cgroup);
    result.message = ending->message;
    sent = log_pump_end_phase(&session->logs, &session->link);
    if (sent == 0)
        sent = host_link_send_invoke_result(&session->link, &result);
    if (ending->body_bytes > RESERVE_KEEP_BYTES)
        reserve_trim(&body);
    return sent;
}

void session_touch_answer(void)
{
    *(volatile uint8_t *)body.bytes = 0;
}

int session_bury_runtime(struct session *session)
{
    int result;

    /* Before the runtime's buffers go, its last log lines are taken. */
    function_cgroup_kill(&session->cgroup);
    result = log_pump_drain(&session->logs, &session->link);
    session->runtime->close();
    return result;
}

static int init_done(struct session *session, enum session_state next,
                     const struct session_input *input)
{
    struct ending ending;
    int result = 0;

    session_describe(session, input, &ending);
    if (next == STATE_DEAD) {
        /* Before the runtime's buffers go, its last log lines and its peak are taken. */
        function_cgroup_kill(&session->cgroup);
        result = log_pump_drain(&session->logs, &session->link);
    }
    if (result == 0)
        result = send_init_result(session, &ending);
    if (next == STATE_DEAD)
        session->runtime->close();
    return result < 0 ? result : (int)next;
}

/* A piece of a response, and that it begins. What is beyond the limit is counted, and not sent. */
static int send_part(struct session *session, const struct runtime_answer *answer)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__ResponsePart part;

    if (answer->content_type)
        session->is_streaming = true;
    session->streamed_bytes += answer->body_bytes;
    if (session->streamed_bytes > AGENT_STREAM_MAX ||
        (answer->body_bytes == 0 && !answer->content_type))
        return 0;
    mayfly__agent__agent_message__init(&message);
    mayfly__agent__response_part__init(&part);
    part.data.data = (uint8_t *)(uintptr_t)answer->body; /* packing only reads it */
    part.data.len = answer->body_bytes;
    if (answer->content_type)
        part.content_type = (char *)(uintptr_t)answer->content_type;
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESPONSE_PART;
    message.response_part = &part;
    return host_link_send(&session->link, &message);
}

static int forward_part(struct session *session, enum session_state next,
                        const struct session_input *input)
{
    int result = send_part(session, &input->answer);

    /* Now: the host waits for it, and what it is made of is reused. */
    if (result == 0)
        result = host_link_flush(&session->link);
    return result < 0 ? result : (int)next;
}

/* What has been streamed is no payload; what was too much of it is an error. */
static int end_stream(struct session *session, const struct session_input *input,
                      struct ending *ending)
{
    int result;

    if (input->event != EVENT_RESULT || (!session->is_streaming && !input->answer.content_type))
        return 0;
    result = send_part(session, &input->answer);
    ending->body_bytes = 0;
    if (session->streamed_bytes > AGENT_STREAM_MAX)
        describe_too_large(ending, AGENT_STREAM_MAX);
    return result;
}

static int reply(struct session *session, enum session_state next,
                 const struct session_input *input)
{
    struct ending ending;
    int result = 0;

    session_describe(session, input, &ending);
    if (next == STATE_DEAD) {
        function_cgroup_kill(&session->cgroup);
        result = log_pump_drain(&session->logs, &session->link);
    }
    if (result == 0)
        result = end_stream(session, input, &ending);
    if (result == 0)
        result = send_invoke_result(session, session->invocation.request_id, &ending);
    if (next == STATE_DEAD)
        session->runtime->close();
    host_link_recycle();
    host_link_trim(&session->link);
    return result < 0 ? result : (int)next;
}

/* ---- Prepare and code ---- */

int session_choose_runtime(struct session *session, const char *name, struct failure *failure)
{
    const struct runtime_kind *kind = runtime_kind_find(name);

    if (!kind)
        return failure_say(failure, ENOENT, "this image has no runtime '%.32s'", name);
    if (session->is_preloaded && kind != session->kind)
        return failure_say(failure, EINVAL, "another runtime than '%.32s' was preloaded", name);
    session->kind = kind;
    session->runtime = kind->ops;
    return 0;
}

int session_seed(struct session *session, int64_t wall_clock_ns, const uint8_t *entropy,
                 size_t entropy_bytes, struct failure *failure)
{
    int result = agent_set_clock(wall_clock_ns, failure);

    if (result == 0)
        result = agent_add_entropy(entropy, entropy_bytes, failure);
    /* A guest whose boot id cannot be changed is told of at boot, and may live, once. */
    if (result == 0 && !session->has_boot_id && session->boot_id_fd >= 0) {
        result = identity_set_boot_id(session->boot_id_fd, NULL, failure);
        session->has_boot_id = result == 0;
    }
    return result;
}

int session_mount_tmp(struct session *session, uint64_t size_bytes, struct failure *failure)
{
    int result = boot_mount_tmp(size_bytes, session->is_tmp_mounted, failure);

    session->is_tmp_mounted = session->is_tmp_mounted || result == 0;
    return result;
}

static int prepare(struct session *session, const Mayfly__Agent__Prepare *message,
                   struct failure *failure)
{
    int result = session_seed(session, message->wall_clock_ns, message->entropy.data,
                              message->entropy.len, failure);

    if (result == 0)
        result = session_choose_runtime(session, message->runtime, failure);
    if (result == 0 && strlen(message->function_arn) > AGENT_ARN_MAX)
        result =
            failure_say(failure, E2BIG, "the function's ARN is over %d characters", AGENT_ARN_MAX);
    if (result == 0)
        result = environment_fill(&session->environment, message, session->kind, failure);
    if (result == 0)
        result = session_mount_tmp(session, message->tmp_bytes, failure);
    if (result == 0)
        result = task_code_open(&session->code, AGENT_TASK_DIR, failure);
    if (result < 0)
        return result;
    snprintf(session->function_arn, sizeof(session->function_arn), "%s", message->function_arn);
    session->memory_mib = message->memory_mib;
    session->init_timeout_ms = message->init_timeout_ms;
    session->logs.phase_bytes = message->max_log_bytes;
    return 0;
}

/* ---- start ---- */

static int watch_log(struct session *session, int stream, uint32_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = tag};

    return epoll_ctl(session->epoll_fd, EPOLL_CTL_ADD, session->logs.read_fds[stream], &event);
}

int session_spawn(struct session *session, bool is_preload, struct failure *failure)
{
    struct runtime_host host = {session->epoll_fd, TAG_RUNTIME, &body};
    struct spawn_plan plan = {.environment = session->environment.list,
                              .memory_mib = session->memory_mib,
                              .cgroup_fd = session->cgroup.dir_fd};
    int log_fds[LOG_STREAMS];
    int result = log_pump_open(&session->logs, session->logs.phase_bytes, session->null_fd, log_fds,
                               failure);

    if (result < 0)
        return result;
    plan.files[0] = session->null_fd;
    plan.files[1] = log_fds[LOG_STDOUT];
    plan.files[2] = log_fds[LOG_STDERR];
    if (watch_log(session, LOG_STDOUT, TAG_STDOUT) < 0 ||
        watch_log(session, LOG_STDERR, TAG_STDERR) < 0)
        result = failure_set(failure, errno, "watch the function's output");
    if (result == 0)
        result = session->runtime->open(&host, is_preload, &plan, failure);
    if (result == 0) {
        session->oom_kills = function_cgroup_oom_kills(&session->cgroup);
        result = runtime_process_spawn(&plan, &session->pid, failure);
    }
    close(log_fds[LOG_STDOUT]);
    close(log_fds[LOG_STDERR]);
    if (result == 0)
        session->runtime->spawned();
    else
        session->runtime->close();
    return result;
}

/* A function without an executable of its own to start made a mistake, and is told in Lambda's
 * words. */
static void describe_entrypoint(const char *reason, struct ending *ending)
{
    static char json[512];

    ending->outcome = MAYFLY__AGENT__OUTCOME__FUNCTION_ERROR;
    ending->body = (const uint8_t *)json;
    ending->body_bytes = (size_t)snprintf(
        json, sizeof(json), "{\"errorMessage\":\"%s\",\"errorType\":\"Runtime.InvalidEntrypoint\"}",
        reason);
}

/* The function's process: a new one, or the one that waits for it. */
static int launch(struct session *session, struct failure *failure)
{
    /* Looking there costs the loader a hundred system calls, so only where it may find something.
     */
    if (session->runtime != &runtime_python || session->code.has_libraries ||
        access("/opt/lib", F_OK) == 0)
        environment_set_library_path(&session->environment);
    host_link_trim(&session->link);
    function_cgroup_limit(&session->cgroup, session->memory_mib);
    if (!session->is_preloaded || !session->runtime->load)
        return session_spawn(session, false, failure);
    session->is_preloaded = false;
    if (session->pid == 0)
        return failure_say(failure, ESRCH, "the preloaded runtime has ended");
    return session->runtime->load(&session->environment, failure);
}

static int start(struct session *session)
{
    struct failure failure = session->setup_failure;
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR};
    int result = -EINVAL;

    session_begin_phase(session, session->init_timeout_ms, INIT_TIMEOUT_MS);
    session->is_restoration_due = false; /* the environment is a new one, and so is every seed */
    log_pump_begin_phase(&session->logs);
    if (failure.text[0] == '\0')
        result = launch(session, &failure);
    task_code_close(&session->code);
    if (result == 0)
        return STATE_INIT;
    if (session->runtime == &runtime_api && result == -ENOENT)
        describe_entrypoint(
            "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]", &ending);
    else if (session->runtime == &runtime_api && (result == -EACCES || result == -ENOEXEC))
        describe_entrypoint(failure.text, &ending);
    else if (result == -ENOENT)
        failure_say(&failure, ENOENT, "the image lacks its runtime's program");
    if (session->pid > 0)
        session_end_runtime(session);
    snprintf(ending.message, sizeof(ending.message), "%.255s", failure.text);
    result = send_init_result(session, &ending);
    return result < 0 ? result : (int)STATE_DEAD;
}

/* ---- Invoke ---- */

static bool request_id_valid(const char *id)
{
    size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

    return len > 0 && len <= AGENT_REQUEST_ID_MAX && id[len] == '\0';
}

static int invoke(struct session *session, const Mayfly__Agent__Invoke *message)
{
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR};
    struct failure failure = {"the request id is not 1 to 128 letters, digits or -_."};
    struct invocation *invocation = &session->invocation;
    int result;

    session_begin_phase(session, message->timeout_ms, INVOKE_TIMEOUT_MS);
    session->is_streaming = false;
    session->streamed_bytes = 0;
    log_pump_begin_phase(&session->logs);
    invocation->request_id = message->request_id;
    invocation->arn = message->invoked_arn[0] ? message->invoked_arn : session->function_arn;
    invocation->trace_id = message->trace_id;
    invocation->client_context = message->client_context;
    invocation->identity = message->identity;
    invocation->event = message->event.data;
    invocation->event_bytes = message->event.len;
    invocation->restoration = session->is_restoration_due ? &session->restoration : NULL;
    if (request_id_valid(message->request_id) &&
        session->runtime->invoke(invocation, &failure) == 0) {
        session->is_restoration_due = false;
        return STATE_BUSY;
    }
    snprintf(ending.message, sizeof(ending.message), "%.255s", failure.text);
    result = send_invoke_result(
        session, request_id_valid(message->request_id) ? message->request_id : "", &ending);
    return result < 0 ? result : (int)STATE_IDLE;
}

static int refuse(struct session *session, const Mayfly__Agent__Invoke *message)
{
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__EXITED};

    session->phase_start_ns = agent_monotonic_ns();
    if (session->epitaph.text[0])
        ending.outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR;
    snprintf(ending.message, sizeof(ending.message), "%.255s",
             session->epitaph.text[0] ? session->epitaph.text : "there is no runtime any more");
    return send_invoke_result(
        session, request_id_valid(message->request_id) ? message->request_id : "", &ending);
}

/* ---- the end ---- */

static void stop(struct session *session, const Mayfly__Agent__Shutdown *message)
{
    if (session->pid <= 0 || message->grace_ms == 0)
        agent_power_off();
    kill(session->pid, SIGTERM);
    session_begin_phase(session, message->grace_ms, message->grace_ms);
}

int session_act(struct session *session, enum session_action action, enum session_state next,
                const struct session_input *input)
{
    int result;

    switch (action) {
    case ACTION_IGNORE:
        break;
    case ACTION_VIOLATION:
        agent_die("the host sent message %d in state %d", (int)input->event, (int)session->state);
    case ACTION_POWER_OFF:
        agent_power_off();
    case ACTION_PREPARE:
        if (prepare(session, input->message->prepare, &session->setup_failure) == 0)
            session->setup_failure.text[0] = '\0';
        break;
    case ACTION_STORE_CODE:
        if (session->setup_failure.text[0] == '\0')
            task_code_store(&session->code, input->message->code_entry, &session->setup_failure);
        break;
    case ACTION_START:
        return start(session);
    case ACTION_INIT_DONE:
        return init_done(session, next, input);
    case ACTION_INVOKE:
        return invoke(session, input->message->invoke);
    case ACTION_PART:
        return forward_part(session, next, input);
    case ACTION_REPLY:
    case ACTION_REPLY_LAST:
        return reply(session, next, input);
    case ACTION_REFUSE:
        result = refuse(session, input->message->invoke);
        return result < 0 ? result : (int)next;
    case ACTION_PRELOAD:
        return session_preload(session, next, input->message->preload);
    case ACTION_PRELOAD_DONE:
        return session_preload_done(session, next, input);
    case ACTION_REST:
    case ACTION_FREEZE:
        return session_freeze(session, next, input->message->freeze);
    case ACTION_FROZEN:
        return session_frozen(session, next, input);
    case ACTION_RESTORE:
        return session_restore(session, next, input->message->restored);
    case ACTION_AWAKE:
        return session_awake(session, next, input);
    case ACTION_BURY:
        session_end_runtime(session);
        break;
    case ACTION_STOP:
        stop(session, input->message->shutdown);
        break;
    }
    return (int)next;
}
