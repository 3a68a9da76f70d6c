/*
 * State directories of the benchmark's own, below the one that it was given: for daemons that must
 * not meddle with what is there. Process: the CLI, one thread.
 */
#ifndef MAYFLY_CLI_BENCH_STATE_H
#define MAYFLY_CLI_BENCH_STATE_H

#include <limits.h>
#include <stdint.h>

#include "common/error.h"

struct bench_state {
    char path[PATH_MAX]; /* "": none */
};

/*
 * bench_state_make - a new directory below @state. It shares the images of @state by a link; its
 * snapshots by hard links, so that whatever a daemon removes of them stays in @state.
 */
int bench_state_make(const char *state, struct bench_state *ret_state, struct error *err);

/* bench_state_remove - all of it. Takes an empty one. */
void bench_state_remove(struct bench_state *state);

/*
 * bench_state_fill - a new state directory @path with @n functions "function-000000", … of the
 * tenant that mayflyd has by itself, all Active, without snapshots: what is looked up and listed.
 * @progress (may be NULL) hears of each.
 */
typedef int bench_state_progress(void *opaque, uint64_t done, uint64_t total, struct error *err);
int bench_state_fill(const char *path, uint64_t n, bench_state_progress *progress, void *opaque,
                     struct error *err);

/* bench_state_function_name - of the @i-th. */
enum { BENCH_NAME_BYTES = 32 };
void bench_state_function_name(uint64_t i, char ret_name[BENCH_NAME_BYTES]);

/* bench_state_zip - the zip of a handler that returns its event. Returns its length, or -errno. */
enum { BENCH_ZIP_BYTES = 4096 };
int bench_state_zip(uint8_t ret_zip[BENCH_ZIP_BYTES], struct error *err);

#endif
