/*
 * <id>/manifest.json: what a snapshot is, what it was made from, and the digests of its parts. The
 * SHA-256 of this file's bytes is the snapshot's id, so whoever knows the id can check it all.
 */
#ifndef MAYFLY_SNAPSHOT_MANIFEST_H
#define MAYFLY_SNAPSHOT_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    SNAPSHOT_FORMAT_VERSION = 1,
    SNAPSHOT_ID_HEX = 64, /* SHA-256 */
    SNAPSHOT_NAME_MAX = 64,
    SNAPSHOT_DEPTH_MAX = 4, /* snapshots from a leaf to its root, both included */
    SNAPSHOT_ROOTS_MAX = 4,
    SNAPSHOT_VCPUS_MAX = 64,
    SNAPSHOT_FEATURES_MAX = 64,
    SNAPSHOT_STATE_BYTES_MAX = 10000000,
    SNAPSHOT_MANIFEST_BYTES_MAX = 65536,
};

/* From the root of a tree to its leaves: a child stands no higher than its parent. */
enum snapshot_level { SNAPSHOT_BASE, SNAPSHOT_RUNTIME, SNAPSHOT_FUNCTION };

/* The CPU that a snapshot was taken on. The caller makes and compares it; here it is data. */
struct snapshot_cpu {
    char vendor[16];        /* "GenuineIntel" */
    char template_name[32]; /* portable CPU template it was taken with; "": the host's own CPU */
    uint32_t family, model, stepping;
    uint32_t xsave_bytes; /* of the XSAVE area with all that is enabled */
    uint32_t n_features;
    uint32_t features[SNAPSHOT_FEATURES_MAX]; /* CPUID words, in an order of the caller's */
};

/* One file of a snapshot. */
struct snapshot_part {
    uint64_t bytes;
    char sha256[SNAPSHOT_ID_HEX + 1];
};

struct snapshot_manifest {
    char id[SNAPSHOT_ID_HEX + 1]; /* not in the file: its digest */

    /* Said by whoever makes a snapshot. Digests are SHA-256 in hex; "" where there is none. */
    enum snapshot_level level;
    char name[SNAPSHOT_NAME_MAX + 1];
    char parent[SNAPSHOT_ID_HEX + 1]; /* id; "": none */
    uint32_t memory_mib, vcpus;
    char kernel_digest[SNAPSHOT_ID_HEX + 1];
    uint32_t n_roots;
    char root_digests[SNAPSHOT_ROOTS_MAX][SNAPSHOT_ID_HEX + 1];
    char runtime[32];                               /* "python3.11"; "": none */
    char function_digest[SNAPSHOT_ID_HEX + 1];      /* of its content: a cache key */
    char configuration_digest[SNAPSHOT_ID_HEX + 1]; /* of what it was configured with */
    struct snapshot_cpu cpu;
    int64_t created_s; /* Unix time; 0 when written: now */
    char mayfly_version[32];

    /* Filled by the writer. */
    struct snapshot_part state;  /* state.pb */
    struct snapshot_part pages;  /* memory.pages: which pages differ from the parent's */
    struct snapshot_part memory; /* memory.mfs: what is in them; 0 bytes: there is no such file */
    char memory_header_sha256[SNAPSHOT_ID_HEX + 1]; /* its header, which vouches for the rest */
    char flat_sha256[SNAPSHOT_ID_HEX + 1];          /* memory_digest() of the flattened memory */
    uint32_t data_pages;                            /* in memory.mfs */
    uint32_t zero_pages;                            /* zero here, not so in the parent */
};

const char *snapshot_level_name(enum snapshot_level level); /* "base", "runtime", "function" */

/*
 * snapshot_manifest_check - is every field within its bounds, and do they fit together? Returns
 * NULL, or the name of the field that is wrong. Of the writer's own fields too if @is_whole.
 */
const char *snapshot_manifest_check(const struct snapshot_manifest *manifest, bool is_whole);

/*
 * snapshot_manifest_encode - the file's bytes; fills manifest->id. *ret_text is owned, 0 after it.
 * The same manifest always gives the same bytes.
 */
int snapshot_manifest_encode(struct snapshot_manifest *manifest, char **ret_text, size_t *ret_len,
                             struct error *err);

/*
 * snapshot_manifest_decode - @text is hostile. First its digest must be @id, then its version ours,
 * then every field right: else -EBADMSG, saying which is not.
 */
int snapshot_manifest_decode(const char *text, size_t len, const char *id,
                             struct snapshot_manifest *ret_manifest, struct error *err);

#endif
