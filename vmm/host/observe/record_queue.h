/*
 * A bounded queue of small records from many threads to one of its own: for what must not be waited
 * for (a log's file, a collector of traces). Putting copies, and never blocks: what does not fit is
 * dropped and counted.
 *
 * Threads: any put; the queue's own thread takes. Invariant: records are taken in the order that
 * they were put, each once.
 */
#ifndef MAYFLY_HOST_OBSERVE_RECORD_QUEUE_H
#define MAYFLY_HOST_OBSERVE_RECORD_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct record_queue;

struct record_queue_options {
    size_t bytes;       /* of records that wait, with 8 for each */
    unsigned linger_ms; /* wait so long after the first, for others: fewer wakes */
    unsigned tick_ms;   /* call batch_end at least so often; 0: only after a batch */
    /* Both on the queue's thread, which may block in them. take: one record. */
    void (*take)(void *opaque, const void *record, size_t len);
    void (*batch_end)(void *opaque); /* may be NULL: nothing is left for the moment */
    void *opaque;
};

int record_queue_new(const struct record_queue_options *options, struct record_queue **ret_queue,
                     struct error *err);

/* record_queue_put - false: there was no room, it is dropped. */
bool record_queue_put(struct record_queue *queue, const void *record, size_t len);

/* record_queue_poke - a batch_end soon, with or without records. */
void record_queue_poke(struct record_queue *queue);

uint64_t record_queue_dropped(const struct record_queue *queue);

/* record_queue_is_ending - for a take that waits: record_queue_free() was called. */
bool record_queue_is_ending(const struct record_queue *queue);

/*
 * record_queue_free - takes what is left, ends the thread. Nobody may put any more. Takes NULL.
 * -ETIMEDOUT: the thread is stuck in a take for @timeout_ms; the queue is then left to it, as must
 * be all that its callbacks use.
 */
int record_queue_free(struct record_queue *queue, unsigned timeout_ms);

#endif
