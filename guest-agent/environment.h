/* The environment of the function's process: what Lambda sets, and the function's own variables. */
#ifndef MAYFLY_AGENT_ENVIRONMENT_H
#define MAYFLY_AGENT_ENVIRONMENT_H

#include <stdbool.h>

#include "agent.pb-c.h"
#include "guest-agent/agent.h"

struct runtime_kind; /* runtime.h */

enum { ENVIRONMENT_MAX_BYTES = 64 << 10, ENVIRONMENT_MAX_VARIABLES = 1024 };

struct environment {
    size_t used_bytes, n;
    bool is_full;
    char *list[ENVIRONMENT_MAX_VARIABLES + 1]; /* for execve(2) */
    char bytes[ENVIRONMENT_MAX_BYTES];
};

/*
 * environment_set - unless @name is set already, which stays as it is: the first one wins.
 * What does not fit any more sets is_full.
 */
void environment_set(struct environment *environment, const char *name, const char *value);

/*
 * environment_fill - everything that @prepare says: first the names that Lambda reserves, which the
 * function cannot change, then its own, then the defaults that it can. 0, or -EINVAL, -E2BIG.
 */
int environment_fill(struct environment *environment, const Mayfly__Agent__Prepare *prepare,
                     const struct runtime_kind *kind, struct failure *failure);

/* environment_fill_preload - what an interpreter that has no function yet is started with. */
void environment_fill_preload(struct environment *environment, const struct runtime_kind *kind);

/*
 * environment_fill_changes - the variables that @restored sets; bytes[] then holds them one after
 * the other, each with a 0 after it. Returns as above.
 */
int environment_fill_changes(struct environment *environment,
                             const Mayfly__Agent__Restored *restored, struct failure *failure);

/* environment_set_library_path - where the loader looks besides the system's places, as in Lambda.
 */
void environment_set_library_path(struct environment *environment);

#endif
