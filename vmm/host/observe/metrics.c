/* Metrics: see metrics.h. Process: the daemon's; label values are a client's. */
#include "metrics.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/utf8.h"

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
#define DIGITS "0123456789"

enum {
    COLLECTORS_MAX = 16,
    SERIES_DEFAULT = 1024,
    KEY_BYTES = METRIC_LABELS_MAX * (METRIC_LABEL_VALUE_MAX + 1),
};

/* Numbers are doubles in atomic words: a counter of GB-seconds is none of whole numbers, and up to
 * 2^53 nothing is lost of those that are. */
typedef atomic_uint_fast64_t atomic_number;

struct metric {
    struct metric_family *family; /* borrowed */
    size_t key_len;
    char *key;                     /* the label values, each with its 0; owned */
    struct metric *next;           /* in the order they were made */
    atomic_number value;           /* of a histogram: the sum */
    atomic_uint_fast64_t counts[]; /* of a histogram: in each bucket alone, +Inf last */
};

struct metric_family {
    enum metric_type type;
    char *name, *help;
    char *labels[METRIC_LABELS_MAX];
    size_t n_labels;
    double bounds[METRIC_BUCKETS_MAX];
    size_t n_bounds;
    struct metric_family *next;
    struct metric *other;
    /* Hash table of series: slots are filled once and never change, so that it is read without a
     * lock. Twice max_series, so that there is always a free one where a search ends. */
    _Atomic(struct metric *) *slots;
    size_t n_slots;       /* a power of two */
    pthread_mutex_t lock; /* of what makes new ones: */
    size_t n_series, max_series;
    struct metric *first, *last;
};

struct collector {
    metrics_collect *collect;
    void *opaque;
};

struct metrics {
    struct metric_family *first, **last;
    struct collector collectors[COLLECTORS_MAX];
    size_t n_collectors;
};

/* In seconds: what a warm, a restored and a cold start take, and functions themselves. */
static const double latencies[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                   0.025,  0.05,    0.1,    0.25,  0.5,    1,     2.5,
                                   5,      10,      30,     60,    300,    900};

/* --- numbers -------------------------------------------------------------------------------------
 */

static uint64_t to_bits(double number)
{
    uint64_t bits;

    memcpy(&bits, &number, sizeof(bits));
    return bits;
}

static double from_bits(uint64_t bits)
{
    double number;

    memcpy(&number, &bits, sizeof(number));
    return number;
}

static double load(const atomic_number *number)
{
    return from_bits(atomic_load_explicit(number, memory_order_relaxed));
}

static void add(atomic_number *number, double amount)
{
    uint_fast64_t before = atomic_load_explicit(number, memory_order_relaxed);

    while (!atomic_compare_exchange_weak_explicit(number, &before,
                                                  to_bits(from_bits(before) + amount),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metric_add(struct metric *metric, double amount)
{
    if (metric->family->type == METRIC_GAUGE || amount >= 0)
        add(&metric->value, amount);
}

void metric_set(struct metric *metric, double value)
{
    atomic_store_explicit(&metric->value, to_bits(value), memory_order_relaxed);
}

void metric_observe(struct metric *metric, double value)
{
    const struct metric_family *family = metric->family;
    size_t bucket = 0;

    assert(family->type == METRIC_HISTOGRAM);
    while (bucket < family->n_bounds && !(value <= family->bounds[bucket]))
        bucket++;
    atomic_fetch_add_explicit(&metric->counts[bucket], 1, memory_order_relaxed);
    add(&metric->value, value);
}

double metric_value(const struct metric *metric)
{
    uint64_t n = 0;

    if (metric->family->type != METRIC_HISTOGRAM)
        return load(&metric->value);
    for (size_t i = 0; i <= metric->family->n_bounds; i++)
        n += atomic_load_explicit(&metric->counts[i], memory_order_relaxed);
    return (double)n;
}

/* --- families ------------------------------------------------------------------------------------
 */

struct metrics *metrics_new(void)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));

    if (metrics)
        metrics->last = &metrics->first;
    return metrics;
}

static void metric_free(struct metric *metric)
{
    if (metric)
        free(metric->key);
    free(metric);
}

static void family_free(struct metric_family *family)
{
    for (struct metric *at = family->first, *next; at; at = next) {
        next = at->next;
        metric_free(at);
    }
    metric_free(family->other);
    for (size_t i = 0; i < family->n_labels; i++)
        free(family->labels[i]);
    free(family->name);
    free(family->help);
    free(family->slots);
    pthread_mutex_destroy(&family->lock);
    free(family);
}

void metrics_free(struct metrics *metrics)
{
    if (!metrics)
        return;
    for (struct metric_family *at = metrics->first, *next; at; at = next) {
        next = at->next;
        family_free(at);
    }
    free(metrics);
}

static bool is_name(const char *name)
{
    return name && name[0] && strchr(DIGITS, name[0]) == NULL &&
           strspn(name, LETTERS DIGITS) == strlen(name);
}

static int check_description(const struct metrics *metrics, const struct metric_description *d,
                             struct error *err)
{
    if (!is_name(d->name) || !d->help)
        return error_say(err, EINVAL, "a metric has no name or help");
    for (size_t i = 0; d->labels[i]; i++)
        if (!is_name(d->labels[i]) || strcmp(d->labels[i], "le") == 0 || i == METRIC_LABELS_MAX)
            return error_say(err, EINVAL, "the metric %s has a label that cannot be", d->name);
    if (d->n_bounds > METRIC_BUCKETS_MAX || (d->bounds && d->type != METRIC_HISTOGRAM) ||
        d->max_series > METRIC_SERIES_MAX)
        return error_say(err, EINVAL, "the metric %s is too large", d->name);
    for (size_t i = 0; d->bounds && i < d->n_bounds; i++)
        if (!isfinite(d->bounds[i]) || (i > 0 && d->bounds[i] <= d->bounds[i - 1]))
            return error_say(err, EINVAL, "the bounds of %s do not rise", d->name);
    for (const struct metric_family *at = metrics->first; at; at = at->next)
        if (strcmp(at->name, d->name) == 0)
            return error_say(err, EEXIST, "there is a metric %s already", d->name);
    return 0;
}

static struct metric *metric_new(struct metric_family *family, const char *key, size_t key_len)
{
    size_t n_counts = family->type == METRIC_HISTOGRAM ? family->n_bounds + 1 : 0;
    struct metric *metric = calloc(1, sizeof(*metric) + n_counts * sizeof(metric->counts[0]));

    if (!metric)
        return NULL;
    metric->family = family;
    metric->key = malloc(key_len + 1);
    if (!metric->key) {
        free(metric);
        return NULL;
    }
    memcpy(metric->key, key, key_len);
    metric->key_len = key_len;
    return metric;
}

static bool copy_texts(struct metric_family *family, const struct metric_description *d)
{
    family->name = strdup(d->name);
    family->help = strdup(d->help);
    for (; d->labels[family->n_labels]; family->n_labels++) {
        family->labels[family->n_labels] = strdup(d->labels[family->n_labels]);
        if (!family->labels[family->n_labels])
            return false;
    }
    return family->name && family->help;
}

/* The series that all share who come too late. */
static bool make_other(struct metric_family *family)
{
    char key[KEY_BYTES];
    size_t len = 0;

    for (size_t i = 0; i < family->n_labels; i++) {
        memcpy(key + len, "other", sizeof("other"));
        len += sizeof("other");
    }
    family->other = metric_new(family, key, len);
    return family->other != NULL;
}

static bool fill_family(struct metric_family *family, const struct metric_description *d)
{
    const double *bounds = d->bounds ? d->bounds : latencies;

    family->type = d->type;
    family->max_series = d->max_series ? d->max_series : SERIES_DEFAULT;
    if (d->type == METRIC_HISTOGRAM) {
        family->n_bounds = d->bounds ? d->n_bounds : ARRAY_LEN(latencies);
        memcpy(family->bounds, bounds, family->n_bounds * sizeof(bounds[0]));
    }
    family->n_slots = 2;
    while (family->n_slots < 2 * family->max_series)
        family->n_slots *= 2;
    family->slots = calloc(family->n_slots, sizeof(family->slots[0]));
    return family->slots && copy_texts(family, d) && make_other(family);
}

int metrics_family(struct metrics *metrics, const struct metric_description *description,
                   struct metric_family **ret_family, struct error *err)
{
    int r = check_description(metrics, description, err);
    struct metric_family *family = r < 0 ? NULL : calloc(1, sizeof(*family));

    if (r < 0)
        return r;
    if (!family)
        return error_set(err, ENOMEM, "make the metric %s", description->name);
    pthread_mutex_init(&family->lock, NULL); /* cannot fail with default attributes on Linux */
    if (!fill_family(family, description)) {
        family_free(family);
        return error_set(err, ENOMEM, "make the metric %s", description->name);
    }
    *metrics->last = family;
    metrics->last = &family->next;
    /* Without labels there is one series, and a text that shows it is there at 0. */
    if (family->n_labels == 0)
        metric_of(family, NULL);
    *ret_family = family;
    return 0;
}

/* --- series --------------------------------------------------------------------------------------
 */

/* As much of @value as is UTF-8 and fits; the rest of a damaged one is not shown. */
static size_t value_bytes(const char *value)
{
    size_t max = strnlen(value, METRIC_LABEL_VALUE_MAX), len = 0, n;

    while (len < max && (n = utf8_sequence((const unsigned char *)value + len, max - len)) > 0)
        len += n;
    return len;
}

static size_t make_key(const struct metric_family *family, const char *const *values,
                       char key[KEY_BYTES])
{
    size_t used = 0;

    for (size_t i = 0; i < family->n_labels; i++) {
        const char *value = values[i] ? values[i] : "";
        size_t len = value_bytes(value);

        memcpy(key + used, value, len);
        key[used + len] = '\0';
        used += len + 1;
    }
    return used;
}

/* FNV-1a: a table that somebody fills with collisions has max_series entries at most. */
static size_t hash(const char *key, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

/* The slot that has the key, or the free one where it would be. */
static _Atomic(struct metric *) *find_slot(struct metric_family *family, const char *key,
                                           size_t len, struct metric **ret_found)
{
    for (size_t at = hash(key, len);; at++) {
        _Atomic(struct metric *) *slot = &family->slots[at & (family->n_slots - 1)];
        struct metric *found = atomic_load_explicit(slot, memory_order_acquire);

        *ret_found = found;
        if (!found || (found->key_len == len && memcmp(found->key, key, len) == 0))
            return slot;
    }
}

/* Under the lock. */
static struct metric *add_series(struct metric_family *family, const char *key, size_t len)
{
    struct metric *metric;
    _Atomic(struct metric *) *slot = find_slot(family, key, len, &metric);

    if (metric)
        return metric; /* another thread was first */
    if (len > 0 && len == family->other->key_len && memcmp(key, family->other->key, len) == 0)
        return family->other; /* never two of the same labels */
    metric = family->n_series < family->max_series ? metric_new(family, key, len) : NULL;
    if (!metric)
        return family->other;
    if (family->last)
        family->last->next = metric;
    else
        family->first = metric;
    family->last = metric;
    family->n_series++;
    atomic_store_explicit(slot, metric, memory_order_release);
    return metric;
}

struct metric *metric_of(struct metric_family *family, const char *const *values)
{
    char key[KEY_BYTES];
    size_t len = make_key(family, values, key);
    struct metric *metric;

    find_slot(family, key, len, &metric);
    if (metric)
        return metric;
    pthread_mutex_lock(&family->lock);
    metric = add_series(family, key, len);
    pthread_mutex_unlock(&family->lock);
    return metric;
}

/* --- text ----------------------------------------------------------------------------------------
 */

int metrics_on_write(struct metrics *metrics, metrics_collect *collect, void *opaque,
                     struct error *err)
{
    if (metrics->n_collectors == COLLECTORS_MAX)
        return error_say(err, ENOSPC, "more than %d collectors of metrics", COLLECTORS_MAX);
    metrics->collectors[metrics->n_collectors++] = (struct collector){collect, opaque};
    return 0;
}

/* Backslash, line feed and, in label values, quotes. Other control characters, which no scraper
 * needs and a terminal may obey, as '?'. */
static void put_escaped(FILE *to, const char *text, bool quotes)
{
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\\\", to);
        else if (*text == '\n')
            fputs("\\n", to);
        else if (*text == '"' && quotes)
            fputs("\\\"", to);
        else
            fputc((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text, to);
    }
}

static void put_number(FILE *to, double number)
{
    if (isnan(number))
        fputs("NaN\n", to);
    else if (isinf(number))
        fputs(number > 0 ? "+Inf\n" : "-Inf\n", to);
    else if (fabs(number) < 9e15 && number == floor(number))
        fprintf(to, "%.0f\n", number);
    else
        fprintf(to, "%.17g\n", number);
}

/* name_suffix{label="value",le="bound"} and a blank. @le: NULL for none. */
static void put_name(FILE *to, const struct metric *metric, const char *suffix, const char *le)
{
    const struct metric_family *family = metric->family;
    const char *value = metric->key;

    fprintf(to, "%s%s", family->name, suffix);
    for (size_t i = 0; i < family->n_labels; i++) {
        fprintf(to, "%s%s=\"", i == 0 ? "{" : ",", family->labels[i]);
        put_escaped(to, value, true);
        fputc('"', to);
        value += strlen(value) + 1;
    }
    if (le)
        fprintf(to, "%sle=\"%s\"", family->n_labels == 0 ? "{" : ",", le);
    fputs(family->n_labels > 0 || le ? "} " : " ", to);
}

static void put_histogram(FILE *to, const struct metric *metric)
{
    const struct metric_family *family = metric->family;
    uint64_t n = 0;
    char le[32];

    for (size_t i = 0; i <= family->n_bounds; i++) {
        n += atomic_load_explicit(&metric->counts[i], memory_order_relaxed);
        if (i < family->n_bounds)
            snprintf(le, sizeof(le), "%.10g", family->bounds[i]);
        else
            snprintf(le, sizeof(le), "+Inf");
        put_name(to, metric, "_bucket", le);
        fprintf(to, "%llu\n", (unsigned long long)n);
    }
    put_name(to, metric, "_sum", NULL);
    put_number(to, load(&metric->value));
    put_name(to, metric, "_count", NULL);
    fprintf(to, "%llu\n", (unsigned long long)n);
}

static void put_metric(FILE *to, const struct metric *metric)
{
    if (metric->family->type == METRIC_HISTOGRAM) {
        put_histogram(to, metric);
        return;
    }
    put_name(to, metric, "", NULL);
    put_number(to, load(&metric->value));
}

static bool is_used(const struct metric *metric)
{
    return metric_value(metric) != 0;
}

/* Which series are written. */
struct choice {
    const char *label, *value; /* NULL: all */
};

static bool has_label(const struct metric_family *family, const char *label)
{
    for (size_t i = 0; i < family->n_labels; i++)
        if (strcmp(family->labels[i], label) == 0)
            return true;
    return false;
}

static bool is_chosen(const struct metric *metric, const struct choice *choice)
{
    const struct metric_family *family = metric->family;
    const char *value = metric->key;

    if (!choice->label)
        return true;
    for (size_t i = 0; i < family->n_labels; i++, value += strlen(value) + 1)
        if (strcmp(family->labels[i], choice->label) == 0)
            return strcmp(value, choice->value) == 0;
    return false;
}

static void put_family(FILE *to, struct metric_family *family, const struct choice *choice)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    struct metric *at;
    size_t n;

    /* The list grows at its end only: what is in it now can be read without the lock. */
    pthread_mutex_lock(&family->lock);
    at = family->first;
    n = family->n_series;
    pthread_mutex_unlock(&family->lock);
    fprintf(to, "# HELP %s ", family->name);
    put_escaped(to, family->help, false);
    fprintf(to, "\n# TYPE %s %s\n", family->name, types[family->type]);
    for (; n > 0; n--) {
        if (is_chosen(at, choice))
            put_metric(to, at);
        at = n > 1 ? at->next : NULL;
    }
    if (!choice->label && family->n_labels > 0 && is_used(family->other))
        put_metric(to, family->other);
}

static int write_chosen(struct metrics *metrics, const struct choice *choice, char **ret_text,
                        size_t *ret_len_bytes, struct error *err)
{
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);

    if (!to)
        return error_set(err, errno, "write the metrics");
    /* A tenant sees nothing of what is collected: the host's gauges. */
    for (size_t i = 0; !choice->label && i < metrics->n_collectors; i++)
        metrics->collectors[i].collect(metrics->collectors[i].opaque);
    for (struct metric_family *at = metrics->first; at; at = at->next)
        if (!choice->label || has_label(at, choice->label))
            put_family(to, at, choice);
    int failed = ferror(to);
    if (fclose(to) != 0 || failed) {
        free(text);
        return error_set(err, ENOMEM, "write the metrics");
    }
    *ret_text = text;
    *ret_len_bytes = len;
    return 0;
}

int metrics_write(struct metrics *metrics, char **ret_text, size_t *ret_len_bytes,
                  struct error *err)
{
    return write_chosen(metrics, &(struct choice){NULL, NULL}, ret_text, ret_len_bytes, err);
}

int metrics_write_of(struct metrics *metrics, const char *label, const char *value, char **ret_text,
                     size_t *ret_len_bytes, struct error *err)
{
    return write_chosen(metrics, &(struct choice){label, value}, ret_text, ret_len_bytes, err);
}
