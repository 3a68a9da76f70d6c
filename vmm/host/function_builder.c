/*
 * Builds: see function_builder.h. Two threads, each build once at a time. One that failed for the
 * host's own reasons stays pending and is tried again after RETRY_S; one whose init phase failed is
 * Failed.
 */
#include "function_builder.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "lambda_version.h"

enum { BUILDERS = 2, PENDING_MAX = 1024, RETRY_S = 30, WAIT_S = 5 };

/* A build that failed, and is not to be tried again before. */
struct put_off {
    uint64_t build_id;
    uint64_t until_us;
};

struct function_builder {
    struct function_builder_options options;
    pthread_t threads[BUILDERS];
    unsigned n_threads;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work;
    uint64_t building[BUILDERS];         /* build ids under way; 0: none */
    struct put_off put_off[PENDING_MAX]; /* a ring: the oldest gives way */
    size_t next_put_off;
    uint64_t changes; /* counts: a builder that saw nothing to do waits for the next one */
    bool is_ending;
};

static bool is_building(const struct function_builder *builder, uint64_t build_id)
{
    for (unsigned i = 0; i < BUILDERS; i++)
        if (builder->building[i] == build_id)
            return true;
    return false;
}

/* One that fails again and again must not keep the others from their turn, nor fill the log. */
static bool is_put_off(const struct function_builder *builder, uint64_t build_id, uint64_t now_us)
{
    for (size_t i = 0; i < PENDING_MAX; i++)
        if (builder->put_off[i].build_id == build_id && builder->put_off[i].until_us > now_us)
            return true;
    return false;
}

static void put_off(struct function_builder *builder, uint64_t build_id)
{
    builder->put_off[builder->next_put_off] =
        (struct put_off){build_id, clock_now_us() + RETRY_S * 1000000ull};
    builder->next_put_off = (builder->next_put_off + 1) % PENDING_MAX;
}

/* With the lock: the oldest build that nobody is at; 0: none. */
static uint64_t next_build(struct function_builder *builder)
{
    uint64_t pending[PENDING_MAX], now_us = clock_now_us();
    struct error err;
    size_t n = 0;

    if (registry_list_pending(builder->options.registry, pending, PENDING_MAX, &n, &err) < 0) {
        builder->options.failed("", err.text);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (!is_building(builder, pending[i]) && !is_put_off(builder, pending[i], now_us))
            return pending[i];
    return 0;
}

/* Why the init phase failed, for State and its reason. */
static const char *failure_of(const struct invocation_result *result)
{
    if (result->kind == INVOKED_OK)
        return NULL;
    return result->payload ? (const char *)result->payload : "the init phase failed";
}

/* 0: done, one way or the other; else it stays pending. */
static int build(struct function_builder *builder, uint64_t build_id)
{
    struct registry *registry = builder->options.registry;
    struct invocation_result result = {.payload = NULL};
    struct function *function = NULL;
    struct lambda_version version;
    struct error err;
    int r = registry_find_build(registry, build_id, &function, &err);

    if (r < 0)
        return r == -ENOENT ? 0 : r; /* deleted or changed meanwhile */
    r = lambda_version_init(&version, registry, function, &err);
    if (r == 0) {
        r = builder->options.build(builder->options.opaque, &version.version, &result, &err);
        lambda_version_done(&version);
    }
    if (r == 0 && result.kind == INVOKED_THROTTLED) /* no room on this host: later */
        r = error_say(&err, EAGAIN, "there is no room for another instance");
    if (r == 0)
        r = registry_finish_build(registry, build_id, failure_of(&result), &err);
    invocation_result_done(&result);
    if (r < 0 && r != -ESTALE && r != -ESHUTDOWN) {
        error_wrap(&err, "make the snapshot of '%s' of tenant '%s'", function->name,
                   function->tenant);
        builder->options.failed("", err.text);
    }
    function_free(function);
    return r == -ESTALE ? 0 : r;
}

static void wait_for_change(struct function_builder *builder, uint64_t seen)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_S;
    while (r == 0 && !builder->is_ending && builder->changes == seen)
        r = pthread_cond_timedwait(&builder->work, &builder->lock, &until);
}

static void *builder_main(void *opaque)
{
    struct function_builder *builder = opaque;
    unsigned self = 0;

    pthread_mutex_lock(&builder->lock);
    while (self < builder->n_threads && !pthread_equal(builder->threads[self], pthread_self()))
        self++;
    while (!builder->is_ending && self < BUILDERS) {
        uint64_t seen = builder->changes, build_id = next_build(builder);

        if (!build_id) {
            wait_for_change(builder, seen);
            continue;
        }
        builder->building[self] = build_id;
        pthread_mutex_unlock(&builder->lock);
        int r = build(builder, build_id);
        if (r == 0)
            builder->options.built(builder->options.opaque);
        pthread_mutex_lock(&builder->lock);
        builder->building[self] = 0;
        if (r < 0)
            put_off(builder, build_id);
    }
    pthread_mutex_unlock(&builder->lock);
    return NULL;
}

int function_builder_new(const struct function_builder_options *options,
                         struct function_builder **ret_builder, struct error *err)
{
    struct function_builder *builder = calloc(1, sizeof(*builder));
    pthread_condattr_t monotonic;
    int e = 0;

    if (!builder)
        return error_set(err, ENOMEM, "make the builder");
    builder->options = *options;
    pthread_mutex_init(&builder->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&builder->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_lock(&builder->lock); /* a thread finds its own number once all are known */
    while (e == 0 && builder->n_threads < BUILDERS) {
        e = pthread_create(&builder->threads[builder->n_threads], NULL, builder_main, builder);
        if (e == 0)
            builder->n_threads++;
    }
    pthread_mutex_unlock(&builder->lock);
    if (e) {
        function_builder_stop(builder);
        function_builder_free(builder);
        return error_set(err, e, "start the builders");
    }
    *ret_builder = builder;
    return 0;
}

void function_builder_wake(struct function_builder *builder)
{
    pthread_mutex_lock(&builder->lock);
    builder->changes++;
    pthread_cond_broadcast(&builder->work);
    pthread_mutex_unlock(&builder->lock);
}

void function_builder_stop(struct function_builder *builder)
{
    if (!builder)
        return;
    pthread_mutex_lock(&builder->lock);
    builder->is_ending = true;
    pthread_cond_broadcast(&builder->work);
    pthread_mutex_unlock(&builder->lock);
    for (unsigned i = 0; i < builder->n_threads; i++)
        pthread_join(builder->threads[i], NULL);
    builder->n_threads = 0;
}

void function_builder_free(struct function_builder *builder)
{
    if (!builder)
        return;
    pthread_cond_destroy(&builder->work);
    pthread_mutex_destroy(&builder->lock);
    free(builder);
}
