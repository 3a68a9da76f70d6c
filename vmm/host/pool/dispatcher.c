/* Events to functions: see dispatcher.h. Process: the host's daemon. */
#include "dispatcher.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/instance/identity.h"
#include "lambda_error.h"
#include "host/instance/run_directory.h"

enum {
    KEEP_ALIVE_DEFAULT_MS = 300000,
    INSTANCES_DEFAULT = 1000,
    SHELLS_PER_SHAPE_DEFAULT = 4,
    SHELLS_DEFAULT = 16,
    PROBE_MEMORY_MIB = 128,
};

struct dispatcher {
    struct dispatcher_config config;
    char *images, *snapshots, *run; /* owned paths */
    int interrupt_fd;               /* owned eventfd: ends every wait for a guest */
    struct shell_pool *shells;      /* owned, as are the next two */
    struct instance_source *source;
    struct instance_pool *pool;
};

/* --- results --------------------------------------------------------------------------------- */

const char *dispatcher_throttle_words(enum throttle_reason reason)
{
    switch (reason) {
    case THROTTLE_NONE:
        break;
    case THROTTLE_FUNCTION:
        return "ReservedFunctionConcurrentInvocationLimitExceeded";
    case THROTTLE_ACCOUNT:
    case THROTTLE_HOST: /* Lambda has no word for it: it has another host */
        return "ConcurrentInvocationLimitExceeded";
    }
    return "";
}

void invocation_result_done(struct invocation_result *result)
{
    free(result->payload);
    result->payload = NULL;
    result->payload_bytes = 0;
}

static enum invocation_kind kind_of(enum agent_outcome outcome)
{
    switch (outcome) {
    case OUTCOME_OK:
        return INVOKED_OK;
    case OUTCOME_TIMEOUT:
        return INVOKED_TIMEOUT;
    case OUTCOME_AGENT_ERROR:
        return INVOKED_SANDBOX_ERROR;
    case OUTCOME_FUNCTION_ERROR:
    case OUTCOME_EXITED:
    case OUTCOME_OUT_OF_MEMORY:
    case OUTCOME_RESPONSE_TOO_LARGE:
        break;
    }
    return INVOKED_FUNCTION_ERROR;
}

static int give_text(struct invocation_result *to, char *text)
{
    if (!text)
        return -ENOMEM;
    to->payload = (uint8_t *)text;
    to->payload_bytes = strlen(text);
    return 0;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

int dispatcher_take_result(struct invocation_result *to, struct agent_result *result,
                           const char *request_id, uint64_t limit_ms, uint32_t memory_mib)
{
    bool may_tell = result->outcome == OUTCOME_FUNCTION_ERROR || result->outcome == OUTCOME_EXITED;
    bool is_own = result->outcome == OUTCOME_OK || (may_tell && result->payload_bytes > 0);
    int r = 0;

    to->kind = kind_of(result->outcome);
    to->billed_ms = at_most((to->duration_us + 999) / 1000, limit_ms);
    to->memory_peak_bytes = at_most(result->memory_peak_bytes, (uint64_t)memory_mib << 20);
    if (is_own) {
        to->payload = result->payload;
        to->payload_bytes = result->payload_bytes;
        result->payload = NULL;
    } else {
        r = give_text(to, lambda_error_json(result, request_id, limit_ms));
    }
    agent_result_done(result);
    return r;
}

/* The host has lost the guest in mid-event. */
static int take_crash(struct invocation_result *to, const struct invocation *invocation,
                      const struct error *why)
{
    char message[sizeof(why->text) + 80];

    snprintf(message, sizeof(message), "RequestId: %s Error: %s", invocation->request_id,
             why->text);
    to->kind = INVOKED_SANDBOX_ERROR;
    to->billed_ms = at_most((to->duration_us + 999) / 1000, invocation->timeout_ms);
    return give_text(to, lambda_error_text("Mayfly.SandboxError", message));
}

/* --- invoking -------------------------------------------------------------------------------- */

/* Where a function's output goes: to the caller, and the end of it into the result. */
struct output {
    agent_log *on_log;
    void *opaque;
    struct invocation_result *result;
};

static void on_output(void *opaque, bool is_stderr, const void *data, size_t len_bytes,
                      uint64_t dropped_bytes)
{
    struct output *output = opaque;

    log_tail_add(&output->result->log_tail, data, len_bytes);
    output->result->log_dropped_bytes += dropped_bytes;
    if (output->on_log)
        output->on_log(output->opaque, is_stderr, data, len_bytes, dropped_bytes);
}

static int take_init_failure(struct invocation_result *to, struct pool_lease *lease,
                             const char *request_id, uint32_t memory_mib)
{
    uint64_t init_us = lease->init.duration_us;

    to->start = START_COLD;
    to->is_init_failure = true;
    to->init_us = init_us;
    to->duration_us = init_us;
    return dispatcher_take_result(to, &lease->init, request_id, (init_us + 999) / 1000, memory_mib);
}

/* Of a lease that is none. */
static int take_verdict(struct invocation_result *to, struct pool_lease *lease,
                        const char *request_id, uint32_t memory_mib)
{
    switch (lease->verdict) {
    case POOL_READY:
        return 0;
    case POOL_INIT_FAILED:
        return take_init_failure(to, lease, request_id, memory_mib);
    case POOL_THROTTLED_FUNCTION:
        to->throttle = THROTTLE_FUNCTION;
        break;
    case POOL_THROTTLED_ACCOUNT:
        to->throttle = THROTTLE_ACCOUNT;
        break;
    case POOL_HOST_FULL:
        to->throttle = THROTTLE_HOST;
        break;
    }
    to->kind = INVOKED_THROTTLED;
    return 0;
}

static void take_start(struct invocation_result *to, const struct pool_lease *lease)
{
    const struct instance_timings *timings = instance_timings(lease->instance);

    to->start = lease->start;
    snprintf(to->instance_id, sizeof(to->instance_id), "%s", instance_id(lease->instance));
    if (lease->start == START_COLD)
        to->init_us = timings->init_us;
    if (lease->start == START_RESTORED)
        to->restore_us = timings->restore_us;
}

static bool is_crash(int r)
{
    return r == -ECONNRESET || r == -EPROTO || r == -ETIMEDOUT;
}

static int use(struct instance_pool *pool, const struct invocation *invocation,
               struct pool_lease *lease, struct invocation_result *to, struct error *err)
{
    const struct agent_event event = {.request_id = invocation->request_id,
                                      .data = invocation->event,
                                      .len_bytes = invocation->event_bytes,
                                      .timeout_ms = invocation->timeout_ms,
                                      .client_context = invocation->client_context,
                                      .identity = invocation->identity,
                                      .trace_id = invocation->trace_id,
                                      .invoked_arn = invocation->invoked_arn,
                                      .on_part = invocation->on_part,
                                      .part_opaque = invocation->part_opaque};
    struct agent_result result;
    struct error why;

    take_start(to, lease);
    if (invocation->on_start)
        invocation->on_start(invocation->opaque, to);
    uint64_t start_us = clock_now_us();
    int r = instance_invoke(lease->instance, &event, &result, &why);
    to->duration_us = clock_now_us() - start_us;
    instance_pool_release(pool, lease, r == 0);
    if (r == 0)
        r = dispatcher_take_result(to, &result, invocation->request_id, invocation->timeout_ms,
                                   invocation->version->memory_mib);
    else if (r == -EINTR)
        return error_say(err, ESHUTDOWN, "the host was shut down before the function ended");
    else if (is_crash(r))
        r = take_crash(to, invocation, &why);
    else if (err)
        *err = why;
    return r == -ENOMEM ? error_set(err, ENOMEM, "take the function's result") : r;
}

static int invoke(struct dispatcher *dispatcher, const struct invocation *invocation,
                  struct invocation_result *to, struct error *err)
{
    struct output output = {
        .on_log = invocation->on_log, .opaque = invocation->opaque, .result = to};
    struct pool_lease lease;
    int r = instance_pool_acquire(dispatcher->pool, invocation->version, on_output, &output, &lease,
                                  err);

    if (r == -EINTR)
        return error_say(err, ESHUTDOWN, "the host was shut down before the function began");
    if (r < 0)
        return error_wrap(err, "start an instance of '%s'", invocation->version->function.name);
    to->acquire_us = lease.acquire_us;
    if (lease.verdict == POOL_READY)
        return use(dispatcher->pool, invocation, &lease, to, err);
    r = take_verdict(to, &lease, invocation->request_id, invocation->version->memory_mib);
    return r < 0 ? error_set(err, -r, "take the function's result") : 0;
}

int dispatcher_invoke(struct dispatcher *dispatcher, const struct invocation *invocation,
                      struct invocation_result *ret_result, struct error *err)
{
    struct invocation_result *result = calloc(1, sizeof(*result));

    if (!result)
        return error_set(err, ENOMEM, "take the function's result");
    int r = invoke(dispatcher, invocation, result, err);
    if (r < 0)
        invocation_result_done(result);
    else
        *ret_result = *result;
    free(result);
    return r;
}

int dispatcher_build(struct dispatcher *dispatcher, const struct function_version *version,
                     agent_log *on_log, void *opaque, struct invocation_result *ret_result,
                     struct error *err)
{
    struct invocation_result result = {.kind = INVOKED_OK};
    struct output output = {.on_log = on_log, .opaque = opaque, .result = &result};
    struct pool_lease lease;
    int r = instance_pool_build(dispatcher->pool, version, on_output, &output, &lease, err);

    if (r < 0)
        return error_wrap(err, "make the snapshot of '%s'", version->function.name);
    r = take_verdict(&result, &lease, "init", version->memory_mib);
    if (r < 0)
        return error_set(err, -r, "take the result of the init phase");
    *ret_result = result;
    return 0;
}

/* --- life ------------------------------------------------------------------------------------ */

struct instance_pool *dispatcher_pool(struct dispatcher *dispatcher)
{
    return dispatcher->pool;
}

struct shell_pool *dispatcher_shells(struct dispatcher *dispatcher)
{
    return dispatcher->shells;
}

static int name_paths(struct dispatcher *dispatcher, struct error *err)
{
    const char *state = dispatcher->config.state;

    if (asprintf(&dispatcher->images, "%s/images", state) < 0)
        dispatcher->images = NULL;
    if (asprintf(&dispatcher->snapshots, "%s/snapshots", state) < 0)
        dispatcher->snapshots = NULL;
    if (asprintf(&dispatcher->run, "%s/run", state) < 0)
        dispatcher->run = NULL;
    return dispatcher->images && dispatcher->snapshots && dispatcher->run
               ? 0
               : error_set(err, ENOMEM, "make the dispatcher");
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static uint64_t least_available(const struct dispatcher_config *config)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

    if (config->min_available_bytes)
        return config->min_available_bytes;
    return pages > 0 && page_bytes > 0 ? pool_policy_leave((uint64_t)pages * (uint64_t)page_bytes)
                                       : pool_policy_leave(0);
}

/* Does KVM here emulate guest kernel mode? A VM that is never filled knows. False where none can be
 * made: whoever needs one is told why. */
static bool emulates_supervisor(const struct dispatcher *dispatcher)
{
    const struct dispatcher_config *config = &dispatcher->config;
    struct run_directory directory = {.lock = -1};
    char id[INSTANCE_ID_BYTES];
    struct vm_status status;
    struct vm *vm = NULL;
    bool emulates = false;

    if (identity_instance(id, NULL) < 0 ||
        run_directory_make(dispatcher->run, id, &directory, NULL) < 0)
        return false;
    const struct vm_config probe = {.monitor_path = config->monitor_path,
                                    .directory = directory.path,
                                    .memory_mib = PROBE_MEMORY_MIB,
                                    .vcpus = 1};
    if (config->hypervisor->start(&probe, &vm, NULL) == 0 &&
        config->hypervisor->status(vm, &status, NULL) == 0)
        emulates = status.emulates_supervisor;
    config->hypervisor->destroy(vm);
    run_directory_remove(&directory);
    return emulates;
}

/* More vCPUs than CPUs only wait for each other; emulated ones do so for each lock of the kernel.
 */
static uint32_t most_vcpus(const struct dispatcher *dispatcher)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return cpus < 2 || emulates_supervisor(dispatcher) ? 1 : (uint32_t)cpus;
}

static int make_pools(struct dispatcher *dispatcher, struct error *err)
{
    const struct dispatcher_config *config = &dispatcher->config;
    struct shell_pool_config shells = {
        .machine = {.hypervisor = config->hypervisor,
                    .image = config->image,
                    .kernel = config->kernel,
                    .run_directory = dispatcher->run,
                    .monitor_path = config->monitor_path,
                    .cpu = config->cpu,
                    .interrupt_fd = dispatcher->interrupt_fd},
        .per_shape = or_default(config->shells_per_shape, SHELLS_PER_SHAPE_DEFAULT),
        .limit = or_default(config->max_shells, SHELLS_DEFAULT)};
    int r = shell_pool_new(&shells, &dispatcher->shells, err);

    if (r < 0)
        return r;
    const struct instance_source_config source = {.machine = shells.machine,
                                                  .images_path = dispatcher->images,
                                                  .snapshots_path = dispatcher->snapshots,
                                                  .shells = dispatcher->shells,
                                                  .max_vcpus = most_vcpus(dispatcher),
                                                  .cache_bytes = config->cache_bytes};
    r = instance_source_new(&source, &dispatcher->source, err);
    if (r < 0)
        return r;
    const struct instance_pool_config pool = {
        .ops = &instance_source_snapshots,
        .source = dispatcher->source,
        .keep_alive_ms = config->keep_alive_ms ? config->keep_alive_ms : KEEP_ALIVE_DEFAULT_MS,
        .make_wait_ms = config->make_wait_ms,
        .max_instances = or_default(config->max_instances, INSTANCES_DEFAULT),
        .min_available_bytes = least_available(config),
        .tracking_interval_ms = config->tracking_interval_ms,
        .interrupt_fd = dispatcher->interrupt_fd};
    return instance_pool_new(&pool, &dispatcher->pool, err);
}

int dispatcher_new(const struct dispatcher_config *config, struct dispatcher **ret_dispatcher,
                   struct error *err)
{
    struct dispatcher *dispatcher = calloc(1, sizeof(*dispatcher));

    if (!dispatcher)
        return error_set(err, ENOMEM, "make the dispatcher");
    dispatcher->config = *config;
    dispatcher->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = dispatcher->interrupt_fd < 0 ? error_set(err, errno, "make the dispatcher")
                                         : name_paths(dispatcher, err);
    if (r == 0)
        r = make_pools(dispatcher, err);
    if (r < 0) {
        dispatcher_free(dispatcher);
        return r;
    }
    *ret_dispatcher = dispatcher;
    return 0;
}

int dispatcher_shutdown(struct dispatcher *dispatcher, uint64_t deadline_ms)
{
    return instance_pool_shutdown(dispatcher->pool, deadline_ms);
}

/* Instances end before the threads that their monitors live by. */
void dispatcher_free(struct dispatcher *dispatcher)
{
    if (!dispatcher)
        return;
    instance_pool_free(dispatcher->pool);
    instance_source_free(dispatcher->source);
    shell_pool_free(dispatcher->shells);
    fd_close_at_exit(&dispatcher->interrupt_fd);
    free(dispatcher->images);
    free(dispatcher->snapshots);
    free(dispatcher->run);
    free(dispatcher);
}
