/* What the registry alone may do with stored code: see code_store.h. */
#ifndef MAYFLY_HOST_STORE_CODE_STORE_INTERNAL_H
#define MAYFLY_HOST_STORE_CODE_STORE_INTERNAL_H

#include <stdbool.h>

#include "code_store.h"

/* code_store_open - @directory is made where it is missing. */
int code_store_open(const char *directory, struct code_store **ret_store, struct error *err);
void code_store_close(struct code_store *store);

/*
 * code_staged_publish - give it its name, unless that is taken by the same content already. In the
 * registry's write transaction, before the row that refers to it is committed: so that neither
 * collecting nor a second publisher comes between.
 */
int code_staged_publish(struct code_staged *staged, struct error *err);

/* code_staged_is_published - has this one made the file of its name? */
bool code_staged_is_published(const struct code_staged *staged);

/* code_store_remove - the zip of @code_sha256; one that is not there is fine. */
int code_store_remove(struct code_store *store, const char *code_sha256, struct error *err);

/*
 * code_store_sweep - remove files that killed processes left: temporary ones, and zips for which
 * @in_use says 0. In a write transaction. @in_use: 1, 0 or -errno, which ends the sweep.
 */
typedef int code_in_use(void *opaque, const char *code_sha256, struct error *err);
int code_store_sweep(struct code_store *store, code_in_use *in_use, void *opaque,
                     uint64_t *ret_freed_bytes, struct error *err);

/* code_sha256_check - is it 32 bytes in base64? */
bool code_sha256_check(const char *text);

#endif
