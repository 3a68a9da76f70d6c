/*
 * wrk, the HTTP load generator, as a child: many requests of one kind, as fast as they are
 * answered. Process: the CLI.
 */
#ifndef MAYFLY_CLI_BENCH_WRK_H
#define MAYFLY_CLI_BENCH_WRK_H

#include <stdint.h>

#include "bench_client.h"

/* bench_wrk_check - is it there? */
int bench_wrk_check(struct error *err);

struct bench_wrk_load {
    const char *url;                         /* of the daemon */
    const char *function;                    /* dry invocations of it */
    const struct bench_signature *signature; /* replayed; NULL: unsigned */
    unsigned connections, seconds;
};

struct bench_wrk_result {
    double per_second;
    double p50_us, p99_us; /* latency, as wrk has it */
    uint64_t bad;          /* answers other than 2xx and 3xx, and broken connections */
};

int bench_wrk_run(const struct bench_wrk_load *load, const char *directory,
                  struct bench_wrk_result *ret_result, struct error *err);

/* bench_wrk_parse - what wrk prints. -EBADMSG: it does not say how many a second. Pure. */
int bench_wrk_parse(const char *text, struct bench_wrk_result *ret_result);

#endif
