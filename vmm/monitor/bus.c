/* A bus of devices: see bus.h. */
#include "bus.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

int bus_add(struct bus *bus, struct bus_range range)
{
    if (bus->n_ranges == BUS_MAX_RANGES)
        return -ENOSPC;
    bus->ranges[bus->n_ranges++] = range;
    return 0;
}

static const struct bus_range *find(const struct bus *bus, uint64_t address, unsigned len_bytes)
{
    for (size_t i = 0; i < bus->n_ranges; i++) {
        const struct bus_range *range = &bus->ranges[i];

        if (address >= range->start && range_fits(address - range->start, len_bytes, range->len))
            return range;
    }
    return NULL;
}

void bus_read(const struct bus *bus, uint64_t address, uint8_t *data, unsigned len_bytes)
{
    const struct bus_range *range = find(bus, address, len_bytes);

    memset(data, range ? 0 : 0xff, len_bytes);
    if (range)
        range->ops->read(range->device, address - range->start, data, len_bytes);
}

void bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, unsigned len_bytes)
{
    const struct bus_range *range = find(bus, address, len_bytes);

    if (range)
        range->ops->write(range->device, address - range->start, data, len_bytes);
}
