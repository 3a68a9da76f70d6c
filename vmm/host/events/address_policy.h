/*
 * Which addresses the host connects to on a tenant's behalf: the global ones, and networks that the
 * administrator allows. Pure: no sockets, no names.
 *
 * Trust: the address is a tenant's choice, through whatever name it gave. So it is checked as the
 * kernel would use it, after every way to write or embed it is undone: an IPv4 address within
 * ::ffff:0:0/96 (mapped) is that address, one within 64:ff9b::/96 (NAT64) must be global as well.
 * What is not known to be global is refused. Not known: a NAT64 prefix of the site's own (RFC 6052)
 * in global space; such a translator must itself refuse private addresses.
 * Source: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), RFC 4291, RFC 6052.
 */
#ifndef MAYFLY_HOST_EVENTS_ADDRESS_POLICY_H
#define MAYFLY_HOST_EVENTS_ADDRESS_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/error.h"

enum { ADDRESS_BYTES = 16 };

struct network {
    uint8_t address[ADDRESS_BYTES]; /* IPv4 in the first four */
    uint8_t address_bytes;          /* 4 or 16 */
    uint8_t prefix_bits;
};

/* network_parse - "10.0.0.0/8", "fd00::/8" or a single address. -EINVAL; also where bits beyond the
 * prefix are set, as that is a mistake more often than a wish. */
int network_parse(const char *text, struct network *ret_network, struct error *err);

/* address_refusal - why @address is not connected to ("loopback", "private", …; static), or NULL:
 * it may be. @address: AF_INET or AF_INET6, anything else is refused. */
const char *address_refusal(const struct sockaddr *address, socklen_t len_bytes,
                            const struct network *allowed, size_t n_allowed);

/* address_is_allowed - is it in one of @allowed by name? */
bool address_is_allowed(const struct sockaddr *address, socklen_t len_bytes,
                        const struct network *allowed, size_t n_allowed);

#endif
