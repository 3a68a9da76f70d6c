/*
 * All that mayflyd shows of itself, as its configuration has it: log, functions' logs, metrics,
 * spans; started before whatever they are to see, ended after it.
 *
 * Process: mayflyd. Threads: of main only, but for what is inside.
 */
#ifndef MAYFLY_HOST_OBSERVE_OBSERVABILITY_H
#define MAYFLY_HOST_OBSERVE_OBSERVABILITY_H

#include "host/config.h"
#include "observer.h"

struct observability {
    struct daemon_log *log; /* all owned */
    struct log_store *logs;
    struct daemon_metrics *metrics;
    struct span_exporter *spans; /* NULL: none are exported */
    struct observer observer;    /* of these */
};

/* observability_start - @config: NULL for the defaults. On failure what was started is there, for
 * observability_stop(). */
int observability_start(struct observability *seen, const struct config *config, const char *state,
                        struct error *err);

/* observability_end_followers - before the HTTP server is stopped, which waits for them. */
void observability_end_followers(struct observability *seen);
void observability_stop(struct observability *seen);

#endif
