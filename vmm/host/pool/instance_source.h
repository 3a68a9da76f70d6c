/*
 * Where a pool's instances come from: a version's snapshot, found, made or restored, and instances
 * ended. The pool (instance_pool.h) knows when; this knows how.
 *
 * Threads: any, at the same time, for different instances; each call may take as long as a boot.
 */
#ifndef MAYFLY_HOST_POOL_INSTANCE_SOURCE_H
#define MAYFLY_HOST_POOL_INSTANCE_SOURCE_H

#include "concurrency.h"
#include "host/instance/instance.h"
#include "shell_pool.h"

/* One version of one function; what it points to is borrowed for the call. */
struct function_version {
    const char *tenant; /* instances are never shared between tenants */
    /* Names this code with these settings: another one after any change. */
    uint64_t build_id;
    struct instance_function function; /* its package may be NULL: then open_package is asked */
    /* For the few calls that need the code: *ret_package is owned by who asked. */
    int (*open_package)(void *opaque, struct package **ret_package, struct error *err);
    void *opaque;
    const char *image;   /* its root image's name in the store; NULL: the source's */
    uint32_t memory_mib; /* what its processes may take */
    uint32_t tmp_mib;    /* size of /tmp, beside that */
    uint32_t vcpus;
    struct concurrency_limits limits;
};

struct frozen_version; /* a version's snapshot, opened: restoring it needs nothing else */

struct instance_source_ops {
    /* find - the version's snapshot. -ENOENT: none yet. *ret_frozen is owned: forget() it. */
    int (*find)(void *source, const struct function_version *version,
                struct frozen_version **ret_frozen, struct error *err);
    /*
     * make - the version's snapshot, and the instance it was taken of, ready for events. Both
     * owned. If the init phase went wrong, both are NULL and *ret_result (agent_result_done() it)
     * says how; it is set in this case only.
     */
    int (*make)(void *source, const struct function_version *version, agent_log *log, void *opaque,
                struct frozen_version **ret_frozen, struct instance **ret_instance,
                struct agent_result *ret_result, struct error *err);
    /* expect - one of these is likely to be restored soon. May be NULL. */
    void (*expect)(void *source, const struct frozen_version *frozen);
    /* restore - -EBADMSG, -ENOTSUP, -ENOENT: the snapshot is of no use, another may be. */
    int (*restore)(void *source, const struct frozen_version *frozen, agent_log *log, void *opaque,
                   struct instance **ret_instance, struct error *err);
    void (*forget)(struct frozen_version *frozen); /* takes NULL */
    /* is_alive - may it be given an event, as far as is known without asking it? */
    bool (*is_alive)(const struct instance *instance);
    void (*destroy)(struct instance *instance);
};

struct instance_source_config {
    /* hypervisor, image, kernel, run_directory, monitor_path, command_line; interrupt_fd: ends
     * every wait for every instance. Borrowed for the source's life, as is what it points to. */
    struct instance_config machine;
    const char *images_path; /* of the stores; likewise */
    const char *snapshots_path;
    struct shell_pool *shells;
    uint32_t max_vcpus;   /* of any instance, whatever its version asks for; 0: no limit */
    uint64_t cache_bytes; /* limit of flattened memory on disk; 0: the store's default */
};

struct instance_source;

/* The real one: snapshots of function_snapshot.h, shells of @config. *ret_source is owned. */
int instance_source_new(const struct instance_source_config *config,
                        struct instance_source **ret_source, struct error *err);
void instance_source_free(struct instance_source *source);

/* Its ops; their `source` is a struct instance_source. */
extern const struct instance_source_ops instance_source_snapshots;

#endif
