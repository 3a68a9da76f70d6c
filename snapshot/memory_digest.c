/* The digest of a flattened memory: see memory_digest.h. */
#include "snapshot/memory_digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_workers.h"

int memory_digest_init(struct memory_digest *digest, uint32_t n_chunks)
{
    AUTO_FREE uint8_t *zeroes = calloc(1, MEMORY_CHUNK_BYTES);
    uint8_t of_zeroes[SHA256_BYTES];

    *digest = (struct memory_digest){.n_chunks = n_chunks};
    digest->chunks = calloc(n_chunks, sizeof(*digest->chunks));
    if (!zeroes || !digest->chunks || sha256_of(zeroes, MEMORY_CHUNK_BYTES, of_zeroes) < 0) {
        memory_digest_done(digest);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n_chunks; i++)
        memcpy(digest->chunks[i], of_zeroes, SHA256_BYTES);
    return 0;
}

void memory_digest_done(struct memory_digest *digest)
{
    free(digest->chunks);
    digest->chunks = NULL;
}

void memory_digest_set(struct memory_digest *digest, uint32_t chunk, struct sha256 *sha256,
                       const void *data)
{
    sha256_add(sha256, data, MEMORY_CHUNK_BYTES);
    sha256_take(sha256, digest->chunks[chunk]);
}

int memory_digest_take(const struct memory_digest *digest, char ret_hex[2 * SHA256_BYTES + 1])
{
    uint8_t whole[SHA256_BYTES];
    int r = sha256_of(digest->chunks, digest->n_chunks * (size_t)SHA256_BYTES, whole);

    if (r == 0)
        sha256_hex(whole, ret_hex);
    return r;
}

bool memory_chunk_has_data(int fd, uint64_t offset_bytes, uint64_t len_bytes)
{
    off_t data = lseek(fd, (off_t)offset_bytes, SEEK_DATA);

    /* ENXIO: nothing but a hole up to the end of the file. Any other error shows when reading. */
    return data < 0 ? errno != ENXIO : (uint64_t)data < offset_bytes + len_bytes;
}

/* --- of a file ------------------------------------------------------------------------------- */

struct job {
    int fd;
    const char *what;
    struct memory_digest *digest;
};

/* One worker's own. */
struct hasher {
    struct sha256 *sha256;
    uint8_t chunk[MEMORY_CHUNK_BYTES];
};

static void hasher_free(void *opaque)
{
    struct hasher *own = opaque;

    sha256_free(own->sha256);
    free(own);
}

static void *hasher_new(void *opaque)
{
    struct hasher *own = malloc(sizeof(*own));

    (void)opaque;
    if (!own)
        return NULL;
    own->sha256 = sha256_new();
    if (own->sha256)
        return own;
    free(own);
    return NULL;
}

static int hash_chunk(struct workers *workers, void *opaque, void *state, uint32_t i,
                      struct error *err)
{
    const struct job *job = opaque;
    struct hasher *own = state;
    const uint64_t offset = (uint64_t)i * MEMORY_CHUNK_BYTES;

    (void)workers;
    if (!memory_chunk_has_data(job->fd, offset, MEMORY_CHUNK_BYTES))
        return 0;
    int r = fd_pread_all(job->fd, own->chunk, MEMORY_CHUNK_BYTES, (off_t)offset);
    if (r < 0)
        return error_set(err, -r, "read %s", job->what);
    memory_digest_set(job->digest, i, own->sha256, own->chunk);
    return 0;
}

int memory_digest_of_file(int fd, uint32_t n_chunks, const char *what,
                          char ret_hex[2 * SHA256_BYTES + 1], const struct image_watch *watch,
                          struct error *err)
{
    struct memory_digest digest;
    struct job job = {.fd = fd, .what = what, .digest = &digest};
    int r = memory_digest_init(&digest, n_chunks);

    if (r < 0)
        return error_set(err, -r, "check %s", what);
    r = workers_run(&(struct workers_job){.n_items = n_chunks,
                                          .begin = hasher_new,
                                          .end = hasher_free,
                                          .work = hash_chunk,
                                          .opaque = &job,
                                          .cancelled = watch ? watch->cancelled : NULL},
                    err);
    if (r == 0) {
        r = memory_digest_take(&digest, ret_hex);
        if (r < 0)
            error_set(err, -r, "check %s", what);
    }
    memory_digest_done(&digest);
    return r;
}
