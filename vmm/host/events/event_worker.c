/*
 * The queue's worker: see event_worker.h. One thread claims as many events as there is room for and
 * extends the leases of those that run; a pool runs them. An event whose lease is not finished (the
 * daemon was killed) comes back by itself.
 */
#include "event_worker.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/api/work_pool.h"
#include "claim_loop.h"
#include "common/fd.h"
#include "event_throttle.h"
#include "host/json_check.h"
#include "tenant_share.h"

enum {
    MAX_RUNNING = 64,
    LEASE_MS = 90 * 1000,
    RETRY_MS = 1000, /* after the database failed */
};

struct job {
    struct event_worker *worker;
    struct event *event;    /* owned */
    struct job *next, **at; /* in the list of what runs */
};

struct event_worker {
    struct event_worker_options options;
    struct work_pool *pool; /* owned, as all pointers below */
    struct claim_loop *loop;
    uint64_t extended_ms;       /* the loop's: when leases were extended last */
    struct event_lease *leases; /* the loop's: max_running of them */
    pthread_mutex_t lock;       /* of all below */
    struct tenant_share *share;
    struct event_throttle *throttle;
    struct job *running;
};

/* Goes on while the machine is suspended, as leases do. */
static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- one event ------------------------------------------------------------------------------- */

/* Its status is what a client would have been answered: a dead letter's ErrorCode. */
static void take_failure(int r, bool is_off, const struct error *err, struct event_result *result)
{
    result->error_message = err->text;
    result->status = r == -EAGAIN || is_off ? 429 : r == -ENOENT ? 404 : 500;
    if (r == -ENOENT || is_off)
        result->outcome = EVENT_ABANDONED; /* its function is gone, or switched off */
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
                                        .trace_id = event->trace,
                                        .traceparent = event->traceparent};

    *ret_result = (struct api_invocation_result){.error = API_NO_ERROR};
    int r = options->backend->invoke(options->backend_opaque, &invocation, ret_result, err);
    free(context);
    return r;
}

/* What a dead-letter queue is told of a function's error; owned, or NULL. */
static char *error_message_of(const struct api_invocation_result *answer)
{
    struct error ignored;
    json_t *object = json_check_small(answer->payload, answer->payload_bytes, &ignored) == 0
                         ? json_loadb((const char *)answer->payload, answer->payload_bytes, 0, NULL)
                         : NULL;
    const char *message = json_string_value(json_object_get(object, "errorMessage"));
    char *copy = message ? strdup(message) : NULL;

    json_decref(object);
    return copy;
}

static enum event_outcome run_event(const struct event_worker *worker, const struct event *event)
{
    const struct event_worker_options *options = &worker->options;
    const struct function_key key = {event->tenant, event->function, event->qualifier};
    double roll = (double)randombytes_random() / 4294967296.0;
    struct api_invocation_result answer = {.error = API_NO_ERROR};
    struct event_result result = {.outcome = EVENT_SUCCEEDED, .status = 200};
    struct function *function = NULL;
    AUTO_FREE char *message = NULL;
    struct error err = {0};
    int r = registry_find_served(options->registry, &key, roll, &function, &err);

    bool is_off = r == 0 && function->reserved_concurrency == 0;
    if (is_off)
        r = error_say(&err, EAGAIN, "the function's reserved concurrency is 0: it never runs");
    if (r == 0)
        r = invoke(worker, event, function, &answer, &err);
    if (r < 0) {
        take_failure(r, is_off, &err, &result);
    } else {
        result.executed_version = function->version_text;
        result.response = answer.payload;
        result.response_len_bytes = answer.payload_bytes;
        if (answer.error != API_NO_ERROR) {
            result.outcome = EVENT_FUNCTION_FAILED;
            result.function_error = answer.error == API_ERROR_HANDLED ? "Handled" : "Unhandled";
            message = answer.payload ? error_message_of(&answer) : NULL;
            result.error_message = message;
        }
    }
    struct error finish_err;
    r = event_queue_finish(options->queue, event, &result, NULL, &finish_err);
    if (r < 0 && r != -ESTALE) /* it comes back when its lease is over */
        options->failed(event->request_id, finish_err.text);
    free(answer.payload);
    function_free(function);
    return result.outcome;
}

/* --- what runs ------------------------------------------------------------------------------- */

static void put_running(struct job *job)
{
    struct event_worker *worker = job->worker;

    pthread_mutex_lock(&worker->lock);
    tenant_share_take(worker->share, job->event->tenant);
    job->next = worker->running;
    job->at = &worker->running;
    if (job->next)
        job->next->at = &job->next;
    worker->running = job;
    pthread_mutex_unlock(&worker->lock);
}

/* With the lock. */
static void take_running(struct job *job)
{
    *job->at = job->next;
    if (job->next)
        job->next->at = job->at;
    tenant_share_give(job->worker->share, job->event->tenant);
}

static void note_outcome(struct event_worker *worker, const struct event *event,
                         enum event_outcome outcome)
{
    if (outcome == EVENT_THROTTLED)
        event_throttle_note(worker->throttle, event->tenant, event->function, now_ms());
    else
        event_throttle_end(worker->throttle, event->tenant, event->function);
}

static void run_job(void *opaque)
{
    struct job *job = opaque;
    struct event_worker *worker = job->worker;
    enum event_outcome outcome = run_event(worker, job->event);

    pthread_mutex_lock(&worker->lock);
    note_outcome(worker, job->event, outcome);
    take_running(job);
    pthread_mutex_unlock(&worker->lock);
    event_free(job->event);
    free(job);
    claim_loop_wake(worker->loop); /* room for another, and it may have queued one */
}

/* --- leases ---------------------------------------------------------------------------------- */

static uint64_t extend_every_ms(const struct event_worker *worker)
{
    return worker->options.lease_ms / 3;
}

/* Those of all that runs. One that was lost (the database stood still for longer than it) is run
 * again; whoever ends last finds that out. */
static int extend_leases(struct event_worker *worker, struct error *err)
{
    size_t n = 0;

    if (now_ms() - worker->extended_ms < extend_every_ms(worker))
        return 0;
    pthread_mutex_lock(&worker->lock);
    for (const struct job *at = worker->running; at; at = at->next)
        worker->leases[n++] = (struct event_lease){at->event->id, at->event->lease};
    pthread_mutex_unlock(&worker->lock);
    int r = n > 0 ? event_queue_extend(worker->options.queue, worker->leases, n,
                                       worker->options.lease_ms, NULL, err)
                  : 0;
    if (r == 0)
        worker->extended_ms = now_ms();
    return r;
}

/* --- claiming -------------------------------------------------------------------------------- */

static bool has_room(void *opaque, const char *tenant, const char *function, size_t n_own,
                     size_t n_claimed)
{
    struct event_worker *worker = opaque;

    pthread_mutex_lock(&worker->lock);
    bool has = tenant_share_allows(worker->share, tenant, n_own, n_claimed) &&
               !event_throttle_holds(worker->throttle, tenant, function, now_ms());
    pthread_mutex_unlock(&worker->lock);
    return has;
}

static void start(struct event_worker *worker, struct event *event)
{
    struct job *job = malloc(sizeof(*job));

    if (job) {
        *job = (struct job){.worker = worker, .event = event};
        put_running(job);
        if (work_pool_submit(worker->pool, run_job, job) == 0)
            return;
        pthread_mutex_lock(&worker->lock);
        take_running(job);
        pthread_mutex_unlock(&worker->lock);
        free(job);
    }
    event_free(event); /* claimed for nothing: back after its lease */
}

static int claim(struct event_worker *worker, uint64_t *ret_wait_ms, struct error *err)
{
    const struct event_room room = {has_room, worker};
    struct event *events[EVENT_CLAIM_MAX];
    size_t n = 0, left;

    pthread_mutex_lock(&worker->lock);
    left = tenant_share_left(worker->share);
    pthread_mutex_unlock(&worker->lock);
    if (left == 0)
        return 0; /* who ends wakes us */
    int r =
        event_queue_claim(worker->options.queue, left < EVENT_CLAIM_MAX ? left : EVENT_CLAIM_MAX,
                          worker->options.lease_ms, &room, events, &n, ret_wait_ms, err);
    for (size_t i = 0; r == 0 && i < n; i++)
        start(worker, events[i]);
    return r;
}

static uint64_t turn(void *opaque)
{
    struct event_worker *worker = opaque;
    uint64_t wait_ms = UINT64_MAX, throttle_ms;
    struct error err;
    int r = extend_leases(worker, &err); /* first: what runs must not be claimed */

    if (r == 0)
        r = claim(worker, &wait_ms, &err);
    if (r < 0) {
        worker->options.failed("", err.text);
        return RETRY_MS;
    }
    pthread_mutex_lock(&worker->lock);
    throttle_ms = event_throttle_wait_ms(worker->throttle, now_ms());
    if (worker->running && extend_every_ms(worker) < wait_ms)
        wait_ms = extend_every_ms(worker);
    pthread_mutex_unlock(&worker->lock);
    return wait_ms < throttle_ms ? wait_ms : throttle_ms;
}

/* --- life ------------------------------------------------------------------------------------ */

static int make_parts(struct event_worker *worker, struct error *err)
{
    unsigned max_running = worker->options.max_running;
    int r;

    worker->leases = calloc(max_running, sizeof(*worker->leases));
    worker->throttle = calloc(1, sizeof(*worker->throttle));
    if (!worker->leases || !worker->throttle)
        return error_set(err, ENOMEM, "make the queue's worker");
    r = tenant_share_new(max_running, &worker->share, err);
    if (r == 0)
        r = work_pool_new(max_running, max_running, &worker->pool, err);
    if (r == 0)
        r = claim_loop_new(turn, worker, &worker->loop, err);
    return r < 0 ? r : claim_loop_start(worker->loop, err);
}

int event_worker_new(const struct event_worker_options *options, struct event_worker **ret_worker,
                     struct error *err)
{
    struct event_worker *worker = calloc(1, sizeof(*worker));
    int r;

    if (!worker)
        return error_set(err, ENOMEM, "make the queue's worker");
    worker->options = *options;
    if (!worker->options.max_running)
        worker->options.max_running = MAX_RUNNING;
    if (!worker->options.lease_ms)
        worker->options.lease_ms = LEASE_MS;
    pthread_mutex_init(&worker->lock, NULL);
    r = make_parts(worker, err);
    if (r < 0) {
        event_worker_free(worker);
        return r;
    }
    *ret_worker = worker;
    return 0;
}

void event_worker_wake(struct event_worker *worker)
{
    claim_loop_wake(worker->loop);
}

void event_worker_free(struct event_worker *worker)
{
    if (!worker)
        return;
    claim_loop_stop(worker->loop);
    work_pool_free(worker->pool); /* its jobs wake the loop: that goes last */
    claim_loop_free(worker->loop);
    tenant_share_free(worker->share);
    pthread_mutex_destroy(&worker->lock);
    free(worker->throttle);
    free(worker->leases);
    free(worker);
}
