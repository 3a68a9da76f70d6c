/* What the two halves of the session share: session.c (events) and session_actions.c (actions). */
#ifndef MAYFLY_AGENT_SESSION_INTERNAL_H
#define MAYFLY_AGENT_SESSION_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "guest-agent/code.h"
#include "guest-agent/environment.h"
#include "guest-agent/function_cgroup.h"
#include "guest-agent/host_link.h"
#include "guest-agent/log_pump.h"
#include "guest-agent/runtime.h"
#include "guest-agent/session_table.h"

/* epoll tags, in the order in which they are served: see session.c. */
enum { TAG_STDOUT, TAG_STDERR, TAG_RUNTIME, TAG_SIGNAL = TAG_RUNTIME + RUNTIME_TAGS, TAG_HOST };

struct session {
    enum session_state state;
    struct host_link link;
    int epoll_fd, signal_fd, null_fd; /* owned */
    bool has_python;                  /* the image has that runtime */

    struct environment environment;
    struct task_code code;
    struct log_pump logs;
    struct function_cgroup cgroup;
    struct failure setup_failure; /* what went wrong before CodeEnd; "" is nothing */
    char function_arn[AGENT_ARN_MAX + 1];
    uint32_t memory_mib, init_timeout_ms;

    const struct runtime_ops *runtime; /* set by Prepare */
    pid_t pid;                         /* of the runtime; 0: not running, or reaped */
    int exit_status;                   /* as of waitpid(2), once pid is 0 again */
    uint64_t oom_kills;                /* when the runtime was started */

    struct invocation invocation;
    uint64_t phase_start_ns; /* monotonic */
    uint64_t timeout_ms;     /* of the phase */
    uint64_t deadline_ns;    /* monotonic; 0: none */
};

/* What an event brings along; only what belongs to it is set. */
struct session_input {
    enum session_event event;
    const Mayfly__Agent__HostMessage *message;
    struct runtime_answer answer;
};

/*
 * session_act - carry out @action. Returns the state that follows: @next, or another one when the
 * action failed in a way that the host has been told of. -errno if the host is gone.
 */
int session_act(struct session *session, enum session_action action, enum session_state next,
                const struct session_input *input);

#endif
