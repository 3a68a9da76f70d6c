/*
 * Builds: what the registry lists as pending gets its snapshot, or becomes Failed with a reason.
 * Tenants take turns. What fails for the host's own reasons is tried again, if that may help.
 *
 * Process: mayflyd. Threads: two of its own; calls from any. What is pending, how often it was
 * tried and when it is due is all in the registry: nothing is lost with the process.
 */
#ifndef MAYFLY_HOST_FUNCTION_BUILDER_H
#define MAYFLY_HOST_FUNCTION_BUILDER_H

#include "pool/dispatcher.h"
#include "store/registry.h"

struct function_builder;

enum build_end {
    BUILD_SERVES,  /* it is Active: older builds of its version are of no more use */
    BUILD_FAILED,  /* an older one, if there is one, goes on */
    BUILD_NOBODYS, /* deleted or changed meanwhile: what it left behind is of no use */
};

/* What makes snapshots; on the builder's threads. */
struct function_builder_ops {
    /* check - is there what functions of @runtime need? As runtime_check_images(). */
    int (*check)(void *opaque, const char *runtime, struct error *err);
    /* build - as dispatcher_build(). Returns -ESHUTDOWN soon after a shutdown. */
    int (*build)(void *opaque, const struct function *function,
                 const struct function_version *version, struct invocation_result *ret_result,
                 struct error *err);
    /* ended - after the registry knows. */
    void (*ended)(void *opaque, const struct function_version *version, enum build_end end);
    /* failed - the host's own trouble, once per change; one line. */
    void (*failed)(void *opaque, const char *text);
};

struct function_builder_options {
    struct registry *registry; /* borrowed, as are the ops */
    const struct function_builder_ops *ops;
    void *opaque;
};

int function_builder_new(const struct function_builder_options *options,
                         struct function_builder **ret_builder, struct error *err);

/* function_builder_wake - the registry has changed: there may be something to build. */
void function_builder_wake(struct function_builder *builder);

/* function_builder_stop - ends its threads; a build under way must have been interrupted.
 * function_builder_free - afterwards; both take NULL. */
void function_builder_stop(struct function_builder *builder);
void function_builder_free(struct function_builder *builder);

#endif
