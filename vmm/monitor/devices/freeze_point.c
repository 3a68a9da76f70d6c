/* The port at which a guest is frozen: see freeze_point.h. */
#include "freeze_point.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <x86intrin.h>

struct freeze_point {
    struct freeze_point_config config;
    atomic_bool is_reached;
    _Atomic uint64_t tsc; /* when the guest came; several vCPUs of one that misbehaves may race */
    _Atomic uint64_t latched; /* what the read of the low half found */
};

int freeze_point_new(const struct freeze_point_config *config, struct freeze_point **ret_point,
                     struct error *err)
{
    struct freeze_point *point = calloc(1, sizeof(*point));

    if (!point)
        return error_set(err, ENOMEM, "freeze point");
    point->config = *config;
    *ret_point = point;
    return 0;
}

void freeze_point_free(struct freeze_point *point)
{
    free(point);
}

void freeze_point_write(struct freeze_point *point)
{
    point->tsc = __rdtsc();
    atomic_store(&point->is_reached, true);
    point->config.reached(point->config.opaque);
}

uint32_t freeze_point_read(struct freeze_point *point, unsigned offset)
{
    if (offset == 4)
        return (uint32_t)(point->latched >> 32);
    if (offset != 0)
        return UINT32_MAX;
    point->latched = (uint64_t)freeze_point_missed_cycles(point);
    atomic_store(&point->is_reached, false);
    return (uint32_t)point->latched;
}

bool freeze_point_is_reached(const struct freeze_point *point)
{
    return atomic_load(&point->is_reached);
}

uint64_t freeze_point_get_tsc(const struct freeze_point *point)
{
    return point->tsc;
}

void freeze_point_set_tsc(struct freeze_point *point, uint64_t tsc)
{
    point->tsc = tsc;
    atomic_store(&point->is_reached, true);
}

int64_t freeze_point_missed_cycles(const struct freeze_point *point)
{
    return point->config.has_host_tsc && freeze_point_is_reached(point)
               ? (int64_t)(__rdtsc() - point->tsc)
               : 0;
}
