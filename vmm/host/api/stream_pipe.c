/*
 * Between a handler that writes a body and the server that sends it: a bounded buffer. Both sides
 * hold a reference; whoever is last frees it.
 *
 * Locks: lock guards the buffer, wake_lock who is to be woken. wake_lock is taken before lock and
 * the server's own lock between them, never the other way round: see http_exchange.c.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_internal.h"

enum { PIPE_BYTES = 256 << 10, NS_PER_S = 1000000000 };

struct stream_pipe {
    pthread_mutex_t lock; /* of all below but wake */
    pthread_cond_t room;
    size_t first, used;
    bool has_ended, is_broken, is_closed;
    unsigned n_references;
    pthread_mutex_t wake_lock; /* of these two */
    void (*wake)(void *);
    void *wake_opaque;
    uint8_t data[PIPE_BYTES];
};

int stream_pipe_new(struct stream_pipe **ret_pipe)
{
    struct stream_pipe *pipe = malloc(sizeof(*pipe));
    pthread_condattr_t monotonic;

    if (!pipe)
        return -ENOMEM;
    memset(pipe, 0, offsetof(struct stream_pipe, data));
    pthread_mutex_init(&pipe->lock, NULL);
    pthread_mutex_init(&pipe->wake_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&pipe->room, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pipe->n_references = 2;
    *ret_pipe = pipe;
    return 0;
}

/* With the lock, which it gives back. */
static void unref_unlock(struct stream_pipe *pipe)
{
    bool is_last = --pipe->n_references == 0;

    pthread_mutex_unlock(&pipe->lock);
    if (!is_last)
        return;
    pthread_mutex_destroy(&pipe->lock);
    pthread_mutex_destroy(&pipe->wake_lock);
    pthread_cond_destroy(&pipe->room);
    free(pipe);
}

static void wake_reader(struct stream_pipe *pipe)
{
    pthread_mutex_lock(&pipe->wake_lock);
    if (pipe->wake)
        pipe->wake(pipe->wake_opaque);
    pthread_mutex_unlock(&pipe->wake_lock);
}

int stream_pipe_write(struct stream_pipe *pipe, const void *data, size_t len_bytes,
                      uint64_t deadline_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % NS_PER_S)};
    const uint8_t *from = data;
    int r = 0;

    while (len_bytes > 0) {
        pthread_mutex_lock(&pipe->lock);
        while (r == 0 && pipe->used == PIPE_BYTES && !pipe->is_closed)
            r = -pthread_cond_timedwait(&pipe->room, &pipe->lock, &until);
        if (pipe->is_closed || pipe->used == PIPE_BYTES) {
            r = pipe->is_closed ? -EPIPE : r;
            pthread_mutex_unlock(&pipe->lock);
            return r;
        }
        size_t at = (pipe->first + pipe->used) % PIPE_BYTES;
        size_t n = PIPE_BYTES - pipe->used;
        n = n < len_bytes ? n : len_bytes;
        n = n < PIPE_BYTES - at ? n : PIPE_BYTES - at;
        memcpy(pipe->data + at, from, n);
        pipe->used += n;
        pthread_mutex_unlock(&pipe->lock);
        from += n;
        len_bytes -= n;
        wake_reader(pipe);
    }
    return 0;
}

void stream_pipe_end(struct stream_pipe *pipe, bool broken)
{
    pthread_mutex_lock(&pipe->lock);
    pipe->has_ended = true;
    pipe->is_broken = broken;
    pthread_mutex_unlock(&pipe->lock);
    wake_reader(pipe);
    pthread_mutex_lock(&pipe->lock);
    unref_unlock(pipe);
}

static ptrdiff_t pipe_read(void *opaque, uint8_t *to, size_t size)
{
    struct stream_pipe *pipe = opaque;
    ptrdiff_t result = 0;

    pthread_mutex_lock(&pipe->lock);
    size_t n = pipe->used < size ? pipe->used : size;
    n = n < PIPE_BYTES - pipe->first ? n : PIPE_BYTES - pipe->first;
    if (n > 0) {
        memcpy(to, pipe->data + pipe->first, n);
        pipe->first = (pipe->first + n) % PIPE_BYTES;
        pipe->used -= n;
        pthread_cond_signal(&pipe->room);
        result = (ptrdiff_t)n;
    } else if (pipe->has_ended) {
        result = pipe->is_broken ? -2 : -1;
    }
    pthread_mutex_unlock(&pipe->lock);
    return result;
}

static void pipe_set_wake(void *opaque, void (*wake)(void *), void *wake_opaque)
{
    struct stream_pipe *pipe = opaque;

    pthread_mutex_lock(&pipe->wake_lock);
    pipe->wake = wake;
    pipe->wake_opaque = wake_opaque;
    pthread_mutex_unlock(&pipe->wake_lock);
}

static void pipe_close(void *opaque)
{
    struct stream_pipe *pipe = opaque;

    pipe_set_wake(pipe, NULL, NULL);
    pthread_mutex_lock(&pipe->lock);
    pipe->is_closed = true;
    pthread_cond_broadcast(&pipe->room);
    unref_unlock(pipe);
}

const struct http_stream_ops stream_pipe_ops = {.read = pipe_read,
                                                .set_wake = pipe_set_wake,
                                                .close = pipe_close,
                                                .buffer_bytes = sizeof(struct stream_pipe)};
