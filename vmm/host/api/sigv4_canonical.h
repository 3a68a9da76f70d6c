/* The canonical request that a signature covers: shared by sigv4*.c and their tests only. */
#ifndef MAYFLY_HOST_API_SIGV4_CANONICAL_H
#define MAYFLY_HOST_API_SIGV4_CANONICAL_H

#include "sigv4.h"

/*
 * sigv4_canonical - @payload_hash: the last line (64 digits or UNSIGNED-PAYLOAD).
 * *ret_text is owned, zero-terminated. -EINVAL where a signed header is not there, -ENOMEM.
 */
int sigv4_canonical(const struct http_request *request, const struct sigv4_claim *claim,
                    const char *payload_hash, char **ret_text, size_t *ret_len, struct error *err);

#endif
