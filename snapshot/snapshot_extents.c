/*
 * Runs of pages: see snapshot_extents.h. Process: whoever uses the snapshot library, the monitor
 * included. Serialised lists are hostile.
 */
#include "snapshot/snapshot_extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"

#define MAGIC "MFEX"
enum { VERSION = 1, ROOM_FIRST = 64 };

void snapshot_extents_done(struct snapshot_extents *extents)
{
    free(extents->items);
    *extents = (struct snapshot_extents){0};
}

static int append(struct snapshot_extents *extents, uint32_t first, uint32_t n)
{
    if (extents->n == extents->room) {
        size_t room = extents->room ? 2 * extents->room : ROOM_FIRST;
        struct snapshot_extent *grown = realloc(extents->items, room * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        extents->items = grown;
        extents->room = room;
    }
    extents->items[extents->n++] = (struct snapshot_extent){.first = first, .n = n};
    return 0;
}

int snapshot_extents_add(struct snapshot_extents *extents, uint32_t first, uint32_t n)
{
    uint32_t end = snapshot_extents_end(extents);

    if (n == 0 || first < end || !range_fits(first, n, SNAPSHOT_PAGES_MAX))
        return -EINVAL;
    if (extents->n > 0 && first == end) {
        extents->items[extents->n - 1].n += n;
        return 0;
    }
    return append(extents, first, n);
}

/* The first bit at or after @bit that is @value; @n_bits if there is none. */
static uint32_t next_bit(const uint64_t *bitmap, uint32_t bit, uint32_t n_bits, bool value)
{
    while (bit < n_bits) {
        uint64_t word = value ? bitmap[bit / 64] : ~bitmap[bit / 64];

        word &= UINT64_MAX << (bit % 64);
        if (word != 0) {
            bit = (bit & ~63u) + (uint32_t)__builtin_ctzll(word);
            return bit < n_bits ? bit : n_bits;
        }
        bit = (bit & ~63u) + 64;
    }
    return n_bits;
}

int snapshot_extents_add_bitmap(struct snapshot_extents *extents, uint32_t first,
                                const uint64_t *bitmap, uint32_t n_pages)
{
    if (!range_fits(first, n_pages, SNAPSHOT_PAGES_MAX))
        return -EINVAL;
    for (uint32_t bit = 0; (bit = next_bit(bitmap, bit, n_pages, true)) < n_pages;) {
        uint32_t end = next_bit(bitmap, bit, n_pages, false);
        int r = snapshot_extents_add(extents, first + bit, end - bit);

        if (r < 0)
            return r;
        bit = end;
    }
    return 0;
}

uint32_t snapshot_extents_pages(const struct snapshot_extents *extents)
{
    uint32_t pages = 0;

    for (size_t i = 0; i < extents->n; i++)
        pages += extents->items[i].n;
    return pages;
}

uint32_t snapshot_extents_end(const struct snapshot_extents *extents)
{
    if (extents->n == 0)
        return 0;
    return extents->items[extents->n - 1].first + extents->items[extents->n - 1].n;
}

size_t snapshot_extents_find(const struct snapshot_extents *extents, uint32_t page)
{
    size_t low = 0, high = extents->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (extents->items[middle].first + extents->items[middle].n > page)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool snapshot_extents_overlap(const struct snapshot_extents *a, const struct snapshot_extents *b)
{
    for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
        const struct snapshot_extent *x = &a->items[i], *y = &b->items[j];

        if (x->first < y->first + y->n && y->first < x->first + x->n)
            return true;
        if (x->first < y->first)
            i++;
        else
            j++;
    }
    return false;
}

/* Adds a run that may start before the end of the list: for two sorted lists being merged. */
static int add_joined(struct snapshot_extents *extents, struct snapshot_extent run)
{
    uint32_t end = snapshot_extents_end(extents), run_end = run.first + run.n;

    if (run_end <= end)
        return 0;
    if (run.first < end)
        run.first = end;
    return snapshot_extents_add(extents, run.first, run_end - run.first);
}

int snapshot_extents_union(const struct snapshot_extents *a, const struct snapshot_extents *b,
                           struct snapshot_extents *ret)
{
    struct snapshot_extents both = {0};
    int r = 0;

    for (size_t i = 0, j = 0; r == 0 && (i < a->n || j < b->n);) {
        bool is_a = j == b->n || (i < a->n && a->items[i].first <= b->items[j].first);

        r = add_joined(&both, is_a ? a->items[i++] : b->items[j++]);
    }
    if (r < 0) {
        snapshot_extents_done(&both);
        return r;
    }
    *ret = both;
    return 0;
}

int snapshot_extents_subtract(const struct snapshot_extents *a, const struct snapshot_extents *b,
                              struct snapshot_extents *ret)
{
    struct snapshot_extents left = {0};
    size_t j = 0;
    int r = 0;

    for (size_t i = 0; r == 0 && i < a->n; i++) {
        uint32_t at = a->items[i].first, end = at + a->items[i].n;

        while (r == 0 && at < end) {
            while (j < b->n && b->items[j].first + b->items[j].n <= at)
                j++;
            uint32_t stop = j < b->n && b->items[j].first < end ? b->items[j].first : end;
            if (stop > at)
                r = snapshot_extents_add(&left, at, stop - at);
            at = stop < end ? b->items[j].first + b->items[j].n : end;
        }
    }
    if (r < 0) {
        snapshot_extents_done(&left);
        return r;
    }
    *ret = left;
    return 0;
}

static int collect_data(int fd, uint64_t len_bytes, struct snapshot_extents *extents)
{
    for (uint64_t at = 0; at < len_bytes;) {
        off_t start = lseek(fd, (off_t)at, SEEK_DATA);

        if (start < 0)
            return errno == ENXIO ? 0 : -errno;
        if ((uint64_t)start >= len_bytes)
            return 0;
        off_t end = lseek(fd, start, SEEK_HOLE);
        if (end < 0)
            return -errno;
        if ((uint64_t)end > len_bytes)
            end = (off_t)len_bytes;
        uint32_t first = (uint32_t)((uint64_t)start / SNAPSHOT_PAGE_BYTES);
        at = round_up((uint64_t)end, SNAPSHOT_PAGE_BYTES);
        int r = add_joined(
            extents, (struct snapshot_extent){.first = first,
                                              .n = (uint32_t)(at / SNAPSHOT_PAGE_BYTES) - first});
        if (r < 0)
            return r;
    }
    return 0;
}

int snapshot_extents_of_file(int fd, uint32_t n_pages, struct snapshot_extents *ret,
                             struct error *err)
{
    struct snapshot_extents extents = {0};
    int r = collect_data(fd, (uint64_t)n_pages * SNAPSHOT_PAGE_BYTES, &extents);

    if (r < 0) {
        snapshot_extents_done(&extents);
        return error_set(err, -r, "find what a memory file holds");
    }
    *ret = extents;
    return 0;
}

int snapshot_extents_serialise(const struct snapshot_extents *extents, uint8_t **ret_data,
                               size_t *ret_len_bytes)
{
    size_t len = SNAPSHOT_EXTENTS_HEADER_BYTES + extents->n * SNAPSHOT_EXTENT_BYTES;
    uint8_t *data = malloc(len), *to = data;

    if (!data)
        return -ENOMEM;
    memcpy(to, MAGIC, 4);
    store_le32(to + 4, VERSION);
    store_le32(to + 8, (uint32_t)extents->n);
    store_le32(to + 12, 0);
    to += SNAPSHOT_EXTENTS_HEADER_BYTES;
    for (size_t i = 0; i < extents->n; i++, to += SNAPSHOT_EXTENT_BYTES) {
        store_le32(to, extents->items[i].first);
        store_le32(to + 4, extents->items[i].n);
    }
    *ret_data = data;
    *ret_len_bytes = len;
    return 0;
}

uint32_t snapshot_extents_count(const uint8_t *header)
{
    return load_le32(header + 8);
}

static int parse_runs(const uint8_t *from, uint32_t n, uint32_t n_pages, const char *what,
                      struct snapshot_extents *extents, struct error *err)
{
    for (uint32_t i = 0; i < n; i++, from += SNAPSHOT_EXTENT_BYTES) {
        uint32_t first = load_le32(from), len = load_le32(from + 4);
        bool apart = i == 0 || first > snapshot_extents_end(extents);

        if (!apart || len == 0 || !range_fits(first, len, n_pages))
            return error_say(err, EBADMSG,
                             "%s is damaged: run %u (page %u, %u pages) is empty, out of order or "
                             "outside the memory's %u pages",
                             what, i, first, len, n_pages);
        int r = snapshot_extents_add(extents, first, len);
        if (r < 0)
            return error_set(err, -r, "read %s", what);
    }
    return 0;
}

int snapshot_extents_parse(const uint8_t *data, size_t len_bytes, uint32_t n_pages,
                           const char *what, struct snapshot_extents *ret, struct error *err)
{
    struct snapshot_extents extents = {0};

    if (len_bytes < SNAPSHOT_EXTENTS_HEADER_BYTES || memcmp(data, MAGIC, 4) != 0)
        return error_say(err, EBADMSG, "%s is no list of pages (it does not start with " MAGIC ")",
                         what);
    if (load_le32(data + 4) != VERSION)
        return error_say(err, EBADMSG, "%s has format version %u; this program reads %d", what,
                         load_le32(data + 4), VERSION);
    uint32_t n = load_le32(data + 8);
    size_t room = (len_bytes - SNAPSHOT_EXTENTS_HEADER_BYTES) / SNAPSHOT_EXTENT_BYTES;
    if (n != room || load_le32(data + 12) != 0 ||
        len_bytes != SNAPSHOT_EXTENTS_HEADER_BYTES + room * SNAPSHOT_EXTENT_BYTES)
        return error_say(err, EBADMSG, "%s is damaged: %zu bytes do not hold the %u runs it claims",
                         what, len_bytes, n);
    int r = parse_runs(data + SNAPSHOT_EXTENTS_HEADER_BYTES, n, n_pages, what, &extents, err);
    if (r < 0) {
        snapshot_extents_done(&extents);
        return r;
    }
    *ret = extents;
    return 0;
}
