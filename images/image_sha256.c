/*
 * SHA-256 through libcrypto's EVP interface.
 * A digest that cannot be computed (libcrypto without SHA-256, which no build has) is a bug:
 * assert.
 */
#include "images/image_sha256.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>

#include "common/fd.h"

enum { FILE_CHUNK_BYTES = 1 << 18 };

struct sha256 {
    EVP_MD_CTX *context; /* owned */
};

static void start(struct sha256 *sha256)
{
    int ok = EVP_DigestInit_ex(sha256->context, EVP_sha256(), NULL);

    assert(ok == 1);
}

struct sha256 *sha256_new(void)
{
    struct sha256 *sha256 = calloc(1, sizeof(*sha256));

    if (!sha256)
        return NULL;
    sha256->context = EVP_MD_CTX_new();
    if (!sha256->context) {
        free(sha256);
        return NULL;
    }
    start(sha256);
    return sha256;
}

void sha256_free(struct sha256 *sha256)
{
    if (!sha256)
        return;
    EVP_MD_CTX_free(sha256->context);
    free(sha256);
}

void sha256_add(struct sha256 *sha256, const void *data, size_t len_bytes)
{
    int ok = EVP_DigestUpdate(sha256->context, data, len_bytes);

    assert(ok == 1);
}

void sha256_take(struct sha256 *sha256, uint8_t ret_digest[SHA256_BYTES])
{
    unsigned int len = 0;
    int ok = EVP_DigestFinal_ex(sha256->context, ret_digest, &len);

    assert(ok == 1 && len == SHA256_BYTES);
    start(sha256);
}

int sha256_of(const void *data, size_t len_bytes, uint8_t ret_digest[SHA256_BYTES])
{
    struct sha256 *sha256 = sha256_new();

    if (!sha256)
        return -ENOMEM;
    sha256_add(sha256, data, len_bytes);
    sha256_take(sha256, ret_digest);
    sha256_free(sha256);
    return 0;
}

int sha256_of_file(int fd, uint64_t len_bytes, uint8_t ret_digest[SHA256_BYTES])
{
    AUTO_FREE uint8_t *chunk = malloc(FILE_CHUNK_BYTES);
    struct sha256 *sha256 = sha256_new();
    int r = chunk && sha256 ? 0 : -ENOMEM;

    for (uint64_t at = 0; r == 0 && at < len_bytes;) {
        size_t n = len_bytes - at < FILE_CHUNK_BYTES ? (size_t)(len_bytes - at) : FILE_CHUNK_BYTES;

        r = fd_pread_all(fd, chunk, n, (off_t)at);
        if (r == 0)
            sha256_add(sha256, chunk, n);
        at += n;
    }
    if (r == 0)
        sha256_take(sha256, ret_digest);
    sha256_free(sha256);
    return r;
}

void sha256_hex(const uint8_t digest[SHA256_BYTES], char ret_hex[2 * SHA256_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < SHA256_BYTES; i++) {
        ret_hex[2 * i] = digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_hex[2 * SHA256_BYTES] = 0;
}

static unsigned digit_value(char digit)
{
    return digit <= '9' ? (unsigned)(digit - '0') & 15 : (unsigned)(digit - 'a' + 10) & 15;
}

void sha256_from_hex(const char *hex, uint8_t ret_digest[SHA256_BYTES])
{
    for (size_t i = 0; i < SHA256_BYTES; i++)
        ret_digest[i] = (uint8_t)(digit_value(hex[2 * i]) << 4 | digit_value(hex[2 * i + 1]));
}
