/*
 * From a method and a path to a handler; and from what a client calls a function to its name.
 *
 * Trust: both are hostile. Invariants: a path is split at its raw slashes first and decoded then,
 * once, so that an encoded slash separates nothing; empty, "." and ".." segments match nothing.
 */
#ifndef MAYFLY_HOST_API_ROUTER_H
#define MAYFLY_HOST_API_ROUTER_H

#include <stddef.h>

#include "common/error.h"
#include "host/store/registry.h"

enum {
    ROUTE_MAX_VARIABLES = 2,
    ROUTE_VARIABLE_BYTES = 512, /* of a decoded path segment */
};

struct route {
    const char *method;
    const char *pattern; /* "/a/{Variable}/b"; "/a/{Rest*}" takes all that follows, raw */
    const void *target;  /* what the caller keeps with it */
};

struct route_match {
    const struct route *route;
    char variables[ROUTE_MAX_VARIABLES][ROUTE_VARIABLE_BYTES]; /* decoded, in order */
    size_t n_variables;
    const char *rest; /* of a pattern with '*': what follows its last '/', raw; borrowed */
    char allow[64];   /* with -EOPNOTSUPP: the methods that this path has: "GET, POST" */
};

/*
 * router_match - @path: raw. Returns 0; -ENOENT: no such path; -EOPNOTSUPP: not with this method;
 * -EINVAL: a variable is badly encoded or too long.
 */
int router_match(const struct route *routes, size_t n_routes, const char *method, const char *path,
                 struct route_match *ret_match);

/* What a client calls a function: a name, a partial or a full ARN, each with or without ":q". */
struct function_reference {
    char name[FUNCTION_NAME_MAX + 1];
    char qualifier[QUALIFIER_MAX + 1]; /* "" if none */
    char account_id[ACCOUNT_ID_BYTES]; /* "" if not said */
};

/*
 * function_reference_read - @text: decoded. Any partition and region are taken.
 * Returns 0 or -EINVAL: not of Lambda's pattern.
 * Source: FunctionName in the Lambda API reference.
 */
int function_reference_read(const char *text, struct function_reference *ret_reference);

/* Lambda's patterns of single names. */
bool function_name_is_valid(const char *name);
bool qualifier_is_valid(const char *qualifier); /* $LATEST, a number or an alias */
bool alias_name_is_valid(const char *name);

#endif
