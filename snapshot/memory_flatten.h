/* From a snapshot and its parents to the memory image that clones map. */
#ifndef MAYFLY_SNAPSHOT_MEMORY_FLATTEN_H
#define MAYFLY_SNAPSHOT_MEMORY_FLATTEN_H

#include "images/image_codec.h"
#include "snapshot/snapshot_object.h"

/*
 * memory_flatten - the whole memory of chain->objects[0] into @out_fd, an empty file: sparse,
 * memory_mib long. Each page is written once, from the snapshot that has it last; on all cores.
 * Checked: the lists of pages, header, index and every frame that is read, each before it is used,
 * and in the end the digest of the whole. @is_thorough: also every file as a whole.
 * -EBADMSG names the part; -ENOSPC before the work where that can be told. What @out_fd holds after
 * an error is of no use.
 */
int memory_flatten(const struct snapshot_chain *chain, int out_fd, bool is_thorough,
                   const struct image_watch *watch, struct error *err);

#endif
