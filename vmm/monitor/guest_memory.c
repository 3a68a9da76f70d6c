/* Guest-physical memory behind bounds: see guest_memory.h. */
#include "guest_memory.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

static const struct guest_region *region_of(const struct guest_memory *memory, uint64_t at,
                                            uint64_t len)
{
    for (size_t i = 0; i < memory->n_regions; i++) {
        const struct guest_region *region = &memory->regions[i];

        if (at >= region->start && range_fits(at - region->start, len, region->len_bytes))
            return region;
    }
    return NULL;
}

void *guest_memory_window(const struct guest_memory *memory, gpa_t at, size_t len_bytes,
                          int writable)
{
    const struct guest_region *region = region_of(memory, at.value, len_bytes);

    if (!region || len_bytes == 0 || (writable && region->read_only))
        return NULL;
    return region->host + (at.value - region->start);
}

int guest_memory_read(const struct guest_memory *memory, gpa_t from, void *to, size_t len_bytes)
{
    if (len_bytes == 0)
        return 0;
    const void *window = guest_memory_window(memory, from, len_bytes, 0);
    if (!window)
        return -EFAULT;
    memcpy(to, window, len_bytes);
    return 0;
}

int guest_memory_write(const struct guest_memory *memory, gpa_t to, const void *from,
                       size_t len_bytes)
{
    if (len_bytes == 0)
        return 0;
    void *window = guest_memory_window(memory, to, len_bytes, 1);
    if (!window)
        return -EFAULT;
    memcpy(window, from, len_bytes);
    return 0;
}

void guest_memory_touch(const struct iovec *windows, size_t n_windows)
{
    enum { PAGE_BYTES = 4096 };

    for (size_t i = 0; i < n_windows; i++) {
        const volatile uint8_t *window = windows[i].iov_base;
        size_t len = windows[i].iov_len;

        for (size_t at = 0; at < len; at += PAGE_BYTES)
            (void)window[at];
        if (len > 0)
            (void)window[len - 1];
    }
}

int guest_memory_add(struct guest_memory *memory, struct guest_region region)
{
    if (memory->n_regions == GUEST_MEMORY_MAX_REGIONS || region.len_bytes == 0 || !region.host ||
        region.start + region.len_bytes < region.start)
        return -EINVAL;
    for (size_t i = 0; i < memory->n_regions; i++) {
        const struct guest_region *other = &memory->regions[i];

        if (region.start < other->start + other->len_bytes &&
            other->start < region.start + region.len_bytes)
            return -EEXIST;
    }
    memory->regions[memory->n_regions++] = region;
    return 0;
}
