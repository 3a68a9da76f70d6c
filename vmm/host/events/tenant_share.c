/* Slots by tenant: see tenant_share.h. Pure. */
#include "tenant_share.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/store/registry.h"

/* A tenant that has slots; n 0: the entry is free. There are never more of them than slots. */
struct holder {
    char tenant[FUNCTION_NAME_MAX + 1];
    size_t n;
};

struct tenant_share {
    size_t slots, used;
    struct holder *holders; /* owned: as many as slots */
};

int tenant_share_new(size_t slots, struct tenant_share **ret_share, struct error *err)
{
    struct tenant_share *share = calloc(1, sizeof(*share));
    struct holder *holders = calloc(slots, sizeof(*holders));

    if (!share || !holders) {
        free(share);
        free(holders);
        return error_set(err, ENOMEM, "make a table of tenants");
    }
    share->slots = slots;
    share->holders = holders;
    *ret_share = share;
    return 0;
}

void tenant_share_free(struct tenant_share *share)
{
    if (!share)
        return;
    free(share->holders);
    free(share);
}

static struct holder *find(const struct tenant_share *share, const char *tenant)
{
    for (size_t i = 0; i < share->slots; i++)
        if (share->holders[i].n > 0 && strcmp(share->holders[i].tenant, tenant) == 0)
            return &share->holders[i];
    return NULL;
}

size_t tenant_share_left(const struct tenant_share *share)
{
    return share->slots - share->used;
}

bool tenant_share_allows(const struct tenant_share *share, const char *tenant, size_t n_own,
                         size_t n_more)
{
    const struct holder *holder = find(share, tenant);
    size_t used = share->used + n_more, own = (holder ? holder->n : 0) + n_own;

    return used < share->slots && own < SHARE_FACTOR * (share->slots - used);
}

void tenant_share_take(struct tenant_share *share, const char *tenant)
{
    struct holder *holder = find(share, tenant);

    assert(share->used < share->slots);
    for (size_t i = 0; !holder; i++)
        if (share->holders[i].n == 0)
            holder = &share->holders[i];
    if (holder->n == 0)
        snprintf(holder->tenant, sizeof(holder->tenant), "%s", tenant);
    holder->n++;
    share->used++;
}

void tenant_share_give(struct tenant_share *share, const char *tenant)
{
    struct holder *holder = find(share, tenant);

    assert(holder && share->used > 0);
    holder->n--;
    share->used--;
}
