/*
 * What a pool of shells should do next: make one, end one, or rest. Pure functions over counts and
 * a given time: no threads, no VMs. See shell_pool.h for the words.
 */
#ifndef MAYFLY_HOST_POOL_SHELL_POLICY_H
#define MAYFLY_HOST_POOL_SHELL_POLICY_H

#include <stddef.h>
#include <stdint.h>

enum { SHELL_SHAPES_MAX = 64 };

/* What is known of one shape. */
struct shell_demand {
    uint32_t ready;       /* shells that wait */
    uint32_t making;      /* under way */
    uint32_t waiting;     /* callers that wait for one; they come before the stock */
    uint32_t failures;    /* in a row: not made, or dead before anybody took them */
    uint64_t last_used;   /* a serial number, greater for later */
    uint64_t retry_at_ns; /* the stock is not refilled before; 0: at once */
};

enum shell_action { SHELL_REST, SHELL_MAKE, SHELL_END };

struct shell_step {
    enum shell_action action;
    size_t shape;   /* of MAKE and END */
    uint64_t at_ns; /* of REST: look again then; UINT64_MAX: when something happens */
};

/* shell_policy_pause_ns - how long to wait after so many failures in a row: 100 ms, doubled up to
 * 30 s. */
uint64_t shell_policy_pause_ns(uint32_t failures);

/*
 * shell_policy_allot - how many shells each of @n shapes (up to SHELL_SHAPES_MAX) may keep:
 * @per_shape, the most recently used first, until @limit is spent.
 */
void shell_policy_allot(const struct shell_demand *demand, size_t n, uint32_t per_shape,
                        uint32_t limit, uint32_t *ret_allotted);

/* shell_policy_next - callers first, then what is over its allotment, then the stock. */
struct shell_step shell_policy_next(const struct shell_demand *demand, size_t n, uint32_t per_shape,
                                    uint32_t limit, uint64_t now_ns);

#endif
