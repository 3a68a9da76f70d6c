/*
 * The image store: root images (and kernels), content-addressed, zstd at rest, raw in a cache.
 *
 * Layout below the store's directory:
 *   objects/sha256/<hex>.mfi   the image at rest: zstd frames, index, checksums (image_format.h)
 *   manifests/<name>.json      name → digest, kind, architecture, sizes, what it was made of
 *   cache/<hex>                the decompressed image, made on first use: what VMs map
 * Writers make a temporary name, fsync, rename: nothing partial is ever visible.
 *
 * Trust: files below objects/ and manifests/ may be truncated, altered or made by an attacker.
 * Threads: a store may be used by one thread at a time; several processes may share a directory.
 */
#ifndef MAYFLY_IMAGE_STORE_H
#define MAYFLY_IMAGE_STORE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { IMAGE_DIGEST_HEX = 64, IMAGE_NAME_MAX = 64, IMAGE_MADE_OF_MAX = 127 };

/* IMAGE_MEMORY: a snapshot's pages (snapshot/), in the same form at rest; never in this store. */
enum image_kind { IMAGE_ROOT, IMAGE_KERNEL, IMAGE_MEMORY };

struct image_info {
    char name[IMAGE_NAME_MAX + 1];
    char digest[IMAGE_DIGEST_HEX + 1];     /* SHA-256 of the file at rest, hex */
    char raw_digest[IMAGE_DIGEST_HEX + 1]; /* SHA-256 of the decompressed content, hex */
    enum image_kind kind;
    char architecture[16];               /* "x86_64" */
    char runtime[32];                    /* what the agent in it can run: "python3.11", "" */
    uint64_t raw_bytes;                  /* decompressed */
    uint64_t stored_bytes;               /* at rest */
    int64_t created_s;                   /* Unix time */
    char made_of[IMAGE_MADE_OF_MAX + 1]; /* "recipe base <digest of all inputs>", … or "" */
};

/* Called from the thread that called in, some ten times a second at most. May be NULL. */
typedef void image_progress(void *opaque, const char *what, uint64_t done_bytes,
                            uint64_t total_bytes);

struct image_store;

int image_store_open(const char *directory, struct image_store **ret_store, struct error *err);
void image_store_close(struct image_store *store);
void image_store_on_progress(struct image_store *store, image_progress *progress, void *opaque);

/*
 * image_store_set_cancel - long calls end with -EINTR, leaving nothing, soon after *@cancelled is
 * not 0. What a signal handler sets; borrowed while the store is open. NULL: none.
 */
void image_store_set_cancel(struct image_store *store, const volatile sig_atomic_t *cancelled);

/*
 * image_store_add - compress the raw file at @path (an EROFS image or an ELF kernel) into the store
 * under info->name (kind, architecture, runtime and made_of are taken from @info as well; an
 * architecture "" means x86_64). An older image of
 * that name stays as an unnamed object until removed. Fills the rest of *info.
 * Errors: -EINVAL for a name outside [a-z0-9][a-z0-9._-]{0,63}, -EBADMSG for content of the wrong
 * kind or architecture, -ENOSPC and the like with nothing left behind.
 */
int image_store_add(struct image_store *store, const char *path, struct image_info *info,
                    struct error *err);

/* image_store_find - by name, or by a unique prefix of at least 8 digits of the digest. -ENOENT. */
int image_store_find(struct image_store *store, const char *name, struct image_info *ret_info,
                     struct error *err);

/* image_store_list - sorted by name; *ret_list is owned (free()). */
int image_store_list(struct image_store *store, struct image_info **ret_list, size_t *ret_n,
                     struct error *err);

/*
 * image_store_raw - the path of the decompressed image, made now on all cores if it is not cached.
 * Digests of all frames and the whole are checked while it is made; -EBADMSG names what is wrong.
 * *ret_path is owned (free()). @ret_decompress_us: time spent, 0 when it was cached. May be NULL.
 */
int image_store_raw(struct image_store *store, const struct image_info *info, char **ret_path,
                    uint64_t *ret_decompress_us, struct error *err);

/* image_store_verify - reads and checks everything of an image; -EBADMSG names what is wrong. */
int image_store_verify(struct image_store *store, const struct image_info *info, struct error *err);

/* image_store_remove - the name, its object if no other name has it, and the cached copy. */
int image_store_remove(struct image_store *store, const char *name, struct error *err);

#endif
