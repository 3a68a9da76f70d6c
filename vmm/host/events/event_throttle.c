/* Throttled functions: see event_throttle.h. Pure. */
#include "event_throttle.h"

#include <stdio.h>
#include <string.h>

static const struct throttled_function *find(const struct event_throttle *throttle,
                                             const char *tenant, const char *function)
{
    for (size_t i = 0; i < THROTTLES_MAX; i++) {
        const struct throttled_function *at = &throttle->functions[i];

        if (at->until_ms && strcmp(at->function, function) == 0 && strcmp(at->tenant, tenant) == 0)
            return at;
    }
    return NULL;
}

static struct throttled_function *take_entry(struct event_throttle *throttle)
{
    struct throttled_function *entry = &throttle->functions[0];

    for (size_t i = 1; i < THROTTLES_MAX && entry->until_ms; i++)
        if (throttle->functions[i].until_ms < entry->until_ms)
            entry = &throttle->functions[i];
    return entry;
}

void event_throttle_note(struct event_throttle *throttle, const char *tenant, const char *function,
                         uint64_t now_ms)
{
    const struct throttled_function *found = find(throttle, tenant, function);
    struct throttled_function *entry;

    if (found && found->until_ms > now_ms)
        return; /* another of those that were claimed together */
    if (!found) {
        entry = take_entry(throttle);
        snprintf(entry->tenant, sizeof(entry->tenant), "%s", tenant);
        snprintf(entry->function, sizeof(entry->function), "%s", function);
        entry->backoff_ms = THROTTLE_FIRST_MS;
    } else {
        entry = &throttle->functions[found - throttle->functions];
        entry->backoff_ms =
            entry->backoff_ms * 2 < THROTTLE_LAST_MS ? entry->backoff_ms * 2 : THROTTLE_LAST_MS;
    }
    entry->until_ms = now_ms + entry->backoff_ms;
}

void event_throttle_end(struct event_throttle *throttle, const char *tenant, const char *function)
{
    const struct throttled_function *found = find(throttle, tenant, function);

    if (found)
        throttle->functions[found - throttle->functions].until_ms = 0;
}

bool event_throttle_holds(const struct event_throttle *throttle, const char *tenant,
                          const char *function, uint64_t now_ms)
{
    const struct throttled_function *found = find(throttle, tenant, function);

    return found && found->until_ms > now_ms;
}

uint64_t event_throttle_wait_ms(const struct event_throttle *throttle, uint64_t now_ms)
{
    uint64_t wait_ms = UINT64_MAX;

    for (size_t i = 0; i < THROTTLES_MAX; i++) {
        uint64_t until_ms = throttle->functions[i].until_ms;

        if (until_ms > now_ms && until_ms - now_ms < wait_ms)
            wait_ms = until_ms - now_ms;
    }
    return wait_ms;
}
