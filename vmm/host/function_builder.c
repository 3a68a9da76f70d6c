/*
 * Builds: see function_builder.h. Each thread takes the next one whose turn it is, makes its
 * snapshot, and tells the registry: Active, Failed, or put off.
 */
#include "function_builder.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "build_failure.h"
#include "common/text_hash.h"
#include "lambda_version.h"

enum {
    BUILDERS = 2,
    SAID_MAX = 256,
    LOOK_S = 1,  /* while something is put off */
    REST_S = 60, /* while nothing is; a change wakes */
    AGAIN_MS = 2000,
};

/* What was last said of a build, so that it is said once. */
struct said {
    uint64_t build_id, hash;
};

struct function_builder {
    struct function_builder_options options;
    pthread_t threads[BUILDERS];
    unsigned n_threads;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work;
    struct pending_build busy[BUILDERS]; /* under way; build_id 0: none */
    int64_t last_tenant;                 /* whose turn it was */
    struct said said[SAID_MAX];          /* a ring: the oldest gives way */
    size_t next_said;
    uint64_t changes; /* counts: a thread that saw nothing to do waits for the next one */
    bool is_ending;
};

/* --- the log --------------------------------------------------------------------------------- */

static bool is_news(struct function_builder *builder, uint64_t build_id, uint64_t hash)
{
    for (size_t i = 0; i < SAID_MAX; i++)
        if (builder->said[i].build_id == build_id && builder->said[i].hash != 0) {
            bool is_new = builder->said[i].hash != hash;

            builder->said[i].hash = hash;
            return is_new;
        }
    builder->said[builder->next_said] = (struct said){build_id, hash};
    builder->next_said = (builder->next_said + 1) % SAID_MAX;
    return true;
}

/* @build_id: 0: of none in particular. */
static void say(struct function_builder *builder, uint64_t build_id, const struct error *err)
{
    uint64_t hash = text_hash(TEXT_HASH_START, err->text) | 1;

    pthread_mutex_lock(&builder->lock);
    bool is_new = is_news(builder, build_id, hash);
    pthread_mutex_unlock(&builder->lock);
    if (is_new)
        builder->options.ops->failed(builder->options.opaque, err->text);
}

/* --- one build ------------------------------------------------------------------------------- */

/* A build on its way. */
struct attempt {
    struct function_builder *builder;
    const struct pending_build *pending;
    struct function *function; /* owned */
    struct lambda_version version;
    enum build_step step;
    struct invocation_result result; /* owned */
};

static int make(struct attempt *a, struct error *err)
{
    const struct function_builder_options *options = &a->builder->options;

    a->step = BUILD_STEP_IMAGES;
    int r = options->ops->check(options->opaque, a->function->runtime, err);
    if (r < 0)
        return r;
    a->step = BUILD_STEP_MAKE;
    r = options->ops->build(options->opaque, a->function, &a->version.version, &a->result, err);
    if (r < 0 && a->version.is_code_bad)
        a->step = BUILD_STEP_CODE;
    if (r == 0 && a->result.kind == INVOKED_THROTTLED)
        r = error_say(err, EAGAIN, "there is no room for another instance");
    return r;
}

/* The function's own fault: what its init phase said. */
static bool has_init_failed(const struct attempt *a, struct build_failure *ret_failure)
{
    *ret_failure = (struct build_failure){"FunctionError", "the init phase failed"};
    if (a->result.payload)
        ret_failure->reason = (const char *)a->result.payload;
    return a->result.kind != INVOKED_OK;
}

/* An init phase that took too long, or lost its guest, may have met a busy host: once more. */
static bool deserves_another(const struct attempt *a)
{
    return (a->result.kind == INVOKED_TIMEOUT || a->result.kind == INVOKED_SANDBOX_ERROR) &&
           a->pending->tries + 1 < BUILD_CRASH_TRIES_MAX;
}

/* The host's fault. Returns 0 if the build has ended, 1 if it is put off, or -errno. */
static int give_up_or_put_off(struct attempt *a, int r, struct error *why, struct error *err)
{
    struct registry *registry = a->builder->options.registry;
    uint64_t build_id = a->pending->build_id;
    struct build_judgement judgement;

    build_judge(a->step, r, why, a->pending->tries, &judgement);
    error_wrap(why, "make the snapshot of '%s:%s' of tenant '%s' (build %llu%s)", a->function->name,
               a->function->version_text, a->function->tenant, (unsigned long long)build_id,
               judgement.is_final ? ", given up" : "");
    say(a->builder, build_id, why);
    if (judgement.is_final) {
        const struct build_failure failure = {judgement.code, judgement.reason};

        return registry_finish_build(registry, build_id, &failure, err);
    }
    r = registry_put_off_build(registry, build_id, judgement.delay_ms, judgement.reason, err);
    return r == 0 ? 1 : r;
}

/* Returns as above; -ESHUTDOWN leaves it as it was. */
static int build_version(struct attempt *a, enum build_end *ret_end, struct error *err)
{
    struct build_failure failure;
    struct error why;
    int r = make(a, &why);

    if (r == -ESHUTDOWN || r == -EINTR)
        return -ESHUTDOWN;
    if (r < 0) {
        *ret_end = BUILD_FAILED;
        return give_up_or_put_off(a, r, &why, err);
    }
    if (deserves_another(a)) {
        *ret_end = BUILD_FAILED;
        r = registry_put_off_build(a->builder->options.registry, a->pending->build_id, AGAIN_MS,
                                   "The init phase took too long; it is tried again", err);
        return r == 0 ? 1 : r;
    }
    *ret_end = has_init_failed(a, &failure) ? BUILD_FAILED : BUILD_SERVES;
    return registry_finish_build(a->builder->options.registry, a->pending->build_id,
                                 *ret_end == BUILD_FAILED ? &failure : NULL, err);
}

/* Returns 0, or -errno where the registry does not know what became of it: not at once again. */
static int build(struct function_builder *builder, const struct pending_build *pending)
{
    const struct function_builder_options *options = &builder->options;
    struct attempt a = {.builder = builder, .pending = pending, .result = {.payload = NULL}};
    enum build_end end = BUILD_NOBODYS;
    struct error err;
    int r = registry_find_build(options->registry, pending->build_id, &a.function, &err);

    if (r == 0)
        r = lambda_version_init(&a.version, options->registry, a.function, &err);
    if (r == 0) {
        r = build_version(&a, &end, &err);
        if (r == -ESTALE)
            end = BUILD_NOBODYS;
        if (r == 0 || r == -ESTALE)
            options->ops->ended(options->opaque, &a.version.version, end);
        lambda_version_done(&a.version);
    }
    invocation_result_done(&a.result);
    function_free(a.function);
    if (r == -ESTALE || r == -ENOENT || r > 0) /* deleted or changed meanwhile; put off */
        return 0;
    if (r < 0 && r != -ESHUTDOWN)
        say(builder, 0, &err);
    return r;
}

/* --- threads --------------------------------------------------------------------------------- */

static void wait_for_change(struct function_builder *builder, uint64_t seen, unsigned seconds)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    while (r == 0 && !builder->is_ending && builder->changes == seen)
        r = pthread_cond_timedwait(&builder->work, &builder->lock, &until);
}

/* Takes the next build; without one, waits. With the lock, given up meanwhile. */
static bool take_next(struct function_builder *builder, struct pending_build *slot)
{
    uint64_t seen = builder->changes;
    struct pending_build next;
    struct error err;
    bool waits = false;
    int r = registry_next_pending(builder->options.registry, builder->last_tenant, builder->busy,
                                  BUILDERS, &next, &waits, &err);

    if (r == 1) {
        *slot = next;
        builder->last_tenant = next.tenant_id;
        return true;
    }
    if (r < 0) {
        pthread_mutex_unlock(&builder->lock);
        say(builder, 0, &err);
        pthread_mutex_lock(&builder->lock);
    }
    wait_for_change(builder, seen, r < 0 || waits ? LOOK_S : REST_S);
    return false;
}

static void *builder_main(void *opaque)
{
    struct function_builder *builder = opaque;
    unsigned self = 0;

    pthread_mutex_lock(&builder->lock);
    while (self < builder->n_threads && !pthread_equal(builder->threads[self], pthread_self()))
        self++;
    while (!builder->is_ending && self < BUILDERS) {
        struct pending_build *slot = &builder->busy[self];

        if (!take_next(builder, slot))
            continue;
        pthread_mutex_unlock(&builder->lock);
        int r = build(builder, slot);
        pthread_mutex_lock(&builder->lock);
        *slot = (struct pending_build){.build_id = 0};
        if (r < 0)
            wait_for_change(builder, builder->changes, LOOK_S);
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
