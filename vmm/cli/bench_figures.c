/* Series of samples: see bench_figures.h. Process: the CLI and the programs of tests/bench. */
#include "bench_figures.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "common/text.h"

enum { FIRST_SIZE = 256 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void bench_sort(double *values, size_t n)
{
    if (n > 1)
        qsort(values, n, sizeof(*values), compare);
}

double bench_percentile(const double *sorted, size_t n, unsigned percent)
{
    size_t rank = (n * percent + 99) / 100;

    return n == 0 ? 0 : sorted[rank ? rank - 1 : 0];
}

/* --- series ---------------------------------------------------------------------------------- */

static struct bench_series *find(const struct bench_figures *figures, const char *name,
                                 uint32_t memory_mib)
{
    for (size_t i = 0; i < figures->n; i++) {
        struct bench_series *series = &figures->series[i];

        if (series->memory_mib == memory_mib && strcmp(series->name, name) == 0)
            return series;
    }
    return NULL;
}

const struct bench_series *bench_figures_find(const struct bench_figures *figures, const char *name,
                                              uint32_t memory_mib)
{
    return find(figures, name, memory_mib);
}

/* NULL: out of memory. */
static struct bench_series *find_or_add(struct bench_figures *figures, const char *name,
                                        const char *unit, uint32_t memory_mib)
{
    struct bench_series *series = find(figures, name, memory_mib);

    if (series)
        return series;
    series = realloc(figures->series, (figures->n + 1) * sizeof(*series));
    if (!series)
        return NULL;
    figures->series = series;
    series += figures->n++;
    *series = (struct bench_series){.name = name, .unit = unit, .memory_mib = memory_mib};
    return series;
}

int bench_figures_add(struct bench_figures *figures, const char *name, const char *unit,
                      uint32_t memory_mib, double value, struct error *err)
{
    struct bench_series *series = find_or_add(figures, name, unit, memory_mib);

    if (series && series->n == series->size) {
        size_t size = series->size ? 2 * series->size : FIRST_SIZE;
        double *values = realloc(series->values, size * sizeof(*values));

        if (values) {
            series->values = values;
            series->size = size;
        }
    }
    if (!series || series->n == series->size)
        return error_set(err, ENOMEM, "keep a figure");
    series->values[series->n++] = value;
    return 0;
}

void bench_figures_sort(struct bench_figures *figures)
{
    for (size_t i = 0; i < figures->n; i++)
        bench_sort(figures->series[i].values, figures->series[i].n);
}

double bench_figures_at(const struct bench_figures *figures, const char *name, uint32_t memory_mib,
                        unsigned percent)
{
    const struct bench_series *series = find(figures, name, memory_mib);

    return series ? bench_percentile(series->values, series->n, percent) : 0;
}

void bench_figures_done(struct bench_figures *figures)
{
    for (size_t i = 0; i < figures->n; i++)
        free(figures->series[i].values);
    free(figures->series);
    *figures = (struct bench_figures){0};
}

/* --- the host -------------------------------------------------------------------------------- */

/* The processor's name as the kernel prints it; "" where it does not. */
static void read_cpu(char *to, size_t size)
{
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "re");

    to[0] = '\0';
    while (file && !to[0] && fgets(line, sizeof(line), file)) {
        const char *colon = strchr(line, ':');

        if (colon && strncmp(line, "model name", strlen("model name")) == 0)
            text_clean(to, size, colon + 2, strlen(colon) > 2 ? strcspn(colon + 2, "\n") : 0);
    }
    if (file)
        fclose(file);
}

json_t *bench_host_json(const char *kvm)
{
    struct utsname names;
    cpu_set_t set;
    char cpu[128];
    double load = 0;

    getloadavg(&load, 1);
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    uname(&names);
    read_cpu(cpu, sizeof(cpu));
    json_t *host =
        json_pack("{s:s, s:s, s:i, s:f, s:s, s:s}", "machine", names.machine, "cpu", cpu, "cpus",
                  CPU_COUNT(&set), "load", load, "kernel", names.release, "mayfly", MAYFLY_VERSION);
    if (kvm)
        json_object_set_new(host, "kvm", json_string(kvm));
    return host;
}
