/*
 * A thread that takes turns: it claims what is due, hands it to others and says how long nothing
 * more will be; or until it is woken. What the queue's workers have in common.
 */
#ifndef MAYFLY_HOST_EVENTS_CLAIM_LOOP_H
#define MAYFLY_HOST_EVENTS_CLAIM_LOOP_H

#include <stdint.h>

#include "common/error.h"

struct claim_loop;

/* claim_loop_new - @turn is called on the loop's own thread, from claim_loop_start() on again and
 * again; it returns how many ms there is nothing to do (at most a minute is waited). */
int claim_loop_new(uint64_t (*turn)(void *opaque), void *opaque, struct claim_loop **ret_loop,
                   struct error *err);
int claim_loop_start(struct claim_loop *loop, struct error *err);
/* claim_loop_wake - another turn now. Any thread. */
void claim_loop_wake(struct claim_loop *loop);
/* claim_loop_stop - no turn any more; waits for the one under way. It may still be woken. */
void claim_loop_stop(struct claim_loop *loop);
/* claim_loop_free - stopped, where it was not; nobody wakes it any more. Both take NULL. */
void claim_loop_free(struct claim_loop *loop);

#endif
