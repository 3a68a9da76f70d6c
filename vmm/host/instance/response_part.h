/*
 * Streamed responses on their way from a guest to a client: what the agent's client, the dispatcher
 * and the API hand to each other. Trust: all of it is what a function made up.
 */
#ifndef MAYFLY_HOST_INSTANCE_RESPONSE_PART_H
#define MAYFLY_HOST_INSTANCE_RESPONSE_PART_H

#include <stddef.h>
#include <stdint.h>

enum { RESPONSE_STREAM_MAX_BYTES = 200 << 20 }; /* as in Lambda */

struct response_part {
    const void *data; /* borrowed for the call */
    size_t len_bytes; /* may be 0 */
    /* Only of the first part: the whole response's; cleaned. NULL of the others. */
    const char *content_type;
    uint64_t
        deadline_ns; /* CLOCK_MONOTONIC: the function's time is over, nobody waits any longer */
};

/*
 * Called as parts arrive, on the thread of the one who invoked. It may wait, at the longest until
 * the part's deadline: meanwhile nothing is read from the guest, which then waits, too. Negative:
 * nobody reads any more. The function still runs to its end; it is not called again.
 */
typedef int response_part_fn(void *opaque, const struct response_part *part);

#endif
