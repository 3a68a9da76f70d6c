/*
 * One POST to an endpoint that a tenant named, with libcurl.
 *
 * Trust: URL and endpoint are hostile. Bounded: the time to connect and in all, what of a response
 * is read (its status matters, nothing else); no redirect is followed, no proxy is taken from the
 * environment, no cookie or connection is kept from one to the next; TLS certificates are verified.
 * Each address that libcurl is about to connect to is checked there and then (address_policy.h), so
 * that a name cannot stand for one address when it is checked and for another when it is used; an
 * address of this host itself is refused, too, unless it is allowed by name.
 * Threads: a client belongs to one thread at a time.
 */
#ifndef MAYFLY_HOST_EVENTS_DELIVERY_HTTP_H
#define MAYFLY_HOST_EVENTS_DELIVERY_HTTP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "address_policy.h"

enum { DELIVERY_HEADERS_MAX = 4 };

struct delivery_http;

struct delivery_http_options {
    const struct network *allowed; /* borrowed; beside the global addresses */
    size_t n_allowed;
    const char *ca_file; /* borrowed; PEM; NULL: the system's */
    unsigned timeout_ms; /* in all; 0: 15,000 */
    const atomic_bool
        *is_ending; /* borrowed; true: what is under way is broken off within a second */
};

int delivery_http_new(const struct delivery_http_options *options,
                      struct delivery_http **ret_client, struct error *err);
void delivery_http_free(struct delivery_http *client);

struct delivery_header {
    const char *name, *value; /* printable ASCII; value may be "" */
};

/*
 * delivery_http_post - 0: it answered with a 2xx. -EACCES: it must not be reached at all (so it is
 * of no use to try again); -ECANCELED: broken off; else it may work another time: -ECONNREFUSED it
 * did not answer, -ETIMEDOUT, -EPROTO another status, ….
 */
int delivery_http_post(struct delivery_http *client, const char *url,
                       const struct delivery_header *headers, size_t n_headers, const void *body,
                       size_t body_bytes, struct error *err);

#endif
