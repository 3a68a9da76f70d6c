/*
 * Could an invocation be run now? What /readyz answers with.
 * Process: mayflyd. Threads: any. Looks at disks and devices; changes nothing.
 */
#ifndef MAYFLY_HOST_OBSERVE_READINESS_H
#define MAYFLY_HOST_OBSERVE_READINESS_H

#include "host/api/api.h"
#include "host/pool/shell_pool.h"

/* All borrowed. */
struct readiness_sources {
    bool is_stopping;
    struct registry *registry;
    const char *tenant; /* one that must be there */
    const char *images_path, *kernel;
    const char *kvm_path; /* NULL: /dev/kvm */
    struct shell_pool *shells;
};

/* readiness_check - a reason for each thing that is missing; they name no path but devices'. */
void readiness_check(const struct readiness_sources *sources, struct api_readiness *ret_readiness);

#endif
