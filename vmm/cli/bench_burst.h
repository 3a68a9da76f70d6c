/*
 * A warm function beside a burst of starts of another. Process: the CLI: its main thread, and a
 * thread for each request of the burst.
 */
#ifndef MAYFLY_CLI_BENCH_BURST_H
#define MAYFLY_CLI_BENCH_BURST_H

#include "bench_client.h"
#include "bench_figures.h"

struct bench_burst_config {
    const char *url;             /* of the daemon; borrowed, as all of it */
    const char *warm, *burst;    /* the functions */
    struct bench_client *client; /* for the warm ones */
    uint64_t n;                  /* requests of the burst */
};

/* bench_burst_run - first without, then with the burst: series burst.…; the burst's function must
 * have no instance that is warm, or those are not counted. */
int bench_burst_run(const struct bench_burst_config *config, struct bench_figures *figures,
                    struct error *err);

#endif
