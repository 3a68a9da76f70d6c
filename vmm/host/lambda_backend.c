/*
 * Functions of the registry on the dispatcher: see lambda_backend.h. Builds are function_builder's.
 */
#include "lambda_backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "function_builder.h"
#include "housekeeper.h"
#include "lambda_version.h"
#include "provisioner.h"

enum { BUILDS_MAX = 256 };

struct lambda_backend {
    struct lambda_backend_options options;
    struct function_builder *builder; /* owned, as the next two */
    struct provisioner *provisioner;
    struct housekeeper *housekeeper;
};

/* --- invocations ----------------------------------------------------------------------------- */

static int take_result(struct invocation_result *from, struct api_invocation_result *to,
                       struct error *err)
{
    if (from->kind == INVOKED_THROTTLED) {
        int r = error_say(err, EAGAIN, "%s", dispatcher_throttle_words(from->throttle));

        invocation_result_done(from);
        return r;
    }
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

static bool is_deleted(const struct lambda_backend *backend, const char *tenant, const char *name)
{
    const struct function_key key = {tenant, name, NULL};
    struct function *function = NULL;
    struct error ignored;
    int r = registry_find(backend->options.registry, &key, -1, &function, &ignored);

    function_free(function);
    return r == -ENOENT;
}

static bool is_nobodys(const struct lambda_backend *backend, uint64_t build_id)
{
    struct function *function = NULL;
    struct error ignored;
    int r = registry_find_build(backend->options.registry, build_id, &function, &ignored);

    function_free(function);
    return r == -ENOENT;
}

/* What the pool has of builds that were replaced or deleted: no event will come for them. */
static void let_go(const struct lambda_backend *backend, const char *tenant, const char *name)
{
    struct instance_pool *pool = dispatcher_pool(backend->options.dispatcher);
    uint64_t builds[BUILDS_MAX];
    size_t n = instance_pool_list_builds(pool, tenant, name, builds, BUILDS_MAX);

    for (size_t i = 0; i < n; i++)
        if (is_nobodys(backend, builds[i]))
            instance_pool_drop_build(pool, tenant, name, builds[i]);
    if (is_deleted(backend, tenant, name)) /* its counters, too */
        instance_pool_invalidate(pool, tenant, name, NULL);
}

/* *ret_is_late: the function was updated or deleted after it was looked up, and what it was has no
 * snapshot any more. */
static int invoke_build(struct lambda_backend *backend, const struct api_invocation *invocation,
                        const struct function *function, struct invocation_result *ret_result,
                        struct log_tail *ret_tail, bool *ret_is_late, struct error *err)
{
    struct lambda_version version;
    struct observation seen;

    *ret_is_late = false;
    if (function->state == FUNCTION_PENDING)
        return error_say(err, EBUSY, "the function's snapshot is being made");
    if (function->state == FUNCTION_FAILED)
        return error_say(err, EINVAL, "%s", function->reason);
    int r = lambda_version_init(&version, backend->options.registry, function, err);
    if (r < 0)
        return r;
    struct invocation event = {.version = &version.version,
                               .timeout_ms = function->timeout_s * 1000ull,
                               .request_id = invocation->request_id,
                               .event = invocation->payload,
                               .event_bytes = invocation->payload_bytes,
                               .client_context = invocation->client_context,
                               .invoked_arn = invocation->invoked_arn,
                               .on_part = invocation->on_part,
                               .part_opaque = invocation->opaque};
    observer_begin(backend->options.observer, &seen, invocation, &event);
    r = dispatcher_invoke(backend->options.dispatcher, &event, ret_result, err);
    observer_end(&seen, r, ret_result, err, ret_tail);
    /* An instance that was started for a build that ended meanwhile would be kept for nobody. */
    if ((r < 0 || ret_result->start != START_WARM) && is_nobodys(backend, function->build_id)) {
        let_go(backend, function->tenant, function->name);
        *ret_is_late = r == -ENOENT || r == -EBADMSG; /* the event was given to nobody */
    }
    lambda_version_done(&version);
    if (r == -EINVAL || r == -EAGAIN || r == -ENOENT) /* the host's own trouble, not the client's */
        r = -EIO;
    return r;
}

/* Once more, with what the function is now. -ENOENT: deleted. */
static int invoke_late(struct lambda_backend *backend, const struct api_invocation *invocation,
                       struct invocation_result *ret_result, struct log_tail *ret_tail,
                       struct error *err)
{
    const struct function *old = invocation->function;
    const struct function_key key = {old->tenant, old->name, old->version_text};
    struct function *function = NULL;
    bool is_late;
    int r = registry_find_served(backend->options.registry, &key, -1, &function, err);

    if (r == 0)
        r = invoke_build(backend, invocation, function, ret_result, ret_tail, &is_late, err);
    function_free(function);
    return r;
}

static int backend_invoke(void *opaque, const struct api_invocation *invocation,
                          struct api_invocation_result *ret_result, struct error *err)
{
    struct lambda_backend *backend = opaque;
    struct invocation_result result;
    struct log_tail tail = {.len_bytes = 0};
    struct log_tail *wanted = invocation->wants_log ? &tail : NULL;
    bool is_late;
    int r = invoke_build(backend, invocation, invocation->function, &result, wanted, &is_late, err);

    if (r < 0 && is_late)
        r = invoke_late(backend, invocation, &result, wanted, err);
    memcpy(ret_result->log_tail, tail.bytes, tail.len_bytes);
    ret_result->log_tail_bytes = tail.len_bytes;
    return r < 0 ? r : take_result(&result, ret_result, err);
}

/* --- provisioned concurrency ----------------------------------------------------------------- */

static int backend_provisioned(void *opaque, const struct provisioned *provisioned,
                               const char *tenant, struct api_provisioned_status *ret_status)
{
    const struct lambda_backend *backend = opaque;
    struct provisioner_status status;

    provisioner_get_status(backend->provisioner, tenant, provisioned, &status);
    ret_status->allocated = status.allocated;
    ret_status->available = status.available;
    snprintf(ret_status->failure, sizeof(ret_status->failure), "%s", status.failure);
    return 0;
}

/* --- changes --------------------------------------------------------------------------------- */

/* What is gone, or no longer provisioned, is let go at once. */
static void backend_changed(void *opaque, const char *tenant, const char *name)
{
    struct lambda_backend *backend = opaque;

    let_go(backend, tenant, name);
    provisioner_wake(backend->provisioner);
    housekeeper_wake(backend->housekeeper);
    function_builder_wake(backend->builder);
}

/* --- builds ---------------------------------------------------------------------------------- */

static int check_runtime(void *opaque, const char *runtime, struct error *err)
{
    const struct lambda_backend *backend = opaque;

    return backend->options.check_runtime(backend->options.opaque, runtime, err);
}

static int build(void *opaque, const struct function *function,
                 const struct function_version *version, struct invocation_result *ret_result,
                 struct error *err)
{
    const struct lambda_backend *backend = opaque;
    struct observation seen;

    observer_begin_init(backend->options.observer, &seen, function);
    int r = dispatcher_build(backend->options.dispatcher, version, observer_on_output, &seen,
                             ret_result, err);
    observer_end_init(&seen, r, ret_result);
    return r;
}

static void build_ended(void *opaque, const struct function_version *version, enum build_end end)
{
    struct lambda_backend *backend = opaque;

    if (end == BUILD_FAILED)
        instance_pool_drop_build(dispatcher_pool(backend->options.dispatcher), version->tenant,
                                 version->function.name, version->build_id);
    else
        let_go(backend, version->tenant, version->function.name);
    if (end == BUILD_SERVES)
        provisioner_wake(backend->provisioner);
    housekeeper_wake(backend->housekeeper); /* an older build, or this one, serves no more */
}

static void build_failed(void *opaque, const char *text)
{
    const struct lambda_backend *backend = opaque;

    backend->options.failed("", text);
}

static const struct function_builder_ops builder_ops = {
    .check = check_runtime, .build = build, .ended = build_ended, .failed = build_failed};

/* --- the rest of the API's table ------------------------------------------------------------- */

static void backend_failed(void *opaque, const char *request_id, const char *text)
{
    const struct lambda_backend *backend = opaque;

    backend->options.failed(request_id, text);
}

const struct api_backend lambda_backend_ops = {.invoke = backend_invoke,
                                               .changed = backend_changed,
                                               .provisioned = backend_provisioned,
                                               .failed = backend_failed};

/* --- life ------------------------------------------------------------------------------------ */

int lambda_backend_new(const struct lambda_backend_options *options,
                       struct lambda_backend **ret_backend, struct error *err)
{
    struct lambda_backend *backend = calloc(1, sizeof(*backend));

    if (!backend)
        return error_set(err, ENOMEM, "make the backend");
    backend->options = *options;
    const struct provisioner_options provisioner = {.registry = options->registry,
                                                    .pool = dispatcher_pool(options->dispatcher),
                                                    .most_percent = options->most_percent,
                                                    .target_percent = options->target_percent,
                                                    .failed = options->failed};
    const struct function_builder_options builder = {
        .registry = options->registry, .ops = &builder_ops, .opaque = backend};
    const struct housekeeper_options housekeeper = {.registry = options->registry,
                                                    .pool = dispatcher_pool(options->dispatcher),
                                                    .state = options->state,
                                                    .cache_bytes = options->cache_bytes,
                                                    .failed = options->failed};
    int r = provisioner_new(&provisioner, &backend->provisioner, err);
    if (r == 0)
        r = housekeeper_new(&housekeeper, &backend->housekeeper, err);
    if (r == 0)
        r = function_builder_new(&builder, &backend->builder, err);
    if (r < 0) {
        lambda_backend_stop(backend);
        lambda_backend_free(backend);
        return r;
    }
    *ret_backend = backend;
    return 0;
}

void lambda_backend_stop(struct lambda_backend *backend)
{
    if (!backend)
        return;
    function_builder_stop(backend->builder);
    provisioner_stop(backend->provisioner);
    housekeeper_stop(backend->housekeeper);
}

void lambda_backend_free(struct lambda_backend *backend)
{
    if (!backend)
        return;
    function_builder_free(backend->builder);
    provisioner_free(backend->provisioner);
    housekeeper_free(backend->housekeeper);
    free(backend);
}
