/*
 * Reading the Prometheus text that mayflyd writes. Process: the CLI. Trust: the daemon's, but label
 * values are clients' choices: lengths are bounded, and a line that is none is an error.
 * Source: Prometheus text exposition format 0.0.4.
 */
#ifndef MAYFLY_CLI_METRICS_TEXT_H
#define MAYFLY_CLI_METRICS_TEXT_H

#include <stddef.h>

#include "common/error.h"

enum { SAMPLE_LABELS_MAX = 8, SAMPLE_NAME_MAX = 128, SAMPLE_VALUE_MAX = 160 };

struct metric_label {
    char name[SAMPLE_NAME_MAX], value[SAMPLE_VALUE_MAX];
};

struct metric_sample {
    char name[SAMPLE_NAME_MAX];
    struct metric_label labels[SAMPLE_LABELS_MAX];
    size_t n_labels;
    double value;
};

/*
 * metrics_text_read - calls @on_sample for each line with a value, in order; what that returns, if
 * not 0, ends it. @text: terminated. 0, or -EBADMSG naming the line.
 */
int metrics_text_read(const char *text,
                      int (*on_sample)(void *opaque, const struct metric_sample *sample),
                      void *opaque, struct error *err);

/* metric_sample_label - "" where it has no such label. Borrowed. */
const char *metric_sample_label(const struct metric_sample *sample, const char *name);

#endif
