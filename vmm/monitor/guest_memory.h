/*
 * Guest-physical memory, reached only through bounds that are checked on every access.
 *
 * Trust: every address and length comes from the guest. Invariant: no pointer into guest memory
 * leaves this module but through guest_memory_window(), whose bytes may change at any moment: use
 * it only as the source or target of a copy or of file I/O, never to check a value in place.
 */
#ifndef MAYFLY_MONITOR_GUEST_MEMORY_H
#define MAYFLY_MONITOR_GUEST_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* A guest-physical address: a struct, so that it cannot be dereferenced by accident. */
typedef struct {
    uint64_t value;
} gpa_t;

enum { GUEST_MEMORY_MAX_REGIONS = 8 };

struct guest_region {
    uint64_t start;     /* guest-physical */
    uint64_t len_bytes; /* > 0 */
    uint8_t *host;      /* borrowed: mapped for as long as the VM lives */
    int read_only;      /* the pmem root image: windows for writing are refused */
};

/* Filled before the first vCPU runs and constant from then on: any thread may read it. */
struct guest_memory {
    size_t n_regions;
    struct guest_region regions[GUEST_MEMORY_MAX_REGIONS];
};

/* guest_memory_read / _write - copy whole or not at all. Return 0 or -EFAULT. */
int guest_memory_read(const struct guest_memory *memory, gpa_t from, void *to, size_t len_bytes);
int guest_memory_write(const struct guest_memory *memory, gpa_t to, const void *from,
                       size_t len_bytes);

/*
 * guest_memory_window - host address of [@at, @at + @len_bytes), which must lie in one region.
 * @len_bytes > 0. @writable: the host will write there. Returns NULL if it is not all memory.
 */
void *guest_memory_window(const struct guest_memory *memory, gpa_t at, size_t len_bytes,
                          int writable);

/*
 * guest_memory_touch - read a byte of each page of @windows, which a system call would not
 * (EFAULT): if the file behind them was cut short, that raises the SIGBUS which ends the VM with
 * the reason (memory_loss.h), and this does not return.
 */
void guest_memory_touch(const struct iovec *windows, size_t n_windows);

/* guest_memory_add - -EINVAL when the table is full or the region wraps, -EEXIST on overlap. */
int guest_memory_add(struct guest_memory *memory, struct guest_region region);

static inline gpa_t gpa(uint64_t value)
{
    return (gpa_t){value};
}

#endif
