/* Bytes held for clients: see byte_budget.h. */
#include "byte_budget.h"

#include <errno.h>

void byte_budget_init(struct byte_budget *budget, size_t total_bytes)
{
    budget->total_bytes = total_bytes;
    atomic_init(&budget->used_bytes, 0);
    atomic_init(&budget->unknown_bytes, 0);
    for (size_t i = 0; i < BYTE_BUDGET_OWNERS; i++) {
        atomic_init(&budget->owner_bytes[0][i], 0);
        atomic_init(&budget->owner_bytes[1][i], 0);
    }
}

/* False: @limit would be passed; nothing was added then. */
static bool add(atomic_size_t *sum, size_t bytes, size_t limit)
{
    size_t before = atomic_fetch_add(sum, bytes);

    if (before <= limit && bytes <= limit - before)
        return true;
    atomic_fetch_sub(sum, bytes);
    return false;
}

static atomic_size_t *sum_of(struct byte_budget *budget, const struct byte_owner *owner)
{
    return &budget->owner_bytes[owner->is_known][owner->id % BYTE_BUDGET_OWNERS];
}

int byte_budget_take(struct byte_budget *budget, const struct byte_owner *owner, size_t bytes)
{
    size_t total = budget->total_bytes;

    if (!add(sum_of(budget, owner), bytes, owner->is_known ? total / 2 : total / 4))
        return -ENOBUFS;
    if (!owner->is_known && !add(&budget->unknown_bytes, bytes, total / 2)) {
        atomic_fetch_sub(sum_of(budget, owner), bytes);
        return -ENOBUFS;
    }
    if (!add(&budget->used_bytes, bytes, total)) {
        atomic_fetch_sub(sum_of(budget, owner), bytes);
        if (!owner->is_known)
            atomic_fetch_sub(&budget->unknown_bytes, bytes);
        return -ENOBUFS;
    }
    return 0;
}

void byte_budget_give(struct byte_budget *budget, const struct byte_owner *owner, size_t bytes)
{
    atomic_fetch_sub(sum_of(budget, owner), bytes);
    if (!owner->is_known)
        atomic_fetch_sub(&budget->unknown_bytes, bytes);
    atomic_fetch_sub(&budget->used_bytes, bytes);
}
