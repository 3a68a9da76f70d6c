/* Which addresses are connected to: see address_policy.h. Pure. */
#include "address_policy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"

enum { TEXT_BYTES = 64, EMBEDDED_AT = 12, V4_BYTES = 4 };

struct special {
    struct network network;
    const char *what;
};

#define V4(a, b, c, d, bits, what)                                                                 \
    {                                                                                              \
        {{a, b, c, d}, V4_BYTES, bits}, what                                                       \
    }
#define V6(b0, b1, b2, b3, bits, what)                                                             \
    {                                                                                              \
        {{b0, b1, b2, b3}, ADDRESS_BYTES, bits}, what                                              \
    }

static const struct special specials[] = {
    V4(0, 0, 0, 0, 8, "unspecified"),
    V4(10, 0, 0, 0, 8, "private"),
    V4(100, 64, 0, 0, 10, "shared (carrier-grade NAT)"),
    V4(127, 0, 0, 0, 8, "loopback"),
    V4(169, 254, 0, 0, 16, "link-local"),
    V4(172, 16, 0, 0, 12, "private"),
    V4(192, 0, 0, 0, 24, "reserved for protocols"),
    V4(192, 0, 2, 0, 24, "for documentation"),
    V4(192, 88, 99, 0, 24, "a 6to4 relay's"),
    V4(192, 168, 0, 0, 16, "private"),
    V4(198, 18, 0, 0, 15, "for benchmarks"),
    V4(198, 51, 100, 0, 24, "for documentation"),
    V4(203, 0, 113, 0, 24, "for documentation"),
    V4(224, 0, 0, 0, 4, "multicast"),
    V4(240, 0, 0, 0, 4, "reserved or broadcast"),
    V6(0x20, 0x01, 0x00, 0x00, 23, "reserved for protocols"), /* Teredo too, which embeds */
    V6(0x20, 0x01, 0x0d, 0xb8, 32, "for documentation"),
    V6(0x20, 0x02, 0x00, 0x00, 16, "6to4"), /* embeds; its relays are gone (RFC 7526) */
    V6(0x3f, 0xff, 0x00, 0x00, 20, "for documentation"),
    V6(0xfe, 0x80, 0x00, 0x00, 10, "link-local"),
    V6(0xfe, 0xc0, 0x00, 0x00, 10, "site-local"),
    V6(0xfc, 0x00, 0x00, 0x00, 7, "unique local"),
    V6(0xff, 0x00, 0x00, 0x00, 8, "multicast"),
    {{{[15] = 0}, ADDRESS_BYTES, 128}, "unspecified"},
    {{{[15] = 1}, ADDRESS_BYTES, 128}, "loopback"},
};

static const struct network mapped = {{[10] = 0xff, [11] = 0xff}, ADDRESS_BYTES, 96};
static const struct network nat64 = {{0x00, 0x64, 0xff, 0x9b}, ADDRESS_BYTES, 96};
static const struct network global_v6 = {{0x20}, ADDRESS_BYTES, 3};

/* An address, or the start of a network. */
struct plain {
    uint8_t bytes[ADDRESS_BYTES];
    uint8_t n_bytes;
};

static bool is_in(const struct plain *address, const struct network *network)
{
    unsigned whole = network->prefix_bits / 8u, rest = network->prefix_bits % 8u;

    if (address->n_bytes != network->address_bytes ||
        memcmp(address->bytes, network->address, whole) != 0)
        return false;
    unsigned mask = 0xffu << (8 - rest) & 0xffu;
    return rest == 0 || ((address->bytes[whole] ^ network->address[whole]) & mask) == 0;
}

static bool is_allowed(const struct plain *address, const struct network *allowed, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_in(address, &allowed[i]))
            return true;
    return false;
}

static struct plain embedded_v4(const struct plain *address)
{
    struct plain v4 = {.n_bytes = V4_BYTES};

    memcpy(v4.bytes, address->bytes + EMBEDDED_AT, V4_BYTES);
    return v4;
}

/* Of what is not allowed by name. */
static const char *why_special(const struct plain *address)
{
    for (size_t i = 0; i < ARRAY_LEN(specials); i++)
        if (is_in(address, &specials[i].network))
            return specials[i].what;
    if (is_in(address, &nat64)) {
        const struct plain v4 = embedded_v4(address);

        return why_special(&v4);
    }
    if (address->n_bytes == ADDRESS_BYTES && !is_in(address, &global_v6))
        return "not a global one";
    return NULL;
}

/* False: of no family that we know. */
static bool read_plain(const struct sockaddr *address, socklen_t len_bytes, struct plain *ret_plain)
{
    struct plain plain = {.n_bytes = 0};

    if (address->sa_family == AF_INET && len_bytes >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;

        memcpy(&in, address, sizeof(in));
        memcpy(plain.bytes, &in.sin_addr, V4_BYTES);
        plain.n_bytes = V4_BYTES;
    } else if (address->sa_family == AF_INET6 && len_bytes >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in;

        memcpy(&in, address, sizeof(in));
        memcpy(plain.bytes, &in.sin6_addr, ADDRESS_BYTES);
        plain.n_bytes = ADDRESS_BYTES;
    }
    *ret_plain = is_in(&plain, &mapped) ? embedded_v4(&plain) : plain;
    return plain.n_bytes > 0;
}

bool address_is_allowed(const struct sockaddr *address, socklen_t len_bytes,
                        const struct network *allowed, size_t n_allowed)
{
    struct plain plain;

    return read_plain(address, len_bytes, &plain) && is_allowed(&plain, allowed, n_allowed);
}

const char *address_refusal(const struct sockaddr *address, socklen_t len_bytes,
                            const struct network *allowed, size_t n_allowed)
{
    struct plain plain;

    if (!read_plain(address, len_bytes, &plain))
        return "of an unknown family";
    return is_allowed(&plain, allowed, n_allowed) ? NULL : why_special(&plain);
}

/* --- networks -------------------------------------------------------------------------------- */

static bool has_bits_beyond(const struct network *network)
{
    for (unsigned bit = network->prefix_bits; bit < network->address_bytes * 8u; bit++)
        if (network->address[bit / 8] & 0x80u >> bit % 8)
            return true;
    return false;
}

static int wrong(const char *text, struct error *err)
{
    char shown[TEXT_BYTES];

    text_clean(shown, sizeof(shown), text, strlen(text));
    return error_say(err, EINVAL, "'%s' is not a network, as 10.0.0.0/8 or fd00::/8", shown);
}

/* ::ffff:10.0.0.0/104 is 10.0.0.0/8: mapped addresses are judged as what they stand for. */
static bool is_mapped(const struct network *network)
{
    return network->address_bytes == ADDRESS_BYTES && network->prefix_bits >= mapped.prefix_bits &&
           memcmp(network->address, mapped.address, EMBEDDED_AT) == 0;
}

int network_parse(const char *text, struct network *ret_network, struct error *err)
{
    struct network network = {.address_bytes = 0};
    size_t len = strcspn(text, "/");
    char address[TEXT_BYTES];
    unsigned long bits;

    if (len >= sizeof(address))
        return wrong(text, err);
    memcpy(address, text, len);
    address[len] = '\0';
    if (inet_pton(AF_INET, address, network.address) == 1)
        network.address_bytes = V4_BYTES;
    else if (inet_pton(AF_INET6, address, network.address) == 1)
        network.address_bytes = ADDRESS_BYTES;
    else
        return wrong(text, err);
    bits = network.address_bytes * 8u;
    if (text[len] == '/') {
        const char *digits = text + len + 1;
        size_t n = strspn(digits, "0123456789");

        if (n == 0 || n > 3 || digits[n] != '\0' || strtoul(digits, NULL, 10) > bits)
            return wrong(text, err);
        bits = strtoul(digits, NULL, 10);
    }
    network.prefix_bits = (uint8_t)bits;
    if (is_mapped(&network)) {
        memmove(network.address, network.address + EMBEDDED_AT, V4_BYTES);
        memset(network.address + V4_BYTES, 0, ADDRESS_BYTES - V4_BYTES);
        network.address_bytes = V4_BYTES;
        network.prefix_bits = (uint8_t)(bits - EMBEDDED_AT * 8);
    }
    if (has_bits_beyond(&network))
        return error_say(err, EINVAL, "'%.60s' has bits set beyond its prefix", text);
    *ret_network = network;
    return 0;
}
