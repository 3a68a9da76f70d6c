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
    uint32_t min_available_mib; /* of memory, that instances leave to others */
};

struct config_log {
    char *level; /* debug, info, warning, error */
    char *file;  /* NULL: standard error */
};

struct config_otlp {
    char *endpoint; /* http://host:4318 */
};

struct config {
    char *listen, *socket, *state, *region, *public_url, *default_tenant; /* NULL: not said */
    bool unsigned_loopback;
    char **trusted_proxies; /* addresses and networks: their X-Forwarded-For is believed */
    unsigned n_trusted_proxies;
    uint32_t keep_alive_s, shells;
    struct config_tls *tls;
    struct config_tenant *tenants;
    unsigned n_tenants;
    struct config_limits *limits;
    struct config_log *log;
    struct config_otlp *otlp;
};

/*
 * config_load - returns 0 with *ret_config owned, -EINVAL naming file, line and field, -EACCES for
 * a file with secrets that others may read, or why it cannot be read.
 */
int config_load(const char *path, struct config **ret_config, struct error *err);
void config_free(struct config *config);

#endif
