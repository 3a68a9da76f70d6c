/*
 * The queue's worker: see event_worker.h. One thread claims as many events as there is room for; a
 * pool runs them. An event whose lease is not finished (the daemon was killed) comes back by
 * itself.
 */
#include "event_worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/work_pool.h"

enum {
    MAX_RUNNING = 64,
    LEASE_MS = 20 * 60 * 1000, /* the longest function, and the time to start one */
    LONGEST_WAIT_MS = 60000,
    RETRY_MS = 1000, /* after the database failed */
};

struct event_worker {
    struct event_worker_options options;
    struct work_pool *pool; /* owned */
    pthread_t claimer;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    unsigned n_running;
    bool was_woken, is_ending;
};

struct job {
    struct event_worker *worker;
    struct event *event; /* owned */
};

/* --- one event ------------------------------------------------------------------------------- */

static void take_failure(int r, const struct error *err, struct event_result *result)
{
    result->error_message = err->text;
    if (r == -ENOENT)
        result->outcome = EVENT_ABANDONED; /* its function is gone */
    else
        result->outcome = EVENT_THROTTLED; /* no concurrency, or the host failed: later */
}

static char *decode_context(const struct event *event)
{
    size_t size = event->client_context ? strlen(event->client_context) + 1 : 0, len = 0;
    char *text = size ? calloc(1, size) : NULL;

    if (text && sodium_base642bin((uint8_t *)text, size - 1, event->client_context, size - 1, NULL,
                                  &len, NULL, sodium_base64_VARIANT_ORIGINAL) != 0) {
        free(text);
        text = NULL;
    }
    return text;
}

static int invoke(const struct event_worker *worker, const struct event *event,
                  const struct function *function, struct api_invocation_result *ret_result,
                  struct error *err)
{
    const struct event_worker_options *options = &worker->options;
    char *context = decode_context(event);
    struct api_invocation invocation = {.function = function,
                                        .request_id = event->request_id,
                                        .payload = event->payload,
                                        .payload_bytes = event->payload_len_bytes,
                                        .client_context = context,
                                        .trace_id = event->trace};

    *ret_result = (struct api_invocation_result){.error = API_NO_ERROR};
    int r = options->backend->invoke(options->backend_opaque, &invocation, ret_result, err);
    free(context);
    return r;
}

static void run_event(const struct event_worker *worker, const struct event *event)
{
    const struct event_worker_options *options = &worker->options;
    const struct function_key key = {event->tenant, event->function, event->qualifier};
    double roll = (double)randombytes_random() / 4294967296.0;
    struct api_invocation_result answer = {.error = API_NO_ERROR};
    struct event_result result = {.outcome = EVENT_SUCCEEDED, .status = 200};
    struct function *function = NULL;
    struct error err = {0};
    int r = registry_find_served(options->registry, &key, roll, &function, &err);

    if (r == 0)
        r = invoke(worker, event, function, &answer, &err);
    if (r < 0) {
        take_failure(r, &err, &result);
    } else {
        result.executed_version = function->version_text;
        result.response = answer.payload;
        result.response_len_bytes = answer.payload_bytes;
        if (answer.error != API_NO_ERROR) {
            result.outcome = EVENT_FUNCTION_FAILED;
            result.function_error = answer.error == API_ERROR_HANDLED ? "Handled" : "Unhandled";
        }
    }
    struct error finish_err;
    r = event_queue_finish(options->queue, event, &result, NULL, &finish_err);
    if (r < 0 && r != -ESTALE) /* it comes back when its lease is over */
        options->failed(event->request_id, finish_err.text);
    free(answer.payload);
    function_free(function);
}

static void run_job(void *opaque)
{
    struct job *job = opaque;
    struct event_worker *worker = job->worker;

    run_event(worker, job->event);
    event_free(job->event);
    free(job);
    pthread_mutex_lock(&worker->lock);
    worker->n_running--;
    worker->was_woken = true; /* room for another, and it may have queued one */
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
}

/* --- claiming -------------------------------------------------------------------------------- */

/* With the lock. */
static void wait_until(struct event_worker *worker, uint64_t wait_ms)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(wait_ms / 1000);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (r == 0 && !worker->was_woken && !worker->is_ending)
        r = pthread_cond_timedwait(&worker->wake, &worker->lock, &until);
}

static void start(struct event_worker *worker, struct event *event)
{
    struct job *job = malloc(sizeof(*job));

    if (job) {
        *job = (struct job){worker, event};
        pthread_mutex_lock(&worker->lock);
        worker->n_running++;
        pthread_mutex_unlock(&worker->lock);
        if (work_pool_submit(worker->pool, run_job, job) == 0)
            return;
        pthread_mutex_lock(&worker->lock);
        worker->n_running--;
        pthread_mutex_unlock(&worker->lock);
        free(job);
    }
    event_free(event); /* claimed for nothing: back after its lease */
}

static void *claimer_main(void *opaque)
{
    struct event_worker *worker = opaque;
    struct event *events[EVENT_CLAIM_MAX];
    struct error err;

    pthread_mutex_lock(&worker->lock);
    while (!worker->is_ending) {
        uint64_t wait_ms = LONGEST_WAIT_MS;
        size_t n = 0, room = worker->options.max_running - worker->n_running;

        worker->was_woken = false;
        pthread_mutex_unlock(&worker->lock);
        room = room < EVENT_CLAIM_MAX ? room : EVENT_CLAIM_MAX;
        if (room > 0 && event_queue_claim(worker->options.queue, room, LEASE_MS, events, &n,
                                          &wait_ms, &err) < 0) {
            worker->options.failed("", err.text);
            wait_ms = RETRY_MS;
        }
        for (size_t i = 0; i < n; i++)
            start(worker, events[i]);
        pthread_mutex_lock(&worker->lock);
        if (n == 0)
            wait_until(worker, wait_ms < LONGEST_WAIT_MS ? wait_ms : LONGEST_WAIT_MS);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

int event_worker_new(const struct event_worker_options *options, struct event_worker **ret_worker,
                     struct error *err)
{
    struct event_worker *worker = calloc(1, sizeof(*worker));
    pthread_condattr_t monotonic;

    if (!worker)
        return error_set(err, ENOMEM, "make the queue's worker");
    worker->options = *options;
    if (!worker->options.max_running)
        worker->options.max_running = MAX_RUNNING;
    int r =
        work_pool_new(worker->options.max_running, worker->options.max_running, &worker->pool, err);
    if (r < 0) {
        free(worker);
        return r;
    }
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int e = pthread_create(&worker->claimer, NULL, claimer_main, worker);
    if (e) {
        work_pool_free(worker->pool);
        free(worker);
        return error_set(err, e, "start the queue's worker");
    }
    *ret_worker = worker;
    return 0;
}

void event_worker_wake(struct event_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->was_woken = true;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
}

void event_worker_free(struct event_worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->is_ending = true;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->claimer, NULL);
    work_pool_free(worker->pool);
    pthread_cond_destroy(&worker->wake);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}
