/*
 * Instances across snapshots: freezing one, and making one from what was frozen. Process: the
 * host's; trust as in instance.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/fd.h"
#include "instance_internal.h"

enum { FREEZE_MS = 10000 }; /* for a guest that has settled to come to its freeze point */

static int outcome_error(const struct agent_result *result, const char *what, struct error *err)
{
    return error_say(err, EIO, "%s: %s", what,
                     result->message[0] ? result->message : "the agent does not say why");
}

int instance_preload(struct instance *instance, const char *runtime, struct error *err)
{
    struct agent_result result;

    instance_tell(instance, STAGE_INIT);
    int r = agent_client_preload(instance->agent, runtime,
                                 instance_tmp_bytes(instance->config.memory_mib), MAX_LOG_BYTES,
                                 instance->patience->init_ms, &result, err);
    if (r < 0)
        return instance_broken(instance, r, err);
    if (result.outcome != OUTCOME_OK)
        r = outcome_error(&result, "load the runtime ahead", err);
    agent_result_done(&result);
    return r < 0 ? r : instance_step(instance, EVENT_PRELOADED, err);
}

int instance_freeze(struct instance *instance, int memory_fd, int state_fd,
                    struct agent_result *ret_result, struct error *err)
{
    const struct hypervisor_ops *hypervisor = instance->config.hypervisor;
    int r = instance_step(instance, EVENT_FROZEN, err);

    if (r < 0)
        return r;
    instance_tell(instance, STAGE_FREEZE);
    r = agent_client_freeze(instance->agent, instance->patience->settle_ms,
                            instance->patience->init_ms, ret_result, err);
    if (r < 0)
        return instance_broken(instance, r, err);
    if (ret_result->outcome != OUTCOME_OK)
        return instance_step(instance, EVENT_BROKEN, err);
    r = hypervisor->freeze(instance->vm, instance->patience->settle_ms + FREEZE_MS, err);
    if (r == 0)
        r = hypervisor->snapshot(instance->vm, memory_fd, state_fd, err);
    if (r < 0)
        agent_result_done(ret_result);
    return r;
}

int instance_thaw(struct instance *instance, struct error *err)
{
    /* Its before-snapshot hooks have run: the first event brings the after-restore ones. */
    instance->is_reborn = instance->state == STATE_IDLE;
    return instance->config.hypervisor->resume(instance->vm, err);
}

static int take_up(struct instance *instance, const struct instance_frozen *frozen,
                   struct error *err)
{
    const struct instance_config *config = &instance->config;
    struct vm_restore_times times;
    uint64_t start_ns = clock_now_ns();
    int fd;

    instance_tell(instance, STAGE_RESTORE);
    int r = config->hypervisor->restore(instance->vm, frozen->memory_fd, frozen->state_fd, &fd,
                                        &times, err);
    if (r < 0)
        return r;
    instance->timings.restore_us = instance_us_since(start_ns);
    r = agent_client_new(fd, config->hypervisor->end_fd(instance->vm), config->interrupt_fd,
                         config->on_log, config->opaque, &instance->agent, err);
    if (r < 0)
        return r;
    instance->is_reborn = true;
    return instance_step(instance,
                         frozen->has_function ? EVENT_RESTORED_IDLE : EVENT_RESTORED_READY, err);
}

/* A guest without a function is told apart from its Prepare: no handler can run in between. */
static int tell_rebirth(struct instance *instance, struct error *err)
{
    const struct agent_rebirth rebirth = {.instance_id = instance->id, .hostname = instance->id};

    instance->is_reborn = false;
    return agent_client_reborn(instance->agent, &rebirth, instance->patience->send_ms, err);
}

static int restore(struct instance *instance, const struct instance_frozen *frozen,
                   struct error *err)
{
    AUTO_FREE char *image = NULL;
    int r = instance_find_raw(instance, instance->config.image, IMAGE_ROOT, &image, err);

    if (r == 0)
        r = instance_start_vm(instance, image, NULL, err);
    if (r == 0)
        r = instance_learn_pace(instance, err);
    if (r == 0)
        r = take_up(instance, frozen, err);
    if (r == 0 && !frozen->has_function)
        r = tell_rebirth(instance, err);
    return r < 0 ? instance_broken(instance, r, err) : 0;
}

int instance_restore(const struct instance_config *config, const struct instance_frozen *frozen,
                     struct instance **ret_instance, struct error *err)
{
    struct instance *instance = NULL;
    int r = instance_new(config, &instance, err);

    if (r < 0)
        return r;
    r = restore(instance, frozen, err);
    if (r < 0) {
        instance_destroy(instance);
        return r;
    }
    *ret_instance = instance;
    return 0;
}
