/*
 * memory.pages: which pages of a snapshot differ from its parent's memory, and how. Two lists one
 * after the other (snapshot_extents.h): pages whose content stands in memory.mfs, end to end in
 * this order ("packed"), and pages that are zero here but not in the parent. All others are the
 * parent's; without a parent they are zero.
 */
#ifndef MAYFLY_SNAPSHOT_MEMORY_PAGES_H
#define MAYFLY_SNAPSHOT_MEMORY_PAGES_H

#include "snapshot/snapshot_extents.h"

struct memory_pages {
    struct snapshot_extents data, zero;
    uint32_t *packed; /* owned; of each run of data: where its first page stands when packed */
};

/* memory_pages_done - frees what is owned; takes a zeroed or half-built object. */
void memory_pages_done(struct memory_pages *pages);

/* memory_pages_index - fill ->packed, once both lists are complete. -ENOMEM. */
int memory_pages_index(struct memory_pages *pages);

/* memory_pages_encode - the file's bytes; *ret_data is owned. -ENOMEM. */
int memory_pages_encode(const struct memory_pages *pages, uint8_t **ret_data,
                        size_t *ret_len_bytes);

/*
 * memory_pages_decode - @data is hostile; @n_pages: of the whole memory. The lists must be right
 * each for itself and have no page in common: else -EBADMSG, naming @what. Indexed, owned.
 */
int memory_pages_decode(const uint8_t *data, size_t len_bytes, uint32_t n_pages, const char *what,
                        struct memory_pages *ret_pages, struct error *err);

/*
 * memory_pages_each - calls @visit for the runs that the packed bytes from @offset_bytes to
 * @offset_bytes + @len_bytes (whole pages, within the packed data) consist of, in order.
 * @at_bytes: where the run stands in that range. Ends with the first result that is not 0.
 */
typedef int memory_pages_visit(void *opaque, struct snapshot_extent run, size_t at_bytes);
int memory_pages_each(const struct memory_pages *pages, uint64_t offset_bytes, size_t len_bytes,
                      memory_pages_visit *visit, void *opaque);

#endif
