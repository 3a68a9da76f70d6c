/*
 * The digest of a flattened memory: SHA-256 over the SHA-256 of each MiB. So that every core can
 * work on it, and holes cost nothing.
 */
#ifndef MAYFLY_SNAPSHOT_MEMORY_DIGEST_H
#define MAYFLY_SNAPSHOT_MEMORY_DIGEST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "images/image_codec.h"
#include "images/image_sha256.h"

enum { MEMORY_CHUNK_BYTES = 1 << 20 };

struct memory_digest {
    uint32_t n_chunks;
    uint8_t (*chunks)[SHA256_BYTES]; /* owned; each is written by one thread */
};

/* memory_digest_init - for @n_chunks MiB, all of them zeroes until said otherwise. -ENOMEM. */
int memory_digest_init(struct memory_digest *digest, uint32_t n_chunks);
void memory_digest_done(struct memory_digest *digest);

/* memory_digest_set - what is in MiB @chunk. Different chunks: from any thread. */
void memory_digest_set(struct memory_digest *digest, uint32_t chunk, struct sha256 *sha256,
                       const void *data);

/* memory_digest_take - the whole; 64 digits and a 0. -ENOMEM. */
int memory_digest_take(const struct memory_digest *digest, char ret_hex[2 * SHA256_BYTES + 1]);

/* memory_chunk_has_data - is there anything but a hole in @len_bytes of @fd? Any thread. */
bool memory_chunk_has_data(int fd, uint64_t offset_bytes, uint64_t len_bytes);

/* memory_digest_of_file - of the first @n_chunks MiB of @fd, on all cores. Returns 0 or -errno. */
int memory_digest_of_file(int fd, uint32_t n_chunks, const char *what,
                          char ret_hex[2 * SHA256_BYTES + 1], const struct image_watch *watch,
                          struct error *err);

#endif
