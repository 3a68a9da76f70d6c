/*
 * How often a tenant may ask: a bucket of tokens each, filled at a rate (RFC 2697's idea of it).
 * Invocations are not counted here: concurrency bounds those.
 *
 * Trust: names are tenants' that were authenticated, so there are as many as are configured.
 * Threads: any.
 */
#ifndef MAYFLY_HOST_API_RATE_LIMIT_H
#define MAYFLY_HOST_API_RATE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct rate_limit;

/* rate_limit_new - @per_s tokens a second, @burst of them at most at once; both > 0. */
int rate_limit_new(uint32_t per_s, uint32_t burst, struct rate_limit **ret_limit,
                   struct error *err);
void rate_limit_free(struct rate_limit *limit);

/* rate_limit_take - one token of @name's; false: there is none left. @now_us: a monotonic clock. A
 * name that there is no memory for is not limited. */
bool rate_limit_take(struct rate_limit *limit, const char *name, uint64_t now_us);

#endif
