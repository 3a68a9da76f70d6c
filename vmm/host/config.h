/*
 * mayflyd's configuration file (mayflyd.yaml). Every member may be left out.
 *
 *   listen: 127.0.0.1:9555
 *   socket: /run/mayfly/mayfly.sock
 *   state: /var/lib/mayfly
 *   tls: {certificate: /etc/mayfly/cert.pem, key: /etc/mayfly/key.pem}
 *   tenants:
 *     - name: acme
 *       account: "123456789012"
 *       concurrency: 200
 *       access_keys: [{id: AKID…, secret: …}]
 *   destinations:                  # of records of asynchronous events (delivery_sender.h)
 *     allow: [10.0.0.0/8]          # networks to reach beside the global addresses
 *     spool: /var/spool/mayfly     # default <state>/spool
 *   events: {running: 64}          # how many run at once; see struct config_events
 *   cpu: share                 # or quota: vmm/hypervisor/README.md
 *   provisioned: {most_percent: 300, target_percent: 70}   # target tracking; 100: a fixed number
 *   limits: {instances: 200, min_available_mib: 2048, cache_mib: 16384}
 *   log: {level: info, file: /var/log/mayflyd.log}   # default standard error; SIGHUP: anew
 *   function_logs: {function_mib: 10, tenant_mib: 1024, keep_days: 14, rate_kib_s: 1024}
 *   metrics: socket                # or open: all tenants' for everybody
 *   otlp: {endpoint: "http://127.0.0.1:4318", ratio: 0.1}   # spans
 *
 * Trust: the administrator's own. The file holds secrets: who else may read it is his to say, and
 * config_load() refuses one that everybody may read. Process: mayflyd. Threads: none of its own.
 */
#ifndef MAYFLY_HOST_CONFIG_H
#define MAYFLY_HOST_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct config_key {
    char *id, *secret;
};

struct config_tenant {
    char *name, *account; /* account: 12 digits */
    uint32_t concurrency; /* 0: the default, 1000 */
    uint32_t code_limit_mib;
    struct config_key *keys;
    unsigned n_keys;
};

struct config_tls {
    char *certificate, *key; /* paths of PEM files */
};

struct config_limits {
    uint32_t connections; /* 0 in all of these: the default */
    uint32_t instances;
    uint32_t threads;
    uint32_t body_memory_mib;
    uint32_t head_timeout_s;
    uint32_t control_rate; /* requests a second of a tenant's, but for invocations */
    /* Of memory, that instances leave to others; 0: 5 %, 256 at least. */
    uint32_t min_available_mib;
    uint32_t cache_mib; /* of flattened snapshots on disk */
};

/* Of instances that are provisioned, in percent of what a configuration asks for. */
struct config_provisioned {
    uint32_t most_percent;   /* held at most, as load rises; 0: 100, so a fixed number */
    uint32_t target_percent; /* that are to be busy at most before more are held; 0: 70 */
};

struct config_destinations {
    char **allow; /* as network_parse() takes them; checked */
    unsigned n_allow;
    char *spool;         /* NULL: <state>/spool */
    char *ca;            /* PEM of certificates to trust; NULL: the system's */
    uint32_t spool_mib;  /* of each tenant's files there; 0 in all of these: the default */
    uint32_t timeout_ms; /* of one POST */
};

struct config_events {
    uint32_t running;           /* 0 in all of these: the default */
    uint32_t lease_ms;          /* of what runs, extended while it does */
    uint32_t retry_base_ms;     /* Lambda's minute before the second attempt; then twice that */
    uint32_t throttle_base_ms;  /* likewise its second */
    uint32_t delivery_base_ms;  /* a delivery that failed is sent again after 4, 16, … of these */
    uint32_t max_tenant_events; /* in the queue */
    uint32_t max_tenant_mib;
};

struct config_log {
    char *level; /* debug, info, warning, error */
    char *file;  /* NULL: standard error */
};

struct config_otlp {
    char *endpoint; /* http://host:4318 */
    double *ratio;  /* of traces that begin here, 0 to 1: how many are sampled; NULL: all */
};

/* What functions print; 0: the default (log_store.h). */
struct config_function_logs {
    uint32_t function_mib, tenant_mib, keep_days, rate_kib_s;
};

struct config {
    char *listen, *socket, *state, *region, *public_url, *default_tenant; /* NULL: not said */
    bool unsigned_loopback;
    bool cpu_quota;         /* cpu: quota; false: share. See vmm/hypervisor/README.md */
    char **trusted_proxies; /* addresses and networks: their X-Forwarded-For is believed */
    unsigned n_trusted_proxies;
    uint32_t keep_alive_s, shells;
    struct config_tls *tls;
    struct config_tenant *tenants;
    unsigned n_tenants;
    struct config_limits *limits;
    struct config_provisioned *provisioned;
    struct config_log *log;
    struct config_function_logs *function_logs;
    struct config_otlp *otlp;
    bool open_metrics; /* metrics: open */
    struct config_destinations *destinations;
    struct config_events *events;
};

/*
 * config_load - returns 0 with *ret_config owned, -EINVAL naming file, line and field, -EACCES for
 * a file with secrets that others may read, or why it cannot be read.
 */
int config_load(const char *path, struct config **ret_config, struct error *err);
void config_free(struct config *config);

#endif
