/* The agent's state table: the ways that must exist, and what holds for every state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest-agent/session_table.h"

static enum session_state walk(enum session_state state, enum session_event event,
                               enum session_action expected)
{
    struct session_step step = session_table_step(state, event);

    assert_int_equal(step.action, expected);
    return step.next;
}

static void good_life(void **state)
{
    enum session_state at = STATE_FRESH;

    (void)state;
    at = walk(at, EVENT_PREPARE, ACTION_PREPARE);
    at = walk(at, EVENT_CODE, ACTION_STORE_CODE);
    at = walk(at, EVENT_CODE, ACTION_STORE_CODE);
    at = walk(at, EVENT_CODE_END, ACTION_START);
    at = walk(at, EVENT_READY, ACTION_INIT_DONE);
    for (int i = 0; i < 2; i++) {
        at = walk(at, EVENT_INVOKE, ACTION_INVOKE);
        at = walk(at, EVENT_RESULT, ACTION_REPLY);
        at = walk(at, EVENT_INVOKE, ACTION_INVOKE);
        at = walk(at, EVENT_ERROR, ACTION_REPLY);
        at = walk(at, EVENT_INVOKE, ACTION_INVOKE);
        at = walk(at, EVENT_TOO_LARGE, ACTION_REPLY);
    }
    assert_int_equal(at, STATE_IDLE);
    at = walk(at, EVENT_SHUTDOWN, ACTION_STOP);
    at = walk(at, EVENT_EXIT, ACTION_POWER_OFF);
}

/* The snapshot tree: base, runtime, function; at each level a guest is frozen and lives on. */
static void restored_life(void **state)
{
    enum session_state at = STATE_FRESH;

    (void)state;
    at = walk(at, EVENT_FREEZE, ACTION_REST);
    at = walk(at, EVENT_RESTORED, ACTION_RESTORE);
    at = walk(at, EVENT_PRELOAD, ACTION_PRELOAD);
    at = walk(at, EVENT_PRELOADED, ACTION_PRELOAD_DONE);
    at = walk(at, EVENT_FREEZE, ACTION_REST);
    at = walk(at, EVENT_RESTORED, ACTION_RESTORE);
    assert_int_equal(at, STATE_PRELOADED);
    at = walk(at, EVENT_PREPARE, ACTION_PREPARE);
    at = walk(at, EVENT_CODE, ACTION_STORE_CODE);
    at = walk(at, EVENT_CODE_END, ACTION_START);
    at = walk(at, EVENT_READY, ACTION_INIT_DONE);
    at = walk(at, EVENT_FREEZE, ACTION_FREEZE);
    at = walk(at, EVENT_AT_REST, ACTION_FROZEN);
    at = walk(at, EVENT_RESTORED, ACTION_RESTORE);
    at = walk(at, EVENT_INVOKE, ACTION_INVOKE);
    at = walk(at, EVENT_RESULT, ACTION_REPLY);
    assert_int_equal(at, STATE_IDLE);
    /* Hooks without an event: the action leads to STATE_RESTORING. */
    assert_int_equal(walk(STATE_RESTORING, EVENT_AWAKE, ACTION_AWAKE), STATE_IDLE);
}

/* A hook that fails, in whatever way, is told to the host once and ends the runtime. */
static void failing_hooks(void **state)
{
    static const enum session_event ends[] = {EVENT_BROKEN, EVENT_EXIT, EVENT_DEADLINE,
                                              EVENT_RESULT, EVENT_READY};

    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        assert_int_equal(walk(STATE_FREEZING, ends[i], ACTION_FROZEN), STATE_DEAD);
        assert_int_equal(walk(STATE_RESTORING, ends[i], ACTION_AWAKE), STATE_DEAD);
        assert_int_equal(walk(STATE_PRELOADING, ends[i], ACTION_PRELOAD_DONE), STATE_DEAD);
    }
    assert_int_equal(walk(STATE_FREEZING, EVENT_FREEZE_ERROR, ACTION_FROZEN), STATE_DEAD);
    assert_int_equal(walk(STATE_RESTORING, EVENT_RESTORE_ERROR, ACTION_AWAKE), STATE_DEAD);
    assert_int_equal(walk(STATE_BUSY, EVENT_RESTORE_ERROR, ACTION_REPLY_LAST), STATE_DEAD);
    assert_int_equal(walk(STATE_DEAD, EVENT_FREEZE, ACTION_REST), STATE_DEAD);
}

/* A snapshot is only ever taken, and a restore only ever told, when nothing is under way. */
static void no_snapshot_in_between(void **state)
{
    static const enum session_state busy[] = {STATE_PRELOADING, STATE_LOADING,  STATE_INIT,
                                              STATE_BUSY,       STATE_FREEZING, STATE_RESTORING};

    (void)state;
    for (size_t i = 0; i < sizeof(busy) / sizeof(busy[0]); i++) {
        assert_int_equal(walk(busy[i], EVENT_FREEZE, ACTION_VIOLATION), busy[i]);
        assert_int_equal(walk(busy[i], EVENT_RESTORED, ACTION_VIOLATION), busy[i]);
        assert_int_equal(walk(busy[i], EVENT_PRELOAD, ACTION_VIOLATION), busy[i]);
    }
    assert_int_equal(walk(STATE_IDLE, EVENT_PRELOAD, ACTION_VIOLATION), STATE_IDLE);
    assert_int_equal(walk(STATE_FREEZING, EVENT_INVOKE, ACTION_VIOLATION), STATE_FREEZING);
    assert_int_equal(walk(STATE_RESTORING, EVENT_INVOKE, ACTION_VIOLATION), STATE_RESTORING);
}

/* Whatever ends the runtime early is told to the host once, and every later Invoke is refused. */
static void early_ends(void **state)
{
    static const enum session_event ends[] = {EVENT_BROKEN, EVENT_EXIT, EVENT_DEADLINE};

    (void)state;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        assert_int_equal(walk(STATE_INIT, ends[i], ACTION_INIT_DONE), STATE_DEAD);
        assert_int_equal(walk(STATE_BUSY, ends[i], ACTION_REPLY_LAST), STATE_DEAD);
        assert_int_equal(walk(STATE_DEAD, ends[i], ACTION_IGNORE), STATE_DEAD);
    }
    assert_int_equal(walk(STATE_INIT, EVENT_INIT_ERROR, ACTION_INIT_DONE), STATE_DEAD);
    assert_int_equal(walk(STATE_IDLE, EVENT_EXIT, ACTION_BURY), STATE_DEAD);
    assert_int_equal(walk(STATE_DEAD, EVENT_INVOKE, ACTION_REFUSE), STATE_DEAD);
}

/* No event of a runtime can violate the host's protocol or end the guest before Shutdown. */
static void runtime_has_no_power(void **state)
{
    (void)state;
    for (int s = 0; s < STATE_STOPPING; s++)
        for (int e = EVENT_READY; e <= EVENT_EXIT; e++) {
            enum session_action action =
                session_table_step((enum session_state)s, (enum session_event)e).action;

            assert_int_not_equal(action, ACTION_VIOLATION);
            assert_int_not_equal(action, ACTION_POWER_OFF);
        }
}

static void every_state(void **state)
{
    (void)state;
    for (int s = 0; s < SESSION_STATES; s++) {
        enum session_state at = (enum session_state)s;

        assert_int_equal(session_table_step(at, EVENT_HOST_GONE).action, ACTION_POWER_OFF);
        assert_int_equal(session_table_step(at, EVENT_SHUTDOWN).next, STATE_STOPPING);
        for (int e = 0; e < SESSION_EVENTS; e++) {
            struct session_step step = session_table_step(at, (enum session_event)e);

            /* Stopping is for good, and only a code end or a ready runtime makes progress. */
            if (at == STATE_STOPPING)
                assert_int_equal(step.next, STATE_STOPPING);
            if (step.action == ACTION_IGNORE || step.action == ACTION_VIOLATION)
                assert_int_equal(step.next, at);
            if (step.next == STATE_BUSY && at != STATE_BUSY)
                assert_true(at == STATE_IDLE && e == EVENT_INVOKE);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_life),     cmocka_unit_test(restored_life),
        cmocka_unit_test(failing_hooks), cmocka_unit_test(no_snapshot_in_between),
        cmocka_unit_test(early_ends),    cmocka_unit_test(runtime_has_no_power),
        cmocka_unit_test(every_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
