/* What the readers of a package (directory, archive) share: see package.c. */
#ifndef MAYFLY_HOST_INSTANCE_PACKAGE_INTERNAL_H
#define MAYFLY_HOST_INSTANCE_PACKAGE_INTERNAL_H

#include "package.h"

/*
 * package_add - begin a new entry; its content follows through package_append().
 * @path: hostile; cleaned here. Returns 1 added, 0 nothing to add (the root itself), or -errno.
 */
int package_add(struct package *package, const char *path, enum package_type type, uint32_t mode,
                struct error *err);

/* package_append - more content for the entry added last. -EFBIG over the limit. */
int package_append(struct package *package, const void *data, size_t len_bytes, struct error *err);

int package_read_directory(struct package *package, int root, struct error *err);
int package_read_archive(struct package *package, int file, struct error *err);

#endif
