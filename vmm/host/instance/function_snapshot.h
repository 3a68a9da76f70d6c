/*
 * The snapshots of functions: which one serves a function, making it if there is none, restoring
 * from it. The tree: base (kernel and agent up) → runtime (interpreter loaded) → function (init
 * phase done); a function's snapshot is made by restoring its runtime's, so publishing one boots
 * only where the runtime level is missing.
 *
 * A snapshot is found by a key of everything that went into it: the images' digests, memory, vCPUs,
 * the function's content and configuration, and this release. No printing, no globals.
 */
#ifndef MAYFLY_HOST_INSTANCE_FUNCTION_SNAPSHOT_H
#define MAYFLY_HOST_INSTANCE_FUNCTION_SNAPSHOT_H

#include "instance.h"
#include "snapshot/snapshot_store.h"

struct function_snapshot_config {
    struct instance_config instance;  /* for every instance that is made on the way */
    struct snapshot_store *snapshots; /* borrowed */
    const char *name;                 /* of the function's snapshot; NULL: made from its key */
    /* May be NULL. If set, a function's snapshot that cannot be written (a full disk) is no failure
     * of function_snapshot_make(): the VM lives on, and this says why there is no snapshot. */
    struct error *unstored;
};

/*
 * function_snapshot_find - 0 with the manifest of @function's snapshot, or -ENOENT.
 */
int function_snapshot_find(const struct function_snapshot_config *config,
                           const struct instance_function *function,
                           struct snapshot_manifest *ret_manifest, struct error *err);

/* function_snapshot_named - by the name (or id prefix) that a user gave it. -ENOENT, -EINVAL for
 * one that is not of a function. */
int function_snapshot_named(const struct function_snapshot_config *config, const char *name,
                            struct snapshot_manifest *ret_manifest, struct error *err);

/*
 * function_snapshot_make - the levels that are missing, and the function's own.
 * *ret_instance (owned): the instance it was taken of, ready for events, if the function's init
 * phase went well; NULL otherwise, with *ret_result saying how it failed. *ret_booted: a guest had
 * to be booted for it. *ret_manifest: valid if *ret_instance is set; its id is "" if the snapshot
 * could not be stored.
 */
int function_snapshot_make(const struct function_snapshot_config *config,
                           const struct instance_function *function, struct instance **ret_instance,
                           struct agent_result *ret_result, struct snapshot_manifest *ret_manifest,
                           bool *ret_booted, struct error *err);

/*
 * function_snapshot_make_runtime - the level that function_snapshot_make() starts from, if it is
 * missing: a boot. Callers that make several functions at once do this first, one at a time.
 * *ret_made: it was missing.
 */
int function_snapshot_make_runtime(const struct function_snapshot_config *config,
                                   const struct instance_function *function, bool *ret_made,
                                   struct error *err);

/* A snapshot in a form that can be restored again and again, without any store. */
struct function_frozen {
    int memory_fd; /* owned, as is the next; neither can be written through */
    int state_fd;
    char *image_path;      /* owned: of the raw root image */
    char cpu_template[32]; /* "": the host's own CPU */
    uint32_t memory_mib;
    uint32_t vcpus;
    bool has_function;
};

/* function_snapshot_open - what @manifest holds. *ret_frozen is owned: function_frozen_done() it.
 * -ENOENT for an image that is gone, else as the stores. */
int function_snapshot_open(const struct function_snapshot_config *config,
                           const struct snapshot_manifest *manifest,
                           struct function_frozen *ret_frozen, struct error *err);
void function_frozen_done(struct function_frozen *frozen);

/* function_frozen_restore - a new instance; of @config, memory, vCPUs and image are not used. Any
 * threads at the same time, for one @frozen. Errors: as instance_restore(). */
int function_frozen_restore(const struct instance_config *config,
                            const struct function_frozen *frozen, struct instance **ret_instance,
                            struct error *err);

/*
 * function_snapshot_restore - a new instance of what @manifest holds. Its memory, vCPUs and image
 * come from there, not from @config. -ENOENT for an image that is gone, else as
 * instance_restore() and the snapshot store.
 */
int function_snapshot_restore(const struct function_snapshot_config *config,
                              const struct snapshot_manifest *manifest,
                              struct instance **ret_instance, struct error *err);

/*
 * function_snapshot_learn - after the first result of an instance that was restored from @manifest:
 * note which pages that took, if it is not known yet, so that a later restore can read them ahead.
 * A failure costs nothing but that.
 */
int function_snapshot_learn(const struct function_snapshot_config *config,
                            const struct snapshot_manifest *manifest, struct instance *instance,
                            struct error *err);

#endif
