/*
 * The access key that mayflyd makes for itself where its configuration has no tenants: kept in
 * <state>/credentials, for its owner only, in the form that AWS's tools read
 * (AWS_SHARED_CREDENTIALS_FILE).
 */
#ifndef MAYFLY_HOST_CREDENTIALS_H
#define MAYFLY_HOST_CREDENTIALS_H

#include "common/error.h"

struct credentials {
    char id[32];
    char secret[64];
};

/* credentials_take - what is in the file, or new ones, written to it. 0 or -errno (-EBADMSG for a
 * file that has no key). */
int credentials_take(const char *path, const char *region, struct credentials *ret_credentials,
                     struct error *err);

#endif
