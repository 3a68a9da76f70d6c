/* Time: one monotonic clock for durations. */
#ifndef MAYFLY_COMMON_CLOCK_H
#define MAYFLY_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

/* clock_now_ns - CLOCK_MONOTONIC in nanoseconds. Any thread. */
static inline uint64_t clock_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_now_us(void)
{
    return clock_now_ns() / 1000u;
}

#endif
