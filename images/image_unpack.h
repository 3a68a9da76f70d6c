/* Unpack a tar archive, which may be hostile, into an empty directory. */
#ifndef MAYFLY_IMAGES_IMAGE_UNPACK_H
#define MAYFLY_IMAGES_IMAGE_UNPACK_H

#include "common/error.h"

/* Bounds on what an archive may unpack to. */
enum { UNPACK_ENTRIES_MAX = 500000 };
#define UNPACK_BYTES_MAX (UINT64_C(8) << 30)

/*
 * unpack_tar - the tar archive @fd (plain, gzip, bzip2, xz or zstd) into the current directory.
 * Meant to run in a process of its own that has chroot()ed there; does not rely on it: absolute
 * names, "..", and names through links are refused. Devices below dev/ are left out, others are
 * refused. -EBADMSG names the entry; what was unpacked before it stays, for the caller to remove.
 */
int unpack_tar(int fd, const char *what, struct error *err);

#endif
