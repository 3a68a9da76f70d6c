/* What the snapshot tests share: a memory that a VM might have, and snapshots of it. */
#ifndef MAYFLY_TESTS_SNAPSHOT_FIXTURE_H
#define MAYFLY_TESTS_SNAPSHOT_FIXTURE_H

#include "snapshot/snapshot_store.h"

/* A store in a directory of its own, and the memory of a VM as it is now. */
struct snapshot_world {
    char directory[64]; /* removed by snapshot_world_free() */
    char path[128];     /* the store's */
    struct snapshot_store *store;
    uint32_t memory_mib;
    uint8_t *memory; /* owned */
    uint8_t *before; /* owned: as it was at the last snapshot_world_write() */
};

struct snapshot_world *snapshot_world_new(uint32_t memory_mib);
void snapshot_world_free(struct snapshot_world *world);

/* snapshot_world_fill - pages [first, first + n): half text, half noise; different for each seed.
 */
void snapshot_world_fill(struct snapshot_world *world, uint32_t first, uint32_t n, unsigned seed);
void snapshot_world_clear(struct snapshot_world *world, uint32_t first, uint32_t n);

/* snapshot_world_forget - what was before: the next snapshot is told that every page changed. */
void snapshot_world_forget(struct snapshot_world *world);

/* snapshot_world_about - all that a caller says of a snapshot. @parent may be NULL. */
struct snapshot_manifest snapshot_world_about(const struct snapshot_world *world,
                                              enum snapshot_level level, const char *name,
                                              const struct snapshot_manifest *parent);

/* snapshot_world_memfd - the memory as a sparse file; pages of zeroes are holes. */
int snapshot_world_memfd(const struct snapshot_world *world);

/* snapshot_world_changed - pages that are not as before, and a few more that are. */
struct snapshot_extents snapshot_world_changed(const struct snapshot_world *world);

/*
 * snapshot_world_try - take a snapshot, as a host would. snapshot_world_write - the same, and fail
 * the test if that fails; the memory of now becomes that of before.
 */
int snapshot_world_try(struct snapshot_world *world, const struct snapshot_manifest *about,
                       struct snapshot_manifest *ret_manifest, struct error *err);
struct snapshot_manifest snapshot_world_write(struct snapshot_world *world,
                                              enum snapshot_level level, const char *name,
                                              const struct snapshot_manifest *parent);

/* snapshot_world_three - base, runtime and function, the memory changed in between. */
void snapshot_world_three(struct snapshot_world *world, struct snapshot_manifest levels[3]);

/* snapshot_world_assert_flat - flattening gives what the memory was when it was @expected. */
void snapshot_world_assert_flat(struct snapshot_world *world,
                                const struct snapshot_manifest *manifest, const uint8_t *expected);

/* snapshot_world_count - entries of <store>/<below>, temporary ones too. */
unsigned snapshot_world_count(const struct snapshot_world *world, const char *below);

/* snapshot_world_file - the path of a snapshot's file. */
void snapshot_world_file(const struct snapshot_world *world, const char *id, const char *file,
                         char path[256]);

/*
 * snapshot_world_reseal - the snapshot @id's files have been changed: give it a manifest that fits
 * them, as an attacker would, with @field set to @value if @field is not NULL (a json_t, stolen).
 * The snapshot moves to @ret_id, and its name with it.
 */
void snapshot_world_reseal(struct snapshot_world *world, const char *id, const char *field,
                           void *value, char ret_id[SNAPSHOT_ID_HEX + 1]);

#endif
