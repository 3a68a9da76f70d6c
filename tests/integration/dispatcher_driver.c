/*
 * The dispatcher for test_dispatcher.py: dispatcher_driver STATE MONITOR IMAGE KERNEL. One JSON
 * object a line comes in, each is carried out on a thread of its own (but for "shutdown"), one
 * object a line goes out, with the "id" of what it answers. Trusts its input.
 */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "host/pool/dispatcher.h"
#include "host/instance/identity.h"

static struct dispatcher *dispatcher;
static pthread_mutex_t output_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *text_of(const json_t *command, const char *name, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(command, name));

    return text ? text : otherwise;
}

static long long number_of(const json_t *command, const char *name, long long otherwise)
{
    const json_t *number = json_object_get(command, name);

    return json_is_integer(number) ? json_integer_value(number) : otherwise;
}

/* Takes @reply over. */
static void answer(const json_t *command, json_t *reply)
{
    json_object_set_new(reply, "id", json_integer(number_of(command, "id", 0)));
    char *line = json_dumps(reply, JSON_COMPACT | JSON_ENCODE_ANY);
    pthread_mutex_lock(&output_lock);
    puts(line ? line : "{}");
    fflush(stdout);
    pthread_mutex_unlock(&output_lock);
    free(line);
    json_decref(reply);
}

static json_t *failure(int r, const struct error *err)
{
    return json_pack("{s:i, s:s}", "failed", r, "text", err->text);
}

static int open_code(void *opaque, struct package **ret_package, struct error *err)
{
    return package_open(text_of(opaque, "code", ""), ret_package, err);
}

static struct function_version version_of(json_t *command)
{
    return (struct function_version){
        .tenant = text_of(command, "tenant", "tester"),
        .build_id = (uint64_t)number_of(command, "build", 1),
        .function = {.runtime = "python3.11",
                     .handler = text_of(command, "handler", "app.handler"),
                     .name = text_of(command, "name", "function"),
                     .version = "$LATEST"},
        .open_package = open_code,
        .opaque = command,
        .memory_mib = 128,
        .tmp_mib = 512,
        .vcpus = 1,
        .limits = {.reserved = (int32_t)number_of(command, "reserved", CONCURRENCY_UNRESERVED),
                   .unreserved = (uint32_t)number_of(command, "unreserved", 1000)}};
}

static json_t *result_json(const struct invocation_result *result)
{
    static const char *const kinds[] = {"ok", "function error", "timeout", "sandbox error",
                                        "throttled"};
    static const char *const starts[] = {"warm", "restored", "cold"};
    json_t *payload = result->payload ? json_loadb((const char *)result->payload,
                                                   result->payload_bytes, JSON_DECODE_ANY, NULL)
                                      : json_null();

    return json_pack("{s:s, s:s, s:s, s:o, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:s%}", "kind",
                     kinds[result->kind], "throttle", dispatcher_throttle_words(result->throttle),
                     "start", starts[result->start], "payload", payload, "init_failure",
                     result->is_init_failure, "acquire_us", (json_int_t)result->acquire_us,
                     "init_us", (json_int_t)result->init_us, "restore_us",
                     (json_int_t)result->restore_us, "duration_us", (json_int_t)result->duration_us,
                     "billed_ms", (json_int_t)result->billed_ms, "memory",
                     (json_int_t)result->memory_peak_bytes, "log", result->log_tail.bytes,
                     result->log_tail.len_bytes);
}

static void do_invoke(json_t *command, bool is_build)
{
    struct function_version version = version_of(command);
    char request[REQUEST_ID_BYTES];
    struct invocation_result result;
    struct error err;
    char *event = json_dumps(json_object_get(command, "event"), JSON_ENCODE_ANY);
    int r = identity_request(request, &err);

    if (r == 0 && is_build) {
        r = dispatcher_build(dispatcher, &version, NULL, NULL, &result, &err);
    } else if (r == 0) {
        const struct invocation invocation = {.version = &version,
                                              .timeout_ms =
                                                  (uint64_t)number_of(command, "timeout_ms", 30000),
                                              .request_id = request,
                                              .event = event ? event : "{}",
                                              .event_bytes = strlen(event ? event : "{}")};
        r = dispatcher_invoke(dispatcher, &invocation, &result, &err);
    }
    free(event);
    answer(command, r < 0 ? failure(r, &err) : result_json(&result));
    if (r == 0)
        invocation_result_done(&result);
}

static void do_provision(json_t *command)
{
    const struct pool_provision provision = {.minimum = (uint32_t)number_of(command, "minimum", 0),
                                             .maximum = (uint32_t)number_of(command, "maximum", 0),
                                             .target = 0.7};
    struct function_version version = version_of(command);
    struct pool_provision_status status;
    struct pool_lease lease;
    struct error err;
    int r =
        instance_pool_provision(dispatcher_pool(dispatcher), &version, &provision, &lease, &err);
    uint64_t until_us = clock_now_us() + 60000000;

    do {
        instance_pool_provision_status(dispatcher_pool(dispatcher), &version, &status);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    } while (r == 0 && status.ready < provision.minimum && clock_now_us() < until_us);
    answer(command, r < 0 ? failure(r, &err)
                          : json_pack("{s:i, s:i}", "ready", (int)status.ready, "wanted",
                                      (int)status.wanted));
}

static void do_status(json_t *command)
{
    struct pool_counts counts;
    struct shell_pool_status shells;

    instance_pool_get_counts(dispatcher_pool(dispatcher), &counts);
    shell_pool_get_status(dispatcher_shells(dispatcher), &shells);
    answer(command,
           json_pack("{s:i, s:i, s:i, s:i, s:I, s:I, s:I}", "live", (int)counts.live, "idle",
                     (int)counts.idle, "busy", (int)counts.busy, "shells_ready", (int)shells.ready,
                     "shells_taken", (json_int_t)shells.taken, "shells_died",
                     (json_int_t)shells.died, "died", (json_int_t)counts.died));
}

static void *carry_out(void *opaque)
{
    json_t *command = opaque;
    const char *op = text_of(command, "op", "");

    if (strcmp(op, "invoke") == 0) {
        do_invoke(command, false);
    } else if (strcmp(op, "build") == 0) {
        do_invoke(command, true);
    } else if (strcmp(op, "provision") == 0) {
        do_provision(command);
    } else if (strcmp(op, "status") == 0) {
        do_status(command);
    } else if (strcmp(op, "invalidate") == 0) {
        struct function_version version = version_of(command);

        instance_pool_invalidate(dispatcher_pool(dispatcher), version.tenant, version.function.name,
                                 version.function.version);
        answer(command, json_object());
    } else {
        answer(command, json_pack("{s:s}", "text", "no such op"));
    }
    json_decref(command);
    return NULL;
}

static int start_thread(json_t *command)
{
    pthread_attr_t detached;
    pthread_t thread;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&thread, &detached, carry_out, command);
    pthread_attr_destroy(&detached);
    return r;
}

static void shut_down(const json_t *command)
{
    int r = dispatcher_shutdown(dispatcher, (uint64_t)number_of(command, "deadline_ms", 10000));

    if (r == 0) {
        dispatcher_free(dispatcher);
        dispatcher = NULL;
    }
    answer(command, json_pack("{s:i}", "result", r));
}

int main(int argc, char **argv)
{
    struct error err;
    char *line = NULL;
    size_t size = 0;

    if (argc != 5) {
        fprintf(stderr, "usage: dispatcher_driver STATE MONITOR IMAGE KERNEL\n");
        return 2;
    }
    const struct dispatcher_config config = {.hypervisor = &hypervisor_kvm,
                                             .state = argv[1],
                                             .monitor_path = argv[2],
                                             .image = argv[3],
                                             .kernel = argv[4]};
    if (dispatcher_new(&config, &dispatcher, &err) < 0) {
        fprintf(stderr, "dispatcher_driver: %s\n", err.text);
        return 1;
    }
    while (getline(&line, &size, stdin) > 0) {
        json_t *command = json_loads(line, 0, NULL);

        if (strcmp(text_of(command, "op", ""), "shutdown") == 0) {
            shut_down(command);
            json_decref(command);
        } else if (start_thread(command) != 0) {
            return 1;
        }
    }
    free(line);
    return dispatcher ? 1 : 0;
}
