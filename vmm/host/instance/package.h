/*
 * A function package: what a user ships, a directory or an archive (ZIP, tar), read once into a
 * checked, sorted, immutable list of entries with one digest over all of it.
 *
 * Trust: paths, types, links and sizes are an attacker's choice. Invariant: every entry's path is
 * relative and clean ("a/b", no ".", "..", empty parts), its parents are directories of the list,
 * and no chain of links in the package leads out of it.
 */
#ifndef MAYFLY_HOST_INSTANCE_PACKAGE_H
#define MAYFLY_HOST_INSTANCE_PACKAGE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    PACKAGE_MAX_ENTRIES = 100000,
    PACKAGE_MAX_PATH = 1024, /* characters; the agent refuses longer ones */
    PACKAGE_MAX_DEPTH = 64,
    PACKAGE_MAX_BYTES = 250 << 20,        /* unpacked, as in Lambda */
    PACKAGE_MAX_ARCHIVE_BYTES = 50 << 20, /* of an archive file, as in Lambda */
};

enum package_type { PACKAGE_FILE, PACKAGE_DIRECTORY, PACKAGE_LINK };

struct package_entry {
    char *path; /* owned by the package */
    enum package_type type;
    uint32_t mode;   /* permission bits, & 0777 */
    uint64_t offset; /* of the content (a link's: its target) in the package's store */
    uint64_t len_bytes;
};

struct package {
    struct package_entry *entries; /* owned; sorted by path, so parents come first */
    size_t n_entries;
    uint64_t total_bytes;
    char
        digest[65]; /* SHA-256 over types, modes, paths and contents, in hex: equal content, equal
                       digest, whatever it was packed in (an archive's implied directories: 0755) */
    int store;      /* owned: a memory file that holds the contents */
};

/*
 * package_open - read the directory or archive at @path.
 * Returns 0 with *ret_package owned; -EINVAL for what a package may not hold, -EFBIG for too much,
 * or what reading failed with; the message names the entry.
 */
int package_open(const char *path, struct package **ret_package, struct error *err);

/* package_read - @len_bytes of an entry's content at @offset_bytes within it. 0 or -errno. */
int package_read(const struct package *package, const struct package_entry *entry,
                 uint64_t offset_bytes, void *to, size_t len_bytes);

/* package_find - the entry of exactly that path, or NULL. Borrowed. */
const struct package_entry *package_find(const struct package *package, const char *path);

void package_free(struct package *package);

#endif
