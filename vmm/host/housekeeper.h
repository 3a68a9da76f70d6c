/*
 * What nobody needs any more goes: code that no version uses, snapshots of builds that were deleted
 * or replaced, levels whose image is gone, what the cache of flattened memories has over its limit,
 * files that killed processes left in the stores. And what was in use when the last daemon ended is
 * opened again at the start.
 *
 * One thread: at its start, then every interval, and soon after housekeeper_wake(). It never races
 * a build or a restore: a build's row is there before its snapshot is, so a snapshot without one is
 * of a build that is gone for good; what is open stays readable.
 *
 * Process: mayflyd. Trust: the stores' files may be damaged, their names may be anybody's: only
 * snapshots with this registry's own label are collected.
 */
#ifndef MAYFLY_HOST_HOUSEKEEPER_H
#define MAYFLY_HOST_HOUSEKEEPER_H

#include "pool/instance_pool.h"
#include "store/registry.h"

struct housekeeper;

struct housekeeper_options {
    struct registry *registry;  /* borrowed, as the pool */
    struct instance_pool *pool; /* shut down before housekeeper_stop() */
    const char *state;          /* directory: images/, snapshots/, recent; copied */
    uint64_t cache_bytes;       /* of flattened memories; 0: the store's default */
    uint64_t interval_ms;       /* 0: 600 s */
    uint64_t settle_ms;         /* from a wake to the work, so that many are one; 0: 3 s */
    /* What went wrong, once each time that it changes; one line. */
    void (*failed)(const char *request_id, const char *text);
};

struct housekeeper_counts {
    uint64_t passes; /* ended */
    uint64_t snapshots, freed_bytes;
    uint32_t opened; /* at the start, of those recently used */
};

int housekeeper_new(const struct housekeeper_options *options, struct housekeeper **ret_housekeeper,
                    struct error *err);

/* housekeeper_wake - something was deleted or replaced. Never blocks for long. */
void housekeeper_wake(struct housekeeper *housekeeper);

void housekeeper_get_counts(struct housekeeper *housekeeper, struct housekeeper_counts *ret_counts);

/* housekeeper_stop - ends the thread, which notes what was in use. _free - afterwards. Both take
 * NULL. */
void housekeeper_stop(struct housekeeper *housekeeper);
void housekeeper_free(struct housekeeper *housekeeper);

#endif
