/*
 * What a failed build means: tried again, or Failed, and what its function's owner is told. Pure.
 *
 * Invariant: a reason names no path of the host; the log has the error itself.
 */
#ifndef MAYFLY_HOST_BUILD_FAILURE_H
#define MAYFLY_HOST_BUILD_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/registry.h"

enum build_step {
    BUILD_STEP_IMAGES, /* runtime_check_images() */
    BUILD_STEP_CODE,   /* unpacking the function's code */
    BUILD_STEP_MAKE,   /* all else */
};

enum {
    BUILD_TRIES_MAX = 30,      /* some 25 minutes */
    BUILD_CRASH_TRIES_MAX = 3, /* of one whose microVM dies: that may be the function's doing */
    BUILD_REASON_BYTES = 640,
};

struct build_judgement {
    bool is_final;     /* Failed; else it is tried again… */
    uint64_t delay_ms; /* …after this */
    const char *code;  /* static */
    char reason[BUILD_REASON_BYTES];
};

/* build_judge - of @err (negative @r) in @step, after @tries that were put off before. */
void build_judge(enum build_step step, int r, const struct error *err, uint32_t tries,
                 struct build_judgement *ret_judgement);

#endif
