/*
 * What runs functions for the API: the registry's functions on the dispatcher's instances.
 * Has built what waits for its snapshot (function_builder.h), holds what is provisioned, turns
 * results into Lambda's.
 *
 * Process: mayflyd. Threads: any through the API's calls; its own for builds and provisioning.
 */
#ifndef MAYFLY_HOST_LAMBDA_BACKEND_H
#define MAYFLY_HOST_LAMBDA_BACKEND_H

#include "api/api.h"
#include "pool/dispatcher.h"
#include "observe/observer.h"

struct lambda_backend;

struct lambda_backend_options {
    struct registry *registry;             /* borrowed, as the dispatcher */
    struct dispatcher *dispatcher;         /* its configuration's image: of runtimes without one */
    uint32_t most_percent, target_percent; /* as in struct provisioner_options */
    const char *state;                     /* directory, for the housekeeper; copied */
    uint64_t cache_bytes;                  /* of flattened memories; 0: the default */
    /* Is there what functions of a runtime need? As runtime_check_images(). Any thread. */
    int (*check_runtime)(void *opaque, const char *runtime, struct error *err);
    void *opaque;
    const struct observer *observer; /* borrowed; NULL: nobody sees what runs */
    /* What nobody waits for and went wrong; one line. Any thread. */
    void (*failed)(const char *request_id, const char *text);
};

int lambda_backend_new(const struct lambda_backend_options *options,
                       struct lambda_backend **ret_backend, struct error *err);

/* The API's, with the backend as opaque. */
extern const struct api_backend lambda_backend_ops;

/* lambda_backend_stop - ends its threads; a build under way must have been interrupted (the
 * dispatcher is shut down first). lambda_backend_free - afterwards; both take NULL. */
void lambda_backend_stop(struct lambda_backend *backend);
void lambda_backend_free(struct lambda_backend *backend);

#endif
