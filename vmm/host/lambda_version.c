/*
 * From what the registry says of a function to what the dispatcher needs of it. The code is opened
 * only when a snapshot is to be made: a restore does not touch it.
 */
#include "lambda_version.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime_images.h"

enum {
    REGION_VARIABLES = 2,
    MIB_PER_VCPU = 1769,
    MAX_VCPUS = 6,
    PATH_BYTES = 4096
}; /* as in Lambda */

static int open_code(void *opaque, struct package **ret_package, struct error *err)
{
    struct lambda_version *version = opaque;
    char path[PATH_BYTES];
    int r = code_store_path(registry_code_store(version->registry), version->function->code_sha256,
                            path, sizeof(path), err);

    if (r == 0)
        r = package_open(path, ret_package, err);
    version->is_code_bad = r < 0;
    return r;
}

/* What functions without a reservation share: it changes with each reservation, so it is not part
 * of the function. */
static int read_limits(struct lambda_version *version, struct error *err)
{
    const struct function *function = version->function;
    struct tenant tenant;
    int r = registry_get_tenant(version->registry, function->tenant, &tenant, err);

    if (r < 0)
        return r;
    version->version.limits =
        (struct concurrency_limits){.reserved = function->reserved_concurrency == RESERVED_NONE
                                                    ? CONCURRENCY_UNRESERVED
                                                    : function->reserved_concurrency,
                                    .unreserved = tenant.unreserved_concurrency};
    return 0;
}

static uint32_t vcpus_of(uint32_t memory_mib)
{
    uint32_t vcpus = (memory_mib + MIB_PER_VCPU - 1) / MIB_PER_VCPU;

    return vcpus < 1 ? 1 : vcpus > MAX_VCPUS ? MAX_VCPUS : vcpus;
}

/* Of the version itself: what an event was really sent to comes with the event. */
static void name_arn(struct lambda_version *version, const char *region)
{
    const struct function *function = version->function;
    bool is_latest = function->version == VERSION_LATEST;

    snprintf(version->arn, sizeof(version->arn), "arn:aws:lambda:%s:%s:function:%s%s%s", region,
             function->account_id, function->name, is_latest ? "" : ":",
             is_latest ? "" : function->version_text);
}

int lambda_version_init(struct lambda_version *version, struct registry *registry,
                        const struct function *function, struct error *err)
{
    const struct runtime *runtime = runtime_find(function->runtime); /* NULL: of an older release */

    *version = (struct lambda_version){.registry = registry, .function = function};
    const char *region = registry_region(registry);

    version->environment =
        calloc(function->n_environment + REGION_VARIABLES, sizeof(*version->environment));
    if (!version->environment)
        return error_set(err, ENOMEM, "prepare the function '%s'", function->name);
    version->environment[0] = (struct agent_variable){"AWS_REGION", region};
    version->environment[1] = (struct agent_variable){"AWS_DEFAULT_REGION", region};
    for (size_t i = 0; i < function->n_environment; i++)
        version->environment[REGION_VARIABLES + i] =
            (struct agent_variable){function->environment[i].name, function->environment[i].value};
    snprintf(version->label, sizeof(version->label), "%016" PRIx64 ".%" PRIu64,
             registry_identity(registry), function->build_id);
    name_arn(version, region);
    version->version = (struct function_version){
        .tenant = function->tenant,
        .build_id = function->build_id,
        .function = {.label = version->label,
                     .runtime = runtime ? runtime->agent : function->runtime,
                     .handler = function->handler,
                     .name = function->name,
                     .version = function->version_text,
                     .environment = version->environment,
                     .n_environment = function->n_environment + REGION_VARIABLES,
                     .arn = version->arn},
        .open_package = open_code,
        .opaque = version,
        .image = runtime ? runtime->image : function->runtime,
        .memory_mib = function->memory_mib,
        .tmp_mib = function->tmp_mib,
        .vcpus = vcpus_of(function->memory_mib),
    };
    int r = read_limits(version, err);
    if (r < 0)
        lambda_version_done(version);
    return r;
}

uint64_t lambda_version_parse_label(const struct registry *registry, const char *name)
{
    char prefix[40];
    size_t len = (size_t)snprintf(prefix, sizeof(prefix), "function-%016" PRIx64 ".",
                                  registry_identity(registry));
    char *end;

    if (strncmp(name, prefix, len) != 0 || name[len] < '1' || name[len] > '9')
        return 0;
    errno = 0;
    uint64_t build_id = strtoull(name + len, &end, 10);
    return errno == 0 && *end == '-' ? build_id : 0;
}

void lambda_version_done(struct lambda_version *version)
{
    free(version->environment);
    version->environment = NULL;
}
