/*
 * Which machines' X-Forwarded-For is believed: those that the configuration names. Anybody else's
 * is a client's own invention.
 *
 * Trust: the names are the administrator's, headers are hostile. Threads: any; nothing changes
 * after trusted_proxies_new().
 */
#ifndef MAYFLY_HOST_API_TRUSTED_PROXIES_H
#define MAYFLY_HOST_API_TRUSTED_PROXIES_H

#include "http_message.h"

struct trusted_proxies;

/* trusted_proxies_new - @names: addresses or networks ("10.1.2.3", "10.0.0.0/8", "fd00::/8").
 * -EINVAL names the one that is neither. */
int trusted_proxies_new(const char *const *names, size_t n_names,
                        struct trusted_proxies **ret_proxies, struct error *err);
void trusted_proxies_free(struct trusted_proxies *proxies);

/*
 * trusted_proxies_client - the address of who asks: the peer; where that is one of @proxies, the
 * last address in X-Forwarded-For that is none of them. @ret_client is terminated.
 * trusted_proxies_is_https - the peer is one of @proxies and says that TLS ended there.
 */
void trusted_proxies_client(const struct trusted_proxies *proxies,
                            const struct http_request *request, char ret_client[64]);
bool trusted_proxies_is_https(const struct trusted_proxies *proxies,
                              const struct http_request *request);

/* request_is_forwarded - does it carry the marks of a proxy (whoever wrote them)? */
bool request_is_forwarded(const struct http_request *request);

#endif
