/* The agent's life as states × events: which action each pair calls for, and the state after it. */
#ifndef MAYFLY_AGENT_SESSION_TABLE_H
#define MAYFLY_AGENT_SESSION_TABLE_H

enum session_state {
    STATE_FRESH,      /* Hello is sent; nothing else has happened */
    STATE_PRELOADING, /* Preload has come, the runtime starts without a function */
    STATE_PRELOADED,  /* and waits for one */
    STATE_LOADING,    /* Prepare has come, code is coming */
    STATE_INIT,       /* the runtime runs and is not ready yet */
    STATE_IDLE,       /* ready for an event */
    STATE_BUSY,       /* an event is with the runtime */
    STATE_FREEZING,   /* before-snapshot hooks run */
    STATE_RESTORING,  /* after-restore hooks run, without an event */
    STATE_DEAD,       /* the runtime is gone, or never came; the host will replace the instance */
    STATE_STOPPING,   /* Shutdown has come; the runtime may still tidy up */
    SESSION_STATES
};

enum session_event {
    /* from the host */
    EVENT_PRELOAD,
    EVENT_PREPARE,
    EVENT_CODE,
    EVENT_CODE_END,
    EVENT_INVOKE,
    EVENT_FREEZE,
    EVENT_RESTORED,
    EVENT_SHUTDOWN,
    EVENT_HOST_GONE,
    /* from the runtime */
    EVENT_READY,
    EVENT_INIT_ERROR,
    EVENT_RESULT,
    EVENT_PART,
    EVENT_ERROR,
    EVENT_TOO_LARGE,
    EVENT_PRELOADED,
    EVENT_AT_REST,
    EVENT_FREEZE_ERROR,
    EVENT_AWAKE,
    EVENT_RESTORE_ERROR,
    EVENT_LAST_ERROR,
    EVENT_BROKEN,
    EVENT_EXIT,
    /* from the clock */
    EVENT_DEADLINE,
    SESSION_EVENTS
};

enum session_action {
    ACTION_IGNORE,
    ACTION_VIOLATION, /* the host does not keep to the protocol: power off, saying so */
    ACTION_POWER_OFF,
    ACTION_PREPARE,
    ACTION_STORE_CODE,
    ACTION_START,
    ACTION_INIT_DONE, /* InitResult as the event says; anything but EVENT_READY ends the runtime */
    ACTION_INVOKE,
    ACTION_PART,       /* a piece of the response goes to the host */
    ACTION_REPLY,      /* InvokeResult as the event says; the runtime lives on */
    ACTION_REPLY_LAST, /* the same, and the runtime is ended */
    ACTION_REFUSE,     /* InvokeResult EXITED: there is no runtime any more */
    ACTION_PRELOAD,
    ACTION_PRELOAD_DONE, /* Preloaded as the event says; anything but EVENT_PRELOADED ends it */
    ACTION_REST,         /* Frozen: the runtime has no part in it */
    ACTION_FREEZE,
    ACTION_FROZEN,  /* Frozen as the event says; anything but EVENT_AT_REST ends the runtime */
    ACTION_RESTORE, /* be somebody; the runtime's part comes with the next event, or now */
    ACTION_AWAKE,   /* RestoreResult as the event says; anything but EVENT_AWAKE ends the runtime */
    ACTION_BURY,    /* the runtime ended, or has to, while nothing was asked of it */
    ACTION_STOP
};

struct session_step {
    enum session_action action;
    enum session_state next; /* if the action succeeds; it may lead to another one if it does not */
};

/* session_table_step - a pure function; every pair has an entry. */
struct session_step session_table_step(enum session_state state, enum session_event event);

#endif
