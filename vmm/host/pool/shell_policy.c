/* What a pool of shells does next: see shell_policy.h. */
#include "shell_policy.h"

#include <stdbool.h>

enum { PAUSE_FIRST_MS = 100, PAUSE_MAX_MS = 30000, NS_PER_MS = 1000000 };

uint64_t shell_policy_pause_ns(uint32_t failures)
{
    uint64_t ms = PAUSE_FIRST_MS;

    for (uint32_t i = 1; i < failures && ms < PAUSE_MAX_MS; i++)
        ms *= 2;
    return (ms < PAUSE_MAX_MS ? ms : PAUSE_MAX_MS) * NS_PER_MS;
}

void shell_policy_allot(const struct shell_demand *demand, size_t n, uint32_t per_shape,
                        uint32_t limit, uint32_t *ret_allotted)
{
    bool given[SHELL_SHAPES_MAX] = {false};

    for (size_t round = 0; round < n; round++) {
        size_t best = n;

        for (size_t i = 0; i < n; i++)
            if (!given[i] && (best == n || demand[i].last_used > demand[best].last_used))
                best = i;
        given[best] = true;
        ret_allotted[best] = per_shape < limit ? per_shape : limit;
        limit -= ret_allotted[best];
    }
}

/* What will be in stock once those who wait have been served. */
static uint32_t stock(const struct shell_demand *demand)
{
    uint32_t spare = demand->making > demand->waiting ? demand->making - demand->waiting : 0;

    return demand->ready + spare;
}

struct shell_step shell_policy_next(const struct shell_demand *demand, size_t n, uint32_t per_shape,
                                    uint32_t limit, uint64_t now_ns)
{
    uint32_t allotted[SHELL_SHAPES_MAX];
    struct shell_step rest = {.action = SHELL_REST, .at_ns = UINT64_MAX};
    size_t best = n;

    for (size_t i = 0; i < n; i++)
        if (demand[i].waiting > demand[i].making)
            return (struct shell_step){.action = SHELL_MAKE, .shape = i};
    shell_policy_allot(demand, n, per_shape, limit, allotted);
    for (size_t i = 0; i < n; i++)
        if (demand[i].ready > allotted[i])
            return (struct shell_step){.action = SHELL_END, .shape = i};
    for (size_t i = 0; i < n; i++) {
        if (stock(&demand[i]) >= allotted[i])
            continue;
        if (demand[i].retry_at_ns > now_ns)
            rest.at_ns = demand[i].retry_at_ns < rest.at_ns ? demand[i].retry_at_ns : rest.at_ns;
        else if (best == n || demand[i].last_used > demand[best].last_used)
            best = i;
    }
    return best < n ? (struct shell_step){.action = SHELL_MAKE, .shape = best} : rest;
}
