/*
 * A runtime, as the session sees it: something that is started once, says that it is ready, is
 * given one event at a time and answers. Two implementations: runtime_pipe.c speaks the pipe
 * protocol of runtimes/README.md with an interpreter, runtime_api.c serves Lambda's Runtime API
 * over HTTP.
 */
#ifndef MAYFLY_AGENT_RUNTIME_H
#define MAYFLY_AGENT_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "guest-agent/agent.h"
#include "guest-agent/environment.h"
#include "guest-agent/reserve.h"
#include "guest-agent/runtime_process.h"

/* What a runtime said. */
enum runtime_word {
    RUNTIME_NOTHING,
    RUNTIME_READY,         /* the init phase went well */
    RUNTIME_INIT_ERROR,    /* body: the error object */
    RUNTIME_RESULT,        /* body: the handler's response, or the rest of it if it is streamed */
    RUNTIME_PART,          /* body: the next piece of a streamed response */
    RUNTIME_ERROR,         /* body: the error object */
    RUNTIME_TOO_LARGE,     /* the response was over AGENT_RESPONSE_MAX; no body */
    RUNTIME_PRELOADED,     /* it waits for load() */
    RUNTIME_AT_REST,       /* before-snapshot hooks have run */
    RUNTIME_FREEZE_ERROR,  /* one failed; body: the error object */
    RUNTIME_AWAKE,         /* after-restore hooks have run */
    RUNTIME_RESTORE_ERROR, /* one failed; body: the error object */
    RUNTIME_LAST_ERROR,    /* as RUNTIME_ERROR or RUNTIME_INIT_ERROR, and it ends by that */
    RUNTIME_BROKEN         /* it does not keep to the protocol: it must be killed */
};

struct runtime_answer {
    enum runtime_word word;
    const uint8_t *body; /* borrowed until the next call */
    size_t body_bytes;
    const char *content_type; /* likewise; not NULL: here a streamed response begins */
};

enum { RUNTIME_SEED_BYTES = 32 };

/* What makes a runtime of one clone another than that of its siblings. */
struct restoration {
    struct environment changes; /* of the function's environment */
    uint8_t seed[RUNTIME_SEED_BYTES];
    bool has_seed; /* if not, the runtime asks the kernel */
};

/* One event on its way. All pointers are borrowed until the answer, or the runtime's end. */
struct invocation {
    const char *request_id, *arn, *trace_id, *client_context, *identity;
    const uint8_t *event;
    size_t event_bytes;
    uint64_t deadline_unix_ms;
    const struct restoration *restoration; /* to be done before the event; NULL: nothing */
};

enum { RUNTIME_TAGS = 16 };

/* What the session lends to a runtime. */
struct runtime_host {
    int epoll_fd; /* a runtime watches its fds with data.u32 = first_tag + [0, RUNTIME_TAGS) */
    uint32_t first_tag;
    struct reserve *body; /* AGENT_RESPONSE_MAX and some: where an answer's body is put */
};

struct runtime_ops {
    /*
     * open - make the pipes or sockets, and say in *plan what to execute (programs, arguments, and
     * the files from fd 3 on, which stay owned by the runtime). @is_preload: it shall wait for
     * load() once it is up; only for runtimes that have one. Returns 0 or -errno.
     */
    int (*open)(const struct runtime_host *host, bool is_preload, struct spawn_plan *plan,
                struct failure *failure);
    /* spawned - the process has its files: close the copies. */
    void (*spawned)(void);
    /* load - NULL: a process of this runtime cannot be started before its code is there. Else: be
     * the function of @environment, borrowed until the runtime is ready. Returns 0 or -errno. */
    int (*load)(const struct environment *environment, struct failure *failure);
    /* invoke - send an event, or keep it until the runtime asks. Returns 0 or -errno. */
    int (*invoke)(const struct invocation *invocation, struct failure *failure);
    /* freeze - come to rest. Returns 1: it is; 0: it will say so; -errno. */
    int (*freeze)(struct failure *failure);
    /* restore - do what @restoration says, without an event; borrowed until it is done.
     * Returns 1: nothing had to be done; 0: it will say when it has; -errno. */
    int (*restore)(const struct restoration *restoration, struct failure *failure);
    /* on_ready - the fd of first_tag + @tag has @events. Never waits. After a RUNTIME_PART there
     * may be more that has been read: ask again, with no events. */
    struct runtime_answer (*on_ready)(uint32_t tag, uint32_t events);
    /* settle - the host has the answer now: what remains to be told to the runtime? */
    void (*settle)(void);
    /* last_words - the process has ended: is there an answer that was not read yet? */
    struct runtime_answer (*last_words)(void);
    /* close - everything. May be called at any time, also twice. */
    void (*close)(void);
};

extern const struct runtime_ops runtime_python;
extern const struct runtime_ops runtime_nodejs;
extern const struct runtime_ops runtime_api;

/* A runtime by its name. */
struct runtime_kind {
    const char *name; /* as in Prepare */
    const struct runtime_ops *ops;
    const char *dir;       /* LAMBDA_RUNTIME_DIR */
    const char *bootstrap; /* the image has the runtime if this file is there; NULL: always */
    const char *execution_environment; /* AWS_EXECUTION_ENV; NULL: none, it uses the Runtime API */
};

/* runtime_kind_find - the runtime called @name; NULL if this image has none. */
const struct runtime_kind *runtime_kind_find(const char *name);

/* runtime_kind_of_image - what this image has beyond the Runtime API; NULL: nothing. */
const struct runtime_kind *runtime_kind_of_image(void);

#endif
