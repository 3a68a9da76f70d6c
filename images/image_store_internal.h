/* Between image_store.c and image_catalog.c: what an open store is. Not for other modules. */
#ifndef MAYFLY_IMAGES_IMAGE_STORE_INTERNAL_H
#define MAYFLY_IMAGES_IMAGE_STORE_INTERNAL_H

#include "images/image_codec.h"
#include "images/image_store.h"

struct image_store {
    char *directory;                        /* owned */
    int objects_fd, manifests_fd, cache_fd; /* owned directories */
    struct image_watch watch;               /* what it points to is borrowed from the caller */
};

/*
 * image_store_digest_is_named - does any name stand for @digest? A manifest that cannot be read
 * counts as one that does: nothing is removed on a guess.
 */
int image_store_digest_is_named(const struct image_store *store, const char *digest,
                                bool *ret_named, struct error *err);

#endif
