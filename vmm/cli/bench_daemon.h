/*
 * A mayflyd of the benchmark's own: started on a state directory, watched from outside. Process:
 * the CLI. Threads: the one that started it.
 */
#ifndef MAYFLY_CLI_BENCH_DAEMON_H
#define MAYFLY_CLI_BENCH_DAEMON_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum { BENCH_URL_BYTES = 64 };

struct bench_daemon {
    pid_t pid; /* 0: none */
    char url[BENCH_URL_BYTES];
};

/*
 * bench_daemon_start - on @state, which is ours alone: a configuration for unsigned requests on
 * loopback is written there. @keep_alive_s: of idle instances. Waits until it is ready. Its
 * standard error goes to @state/mayflyd.log.
 */
int bench_daemon_start(const char *state, unsigned keep_alive_s, struct bench_daemon *ret_daemon,
                       struct error *err);

/* bench_daemon_stop - SIGTERM, and waits; SIGKILL for one that does not end. Takes an empty one. */
void bench_daemon_stop(struct bench_daemon *daemon);

/* bench_daemon_cpu_ns - processor time of all its threads until now, those that ended included; 0
 * once it is gone. */
uint64_t bench_daemon_cpu_ns(const struct bench_daemon *daemon);

/* bench_daemon_rss_bytes - what of it is in memory, libraries included. 0: it is gone. */
uint64_t bench_daemon_rss_bytes(const struct bench_daemon *daemon);

#endif
