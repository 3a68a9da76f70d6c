/*
 * Where records of asynchronous events go out of the host, as tenants write it:
 *
 *   file:NAME                  NAME of [a-zA-Z0-9-_.]{1,64}, not beginning with '.': a spool's
 *   http[s]://HOST[:PORT][/…]  an endpoint; no user name, no fragment
 *
 * Pure. Trust: hostile texts. The URL is taken apart by the library that connects (libcurl), so
 * that what is checked and what is used cannot be two things. What a host's name stands for is
 * checked when it is connected to (address_policy.h), not here.
 */
#ifndef MAYFLY_HOST_EVENTS_DELIVERY_TARGET_H
#define MAYFLY_HOST_EVENTS_DELIVERY_TARGET_H

#include <stdbool.h>

#include "common/error.h"

enum delivery_target_kind { TARGET_FILE, TARGET_HTTP };

/* delivery_target_check - what kind it is; -EINVAL with what is wrong, fit for a client. */
int delivery_target_check(const char *target, enum delivery_target_kind *ret_kind,
                          struct error *err);

/* delivery_target_spool - the NAME of a checked file: target. */
const char *delivery_target_spool(const char *target);

/* spool_name_is_valid - may it name a file? */
bool spool_name_is_valid(const char *name);

#endif
