/*
 * Who may have how many of some slots (threads), so that one tenant's slow work leaves room for the
 * others': a tenant is given another only while it has fewer than SHARE_FACTOR times what is free.
 * Alone it gets three quarters; of two, three sevenths each; there is always something left for who
 * comes next, and nobody has to be taken anything away from.
 * Pure: no threads; its owner's lock. Source: Choudhury and Hahne, "Dynamic queue length thresholds
 * for shared-memory packet switches" (1998).
 */
#ifndef MAYFLY_HOST_EVENTS_TENANT_SHARE_H
#define MAYFLY_HOST_EVENTS_TENANT_SHARE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

enum { SHARE_FACTOR = 3 };

struct tenant_share;

int tenant_share_new(size_t slots, struct tenant_share **ret_share, struct error *err);
void tenant_share_free(struct tenant_share *share);

/* tenant_share_allows - may it have one more, if it already gets @n_own of @n_more beside what was
 * taken? */
bool tenant_share_allows(const struct tenant_share *share, const char *tenant, size_t n_own,
                         size_t n_more);

/* tenant_share_take, _give - one slot; taking needs a free one, whatever the share allows. */
void tenant_share_take(struct tenant_share *share, const char *tenant);
void tenant_share_give(struct tenant_share *share, const char *tenant);

size_t tenant_share_left(const struct tenant_share *share);

#endif
