/*
 * The event loop: one epoll set a process. Callbacks run on the thread that calls loop_run();
 * everything here belongs to that thread, but for loop_stop(), which any thread may call.
 */
#ifndef MAYFLY_COMMON_LOOP_H
#define MAYFLY_COMMON_LOOP_H

#include <stdint.h>

#include "error.h"

struct loop;
struct loop_source;

/* @events: EPOLLIN and the like, as epoll_wait(2) reported them. */
typedef void loop_callback(void *opaque, uint32_t events);

int loop_new(struct loop **ret_loop, struct error *err);
void loop_free(struct loop *loop);

/*
 * loop_add - watch @fd (borrowed: must stay open until loop_remove) for @events (level-triggered).
 * Returns 0 or -errno; *ret_source is owned by the loop until loop_remove().
 */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_callback *callback, void *opaque,
             struct loop_source **ret_source);

/* loop_change - watch for other events; 0 keeps the source but mutes it (errors still arrive). */
int loop_change(struct loop_source *source, uint32_t events);

/* loop_remove - safe inside any callback, that of @source included; NULL is fine. */
void loop_remove(struct loop_source *source);

/* loop_add_timer - @callback runs once after @delay_ms; loop_remove() cancels it, and must be
 * called also after it ran. */
int loop_add_timer(struct loop *loop, uint64_t delay_ms, loop_callback *callback, void *opaque,
                   struct loop_source **ret_source);

/* loop_turn - wait up to @timeout_ms (-1: for ever) and dispatch one batch of what is ready.
 * Returns how many sources were, or -errno. For callers with a loop of their own: tests, fuzzers.
 */
int loop_turn(struct loop *loop, int timeout_ms);

/* loop_run - dispatch until loop_stop(). Returns what loop_stop() was given, or -errno. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int result);

#endif
