/* Proxies and the addresses that they report: see trusted_proxies.h. */
#include "trusted_proxies.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"

enum { ADDRESS_BITS = 128, V4_PREFIX_BITS = 96 };

/* All as IPv6; IPv4 in its mapped form (RFC 4291 §2.5.5.2). */
struct network {
    struct in6_addr address;
    unsigned bits;
};

struct trusted_proxies {
    size_t n;
    struct network networks[];
};

static int read_address(const char *text, struct in6_addr *ret, bool *ret_is_v4)
{
    struct in_addr v4;

    *ret_is_v4 = inet_pton(AF_INET, text, &v4) == 1;
    if (!*ret_is_v4)
        return inet_pton(AF_INET6, text, ret) == 1 ? 0 : -EINVAL;
    *ret = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
    memcpy(&ret->s6_addr[12], &v4, sizeof(v4));
    return 0;
}

static int read_network(const char *text, struct network *ret)
{
    size_t len = strcspn(text, "/");
    char address[64], *end = NULL;
    bool is_v4;

    if (len >= sizeof(address))
        return -EINVAL;
    memcpy(address, text, len);
    address[len] = '\0';
    if (read_address(address, &ret->address, &is_v4) < 0)
        return -EINVAL;
    ret->bits = ADDRESS_BITS;
    if (!text[len])
        return 0;
    unsigned long bits = strtoul(text + len + 1, &end, 10);
    if (text[len + 1] < '0' || text[len + 1] > '9' || *end || bits > (is_v4 ? 32 : ADDRESS_BITS))
        return -EINVAL;
    ret->bits = (unsigned)bits + (is_v4 ? V4_PREFIX_BITS : 0);
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
        if (read_network(names[i], &proxies->networks[proxies->n++]) < 0) {
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

static bool is_in(const struct network *network, const struct in6_addr *address)
{
    unsigned whole = network->bits / 8, rest = network->bits % 8;

    if (memcmp(network->address.s6_addr, address->s6_addr, whole) != 0)
        return false;
    return rest == 0 || ((network->address.s6_addr[whole] ^ address->s6_addr[whole]) &
                         (0xff00u >> rest) & 0xffu) == 0;
}

static bool is_trusted(const struct trusted_proxies *proxies, const char *text)
{
    struct in6_addr address;
    bool is_v4;

    if (!proxies || read_address(text, &address, &is_v4) < 0)
        return false;
    for (size_t i = 0; i < proxies->n; i++)
        if (is_in(&proxies->networks[i], &address))
            return true;
    return false;
}

/* The @len characters of one element, without blanks, brackets and a port, as an address. */
static bool take_address(const char *from, size_t len, char ret[64])
{
    struct in6_addr address;
    bool is_v4;

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
    return read_address(ret, &address, &is_v4) == 0;
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
