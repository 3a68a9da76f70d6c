/* The daemon's metrics: see daemon_metrics.h. Process: mayflyd. */
#include "daemon_metrics.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/api/api.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "daemon_log.h"
#include "log_store.h"
#include "span_exporter.h"

enum { FUNCTION_SERIES = METRIC_SERIES_MAX, HTTP_CLASSES = 6 };

/* Counters and gauges without a label for tenants: the host's. */
enum family {
    INVOCATIONS,
    THROTTLES,
    STARTS,
    CONCURRENCY,
    GB_SECONDS,
    HOST_ERRORS,
    DURATION,
    ACQUIRE,
    RESTORE,
    INIT,
    INSTANCES,
    INSTANCES_ENDED,
    INSTANCES_MEMORY,
    PROVISION_FAILURES,
    SHELLS,
    SHELLS_TAKEN,
    MEMORY_AVAILABLE,
    RESIDENT,
    START_TIME,
    QUEUE_EVENTS,
    QUEUE_LEASED,
    QUEUE_AGE,
    QUEUE_BYTES,
    QUEUE_DROPPED,
    DELIVERIES,
    HTTP_REQUESTS,
    BUILDS,
    DROPPED,
    BUILD_INFO,
    FAMILIES,
};

struct daemon_metrics {
    struct metrics *metrics; /* owned, as its families */
    struct metric_family *families[FAMILIES];
    struct daemon_metrics_sources sources;
};

#define COUNTER(name, help, ...)                                                                   \
    {                                                                                              \
        METRIC_COUNTER, name, help, {__VA_ARGS__}, NULL, 0, 0                                      \
    }
#define GAUGE(name, help, ...)                                                                     \
    {                                                                                              \
        METRIC_GAUGE, name, help, {__VA_ARGS__}, NULL, 0, 0                                        \
    }
#define SECONDS(name, help, ...)                                                                   \
    {                                                                                              \
        METRIC_HISTOGRAM, name, help, {__VA_ARGS__}, NULL, 0, 0                                    \
    }

static const struct metric_description descriptions[FAMILIES] = {
    [INVOCATIONS] = {METRIC_COUNTER,
                     "mayfly_invocations_total",
                     "Events that ran, by what became of them.",
                     {"tenant", "function", "kind"},
                     NULL,
                     0,
                     FUNCTION_SERIES},
    [THROTTLES] = COUNTER("mayfly_throttles_total", "Events that did not begin, by whose limit.",
                          "tenant", "function", "reason"),
    [STARTS] = {METRIC_COUNTER,
                "mayfly_starts_total",
                "How events got their instance.",
                {"tenant", "function", "kind"},
                NULL,
                0,
                FUNCTION_SERIES},
    [CONCURRENCY] = GAUGE("mayfly_concurrency", "Events under way.", "tenant", "function"),
    [GB_SECONDS] = COUNTER("mayfly_gb_seconds_total",
                           "Billed time by memory, in GB (2^30 bytes) seconds.", "tenant"),
    [HOST_ERRORS] =
        COUNTER("mayfly_host_errors_total",
                "Events that the host failed to run, for reasons of its own.", "tenant"),
    [DURATION] = SECONDS("mayfly_duration_seconds", "Of the function's run.", "tenant", "function"),
    [ACQUIRE] =
        SECONDS("mayfly_acquire_seconds", "Until an event had its instance.", "tenant", "kind"),
    [RESTORE] =
        SECONDS("mayfly_restore_seconds", "Of restores that an event waited for.", "tenant"),
    [INIT] = SECONDS("mayfly_init_seconds", "Of init phases that an event waited for.", "tenant"),
    [INSTANCES] = GAUGE("mayfly_instances", "MicroVMs that serve functions.", "state"),
    [INSTANCES_ENDED] = COUNTER("mayfly_instances_ended_total",
                                "Idle instances that were ended, by why.", "reason"),
    [INSTANCES_MEMORY] = GAUGE("mayfly_instances_memory_bytes",
                               "Memory of the monitors' own, guests' and shells' too, that "
                               "no file has."),
    [PROVISION_FAILURES] = COUNTER("mayfly_provision_failures_total",
                                   "Restores ahead, for provisioned concurrency, that failed."),
    [SHELLS] = GAUGE("mayfly_shells", "Empty microVMs.", "state"),
    [SHELLS_TAKEN] =
        COUNTER("mayfly_shells_total", "Shells that were taken ready, missed, made, or went wrong.",
                "outcome"),
    [MEMORY_AVAILABLE] = GAUGE("mayfly_memory_available_bytes", "The host's, as it counts it."),
    [RESIDENT] = GAUGE("process_resident_memory_bytes", "The daemon's own."),
    [START_TIME] = GAUGE("process_start_time_seconds", "Since 1970."),
    [QUEUE_EVENTS] = GAUGE("mayfly_queue_events", "Asynchronous events that are not finished."),
    [QUEUE_LEASED] = GAUGE("mayfly_queue_leased", "Of these, given to a worker."),
    [QUEUE_AGE] = GAUGE("mayfly_queue_oldest_age_seconds", "Of the oldest event."),
    [QUEUE_BYTES] = GAUGE("mayfly_queue_bytes", "Of events and records in the queue."),
    [QUEUE_DROPPED] = COUNTER("mayfly_queue_dropped_total",
                              "Records that no destination took, and chains that were cut."),
    [DELIVERIES] = GAUGE("mayfly_queue_deliveries", "Records on their way out of the host."),
    [HTTP_REQUESTS] =
        COUNTER("mayfly_http_requests_total", "Answers, by class of status.", "class"),
    [BUILDS] = COUNTER("mayfly_builds_total", "Snapshots of functions made, or not.", "result"),
    [DROPPED] = COUNTER("mayfly_dropped_total",
                        "Log lines and traces that were too many to be kept.", "what"),
    [BUILD_INFO] = GAUGE("mayfly_build_info", "1, with the version.", "version"),
};

/* --- life ------------------------------------------------------------------------------------ */

static void collect(void *opaque);

int daemon_metrics_new(struct daemon_metrics **ret_metrics, struct error *err)
{
    struct daemon_metrics *metrics = calloc(1, sizeof(*metrics));
    int r = 0;

    if (!metrics)
        return error_set(err, ENOMEM, "make the metrics");
    metrics->metrics = metrics_new();
    if (!metrics->metrics)
        r = error_set(err, ENOMEM, "make the metrics");
    for (size_t i = 0; i < FAMILIES && r == 0; i++)
        r = metrics_family(metrics->metrics, &descriptions[i], &metrics->families[i], err);
    if (r == 0)
        r = metrics_on_write(metrics->metrics, collect, metrics, err);
    if (r < 0) {
        daemon_metrics_free(metrics);
        return r;
    }
    metric_set(metric_of(metrics->families[START_TIME], NULL), (double)time(NULL));
    metric_set(metric_of(metrics->families[BUILD_INFO], (const char *[]){MAYFLY_VERSION}), 1);
    *ret_metrics = metrics;
    return 0;
}

void daemon_metrics_free(struct daemon_metrics *metrics)
{
    if (!metrics)
        return;
    metrics_free(metrics->metrics);
    free(metrics);
}

void daemon_metrics_watch(struct daemon_metrics *metrics,
                          const struct daemon_metrics_sources *sources)
{
    metrics->sources = *sources;
}

/* --- invocations ----------------------------------------------------------------------------- */

static struct metric *of(struct daemon_metrics *metrics, enum family family, const char *a,
                         const char *b, const char *c)
{
    return metric_of(metrics->families[family], (const char *[]){a, b, c});
}

struct metric *daemon_metrics_begin(struct daemon_metrics *metrics, const char *tenant,
                                    const char *function)
{
    struct metric *metric = of(metrics, CONCURRENCY, tenant, function, NULL);

    metric_add(metric, 1);
    return metric;
}

static void count_start(struct daemon_metrics *metrics, const char *tenant, const char *function,
                        const struct invocation_result *result)
{
    static const char *const starts[] = {"warm", "restored", "cold"};
    const char *start = starts[result->start];

    metric_add(of(metrics, STARTS, tenant, function, start), 1);
    metric_observe(of(metrics, ACQUIRE, tenant, start, NULL), (double)result->acquire_us / 1e6);
    if (result->restore_us)
        metric_observe(of(metrics, RESTORE, tenant, NULL, NULL), (double)result->restore_us / 1e6);
    if (result->init_us)
        metric_observe(of(metrics, INIT, tenant, NULL, NULL), (double)result->init_us / 1e6);
}

void daemon_metrics_end(struct daemon_metrics *metrics, struct metric *begun, const char *tenant,
                        const char *function, uint32_t memory_mib,
                        const struct invocation_result *result)
{
    static const char *const kinds[] = {"ok", "function_error", "timeout", "sandbox_error"};
    static const char *const reasons[] = {"", "function", "account", "host"};

    metric_add(begun, -1);
    if (result->kind == INVOKED_THROTTLED) {
        metric_add(of(metrics, THROTTLES, tenant, function, reasons[result->throttle]), 1);
        return;
    }
    metric_add(of(metrics, INVOCATIONS, tenant, function, kinds[result->kind]), 1);
    metric_observe(of(metrics, DURATION, tenant, function, NULL),
                   (double)result->duration_us / 1e6);
    metric_add(of(metrics, GB_SECONDS, tenant, NULL, NULL),
               (double)result->billed_ms / 1000 * memory_mib / 1024);
    count_start(metrics, tenant, function, result);
}

void daemon_metrics_fail(struct daemon_metrics *metrics, struct metric *begun, const char *tenant)
{
    metric_add(begun, -1);
    metric_add(of(metrics, HOST_ERRORS, tenant, NULL, NULL), 1);
}

void daemon_metrics_build(struct daemon_metrics *metrics, enum build_outcome outcome)
{
    static const char *const results[] = {"ok", "function_failed", "host_failed"};

    metric_add(of(metrics, BUILDS, results[outcome], NULL, NULL), 1);
}

/* --- the host -------------------------------------------------------------------------------- */

static void set(struct daemon_metrics *metrics, enum family family, const char *label,
                uint64_t value)
{
    metric_set(of(metrics, family, label, NULL, NULL), (double)value);
}

static void collect_pools(struct daemon_metrics *metrics, struct dispatcher *dispatcher)
{
    struct pool_counts pool;
    struct shell_pool_status shells;

    instance_pool_get_counts(dispatcher_pool(dispatcher), &pool);
    set(metrics, INSTANCES, "idle", pool.idle);
    set(metrics, INSTANCES, "busy", pool.busy);
    set(metrics, INSTANCES, "starting", pool.starting);
    set(metrics, INSTANCES_ENDED, "keep_alive", pool.ended_keep_alive);
    set(metrics, INSTANCES_ENDED, "room", pool.ended_room);
    set(metrics, INSTANCES_ENDED, "memory", pool.ended_memory);
    set(metrics, INSTANCES_ENDED, "died", pool.died);
    set(metrics, PROVISION_FAILURES, NULL, pool.provision_failed);
    shell_pool_get_status(dispatcher_shells(dispatcher), &shells);
    set(metrics, SHELLS, "ready", shells.ready);
    set(metrics, SHELLS, "making", shells.making);
    set(metrics, SHELLS, "waited_for", shells.waiting);
    set(metrics, SHELLS_TAKEN, "taken", shells.taken);
    set(metrics, SHELLS_TAKEN, "missed", shells.missed);
    set(metrics, SHELLS_TAKEN, "made", shells.made);
    set(metrics, SHELLS_TAKEN, "failed", shells.failed);
    set(metrics, SHELLS_TAKEN, "died", shells.died);
}

static void collect_queue(struct daemon_metrics *metrics, struct event_queue *queue)
{
    struct event_queue_stats stats;
    struct error err;

    if (event_queue_stats(queue, &stats, &err) < 0)
        return; /* as they were */
    set(metrics, QUEUE_EVENTS, NULL, stats.depth);
    set(metrics, QUEUE_LEASED, NULL, stats.leased);
    metric_set(of(metrics, QUEUE_AGE, NULL, NULL, NULL), (double)stats.oldest_age_ms / 1000);
    set(metrics, QUEUE_BYTES, NULL, stats.bytes);
    set(metrics, QUEUE_DROPPED, NULL, stats.dropped);
    set(metrics, DELIVERIES, NULL, stats.deliveries);
}

static void collect_http(struct daemon_metrics *metrics, const struct api *api)
{
    static const char *const classes[HTTP_CLASSES] = {"other", "1xx", "2xx", "3xx", "4xx", "5xx"};
    uint64_t answers[HTTP_CLASSES];

    api_statistics(api, answers);
    for (size_t i = 0; i < HTTP_CLASSES; i++)
        set(metrics, HTTP_REQUESTS, classes[i], answers[i]);
}

/* The number after @name in a file of /proc; 0 where there is none. */
static uint64_t read_number(const char *path, const char *name)
{
    char text[4096];
    FILE *file = fopen(path, "re");
    size_t len = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    unsigned long long number = 0;

    text[len] = '\0';
    const char *at = strstr(text, name);
    if (at)
        sscanf(at + strlen(name), "%llu", &number);
    if (file)
        fclose(file);
    return number;
}

/* Resident and not of a file: what its end would give back. */
static uint64_t anonymous_bytes(unsigned long pid)
{
    unsigned long long resident = 0, shared = 0;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%lu/statm", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%*s %llu %llu", &resident, &shared) != 2)
        resident = shared = 0;
    fclose(file);
    return resident > shared ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* Of the children of one of the daemon's threads: monitors are the only ones it has. */
static uint64_t children_bytes(const char *thread)
{
    uint64_t bytes = 0;
    unsigned long pid;
    char path[300];

    snprintf(path, sizeof(path), "/proc/self/task/%.16s/children", thread);
    FILE *file = fopen(path, "re");
    while (file && fscanf(file, "%lu", &pid) == 1)
        bytes += anonymous_bytes(pid);
    if (file)
        fclose(file);
    return bytes;
}

static uint64_t monitors_bytes(void)
{
    DIR *threads = opendir("/proc/self/task");
    uint64_t bytes = 0;

    for (struct dirent *item; threads && (item = readdir(threads));)
        if (item->d_name[0] != '.')
            bytes += children_bytes(item->d_name);
    if (threads)
        closedir(threads);
    return bytes;
}

static void collect(void *opaque)
{
    struct daemon_metrics *metrics = opaque;
    const struct daemon_metrics_sources *sources = &metrics->sources;

    set(metrics, MEMORY_AVAILABLE, NULL, read_number("/proc/meminfo", "MemAvailable:") * 1024);
    set(metrics, RESIDENT, NULL, read_number("/proc/self/status", "VmRSS:") * 1024);
    set(metrics, INSTANCES_MEMORY, NULL, monitors_bytes());
    if (sources->dispatcher)
        collect_pools(metrics, sources->dispatcher);
    if (sources->queue)
        collect_queue(metrics, sources->queue);
    if (sources->api)
        collect_http(metrics, sources->api);
    if (sources->log)
        set(metrics, DROPPED, "daemon_log_lines", daemon_log_dropped(sources->log));
    if (sources->logs)
        set(metrics, DROPPED, "function_log_lines", log_store_dropped(sources->logs));
    if (sources->spans)
        set(metrics, DROPPED, "traces", span_exporter_dropped(sources->spans));
}

int daemon_metrics_write(struct daemon_metrics *metrics, const char *tenant, char **ret_text,
                         struct error *err)
{
    size_t len;

    return tenant ? metrics_write_of(metrics->metrics, "tenant", tenant, ret_text, &len, err)
                  : metrics_write(metrics->metrics, ret_text, &len, err);
}
