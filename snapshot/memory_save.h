/* Find what a memory image has that its parent's does not, and compress that. */
#ifndef MAYFLY_SNAPSHOT_MEMORY_SAVE_H
#define MAYFLY_SNAPSHOT_MEMORY_SAVE_H

#include "images/image_codec.h"
#include "snapshot/memory_digest.h"
#include "snapshot/memory_pages.h"

/* The memory to save. Its owner, a paused VM, must leave it alone meanwhile. */
struct memory_input {
    int fd; /* borrowed; may belong to a hostile monitor: it is
               read, never mapped, so cutting it short is an error
               and not a signal */
    uint32_t memory_mib;
    const struct snapshot_extents *changed; /* what @fd has; all else is the parent's */
    int parent_fd;                          /* borrowed; the parent's flattened memory; -1: none */
    uint32_t parent_mib;
};

/*
 * memory_compare - every changed page is the parent's after all (dropped), zero, or data.
 * *ret_pages is owned and indexed. @ret_flat_sha256: memory_digest of what flattening must give.
 * On all cores. Returns 0 or -errno.
 */
int memory_compare(const struct memory_input *input, struct memory_pages *ret_pages,
                   char ret_flat_sha256[2 * SHA256_BYTES + 1], const struct image_watch *watch,
                   struct error *err);

/*
 * memory_compress - the data pages of @pages, read from @input, into @out_fd, an empty file: an
 * image at rest (image_format.h) of kind IMAGE_MEMORY whose content is the packed pages. There must
 * be at least one. Returns 0 or -errno; what @out_fd then holds is of no use.
 */
int memory_compress(const struct memory_input *input, const struct memory_pages *pages, int out_fd,
                    const struct image_watch *watch, struct error *err);

#endif
