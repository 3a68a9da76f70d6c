/*
 * What the parts of the session share: session.c (events), session_actions.c (actions) and
 * session_snapshot.c (those that have to do with snapshots).
 */
#ifndef MAYFLY_AGENT_SESSION_INTERNAL_H
#define MAYFLY_AGENT_SESSION_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "guest-agent/code.h"
#include "guest-agent/environment.h"
#include "guest-agent/function_cgroup.h"
#include "guest-agent/host_link.h"
#include "guest-agent/identity.h"
#include "guest-agent/log_pump.h"
#include "guest-agent/runtime.h"
#include "guest-agent/session_table.h"

/* epoll tags, in the order in which they are served: see session.c. */
enum { TAG_STDOUT, TAG_STDERR, TAG_RUNTIME, TAG_SIGNAL = TAG_RUNTIME + RUNTIME_TAGS, TAG_HOST };

struct session {
    enum session_state state;
    struct host_link link;
    int epoll_fd, signal_fd, null_fd; /* owned */

    struct environment environment;
    struct task_code code;
    struct log_pump logs;
    struct function_cgroup cgroup;
    struct failure setup_failure; /* what went wrong before CodeEnd; "" is nothing */
    struct failure epitaph;       /* why there is no runtime any more; "" if the host was told */
    int boot_id_fd;               /* owned; negative: none */
    bool has_boot_id;             /* it was written once */
    bool is_tmp_mounted;
    bool is_preloaded; /* the runtime was started by Preload and has not loaded its function */
    char function_arn[AGENT_ARN_MAX + 1];
    uint32_t memory_mib, init_timeout_ms;

    const struct runtime_kind *kind;   /* set by Prepare */
    const struct runtime_ops *runtime; /* of kind */
    pid_t pid;                         /* of the runtime; 0: not running, or reaped */
    int exit_status;                   /* as of waitpid(2), once pid is 0 again */
    uint64_t oom_kills;                /* when the runtime was started */

    struct invocation invocation;
    struct restoration restoration;
    uint64_t streamed_bytes; /* of the response that is under way */
    bool is_streaming;       /* it has begun, in parts */
    bool is_restoration_due; /* with the next event */
    uint32_t settle_ms;      /* of the Freeze that is under way */
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

enum { ENDING_MESSAGE_BYTES = 256 };

/* How a phase ended, for any result message. */
struct ending {
    Mayfly__Agent__Outcome outcome;
    const uint8_t *body; /* borrowed until it is sent */
    size_t body_bytes;
    char message[ENDING_MESSAGE_BYTES];
};

/*
 * session_act - carry out @action. Returns the state that follows: @next, or another one when the
 * action failed in a way that the host has been told of. -errno if the host is gone.
 */
int session_act(struct session *session, enum session_action action, enum session_state next,
                const struct session_input *input);

/* ---- session_actions.c, for session_snapshot.c ---- */

/* session_begin_phase - something with a deadline begins. @timeout_ms: 0 for the default. */
void session_begin_phase(struct session *session, uint64_t timeout_ms, uint64_t default_ms);
uint64_t session_phase_us(const struct session *session);

/* session_describe - what the event in @input says about how the phase ended. */
void session_describe(struct session *session, const struct session_input *input,
                      struct ending *ending);

/* session_seed - clock, entropy, and a boot id if there is none yet. Returns 0 or -errno. */
int session_seed(struct session *session, int64_t wall_clock_ns, const uint8_t *entropy,
                 size_t entropy_bytes, struct failure *failure);
int session_choose_runtime(struct session *session, const char *name, struct failure *failure);
int session_mount_tmp(struct session *session, uint64_t size_bytes, struct failure *failure);
/* session_spawn - start the chosen runtime with session->environment. Returns 0 or -errno. */
int session_spawn(struct session *session, bool is_preload, struct failure *failure);
/* session_end_runtime - kill all of it; nothing is told to the host. */
void session_end_runtime(struct session *session);
/* session_touch_answer - fault in the first page of the buffer for the runtime's answers. */
void session_touch_answer(void);
/* session_bury_runtime - the same, and what it had logged goes to the host. 0 or -errno. */
int session_bury_runtime(struct session *session);

/* ---- session_snapshot.c; all of them return as session_act() ---- */

int session_preload(struct session *session, enum session_state next,
                    const Mayfly__Agent__Preload *message);
int session_preload_done(struct session *session, enum session_state next,
                         const struct session_input *input);
/* session_freeze - @next is STATE_FREEZING if the runtime has a part in it. */
int session_freeze(struct session *session, enum session_state next,
                   const Mayfly__Agent__Freeze *message);
int session_frozen(struct session *session, enum session_state next,
                   const struct session_input *input);
int session_restore(struct session *session, enum session_state next,
                    const Mayfly__Agent__Restored *message);
int session_awake(struct session *session, enum session_state next,
                  const struct session_input *input);

#endif
