/*
 * A function's files as the ZIP that the API takes: the same files always give the same bytes, so
 * that a hash says whether anything changed. Process: the CLI. The files are the user's own.
 */
#ifndef MAYFLY_CLI_DEPLOY_ZIP_H
#define MAYFLY_CLI_DEPLOY_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { DEPLOY_SHA256_BYTES = 45 }; /* base64 and its 0 */

struct deploy_zip {
    uint8_t *data; /* owned: deploy_zip_done() */
    size_t len_bytes;
    char sha256[DEPLOY_SHA256_BYTES]; /* as CodeSha256 is shown */
    size_t n_files;
};

/*
 * deploy_zip_make - of the directory or archive at @path, without what belongs to the place and not
 * to the function: .git, __pycache__, and mayfly.yaml. -EINVAL and so on as package_open();
 * -E2BIG for more than 50 MB zipped.
 */
int deploy_zip_make(const char *path, struct deploy_zip *ret_zip, struct error *err);
void deploy_zip_done(struct deploy_zip *zip);

#endif
