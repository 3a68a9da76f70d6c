/*
 * Who asks: the owner of the access key that signed the request; or, unsigned, the default tenant,
 * on the Unix socket (its file's rights say who may connect) and where allowed on loopback.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "api_internal.h"
#include "sigv4.h"

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

static int authenticate_unsigned(struct api_turn *turn)
{
    const struct http_request *request = turn->request;
    const char *tenant = http_header_find(request, "x-mayfly-tenant");

    if (request->origin == HTTP_FROM_UNIX)
        return become(turn, tenant ? tenant : turn->api->default_tenant);
    if (request->origin == HTTP_FROM_LOOPBACK && turn->api->options.unsigned_loopback &&
        !may_be_browser(request))
        return become(turn, turn->api->default_tenant);
    return api_fail(turn, API_MISSING_TOKEN, "Missing Authentication Token");
}

int api_authenticate(struct api_turn *turn, bool early)
{
    struct sigv4_claim claim;
    struct error err;
    int r = sigv4_parse(turn->request, &claim, &err);

    if (r == 1)
        return authenticate_unsigned(turn);
    if (r < 0)
        return api_fail(turn, API_INCOMPLETE_SIGNATURE, "%s", err.text);
    const struct api_key_entry *key = api_find_key(turn->api, claim.key_id);
    if (!key)
        return api_fail(turn, API_UNKNOWN_KEY,
                        "The security token included in the request is invalid.");
    if (early)
        return 0;
    r = sigv4_verify(turn->request, &claim, key->secret, "lambda", now_s(turn->api), &err);
    if (r == -EINVAL)
        return api_fail(turn, API_INCOMPLETE_SIGNATURE, "%s", err.text);
    if (r == -EACCES || r == -ETIME)
        return api_fail(turn, API_BAD_SIGNATURE, "%s", err.text);
    if (r < 0)
        return api_fail_errno(turn, r, &err);
    return become(turn, key->tenant);
}
