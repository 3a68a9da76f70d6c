/*
 * Counters, gauges and histograms, and their text for Prometheus. Knows no metric by name: whoever
 * counts something makes a family at start and keeps it.
 *
 *   metrics_new() → metrics_family()… → metric_of() → metric_add(), metric_observe() …
 * metrics_write()
 *
 * Trust: label values may be a client's (function names): cut, made UTF-8, escaped. A family has at
 * most max_series label sets; what comes after shares one series, whose label values are all
 * "other": nobody grows the daemon or its monitoring by making functions. Series are never removed.
 * Threads: any, at the same time. Adding to a series is one atomic operation and never waits;
 * finding one takes no lock, making one takes its family's. Families are made before threads start.
 * Source: Prometheus text exposition format 0.0.4.
 */
#ifndef MAYFLY_HOST_OBSERVE_METRICS_H
#define MAYFLY_HOST_OBSERVE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    METRIC_LABELS_MAX = 4,
    METRIC_LABEL_VALUE_MAX = 128, /* bytes */
    METRIC_BUCKETS_MAX = 24,
    METRIC_SERIES_MAX = 4096,
};

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metrics;
struct metric_family;
struct metric; /* a series: a family with its label values */

/* What a family is; all copied. Names as Prometheus has them: [a-zA-Z_][a-zA-Z0-9_]*. */
struct metric_description {
    enum metric_type type;
    const char *name, *help;
    const char *labels[METRIC_LABELS_MAX + 1]; /* NULL-terminated; none of them "le" */
    const double *bounds; /* of a histogram: upper, rising; +Inf is added; NULL: of latencies */
    size_t n_bounds;      /* ≤ METRIC_BUCKETS_MAX */
    size_t max_series;    /* ≤ METRIC_SERIES_MAX; 0: 1024 */
};

struct metrics *metrics_new(void); /* NULL: no memory */
void metrics_free(struct metrics *metrics);

/*
 * metrics_family - -EINVAL for a description that breaks a rule, -EEXIST for a name that is taken.
 * *ret_family is borrowed from @metrics.
 */
int metrics_family(struct metrics *metrics, const struct metric_description *description,
                   struct metric_family **ret_family, struct error *err);

/*
 * metric_of - the series with these label values, one for each label in its order (NULL as ""). It
 * lives as long as @metrics: keep it where it is used often. Never NULL: without memory, or beyond
 * max_series, it is the family's "other".
 */
struct metric *metric_of(struct metric_family *family, const char *const *values);

/* metric_add - to a counter (@amount ≥ 0, else ignored) or a gauge. metric_set - a gauge. */
void metric_add(struct metric *metric, double amount);
void metric_set(struct metric *metric, double value);

/* metric_observe - count @value in a histogram. */
void metric_observe(struct metric *metric, double value);

/* metric_value - a counter's or gauge's; of a histogram, how many values it has counted. */
double metric_value(const struct metric *metric);

/* metrics_on_write - call @collect before each text: for gauges that are cheaper asked than kept.
 */
typedef void metrics_collect(void *opaque);
int metrics_on_write(struct metrics *metrics, metrics_collect *collect, void *opaque,
                     struct error *err);

/*
 * metrics_write - all of it, as text/plain; version=0.0.4. Sums and buckets of a histogram that is
 * being counted in may be of different moments; a bucket never counts more than the one above it.
 * *ret_text is owned, terminated.
 */
int metrics_write(struct metrics *metrics, char **ret_text, size_t *ret_len_bytes,
                  struct error *err);

/* metrics_write_of - only the series whose label @label is @value; families without are left out,
 * and so are the series that are shared. */
int metrics_write_of(struct metrics *metrics, const char *label, const char *value, char **ret_text,
                     size_t *ret_len_bytes, struct error *err);

#endif
