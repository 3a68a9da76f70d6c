/*
 * Instances from snapshots: see instance_source.h. Process: the host's daemon; trusts its callers.
 * Stores are opened anew by each call that needs them: an open store is one thread's, and calls may
 * last as long as a boot.
 */
#include "instance_source.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/fd.h"
#include "host/instance/function_snapshot.h"

struct instance_source {
    struct instance_source_config config;
    pthread_mutex_t boot_lock; /* held while a runtime's snapshot is made */
};

struct frozen_version {
    struct function_frozen parts;
    uint32_t cpu_mib; /* the function's memory */
};

enum { OWNER_BYTES = 256 };

/* What one call works with. */
struct work {
    struct function_snapshot_config config;
    struct instance_function function;
    char owner[OWNER_BYTES];
    struct image_store *images; /* owned, as are the next two */
    struct snapshot_store *snapshots;
    struct package *opened; /* NULL: the caller's package is used */
};

static void work_done(struct work *work)
{
    image_store_close(work->images);
    snapshot_store_close(work->snapshots);
    package_free(work->opened);
}

static int work_init(struct work *work, const struct instance_source *source,
                     const struct function_version *version, struct error *err)
{
    int r = image_store_open(source->config.images_path, &work->images, err);

    if (r == 0)
        r = snapshot_store_open(source->config.snapshots_path, &work->snapshots, err);
    if (r < 0)
        return r;
    if (source->config.cache_bytes > 0)
        snapshot_store_set_cache_limit(work->snapshots, source->config.cache_bytes);
    work->config = (struct function_snapshot_config){.instance = source->config.machine,
                                                     .snapshots = work->snapshots};
    work->config.instance.store = work->images;
    work->config.instance.shells = source->config.shells;
    if (version->image)
        work->config.instance.image = version->image;
    work->config.instance.memory_mib =
        instance_vm_memory_mib(version->memory_mib, version->tmp_mib);
    work->config.instance.cpu_mib = version->memory_mib;
    work->config.instance.vcpus = version->vcpus;
    if (source->config.max_vcpus && version->vcpus > source->config.max_vcpus)
        work->config.instance.vcpus = source->config.max_vcpus;
    work->function = version->function;
    work->function.memory_mib = version->memory_mib;
    work->function.tmp_mib = version->tmp_mib;
    /* The build as well: one that is made anew has an init phase of its own. It is unique, and
     * first: a tenant's name that does not fit does no harm. */
    snprintf(work->owner, sizeof(work->owner), "%llu %s", (unsigned long long)version->build_id,
             version->tenant);
    work->function.owner = work->owner;
    if (work->function.package)
        return 0;
    if (!version->open_package)
        return error_say(err, EINVAL, "the code of function '%s' is missing",
                         version->function.name);
    r = version->open_package(version->opaque, &work->opened, err);
    work->function.package = work->opened;
    return r;
}

static int open_frozen(const struct work *work, const struct snapshot_manifest *manifest,
                       struct frozen_version **ret_frozen, struct error *err)
{
    AUTO_FREE struct frozen_version *frozen = calloc(1, sizeof(*frozen));

    if (!frozen)
        return error_set(err, ENOMEM, "open a snapshot");
    frozen->cpu_mib = work->config.instance.cpu_mib;
    int r = function_snapshot_open(&work->config, manifest, &frozen->parts, err);
    if (r == 0)
        *ret_frozen = mem_steal(&frozen);
    return r;
}

static int source_find(void *opaque, const struct function_version *version,
                       struct frozen_version **ret_frozen, struct error *err)
{
    struct work work __attribute__((cleanup(work_done))) = {.images = NULL};
    struct snapshot_manifest manifest;
    int r = work_init(&work, opaque, version, err);

    if (r == 0)
        r = function_snapshot_find(&work.config, &work.function, &manifest, err);
    return r < 0 ? r : open_frozen(&work, &manifest, ret_frozen, err);
}

/* Many versions may be made at once, but what they all start from is booted once. */
static int make_runtime(struct instance_source *source, const struct work *work, struct error *err)
{
    bool is_made;

    pthread_mutex_lock(&source->boot_lock);
    int r = function_snapshot_make_runtime(&work->config, &work->function, &is_made, err);
    pthread_mutex_unlock(&source->boot_lock);
    return r;
}

static int source_make(void *opaque, const struct function_version *version, agent_log *log,
                       void *log_opaque, struct frozen_version **ret_frozen,
                       struct instance **ret_instance, struct agent_result *ret_result,
                       struct error *err)
{
    struct work work __attribute__((cleanup(work_done))) = {.images = NULL};
    struct frozen_version *frozen = NULL;
    struct instance *instance = NULL;
    struct snapshot_manifest manifest;
    struct agent_result result;
    bool is_booted;
    int r = work_init(&work, opaque, version, err);

    if (r < 0)
        return r;
    work.config.instance.on_log = log;
    work.config.instance.opaque = log_opaque;
    r = make_runtime(opaque, &work, err);
    if (r == 0)
        r = function_snapshot_make(&work.config, &work.function, &instance, &result, &manifest,
                                   &is_booted, err);
    if (r < 0)
        return r;
    if (instance) {
        agent_result_done(&result);
        r = open_frozen(&work, &manifest, &frozen, err);
    } else {
        *ret_result = result;
    }
    if (r < 0) {
        instance_destroy(instance);
        return r;
    }
    *ret_frozen = frozen;
    *ret_instance = instance;
    return 0;
}

static int source_restore(void *opaque, const struct frozen_version *frozen, agent_log *log,
                          void *log_opaque, struct instance **ret_instance, struct error *err)
{
    const struct instance_source *source = opaque;
    struct instance_config config = source->config.machine;

    config.shells = source->config.shells;
    config.cpu_mib = frozen->cpu_mib;
    config.on_log = log;
    config.opaque = log_opaque;
    return function_frozen_restore(&config, &frozen->parts, ret_instance, err);
}

static void source_expect(void *opaque, const struct frozen_version *frozen)
{
    const struct instance_source *source = opaque;
    const struct shell_shape shape = {.image = frozen->parts.image_path,
                                      .cpu_template = frozen->parts.cpu_template,
                                      .memory_mib = frozen->parts.memory_mib,
                                      .cpu_mib = frozen->cpu_mib,
                                      .vcpus = frozen->parts.vcpus};

    if (source->config.shells)
        shell_pool_expect(source->config.shells, &shape);
}

static void source_forget(struct frozen_version *frozen)
{
    if (!frozen)
        return;
    function_frozen_done(&frozen->parts);
    free(frozen);
}

static bool source_is_alive(const struct instance *instance)
{
    return instance_usable(instance) && instance_is_alive(instance);
}

const struct instance_source_ops instance_source_snapshots = {.find = source_find,
                                                              .make = source_make,
                                                              .expect = source_expect,
                                                              .restore = source_restore,
                                                              .forget = source_forget,
                                                              .is_alive = source_is_alive,
                                                              .destroy = instance_destroy};

int instance_source_new(const struct instance_source_config *config,
                        struct instance_source **ret_source, struct error *err)
{
    struct instance_source *source = calloc(1, sizeof(*source));

    if (!source)
        return error_set(err, ENOMEM, "make the source of instances");
    source->config = *config;
    pthread_mutex_init(&source->boot_lock, NULL);
    *ret_source = source;
    return 0;
}

void instance_source_free(struct instance_source *source)
{
    if (!source)
        return;
    pthread_mutex_destroy(&source->boot_lock);
    free(source);
}
