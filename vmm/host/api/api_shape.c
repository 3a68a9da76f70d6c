/*
 * Types of what this host has no use for. A member is refused where its value asks for something
 * (handle_settings.c), passed over where it is empty; one of the wrong type is neither.
 * Source: the service model of Lambda, 2015-03-31.
 */
#include <string.h>

#include "api_internal.h"
#include "common/bytes.h"

enum kind { TEXT, NUMBER, BOOLEAN, OBJECT, LIST };

static const char *const kind_names[] = {[TEXT] = "a string",
                                         [NUMBER] = "a number",
                                         [BOOLEAN] = "a boolean",
                                         [OBJECT] = "an object",
                                         [LIST] = "a list"};

#define MANAGED "CapacityProviderConfig.LambdaManagedInstancesCapacityProviderConfig"

/* An object before what is in it. */
static const struct {
    const char *path;
    enum kind kind;
} members[] = {
    {"VpcConfig", OBJECT},
    {"VpcConfig.SubnetIds", LIST},
    {"VpcConfig.SecurityGroupIds", LIST},
    {"VpcConfig.Ipv6AllowedForDualStack", BOOLEAN},
    {"Layers", LIST},
    {"FileSystemConfigs", LIST},
    {"ImageConfig", OBJECT},
    {"ImageConfig.EntryPoint", LIST},
    {"ImageConfig.Command", LIST},
    {"ImageConfig.WorkingDirectory", TEXT},
    {"KMSKeyArn", TEXT},
    {"CodeSigningConfigArn", TEXT},
    {"SnapStart", OBJECT},
    {"SnapStart.ApplyOn", TEXT},
    {"LoggingConfig", OBJECT},
    {"LoggingConfig.ApplicationLogLevel", TEXT},
    {"LoggingConfig.SystemLogLevel", TEXT},
    {"LoggingConfig.LogGroup", TEXT},
    {"CapacityProviderConfig", OBJECT},
    {MANAGED, OBJECT},
    {MANAGED ".CapacityProviderArn", TEXT},
    {MANAGED ".PerExecutionEnvironmentMaxConcurrency", NUMBER},
    {MANAGED ".ExecutionEnvironmentMemoryGiBPerVCpu", NUMBER},
    {"PublishTo", TEXT},
    {"DurableConfig", OBJECT},
    {"DurableConfig.RetentionPeriodInDays", NUMBER},
    {"DurableConfig.ExecutionTimeout", NUMBER},
    {"TenancyConfig", OBJECT},
    {"TenancyConfig.TenantIsolationMode", TEXT},
    {"RuntimeVersionArn", TEXT},
    {"Code.S3Bucket", TEXT},
    {"Code.S3Key", TEXT},
    {"Code.S3ObjectVersion", TEXT},
    {"Code.ImageUri", TEXT},
    {"Code.SourceKMSKeyArn", TEXT},
    {"S3Bucket", TEXT},
    {"S3Key", TEXT},
    {"S3ObjectVersion", TEXT},
    {"ImageUri", TEXT},
    {"SourceKMSKeyArn", TEXT},
};

static const json_t *find(const json_t *object, const char *path)
{
    char name[96];

    while (object && *path) {
        size_t len = strcspn(path, ".");

        memcpy(name, path, len);
        name[len] = '\0';
        object = json_object_get(object, name);
        path += len + (path[len] == '.');
    }
    return object;
}

static bool is_of(const json_t *value, enum kind kind)
{
    switch (kind) {
    case TEXT:
        return json_is_string(value);
    case NUMBER:
        return json_is_number(value);
    case BOOLEAN:
        return json_is_boolean(value);
    case OBJECT:
        return json_is_object(value);
    case LIST:
        return json_is_array(value);
    }
    return false;
}

int api_check_shape(struct api_turn *turn, const json_t *object)
{
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const json_t *value = find(object, members[i].path);

        if (value && !json_is_null(value) && !is_of(value, members[i].kind))
            return api_fail(turn, API_INVALID_PARAMETER, "%s: must be %s", members[i].path,
                            kind_names[members[i].kind]);
    }
    return 0;
}
