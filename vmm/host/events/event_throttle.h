/*
 * Functions that have no room just now (throttled): their events are left in the queue for a while,
 * instead of being claimed one by one only to hear the same. A second, then two, up to half a
 * minute; over at once when an event of the function ends, since then it has room.
 * Pure: no threads, no clock of its own; its owner's lock.
 */
#ifndef MAYFLY_HOST_EVENTS_EVENT_THROTTLE_H
#define MAYFLY_HOST_EVENTS_EVENT_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "host/store/registry.h"

enum { THROTTLES_MAX = 128, THROTTLE_FIRST_MS = 1000, THROTTLE_LAST_MS = 30000 };

/* Where there are more of them, the one that would be over first is forgotten. */
struct event_throttle {
    struct throttled_function {
        char tenant[FUNCTION_NAME_MAX + 1], function[FUNCTION_NAME_MAX + 1];
        uint64_t until_ms; /* 0: the entry is free */
        uint64_t backoff_ms;
    } functions[THROTTLES_MAX];
};

/* event_throttle_note - it was throttled now. event_throttle_end - it has room. */
void event_throttle_note(struct event_throttle *throttle, const char *tenant, const char *function,
                         uint64_t now_ms);
void event_throttle_end(struct event_throttle *throttle, const char *tenant, const char *function);

/* event_throttle_holds - are its events to be left? */
bool event_throttle_holds(const struct event_throttle *throttle, const char *tenant,
                          const char *function, uint64_t now_ms);

/* event_throttle_wait_ms - until the first of those that are left is over; UINT64_MAX: none. */
uint64_t event_throttle_wait_ms(const struct event_throttle *throttle, uint64_t now_ms);

#endif
