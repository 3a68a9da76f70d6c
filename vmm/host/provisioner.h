/*
 * Provisioned concurrency: what the registry's configurations ask for, held by the pool. One thread
 * compares the two after each change, and lets go of what nobody asks for any more: configurations
 * that were deleted, versions, aliases that point elsewhere, functions.
 *
 * Process: mayflyd. Trust: the registry's rows were checked when they were put. Threads: any.
 */
#ifndef MAYFLY_HOST_PROVISIONER_H
#define MAYFLY_HOST_PROVISIONER_H

#include "pool/instance_pool.h"
#include "store/registry_attached.h"

struct provisioner;

struct provisioner_options {
    struct registry *registry;  /* borrowed, as the pool */
    struct instance_pool *pool; /* shut down before provisioner_stop() */
    /* Target tracking: up to so many times what is asked for, when so much of it is busy. 0: 100
     * (a fixed number) and 70. */
    uint32_t most_percent, target_percent;
    /* What went wrong, once each time that it changes; one line. */
    void (*failed)(const char *request_id, const char *text);
};

/* How far one configuration is. */
struct provisioner_status {
    uint32_t allocated; /* taken up by the pool: it holds so many or is about to */
    uint32_t available; /* of these, initialised: their next event is a warm one */
    char failure[200];  /* why it cannot be held, or ""; it is tried again all the same */
};

int provisioner_new(const struct provisioner_options *options, struct provisioner **ret_provisioner,
                    struct error *err);

/* provisioner_wake - something changed. Never blocks for long. */
void provisioner_wake(struct provisioner *provisioner);

/* provisioner_status - of @item of @tenant, as it was last looked at. Nothing is known: zeros. */
void provisioner_get_status(struct provisioner *provisioner, const char *tenant,
                            const struct provisioned *item, struct provisioner_status *ret_status);

/* provisioner_stop - ends the thread. _free - afterwards. Both take NULL. */
void provisioner_stop(struct provisioner *provisioner);
void provisioner_free(struct provisioner *provisioner);

#endif
