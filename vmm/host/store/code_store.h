/*
 * Deployed code on disk: the zips that clients sent, each once, under the hash of its bytes:
 * <state>/code/<sha256 in hex>.zip. Which are in use, the registry's rows say.
 *
 * Trust: the zips are hostile. Invariants: what stands under its name is complete, flushed, was
 * read through by package.h (so within its limits, no paths or links that lead out), and is never
 * changed; a zip becomes visible only together with the row that refers to it.
 * Threads: any; a struct code_staged belongs to one at a time.
 */
#ifndef MAYFLY_HOST_STORE_CODE_STORE_H
#define MAYFLY_HOST_STORE_CODE_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct code_store;
struct code_staged; /* a zip that was checked and flushed but has no name yet */

/*
 * code_store_stage - write @data (a zip file's @len_bytes) to a temporary file, check it, flush it.
 * code_store_stage_file - the same from a file, for what is not in memory.
 * -E2BIG over 50 MB zipped (or what the file system lets nobody write); -EINVAL for no zip, or one
 * with what a package may not hold, over 250 MB unpacked included; -ENOSPC, and nothing is left.
 * *ret_staged is owned: code_staged_free(), whatever became of it.
 */
int code_store_stage(struct code_store *store, const void *data, size_t len_bytes,
                     struct code_staged **ret_staged, struct error *err);
int code_store_stage_file(struct code_store *store, const char *path,
                          struct code_staged **ret_staged, struct error *err);

/* code_staged_sha256 - its bytes' hash in base64, as Lambda's CodeSha256. _len_bytes: zipped. */
const char *code_staged_sha256(const struct code_staged *staged);
uint64_t code_staged_len_bytes(const struct code_staged *staged);

/* code_staged_free - removes what no function took. Takes NULL. */
void code_staged_free(struct code_staged *staged);

/*
 * code_store_path - where the zip of @code_sha256 (base64, as in struct function) is, for reading
 * and package_open(). -EINVAL for no such hash, -ENAMETOOLONG. Says nothing about its existence.
 */
int code_store_path(const struct code_store *store, const char *code_sha256, char *ret_path,
                    size_t size, struct error *err);

#endif
