/*
 * What `mayfly top` makes of the daemon's metrics: one row a function, from two readings. Pure but
 * for memory. Process: the CLI. A series that is not there counts as 0.
 */
#ifndef MAYFLY_CLI_TOP_READING_H
#define MAYFLY_CLI_TOP_READING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { TOP_BUCKETS_MAX = 32, TOP_ROWS_MAX = 20000, TOP_NAME_BYTES = 160 };

/* One function, as it was read: totals since the daemon began. */
struct top_counts {
    double invocations, errors, throttles;
    double warm, restored, cold;
    double concurrency;                                     /* now */
    double bounds[TOP_BUCKETS_MAX], below[TOP_BUCKETS_MAX]; /* of durations: seconds, how many */
    size_t n_buckets;
};

struct top_function {
    char tenant[TOP_NAME_BYTES], name[TOP_NAME_BYTES];
    struct top_counts counts;
};

struct top_reading {
    struct top_function *functions; /* owned; by tenant and name */
    size_t n;
    uint64_t at_ns;
    double idle, busy, shells, queued, memory_available_bytes, resident_bytes, instances_bytes;
};

/* top_reading_take - of the text of /metrics, taken at @at_ns. *ret_reading: top_reading_done() it.
 */
int top_reading_take(const char *text, uint64_t at_ns, struct top_reading *ret_reading,
                     struct error *err);
void top_reading_done(struct top_reading *reading);

/* What happened to one function between two readings. */
struct top_row {
    const struct top_function *function; /* of the later reading */
    double per_second;                   /* invocations */
    double errors, throttles, warm, restored, cold;
    double p50_s, p99_s; /* of durations, as fine as the buckets are; < 0: none ran */
};

/* top_row_of - @before: the same function earlier; NULL: it was not there. A daemon that began anew
 * since counts from 0. */
void top_row_of(const struct top_function *now, const struct top_function *before, double seconds,
                struct top_row *ret_row);

/* top_reading_find - NULL: not there. */
const struct top_function *top_reading_find(const struct top_reading *reading, const char *tenant,
                                            const char *name);

#endif
