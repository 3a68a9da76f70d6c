/*
 * The lifecycle of an instance. Process: the host's. Trusts its caller; the guest and the monitor
 * are hostile, and what they report (times, sizes) is only ever shown, never relied upon.
 *
 * Invariant: what may be done is decided by one table of states and events; an instance that failed
 * in any way is LOST and can only be destroyed.
 */
#include "instance_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"

static const struct patience hardware_patience = {30000, 10000, 10000, 100, 900, 5};
static const struct patience emulated_patience = {120000, 120000, 60000, 3000, 20000, 300};

static const enum state next_state[N_STATES][N_EVENTS] = {
    [STATE_NEW] = {[EVENT_STARTED] = STATE_RUNNING, [EVENT_BROKEN] = STATE_LOST},
    [STATE_RUNNING] = {[EVENT_HELLO] = STATE_READY,
                       [EVENT_RESTORED_READY] = STATE_READY,
                       [EVENT_RESTORED_IDLE] = STATE_IDLE,
                       [EVENT_BROKEN] = STATE_LOST},
    [STATE_READY] = {[EVENT_PRELOADED] = STATE_READY,
                     [EVENT_FROZEN] = STATE_READY,
                     [EVENT_PREPARE] = STATE_READY,
                     [EVENT_INITIALISED] = STATE_IDLE,
                     [EVENT_RUNTIME_GONE] = STATE_SPENT,
                     [EVENT_BROKEN] = STATE_LOST},
    [STATE_IDLE] = {[EVENT_FROZEN] = STATE_IDLE,
                    [EVENT_INVOKE] = STATE_IDLE,
                    [EVENT_ANSWERED] = STATE_IDLE,
                    [EVENT_RUNTIME_GONE] = STATE_SPENT,
                    [EVENT_BROKEN] = STATE_LOST},
    [STATE_SPENT] = {[EVENT_BROKEN] = STATE_LOST},
    [STATE_LOST] = {[EVENT_BROKEN] = STATE_LOST},
};

int instance_step(struct instance *instance, enum event event, struct error *err)
{
    enum state next = next_state[instance->state][event];

    if (next == STATE_NONE)
        return error_say(err, EINVAL, "the instance is not ready for that");
    instance->state = next;
    return 0;
}

void instance_tell(const struct instance *instance, enum instance_stage stage)
{
    if (instance->config.on_stage)
        instance->config.on_stage(instance->config.opaque, stage);
}

uint64_t instance_us_since(uint64_t start_ns)
{
    return (clock_now_ns() - start_ns) / 1000u;
}

/* --- breaking ------------------------------------------------------------------------------------
 */

static void end_vm(struct instance *instance)
{
    agent_client_free(instance->agent);
    instance->agent = NULL;
    if (instance->vm)
        instance->config.hypervisor->destroy(instance->vm);
    instance->vm = NULL;
}

/* An agent that falls silent may be the first sign of a VM that is about to be reported dead. */
static void await_end(const struct instance *instance)
{
    struct pollfd fds[] = {
        {.fd = instance->config.hypervisor->end_fd(instance->vm), .events = POLLIN},
        {.fd = instance->config.interrupt_fd, .events = POLLIN}};

    poll(fds, 2, (int)instance->patience->grace_ms);
}

/*
 * The conversation failed with @r: if the VM's end is why, say how it ended instead. A guest that
 * powers off in mid-conversation has no good reason to, so that is an error as well.
 */
int instance_broken(struct instance *instance, int r, struct error *err)
{
    struct vm_status status;
    struct error ignored;

    instance->state = next_state[instance->state][EVENT_BROKEN];
    if (r == -EINTR || !instance->vm)
        return r;
    if (r == -ECONNRESET)
        await_end(instance);
    if (instance->config.hypervisor->status(instance->vm, &status, &ignored) == 0 &&
        status.end != VM_ALIVE)
        return error_say(err, ECONNRESET, "%s", status.end_text);
    return r;
}

/* --- boot ----------------------------------------------------------------------------------------
 */

/* The raw copy of image @name; *ret_path is owned. Adds to *spent_us what decompressing it took. */
static int find_raw(struct image_store *store, const char *name, enum image_kind kind,
                    char **ret_path, uint64_t *spent_us, struct error *err)
{
    static const char *const words[] = {[IMAGE_ROOT] = "image", [IMAGE_KERNEL] = "kernel"};
    struct image_info info;
    uint64_t now_us = 0;
    int r = image_store_find(store, name, &info, err);

    if (r == -ENOENT)
        return error_say(err, ENOENT,
                         "no %s '%s' in the image store: make it with 'mayfly image' (from the "
                         "source tree: make assets)",
                         words[kind], name);
    if (r < 0)
        return error_wrap(err, "%s '%s'", words[kind], name);
    if (info.kind != kind)
        return error_say(err, EINVAL, "'%s' in the image store is no %s", name, words[kind]);
    if (strcmp(info.architecture, "x86_64") != 0)
        return error_say(err, EINVAL, "the %s '%s' is for %s, this host needs x86_64", words[kind],
                         name, info.architecture);
    r = image_store_raw(store, &info, ret_path, &now_us, err);
    if (r < 0)
        return error_wrap(err, "%s '%s'", words[kind], name);
    *spent_us += now_us;
    return 0;
}

int instance_find_image(const struct instance_config *config, const char *name, char **ret_path,
                        struct error *err)
{
    uint64_t ignored = 0;

    return find_raw(config->store, name, IMAGE_ROOT, ret_path, &ignored, err);
}

static int start_vm(struct instance *instance, const char *image, const char *kernel,
                    struct error *err)
{
    const struct instance_config *config = &instance->config;
    const struct shell_shape shape = {.image = image,
                                      .cpu_template = config->cpu_template,
                                      .memory_mib = config->memory_mib,
                                      .cpu_mib = config->cpu_mib,
                                      .vcpus = config->vcpus};
    uint64_t start_ns = clock_now_ns();
    int r;

    instance_tell(instance, STAGE_VM_CREATE);
    r = shell_start_vm(config, &shape, instance->directory.path, kernel, &instance->vm, err);
    if (r < 0)
        return r;
    instance->started_ns = clock_now_ns();
    instance->timings.vm_create_us = instance_us_since(start_ns);
    return instance_step(instance, EVENT_STARTED, err);
}

void instance_be_patient(struct instance *instance, bool emulates_supervisor)
{
    instance->patience = emulates_supervisor ? &emulated_patience : &hardware_patience;
}

/* Decides how patient to be; a VM that is dead already is reported. */
static int learn_pace(struct instance *instance, struct error *err)
{
    struct vm_status status;
    int r = instance->config.hypervisor->status(instance->vm, &status, err);

    if (r < 0)
        return r;
    if (status.end != VM_ALIVE)
        return error_say(err, ECONNRESET, "%s", status.end_text);
    instance->private_bytes = status.private_bytes;
    memcpy(instance->jail_missing, status.jail_missing, sizeof(instance->jail_missing));
    instance_be_patient(instance, status.emulates_supervisor);
    return 0;
}

/* Splits the time since the start at the agent's main(), by the guest's word where it can be. */
static void split_boot_time(struct instance *instance)
{
    struct instance_timings *timings = &instance->timings;
    uint64_t total_us = instance_us_since(instance->started_ns), kernel_us = 0;
    struct vm_status status;
    struct error ignored;

    if (instance->config.hypervisor->status(instance->vm, &status, &ignored) == 0 &&
        status.end == VM_ALIVE) {
        instance->private_bytes = status.private_bytes;
        if (status.tsc_khz > 0 && instance->hello.start_tsc > status.boot_tsc)
            kernel_us = (uint64_t)((double)(instance->hello.start_tsc - status.boot_tsc) * 1000.0 /
                                   status.tsc_khz);
    }
    timings->kernel_us = kernel_us < total_us ? kernel_us : total_us;
    timings->agent_ready_us = total_us - timings->kernel_us;
}

static int meet_agent(struct instance *instance, struct error *err)
{
    const struct instance_config *config = &instance->config;
    int fd, r;

    instance_tell(instance, STAGE_KERNEL);
    r = config->hypervisor->accept_agent(instance->vm, instance->patience->boot_ms,
                                         config->interrupt_fd, &fd, err);
    if (r < 0)
        return r;
    r = agent_client_new(fd, config->hypervisor->end_fd(instance->vm), config->interrupt_fd,
                         config->on_log, config->opaque, &instance->agent, err);
    if (r == 0)
        r = agent_client_hello(instance->agent, instance->patience->boot_ms, &instance->hello, err);
    if (r < 0)
        return r;
    split_boot_time(instance);
    return instance_step(instance, EVENT_HELLO, err);
}

static int make_home(struct instance *instance, struct error *err)
{
    int r = identity_instance(instance->id, err);

    return r < 0 ? r
                 : run_directory_make(instance->config.run_directory, instance->id,
                                      &instance->directory, err);
}

static int boot(struct instance *instance, struct error *err)
{
    AUTO_FREE char *image = NULL;
    AUTO_FREE char *kernel = NULL;
    const struct instance_config *config = &instance->config;
    uint64_t *spent_us = &instance->timings.decompress_us;
    int r = make_home(instance, err);

    if (r < 0)
        return r;
    instance_tell(instance, STAGE_DECOMPRESS);
    r = find_raw(config->store, config->kernel, IMAGE_KERNEL, &kernel, spent_us, err);
    if (r == 0)
        r = find_raw(config->store, config->image, IMAGE_ROOT, &image, spent_us, err);
    if (r == 0)
        r = start_vm(instance, image, kernel, err);
    if (r == 0)
        r = learn_pace(instance, err);
    if (r == 0)
        r = meet_agent(instance, err);
    return r < 0 ? instance_broken(instance, r, err) : 0;
}

int instance_new(const struct instance_config *config, struct instance **ret_instance,
                 struct error *err)
{
    struct instance *instance = calloc(1, sizeof(*instance));

    if (!instance)
        return error_set(err, ENOMEM, "make an instance");
    instance->state = STATE_NEW;
    instance->config = *config;
    instance->directory.lock = -1;
    instance->patience = &hardware_patience;
    *ret_instance = instance;
    return 0;
}

int instance_boot(const struct instance_config *config, struct instance **ret_instance,
                  struct error *err)
{
    struct instance *instance = NULL;
    int r = instance_new(config, &instance, err);

    if (r < 0)
        return r;
    r = boot(instance, err);
    if (r < 0) {
        instance_destroy(instance);
        return r;
    }
    *ret_instance = instance;
    return 0;
}

/* --- init phase ----------------------------------------------------------------------------------
 */

/* What a result means for the instance: a runtime that was killed or died serves no more. */
static enum event event_of(enum agent_outcome outcome, enum event if_alive)
{
    switch (outcome) {
    case OUTCOME_OK:
    case OUTCOME_RESPONSE_TOO_LARGE:
        return if_alive;
    case OUTCOME_FUNCTION_ERROR:
        return if_alive == EVENT_ANSWERED ? EVENT_ANSWERED : EVENT_RUNTIME_GONE;
    case OUTCOME_TIMEOUT:
    case OUTCOME_EXITED:
    case OUTCOME_OUT_OF_MEMORY:
    case OUTCOME_AGENT_ERROR:
        break;
    }
    return EVENT_RUNTIME_GONE;
}

/* The guest did not keep its own limit: its VM goes, and the caller learns of a timeout. */
static int enforce_timeout(struct instance *instance, uint64_t spent_us,
                           struct agent_result *result, struct error *err)
{
    uint8_t *empty = calloc(1, 1);

    if (!empty)
        return error_set(err, ENOMEM, "take the function's result");
    instance->state = next_state[instance->state][EVENT_BROKEN];
    end_vm(instance);
    *result = (struct agent_result){
        .outcome = OUTCOME_TIMEOUT, .payload = empty, .duration_us = spent_us};
    snprintf(result->message, sizeof(result->message),
             "the guest did not keep the time limit: its VM was ended");
    return 0;
}

uint32_t instance_vm_memory_mib(uint32_t memory_mib, uint32_t tmp_mib)
{
    uint32_t used_mib = memory_mib + tmp_mib + GUEST_SYSTEM_MIB;

    return used_mib + used_mib / PAGE_MAP_SHARE;
}

uint64_t instance_tmp_bytes(uint32_t tmp_mib, uint32_t vm_memory_mib)
{
    uint64_t half = (uint64_t)vm_memory_mib * MIB / 2;

    if (tmp_mib > 0)
        return (uint64_t)tmp_mib * MIB;
    return half < TMP_MAX_BYTES ? half : TMP_MAX_BYTES;
}

void instance_prefer(struct instance *instance)
{
    if (!instance->is_preferred && instance->vm)
        instance->config.hypervisor->prefer(instance->vm);
    instance->is_preferred = true;
}

enum {
    WAITED_MS = 1000,
    BEHIND_MOST_MS = 2000,
    BEHIND_PART = 4, /* of the time that its event has */
};

static void prefer_late(void *opaque)
{
    instance_prefer(opaque);
}

/* Who starts stands behind, but not until its event is out of time. */
static void prefer_in_time(struct instance *instance, uint64_t timeout_ms)
{
    uint64_t behind_ms = timeout_ms / BEHIND_PART;

    behind_ms = behind_ms < BEHIND_MOST_MS ? behind_ms : BEHIND_MOST_MS;
    agent_client_remind(instance->agent, clock_now_ns() + behind_ms * 1000000u, prefer_late,
                        instance);
}

/* Held ready, it is as good as warm: nobody waited for its restore. */
static bool has_waited(const struct instance *instance)
{
    return instance->restored_ns > 0 &&
           clock_now_ns() - instance->restored_ns > WAITED_MS * 1000000ull;
}

int instance_prepare(struct instance *instance, const struct instance_function *function,
                     struct agent_result *ret_result, struct error *err)
{
    const struct patience *patience = instance->patience;
    char made_up[192], group[160];
    struct agent_prepare prepare = {
        .runtime = function->runtime,
        .handler = function->handler,
        .function_name = function->name,
        .function_version = function->version,
        .function_arn = function->arn ? function->arn : made_up,
        .log_group = group,
        .log_stream = instance->id,
        .environment = function->environment,
        .n_environment = function->n_environment,
        .memory_mib = function->memory_mib ? function->memory_mib : instance->config.memory_mib,
        .init_timeout_ms = patience->init_ms,
        .tmp_bytes = instance_tmp_bytes(function->tmp_mib, instance->config.memory_mib),
        .max_log_bytes = MAX_LOG_BYTES};
    uint64_t start_ns = clock_now_ns();
    uint64_t send_ms =
        patience->send_ms + patience->send_ms_per_mib * (function->package->total_bytes / MIB + 1);
    int r = instance_step(instance, EVENT_PREPARE, err);

    if (r < 0)
        return r;
    snprintf(made_up, sizeof(made_up), "arn:aws:lambda:local:000000000000:function:%s",
             function->name);
    snprintf(group, sizeof(group), "/aws/lambda/%s", function->name);
    instance_prefer(instance);
    instance_tell(instance, STAGE_INIT);
    r = agent_client_init(instance->agent, &prepare, function->package, send_ms,
                          patience->init_ms + patience->grace_ms, ret_result, err);
    instance->timings.init_us = instance_us_since(start_ns);
    if (r == -ETIMEDOUT)
        return enforce_timeout(instance, instance->timings.init_us, ret_result, err);
    if (r < 0)
        return instance_broken(instance, r, err);
    r = instance_step(instance, event_of(ret_result->outcome, EVENT_INITIALISED), err);
    if (r < 0)
        agent_result_done(ret_result);
    return r;
}

/* --- events --------------------------------------------------------------------------------------
 */

int instance_invoke(struct instance *instance, const struct agent_event *event,
                    struct agent_result *ret_result, struct error *err)
{
    const struct patience *patience = instance->patience;
    uint64_t start_ns = clock_now_ns();
    uint64_t answer_ms = event->timeout_ms + patience->grace_ms;
    uint64_t send_ms = patience->send_ms + patience->send_ms_per_mib * (event->len_bytes / MIB + 1);
    struct agent_rebirth rebirth = {.instance_id = instance->id, .hostname = instance->id};
    struct agent_event told = *event;
    int r = instance_step(instance, EVENT_INVOKE, err);

    if (r < 0)
        return r;
    if (!instance->is_preferred && has_waited(instance))
        instance_prefer(instance);
    if (!instance->is_preferred)
        prefer_in_time(instance, event->timeout_ms);
    instance_tell(instance, STAGE_INVOKE);
    /* A guest that does not even read its event is not waited for any longer than a slow one. */
    told.rebirth = instance->is_reborn ? &rebirth : NULL;
    instance->is_reborn = false;
    r = agent_client_invoke(instance->agent, &told, send_ms < answer_ms ? send_ms : answer_ms,
                            answer_ms, ret_result, err);
    instance->timings.invoke_us = instance_us_since(start_ns);
    agent_client_remind(instance->agent, 0, NULL, NULL);
    if (r == -ETIMEDOUT)
        return enforce_timeout(instance, instance->timings.invoke_us, ret_result, err);
    if (r < 0)
        return instance_broken(instance, r, err);
    instance_prefer(instance);
    r = instance_step(instance, event_of(ret_result->outcome, EVENT_ANSWERED), err);
    if (r < 0)
        agent_result_done(ret_result);
    return r;
}

bool instance_usable(const struct instance *instance)
{
    return instance->state == STATE_IDLE;
}

bool instance_is_alive(const struct instance *instance)
{
    struct pollfd end = {.events = POLLIN};

    if (!instance->vm || instance->state == STATE_LOST)
        return false;
    /* What a monitor says unasked is how its guest ended. */
    end.fd = instance->config.hypervisor->end_fd(instance->vm);
    return poll(&end, 1, 0) <= 0;
}

const struct agent_hello *instance_hello(const struct instance *instance)
{
    return &instance->hello;
}

const struct instance_timings *instance_timings(const struct instance *instance)
{
    return &instance->timings;
}

const char *instance_jail_missing(const struct instance *instance)
{
    return instance->jail_missing;
}

const char *instance_id(const struct instance *instance)
{
    return instance->id;
}

uint64_t instance_private_bytes(const struct instance *instance)
{
    return instance->private_bytes;
}

void instance_drop_vm(struct instance *instance)
{
    end_vm(instance);
    run_directory_remove(&instance->directory);
}

void instance_destroy(struct instance *instance)
{
    if (!instance)
        return;
    instance_drop_vm(instance);
    free(instance);
}
