/*
 * Builds: what the registry lists as pending gets its snapshot, one way or the other.
 *
 * Process: mayflyd. Threads: two of its own; calls from any. After a restart the registry's list is
 * still there, so nothing is lost with the process.
 */
#ifndef MAYFLY_HOST_FUNCTION_BUILDER_H
#define MAYFLY_HOST_FUNCTION_BUILDER_H

#include "dispatcher.h"
#include "registry.h"

struct function_builder;

struct function_builder_options {
    struct registry *registry; /* borrowed */
    /* Makes the snapshot: as dispatcher_build(). It returns soon after a shutdown (-ESHUTDOWN). */
    int (*build)(void *opaque, const struct function_version *version,
                 struct invocation_result *ret_result, struct error *err);
    void (*built)(void *opaque); /* a build has ended: its version may serve, or be provisioned */
    void *opaque;
    void (*failed)(const char *request_id, const char *text); /* nobody waits for it; one line */
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
