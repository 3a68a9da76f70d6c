/* A registry's function as the dispatcher's version: see lambda_version.c. */
#ifndef MAYFLY_HOST_LAMBDA_VERSION_H
#define MAYFLY_HOST_LAMBDA_VERSION_H

#include "pool/dispatcher.h"
#include "store/registry.h"

enum { LAMBDA_ARN_BYTES = 320 };

/* lambda_version_init'ed; borrows from the function and the registry until _done. */
struct lambda_version {
    struct function_version version;
    struct agent_variable *environment; /* owned */
    char arn[LAMBDA_ARN_BYTES];
    const struct function *function;
    struct registry *registry;
    char label[40];   /* of its snapshot: <registry>.<build> */
    bool is_code_bad; /* the code was wanted and could not be opened */
};

/* lambda_version_init - must stay where it is until lambda_version_done(). -ENOMEM, or the
 * registry's errors. */
int lambda_version_init(struct lambda_version *version, struct registry *registry,
                        const struct function *function, struct error *err);
/* lambda_version_parse_label - the build that the snapshot @name is of; 0: it has no such label, or
 * another registry's. */
uint64_t lambda_version_parse_label(const struct registry *registry, const char *name);

void lambda_version_done(struct lambda_version *version);

#endif
