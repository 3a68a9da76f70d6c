/* A thread that takes turns: see claim_loop.h. */
#include "claim_loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum { LONGEST_WAIT_MS = 60000, STACK_BYTES = 512 << 10 };

struct claim_loop {
    uint64_t (*turn)(void *);
    void *opaque;
    pthread_t thread;
    bool is_running;      /* the owner's */
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool was_woken, is_ending;
};

/* With the lock. */
static void wait_for(struct claim_loop *loop, uint64_t wait_ms)
{
    struct timespec until;
    int r = 0;

    wait_ms = wait_ms < LONGEST_WAIT_MS ? wait_ms : LONGEST_WAIT_MS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(wait_ms / 1000);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (r == 0 && !loop->was_woken && !loop->is_ending)
        r = pthread_cond_timedwait(&loop->wake, &loop->lock, &until);
}

static void *thread_main(void *opaque)
{
    struct claim_loop *loop = opaque;

    pthread_mutex_lock(&loop->lock);
    while (!loop->is_ending) {
        loop->was_woken = false;
        pthread_mutex_unlock(&loop->lock);
        uint64_t wait_ms = loop->turn(loop->opaque);
        pthread_mutex_lock(&loop->lock);
        wait_for(loop, wait_ms);
    }
    pthread_mutex_unlock(&loop->lock);
    return NULL;
}

int claim_loop_new(uint64_t (*turn)(void *opaque), void *opaque, struct claim_loop **ret_loop,
                   struct error *err)
{
    struct claim_loop *loop = calloc(1, sizeof(*loop));
    pthread_condattr_t monotonic;

    if (!loop)
        return error_set(err, ENOMEM, "make a loop");
    loop->turn = turn;
    loop->opaque = opaque;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&loop->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret_loop = loop;
    return 0;
}

int claim_loop_start(struct claim_loop *loop, struct error *err)
{
    pthread_attr_t attributes;
    int code;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    code = pthread_create(&loop->thread, &attributes, thread_main, loop);
    pthread_attr_destroy(&attributes);
    if (code)
        return error_set(err, code, "start a loop's thread");
    loop->is_running = true;
    return 0;
}

void claim_loop_wake(struct claim_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->was_woken = true;
    pthread_cond_signal(&loop->wake);
    pthread_mutex_unlock(&loop->lock);
}

void claim_loop_stop(struct claim_loop *loop)
{
    if (!loop || !loop->is_running)
        return;
    pthread_mutex_lock(&loop->lock);
    loop->is_ending = true;
    pthread_cond_signal(&loop->wake);
    pthread_mutex_unlock(&loop->lock);
    pthread_join(loop->thread, NULL);
    loop->is_running = false;
}

void claim_loop_free(struct claim_loop *loop)
{
    if (!loop)
        return;
    claim_loop_stop(loop);
    pthread_cond_destroy(&loop->wake);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}
