/* The table of session_table.h. Process: mayfly-agent; no state, no side effects. */
#include "guest-agent/session_table.h"

#include <assert.h>

/* What the host always may say, and what it may not in most states. */
#define HOST_ALWAYS(self)                                                                          \
    [EVENT_HOST_GONE] = {ACTION_POWER_OFF, self}, [EVENT_SHUTDOWN] = {ACTION_STOP, STATE_STOPPING}
#define NO_CODE(self)                                                                              \
    [EVENT_CODE] = {ACTION_VIOLATION, self}, [EVENT_CODE_END] = {ACTION_VIOLATION, self}
#define NO_SETUP(self)                                                                             \
    HOST_ALWAYS(self), NO_CODE(self), [EVENT_PRELOAD] = {ACTION_VIOLATION, self},                  \
                                      [EVENT_PREPARE] = {ACTION_VIOLATION, self}
#define NO_SNAPSHOT(self)                                                                          \
    [EVENT_FREEZE] = {ACTION_VIOLATION, self}, [EVENT_RESTORED] = {ACTION_VIOLATION, self}
#define NO_INVOKE(self) [EVENT_INVOKE] = {ACTION_VIOLATION, self}
#define NO_REQUEST(self) NO_SETUP(self), NO_SNAPSHOT(self), NO_INVOKE(self)

/* What a runtime says, by what it was asked. Out of turn it is the end of the runtime. */
#define ENDED(action)                                                                              \
    [EVENT_LAST_ERROR] = {action, STATE_DEAD}, [EVENT_BROKEN] = {action, STATE_DEAD},              \
    [EVENT_EXIT] = {action, STATE_DEAD}
#define PRELOAD_WORDS(action) [EVENT_PRELOADED] = {action, STATE_DEAD}
#define INIT_WORDS(action)                                                                         \
    [EVENT_READY] = {action, STATE_DEAD}, [EVENT_INIT_ERROR] = {action, STATE_DEAD}
#define INVOKE_WORDS(action)                                                                       \
    [EVENT_RESULT] = {action, STATE_DEAD}, [EVENT_ERROR] = {action, STATE_DEAD},                   \
    [EVENT_TOO_LARGE] = {action, STATE_DEAD}, [EVENT_PART] = {action, STATE_DEAD}
#define FREEZE_WORDS(action)                                                                       \
    [EVENT_AT_REST] = {action, STATE_DEAD}, [EVENT_FREEZE_ERROR] = {action, STATE_DEAD}
#define RESTORE_WORDS(action)                                                                      \
    [EVENT_AWAKE] = {action, STATE_DEAD}, [EVENT_RESTORE_ERROR] = {action, STATE_DEAD}

/* A pair that is not listed is ignored: the state stays as it is. */
static const struct session_step table[SESSION_STATES][SESSION_EVENTS] = {
    [STATE_FRESH] = {HOST_ALWAYS(STATE_FRESH), NO_CODE(STATE_FRESH),
                     NO_INVOKE(STATE_FRESH), [EVENT_PRELOAD] = {ACTION_PRELOAD, STATE_PRELOADING},
                     [EVENT_PREPARE] = {ACTION_PREPARE, STATE_LOADING},
                     [EVENT_FREEZE] = {ACTION_REST, STATE_FRESH},
                     [EVENT_RESTORED] = {ACTION_RESTORE, STATE_FRESH}},
    [STATE_PRELOADING] =
        {NO_REQUEST(STATE_PRELOADING), [EVENT_PRELOADED] = {ACTION_PRELOAD_DONE, STATE_PRELOADED},
         INIT_WORDS(ACTION_PRELOAD_DONE), INVOKE_WORDS(ACTION_PRELOAD_DONE),
         FREEZE_WORDS(ACTION_PRELOAD_DONE), RESTORE_WORDS(ACTION_PRELOAD_DONE),
         ENDED(ACTION_PRELOAD_DONE), [EVENT_DEADLINE] = {ACTION_PRELOAD_DONE, STATE_DEAD}},
    /* A runtime that ends here or while code comes is missed, and told of, when it is to load it.
     */
    [STATE_PRELOADED] =
        {HOST_ALWAYS(STATE_PRELOADED), NO_CODE(STATE_PRELOADED),
         NO_INVOKE(STATE_PRELOADED), [EVENT_PRELOAD] = {ACTION_VIOLATION, STATE_PRELOADED},
         [EVENT_PREPARE] = {ACTION_PREPARE, STATE_LOADING},
         [EVENT_FREEZE] = {ACTION_REST, STATE_PRELOADED},
         [EVENT_RESTORED] = {ACTION_RESTORE, STATE_PRELOADED}},
    [STATE_LOADING] =
        {HOST_ALWAYS(STATE_LOADING), NO_SNAPSHOT(STATE_LOADING),
         NO_INVOKE(STATE_LOADING), [EVENT_PRELOAD] = {ACTION_VIOLATION, STATE_LOADING},
         [EVENT_PREPARE] = {ACTION_VIOLATION, STATE_LOADING},
         [EVENT_CODE] = {ACTION_STORE_CODE, STATE_LOADING},
         [EVENT_CODE_END] = {ACTION_START, STATE_INIT}},
    [STATE_INIT] = {NO_REQUEST(STATE_INIT), [EVENT_READY] = {ACTION_INIT_DONE, STATE_IDLE},
                    [EVENT_INIT_ERROR] = {ACTION_INIT_DONE, STATE_DEAD},
                    PRELOAD_WORDS(ACTION_INIT_DONE), INVOKE_WORDS(ACTION_INIT_DONE),
                    FREEZE_WORDS(ACTION_INIT_DONE), RESTORE_WORDS(ACTION_INIT_DONE),
                    ENDED(ACTION_INIT_DONE), [EVENT_DEADLINE] = {ACTION_INIT_DONE, STATE_DEAD}},
    [STATE_IDLE] = {NO_SETUP(STATE_IDLE), [EVENT_INVOKE] = {ACTION_INVOKE, STATE_BUSY},
                    [EVENT_FREEZE] = {ACTION_FREEZE, STATE_FREEZING},
                    [EVENT_RESTORED] = {ACTION_RESTORE, STATE_IDLE}, PRELOAD_WORDS(ACTION_BURY),
                    INIT_WORDS(ACTION_BURY), INVOKE_WORDS(ACTION_BURY), FREEZE_WORDS(ACTION_BURY),
                    RESTORE_WORDS(ACTION_BURY), ENDED(ACTION_BURY)},
    [STATE_BUSY] =
        {NO_REQUEST(STATE_BUSY), [EVENT_PART] = {ACTION_PART, STATE_BUSY},
         [EVENT_RESULT] = {ACTION_REPLY, STATE_IDLE}, [EVENT_ERROR] = {ACTION_REPLY, STATE_IDLE},
         [EVENT_TOO_LARGE] = {ACTION_REPLY, STATE_IDLE}, PRELOAD_WORDS(ACTION_REPLY_LAST),
         INIT_WORDS(ACTION_REPLY_LAST), FREEZE_WORDS(ACTION_REPLY_LAST),
         RESTORE_WORDS(ACTION_REPLY_LAST),
         ENDED(ACTION_REPLY_LAST), [EVENT_DEADLINE] = {ACTION_REPLY_LAST, STATE_DEAD}},
    [STATE_FREEZING] = {NO_REQUEST(STATE_FREEZING), [EVENT_AT_REST] = {ACTION_FROZEN, STATE_IDLE},
                        [EVENT_FREEZE_ERROR] = {ACTION_FROZEN, STATE_DEAD},
                        PRELOAD_WORDS(ACTION_FROZEN), INIT_WORDS(ACTION_FROZEN),
                        INVOKE_WORDS(ACTION_FROZEN), RESTORE_WORDS(ACTION_FROZEN),
                        ENDED(ACTION_FROZEN), [EVENT_DEADLINE] = {ACTION_FROZEN, STATE_DEAD}},
    [STATE_RESTORING] = {NO_REQUEST(STATE_RESTORING), [EVENT_AWAKE] = {ACTION_AWAKE, STATE_IDLE},
                         [EVENT_RESTORE_ERROR] = {ACTION_AWAKE, STATE_DEAD},
                         PRELOAD_WORDS(ACTION_AWAKE), INIT_WORDS(ACTION_AWAKE),
                         INVOKE_WORDS(ACTION_AWAKE), FREEZE_WORDS(ACTION_AWAKE),
                         ENDED(ACTION_AWAKE), [EVENT_DEADLINE] = {ACTION_AWAKE, STATE_DEAD}},
    [STATE_DEAD] = {NO_SETUP(STATE_DEAD), [EVENT_INVOKE] = {ACTION_REFUSE, STATE_DEAD},
                    [EVENT_FREEZE] = {ACTION_REST, STATE_DEAD},
                    [EVENT_RESTORED] = {ACTION_RESTORE, STATE_DEAD}},
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
