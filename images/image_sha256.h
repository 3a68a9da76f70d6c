/* SHA-256 through libcrypto, which uses the CPU's SHA instructions (README.md says why it matters).
 */
#ifndef MAYFLY_IMAGES_IMAGE_SHA256_H
#define MAYFLY_IMAGES_IMAGE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { SHA256_BYTES = 32 };

struct sha256;

/* sha256_new - NULL when there is no memory. One thread at a time may use an object. */
struct sha256 *sha256_new(void);
void sha256_free(struct sha256 *sha256);

/* sha256_add - more content. sha256_take - the digest so far; the object starts afresh. */
void sha256_add(struct sha256 *sha256, const void *data, size_t len_bytes);
void sha256_take(struct sha256 *sha256, uint8_t ret_digest[SHA256_BYTES]);

/* sha256_of - the digest of one block. -ENOMEM. */
int sha256_of(const void *data, size_t len_bytes, uint8_t ret_digest[SHA256_BYTES]);

/* sha256_of_file - of @len_bytes of @fd from its start. Returns 0 or -errno (-ENODATA: shorter). */
int sha256_of_file(int fd, uint64_t len_bytes, uint8_t ret_digest[SHA256_BYTES]);

/* sha256_hex - 64 digits and a terminating 0. */
void sha256_hex(const uint8_t digest[SHA256_BYTES], char ret_hex[2 * SHA256_BYTES + 1]);

/* sha256_from_hex - the reverse; @hex must be 64 lower-case digits. */
void sha256_from_hex(const char *hex, uint8_t ret_digest[SHA256_BYTES]);

#endif
