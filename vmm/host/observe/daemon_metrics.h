/*
 * What mayflyd counts, by name: families of metrics.h, filled by those who know, and gauges asked
 * for with each text.
 *
 * Series that are a tenant's have the label "tenant": a tenant is shown its own, and nothing of the
 * host. Threads: any.
 */
#ifndef MAYFLY_HOST_OBSERVE_DAEMON_METRICS_H
#define MAYFLY_HOST_OBSERVE_DAEMON_METRICS_H

#include "host/pool/dispatcher.h"
#include "host/events/event_queue.h"
#include "metrics.h"

struct api;
struct daemon_log;
struct log_store;
struct span_exporter;
struct daemon_metrics;

/* What gauges are asked of; all borrowed, any may be NULL. */
struct daemon_metrics_sources {
    struct dispatcher *dispatcher;
    struct event_queue *queue;
    const struct api *api;
    const struct daemon_log *log;
    const struct log_store *logs;
    const struct span_exporter *spans;
};

int daemon_metrics_new(struct daemon_metrics **ret_metrics, struct error *err);
void daemon_metrics_free(struct daemon_metrics *metrics);

/* daemon_metrics_watch - before the first daemon_metrics_write(). */
void daemon_metrics_watch(struct daemon_metrics *metrics,
                          const struct daemon_metrics_sources *sources);

/* daemon_metrics_begin - an invocation is under way: give what it returns to one of the next. */
struct metric *daemon_metrics_begin(struct daemon_metrics *metrics, const char *tenant,
                                    const char *function);
/* daemon_metrics_end - it came to @result. */
void daemon_metrics_end(struct daemon_metrics *metrics, struct metric *begun, const char *tenant,
                        const char *function, uint32_t memory_mib,
                        const struct invocation_result *result);
/* daemon_metrics_fail - the host could not run it. */
void daemon_metrics_fail(struct daemon_metrics *metrics, struct metric *begun, const char *tenant);

enum build_outcome { BUILD_OK, BUILD_FUNCTION_FAILED, BUILD_HOST_FAILED };
void daemon_metrics_build(struct daemon_metrics *metrics, enum build_outcome outcome);

/* daemon_metrics_write - @tenant: NULL for all there is. *ret_text is owned, terminated. */
int daemon_metrics_write(struct daemon_metrics *metrics, const char *tenant, char **ret_text,
                         struct error *err);

#endif
