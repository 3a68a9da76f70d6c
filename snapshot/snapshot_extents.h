/*
 * Runs of guest pages: which pages differ from a parent, which ones a restored guest touches first.
 * Always sorted and merged: a run starts after the end of the one before, with a page between them.
 * So there is one list for a set of pages, and its length is bounded by the memory's size.
 */
#ifndef MAYFLY_SNAPSHOT_EXTENTS_H
#define MAYFLY_SNAPSHOT_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    SNAPSHOT_PAGE_BYTES = 4096,
    SNAPSHOT_PAGES_PER_MIB = (1 << 20) / SNAPSHOT_PAGE_BYTES,
    SNAPSHOT_MEMORY_MIB_MAX = 24576,
    SNAPSHOT_PAGES_MAX = SNAPSHOT_MEMORY_MIB_MAX * SNAPSHOT_PAGES_PER_MIB,
    SNAPSHOT_EXTENTS_HEADER_BYTES = 16, /* of the serialised form */
    SNAPSHOT_EXTENT_BYTES = 8,
};

struct snapshot_extent {
    uint32_t first; /* page: guest-physical address of RAM / SNAPSHOT_PAGE_BYTES */
    uint32_t n;     /* pages, at least 1 */
};

/* A zeroed object is an empty list. Readers may use the fields; only functions change them. */
struct snapshot_extents {
    struct snapshot_extent *items; /* owned */
    size_t n;
    size_t room;
};

/* snapshot_extents_done - frees, leaves an empty list. */
void snapshot_extents_done(struct snapshot_extents *extents);

/*
 * snapshot_extents_add - pages @first to @first + @n - 1, at or after the end of the list;
 * adjoining runs become one. -EINVAL for pages before the end, none, or over SNAPSHOT_PAGES_MAX;
 * -ENOMEM.
 */
int snapshot_extents_add(struct snapshot_extents *extents, uint32_t first, uint32_t n);

/*
 * snapshot_extents_add_bitmap - the set bits of @bitmap, bit i of word i / 64 standing for page
 * @first + i: what KVM_GET_DIRTY_LOG returns. @n_pages: how many bits count. Errors as above.
 */
int snapshot_extents_add_bitmap(struct snapshot_extents *extents, uint32_t first,
                                const uint64_t *bitmap, uint32_t n_pages);

/* snapshot_extents_pages - how many pages there are in all. */
uint32_t snapshot_extents_pages(const struct snapshot_extents *extents);

/* snapshot_extents_end - the page after the last one; 0 for an empty list. */
uint32_t snapshot_extents_end(const struct snapshot_extents *extents);

/* snapshot_extents_find - the first run that ends after @page; extents->n if none does. */
size_t snapshot_extents_find(const struct snapshot_extents *extents, uint32_t page);

/* snapshot_extents_overlap - does any page of one stand in the other? */
bool snapshot_extents_overlap(const struct snapshot_extents *a, const struct snapshot_extents *b);

/*
 * snapshot_extents_union - the pages in @a or @b; snapshot_extents_subtract - those in @a and not
 * in
 * @b. *ret is a new list, owned; untouched on -ENOMEM.
 */
int snapshot_extents_union(const struct snapshot_extents *a, const struct snapshot_extents *b,
                           struct snapshot_extents *ret);
int snapshot_extents_subtract(const struct snapshot_extents *a, const struct snapshot_extents *b,
                              struct snapshot_extents *ret);

/*
 * snapshot_extents_of_file - what is not a hole in the first @n_pages of @fd (SEEK_DATA; a file
 * system without it has no holes). Moves the file's offset. *ret: a new list, owned.
 */
int snapshot_extents_of_file(int fd, uint32_t n_pages, struct snapshot_extents *ret,
                             struct error *err);

/*
 * snapshot_extents_serialise - for a file or a socket: "MFEX", version u32 (1), number of runs u32,
 * 0 u32, then first u32 and n u32 of each; little-endian. *ret_data is owned. -ENOMEM.
 */
int snapshot_extents_serialise(const struct snapshot_extents *extents, uint8_t **ret_data,
                               size_t *ret_len_bytes);

/*
 * snapshot_extents_count - how many runs a list claims to have whose header is @header
 * (SNAPSHOT_EXTENTS_HEADER_BYTES of it): to find its length before it is read. Checks nothing.
 */
uint32_t snapshot_extents_count(const uint8_t *header);

/*
 * snapshot_extents_parse - the reverse; @data is hostile. All pages must be below @n_pages, the
 * list sorted and merged, the length exact: else -EBADMSG, naming @what. *ret: a new list, owned.
 */
int snapshot_extents_parse(const uint8_t *data, size_t len_bytes, uint32_t n_pages,
                           const char *what, struct snapshot_extents *ret, struct error *err);

#endif
