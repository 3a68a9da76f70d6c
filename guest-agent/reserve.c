/* Reserves, see reserve.h. Process: mayfly-agent. */
#include "guest-agent/reserve.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void reserve_ready(struct reserve *reserve, size_t upto_bytes)
{
    size_t from = reserve->ready_bytes;
    size_t upto;

    if (upto_bytes > reserve->size_bytes)
        upto_bytes = reserve->size_bytes;
    upto = (upto_bytes + RESERVE_PAGE - 1) & ~(size_t)(RESERVE_PAGE - 1);
    if (upto <= from)
        return;
    /* A single page is as cheap to fault in; an older kernel (EINVAL) faults all of them in. */
    if (upto - from > RESERVE_PAGE)
        (void)madvise(reserve->bytes + from, upto - from, MADV_POPULATE_WRITE);
    reserve->ready_bytes = upto;
}

void reserve_trim(struct reserve *reserve)
{
    if (reserve->ready_bytes <= RESERVE_KEEP_BYTES)
        return;
    /* What is given back as zeros costs nothing in a snapshot. */
    memset(reserve->bytes + RESERVE_KEEP_BYTES, 0, reserve->ready_bytes - RESERVE_KEEP_BYTES);
    (void)madvise(reserve->bytes + RESERVE_KEEP_BYTES, reserve->ready_bytes - RESERVE_KEEP_BYTES,
                  MADV_DONTNEED);
    reserve->ready_bytes = RESERVE_KEEP_BYTES;
}
