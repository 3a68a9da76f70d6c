/* Threads for what blocks: see work_pool.h. */
#include "work_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

enum {
    IDLE_S = 20,           /* then a thread leaves */
    STACK_BYTES = 1 << 20, /* address space; only what is touched costs memory */
};

struct job {
    void (*run)(void *);
    void *opaque;
};

struct work_pool {
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t work;  /* something to do, or to end */
    pthread_cond_t gone;  /* a thread left */
    struct job *jobs;     /* owned: a ring of max_waiting */
    unsigned max_waiting, first, n_waiting;
    unsigned max_threads, n_threads, n_idle;
    bool ending;
};

int work_pool_new(unsigned max_threads, unsigned max_waiting, struct work_pool **ret_pool,
                  struct error *err)
{
    struct work_pool *pool = calloc(1, sizeof(*pool));
    struct job *jobs = calloc(max_waiting, sizeof(*jobs));
    pthread_condattr_t monotonic;

    if (!pool || !jobs || max_threads == 0 || max_waiting == 0) {
        free(pool);
        free(jobs);
        return error_set(err, pool && jobs ? EINVAL : ENOMEM, "make a pool of %u threads",
                         max_threads);
    }
    pool->jobs = jobs;
    pool->max_waiting = max_waiting;
    pool->max_threads = max_threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->work, &monotonic);
    pthread_cond_init(&pool->gone, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret_pool = pool;
    return 0;
}

/* Waits for work; false: it is time to leave. With the lock. */
static bool wait_for_work(struct work_pool *pool)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_S;
    while (pool->n_waiting == 0 && !pool->ending && r != ETIMEDOUT) {
        pool->n_idle++;
        r = pthread_cond_timedwait(&pool->work, &pool->lock, &until);
        pool->n_idle--;
    }
    return pool->n_waiting > 0;
}

static void *thread_main(void *opaque)
{
    struct work_pool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    while (wait_for_work(pool)) {
        struct job job = pool->jobs[pool->first];

        pool->first = (pool->first + 1) % pool->max_waiting;
        pool->n_waiting--;
        pthread_mutex_unlock(&pool->lock);
        job.run(job.opaque);
        pthread_mutex_lock(&pool->lock);
    }
    pool->n_threads--;
    pthread_cond_signal(&pool->gone);
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* With the lock. Failing is no failure as long as there is another thread. */
static void add_thread(struct work_pool *pool)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (pthread_create(&thread, &attributes, thread_main, pool) == 0)
        pool->n_threads++;
    pthread_attr_destroy(&attributes);
}

int work_pool_submit(struct work_pool *pool, void (*run)(void *), void *opaque)
{
    int r = -EAGAIN;

    pthread_mutex_lock(&pool->lock);
    if (pool->n_waiting < pool->max_waiting) {
        if (pool->n_idle <= pool->n_waiting && pool->n_threads < pool->max_threads)
            add_thread(pool);
        if (pool->n_threads > 0) {
            unsigned last = (pool->first + pool->n_waiting) % pool->max_waiting;

            pool->jobs[last] = (struct job){run, opaque};
            pool->n_waiting++;
            r = 0;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    if (r == 0) /* after the lock: who is woken wants it at once */
        pthread_cond_signal(&pool->work);
    return r;
}

void work_pool_free(struct work_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->ending = true;
    pthread_cond_broadcast(&pool->work);
    while (pool->n_threads > 0)
        pthread_cond_wait(&pool->gone, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->gone);
    pthread_mutex_destroy(&pool->lock);
    free(pool->jobs);
    free(pool);
}
