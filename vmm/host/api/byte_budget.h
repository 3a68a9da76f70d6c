/*
 * How many bytes may be held for clients at once: in all, for any one of them, and for all those
 * together who have not yet shown who they are. Without the second, one tenant's uploads would keep
 * all others out; without the third, anybody's who knows an access key's id.
 *
 * Owners are numbers (a hash of a name): two that fall together share what each would have had.
 * Trust: sizes are the caller's own counts, never a client's word. Threads: any, without locks; by
 * as much as is being taken at the same moment a limit may be missed.
 */
#ifndef MAYFLY_HOST_API_BYTE_BUDGET_H
#define MAYFLY_HOST_API_BYTE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BYTE_BUDGET_OWNERS = 256 };

struct byte_budget {
    size_t total_bytes;
    atomic_size_t used_bytes;    /* by all */
    atomic_size_t unknown_bytes; /* of these, by those who have not shown who they are */
    atomic_size_t owner_bytes[2][BYTE_BUDGET_OWNERS]; /* [is_known] */
};

/* Who holds bytes; set once, before the first are taken. */
struct byte_owner {
    uint32_t id;
    bool is_known; /* it has shown who it is */
};

void byte_budget_init(struct byte_budget *budget, size_t total_bytes);

/*
 * byte_budget_take - @bytes more for @owner. A known one may hold half of the total, an unknown one
 * a quarter; all unknown ones together half. Returns 0, or -ENOBUFS and nothing is taken.
 */
int byte_budget_take(struct byte_budget *budget, const struct byte_owner *owner, size_t bytes);
void byte_budget_give(struct byte_budget *budget, const struct byte_owner *owner, size_t bytes);

#endif
