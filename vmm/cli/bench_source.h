/*
 * What `mayfly bench restore` restores and boots: a trivial Python function of its own, with a
 * snapshot for each memory size. Process: the CLI. One thread, which must live on.
 */
#ifndef MAYFLY_CLI_BENCH_SOURCE_H
#define MAYFLY_CLI_BENCH_SOURCE_H

#include <signal.h>

#include "snapshot/snapshot_store.h"
#include "stage_ticker.h"

struct bench_source;

/*
 * bench_source_open - the stores below the state directory, and the function's package.
 * @ticker: shows what takes long; borrowed for life, as are the interrupts (cli_common.h).
 */
int bench_source_open(const char *state, struct stage_ticker *ticker, int interrupt_fd,
                      const volatile sig_atomic_t *interrupted, struct bench_source **ret_source,
                      struct error *err);
void bench_source_close(struct bench_source *source); /* takes NULL */

/* bench_source_run_directory - where VMs have their directories. Borrowed. */
const char *bench_source_run_directory(const struct bench_source *source);

/* A snapshot, ready to be restored any number of times. */
struct bench_subject {
    uint32_t memory_mib, vcpus;
    int64_t created_s; /* when the snapshot was taken, Unix time */
    char *image;       /* owned: the path of the raw root image */
    int memory_fd;     /* owned: all of RAM */
    int state_fd;      /* owned */
};

/* bench_source_subject - the snapshot of guests of @memory_mib; made, with a boot, where there is
 * none. *ret_subject: bench_subject_done() it. */
int bench_source_subject(struct bench_source *source, uint32_t memory_mib,
                         struct bench_subject *ret_subject, struct error *err);
void bench_subject_done(
    struct bench_subject *subject); /* takes {.memory_fd = -1, .state_fd = -1} */

/* From the beginning; teardown: from its own. */
struct bench_boot_times {
    uint64_t agent_answers_ns;
    uint64_t first_result_ns;
    uint64_t teardown_ns;
};

/* bench_source_boot - the long way: a guest booted, the function initialised and invoked once. */
int bench_source_boot(struct bench_source *source, uint32_t memory_mib,
                      struct bench_boot_times *ret_times, struct error *err);

#endif
