/*
 * Links to code: Lambda's GetFunction answers with a URL that anybody who has it may read for ten
 * minutes. Ours names tenant, hash and end, signed with a key that lives as long as the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "api_internal.h"
#include "common/fd.h"

enum { LINK_LIFETIME_S = 600, SHA_HEX_BYTES = 65, TOKEN_BYTES = 65 };

static int64_t now_s(const struct api *api)
{
    return api->options.now_s ? api->options.now_s() : (int64_t)time(NULL);
}

static void sign(const struct api *api, const char *tenant, const char *sha256, int64_t until_s,
                 char ret_token[TOKEN_BYTES])
{
    uint8_t mac[crypto_auth_hmacsha256_BYTES];
    char text[256];
    int len = snprintf(text, sizeof(text), "%s\n%s\n%lld", tenant, sha256, (long long)until_s);

    crypto_auth_hmacsha256(mac, (const uint8_t *)text, (unsigned long long)len, api->link_key);
    sodium_bin2hex(ret_token, TOKEN_BYTES, mac, sizeof(mac));
}

void api_code_link(const struct api_turn *turn, const struct function *function, char *ret_link,
                   size_t size)
{
    int64_t until_s = now_s(turn->api) + LINK_LIFETIME_S;
    char base[API_URL_BYTES], token[TOKEN_BYTES], sha256[SHA_HEX_BYTES];
    uint8_t digest[32];
    size_t len = 0;

    if (sodium_base642bin(digest, sizeof(digest), function->code_sha256,
                          strlen(function->code_sha256), NULL, &len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        len != sizeof(digest))
        memset(digest, 0, sizeof(digest));
    sodium_bin2hex(sha256, sizeof(sha256), digest, sizeof(digest));
    api_base_url(turn, base);
    sign(turn->api, turn->tenant, sha256, until_s, token);
    snprintf(ret_link, size, "%s/code/%s/%s?until=%lld&token=%s", base, turn->tenant, sha256,
             (long long)until_s, token);
}

static bool is_good(const struct api_turn *turn, const char *tenant, const char *sha256)
{
    const char *until = http_query_find(&turn->query, "until");
    const char *token = http_query_find(&turn->query, "token");
    char right[TOKEN_BYTES], *end = NULL;

    if (!until || !token || strlen(token) != TOKEN_BYTES - 1 ||
        strlen(tenant) > FUNCTION_NAME_MAX || strlen(sha256) != SHA_HEX_BYTES - 1)
        return false;
    errno = 0;
    int64_t until_s = strtoll(until, &end, 10);
    if (errno || *end || until_s < now_s(turn->api))
        return false;
    sign(turn->api, tenant, sha256, until_s, right);
    return sodium_memcmp(right, token, sizeof(right) - 1) == 0;
}

void handle_code_link(struct api_turn *turn)
{
    const char *tenant = turn->match.variables[0], *sha256 = turn->match.variables[1];
    struct code_store *store = registry_code_store(turn->api->options.registry);
    char path[4096], base64[CODE_SHA256_BYTES];
    struct stat st = {.st_size = 0};
    uint8_t digest[32];
    struct error err;
    size_t len = 0;

    if (!is_good(turn, tenant, sha256) ||
        sodium_hex2bin(digest, sizeof(digest), sha256, strlen(sha256), NULL, &len, NULL) != 0 ||
        len != sizeof(digest)) {
        api_fail(turn, API_ACCESS_DENIED, "this link is not valid, or no longer: ask GetFunction");
        return;
    }
    sodium_bin2base64(base64, sizeof(base64), digest, sizeof(digest),
                      sodium_base64_VARIANT_ORIGINAL);
    int r = code_store_path(store, base64, path, sizeof(path), &err);
    AUTO_FD file = r < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (r == 0 && (file < 0 || fstat(file, &st) < 0))
        r = error_set(&err, errno, "open deployed code");
    if (r == -ENOENT)
        api_fail(turn, API_NOT_FOUND, "this code is no longer deployed");
    else if (r < 0)
        api_fail_errno(turn, -EIO, &err); /* the text names a path of ours */
    else
        api_reply_file(turn, 200, "application/zip", fd_steal(&file), (uint64_t)st.st_size);
}
