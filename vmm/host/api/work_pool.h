/*
 * Threads for what blocks: a flush to disk, an invocation. They are started when there is work and
 * nobody idle, up to a limit, and leave when there was none for a while; beyond the limit work
 * waits in a queue that is bounded, too. Threads: any may submit.
 */
#ifndef MAYFLY_HOST_API_WORK_POOL_H
#define MAYFLY_HOST_API_WORK_POOL_H

#include "common/error.h"

struct work_pool;

int work_pool_new(unsigned max_threads, unsigned max_waiting, struct work_pool **ret_pool,
                  struct error *err);

/* work_pool_submit - @run once, later, on a thread of the pool. Returns 0, or -EAGAIN: full. */
int work_pool_submit(struct work_pool *pool, void (*run)(void *), void *opaque);

/* work_pool_free - runs what was submitted, ends the threads. Nobody may submit any more. */
void work_pool_free(struct work_pool *pool);

#endif
