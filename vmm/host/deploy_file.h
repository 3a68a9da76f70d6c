/*
 * mayfly.yaml: what `mayfly deploy` deploys.
 *
 *   functions:
 *     - name: wordcount
 *       runtime: python3.11
 *       handler: app.handler
 *       code: .                     # a directory or archive, relative to the file
 *       memory: 256                 # MiB
 *       timeout: 10                 # s
 *       environment: [STAGE=test, "GREETING=hello, you"]
 *       concurrency: 10             # reserved
 *
 * Trust: the user's own. Names, ranges and patterns are the API's to check; here is the form.
 */
#ifndef MAYFLY_HOST_DEPLOY_FILE_H
#define MAYFLY_HOST_DEPLOY_FILE_H

#include <stdint.h>

#include "common/error.h"

struct deploy_function {
    char *name, *runtime, *handler;  /* required */
    char *code, *description, *role; /* NULL: not said; code: "." */
    uint32_t memory, timeout, tmp;   /* MiB, s, MiB; 0: not said */
    char **environment;              /* each "NAME=value" */
    unsigned n_environment;
    int32_t *concurrency; /* reserved; NULL: not said */
};

struct deploy_file {
    struct deploy_function *functions;
    unsigned n_functions;
};

/* deploy_file_load - 0 with *ret_file owned, or -errno; -EINVAL names file, line and field. */
int deploy_file_load(const char *path, struct deploy_file **ret_file, struct error *err);
void deploy_file_free(struct deploy_file *file);

#endif
