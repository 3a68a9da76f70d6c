/*
 * <state>/recent: the builds that were used last, one number a line, the latest first; so that a
 * daemon that starts again knows what will be asked for. A hint: where it is lost, cut short or
 * wrong, the first event of a function opens its snapshot as ever.
 */
#ifndef MAYFLY_HOST_RECENT_BUILDS_H
#define MAYFLY_HOST_RECENT_BUILDS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { RECENT_MAX = 64 };

struct recent_builds {
    uint64_t ids[RECENT_MAX];
    size_t n;
};

/* recent_builds_read - 0 with none where there is no file. Lines that are no numbers end it. */
int recent_builds_read(const char *state, struct recent_builds *ret_recent, struct error *err);

/* recent_builds_write - replaces the file at once, or leaves it. */
int recent_builds_write(const char *state, const struct recent_builds *recent, struct error *err);

#endif
