/*
 * The plot of `mayfly bench restore`: two panels, drawn by gnuplot. Process: the CLI. Its input,
 * the figures, is our own.
 */
#ifndef MAYFLY_CLI_BENCH_PLOT_H
#define MAYFLY_CLI_BENCH_PLOT_H

#include <stdio.h>

#include "bench_figures.h"

/* bench_plot_check - is gnuplot there? To be known before minutes of measuring. */
int bench_plot_check(struct error *err);

/*
 * bench_plot_script - what gnuplot reads: the data and two panels, the distribution of latencies of
 * guests of @memory_mib[0], and latency against memory size. @figures are sorted.
 */
void bench_plot_script(FILE *to, const struct bench_figures *figures, const uint32_t *memory_mib,
                       size_t n_memory);

/* bench_plot_draw - the SVG at @path; what was there stays if gnuplot fails, whose words are the
 * error. */
int bench_plot_draw(const char *path, const struct bench_figures *figures,
                    const uint32_t *memory_mib, size_t n_memory, struct error *err);

#endif
