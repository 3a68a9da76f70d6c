/*
 * Instances across snapshots: freezing one, and making one from what was frozen. Process: the
 * host's; trust as in instance.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/fd.h"
#include "instance_internal.h"
#include "host/pool/shell_pool.h"

enum { SHELL_WAIT_MS = 30000 }; /* for an empty VM, where none is ready */

enum { FREEZE_MS = 10000 }; /* for a guest that has settled to come to its freeze point */

static int outcome_error(const struct agent_result *result, const char *what, struct error *err)
{
    return error_say(err, EIO, "%s: %s", what,
                     result->message[0] ? result->message : "the agent does not say why");
}

int instance_preload(struct instance *instance, const char *runtime, uint32_t memory_mib,
                     struct error *err)
{
    struct agent_result result;

    instance_tell(instance, STAGE_INIT);
    int r = agent_client_preload(instance->agent, runtime, memory_mib,
                                 instance_tmp_bytes(0, instance->config.memory_mib), MAX_LOG_BYTES,
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
    /* Beside the hooks, a runtime's own part is in it: a full collection of garbage. */
    r = agent_client_freeze(
        instance->agent, instance->patience->settle_ms, instance->patience->init_ms,
        2ull * instance->patience->init_ms + instance->patience->grace_ms, ret_result, err);
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
    instance->restored_ns = clock_now_ns();
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

/* The instance moves into @shell, which is empty afterwards. */
static void move_in(struct instance *instance, struct shell *shell)
{
    memcpy(instance->id, shell->id, sizeof(instance->id));
    instance->directory = shell->directory;
    instance->vm = shell->vm;
    instance->private_bytes = shell->private_bytes;
    memcpy(instance->jail_missing, shell->jail_missing, sizeof(instance->jail_missing));
    instance->timings.vm_create_us = shell->create_us;
    instance->state = STATE_RUNNING;
    instance_be_patient(instance, shell->emulates_supervisor);
}

/* @is_fresh: not one that has waited. */
static int get_shell(struct instance *instance, const struct shell_shape *shape, bool is_fresh,
                     struct error *err)
{
    const struct instance_config *config = &instance->config;
    struct shell shell;
    int r;

    instance_tell(instance, STAGE_VM_CREATE);
    if (!config->shells)
        r = shell_make(config, shape, &shell, err);
    else if (is_fresh || (r = shell_pool_take(config->shells, shape, &shell)) < 0)
        r = shell_pool_make(config->shells, shape, SHELL_WAIT_MS, &shell, err);
    if (r == 0)
        move_in(instance, &shell);
    return r;
}

/* A shell may have died, or die now; if a new one does as well, something is wrong. */
static int fill_shell(struct instance *instance, const struct shell_shape *shape,
                      const struct instance_frozen *frozen, struct error *err)
{
    int r = get_shell(instance, shape, false, err);

    if (r == 0)
        r = take_up(instance, frozen, err);
    if (r != -ECONNRESET)
        return r < 0 ? instance_broken(instance, r, err) : 0;
    instance_drop_vm(instance);
    r = get_shell(instance, shape, true, err);
    if (r == 0)
        r = take_up(instance, frozen, err);
    if (r < 0)
        r = instance_broken(instance, r, err);
    return r == -ECONNRESET ? error_wrap(err, "two empty VMs in a row died in a restore") : r;
}

static int restore(struct instance *instance, const struct instance_frozen *frozen,
                   struct error *err)
{
    AUTO_FREE char *found = NULL;
    const struct instance_config *config = &instance->config;
    int r = config->image_path ? 0 : instance_find_image(config, config->image, &found, err);
    const struct shell_shape shape = {.image = found ? found : config->image_path,
                                      .cpu_template = config->cpu_template,
                                      .memory_mib = config->memory_mib,
                                      .cpu_mib = config->cpu_mib,
                                      .vcpus = config->vcpus};

    if (r == 0)
        r = fill_shell(instance, &shape, frozen, err);
    if (r < 0 || frozen->has_function)
        return r;
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

/* --- working set --------------------------------------------------------------------------- */

/* A file that cannot grow: what a monitor writes there costs the host no more than this. */
static int bounded_file(uint64_t limit_bytes, struct error *err)
{
    AUTO_FD fd = memfd_create("mayfly-pages", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, (off_t)limit_bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        return error_set(err, errno, "make a file for a list of pages");
    return fd_steal(&fd);
}

/* Read once, then checked: the monitor has the file still. */
static int take_pages(int fd, uint32_t n_pages, struct snapshot_extents *ret_pages,
                      struct error *err)
{
    uint8_t header[SNAPSHOT_EXTENTS_HEADER_BYTES];
    int r = fd_pread_all(fd, header, sizeof(header), 0);

    if (r < 0)
        return error_set(err, -r, "read the working set");
    uint32_t n_runs = snapshot_extents_count(header);
    if (n_runs > n_pages / 2 + 1)
        return error_say(err, EBADMSG, "the monitor's list of pages claims %u runs", n_runs);
    const size_t len = sizeof(header) + (size_t)n_runs * SNAPSHOT_EXTENT_BYTES;
    AUTO_FREE uint8_t *list = malloc(len);
    r = list ? fd_pread_all(fd, list, len, 0) : -ENOMEM;
    if (r < 0)
        return error_set(err, -r, "read the working set");
    return snapshot_extents_parse(list, len, n_pages, "the monitor's list of pages", ret_pages,
                                  err);
}

int instance_working_set(struct instance *instance, struct snapshot_extents *ret_pages,
                         struct error *err)
{
    const uint32_t n_pages = instance->config.memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB;
    AUTO_FD fd = bounded_file(
        SNAPSHOT_EXTENTS_HEADER_BYTES + (n_pages / 2 + 1) * (uint64_t)SNAPSHOT_EXTENT_BYTES, err);

    if (fd < 0)
        return fd;
    if (!instance->vm)
        return error_say(err, ECONNRESET, "the VM is gone");
    int r = instance->config.hypervisor->working_set(instance->vm, fd, err);
    return r < 0 ? r : take_pages(fd, n_pages, ret_pages, err);
}
