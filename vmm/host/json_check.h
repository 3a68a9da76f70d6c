/* Is this JSON (RFC 8259)? Without building a tree: six megabytes of it may be an attack. */
#ifndef MAYFLY_HOST_JSON_CHECK_H
#define MAYFLY_HOST_JSON_CHECK_H

#include <stddef.h>

#include "common/error.h"

enum {
    JSON_CHECK_MAX_DEPTH = 1000, /* of arrays and objects in one another */
    JSON_TREE_MAX_VALUES = 20000
};

/*
 * json_check - exactly one JSON value, of any kind, in valid UTF-8, with white space around it.
 * Allocates nothing, takes time in proportion to @len_bytes. Any thread.
 * Returns 0, or -EBADMSG saying what is wrong in which line and column (both from 1, in bytes).
 */
int json_check(const void *data, size_t len_bytes, struct error *err);

/*
 * json_check_small - as json_check(), and -E2BIG for more than JSON_TREE_MAX_VALUES values and
 * names: before a tree is made of it, which takes up to eighty times its bytes.
 */
int json_check_small(const void *data, size_t len_bytes, struct error *err);

#endif
