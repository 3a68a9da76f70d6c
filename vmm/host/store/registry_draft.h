/* A version as it is to be stored, between being asked for and being written. */
#ifndef MAYFLY_HOST_STORE_REGISTRY_DRAFT_H
#define MAYFLY_HOST_STORE_REGISTRY_DRAFT_H

#include "registry_internal.h"

/* Texts are borrowed from settings or the function it is made from; environment is owned. */
struct draft {
    const char *runtime, *handler, *role, *description, *dead_letter;
    const char *code_sha256;
    uint32_t timeout_s, memory_mib, tmp_mib;
    enum tracing_mode tracing;
    char *environment; /* see pairs_encode() */
    size_t environment_bytes;
    uint8_t content[CONTENT_BYTES]; /* after draft_seal() */
};

/* draft_from_defaults, draft_from_function - what is overlaid by draft_apply(). */
void draft_from_defaults(struct draft *draft);
int draft_from_function(struct draft *draft, const struct function *function, struct error *err);
int draft_apply(struct draft *draft, const struct function_settings *settings, struct error *err);

/* draft_seal - compute the content hash: equal for equal code and settings. */
int draft_seal(struct draft *draft, struct error *err);

void draft_done(struct draft *draft);

#endif
