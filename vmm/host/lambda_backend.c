/*
 * Functions of the registry on the dispatcher: see lambda_backend.h.
 *
 * Builds: whatever the registry lists as pending is built by two threads, each build once at a
 * time; after a restart the list is still there. A build that failed for the host's own reasons
 * stays pending and is tried again after RETRY_S; one whose init phase failed is Failed.
 */
#include "lambda_backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "lambda_version.h"

enum { BUILDERS = 2, PENDING_MAX = 1024, RETRY_S = 30, WAIT_S = 5, LINES_BYTES = 640 };

/* A build that failed, and is not to be tried again before. */
struct put_off {
    uint64_t build_id;
    uint64_t until_us;
};

struct lambda_backend {
    struct lambda_backend_options options; /* but for the tenants */
    pthread_mutex_t lock;                  /* of all below */
    pthread_cond_t work;
    uint64_t building[BUILDERS];         /* build ids under way; 0: none */
    struct put_off put_off[PENDING_MAX]; /* a ring: the oldest gives way */
    size_t next_put_off;
    pthread_t builders[BUILDERS];
    unsigned n_builders;
    uint64_t changes; /* counts: a builder that saw nothing to do waits for the next one */
    bool is_ending;
    char **tenants; /* owned; constant */
    size_t n_tenants;
};

/* --- invocations ----------------------------------------------------------------------------- */

/* Lambda's lines around what the function printed. */
static void make_log(const struct api_invocation *invocation, const struct invocation_result *from,
                     struct api_invocation_result *to)
{
    char start[LINES_BYTES], end[LINES_BYTES], extra[80] = "";
    struct log_tail tail = {.len_bytes = 0};
    const struct function *function = invocation->function;

    if (from->init_us)
        snprintf(extra, sizeof(extra), "Init Duration: %.2f ms\t", (double)from->init_us / 1000);
    else if (from->restore_us)
        snprintf(extra, sizeof(extra), "Restore Duration: %.2f ms\t",
                 (double)from->restore_us / 1000);
    snprintf(start, sizeof(start), "START RequestId: %s Version: %s\n", invocation->request_id,
             function->version_text);
    snprintf(
        end, sizeof(end),
        "END RequestId: %s\nREPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %llu ms\t"
        "Memory Size: %u MB\tMax Memory Used: %llu MB\t%s\n",
        invocation->request_id, invocation->request_id, (double)from->duration_us / 1000,
        (unsigned long long)from->billed_ms, function->memory_mib,
        (unsigned long long)(from->memory_peak_bytes >> 20), extra);
    log_tail_add(&tail, start, strlen(start));
    log_tail_add(&tail, from->log_tail.bytes, from->log_tail.len_bytes);
    if (tail.len_bytes > 0 && tail.bytes[tail.len_bytes - 1] != '\n')
        log_tail_add(&tail, "\n", 1);
    log_tail_add(&tail, end, strlen(end));
    memcpy(to->log_tail, tail.bytes, tail.len_bytes);
    to->log_tail_bytes = tail.len_bytes;
}

static int take_result(const struct api_invocation *invocation, struct invocation_result *from,
                       struct api_invocation_result *to, struct error *err)
{
    if (from->kind == INVOKED_THROTTLED) {
        int r = error_say(err, EAGAIN, "%s", dispatcher_throttle_words(from->throttle));

        invocation_result_done(from);
        return r;
    }
    if (invocation->wants_log)
        make_log(invocation, from, to);
    /* Lambda says Unhandled of all that the function did not return; the payload's type says what
     * it was. */
    to->start = from->start == START_WARM       ? "warm"
                : from->start == START_RESTORED ? "restored"
                                                : "cold";
    to->acquire_us = from->acquire_us;
    to->guest_us = from->duration_us;
    to->error = from->kind == INVOKED_OK ? API_NO_ERROR : API_ERROR_UNHANDLED;
    to->payload = from->payload;
    to->payload_bytes = from->payload_bytes;
    from->payload = NULL;
    invocation_result_done(from);
    return 0;
}

static int backend_invoke(void *opaque, const struct api_invocation *invocation,
                          struct api_invocation_result *ret_result, struct error *err)
{
    struct lambda_backend *backend = opaque;
    const struct function *function = invocation->function;
    struct invocation_result result;
    struct lambda_version version;

    if (function->state == FUNCTION_PENDING)
        return error_say(err, EBUSY, "the function's snapshot is being made");
    if (function->state == FUNCTION_FAILED)
        return error_say(err, EINVAL, "%s", function->reason);
    int r = lambda_version_init(&version, backend->options.registry, function, err);
    if (r < 0)
        return r;
    const struct invocation event = {.version = &version.version,
                                     .timeout_ms = function->timeout_s * 1000ull,
                                     .request_id = invocation->request_id,
                                     .event = invocation->payload,
                                     .event_bytes = invocation->payload_bytes,
                                     .client_context = invocation->client_context,
                                     .trace_id = invocation->trace_id};
    r = dispatcher_invoke(backend->options.dispatcher, &event, &result, err);
    lambda_version_done(&version);
    if (r == -EINVAL || r == -EAGAIN || r == -ENOENT) /* the host's own trouble, not the client's */
        r = -EIO;
    return r < 0 ? r : take_result(invocation, &result, ret_result, err);
}

/* --- builds ---------------------------------------------------------------------------------- */

static bool is_building(const struct lambda_backend *backend, uint64_t build_id)
{
    for (unsigned i = 0; i < BUILDERS; i++)
        if (backend->building[i] == build_id)
            return true;
    return false;
}

/* One that fails again and again must not keep the others from their turn, nor fill the log. */
static bool is_put_off(const struct lambda_backend *backend, uint64_t build_id, uint64_t now_us)
{
    for (size_t i = 0; i < PENDING_MAX; i++)
        if (backend->put_off[i].build_id == build_id && backend->put_off[i].until_us > now_us)
            return true;
    return false;
}

static void put_off(struct lambda_backend *backend, uint64_t build_id)
{
    backend->put_off[backend->next_put_off] =
        (struct put_off){build_id, clock_now_us() + RETRY_S * 1000000ull};
    backend->next_put_off = (backend->next_put_off + 1) % PENDING_MAX;
}

/* With the lock: the oldest build that nobody is at; 0: none. */
static uint64_t next_build(struct lambda_backend *backend)
{
    uint64_t pending[PENDING_MAX], now_us = clock_now_us();
    struct error err;
    size_t n = 0;

    if (registry_list_pending(backend->options.registry, pending, PENDING_MAX, &n, &err) < 0) {
        backend->options.failed("", err.text);
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        if (!is_building(backend, pending[i]) && !is_put_off(backend, pending[i], now_us))
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
static int build(struct lambda_backend *backend, uint64_t build_id)
{
    struct registry *registry = backend->options.registry;
    struct invocation_result result = {.payload = NULL};
    struct function *function = NULL;
    struct lambda_version version;
    struct error err;
    int r = registry_find_build(registry, build_id, &function, &err);

    if (r < 0)
        return r == -ENOENT ? 0 : r; /* deleted or changed meanwhile */
    r = lambda_version_init(&version, registry, function, &err);
    if (r == 0) {
        if (function->version == VERSION_LATEST) /* its older build serves no more */
            instance_pool_invalidate(dispatcher_pool(backend->options.dispatcher), function->tenant,
                                     function->name, function->version_text);
        r = dispatcher_build(backend->options.dispatcher, &version.version, NULL, NULL, &result,
                             &err);
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
        backend->options.failed("", err.text);
    }
    function_free(function);
    return r == -ESTALE ? 0 : r;
}

/* --- provisioned concurrency ----------------------------------------------------------------- */

static void provision_one(struct lambda_backend *backend, const char *tenant,
                          const struct provisioned *item)
{
    const struct function_key key = {tenant, item->function, item->qualifier};
    const struct pool_provision provision = {item->requested, item->requested, 0.7};
    struct pool_lease lease = {.verdict = POOL_READY};
    struct function *function = NULL;
    struct lambda_version version;
    struct error err;
    int r = registry_find(backend->options.registry, &key, -1, &function, &err);

    if (r == 0 && function->state == FUNCTION_ACTIVE) {
        r = lambda_version_init(&version, backend->options.registry, function, &err);
        if (r == 0) {
            r = instance_pool_provision(dispatcher_pool(backend->options.dispatcher),
                                        &version.version, &provision, &lease, &err);
            lambda_version_done(&version);
        }
        if (r == 0 && lease.verdict == POOL_INIT_FAILED)
            agent_result_done(&lease.init);
    }
    if (r < 0 && r != -ENOENT && r != -ESHUTDOWN)
        backend->options.failed("", err.text);
    function_free(function);
}

/* What the registry says is held from now on. What it no longer has, backend_changed() let go. */
static void provision_all(struct lambda_backend *backend, const char *tenant)
{
    struct provisioned_page *page = calloc(1, sizeof(*page));
    const struct function_key key = {tenant, NULL, NULL};
    char marker[MARKER_BYTES] = "";
    struct error err;

    while (page && registry_list_provisioned(backend->options.registry, &key,
                                             marker[0] ? marker : NULL, 0, page, &err) == 0) {
        for (size_t i = 0; i < page->n; i++)
            provision_one(backend, tenant, &page->items[i]);
        memcpy(marker, page->next_marker, sizeof(marker));
        if (!marker[0])
            break;
    }
    free(page);
}

static int backend_provisioned(void *opaque, const struct provisioned *provisioned,
                               const char *tenant, struct api_provisioned_status *ret_status)
{
    struct lambda_backend *backend = opaque;
    const struct function_key key = {tenant, provisioned->function, provisioned->qualifier};
    struct pool_provision_status status = {.wanted = 0};
    struct function *function = NULL;
    struct lambda_version version;
    struct error err;
    int r = registry_find(backend->options.registry, &key, -1, &function, &err);

    if (r == 0)
        r = lambda_version_init(&version, backend->options.registry, function, &err);
    if (r == 0) {
        instance_pool_provision_status(dispatcher_pool(backend->options.dispatcher),
                                       &version.version, &status);
        lambda_version_done(&version);
        *ret_status = (struct api_provisioned_status){status.wanted, status.ready, NULL};
        if (function->state == FUNCTION_FAILED)
            ret_status->failure = "FUNCTION_ERROR_INIT_FAILURE";
    }
    function_free(function);
    return r;
}

/* --- changes --------------------------------------------------------------------------------- */

/* What is gone, or no longer provisioned, is let go at once. */
static void backend_changed(void *opaque, const char *tenant, const char *name)
{
    struct lambda_backend *backend = opaque;
    const struct function_key key = {tenant, name, NULL};
    struct function *function = NULL;
    struct error err;

    if (registry_find(backend->options.registry, &key, -1, &function, &err) == -ENOENT)
        instance_pool_invalidate(dispatcher_pool(backend->options.dispatcher), tenant, name, NULL);
    function_free(function);
    pthread_mutex_lock(&backend->lock);
    backend->changes++;
    pthread_cond_broadcast(&backend->work);
    pthread_mutex_unlock(&backend->lock);
}

static void wait_for_change(struct lambda_backend *backend, uint64_t seen)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_S;
    while (r == 0 && !backend->is_ending && backend->changes == seen)
        r = pthread_cond_timedwait(&backend->work, &backend->lock, &until);
}

/* The first builder also looks after what is provisioned, after each change. */
static void *builder_main(void *opaque)
{
    struct lambda_backend *backend = opaque;
    unsigned self = 0;
    uint64_t provisioned_at = UINT64_MAX;

    pthread_mutex_lock(&backend->lock);
    while (self < backend->n_builders && !pthread_equal(backend->builders[self], pthread_self()))
        self++;
    while (!backend->is_ending && self < BUILDERS) {
        uint64_t seen = backend->changes, build_id = next_build(backend);
        int r = -ENOENT;

        backend->building[self] = build_id;
        pthread_mutex_unlock(&backend->lock);
        if (build_id)
            r = build(backend, build_id);
        else if (self == 0 && provisioned_at != seen)
            for (size_t i = 0; i < backend->n_tenants; i++)
                provision_all(backend, backend->tenants[i]);
        provisioned_at = build_id ? UINT64_MAX : seen;
        pthread_mutex_lock(&backend->lock);
        backend->building[self] = 0;
        if (build_id && r < 0)
            put_off(backend, build_id);
        else if (r < 0)
            wait_for_change(backend, seen);
    }
    pthread_mutex_unlock(&backend->lock);
    return NULL;
}

/* --- the rest of the API's table ------------------------------------------------------------- */

static void backend_failed(void *opaque, const char *request_id, const char *text)
{
    const struct lambda_backend *backend = opaque;

    backend->options.failed(request_id, text);
}

static void add_function(void *opaque, const char *tenant, const char *name,
                         const struct function_counters *counters)
{
    FILE *out = opaque;
    const struct {
        const char *name;
        uint64_t value;
    } starts[] = {
        {"warm", counters->warm}, {"restored", counters->restored}, {"cold", counters->cold}};

    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
        fprintf(out, "mayfly_starts_total{tenant=\"%s\",function=\"%s\",kind=\"%s\"} %llu\n",
                tenant, name, starts[i].name, (unsigned long long)starts[i].value);
    fprintf(out, "mayfly_throttles_total{tenant=\"%s\",function=\"%s\"} %llu\n", tenant, name,
            (unsigned long long)counters->throttled);
    fprintf(out, "mayfly_concurrency{tenant=\"%s\",function=\"%s\"} %u\n", tenant, name,
            counters->in_flight);
}

static int backend_metrics(void *opaque, char **ret_text)
{
    struct lambda_backend *backend = opaque;
    struct pool_counts pool;
    struct shell_pool_status shells;
    size_t size = 0;
    char *text = NULL;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return -ENOMEM;
    instance_pool_get_counts(dispatcher_pool(backend->options.dispatcher), &pool);
    shell_pool_get_status(dispatcher_shells(backend->options.dispatcher), &shells);
    fprintf(out,
            "mayfly_instances{state=\"idle\"} %u\nmayfly_instances{state=\"busy\"} %u\n"
            "mayfly_instances{state=\"starting\"} %u\nmayfly_shells_ready %u\n",
            pool.idle, pool.busy, pool.starting, shells.ready);
    instance_pool_each(dispatcher_pool(backend->options.dispatcher), add_function, out);
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret_text = text;
    return 0;
}

const struct api_backend lambda_backend_ops = {.invoke = backend_invoke,
                                               .changed = backend_changed,
                                               .provisioned = backend_provisioned,
                                               .metrics = backend_metrics,
                                               .failed = backend_failed};

/* --- life ------------------------------------------------------------------------------------ */

static int copy_tenants(struct lambda_backend *backend,
                        const struct lambda_backend_options *options)
{
    backend->tenants = calloc(options->n_tenants + 1, sizeof(*backend->tenants));
    for (size_t i = 0; backend->tenants && i < options->n_tenants; i++) {
        backend->tenants[i] = strdup(options->tenants[i]);
        if (!backend->tenants[i])
            return -ENOMEM;
        backend->n_tenants++;
    }
    return backend->tenants ? 0 : -ENOMEM;
}

int lambda_backend_new(const struct lambda_backend_options *options,
                       struct lambda_backend **ret_backend, struct error *err)
{
    struct lambda_backend *backend = calloc(1, sizeof(*backend));
    pthread_condattr_t monotonic;
    int e = 0;

    if (!backend)
        return error_set(err, ENOMEM, "make the backend");
    backend->options = *options;
    pthread_mutex_init(&backend->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&backend->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (copy_tenants(backend, options) < 0)
        e = ENOMEM;
    pthread_mutex_lock(&backend->lock); /* a builder finds its own number once all are known */
    while (e == 0 && backend->n_builders < BUILDERS) {
        e = pthread_create(&backend->builders[backend->n_builders], NULL, builder_main, backend);
        if (e == 0)
            backend->n_builders++;
    }
    pthread_mutex_unlock(&backend->lock);
    if (e) {
        lambda_backend_stop(backend);
        lambda_backend_free(backend);
        return error_set(err, e, "start the builders");
    }
    *ret_backend = backend;
    return 0;
}

void lambda_backend_stop(struct lambda_backend *backend)
{
    if (!backend)
        return;
    pthread_mutex_lock(&backend->lock);
    backend->is_ending = true;
    pthread_cond_broadcast(&backend->work);
    pthread_mutex_unlock(&backend->lock);
    for (unsigned i = 0; i < backend->n_builders; i++)
        pthread_join(backend->builders[i], NULL);
    backend->n_builders = 0;
}

void lambda_backend_free(struct lambda_backend *backend)
{
    if (!backend)
        return;
    for (size_t i = 0; i < backend->n_tenants; i++)
        free(backend->tenants[i]);
    free(backend->tenants);
    pthread_cond_destroy(&backend->work);
    pthread_mutex_destroy(&backend->lock);
    free(backend);
}
