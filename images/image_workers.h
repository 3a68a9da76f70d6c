/*
 * Work on numbered items (the frames of an image) by one thread a core, with the calling thread
 * left to report progress and to notice that the user gave up.
 */
#ifndef MAYFLY_IMAGES_IMAGE_WORKERS_H
#define MAYFLY_IMAGES_IMAGE_WORKERS_H

#include <signal.h>
#include <stdint.h>

#include "common/error.h"

struct workers; /* a run under way */

struct workers_job {
    uint32_t n_items;
    /* A worker's own buffers. NULL: out of memory. */
    void *(*begin)(void *opaque);
    void (*end)(void *state);
    /* Items are handed out in order, from several threads. 0, or -errno with @err: all stop. */
    int (*work)(struct workers *workers, void *opaque, void *state, uint32_t item,
                struct error *err);
    /* Called by the caller's thread, some ten times a second. May be NULL. */
    void (*tick)(void *opaque, uint32_t done_items);
    void *opaque;                           /* borrowed by all of the above */
    const volatile sig_atomic_t *cancelled; /* non-zero ends the run with -EINTR. May be NULL. */
};

/* workers_run - returns when every item is done (0), or no thread works any more (-errno). */
int workers_run(const struct workers_job *job, struct error *err);

/*
 * workers_await_turn - within work(): wait until every earlier item has passed its turn, for what
 * must be in order. workers_pass_turn - let the next one go. -ECANCELED: the run has failed.
 */
int workers_await_turn(struct workers *workers, uint32_t item);
void workers_pass_turn(struct workers *workers);

#endif
