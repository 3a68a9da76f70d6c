/*
 * A function's settings from JSON. What Lambda has and this host has not (VPC, layers, containers,
 * …) is refused where a client asks for it, and passed over where it is there but empty, as tools
 * send it.
 */
#include "handle_settings.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

enum { EMPTY_DEPTH = 4 };

/* Nothing but empty texts, lists and objects in it? */
static bool is_empty(json_t *value, int depth)
{
    const char *name;
    json_t *each;

    if (depth == 0)
        return false;
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_STRING:
        return json_string_length(value) == 0;
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        json_object_foreach(value, name, each)
        {
            if (!is_empty(each, depth - 1))
                return false;
        }
        return true;
    default:
        return false;
    }
}

static int refuse_unsupported(struct api_turn *turn, const json_t *object)
{
    static const char *const members[] = {"VpcConfig",
                                          "Layers",
                                          "FileSystemConfigs",
                                          "ImageConfig",
                                          "KMSKeyArn",
                                          "CodeSigningConfigArn",
                                          "CapacityProviderConfig",
                                          "DurableConfig",
                                          "TenancyConfig"};

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        json_t *value = json_object_get(object, members[i]);

        if (value && !is_empty(value, EMPTY_DEPTH))
            return api_fail(turn, API_INVALID_PARAMETER, "%s: this host does not support it",
                            members[i]);
    }
    return 0;
}

int settings_check_architecture(struct api_turn *turn, const json_t *object)
{
    const json_t *architectures = json_object_get(object, "Architectures");

    if (!architectures || json_is_null(architectures))
        return 0;
    const char *first = json_string_value(json_array_get(architectures, 0));
    if (json_array_size(architectures) != 1 || !first || strcmp(first, "x86_64") != 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "Architectures: must be [\"x86_64\"] on this host");
    return 0;
}

/* PackageType, Architectures, LoggingConfig: one value each is possible here. */
static int check_fixed(struct api_turn *turn, const json_t *object)
{
    static const char log_groups[] = "/aws/lambda/";
    const char *package = "Zip", *format = "Text", *group = log_groups;
    const json_t *logging = NULL;

    if (api_take_text(turn, object, "PackageType", &package) < 0)
        return -1;
    if (strcmp(package, "Zip") != 0)
        return api_fail(turn, API_INVALID_PARAMETER, "PackageType: must be Zip, not '%.40s'",
                        package);
    if (settings_check_architecture(turn, object) < 0 ||
        api_take_object(turn, object, "LoggingConfig", &logging) < 0 ||
        (logging && api_take_text(turn, logging, "LogFormat", &format) < 0) ||
        (logging && api_take_text(turn, logging, "LogGroup", &group) < 0))
        return -1;
    if (strcmp(format, "Text") != 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "LoggingConfig: LogFormat must be Text on this host, not '%.40s'", format);
    if (*group && strncmp(group, log_groups, strlen(log_groups)) != 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "LoggingConfig: on this host, a function's LogGroup is %s and its name",
                        log_groups);
    return 0;
}

static int read_texts(struct api_turn *turn, const json_t *object,
                      struct function_settings *settings)
{
    const struct {
        const char *member;
        const char **to;
        uint32_t bit;
    } texts[] = {{"Runtime", &settings->runtime, SETS_RUNTIME},
                 {"Handler", &settings->handler, SETS_HANDLER},
                 {"Role", &settings->role, SETS_ROLE},
                 {"Description", &settings->description, SETS_DESCRIPTION}};

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        int r = api_take_text(turn, object, texts[i].member, texts[i].to);

        if (r < 0)
            return -1;
        settings->members |= r ? texts[i].bit : 0;
    }
    return 0;
}

static int read_numbers(struct api_turn *turn, const json_t *object,
                        struct function_settings *settings)
{
    const json_t *storage = NULL;
    int timeout = api_take_integer(turn, object, "Timeout", &settings->timeout_s);
    int memory =
        timeout < 0 ? -1 : api_take_integer(turn, object, "MemorySize", &settings->memory_mib);

    if (memory < 0 || api_take_object(turn, object, "EphemeralStorage", &storage) < 0)
        return -1;
    settings->members |= timeout ? SETS_TIMEOUT : 0;
    settings->members |= memory ? SETS_MEMORY : 0;
    if (storage) {
        int r = api_take_integer(turn, storage, "Size", &settings->tmp_mib);

        if (r < 0)
            return -1;
        if (r == 0)
            return api_fail(turn, API_INVALID_PARAMETER, "EphemeralStorage: it must have a Size");
        settings->members |= SETS_TMP;
    }
    return 0;
}

static int read_objects(struct api_turn *turn, const json_t *object, struct settings_input *input)
{
    struct function_settings *settings = &input->settings;
    const json_t *environment = NULL, *dead_letter = NULL, *tracing = NULL;
    const char *mode = "PassThrough";

    if (api_take_object(turn, object, "Environment", &environment) < 0 ||
        api_take_object(turn, object, "DeadLetterConfig", &dead_letter) < 0 ||
        api_take_object(turn, object, "TracingConfig", &tracing) < 0)
        return -1;
    if (environment) {
        if (api_take_pairs(turn, environment, "Variables", &input->environment,
                           &settings->n_environment) < 0)
            return -1;
        settings->environment = input->environment;
        settings->members |= SETS_ENVIRONMENT;
    }
    if (dead_letter) {
        if (api_take_text(turn, dead_letter, "TargetArn", &settings->dead_letter) < 0)
            return -1;
        settings->members |= SETS_DEAD_LETTER;
    }
    if (tracing) {
        if (api_take_text(turn, tracing, "Mode", &mode) < 0)
            return -1;
        if (strcmp(mode, "Active") != 0 && strcmp(mode, "PassThrough") != 0)
            return api_fail(turn, API_INVALID_PARAMETER,
                            "TracingConfig: Mode must be Active or PassThrough");
        settings->tracing = strcmp(mode, "Active") == 0 ? TRACING_ACTIVE : TRACING_PASS_THROUGH;
        settings->members |= SETS_TRACING;
    }
    return 0;
}

int settings_read(struct api_turn *turn, const json_t *object, struct settings_input *ret_input)
{
    struct settings_input input = {.environment = NULL};

    if (refuse_unsupported(turn, object) < 0 || check_fixed(turn, object) < 0 ||
        read_texts(turn, object, &input.settings) < 0 ||
        read_numbers(turn, object, &input.settings) < 0 || read_objects(turn, object, &input) < 0) {
        settings_input_done(&input);
        return -1;
    }
    *ret_input = input;
    return 0;
}

void settings_input_done(struct settings_input *input)
{
    free(input->environment);
    input->environment = NULL;
}
