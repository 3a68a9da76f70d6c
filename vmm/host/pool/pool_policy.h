/*
 * What an instance pool decides, apart from how it does it: pure functions over counts and given
 * times. See instance_pool.h for the words.
 */
#ifndef MAYFLY_HOST_POOL_POOL_POLICY_H
#define MAYFLY_HOST_POOL_POOL_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { POOL_PEAKS = 15 }; /* intervals that target tracking looks back before it shrinks */

/* Instances of a version that are held ready ahead of events. */
struct pool_provision {
    uint32_t minimum;
    uint32_t maximum; /* equal: a fixed number; both 0: none */
    double target;    /* utilisation to aim at, in (0, 1]; Lambda's is 0.7 */
};

/* pool_provision_check - is it one? */
bool pool_provision_check(const struct pool_provision *provision);

/* The highest numbers of busy instances, an interval each; a zeroed object knows nothing. */
struct pool_peaks {
    uint32_t peaks[POOL_PEAKS];
    size_t current; /* index of the interval that is under way */
};

void pool_peaks_note(struct pool_peaks *peaks, uint32_t busy);
/* pool_peaks_next - a new interval begins; @busy now. The oldest is forgotten. */
void pool_peaks_next(struct pool_peaks *peaks, uint32_t busy);

/*
 * pool_policy_track - how many to hold: the highest peak seen lately takes up @target of them. So
 * more at once when load rises, fewer only when it stayed low for POOL_PEAKS intervals.
 */
uint32_t pool_policy_track(const struct pool_provision *provision, const struct pool_peaks *peaks);

/* pool_policy_leave - how much of a host's memory instances leave to everything else, unless an
 * administrator says otherwise: 5 %, 256 MiB at least. Below it the kernel would soon end
 * something, and it might not be an idle instance. */
uint64_t pool_policy_leave(uint64_t memory_bytes);

enum pool_reason {
    REASON_KEEP_ALIVE, /* it was not used for long */
    REASON_ROOM,       /* another version needs its place */
    REASON_MEMORY,     /* the host runs out of memory… */
    REASON_DISTRESS,   /* …and nothing else is left to end */
};

/* An idle instance, in question. */
struct pool_idle {
    uint64_t idle_ns;
    uint32_t live;        /* instances of its version, it included */
    uint32_t provisioned; /* of which are promised */
};

/* pool_policy_may_end - the pool asks for the least recently used first. */
bool pool_policy_may_end(const struct pool_idle *idle, enum pool_reason reason,
                         uint64_t keep_alive_ns);

#endif
