/*
 * Records to a thread: see record_queue.h. Two buffers: one is filled while the other is taken.
 * Their pages are touched as they are used, so that a quiet queue costs address space only.
 */
#include "record_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HEADER_BYTES = 8 };

struct record_queue {
    struct record_queue_options options;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below but the atomics */
    pthread_cond_t wake;
    uint8_t *filling, *taking; /* owned; taking is the thread's alone */
    size_t used;
    bool is_waiting, is_poked;
    atomic_bool is_ending;
    atomic_uint_fast64_t dropped;
};

static void deadline_in(struct timespec *until, unsigned ms)
{
    clock_gettime(CLOCK_MONOTONIC, until);
    until->tv_sec += ms / 1000;
    until->tv_nsec += (long)(ms % 1000) * 1000000;
    until->tv_sec += until->tv_nsec / 1000000000;
    until->tv_nsec %= 1000000000;
}

/* With the lock: until there is something to do. */
static void wait_for_records(struct record_queue *queue)
{
    const struct record_queue_options *options = &queue->options;
    struct timespec until;
    int r = 0;

    deadline_in(&until, options->tick_ms);
    queue->is_waiting = true;
    while (r == 0 && queue->used == 0 && !queue->is_poked && !atomic_load(&queue->is_ending))
        r = options->tick_ms ? pthread_cond_timedwait(&queue->wake, &queue->lock, &until)
                             : pthread_cond_wait(&queue->wake, &queue->lock);
    queue->is_waiting = false;
    /* Others are likely to follow: they then find nobody to be woken. Half a buffer is enough. */
    deadline_in(&until, options->linger_ms);
    for (r = 0; r == 0 && queue->used > 0 && queue->used < options->bytes / 2 && !queue->is_poked &&
                !atomic_load(&queue->is_ending);)
        r = pthread_cond_timedwait(&queue->wake, &queue->lock, &until);
    queue->is_poked = false;
}

static void take_all(const struct record_queue *queue, size_t used)
{
    const struct record_queue_options *options = &queue->options;
    uint64_t len;

    for (size_t at = 0; at < used; at += HEADER_BYTES + len) {
        memcpy(&len, queue->taking + at, sizeof(len));
        options->take(options->opaque, queue->taking + at + HEADER_BYTES, len);
    }
    if (options->batch_end)
        options->batch_end(options->opaque);
}

static void *queue_main(void *opaque)
{
    struct record_queue *queue = opaque;
    bool is_over = false;

    while (!is_over) {
        pthread_mutex_lock(&queue->lock);
        wait_for_records(queue);
        size_t used = queue->used;
        uint8_t *full = queue->filling;

        queue->filling = queue->taking;
        queue->taking = full;
        queue->used = 0;
        is_over = used == 0 && atomic_load(&queue->is_ending);
        pthread_mutex_unlock(&queue->lock);
        take_all(queue, used);
    }
    return NULL;
}

static void queue_done(struct record_queue *queue)
{
    free(queue->filling);
    free(queue->taking);
    pthread_cond_destroy(&queue->wake);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

int record_queue_new(const struct record_queue_options *options, struct record_queue **ret_queue,
                     struct error *err)
{
    struct record_queue *queue = calloc(1, sizeof(*queue));
    pthread_condattr_t monotonic;
    int e = ENOMEM;

    if (!queue)
        return error_set(err, ENOMEM, "make a queue");
    queue->options = *options;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    queue->filling = malloc(options->bytes);
    queue->taking = malloc(options->bytes);
    if (queue->filling && queue->taking)
        e = pthread_create(&queue->thread, NULL, queue_main, queue);
    if (e) {
        queue_done(queue);
        return error_set(err, e, "start a queue's thread");
    }
    *ret_queue = queue;
    return 0;
}

bool record_queue_put(struct record_queue *queue, const void *record, size_t len)
{
    uint64_t header = len;
    bool fits, wakes;

    pthread_mutex_lock(&queue->lock);
    fits = len <= queue->options.bytes && HEADER_BYTES + len <= queue->options.bytes - queue->used;
    wakes = fits && (queue->is_waiting || queue->used >= queue->options.bytes / 2);
    if (fits) {
        memcpy(queue->filling + queue->used, &header, HEADER_BYTES);
        memcpy(queue->filling + queue->used + HEADER_BYTES, record, len);
        queue->used += HEADER_BYTES + len;
        queue->is_waiting = false;
    }
    pthread_mutex_unlock(&queue->lock);
    if (wakes)
        pthread_cond_signal(&queue->wake);
    if (!fits)
        atomic_fetch_add(&queue->dropped, 1);
    return fits;
}

void record_queue_poke(struct record_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->is_poked = true;
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_signal(&queue->wake);
}

uint64_t record_queue_dropped(const struct record_queue *queue)
{
    return atomic_load(&queue->dropped);
}

bool record_queue_is_ending(const struct record_queue *queue)
{
    return atomic_load(&queue->is_ending);
}

int record_queue_free(struct record_queue *queue, unsigned timeout_ms)
{
    struct timespec until;

    if (!queue)
        return 0;
    pthread_mutex_lock(&queue->lock);
    atomic_store(&queue->is_ending, true);
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_signal(&queue->wake);
    deadline_in(&until, timeout_ms);
    if (pthread_clockjoin_np(queue->thread, NULL, CLOCK_MONOTONIC, &until) != 0) {
        pthread_detach(queue->thread);
        return -ETIMEDOUT;
    }
    queue_done(queue);
    return 0;
}
