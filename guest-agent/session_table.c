/* The table of session_table.h. Process: mayfly-agent; no state, no side effects. */
#include "guest-agent/session_table.h"

#include <assert.h>

/* What the host may not say in most states, and what it always may. */
#define HOST_EVENTS(self)                                                                          \
    [EVENT_PREPARE] = {ACTION_VIOLATION, self}, [EVENT_CODE] = {ACTION_VIOLATION, self},           \
    [EVENT_CODE_END] = {ACTION_VIOLATION, self}, HOST_ALWAYS(self)
#define HOST_ALWAYS(self)                                                                          \
    [EVENT_HOST_GONE] = {ACTION_POWER_OFF, self}, [EVENT_SHUTDOWN] = {ACTION_STOP, STATE_STOPPING}

/* A pair that is not listed is ignored: the state stays as it is. */
static const struct session_step table[SESSION_STATES][SESSION_EVENTS] = {
    [STATE_FRESH] = {HOST_ALWAYS(STATE_FRESH), [EVENT_PREPARE] = {ACTION_PREPARE, STATE_LOADING},
                     [EVENT_CODE] = {ACTION_VIOLATION, STATE_FRESH},
                     [EVENT_CODE_END] = {ACTION_VIOLATION, STATE_FRESH},
                     [EVENT_INVOKE] = {ACTION_VIOLATION, STATE_FRESH}},
    [STATE_LOADING] =
        {HOST_ALWAYS(STATE_LOADING), [EVENT_PREPARE] = {ACTION_VIOLATION, STATE_LOADING},
         [EVENT_CODE] = {ACTION_STORE_CODE, STATE_LOADING},
         [EVENT_CODE_END] = {ACTION_START, STATE_INIT},
         [EVENT_INVOKE] = {ACTION_VIOLATION, STATE_LOADING}},
    [STATE_INIT] = {HOST_EVENTS(STATE_INIT), [EVENT_INVOKE] = {ACTION_VIOLATION, STATE_INIT},
                    [EVENT_READY] = {ACTION_INIT_DONE, STATE_IDLE},
                    [EVENT_INIT_ERROR] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_RESULT] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_ERROR] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_TOO_LARGE] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_BROKEN] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_EXIT] = {ACTION_INIT_DONE, STATE_DEAD},
                    [EVENT_DEADLINE] = {ACTION_INIT_DONE, STATE_DEAD}},
    [STATE_IDLE] =
        {HOST_EVENTS(STATE_IDLE), [EVENT_INVOKE] = {ACTION_INVOKE, STATE_BUSY},
         [EVENT_READY] = {ACTION_BURY, STATE_DEAD}, [EVENT_INIT_ERROR] = {ACTION_BURY, STATE_DEAD},
         [EVENT_RESULT] = {ACTION_BURY, STATE_DEAD}, [EVENT_ERROR] = {ACTION_BURY, STATE_DEAD},
         [EVENT_TOO_LARGE] = {ACTION_BURY, STATE_DEAD}, [EVENT_BROKEN] = {ACTION_BURY, STATE_DEAD},
         [EVENT_EXIT] = {ACTION_BURY, STATE_DEAD}},
    [STATE_BUSY] =
        {HOST_EVENTS(STATE_BUSY), [EVENT_INVOKE] = {ACTION_VIOLATION, STATE_BUSY},
         [EVENT_READY] = {ACTION_REPLY_LAST, STATE_DEAD},
         [EVENT_INIT_ERROR] = {ACTION_REPLY_LAST, STATE_DEAD},
         [EVENT_RESULT] = {ACTION_REPLY, STATE_IDLE}, [EVENT_ERROR] = {ACTION_REPLY, STATE_IDLE},
         [EVENT_TOO_LARGE] = {ACTION_REPLY, STATE_IDLE},
         [EVENT_BROKEN] = {ACTION_REPLY_LAST, STATE_DEAD},
         [EVENT_EXIT] = {ACTION_REPLY_LAST, STATE_DEAD},
         [EVENT_DEADLINE] = {ACTION_REPLY_LAST, STATE_DEAD}},
    [STATE_DEAD] = {HOST_EVENTS(STATE_DEAD), [EVENT_INVOKE] = {ACTION_REFUSE, STATE_DEAD}},
    /* Nothing that was on its way matters any more; the runtime's end is what is waited for. */
    [STATE_STOPPING] = {[EVENT_HOST_GONE] = {ACTION_POWER_OFF, STATE_STOPPING},
                        [EVENT_EXIT] = {ACTION_POWER_OFF, STATE_STOPPING},
                        [EVENT_DEADLINE] = {ACTION_POWER_OFF, STATE_STOPPING}},
};

struct session_step session_table_step(enum session_state state, enum session_event event)
{
    struct session_step step;

    assert(state < SESSION_STATES && event < SESSION_EVENTS);
    step = table[state][event];
    if (step.action == ACTION_IGNORE)
        step.next = state;
    return step;
}
