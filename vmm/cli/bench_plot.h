/*
 * Drawing by gnuplot, and the plot of `mayfly bench restore`: two panels. Process: the CLI. Its
 * input, the figures, is our own.
 */
#ifndef MAYFLY_CLI_BENCH_PLOT_H
#define MAYFLY_CLI_BENCH_PLOT_H

#include <stdio.h>

#include "bench_figures.h"

/* bench_plot_check - is gnuplot there? To be known before minutes of measuring. */
int bench_plot_check(struct error *err);

/* bench_plot_distribution - the block $d@number: sorted latencies in ms, and the share of samples
 * that took no longer. @series: NULL gives an empty block, which gnuplot does not plot. */
void bench_plot_distribution(FILE *to, size_t number, const struct bench_series *series);

/* bench_plot_render - the SVG at @path of what @write gives gnuplot; what was there stays if
 * gnuplot fails, whose words are the error. */
typedef void bench_plot_writer(FILE *to, const void *opaque);
int bench_plot_render(const char *path, bench_plot_writer *write, const void *opaque,
                      struct error *err);

/*
 * bench_plot_script - what gnuplot reads: the data and two panels, the distribution of latencies of
 * guests of @memory_mib[0], and latency against memory size. @figures are sorted.
 */
void bench_plot_script(FILE *to, const struct bench_figures *figures, const uint32_t *memory_mib,
                       size_t n_memory);

/* bench_plot_draw - that script, rendered. */
int bench_plot_draw(const char *path, const struct bench_figures *figures,
                    const uint32_t *memory_mib, size_t n_memory, struct error *err);

#endif
