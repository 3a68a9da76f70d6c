/* Proxies and the addresses that they report: see trusted_proxies.h. */
#include "trusted_proxies.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "host/events/address_policy.h"

struct trusted_proxies {
    size_t n;
    struct network networks[];
};

static int read_address(const char *text, struct sockaddr_in6 *ret)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};

    *ret = (struct sockaddr_in6){.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) != 1)
        return inet_pton(AF_INET6, text, &ret->sin6_addr) == 1 ? 0 : -EINVAL;
    memcpy(ret, &v4, sizeof(v4));
    return 0;
}

int trusted_proxies_new(const char *const *names, size_t n_names,
                        struct trusted_proxies **ret_proxies, struct error *err)
{
    struct trusted_proxies *proxies =
        calloc(1, sizeof(*proxies) + n_names * sizeof(proxies->networks[0]));

    if (!proxies)
        return error_set(err, ENOMEM, "take the trusted proxies");
    for (size_t i = 0; i < n_names; i++) {
        if (network_parse(names[i], &proxies->networks[proxies->n++], NULL) < 0) {
            free(proxies);
            return error_say(err, EINVAL,
                             "the trusted proxy '%.64s' is neither an address nor a network, as "
                             "10.0.0.0/8",
                             names[i]);
        }
    }
    *ret_proxies = proxies;
    return 0;
}

void trusted_proxies_free(struct trusted_proxies *proxies)
{
    free(proxies);
}

static bool is_trusted(const struct trusted_proxies *proxies, const char *text)
{
    struct sockaddr_in6 address;

    return proxies && read_address(text, &address) == 0 &&
           address_is_allowed((const struct sockaddr *)&address, sizeof(address), proxies->networks,
                              proxies->n);
}

/* The @len characters of one element, without blanks, brackets and a port, as an address. */
static bool take_address(const char *from, size_t len, char ret[64])
{
    struct sockaddr_in6 address;

    while (len > 0 && (*from == ' ' || *from == '\t'))
        from++, len--;
    while (len > 0 && (from[len - 1] == ' ' || from[len - 1] == '\t'))
        len--;
    if (len == 0 || len >= 64)
        return false;
    memcpy(ret, from, len);
    ret[len] = '\0';
    char *colon = strchr(ret, ':'), *bracket = strchr(ret, ']');
    if (ret[0] == '[' && bracket) {
        *bracket = '\0';
        memmove(ret, ret + 1, (size_t)(bracket - ret));
    } else if (colon && !strchr(colon + 1, ':')) {
        *colon = '\0';
    }
    return read_address(ret, &address) == 0;
}

/* Elements of one header from its end; false: all were trusted proxies, or something is no address:
 * what stands before it was written by nobody that is trusted. */
static bool find_client(const struct trusted_proxies *proxies, const char *list,
                        char ret_client[64])
{
    size_t end = strlen(list);
    char address[64];

    while (end > 0) {
        size_t start = end;

        while (start > 0 && list[start - 1] != ',')
            start--;
        if (!take_address(list + start, end - start, address))
            return true;
        memcpy(ret_client, address, sizeof(address));
        if (!is_trusted(proxies, address))
            return true;
        end = start > 0 ? start - 1 : 0;
    }
    return false;
}

void trusted_proxies_client(const struct trusted_proxies *proxies,
                            const struct http_request *request, char ret_client[64])
{
    snprintf(ret_client, 64, "%s", request->peer);
    if (!is_trusted(proxies, request->peer))
        return;
    for (size_t i = request->n_headers; i > 0; i--) {
        const struct http_header *header = &request->headers[i - 1];

        if (strcasecmp(header->name, "x-forwarded-for") == 0 &&
            find_client(proxies, header->value, ret_client))
            return;
    }
}

bool trusted_proxies_is_https(const struct trusted_proxies *proxies,
                              const struct http_request *request)
{
    const char *protocol = http_header_find(request, "x-forwarded-proto");

    return protocol && strcasecmp(protocol, "https") == 0 && is_trusted(proxies, request->peer);
}

bool request_is_forwarded(const struct http_request *request)
{
    static const char *const marks[] = {"forwarded",        "x-forwarded-for",   "via",
                                        "x-forwarded-host", "x-forwarded-proto", "x-real-ip"};

    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (http_header_find(request, marks[i]))
            return true;
    return false;
}
