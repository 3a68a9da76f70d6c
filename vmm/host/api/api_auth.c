/*
 * Who asks: the owner of the access key that signed the request; or, unsigned, the default tenant,
 * on the Unix socket (its file's rights say who may connect) and where allowed on loopback, unless
 * it came there through a proxy.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "api_internal.h"
#include "sigv4.h"

enum { SMALL_BODY_BYTES = 64 << 10 };

static int compare_key(const void *id, const void *entry)
{
    return strcmp(id, ((const struct api_key_entry *)entry)->id);
}

const struct api_key_entry *api_find_key(const struct api *api, const char *id)
{
    return bsearch(id, api->keys, api->n_keys, sizeof(api->keys[0]), compare_key);
}

static int64_t now_s(const struct api *api)
{
    return api->options.now_s ? api->options.now_s() : (int64_t)time(NULL);
}

static int become(struct api_turn *turn, const char *tenant)
{
    struct tenant found;
    struct error err;
    int r;

    if (strlen(tenant) > FUNCTION_NAME_MAX)
        return api_fail(turn, API_ACCESS_DENIED, "there is no such tenant");
    r = registry_get_tenant(turn->api->options.registry, tenant, &found, &err);
    if (r == -ENOENT || r == -EINVAL)
        return api_fail(turn, API_ACCESS_DENIED, "there is no tenant '%.64s'", tenant);
    if (r < 0)
        return api_fail_errno(turn, r, &err);
    memcpy(turn->tenant, found.name, sizeof(turn->tenant));
    memcpy(turn->account_id, found.account_id, sizeof(turn->account_id));
    return 0;
}

/* "127.0.0.1:9555", "[::1]:9555", "localhost" */
static bool names_loopback(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t len = strlen(names[i]);

        if (strncasecmp(host, names[i], len) == 0 && (host[len] == '\0' || host[len] == ':'))
            return true;
    }
    return false;
}

/*
 * A page in a browser on this host also comes from loopback: it sends where it is from, or, if its
 * own name was made to lead here, that name as the host.
 */
static bool may_be_browser(const struct http_request *request)
{
    const char *host = http_header_find(request, "host");

    return http_header_find(request, "origin") || http_header_find(request, "sec-fetch-site") ||
           !host || !names_loopback(host);
}

/* What a proxy on this host hands on comes from loopback, or through the socket, but is anybody's:
 * its mark says so. Signed requests may come through proxies. */
static int authenticate_unsigned(struct api_turn *turn)
{
    const struct http_request *request = turn->request;
    const char *tenant = http_header_find(request, "x-mayfly-tenant");

    if (request_is_forwarded(request))
        return api_fail(turn, API_MISSING_TOKEN,
                        "Missing Authentication Token: a request that came through a proxy must be "
                        "signed");
    if (request->origin == HTTP_FROM_UNIX)
        return become(turn, tenant ? tenant : turn->api->default_tenant);
    if (request->origin == HTTP_FROM_LOOPBACK && turn->api->options.unsigned_loopback &&
        !may_be_browser(request))
        return become(turn, turn->api->default_tenant);
    return api_fail(turn, API_MISSING_TOKEN, "Missing Authentication Token");
}

static int fail_signature(struct api_turn *turn, int r, const struct error *err)
{
    if (r == -EINVAL)
        return api_fail(turn, API_INCOMPLETE_SIGNATURE, "%s", err->text);
    if (r == -EACCES || r == -ETIME)
        return api_fail(turn, API_BAD_SIGNATURE, "%s", err->text);
    return api_fail_errno(turn, r, err);
}

/* The claim and its key; 1: there is none, the request is unsigned. */
static int find_claim(struct api_turn *turn, struct sigv4_claim *claim)
{
    struct error err;
    int r = sigv4_parse(turn->request, claim, &err);

    if (r == 1)
        return 1;
    if (r < 0)
        return api_fail(turn, API_INCOMPLETE_SIGNATURE, "%s", err.text);
    turn->key = api_find_key(turn->api, claim->key_id);
    if (!turn->key)
        return api_fail(turn, API_UNKNOWN_KEY,
                        "The security token included in the request is invalid.");
    return 0;
}

int api_authenticate(struct api_turn *turn, const char *service)
{
    struct sigv4_claim claim;
    struct error err;
    int r = find_claim(turn, &claim);

    if (r == 1)
        return authenticate_unsigned(turn);
    if (r < 0)
        return r;
    r = sigv4_verify(turn->request, &claim, turn->key->secret, service, now_s(turn->api), &err);
    return r < 0 ? fail_signature(turn, r, &err) : become(turn, turn->key->tenant);
}

/* FNV-1a: owners of the same number share. */
uint32_t api_owner_id(const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    return hash;
}

/* A small body is read before its signature is looked at, once and whole. */
static bool is_large(const struct http_request *request)
{
    const char *length = http_header_find(request, "content-length");

    return http_header_find(request, "transfer-encoding") ||
           (length && strtoull(length, NULL, 10) > SMALL_BODY_BYTES);
}

int api_authenticate_head(struct api_turn *turn, struct byte_owner *ret_owner)
{
    struct sigv4_claim claim;
    struct error err;
    int r = find_claim(turn, &claim);

    if (r == 1) {
        r = authenticate_unsigned(turn);
        *ret_owner = (struct byte_owner){api_owner_id(turn->tenant), true};
        return r;
    }
    if (r < 0)
        return r;
    *ret_owner = (struct byte_owner){api_owner_id(turn->key->tenant), false};
    if (!is_large(turn->request))
        return 0;
    r = sigv4_verify_head(turn->request, &claim, turn->key->secret, "lambda", now_s(turn->api),
                          &err);
    ret_owner->is_known = r == 0;
    return r < 0 ? fail_signature(turn, r, &err) : 0;
}
