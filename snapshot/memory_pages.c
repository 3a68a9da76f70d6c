/* Which pages a snapshot has: see memory_pages.h. The file is hostile. */
#include "snapshot/memory_pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/fd.h"

void memory_pages_done(struct memory_pages *pages)
{
    snapshot_extents_done(&pages->data);
    snapshot_extents_done(&pages->zero);
    free(pages->packed);
    pages->packed = NULL;
}

int memory_pages_index(struct memory_pages *pages)
{
    uint32_t at = 0;

    free(pages->packed);
    pages->packed = calloc(pages->data.n + 1, sizeof(*pages->packed));
    if (!pages->packed)
        return -ENOMEM;
    for (size_t i = 0; i < pages->data.n; i++) {
        pages->packed[i] = at;
        at += pages->data.items[i].n;
    }
    pages->packed[pages->data.n] = at;
    return 0;
}

int memory_pages_encode(const struct memory_pages *pages, uint8_t **ret_data, size_t *ret_len_bytes)
{
    AUTO_FREE uint8_t *data = NULL, *zero = NULL;
    size_t data_len = 0, zero_len = 0;
    int r = snapshot_extents_serialise(&pages->data, &data, &data_len);

    if (r == 0)
        r = snapshot_extents_serialise(&pages->zero, &zero, &zero_len);
    if (r < 0)
        return r;
    uint8_t *both = realloc(data, data_len + zero_len);
    if (!both)
        return -ENOMEM;
    data = NULL;
    memcpy(both + data_len, zero, zero_len);
    *ret_data = both;
    *ret_len_bytes = data_len + zero_len;
    return 0;
}

/* How long the first list says it is; the whole length if it says nothing sensible. */
static size_t first_list_bytes(const uint8_t *data, size_t len_bytes)
{
    if (len_bytes < SNAPSHOT_EXTENTS_HEADER_BYTES)
        return len_bytes;
    uint64_t len =
        SNAPSHOT_EXTENTS_HEADER_BYTES + (uint64_t)load_le32(data + 8) * SNAPSHOT_EXTENT_BYTES;
    return len < len_bytes ? (size_t)len : len_bytes;
}

int memory_pages_decode(const uint8_t *data, size_t len_bytes, uint32_t n_pages, const char *what,
                        struct memory_pages *ret_pages, struct error *err)
{
    struct memory_pages pages = {0};
    size_t first = first_list_bytes(data, len_bytes);
    int r = snapshot_extents_parse(data, first, n_pages, what, &pages.data, err);

    if (r == 0)
        r = snapshot_extents_parse(data + first, len_bytes - first, n_pages, what, &pages.zero,
                                   err);
    if (r == 0 && snapshot_extents_overlap(&pages.data, &pages.zero))
        r = error_say(err, EBADMSG, "%s is damaged: a page is both zero and not", what);
    if (r == 0) {
        r = memory_pages_index(&pages);
        if (r < 0)
            error_set(err, -r, "read %s", what);
    }
    if (r < 0) {
        memory_pages_done(&pages);
        return r;
    }
    *ret_pages = pages;
    return 0;
}

/* The run that has packed page @packed, which must be one. */
static size_t find_run(const struct memory_pages *pages, uint32_t packed)
{
    size_t low = 0, high = pages->data.n;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (pages->packed[middle] <= packed)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int memory_pages_each(const struct memory_pages *pages, uint64_t offset_bytes, size_t len_bytes,
                      memory_pages_visit *visit, void *opaque)
{
    uint32_t at = (uint32_t)(offset_bytes / SNAPSHOT_PAGE_BYTES);
    const uint32_t start = at, end = at + (uint32_t)(len_bytes / SNAPSHOT_PAGE_BYTES);
    int r = 0;

    assert(end <= pages->packed[pages->data.n]);
    for (size_t i = find_run(pages, at); r == 0 && at < end; i++) {
        const struct snapshot_extent *run = &pages->data.items[i];
        uint32_t skip = at - pages->packed[i], n = run->n - skip;

        if (n > end - at)
            n = end - at;
        r = visit(opaque, (struct snapshot_extent){.first = run->first + skip, .n = n},
                  (size_t)(at - start) * SNAPSHOT_PAGE_BYTES);
        at += n;
    }
    return r;
}
