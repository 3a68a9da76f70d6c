/*
 * A bus: which device answers which addresses. One for ports, one for MMIO. Filled before the first
 * vCPU runs, constant from then on; vCPU threads call in, and the devices lock themselves.
 */
#ifndef MAYFLY_MONITOR_BUS_H
#define MAYFLY_MONITOR_BUS_H

#include <stddef.h>
#include <stdint.h>

/* @offset is from the range's start; @len_bytes is 1 to 8. The data is hostile. */
struct bus_ops {
    void (*read)(void *device, uint64_t offset, uint8_t *data, unsigned len_bytes);
    void (*write)(void *device, uint64_t offset, const uint8_t *data, unsigned len_bytes);
};

enum { BUS_MAX_RANGES = 24 };

struct bus_range {
    uint64_t start, len;
    const struct bus_ops *ops; /* borrowed */
    void *device;              /* borrowed */
};

struct bus {
    size_t n_ranges;
    struct bus_range ranges[BUS_MAX_RANGES];
};

/* bus_add - -ENOSPC when the table is full. */
int bus_add(struct bus *bus, struct bus_range range);

/* bus_read - all bits one where nobody answers, as on a PC. */
void bus_read(const struct bus *bus, uint64_t address, uint8_t *data, unsigned len_bytes);
void bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, unsigned len_bytes);

#endif
