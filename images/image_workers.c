/*
 * A thread per core over numbered items: see image_workers.h.
 * Every mutable field is guarded by struct workers' lock. Invariant: item i is handed out before
 * item i+1, so that waiting for a turn always waits for a thread that runs.
 */
#include "images/image_workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <time.h>

enum { WORKERS_MAX = 64, TICK_NS = 100 * 1000 * 1000 };

struct workers {
    const struct workers_job *job; /* borrowed from workers_run()'s caller */
    pthread_mutex_t lock;
    pthread_cond_t turn_moved;
    pthread_cond_t caller_wakes; /* CLOCK_MONOTONIC */
    uint32_t next_item;
    uint32_t done_items;
    uint32_t turn;
    unsigned running;
    bool stop;
    struct error err; /* of the failed item with the lowest number */
    uint32_t err_item;
};

/* Keeps the error of the lowest item: the same damage gives the same message every time. */
static void fail(struct workers *workers, uint32_t item, const struct error *err)
{
    if (workers->err.code == 0 || item < workers->err_item) {
        workers->err = *err;
        workers->err_item = item;
    }
    workers->stop = true;
    pthread_cond_broadcast(&workers->turn_moved);
}

int workers_await_turn(struct workers *workers, uint32_t item)
{
    pthread_mutex_lock(&workers->lock);
    while (!workers->stop && workers->turn != item)
        pthread_cond_wait(&workers->turn_moved, &workers->lock);
    int r = workers->turn == item ? 0 : -ECANCELED;
    pthread_mutex_unlock(&workers->lock);
    return r;
}

void workers_pass_turn(struct workers *workers)
{
    pthread_mutex_lock(&workers->lock);
    workers->turn++;
    pthread_cond_broadcast(&workers->turn_moved);
    pthread_mutex_unlock(&workers->lock);
}

static bool take_item(struct workers *workers, uint32_t *ret_item)
{
    if (workers->stop || workers->next_item == workers->job->n_items)
        return false;
    *ret_item = workers->next_item++;
    return true;
}

static void *worker_main(void *opaque)
{
    struct workers *workers = opaque;
    const struct workers_job *job = workers->job;
    void *state = job->begin(job->opaque);
    uint32_t item;

    pthread_mutex_lock(&workers->lock);
    if (!state) {
        struct error err;

        error_set(&err, ENOMEM, "buffers of a worker thread");
        fail(workers, 0, &err);
    }
    while (take_item(workers, &item)) {
        struct error err = {0};

        pthread_mutex_unlock(&workers->lock);
        int r = job->work(workers, job->opaque, state, item, &err);
        pthread_mutex_lock(&workers->lock);
        if (r == 0)
            workers->done_items++;
        else if (r != -ECANCELED)
            fail(workers, item, &err);
    }
    workers->running--;
    pthread_cond_signal(&workers->caller_wakes);
    pthread_mutex_unlock(&workers->lock);
    if (state)
        job->end(state);
    return NULL;
}

static unsigned cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
}

/* Signals stay with the calling thread: its handler sets what job->cancelled points to. */
static unsigned start_threads(struct workers *workers, pthread_t *threads, unsigned n,
                              struct error *err)
{
    sigset_t all, before;
    unsigned started = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&workers->lock);
    while (started < n) {
        int r = pthread_create(&threads[started], NULL, worker_main, workers);

        if (r != 0) {
            error_set(err, r, "start a worker thread");
            break;
        }
        started++;
    }
    workers->running = started;
    pthread_mutex_unlock(&workers->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static struct timespec next_tick(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += TICK_NS;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_nsec -= 1000000000L;
        at.tv_sec++;
    }
    return at;
}

static void watch(struct workers *workers)
{
    const struct workers_job *job = workers->job;
    struct timespec at = next_tick();

    pthread_mutex_lock(&workers->lock);
    while (workers->running > 0) {
        if (pthread_cond_timedwait(&workers->caller_wakes, &workers->lock, &at) != ETIMEDOUT)
            continue;
        if (job->cancelled && *job->cancelled && !workers->stop) {
            struct error err;

            error_say(&err, EINTR, "interrupted");
            fail(workers, 0, &err);
        }
        uint32_t done = workers->done_items;
        pthread_mutex_unlock(&workers->lock);
        if (job->tick)
            job->tick(job->opaque, done);
        at = next_tick();
        pthread_mutex_lock(&workers->lock);
    }
    pthread_mutex_unlock(&workers->lock);
}

int workers_run(const struct workers_job *job, struct error *err)
{
    struct workers workers = {.job = job};
    pthread_t threads[WORKERS_MAX];
    pthread_condattr_t monotonic;
    unsigned n = cores();

    pthread_mutex_init(&workers.lock, NULL);
    pthread_cond_init(&workers.turn_moved, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&workers.caller_wakes, &monotonic);
    pthread_condattr_destroy(&monotonic);
    unsigned started =
        start_threads(&workers, threads, n < job->n_items ? n : job->n_items, &workers.err);
    if (started > 0) {
        workers.err = (struct error){0}; /* fewer threads than cores will do */
        watch(&workers);
    }
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&workers.caller_wakes);
    pthread_cond_destroy(&workers.turn_moved);
    pthread_mutex_destroy(&workers.lock);
    if (workers.err.code != 0) {
        if (err)
            *err = workers.err;
        return -workers.err.code;
    }
    if (job->tick)
        job->tick(job->opaque, workers.done_items);
    return 0;
}
