/* mayfly.yaml: see deploy_file.h. */
#include "deploy_file.h"

#include <stdio.h>
#include <string.h>

#include "common/yaml_load.h"

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
#define TEXT(member, flags, max)                                                                   \
    CYAML_FIELD_STRING_PTR(#member, flags, struct deploy_function, member, 1, max)
#define NUMBER(member)                                                                             \
    CYAML_FIELD_UINT(#member, CYAML_FLAG_OPTIONAL, struct deploy_function, member)

static const cyaml_schema_value_t variable_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 2, 8192)};

static const cyaml_schema_field_t function_fields[] = {
    TEXT(name, CYAML_FLAG_POINTER, 256),
    TEXT(runtime, CYAML_FLAG_POINTER, 64),
    TEXT(handler, CYAML_FLAG_POINTER, 128),
    TEXT(code, OPTIONAL, 4095),
    TEXT(description, OPTIONAL, 1024),
    TEXT(role, OPTIONAL, 512),
    NUMBER(memory),
    NUMBER(timeout),
    NUMBER(tmp),
    CYAML_FIELD_SEQUENCE_COUNT("environment", OPTIONAL, struct deploy_function, environment,
                               n_environment, &variable_entry, 0, 1000),
    CYAML_FIELD_INT_PTR("concurrency", OPTIONAL, struct deploy_function, concurrency),
    CYAML_FIELD_END};
static const cyaml_schema_value_t function_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct deploy_function, function_fields)};

static const cyaml_schema_field_t file_fields[] = {
    CYAML_FIELD_SEQUENCE_COUNT("functions", CYAML_FLAG_POINTER, struct deploy_file, functions,
                               n_functions, &function_entry, 1, 1000),
    CYAML_FIELD_END};
static const cyaml_schema_value_t file_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct deploy_file, file_fields)};

static int check(const struct yaml_file *yaml, const struct deploy_file *file, struct error *err)
{
    char field[64];

    for (unsigned i = 0; i < file->n_functions; i++) {
        const struct deploy_function *function = &file->functions[i];

        for (unsigned k = 0; k < i; k++) {
            snprintf(field, sizeof(field), "functions.%u.name", i);
            if (strcmp(file->functions[k].name, function->name) == 0)
                return yaml_wrong(yaml, err, field, "'%s' is there twice", function->name);
        }
        for (unsigned k = 0; k < function->n_environment; k++) {
            const char *equals = strchr(function->environment[k], '=');

            snprintf(field, sizeof(field), "functions.%u.environment.%u", i, k);
            if (!equals || equals == function->environment[k])
                return yaml_wrong(yaml, err, field, "must be NAME=value");
        }
        snprintf(field, sizeof(field), "functions.%u.concurrency", i);
        if (function->concurrency && *function->concurrency < 0)
            return yaml_wrong(yaml, err, field, "must be 0 or more");
    }
    return 0;
}

int deploy_file_load(const char *path, struct deploy_file **ret_file, struct error *err)
{
    struct yaml_file yaml;
    void *value = NULL;
    int r = yaml_value_load(path, &file_schema, &value, &yaml, err);

    if (r < 0)
        return r;
    r = check(&yaml, value, err);
    yaml_file_done(&yaml);
    if (r < 0) {
        deploy_file_free(value);
        return r;
    }
    *ret_file = value;
    return 0;
}

void deploy_file_free(struct deploy_file *file)
{
    yaml_value_free(&file_schema, file);
}
