/* Readings of metrics: see top_reading.h. Process: the CLI. */
#include "top_reading.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics_text.h"

/* --- taking ------------------------------------------------------------------------------------
 */

static struct top_function *function_of(struct top_reading *reading,
                                        const struct metric_sample *sample)
{
    const char *tenant = metric_sample_label(sample, "tenant");
    const char *name = metric_sample_label(sample, "function");

    if (!*name)
        return NULL;
    /* A function's series come one after the other: look from the end. */
    for (size_t i = reading->n; i-- > 0;)
        if (strcmp(reading->functions[i].name, name) == 0 &&
            strcmp(reading->functions[i].tenant, tenant) == 0)
            return &reading->functions[i];
    if (reading->n == TOP_ROWS_MAX)
        return NULL;
    if ((reading->n & (reading->n - 1)) == 0) {
        size_t size = (reading->n ? 2 * reading->n : 1) * sizeof(*reading->functions);
        struct top_function *larger = realloc(reading->functions, size);

        if (!larger)
            return NULL;
        reading->functions = larger;
    }
    struct top_function *function = &reading->functions[reading->n++];
    *function = (struct top_function){.counts = {0}};
    snprintf(function->tenant, sizeof(function->tenant), "%s", tenant);
    snprintf(function->name, sizeof(function->name), "%s", name);
    return function;
}

static void take_start(struct top_counts *counts, const char *kind, double value)
{
    if (strcmp(kind, "warm") == 0)
        counts->warm += value;
    else if (strcmp(kind, "restored") == 0)
        counts->restored += value;
    else
        counts->cold += value;
}

static void take_bucket(struct top_counts *counts, const char *bound, double value)
{
    double limit = strtod(bound, NULL); /* "+Inf", too */

    if (counts->n_buckets == TOP_BUCKETS_MAX)
        return;
    counts->bounds[counts->n_buckets] = limit;
    counts->below[counts->n_buckets++] = value;
}

static void take_host(struct top_reading *reading, const struct metric_sample *sample)
{
    const char *state = metric_sample_label(sample, "state");
    const struct {
        const char *name, *state;
        double *to;
    } gauges[] = {{"mayfly_instances", "idle", &reading->idle},
                  {"mayfly_instances", "busy", &reading->busy},
                  {"mayfly_shells", "ready", &reading->shells},
                  {"mayfly_queue_events", "", &reading->queued},
                  {"mayfly_memory_available_bytes", "", &reading->memory_available_bytes},
                  {"mayfly_instances_memory_bytes", "", &reading->instances_bytes},
                  {"process_resident_memory_bytes", "", &reading->resident_bytes}};

    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
        if (strcmp(sample->name, gauges[i].name) == 0 && strcmp(state, gauges[i].state) == 0)
            *gauges[i].to = sample->value;
}

static int on_sample(void *opaque, const struct metric_sample *sample)
{
    struct top_reading *reading = opaque;
    struct top_function *function = function_of(reading, sample);
    const char *kind = metric_sample_label(sample, "kind");

    if (!function) {
        take_host(reading, sample);
        return 0;
    }
    struct top_counts *counts = &function->counts;
    if (strcmp(sample->name, "mayfly_invocations_total") == 0) {
        counts->invocations += sample->value;
        counts->errors += strcmp(kind, "ok") == 0 ? 0 : sample->value;
    } else if (strcmp(sample->name, "mayfly_throttles_total") == 0) {
        counts->throttles += sample->value;
    } else if (strcmp(sample->name, "mayfly_starts_total") == 0) {
        take_start(counts, kind, sample->value);
    } else if (strcmp(sample->name, "mayfly_concurrency") == 0) {
        counts->concurrency = sample->value;
    } else if (strcmp(sample->name, "mayfly_duration_seconds_bucket") == 0) {
        take_bucket(counts, metric_sample_label(sample, "le"), sample->value);
    }
    return 0;
}

static int compare(const void *left, const void *right)
{
    const struct top_function *a = left, *b = right;
    int r = strcmp(a->tenant, b->tenant);

    return r ? r : strcmp(a->name, b->name);
}

int top_reading_take(const char *text, uint64_t at_ns, struct top_reading *ret_reading,
                     struct error *err)
{
    struct top_reading reading = {.at_ns = at_ns};
    int r = metrics_text_read(text, on_sample, &reading, err);

    if (r < 0) {
        top_reading_done(&reading);
        return r;
    }
    if (reading.n > 0)
        qsort(reading.functions, reading.n, sizeof(reading.functions[0]), compare);
    *ret_reading = reading;
    return 0;
}

void top_reading_done(struct top_reading *reading)
{
    free(reading->functions);
    *reading = (struct top_reading){0};
}

const struct top_function *top_reading_find(const struct top_reading *reading, const char *tenant,
                                            const char *name)
{
    struct top_function key = {.counts = {0}};

    if (reading->n == 0)
        return NULL;
    snprintf(key.tenant, sizeof(key.tenant), "%s", tenant);
    snprintf(key.name, sizeof(key.name), "%s", name);
    return bsearch(&key, reading->functions, reading->n, sizeof(key), compare);
}

/* --- comparing ---------------------------------------------------------------------------------
 */

/* A counter that went back began anew. */
static double rise(double now, double before)
{
    return now >= before ? now - before : now;
}

/* The smallest bound that @share of the events between two readings did not exceed; within the
 * bucket, as if they were spread evenly. < 0: there were none. */
static double quantile(const struct top_counts *now, const struct top_counts *before, double share)
{
    size_t n = now->n_buckets;
    bool same = before->n_buckets == n && n > 0 && now->below[n - 1] >= before->below[n - 1];
    double all = n ? now->below[n - 1] - (same ? before->below[n - 1] : 0) : 0;
    double last_bound = 0, last_below = 0;

    if (all <= 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        double below = now->below[i] - (same ? before->below[i] : 0);

        if (below >= share * all) {
            if (isinf(now->bounds[i]))
                return last_bound; /* more than this is all that is known */
            double within =
                below > last_below ? (share * all - last_below) / (below - last_below) : 1;
            return last_bound + within * (now->bounds[i] - last_bound);
        }
        last_bound = now->bounds[i];
        last_below = below;
    }
    return last_bound;
}

void top_row_of(const struct top_function *now, const struct top_function *before, double seconds,
                struct top_row *ret_row)
{
    static const struct top_counts none = {0};
    const struct top_counts *n = &now->counts, *b = before ? &before->counts : &none;

    *ret_row = (struct top_row){
        .function = now,
        .per_second = seconds > 0 ? rise(n->invocations, b->invocations) / seconds : 0,
        .errors = rise(n->errors, b->errors),
        .throttles = rise(n->throttles, b->throttles),
        .warm = rise(n->warm, b->warm),
        .restored = rise(n->restored, b->restored),
        .cold = rise(n->cold, b->cold),
        .p50_s = quantile(n, b, 0.5),
        .p99_s = quantile(n, b, 0.99)};
}
