/* What the daemon shows: see observability.h. */
#include "observability.h"

#include <limits.h>
#include <stdio.h>

static int start_logs(struct observability *seen, const struct config *config, const char *state,
                      struct error *err)
{
    const struct config_function_logs none = {0};
    const struct config_function_logs *from =
        config && config->function_logs ? config->function_logs : &none;
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/logs", state);
    const struct log_store_options options = {.path = path,
                                              .function_bytes = (uint64_t)from->function_mib << 20,
                                              .tenant_bytes = (uint64_t)from->tenant_mib << 20,
                                              .rate_bytes_s = (uint64_t)from->rate_kib_s << 10,
                                              .keep_days = from->keep_days};
    return log_store_open(&options, &seen->logs, err);
}

static int start_spans(struct observability *seen, const struct config_otlp *otlp,
                       struct error *err)
{
    if (!otlp)
        return 0;
    seen->observer.trace_ratio = otlp->ratio ? *otlp->ratio : 1;
    return span_exporter_new(otlp->endpoint, &seen->spans, err);
}

int observability_start(struct observability *seen, const struct config *config, const char *state,
                        struct error *err)
{
    const struct config_log *log = config ? config->log : NULL;
    int r = daemon_log_open(log ? log->file : NULL, daemon_log_level(log ? log->level : NULL),
                            &seen->log, err);

    if (r == 0)
        r = start_logs(seen, config, state, err);
    if (r == 0)
        r = daemon_metrics_new(&seen->metrics, err);
    if (r == 0)
        r = start_spans(seen, config ? config->otlp : NULL, err);
    seen->observer.log = seen->log;
    seen->observer.logs = seen->logs;
    seen->observer.metrics = seen->metrics;
    seen->observer.spans = seen->spans;
    return r;
}

void observability_end_followers(struct observability *seen)
{
    if (seen->logs)
        log_store_end_followers(seen->logs);
}

void observability_stop(struct observability *seen)
{
    span_exporter_free(seen->spans);
    daemon_metrics_free(seen->metrics);
    log_store_close(seen->logs);
    daemon_log_close(seen->log);
}
