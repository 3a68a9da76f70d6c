/*
 * The function's environment. Process: mayfly-agent. Names and values come from the function's
 * owner; they reach execve(2) and nothing else.
 * Source: AWS Lambda Developer Guide, "Defined runtime environment variables".
 */
#include "guest-agent/environment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest-agent/runtime.h"

/* As in Lambda: layers first. */
#define NODE_PATH                                                                                  \
    "/opt/nodejs/node18/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules:"          \
    "/var/runtime:" AGENT_TASK_DIR

static bool is_set(const struct environment *environment, const char *name, size_t name_len)
{
    for (size_t i = 0; i < environment->n; i++)
        if (strncmp(environment->list[i], name, name_len) == 0 &&
            environment->list[i][name_len] == '=')
            return true;
    return false;
}

void environment_set(struct environment *environment, const char *name, const char *value)
{
    size_t name_len = strlen(name);
    size_t value_len = strlen(value);
    size_t room = sizeof(environment->bytes) - environment->used_bytes;
    char *text = environment->bytes + environment->used_bytes;

    if (is_set(environment, name, name_len))
        return;
    if (environment->n == ENVIRONMENT_MAX_VARIABLES || name_len >= room ||
        value_len >= room - name_len - 1) {
        environment->is_full = true;
        return;
    }
    memcpy(text, name, name_len);
    text[name_len] = '=';
    memcpy(text + name_len + 1, value, value_len + 1);
    environment->list[environment->n++] = text;
    environment->list[environment->n] = NULL;
    environment->used_bytes += name_len + value_len + 2;
}

static void set_reserved(struct environment *environment, const Mayfly__Agent__Prepare *prepare,
                         const struct runtime_kind *kind)
{
    char memory[16];

    snprintf(memory, sizeof(memory), "%u", prepare->memory_mib);
    environment_set(environment, "_HANDLER", prepare->handler);
    environment_set(environment, "AWS_LAMBDA_FUNCTION_NAME", prepare->function_name);
    environment_set(environment, "AWS_LAMBDA_FUNCTION_VERSION", prepare->function_version);
    environment_set(environment, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory);
    environment_set(environment, "AWS_LAMBDA_LOG_GROUP_NAME", prepare->log_group);
    environment_set(environment, "AWS_LAMBDA_LOG_STREAM_NAME", prepare->log_stream);
    environment_set(environment, "AWS_LAMBDA_INITIALIZATION_TYPE",
                    prepare->initialization_type[0] ? prepare->initialization_type : "on-demand");
    environment_set(environment, "LAMBDA_TASK_ROOT", AGENT_TASK_DIR);
    environment_set(environment, "LAMBDA_RUNTIME_DIR", kind->dir);
    if (kind->execution_environment)
        environment_set(environment, "AWS_EXECUTION_ENV", kind->execution_environment);
    else
        environment_set(environment, "AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
}

static int set_own(struct environment *environment, const char *name, const char *value,
                   struct failure *failure)
{
    if (name[0] == '\0' || strchr(name, '='))
        return failure_say(failure, EINVAL, "'%.64s' cannot name an environment variable", name);
    environment_set(environment, name, value);
    return 0;
}

static void clear(struct environment *environment)
{
    environment->used_bytes = environment->n = 0;
    environment->is_full = false;
}

static int fullness(const struct environment *environment, struct failure *failure)
{
    if (environment->is_full)
        return failure_say(failure, E2BIG, "the environment is over %d bytes or %d variables",
                           ENVIRONMENT_MAX_BYTES, ENVIRONMENT_MAX_VARIABLES);
    return 0;
}

int environment_fill(struct environment *environment, const Mayfly__Agent__Prepare *prepare,
                     const struct runtime_kind *kind, struct failure *failure)
{
    bool is_python = kind->ops == &runtime_python;
    int result = 0;

    clear(environment);
    set_reserved(environment, prepare, kind);
    for (size_t i = 0; i < prepare->n_environment && result == 0; i++)
        result = set_own(environment, prepare->environment[i]->key, prepare->environment[i]->value,
                         failure);
    if (result < 0)
        return result;
    environment_set(environment, "TZ", ":UTC");
    environment_set(environment, "PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin");
    /* The guest has no locales: looking for one costs Python 30 system calls. The bootstrap takes
     * LC_ALL away again before the function sees it. */
    if (is_python && !is_set(environment, "LANG", 4) && !is_set(environment, "LC_ALL", 6) &&
        !is_set(environment, "LC_CTYPE", 8))
        environment_set(environment, "LC_ALL", "POSIX");
    environment_set(environment, "LANG", "en_US.UTF-8");
    if (is_python)
        environment_set(environment, "PYTHONPATH", AGENT_PYTHON_DIR);
    if (kind->ops == &runtime_nodejs)
        environment_set(environment, "NODE_PATH", NODE_PATH);
    return fullness(environment, failure);
}

void environment_fill_preload(struct environment *environment, const struct runtime_kind *kind)
{
    clear(environment);
    environment_set(environment, "LC_ALL", "POSIX");
    environment_set(environment, "LAMBDA_RUNTIME_DIR", kind->dir);
    if (kind->ops == &runtime_nodejs) /* node reads this one when it starts */
        environment_set(environment, "NODE_PATH", NODE_PATH);
    /* The loader reads this once, and functions with libraries of their own are still to come. */
    environment_set_library_path(environment);
}

int environment_fill_changes(struct environment *environment,
                             const Mayfly__Agent__Restored *restored, struct failure *failure)
{
    int result = 0;

    clear(environment);
    if (restored->log_stream[0])
        environment_set(environment, "AWS_LAMBDA_LOG_STREAM_NAME", restored->log_stream);
    if (restored->instance_id[0])
        environment_set(environment, "MAYFLY_INSTANCE_ID", restored->instance_id);
    for (size_t i = 0; i < restored->n_environment && result == 0; i++)
        result = set_own(environment, restored->environment[i]->key,
                         restored->environment[i]->value, failure);
    return result < 0 ? result : fullness(environment, failure);
}

void environment_set_library_path(struct environment *environment)
{
    environment_set(environment, "LD_LIBRARY_PATH",
                    "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:" AGENT_TASK_DIR
                    ":" AGENT_TASK_DIR "/lib:/opt/lib");
}
