/*
 * Events: waiting for them, and finding the action for each. Process: mayfly-agent; its only loop.
 *
 * One small invocation costs seven system calls here: epoll_wait, read (host), write (runtime);
 * epoll_wait, read (runtime), pread (memory.peak), write (host). Deadlines are epoll_wait's
 * timeout.
 *
 * Nothing here blocks SIGPIPE: PID 1 gets no signal that it has no handler for.
 *
 * Invariant: what the function logged before its answer reaches the host before the answer. It
 * needs no extra system call, because whatever was written to a log pipe before the answer is
 * reported ready by the same epoll_wait at the latest, and log pipes are served first in every
 * round.
 */
#include "guest-agent/session.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest-agent/session_internal.h"

enum { EVENTS_MAX = 4 + RUNTIME_TAGS };

static void dispatch(struct session *session, const struct session_input *input)
{
    struct session_step step = session_table_step(session->state, input->event);
    int result = session_act(session, step.action, step.next, input);

    if (result < 0)
        agent_die("the connection to the host is lost: %s", strerrordesc_np(-result));
    session->state = (enum session_state)result;
}

static void dispatch_answer(struct session *session, struct runtime_answer answer)
{
    static const enum session_event events[] = {
        [RUNTIME_READY] = EVENT_READY,         [RUNTIME_INIT_ERROR] = EVENT_INIT_ERROR,
        [RUNTIME_RESULT] = EVENT_RESULT,       [RUNTIME_ERROR] = EVENT_ERROR,
        [RUNTIME_TOO_LARGE] = EVENT_TOO_LARGE, [RUNTIME_PRELOADED] = EVENT_PRELOADED,
        [RUNTIME_AT_REST] = EVENT_AT_REST,     [RUNTIME_FREEZE_ERROR] = EVENT_FREEZE_ERROR,
        [RUNTIME_AWAKE] = EVENT_AWAKE,         [RUNTIME_RESTORE_ERROR] = EVENT_RESTORE_ERROR,
        [RUNTIME_PART] = EVENT_PART,           [RUNTIME_LAST_ERROR] = EVENT_LAST_ERROR,
        [RUNTIME_BROKEN] = EVENT_BROKEN};
    struct session_input input = {.answer = answer};

    if (answer.word == RUNTIME_NOTHING)
        return;
    input.event = events[answer.word];
    dispatch(session, &input);
}

static void take_message(struct session *session, const Mayfly__Agent__HostMessage *message)
{
    struct session_input input = {.message = message};

    switch (message->body_case) {
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_PREPARE:
        input.event = EVENT_PREPARE;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_ENTRY:
        input.event = EVENT_CODE;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_CODE_END:
        input.event = EVENT_CODE_END;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_INVOKE:
        input.event = EVENT_INVOKE;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_PRELOAD:
        input.event = EVENT_PRELOAD;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_FREEZE:
        input.event = EVENT_FREEZE;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_RESTORED:
        input.event = EVENT_RESTORED;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY_SHUTDOWN:
        input.event = EVENT_SHUTDOWN;
        break;
    case MAYFLY__AGENT__HOST_MESSAGE__BODY__NOT_SET:
    default:
        return; /* of a later protocol: not for us */
    }
    dispatch(session, &input);
}

static void serve_host(struct session *session)
{
    Mayfly__Agent__HostMessage *message;
    int result = host_link_receive(&session->link);

    if (result < 0) {
        dispatch(session, &(struct session_input){.event = EVENT_HOST_GONE});
        return;
    }
    while ((result = host_link_next(&session->link, &message)) == 1) {
        take_message(session, message);
        /* An event stays where it is until the runtime has answered. */
        if (session->state != STATE_BUSY)
            host_link_recycle();
    }
    if (result < 0)
        agent_die("the host sent what is no message: %s", strerrordesc_np(-result));
}

/* Reap whatever has ended: as PID 1 that includes processes that we never started. */
static void serve_signal(struct session *session)
{
    struct signalfd_siginfo info[4];
    struct runtime_answer answer;
    bool has_ended = false;
    pid_t pid;
    int status;

    (void)!read(session->signal_fd, info, sizeof(info));
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == session->pid) {
            session->pid = 0;
            session->exit_status = status;
            has_ended = true;
        }
    if (!has_ended)
        return;
    do {
        answer = session->runtime->last_words();
        dispatch_answer(session, answer);
        /* A child that has the pipe still may write to it for ever. */
    } while (answer.word == RUNTIME_PART && session->state == STATE_BUSY &&
             agent_monotonic_ns() < session->deadline_ns);
    dispatch(session, &(struct session_input){.event = EVENT_EXIT});
}

static void serve_runtime(struct session *session, uint32_t tag, uint32_t events)
{
    struct runtime_answer answer = session->runtime->on_ready(tag, events);

    dispatch_answer(session, answer);
    while (answer.word == RUNTIME_PART && session->state == STATE_BUSY) {
        answer = session->runtime->on_ready(tag, 0);
        dispatch_answer(session, answer);
    }
}

static void serve(struct session *session, uint32_t tag, uint32_t events)
{
    if (tag == TAG_STDOUT || tag == TAG_STDERR) {
        if (log_pump_read(&session->logs, tag == TAG_STDOUT ? LOG_STDOUT : LOG_STDERR,
                          &session->link) < 0)
            agent_die("the connection to the host is lost while sending logs");
    } else if (tag == TAG_SIGNAL) {
        serve_signal(session);
    } else if (tag == TAG_HOST) {
        serve_host(session);
    } else {
        serve_runtime(session, tag - TAG_RUNTIME, events);
    }
}

/* Tags are numbered in the order in which they must be served. */
static void sort_by_tag(struct epoll_event *events, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && events[j].data.u32 < events[j - 1].data.u32; j--) {
            struct epoll_event swapped = events[j];

            events[j] = events[j - 1];
            events[j - 1] = swapped;
        }
}

/* Milliseconds to the deadline, rounded up; -1 without one. */
static int wait_ms(const struct session *session)
{
    uint64_t now;
    uint64_t left_ms;

    if (session->deadline_ns == 0)
        return -1;
    now = agent_monotonic_ns();
    if (now >= session->deadline_ns)
        return 0;
    left_ms = (session->deadline_ns - now + 999999) / 1000000;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}

static void watch(struct session *session, int fd, uint32_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = tag};

    if (epoll_ctl(session->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        agent_die("watch a file: %s", strerrordesc_np(errno));
}

static void session_init(struct session *session, const struct session_start *start)
{
    sigset_t watched;

    session->link.fd = start->host_fd;
    session->null_fd = start->null_fd;
    session->boot_id_fd = start->boot_id_fd;
    session->code.root_fd = session->code.parent_fd = -1;
    session->logs.read_fds[LOG_STDOUT] = session->logs.read_fds[LOG_STDERR] = -1;
    function_cgroup_create(&session->cgroup);
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &watched, NULL) < 0)
        agent_die("block signals: %s", strerrordesc_np(errno));
    session->signal_fd = signalfd(-1, &watched, SFD_CLOEXEC);
    session->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (session->signal_fd < 0 || session->epoll_fd < 0)
        agent_die("make the event loop: %s", strerrordesc_np(errno));
    watch(session, session->signal_fd, TAG_SIGNAL);
    watch(session, session->link.fd, TAG_HOST);
}

void agent_session_run(const struct session_start *start)
{
    static struct session session;
    struct epoll_event events[EVENTS_MAX];
    const struct runtime_kind *kind = runtime_kind_of_image();

    session_init(&session, start);
    if (host_link_send_hello(&session.link, start->start_tsc, kind ? kind->name : "") < 0)
        agent_die("no room for Hello");
    for (;;) {
        int n = host_link_flush(&session.link);

        if (n < 0)
            agent_die("the connection to the host is lost: %s", strerrordesc_np(-n));
        if (session.runtime)
            session.runtime->settle();
        n = epoll_wait(session.epoll_fd, events, EVENTS_MAX, wait_ms(&session));
        if (n < 0 && errno != EINTR)
            agent_die("wait for events: %s", strerrordesc_np(errno));
        sort_by_tag(events, n);
        for (int i = 0; i < n; i++)
            serve(&session, events[i].data.u32, events[i].events);
        if (session.deadline_ns > 0 && agent_monotonic_ns() >= session.deadline_ns) {
            session.deadline_ns = 0;
            dispatch(&session, &(struct session_input){.event = EVENT_DEADLINE});
        }
    }
}
