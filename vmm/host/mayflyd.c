/*
 * `mayflyd`, the host's daemon: joins registry, queue, dispatcher and API, and waits for a signal.
 * The root of the process: the only place that prints and that ends it.
 *
 * Order: what is needed is started before what needs it (registry, queue, dispatcher, backend,
 * worker, API, HTTP) and ended the other way round; the dispatcher is shut down first of all, so
 * that whoever waits for an invocation gets its answer.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/fd.h"
#include "config.h"
#include "credentials.h"
#include "events/delivery_sender.h"
#include "events/event_worker.h"
#include "hypervisor/hypervisor.h"
#include "lambda_backend.h"
#include "observe/observability.h"
#include "observe/readiness.h"
#include "instance/run_directory.h"
#include "runtime_images.h"
#include "service_notify.h"
#include "state_lock.h"

enum {
    EXIT_USAGE = 2,
    EXIT_FAILED = 3,
    SHUTDOWN_MS = 10000,
    PATH_BYTES = 4096,
    PEM_MAX_BYTES = 1 << 20,
    MAX_DESCRIPTORS = 65536,
};

static const char own_tenant[] = "default", own_account[] = "000000000000";

struct daemon {
    const char *config_path, *state, *listen, *socket_path;
    struct config *config; /* owned, as all below; NULL: none was given */
    struct credentials credentials;
    bool has_own_key;
    char socket_default[PATH_BYTES], credentials_path[PATH_BYTES];
    char *certificate, *key;
    int state_lock; /* -1: not taken */
    struct registry *registry;
    struct event_queue *queue;
    struct dispatcher *dispatcher;
    struct lambda_backend *backend;
    struct event_worker *worker;
    struct delivery_sender *sender;
    struct api *api;
    struct http_server *server;
    struct observability seen;
    atomic_bool is_stopping;
};

/* --- log ------------------------------------------------------------------------------------- */

/* The process's own; NULL: not open yet, lines go to standard error at once. */
static struct daemon_log *the_log;

static void log_line(const char *level, const char *request_id, const char *text)
{
    const struct log_field field = LOG_TEXT("request_id", request_id);

    daemon_log_write(the_log, daemon_log_level(level), text, &field, 1);
}

static void log_failed(const char *request_id, const char *text)
{
    log_line("error", request_id, text);
}

/* --- options --------------------------------------------------------------------------------- */

static const char help[] =
    "mayflyd - the AWS Lambda API over microVMs of this host\n\n"
    "Usage: mayflyd [OPTIONS]\n\n"
    "  --config FILE      mayflyd.yaml; without it: one tenant, whose access key is made and kept\n"
    "                     in the state directory\n"
    "  --state DIR        images, snapshots, functions (default $MAYFLY_STATE, /var/lib/mayfly)\n"
    "  --listen ADDR:PORT default 127.0.0.1:9555\n"
    "  --socket PATH      Unix socket, for who may open it, unsigned (default STATE/mayflyd.sock)\n"
    "  --help, --version\n\n"
    "Ends on SIGTERM or SIGINT, after what is under way; opens its log file anew on SIGHUP. Exit "
    "status: 0 ended, 2 wrong usage,\n"
    "3 it cannot run here.\n";

/* -1: go on; else the exit status. */
static int parse_options(int argc, char **argv, struct daemon *daemon)
{
    static const struct option known[] = {{"config", required_argument, NULL, 'c'},
                                          {"state", required_argument, NULL, 's'},
                                          {"listen", required_argument, NULL, 'l'},
                                          {"socket", required_argument, NULL, 'u'},
                                          {"version", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int code;

    while ((code = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (code) {
        case 'c':
            daemon->config_path = optarg;
            break;
        case 's':
            daemon->state = optarg;
            break;
        case 'l':
            daemon->listen = optarg;
            break;
        case 'u':
            daemon->socket_path = optarg;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'v':
            puts("mayflyd " MAYFLY_VERSION);
            return 0;
        default:
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "mayflyd: what is '%s'? ('mayflyd --help')\n", argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* What the command line does not say, the configuration does; then the defaults. */
static int settle_options(struct daemon *daemon, struct error *err)
{
    const char *environment = getenv("MAYFLY_STATE");
    struct config *config;
    int r = 0;

    if (daemon->config_path)
        r = config_load(daemon->config_path, &daemon->config, err);
    if (r < 0)
        return r;
    config = daemon->config;
    if (!daemon->state && config)
        daemon->state = config->state;
    if (!daemon->state)
        daemon->state = environment && *environment ? environment : "/var/lib/mayfly";
    if (!daemon->listen && config)
        daemon->listen = config->listen;
    if (!daemon->listen)
        daemon->listen = "127.0.0.1:9555";
    if (!daemon->socket_path && config)
        daemon->socket_path = config->socket;
    snprintf(daemon->socket_default, sizeof(daemon->socket_default), "%s/mayflyd.sock",
             daemon->state);
    if (!daemon->socket_path)
        daemon->socket_path = daemon->socket_default;
    snprintf(daemon->credentials_path, sizeof(daemon->credentials_path), "%s/credentials",
             daemon->state);
    return make_directories(daemon->state, 0, err);
}

/* --- tenants and keys ------------------------------------------------------------------------ */

static const char *region_of(const struct daemon *daemon)
{
    return daemon->config && daemon->config->region ? daemon->config->region : "us-east-1";
}

static const char *default_tenant_of(const struct daemon *daemon)
{
    const struct config *config = daemon->config;

    if (config && config->default_tenant)
        return config->default_tenant;
    return config && config->n_tenants ? config->tenants[0].name : own_tenant;
}

static int put_tenant(struct daemon *daemon, const char *name, const char *account,
                      uint32_t concurrency, uint32_t code_limit_mib, struct error *err)
{
    struct tenant tenant = {.concurrency = concurrency,
                            .code_limit_bytes = (uint64_t)code_limit_mib << 20};

    snprintf(tenant.name, sizeof(tenant.name), "%s", name);
    snprintf(tenant.account_id, sizeof(tenant.account_id), "%s", account);
    return registry_put_tenant(daemon->registry, &tenant, err);
}

static int put_tenants(struct daemon *daemon, struct error *err)
{
    const struct config *config = daemon->config;
    struct tenant found;
    int r = 0;

    if (!config || config->n_tenants == 0) {
        r = put_tenant(daemon, own_tenant, own_account, 0, 0, err);
        if (r == 0)
            r = credentials_take(daemon->credentials_path, region_of(daemon), &daemon->credentials,
                                 err);
        daemon->has_own_key = true;
    }
    for (unsigned i = 0; config && i < config->n_tenants && r == 0; i++)
        r = put_tenant(daemon, config->tenants[i].name, config->tenants[i].account,
                       config->tenants[i].concurrency, config->tenants[i].code_limit_mib, err);
    if (r == 0 && registry_get_tenant(daemon->registry, default_tenant_of(daemon), &found, err) < 0)
        r = error_say(err, EINVAL, "%s: default_tenant: '%s' is none of the tenants",
                      daemon->config_path, default_tenant_of(daemon));
    return r;
}

/* All keys; *ret_keys is owned, what they point to is not. */
static int list_keys(const struct daemon *daemon, struct api_key **ret_keys, size_t *ret_n)
{
    const struct config *config = daemon->config;
    size_t n = 1;

    for (unsigned i = 0; config && i < config->n_tenants; i++)
        n += config->tenants[i].n_keys;
    struct api_key *keys = calloc(n, sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    n = 0;
    if (daemon->has_own_key)
        keys[n++] =
            (struct api_key){daemon->credentials.id, daemon->credentials.secret, own_tenant};
    for (unsigned i = 0; config && i < config->n_tenants; i++)
        for (unsigned k = 0; k < config->tenants[i].n_keys; k++)
            keys[n++] =
                (struct api_key){config->tenants[i].keys[k].id, config->tenants[i].keys[k].secret,
                                 config->tenants[i].name};
    *ret_keys = keys;
    *ret_n = n;
    return 0;
}

/* --- parts, in their order ------------------------------------------------------------------- */

static const char kernel[] = "linux-6.12";

static int check_images(void *opaque, const char *runtime, struct error *err)
{
    const struct daemon *daemon = opaque;
    char path[PATH_BYTES];

    snprintf(path, sizeof(path), "%s/images", daemon->state);
    return runtime_check_images(path, kernel, runtime, err);
}

/* A function whose runtime has no image is refused, but not where there is no image at all: such a
 * host is still being set up, and builds wait for it. */
static int check_runtime(void *opaque, const char *runtime, struct error *err)
{
    int r = check_images(opaque, runtime, err);

    return r == -EAGAIN ? 0 : r == -ENOENT ? -EINVAL : r;
}

static void has_delivery(void *opaque)
{
    const struct daemon *daemon = opaque;

    if (daemon->sender)
        delivery_sender_wake(daemon->sender);
}

static int start_observability(struct daemon *daemon, struct error *err)
{
    int r = observability_start(&daemon->seen, daemon->config, daemon->state, err);

    the_log = daemon->seen.log;
    return r;
}

/* The state is ours alone from here on, so what is left of an earlier daemon can go: instances'
 * directories with their sockets, monitors that outlived it, control groups. */
static int start_alone(struct daemon *daemon, struct error *err)
{
    char run[PATH_BYTES];
    struct error why;
    int r = state_lock_take(daemon->state, &daemon->state_lock, err);

    if (r < 0)
        return r;
    snprintf(run, sizeof(run), "%s/run", daemon->state);
    if (hypervisor_kvm.sweep(&why) < 0 || run_directory_sweep(run, &why) < 0)
        log_line("error", "", why.text); /* it costs room, and nothing else */
    return 0;
}

static void record_dropped(void *opaque, const char *request_id, const char *text)
{
    const struct daemon *daemon = opaque;

    if (daemon->sender)
        delivery_sender_say(daemon->sender, request_id, text);
}

static int start_store(struct daemon *daemon, struct error *err)
{
    const struct registry_options options = {.state = daemon->state,
                                             .check_runtime = check_runtime,
                                             .region = region_of(daemon),
                                             .opaque = daemon,
                                             .is_sole = true};
    const struct config_events none = {0};
    const struct config_events *events =
        daemon->config && daemon->config->events ? daemon->config->events : &none;
    const struct event_queue_options queue = {.region = region_of(daemon),
                                              .sole = true,
                                              .retry_base_ms = events->retry_base_ms,
                                              .throttle_base_ms = events->throttle_base_ms,
                                              .delivery_base_ms = events->delivery_base_ms,
                                              .max_tenant_events = events->max_tenant_events,
                                              .max_tenant_bytes = (uint64_t)events->max_tenant_mib
                                                                  << 20,
                                              .has_delivery = has_delivery,
                                              .dropped = record_dropped,
                                              .opaque = daemon};
    int r = registry_open(&options, &daemon->registry, err);

    if (r == 0)
        r = put_tenants(daemon, err);
    return r < 0
               ? r
               : event_queue_open(registry_database(daemon->registry), &queue, &daemon->queue, err);
}

static uint64_t cache_bytes_of(const struct daemon *daemon)
{
    const struct config *config = daemon->config;

    return config && config->limits ? (uint64_t)config->limits->cache_mib << 20 : 0;
}

static int start_dispatcher(struct daemon *daemon, struct error *err)
{
    const struct config *config = daemon->config;
    const struct config_limits none = {0};
    const struct config_limits *limits = config && config->limits ? config->limits : &none;
    struct dispatcher_config options = {
        .hypervisor = &hypervisor_kvm,
        .state = daemon->state,
        .image = "base",
        .kernel = kernel,
        .keep_alive_ms = config ? config->keep_alive_s * 1000ull : 0,
        .max_instances = limits->instances,
        .min_available_bytes = (uint64_t)limits->min_available_mib << 20,
        .shells_per_shape = config ? config->shells : 0,
        .cache_bytes = cache_bytes_of(daemon),
        .cpu = config && config->cpu_quota ? CPU_QUOTA : CPU_SHARE};

    return dispatcher_new(&options, &daemon->dispatcher, err);
}

static void queued(void *opaque)
{
    struct daemon *daemon = opaque;

    if (daemon->worker)
        event_worker_wake(daemon->worker);
}

/* The API has one opaque for its backend: the daemon, which hands on to both. */
static int invoke(void *opaque, const struct api_invocation *invocation,
                  struct api_invocation_result *ret_result, struct error *err)
{
    const struct daemon *daemon = opaque;

    return lambda_backend_ops.invoke(daemon->backend, invocation, ret_result, err);
}

static void changed(void *opaque, const char *tenant, const char *function)
{
    const struct daemon *daemon = opaque;

    lambda_backend_ops.changed(daemon->backend, tenant, function);
}

static int provisioned(void *opaque, const struct provisioned *item, const char *tenant,
                       struct api_provisioned_status *ret_status)
{
    const struct daemon *daemon = opaque;

    return lambda_backend_ops.provisioned(daemon->backend, item, tenant, ret_status);
}

static int metrics(void *opaque, const char *tenant, char **ret_text)
{
    const struct daemon *daemon = opaque;
    struct error err;

    return daemon_metrics_write(daemon->seen.metrics, tenant, ret_text, &err);
}

static void readiness(void *opaque, struct api_readiness *ret_readiness)
{
    const struct daemon *daemon = opaque;
    char images[PATH_BYTES];

    snprintf(images, sizeof(images), "%s/images", daemon->state);
    const struct readiness_sources sources = {.is_stopping = atomic_load(&daemon->is_stopping),
                                              .registry = daemon->registry,
                                              .tenant = default_tenant_of(daemon),
                                              .images_path = images,
                                              .kernel = kernel,
                                              .shells = dispatcher_shells(daemon->dispatcher)};
    readiness_check(&sources, ret_readiness);
}

static void failed(void *opaque, const char *request_id, const char *text)
{
    (void)opaque;
    log_failed(request_id, text);
}

static const struct api_backend daemon_backend = {.invoke = invoke,
                                                  .changed = changed,
                                                  .queued = queued,
                                                  .provisioned = provisioned,
                                                  .metrics = metrics,
                                                  .readiness = readiness,
                                                  .failed = failed};

/* Before the worker, whose events lead to deliveries. */
static int start_sender(struct daemon *daemon, struct error *err)
{
    const struct config_destinations none = {0};
    const struct config_destinations *config =
        daemon->config && daemon->config->destinations ? daemon->config->destinations : &none;
    AUTO_FREE struct network *allowed = calloc(config->n_allow + 1, sizeof(*allowed));
    char spool[PATH_BYTES];
    int r = 0;

    if (!allowed)
        return error_set(err, ENOMEM, "list the networks of destinations");
    for (unsigned i = 0; i < config->n_allow && r == 0; i++)
        r = network_parse(config->allow[i], &allowed[i], err);
    if (r < 0)
        return r;
    snprintf(spool, sizeof(spool), "%s/spool", daemon->state);
    const struct delivery_sender_options options = {.queue = daemon->queue,
                                                    .spool = config->spool ? config->spool : spool,
                                                    .spool_tenant_bytes =
                                                        (uint64_t)config->spool_mib << 20,
                                                    .allowed = allowed,
                                                    .n_allowed = config->n_allow,
                                                    .ca_file = config->ca,
                                                    .timeout_ms = config->timeout_ms,
                                                    .failed = log_failed};
    return delivery_sender_new(&options, &daemon->sender, err);
}

static int start_backend(struct daemon *daemon, struct error *err)
{
    const struct config *config = daemon->config;
    const struct config_provisioned *provisioned = config ? config->provisioned : NULL;
    const struct config_events *events = config ? config->events : NULL;
    const struct lambda_backend_options options = {
        .registry = daemon->registry,
        .dispatcher = daemon->dispatcher,
        .most_percent = provisioned ? provisioned->most_percent : 0,
        .target_percent = provisioned ? provisioned->target_percent : 0,
        .state = daemon->state,
        .cache_bytes = cache_bytes_of(daemon),
        .check_runtime = check_images,
        .opaque = daemon,
        .observer = &daemon->seen.observer,
        .failed = log_failed};
    int r = lambda_backend_new(&options, &daemon->backend, err);
    if (r < 0)
        return r;
    const struct event_worker_options worker = {.queue = daemon->queue,
                                                .registry = daemon->registry,
                                                .backend = &lambda_backend_ops,
                                                .backend_opaque = daemon->backend,
                                                .max_running = events ? events->running : 0,
                                                .lease_ms = events ? events->lease_ms : 0,
                                                .failed = log_failed};
    return event_worker_new(&worker, &daemon->worker, err);
}

static int start_api(struct daemon *daemon, struct error *err)
{
    const struct config *config = daemon->config;
    AUTO_FREE struct api_key *keys = NULL;
    size_t n_keys = 0;
    int r = list_keys(daemon, &keys, &n_keys);

    if (r < 0)
        return error_set(err, -r, "list the access keys");
    const struct api_options options = {
        .registry = daemon->registry,
        .queue = daemon->queue,
        .backend = &daemon_backend,
        .backend_opaque = daemon,
        .region = region_of(daemon),
        .keys = keys,
        .n_keys = n_keys,
        .default_tenant = default_tenant_of(daemon),
        .unsigned_loopback = config && config->unsigned_loopback,
        .public_url = config ? config->public_url : NULL,
        .control_rate = config && config->limits ? config->limits->control_rate : 0,
        .trusted_proxies = config ? (const char *const *)config->trusted_proxies : NULL,
        .n_trusted_proxies = config ? config->n_trusted_proxies : 0,
        .logs = daemon->seen.logs,
        .open_metrics = config && config->open_metrics,
        .trace_ratio = daemon->seen.observer.trace_ratio};
    return api_new(&options, &daemon->api, err);
}

/* What is counted by asking is there now. */
static int watch(struct daemon *daemon, struct error *err)
{
    const struct daemon_metrics_sources sources = {.dispatcher = daemon->dispatcher,
                                                   .queue = daemon->queue,
                                                   .api = daemon->api,
                                                   .log = daemon->seen.log,
                                                   .logs = daemon->seen.logs,
                                                   .spans = daemon->seen.spans};

    (void)err;
    daemon_metrics_watch(daemon->seen.metrics, &sources);
    return 0;
}

static int read_pem(const char *path, char **ret_text, struct error *err)
{
    uint8_t *data = NULL;
    size_t len = 0;
    int r = fd_read_file(path, PEM_MAX_BYTES, &data, &len, err);

    if (r == 0)
        *ret_text = (char *)data;
    return r;
}

static int start_http(struct daemon *daemon, struct error *err)
{
    const struct config *config = daemon->config;
    struct http_server_options options = {.listen = daemon->listen,
                                          .socket_path = daemon->socket_path,
                                          .spool_directory = daemon->state,
                                          .service = &api_service,
                                          .opaque = daemon->api};
    int r = 0;

    if (config && config->limits) {
        options.max_connections = config->limits->connections;
        options.threads = config->limits->threads;
        options.head_timeout_s = config->limits->head_timeout_s;
        options.body_memory_bytes = (size_t)config->limits->body_memory_mib << 20;
    }
    if (config && config->tls) {
        r = read_pem(config->tls->certificate, &daemon->certificate, err);
        if (r == 0)
            r = read_pem(config->tls->key, &daemon->key, err);
        options.tls_certificate_pem = daemon->certificate;
        options.tls_key_pem = daemon->key;
    }
    return r < 0 ? r : http_server_start(&options, &daemon->server, err);
}

static int start(struct daemon *daemon, struct error *err)
{
    static int (*const parts[])(struct daemon *, struct error *) = {
        settle_options, start_alone,   start_observability, start_store, start_dispatcher,
        start_sender,   start_backend, start_api,           watch,       start_http};
    int r = 0;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && r == 0; i++)
        r = parts[i](daemon, err);
    return r;
}

static void stop(struct daemon *daemon)
{
    atomic_store(&daemon->is_stopping, true); /* from here on /readyz says so */
    if (daemon->dispatcher && dispatcher_shutdown(daemon->dispatcher, SHUTDOWN_MS) < 0) {
        log_line("error", "", "an instance does not end: leaving it to the kernel");
        _exit(EXIT_FAILED);
    }
    observability_end_followers(&daemon->seen);
    http_server_stop(daemon->server);
    event_worker_free(daemon->worker);
    delivery_sender_free(daemon->sender);
    lambda_backend_stop(daemon->backend);
    api_free(daemon->api);
    lambda_backend_free(daemon->backend);
    dispatcher_free(daemon->dispatcher);
    if (daemon->queue)
        event_queue_close(daemon->queue);
    if (daemon->registry)
        registry_close(daemon->registry);
    the_log = NULL;
    observability_stop(&daemon->seen);
    config_free(daemon->config);
    free(daemon->certificate);
    free(daemon->key);
    fd_close_at_exit(&daemon->state_lock);
}

/* --- process --------------------------------------------------------------------------------- */

/* Large blocks (uploads) go back to the kernel when they are freed, and threads share few arenas:
 * the daemon stays small beside its instances. */
static void stay_small(void)
{
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_ARENA_MAX, 2);
}

/* A descriptor or more for each connection and several for each instance. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < MAX_DESCRIPTORS) {
        limit.rlim_cur = limit.rlim_max < MAX_DESCRIPTORS ? limit.rlim_max : MAX_DESCRIPTORS;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void say_ready(const struct daemon *daemon)
{
    char text[sizeof(((struct error *)0)->text)];

    snprintf(text, sizeof(text), "ready: listening on %.100s (port %u) and on %.200s%s%.200s",
             daemon->listen, http_server_port(daemon->server), daemon->socket_path,
             daemon->has_own_key ? "; access key in " : "",
             daemon->has_own_key ? daemon->credentials_path : "");
    log_line("info", "", text);
}

int main(int argc, char **argv)
{
    struct daemon daemon = {.listen = NULL, .state_lock = -1};
    struct error err = {0};
    sigset_t signals;
    int number = 0, r = parse_options(argc, argv, &daemon);

    if (r >= 0)
        return r;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before there are threads, so all have it */
    raise_limits();
    stay_small();
    r = start(&daemon, &err);
    if (r == 0) {
        say_ready(&daemon);
        if (service_notify("READY=1") < 0)
            log_line("warning", "", "the service manager cannot be told that mayflyd is ready");
        while (sigwait(&signals, &number) == 0 && number == SIGHUP)
            daemon_log_reopen(the_log);
        log_line("info", "", "ending");
        (void)service_notify("STOPPING=1");
    } else {
        log_line("error", "", err.text);
    }
    stop(&daemon);
    return r == 0 ? 0 : EXIT_FAILED;
}
