/* mayflyd.yaml and mayfly.yaml: what is read, and how a mistake is named: file, line and field. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "host/config.h"
#include "host/deploy_file.h"

static char path[64];

static const char *write_file(const char *text)
{
    snprintf(path, sizeof(path), "/tmp/mayfly-test-config-%d.yaml", getpid());
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fchmod(fileno(file), 0600), 0);
    fputs(text, file);
    fclose(file);
    return path;
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static const char whole[] = "listen: 127.0.0.1:9555\n"
                            "socket: /run/mayfly/mayfly.sock\n"
                            "state: /var/lib/mayfly\n"
                            "region: eu-central-1\n"
                            "default_tenant: acme\n"
                            "unsigned_loopback: true\n"
                            "keep_alive_s: 60\n"
                            "shells: 3\n"
                            "tls: {certificate: /c.pem, key: /k.pem}\n"
                            "tenants:\n"
                            "  - name: acme\n"
                            "    account: \"000000000012\"\n"
                            "    concurrency: 200\n"
                            "    access_keys:\n"
                            "      - id: AKIDA\n"
                            "        secret: s/+=\n"
                            "  - name: other\n"
                            "    account: 123456789012\n"
                            "limits: {connections: 100, instances: 50, cache_mib: 7}\n"
                            "cpu: quota\n"
                            "provisioned: {most_percent: 300, target_percent: 60}\n"
                            "log: {level: info, file: /var/log/mayfly.log}\n"
                            "destinations: {allow: [10.0.0.0/8, \"fd00::/8\"], spool: /s}\n"
                            "events: {running: 7, retry_base_ms: 5}\n"
                            "otlp: {endpoint: \"http://127.0.0.1:4318\"}\n";

static void test_whole(void **state)
{
    struct config *config = NULL;
    struct error err = {0};

    (void)state;
    if (config_load(write_file(whole), &config, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(config->listen, "127.0.0.1:9555");
    assert_true(config->unsigned_loopback);
    assert_int_equal(config->n_tenants, 2);
    assert_string_equal(config->tenants[0].account, "000000000012");
    assert_int_equal(config->tenants[0].concurrency, 200);
    assert_string_equal(config->tenants[0].keys[0].secret, "s/+=");
    assert_int_equal(config->tenants[1].n_keys, 0);
    assert_int_equal(config->limits->connections, 100);
    assert_int_equal(config->limits->cache_mib, 7);
    assert_true(config->cpu_quota);
    assert_int_equal(config->provisioned->most_percent, 300);
    assert_int_equal(config->provisioned->target_percent, 60);
    assert_string_equal(config->tls->key, "/k.pem");
    assert_int_equal(config->destinations->n_allow, 2);
    assert_string_equal(config->destinations->allow[1], "fd00::/8");
    assert_string_equal(config->destinations->spool, "/s");
    assert_int_equal(config->events->running, 7);
    config_free(config);
    /* Keys that everybody may read. */
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(config_load(path, &config, &err), -EACCES);
    assert_non_null(strstr(err.text, "chmod 600"));
}

static void test_small(void **state)
{
    struct config *config = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(config_load(write_file("region: eu-west-1\n"), &config, &err), 0);
    assert_null(config->listen);
    assert_false(config->unsigned_loopback);
    assert_null(config->limits);
    assert_false(config->cpu_quota);
    assert_null(config->provisioned);
    config_free(config);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *place;
    } bad[] = {
        {"", "empty"},
        {"listen: [\n", ":2: "},
        {"region: x\nlisen: 1\n", ":2: lisen: there is no such field"},
        {"region: x\nkeep_alive_s: soon\n", ":2: keep_alive_s: "},
        {"region: x\nkeep_alive_s: -1\n", ":2: keep_alive_s: "},
        {"region: x\nkeep_alive_s: 100000\n", ":2: keep_alive_s: 100000 is more"},
        {"destinations: {allow: [10.0.0.1/8]}\n", ":1: destinations.allow"},
        {"destinations:\n  allow: [10.0.0.0/8, localhost]\n", ":2: destinations.allow"},
        {"destinations: {timeout_ms: 100000}\n", ":1: destinations.timeout_ms: 100000 is more"},
        {"events: {running: 5000}\n", ":1: events.running: 5000 is more"},
        {"unsigned_loopback: perhaps\n", ":1: unsigned_loopback: "},
        {"region: Middle Earth\n", ":1: region: "},
        {"tls:\n  certificate: /c\n", ":2: tls.key: it is required"},
        {"tenants:\n  - name: a\n    account: 12\n", ":3: tenants.0.account: "},
        {"tenants:\n  - name: a b\n    account: 123456789012\n", ":2: tenants.0.name: "},
        {"tenants:\n  - name: a\n    account: 123456789012\n  - name: a\n    account: 1\n",
         ":4: tenants.1.name: 'a' is there twice"},
        {"tenants:\n  - name: a\n    account: 123456789012\n  - name: b\n"
         "    account: 123456789012\n",
         ":5: tenants.1.account: "},
        {"tenants:\n  - name: a\n    account: 123456789012\n    access_keys:\n"
         "      - {id: a/b, secret: x}\n",
         ":5: tenants.0.access_keys.0.id: "},
        {"log: {level: loud}\n", ":1: log.level: "},
        {"otlp: {endpoint: \"ftp://x\"}\n", ":1: otlp.endpoint: "},
        {"otlp: {endpoint: \"http://x\", ratio: 2}\n", ":1: otlp.ratio: "},
        {"function_logs: {keep_days: 40000}\n", ":1: function_logs.keep_days: "},
        {"metrics: all\n", ":1: metrics"},
        {"limits:\n  connections: 10000000\n", ":2: limits.connections: "},
        {"region: x\ncpu: all\n", ":2: cpu: "},
        {"provisioned:\n  most_percent: 50\n", ":2: provisioned.most_percent: 50 is less"},
        {"provisioned: {target_percent: 101}\n", ":1: provisioned.target_percent: 101 is more"},
        {"trusted_proxies: [127.0.0.1, 10.0.0.0/33]\n", ":1: trusted_proxies.1: "},
        {"trusted_proxies: [proxy.example]\n", ":1: trusted_proxies.0: "},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct config *config = NULL;
        struct error err = {0};

        if (config_load(write_file(bad[i].text), &config, &err) != -EINVAL)
            fail_msg("taken: %s", bad[i].text);
        if (!strstr(err.text, path) || !strstr(err.text, bad[i].place) || strchr(err.text, '\n'))
            fail_msg("'%s' does not name '%s'", err.text, bad[i].place);
    }
    struct error err = {0};
    struct config *config = NULL;
    assert_int_equal(config_load("/nonexistent/mayflyd.yaml", &config, &err), -ENOENT);
}

static void test_deploy(void **state)
{
    static const char text[] = "functions:\n"
                               "  - name: wordcount\n"
                               "    runtime: python3.11\n"
                               "    handler: app.handler\n"
                               "    code: src\n"
                               "    memory: 256\n"
                               "    environment: [A=1, \"B=x=y\"]\n"
                               "    concurrency: 0\n"
                               "  - {name: g, runtime: provided, handler: h}\n";
    static const struct {
        const char *text, *place;
    } bad[] = {
        {"functions: []\n", ":1: functions"},
        {"functions:\n  - {name: a, runtime: b}\n", ":2: functions.0.handler: it is required"},
        {"functions:\n  - {name: a, runtime: b, handler: c}\n"
         "  - {name: a, runtime: b, handler: c}\n",
         ":3: functions.1.name: 'a' is there twice"},
        {"functions:\n  - name: a\n    runtime: b\n    handler: c\n    environment: [ABC]\n",
         ":5: functions.0.environment.0: must be NAME=value"},
        {"functions:\n  - name: a\n    runtime: b\n    handler: c\n    memory: lots\n",
         ":5: functions.0.memory: "},
    };
    struct deploy_file *file = NULL;
    struct error err = {0};

    (void)state;
    if (deploy_file_load(write_file(text), &file, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(file->n_functions, 2);
    assert_string_equal(file->functions[0].environment[1], "B=x=y");
    assert_int_equal(*file->functions[0].concurrency, 0);
    assert_null(file->functions[1].concurrency);
    deploy_file_free(file);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (deploy_file_load(write_file(bad[i].text), &file, &err) != -EINVAL)
            fail_msg("taken: %s", bad[i].text);
        if (!strstr(err.text, bad[i].place))
            fail_msg("'%s' does not name '%s'", err.text, bad[i].place);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_whole, remove_file),
        cmocka_unit_test_teardown(test_small, remove_file),
        cmocka_unit_test_teardown(test_mistakes, remove_file),
        cmocka_unit_test_teardown(test_deploy, remove_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
