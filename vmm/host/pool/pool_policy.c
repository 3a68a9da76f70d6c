/* What an instance pool decides: see pool_policy.h. */
#include "pool_policy.h"

bool pool_provision_check(const struct pool_provision *provision)
{
    return provision->minimum <= provision->maximum && provision->target > 0.0 &&
           provision->target <= 1.0;
}

void pool_peaks_note(struct pool_peaks *peaks, uint32_t busy)
{
    if (busy > peaks->peaks[peaks->current])
        peaks->peaks[peaks->current] = busy;
}

void pool_peaks_next(struct pool_peaks *peaks, uint32_t busy)
{
    peaks->current = (peaks->current + 1) % POOL_PEAKS;
    peaks->peaks[peaks->current] = busy;
}

uint32_t pool_policy_track(const struct pool_provision *provision, const struct pool_peaks *peaks)
{
    uint32_t peak = 0;

    for (size_t i = 0; i < POOL_PEAKS; i++)
        if (peaks->peaks[i] > peak)
            peak = peaks->peaks[i];
    /* Rounded up, but for what floating point adds: 7 / 0.7 is 10. */
    double wanted = (double)peak / provision->target - 1e-6;
    if (wanted >= (double)provision->maximum)
        return provision->maximum;
    uint32_t whole = wanted > 0.0 ? (uint32_t)wanted + 1 : 0;
    return whole > provision->minimum ? whole : provision->minimum;
}

uint64_t pool_policy_leave(uint64_t memory_bytes)
{
    const uint64_t least = UINT64_C(256) << 20;
    uint64_t part = memory_bytes / 20;

    return part > least ? part : least;
}

bool pool_policy_may_end(const struct pool_idle *idle, enum pool_reason reason,
                         uint64_t keep_alive_ns)
{
    bool is_spare = idle->live > idle->provisioned;

    switch (reason) {
    case REASON_KEEP_ALIVE:
        return is_spare && idle->idle_ns >= keep_alive_ns;
    case REASON_ROOM:
    case REASON_MEMORY:
        return is_spare;
    case REASON_DISTRESS:
        return true;
    }
    return false;
}
