/*
 * What runs functions for the API: the registry's functions on the dispatcher's instances.
 * Builds what waits for its snapshot, holds what is provisioned, turns results into Lambda's.
 *
 * Process: mayflyd. Threads: any through the API's calls; two of its own for builds.
 */
#ifndef MAYFLY_HOST_LAMBDA_BACKEND_H
#define MAYFLY_HOST_LAMBDA_BACKEND_H

#include "api/api.h"
#include "dispatcher.h"
#include "observer.h"

struct lambda_backend;

struct lambda_backend_options {
    struct registry *registry;     /* borrowed, as the dispatcher */
    struct dispatcher *dispatcher; /* its configuration's image: of runtimes without one */
    const char *const *tenants;    /* whose provisioned concurrency is to be held; copied */
    size_t n_tenants;
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
