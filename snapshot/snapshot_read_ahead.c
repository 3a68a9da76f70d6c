/*
 * Reading a memory ahead that has left the page cache. Part of the snapshot store
 * (snapshot_store.h). The working set is a hint that may be damaged or missing: nothing here fails,
 * it only helps or does not.
 *
 * Why here and not in the monitor: it needs no VM, so it can begin before there is one, and what is
 * read is shared by all clones.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "snapshot/snapshot_internal.h"

enum { SAMPLES = 16 };

/* Would reading this byte have to wait for the disk? A file system that cannot tell: no. */
static bool is_cold_at(int fd, off_t at)
{
    char byte;
    const struct iovec into = {.iov_base = &byte, .iov_len = 1};

    return preadv2(fd, &into, 1, at, RWF_NOWAIT) < 0 && errno == EAGAIN;
}

/* Only pages of the set are looked at: after one cold restore nothing else is in the cache. */
static bool is_cold(int fd, const struct snapshot_extents *pages)
{
    const size_t step = pages->n / SAMPLES + 1;

    for (size_t i = 0; i < pages->n; i += step)
        if (is_cold_at(fd, (off_t)pages->items[i].first * SNAPSHOT_PAGE_BYTES))
            return true;
    return false;
}

uint32_t snapshot_store_read_ahead(struct snapshot_store *store,
                                   const struct snapshot_manifest *manifest, int memory_fd)
{
    struct snapshot_extents pages;
    struct error ignored;
    uint32_t n = 0;

    if (snapshot_store_get_working_set(store, manifest, &pages, &ignored) < 0)
        return 0;
    if (is_cold(memory_fd, &pages))
        n = snapshot_extents_pages(&pages);
    for (size_t i = 0; i < pages.n && n > 0; i++)
        posix_fadvise(memory_fd, (off_t)pages.items[i].first * SNAPSHOT_PAGE_BYTES,
                      (off_t)pages.items[i].n * SNAPSHOT_PAGE_BYTES, POSIX_FADV_WILLNEED);
    snapshot_extents_done(&pages);
    return n;
}
