/*
 * The actions around snapshots: Preload, Freeze, Restored. Process: mayfly-agent. Host messages are
 * trusted to be meant well, not to be right.
 *
 * A frozen agent is one that stands in stand_still(); it continues there, as every clone of the
 * snapshot does. So nothing here knows whether a snapshot was taken. Invariants: once Frozen is
 * sent nothing is under way and no timer is set; between Restored and the function's next
 * instruction lies all that makes this clone differ from its siblings.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest-agent/clock_entropy.h"
#include "guest-agent/prefault.h"
#include "guest-agent/session_internal.h"

enum {
    PRELOAD_TIMEOUT_MS = 60000, /* where the message names none */
    HOOKS_TIMEOUT_MS = 10000    /* likewise; as in Lambda */
};

/* A directory that the loader of a preloaded runtime has to have seen, see session_preload(). */
#define LIBRARY_DIR AGENT_TASK_DIR "/lib"

static void fill_bytes(ProtobufCBinaryData *field, const struct ending *ending)
{
    field->data = (uint8_t *)(uintptr_t)ending->body; /* packing only reads it */
    field->len = ending->body_bytes;
}

static void end_badly(struct ending *ending, const struct failure *failure)
{
    ending->outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR;
    ending->body_bytes = 0;
    snprintf(ending->message, sizeof(ending->message), "%.255s", failure->text);
}

/* The runtime has said how its part went, or has ended: @send tells the host. */
static int end_phase(struct session *session, enum session_state next,
                     const struct session_input *input,
                     int (*send)(struct session *session, struct ending *ending))
{
    struct ending ending;
    int result = 0;

    session_describe(session, input, &ending);
    if (next == STATE_DEAD)
        result = session_bury_runtime(session);
    if (result == 0)
        result = send(session, &ending);
    return result < 0 ? result : (int)next;
}

/* ---- Preload ---- */

static int send_preloaded(struct session *session, struct ending *ending)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__Preloaded result;
    int sent;

    mayfly__agent__agent_message__init(&message);
    mayfly__agent__preloaded__init(&result);
    session->deadline_ns = 0;
    result.outcome = ending->outcome;
    result.message = ending->message;
    result.duration_us = session_phase_us(session);
    result.memory_peak_bytes = function_cgroup_peak(&session->cgroup);
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_PRELOADED;
    message.preloaded = &result;
    sent = log_pump_end_phase(&session->logs, &session->link);
    return sent < 0 ? sent : host_link_send(&session->link, &message);
}

static int begin_preload(struct session *session, const Mayfly__Agent__Preload *message,
                         struct failure *failure)
{
    int result = session_seed(session, message->wall_clock_ns, message->entropy.data,
                              message->entropy.len, failure);

    if (result == 0)
        result = session_choose_runtime(session, message->runtime, failure);
    if (result == 0)
        result = session_mount_tmp(session, message->tmp_bytes, failure);
    if (result < 0)
        return result;
    session->is_preloaded = true;
    session->memory_mib = message->memory_mib;
    session->logs.phase_bytes = message->max_log_bytes;
    function_cgroup_limit(&session->cgroup, message->memory_mib);
    if (!session->runtime->load)
        return 0;
    environment_fill_preload(&session->environment, session->kind);
    /* The loader remembers which of its directories are missing, and this one is still to come. */
    (void)mkdir(LIBRARY_DIR, 0755);
    result = session_spawn(session, true, failure);
    if (result == -ENOENT)
        return failure_say(failure, ENOENT, "the image lacks its runtime's program");
    return result;
}

int session_preload(struct session *session, enum session_state next,
                    const Mayfly__Agent__Preload *message)
{
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__OK};
    struct failure failure;
    int result;

    session_begin_phase(session, message->timeout_ms, PRELOAD_TIMEOUT_MS);
    result = begin_preload(session, message, &failure);
    if (result == 0 && session->runtime->load)
        return (int)next;
    next = result < 0 ? STATE_DEAD : STATE_PRELOADED;
    if (result < 0)
        end_badly(&ending, &failure);
    result = send_preloaded(session, &ending);
    return result < 0 ? result : (int)next;
}

int session_preload_done(struct session *session, enum session_state next,
                         const struct session_input *input)
{
    (void)rmdir(LIBRARY_DIR);
    return end_phase(session, next, input, send_preloaded);
}

/* ---- Freeze ---- */

/* What a clone will run and write to is touched now: a page that never was costs a fault. */
static void touch(struct session *session)
{
    Mayfly__Agent__Restored example;
    struct failure failure;
    static char text[] = "0";

    /* Once: what a function brings along beyond its runtime, its init phase has mostly run. */
    if (session->state != STATE_IDLE) {
        prefault_code(getpid());
        if (session->pid > 0)
            prefault_code(session->pid);
    }
    session_touch_answer();
    if (session->is_restoration_due)
        return;
    mayfly__agent__restored__init(&example);
    example.log_stream = example.instance_id = text;
    (void)environment_fill_changes(&session->restoration.changes, &example, &failure);
}

/*
 * The freeze point is the kernel's answer to "suspend to disk". First its last work is done, the
 * sent message put away and the like: frozen before, every clone would have to do it.
 */
static void stand_still(const struct session *session)
{
    const struct timespec settle = {.tv_sec = session->settle_ms / 1000,
                                    .tv_nsec = (long)(session->settle_ms % 1000) * 1000000};

    if (getpid() != 1) /* a unit test's process is not a guest to be suspended */
        return;
    nanosleep(&settle, NULL);
    if (reboot((int)RB_SW_SUSPEND) < 0)
        agent_say("no freeze point in this kernel: %s", strerrordesc_np(errno));
}

static int send_frozen(struct session *session, struct ending *ending)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__Frozen result;
    int sent;

    mayfly__agent__agent_message__init(&message);
    mayfly__agent__frozen__init(&result);
    session->deadline_ns = 0;
    host_link_recycle();
    host_link_trim(&session->link);
    if (ending->outcome == MAYFLY__AGENT__OUTCOME__OK && session->link.start != session->link.end) {
        ending->outcome = MAYFLY__AGENT__OUTCOME__AGENT_ERROR;
        snprintf(ending->message, sizeof(ending->message),
                 "a message has begun to come after Freeze");
    }
    result.outcome = ending->outcome;
    result.message = ending->message;
    fill_bytes(&result.error_json, ending);
    result.duration_us = session_phase_us(session);
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_FROZEN;
    message.frozen = &result;
    sent = log_pump_end_phase(&session->logs, &session->link);
    if (sent == 0)
        sent = host_link_send(&session->link, &message);
    if (sent == 0)
        sent = host_link_flush(&session->link);
    if (sent == 0 && ending->outcome == MAYFLY__AGENT__OUTCOME__OK)
        stand_still(session);
    return sent;
}

int session_freeze(struct session *session, enum session_state next,
                   const Mayfly__Agent__Freeze *message)
{
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__OK};
    struct failure failure;
    int result = 1;

    touch(session); /* takes its time, which is not the hooks' */
    session_begin_phase(session, message->timeout_ms, HOOKS_TIMEOUT_MS);
    log_pump_begin_phase(&session->logs);
    session->settle_ms = message->settle_ms;
    if (session->state == STATE_DEAD) {
        ending.outcome = MAYFLY__AGENT__OUTCOME__EXITED;
        snprintf(ending.message, sizeof(ending.message), "there is no runtime any more");
    } else if (next == STATE_FREEZING) {
        result = session->runtime->freeze(&failure);
        if (result == 0)
            return (int)next;
        next = STATE_IDLE;
    }
    if (result < 0) {
        end_badly(&ending, &failure);
        next = STATE_DEAD;
        session_end_runtime(session);
    }
    result = send_frozen(session, &ending);
    return result < 0 ? result : (int)next;
}

int session_frozen(struct session *session, enum session_state next,
                   const struct session_input *input)
{
    return end_phase(session, next, input, send_frozen);
}

/* ---- Restored ---- */

/* The kernel's part of being another guest than one's siblings. */
static int renew_kernel(struct session *session, const Mayfly__Agent__Restored *message,
                        struct failure *failure)
{
    const ProtobufCBinaryData *entropy = &message->entropy;
    struct restoration *restoration = &session->restoration;
    size_t kernels = entropy->len;
    int result;

    /* What the runtime gets, the function can read: none of it may be in the kernel's seed. */
    restoration->has_seed = kernels >= 2 * RUNTIME_SEED_BYTES;
    if (restoration->has_seed) {
        kernels -= RUNTIME_SEED_BYTES;
        memcpy(restoration->seed, entropy->data + kernels, RUNTIME_SEED_BYTES);
    }
    /* The clock first: setting it feeds the random generator as well, which after its reseed would
     * cost another round of the hash. */
    result = agent_set_clock(message->wall_clock_ns, failure);
    if (result == 0)
        result = agent_add_entropy(entropy->data, kernels, failure);
    if (result == 0)
        result = identity_set_hostname(message->hostname, failure);
    if (result == 0 && message->boot_id.len > 0) {
        if (message->boot_id.len != IDENTITY_BOOT_ID_BYTES)
            return failure_say(failure, EINVAL, "a boot id of %zu bytes", message->boot_id.len);
        result = identity_set_boot_id(session->boot_id_fd, message->boot_id.data, failure);
        session->has_boot_id = session->has_boot_id || result == 0;
    }
    return result;
}

static int send_restore_result(struct session *session, struct ending *ending)
{
    Mayfly__Agent__AgentMessage message;
    Mayfly__Agent__RestoreResult result;
    int sent;

    mayfly__agent__agent_message__init(&message);
    mayfly__agent__restore_result__init(&result);
    session->deadline_ns = 0;
    result.outcome = ending->outcome;
    result.message = ending->message;
    fill_bytes(&result.error_json, ending);
    result.duration_us = session_phase_us(session);
    message.body_case = MAYFLY__AGENT__AGENT_MESSAGE__BODY_RESTORE_RESULT;
    message.restore_result = &result;
    sent = log_pump_end_phase(&session->logs, &session->link);
    return sent < 0 ? sent : host_link_send(&session->link, &message);
}

/* A clone that could not be made different must not run. */
static int stay_dead(struct session *session, const Mayfly__Agent__Restored *message,
                     const struct failure *failure)
{
    struct ending ending = {0};
    int result = 0;

    end_badly(&ending, failure);
    if (session->state != STATE_IDLE && !message->wants_result)
        agent_die("not restored: %s", failure->text); /* there will be no Invoke to answer */
    session->epitaph = *failure;
    session->deadline_ns = 0;
    if (session->pid > 0)
        session_end_runtime(session);
    if (message->wants_result)
        result = send_restore_result(session, &ending);
    return result < 0 ? result : (int)STATE_DEAD;
}

/*
 * The runtime has a part in it only once it has a function: before, Prepare defines its environment
 * and makes it seed everything anew.
 */
static int renew_runtime(struct session *session, const Mayfly__Agent__Restored *message,
                         struct failure *failure)
{
    session->is_restoration_due = false;
    if (session->state != STATE_IDLE)
        return 1;
    if (message->wants_result)
        return session->runtime->restore(&session->restoration, failure);
    session->is_restoration_due = true;
    return 1;
}

int session_restore(struct session *session, enum session_state next,
                    const Mayfly__Agent__Restored *message)
{
    struct ending ending = {.outcome = MAYFLY__AGENT__OUTCOME__OK};
    struct failure failure;
    int result;

    session_begin_phase(session, message->timeout_ms, HOOKS_TIMEOUT_MS);
    log_pump_begin_phase(&session->logs);
    result = renew_kernel(session, message, &failure);
    if (result == 0)
        result = environment_fill_changes(&session->restoration.changes, message, &failure);
    if (result == 0)
        result = renew_runtime(session, message, &failure);
    if (result < 0)
        return stay_dead(session, message, &failure);
    if (result == 0)
        return STATE_RESTORING;
    session->deadline_ns = 0;
    if (session->state == STATE_DEAD)
        ending.outcome = MAYFLY__AGENT__OUTCOME__EXITED;
    if (message->wants_result)
        result = send_restore_result(session, &ending);
    return result < 0 ? result : (int)next;
}

int session_awake(struct session *session, enum session_state next,
                  const struct session_input *input)
{
    return end_phase(session, next, input, send_restore_result);
}
