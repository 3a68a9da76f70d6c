/* Which runtimes there are. Process: mayfly-agent; no state. */
#include <string.h>
#include <unistd.h>

#include "guest-agent/runtime.h"

static const struct runtime_kind kinds[] = {
    {.name = AGENT_PYTHON_RUNTIME,
     .ops = &runtime_python,
     .dir = AGENT_PYTHON_DIR,
     .bootstrap = AGENT_PYTHON_DIR "/bootstrap.py",
     .execution_environment = "AWS_Lambda_" AGENT_PYTHON_RUNTIME},
    {.name = AGENT_NODEJS_RUNTIME,
     .ops = &runtime_nodejs,
     .dir = AGENT_NODEJS_DIR,
     .bootstrap = AGENT_NODEJS_DIR "/bootstrap.js",
     .execution_environment = "AWS_Lambda_" AGENT_NODEJS_RUNTIME},
    {.name = AGENT_PROVIDED_RUNTIME, .ops = &runtime_api, .dir = "/var/runtime"},
};

enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static bool is_here(const struct runtime_kind *kind)
{
    return !kind->bootstrap || access(kind->bootstrap, R_OK) == 0;
}

const struct runtime_kind *runtime_kind_find(const char *name)
{
    for (const struct runtime_kind *kind = kinds; kind < kinds + KINDS; kind++)
        if (strcmp(kind->name, name) == 0)
            return is_here(kind) ? kind : NULL;
    return NULL;
}

const struct runtime_kind *runtime_kind_of_image(void)
{
    for (const struct runtime_kind *kind = kinds; kind < kinds + KINDS; kind++)
        if (kind->bootstrap && is_here(kind))
            return kind;
    return NULL;
}
