/*
 * Registries of different sizes, a daemon on each: what looking up, listing and memory come to.
 * Process: the CLI, one thread.
 */
#ifndef MAYFLY_CLI_BENCH_SCALE_H
#define MAYFLY_CLI_BENCH_SCALE_H

#include "bench_figures.h"
#include "stage_ticker.h"

struct bench_scale;

/* bench_scale_new - registries of 10, 1,000 and 10,000 functions, as far as @functions allows, in
 * @directory. @ticker: borrowed for the call. */
int bench_scale_new(const char *directory, uint64_t functions, struct stage_ticker *ticker,
                    struct bench_scale **ret_scale, struct error *err);

/* bench_scale_round - some lookups and listings on each: get.N, list.N. */
int bench_scale_round(struct bench_scale *scale, struct bench_figures *figures, struct error *err);

/* bench_scale_memory - every function of each is looked up; then how large its daemon is: rss.N. */
int bench_scale_memory(struct bench_scale *scale, struct bench_figures *figures, struct error *err);

void bench_scale_free(struct bench_scale *scale); /* ends the daemons; takes NULL */

#endif
