/*
 * A reserve: a large static buffer of which mostly the first few pages are used.
 *
 * Memory that is never touched costs nothing. What a large message does touch is populated in one
 * system call instead of a page fault for every 4 KiB, and given back afterwards, because the
 * agent's memory comes out of what the function could use.
 */
#ifndef MAYFLY_AGENT_RESERVE_H
#define MAYFLY_AGENT_RESERVE_H

#include <stddef.h>
#include <stdint.h>

enum { RESERVE_PAGE = 4096, RESERVE_KEEP_BYTES = 128 << 10 };

struct reserve {
    uint8_t *bytes;    /* page-aligned, static */
    size_t size_bytes; /* a multiple of the page size */
    size_t ready_bytes;
};

/* RESERVE_STATIC - define a reserve of @size bytes (a multiple of 4096) at file level. */
#define RESERVE_STATIC(name, size)                                                                 \
    static uint8_t name##_bytes[size] __attribute__((aligned(RESERVE_PAGE)));                      \
    static struct reserve name = {name##_bytes, (size), 0}

/* reserve_ready - the first @upto_bytes are about to be written. A hint: it cannot fail. */
void reserve_ready(struct reserve *reserve, size_t upto_bytes);

/* reserve_trim - the content is no longer needed: give back all but the first pages, if many are
 * in use. */
void reserve_trim(struct reserve *reserve);

#endif
