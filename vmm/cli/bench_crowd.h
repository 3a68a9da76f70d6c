/*
 * Many clones at once: how fast a burst of them starts, and how much memory each costs while all
 * live. Process: the CLI. Called on its main thread.
 */
#ifndef MAYFLY_CLI_BENCH_CROWD_H
#define MAYFLY_CLI_BENCH_CROWD_H

#include "bench_clone.h"
#include "bench_figures.h"

struct bench_crowd_config {
    const struct bench_subject *subject;
    const char *run_directory;
    size_t n; /* clones */
    int interrupt_fd;
    struct stage_ticker *ticker;
};

/*
 * bench_crowd_burst - @n shells made ahead, then all restored from one moment on, by several
 * threads. Adds burst.restored and burst.first_exit, a sample a clone, from that moment; and
 * burst.all_first_exit, of the last.
 */
int bench_crowd_burst(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err);

/*
 * bench_crowd_alive - @n clones restored one after the other, and kept. Adds, a sample a clone,
 * alive.guest and alive.monitor (bytes of its own), alive.cpu (percent of a core that it takes
 * while it waits), and alive.host: what all of them took of the host's available memory, by clone,
 * with what the kernel keeps for them.
 */
int bench_crowd_alive(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err);

#endif
