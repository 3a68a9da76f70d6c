/* mayflyd.yaml: see config.h. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "events/address_policy.h"
#include "api/router.h"
#include "api/trusted_proxies.h"
#include "common/bytes.h"
#include "common/yaml_load.h"

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
#define TEXT(member, type, max) CYAML_FIELD_STRING_PTR(#member, OPTIONAL, type, member, 1, max)
#define NEEDED(member, type, max)                                                                  \
    CYAML_FIELD_STRING_PTR(#member, CYAML_FLAG_POINTER, type, member, 1, max)
#define NUMBER(member, type) CYAML_FIELD_UINT(#member, CYAML_FLAG_OPTIONAL, type, member)

/* --- schema ---------------------------------------------------------------------------------- */

/* libcyaml's own booleans take any other word for true. */
static const cyaml_strval_t booleans[] = {{"false", 0}, {"true", 1}};

static const cyaml_strval_t cpu_words[] = {{"share", 0}, {"quota", 1}};

static const cyaml_schema_field_t key_fields[] = {
    NEEDED(id, struct config_key, 128), NEEDED(secret, struct config_key, 250), CYAML_FIELD_END};
static const cyaml_schema_value_t key_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_key, key_fields)};

static const cyaml_schema_field_t tenant_fields[] = {
    NEEDED(name, struct config_tenant, FUNCTION_NAME_MAX),
    NEEDED(account, struct config_tenant, 12),
    NUMBER(concurrency, struct config_tenant),
    NUMBER(code_limit_mib, struct config_tenant),
    CYAML_FIELD_SEQUENCE_COUNT("access_keys", OPTIONAL, struct config_tenant, keys, n_keys,
                               &key_entry, 0, 1000),
    CYAML_FIELD_END};
static const cyaml_schema_value_t tenant_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_tenant, tenant_fields)};

static const cyaml_schema_field_t tls_fields[] = {NEEDED(certificate, struct config_tls, 4095),
                                                  NEEDED(key, struct config_tls, 4095),
                                                  CYAML_FIELD_END};
static const cyaml_schema_field_t limit_fields[] = {NUMBER(connections, struct config_limits),
                                                    NUMBER(instances, struct config_limits),
                                                    NUMBER(threads, struct config_limits),
                                                    NUMBER(body_memory_mib, struct config_limits),
                                                    NUMBER(head_timeout_s, struct config_limits),
                                                    NUMBER(control_rate, struct config_limits),
                                                    NUMBER(min_available_mib, struct config_limits),
                                                    NUMBER(cache_mib, struct config_limits),
                                                    CYAML_FIELD_END};
static const cyaml_schema_field_t provisioned_fields[] = {
    NUMBER(most_percent, struct config_provisioned),
    NUMBER(target_percent, struct config_provisioned), CYAML_FIELD_END};
static const cyaml_schema_field_t log_fields[] = {
    TEXT(level, struct config_log, 16), TEXT(file, struct config_log, 4095), CYAML_FIELD_END};
static const cyaml_schema_field_t function_log_fields[] = {
    NUMBER(function_mib, struct config_function_logs),
    NUMBER(tenant_mib, struct config_function_logs), NUMBER(keep_days, struct config_function_logs),
    NUMBER(rate_kib_s, struct config_function_logs), CYAML_FIELD_END};
static const cyaml_schema_field_t otlp_fields[] = {
    NEEDED(endpoint, struct config_otlp, 1024),
    CYAML_FIELD_FLOAT_PTR("ratio", OPTIONAL, struct config_otlp, ratio), CYAML_FIELD_END};

/* Who sees all tenants' metrics: who may open the Unix socket, or everybody. */
static const cyaml_strval_t metrics_words[] = {{"socket", 0}, {"open", 1}};

static const cyaml_schema_value_t network_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 63)};
static const cyaml_schema_field_t destination_fields[] = {
    CYAML_FIELD_SEQUENCE_COUNT("allow", OPTIONAL, struct config_destinations, allow, n_allow,
                               &network_entry, 0, 1000),
    TEXT(spool, struct config_destinations, 4000),
    TEXT(ca, struct config_destinations, 4095),
    NUMBER(spool_mib, struct config_destinations),
    NUMBER(timeout_ms, struct config_destinations),
    CYAML_FIELD_END};
static const cyaml_schema_field_t event_fields[] = {
    NUMBER(running, struct config_events),          NUMBER(lease_ms, struct config_events),
    NUMBER(retry_base_ms, struct config_events),    NUMBER(throttle_base_ms, struct config_events),
    NUMBER(delivery_base_ms, struct config_events), NUMBER(max_tenant_events, struct config_events),
    NUMBER(max_tenant_mib, struct config_events),   CYAML_FIELD_END};

static const cyaml_schema_field_t config_fields[] = {
    TEXT(listen, struct config, 255),
    TEXT(socket, struct config, 107),
    TEXT(state, struct config, 4000),
    TEXT(region, struct config, 31),
    TEXT(public_url, struct config, 255),
    TEXT(default_tenant, struct config, FUNCTION_NAME_MAX),
    CYAML_FIELD_ENUM("unsigned_loopback", CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct config,
                     unsigned_loopback, booleans, CYAML_ARRAY_LEN(booleans)),
    CYAML_FIELD_ENUM("cpu", CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct config, cpu_quota,
                     cpu_words, CYAML_ARRAY_LEN(cpu_words)),
    CYAML_FIELD_SEQUENCE_COUNT("trusted_proxies", OPTIONAL, struct config, trusted_proxies,
                               n_trusted_proxies, &network_entry, 0, 1000),
    NUMBER(keep_alive_s, struct config),
    NUMBER(shells, struct config),
    CYAML_FIELD_MAPPING_PTR("tls", OPTIONAL, struct config, tls, tls_fields),
    CYAML_FIELD_SEQUENCE_COUNT("tenants", OPTIONAL, struct config, tenants, n_tenants,
                               &tenant_entry, 0, 10000),
    CYAML_FIELD_MAPPING_PTR("limits", OPTIONAL, struct config, limits, limit_fields),
    CYAML_FIELD_MAPPING_PTR("provisioned", OPTIONAL, struct config, provisioned,
                            provisioned_fields),
    CYAML_FIELD_MAPPING_PTR("log", OPTIONAL, struct config, log, log_fields),
    CYAML_FIELD_MAPPING_PTR("function_logs", OPTIONAL, struct config, function_logs,
                            function_log_fields),
    CYAML_FIELD_MAPPING_PTR("otlp", OPTIONAL, struct config, otlp, otlp_fields),
    CYAML_FIELD_ENUM("metrics", CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct config,
                     open_metrics, metrics_words, CYAML_ARRAY_LEN(metrics_words)),
    CYAML_FIELD_MAPPING_PTR("destinations", OPTIONAL, struct config, destinations,
                            destination_fields),
    CYAML_FIELD_MAPPING_PTR("events", OPTIONAL, struct config, events, event_fields),
    CYAML_FIELD_END};

static const cyaml_schema_value_t config_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, config_fields)};

/* --- checks that a schema cannot express ----------------------------------------------------- */

static int check_number(const struct yaml_file *file, const char *field, uint32_t value,
                        uint32_t max, struct error *err)
{
    if (value <= max)
        return 0;
    return yaml_wrong(file, err, field, "%u is more than %u", value, max);
}

static int check_key(const struct yaml_file *file, const struct config_key *key, const char *field,
                     struct error *err)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

    if (strspn(key->id, allowed) != strlen(key->id))
        return yaml_wrong(file, err, field,
                          "an access key's id is of letters, digits, '-' and '_'");
    return 0;
}

static int check_tenant(const struct yaml_file *file, const struct config *config, unsigned i,
                        struct error *err)
{
    const struct config_tenant *tenant = &config->tenants[i];
    char field[64];
    int r = 0;

    snprintf(field, sizeof(field), "tenants.%u.name", i);
    if (!function_name_is_valid(tenant->name))
        return yaml_wrong(file, err, field, "'%s' is not of letters, digits, '-' and '_'",
                          tenant->name);
    for (unsigned k = 0; k < i; k++)
        if (strcmp(config->tenants[k].name, tenant->name) == 0)
            return yaml_wrong(file, err, field, "'%s' is there twice", tenant->name);
    snprintf(field, sizeof(field), "tenants.%u.account", i);
    if (strlen(tenant->account) != 12 || strspn(tenant->account, "0123456789") != 12)
        return yaml_wrong(file, err, field, "'%s' is not of 12 digits", tenant->account);
    for (unsigned k = 0; k < i; k++)
        if (strcmp(config->tenants[k].account, tenant->account) == 0)
            return yaml_wrong(file, err, field, "'%s' is there twice", tenant->account);
    for (unsigned k = 0; k < tenant->n_keys && r == 0; k++) {
        snprintf(field, sizeof(field), "tenants.%u.access_keys.%u.id", i, k);
        r = check_key(file, &tenant->keys[k], field, err);
    }
    snprintf(field, sizeof(field), "tenants.%u.concurrency", i);
    return r < 0 ? r : check_number(file, field, tenant->concurrency, 1000000, err);
}

static int check_log(const struct yaml_file *file, const struct config_log *log, struct error *err)
{
    static const char *const levels[] = {"debug", "info", "warning", "error"};

    if (!log || !log->level)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        if (strcmp(log->level, levels[i]) == 0)
            return 0;
    return yaml_wrong(file, err, "log.level", "'%s' is none of debug, info, warning, error",
                      log->level);
}

static int check_url(const struct yaml_file *file, const char *field, const char *url,
                     struct error *err)
{
    if (!url || strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0)
        return 0;
    return yaml_wrong(file, err, field, "'%s' does not begin with http:// or https://", url);
}

static int check_otlp(const struct yaml_file *file, const struct config_otlp *otlp,
                      struct error *err)
{
    if (!otlp)
        return 0;
    if (otlp->ratio && !(*otlp->ratio >= 0 && *otlp->ratio <= 1))
        return yaml_wrong(file, err, "otlp.ratio", "it is not from 0 to 1");
    return check_url(file, "otlp.endpoint", otlp->endpoint, err);
}

static int check_function_logs(const struct yaml_file *file,
                               const struct config_function_logs *logs, struct error *err)
{
    int r = 0;

    if (!logs)
        return 0;
    r = check_number(file, "function_logs.function_mib", logs->function_mib, 1 << 20, err);
    if (r == 0)
        r = check_number(file, "function_logs.tenant_mib", logs->tenant_mib, 1 << 24, err);
    if (r == 0)
        r = check_number(file, "function_logs.keep_days", logs->keep_days, 36500, err);
    return r < 0 ? r
                 : check_number(file, "function_logs.rate_kib_s", logs->rate_kib_s, 1 << 20, err);
}

static int check_proxies(const struct yaml_file *file, const struct config *config,
                         struct error *err)
{
    struct trusted_proxies *proxies = NULL;
    struct error why;
    char field[64];

    for (unsigned i = 0; i < config->n_trusted_proxies; i++) {
        const char *name = config->trusted_proxies[i];

        snprintf(field, sizeof(field), "trusted_proxies.%u", i);
        if (trusted_proxies_new(&name, 1, &proxies, &why) < 0)
            return yaml_wrong(file, err, field, "%s", why.text);
        trusted_proxies_free(proxies);
    }
    return 0;
}

static int check_region(const struct yaml_file *file, const char *region, struct error *err)
{
    if (!region || strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(region))
        return 0;
    return yaml_wrong(file, err, "region", "'%s' is not a region's name, as eu-central-1", region);
}

static int check_limits(const struct yaml_file *file, const struct config_limits *limits,
                        struct error *err)
{
    if (!limits)
        return 0;
    const struct {
        const char *field;
        uint32_t value, max;
    } numbers[] = {{"limits.connections", limits->connections, 100000},
                   {"limits.instances", limits->instances, 100000},
                   {"limits.threads", limits->threads, 256},
                   {"limits.body_memory_mib", limits->body_memory_mib, 1 << 20},
                   {"limits.head_timeout_s", limits->head_timeout_s, 3600},
                   {"limits.control_rate", limits->control_rate, 1000000},
                   {"limits.min_available_mib", limits->min_available_mib, 1 << 30},
                   {"limits.cache_mib", limits->cache_mib, 1 << 30}};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        int r = check_number(file, numbers[i].field, numbers[i].value, numbers[i].max, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int check_provisioned(const struct yaml_file *file,
                             const struct config_provisioned *provisioned, struct error *err)
{
    if (!provisioned)
        return 0;
    if (provisioned->most_percent > 0 && provisioned->most_percent < 100)
        return yaml_wrong(file, err, "provisioned.most_percent",
                          "%u is less than 100, what is asked for", provisioned->most_percent);
    int r = check_number(file, "provisioned.most_percent", provisioned->most_percent, 10000, err);
    return r < 0 ? r
                 : check_number(file, "provisioned.target_percent", provisioned->target_percent,
                                100, err);
}

static int check_destinations(const struct yaml_file *file,
                              const struct config_destinations *destinations, struct error *err)
{
    struct network network;
    struct error why;
    char field[64];

    if (!destinations)
        return 0;
    for (unsigned i = 0; i < destinations->n_allow; i++) {
        snprintf(field, sizeof(field), "destinations.allow.%u", i);
        if (network_parse(destinations->allow[i], &network, &why) < 0)
            return yaml_wrong(file, err, field, "%s", why.text);
    }
    int r = check_number(file, "destinations.spool_mib", destinations->spool_mib, 1 << 30, err);
    return r < 0 ? r
                 : check_number(file, "destinations.timeout_ms", destinations->timeout_ms, 60000,
                                err);
}

static int check_events(const struct yaml_file *file, const struct config_events *events,
                        struct error *err)
{
    if (!events)
        return 0;
    const struct {
        const char *field;
        uint32_t value, max;
    } numbers[] = {{"events.running", events->running, 1024},
                   {"events.lease_ms", events->lease_ms, 3600000},
                   {"events.retry_base_ms", events->retry_base_ms, 3600000},
                   {"events.throttle_base_ms", events->throttle_base_ms, 60000},
                   {"events.delivery_base_ms", events->delivery_base_ms, 600000},
                   {"events.max_tenant_events", events->max_tenant_events, 100000000},
                   {"events.max_tenant_mib", events->max_tenant_mib, 1 << 30}};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        int r = check_number(file, numbers[i].field, numbers[i].value, numbers[i].max, err);

        if (r < 0)
            return r;
    }
    return 0;
}

/* Secrets that everybody on the host can read are none. */
static int check_mode(const struct yaml_file *file, const struct config *config, struct error *err)
{
    struct stat st;
    bool has_secrets = false;

    for (unsigned i = 0; i < config->n_tenants; i++)
        has_secrets = has_secrets || config->tenants[i].n_keys > 0;
    if (!has_secrets || stat(file->path, &st) < 0 || (st.st_mode & S_IROTH) == 0)
        return 0;
    return error_say(err, EACCES,
                     "%s: it holds secret keys and everybody may read it: run 'chmod 600 %s'",
                     file->path, file->path);
}

static int check(const struct yaml_file *file, const struct config *config, struct error *err)
{
    int r = check_region(file, config->region, err);

    for (unsigned i = 0; i < config->n_tenants && r == 0; i++)
        r = check_tenant(file, config, i, err);
    if (r == 0)
        r = check_log(file, config->log, err);
    if (r == 0)
        r = check_url(file, "public_url", config->public_url, err);
    if (r == 0)
        r = check_otlp(file, config->otlp, err);
    if (r == 0)
        r = check_function_logs(file, config->function_logs, err);
    if (r == 0)
        r = check_proxies(file, config, err);
    if (r == 0)
        r = check_limits(file, config->limits, err);
    if (r == 0)
        r = check_provisioned(file, config->provisioned, err);
    if (r == 0)
        r = check_destinations(file, config->destinations, err);
    if (r == 0)
        r = check_events(file, config->events, err);
    if (r == 0)
        r = check_number(file, "keep_alive_s", config->keep_alive_s, 86400, err);
    if (r == 0)
        r = check_number(file, "shells", config->shells, 1000, err);
    return r < 0 ? r : check_mode(file, config, err);
}

int config_load(const char *path, struct config **ret_config, struct error *err)
{
    struct yaml_file file;
    void *value = NULL;
    int r = yaml_value_load(path, &config_schema, &value, &file, err);

    if (r < 0)
        return r;
    r = check(&file, value, err);
    yaml_file_done(&file);
    if (r < 0) {
        config_free(value);
        return r;
    }
    *ret_config = value;
    return 0;
}

void config_free(struct config *config)
{
    yaml_value_free(&config_schema, config);
}
