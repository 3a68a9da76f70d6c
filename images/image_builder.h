/* Make root images: from a recipe of Debian packages, or from a directory or tar archive. */
#ifndef MAYFLY_IMAGES_IMAGE_BUILDER_H
#define MAYFLY_IMAGES_IMAGE_BUILDER_H

#include <stdbool.h>

#include "common/error.h"
#include "images/image_codec.h"
#include "images/image_store.h"

struct image_build {
    struct image_store *store;       /* where the image goes */
    const char *store_directory;     /* logs go below it: log/<name>.log */
    const char *agent;               /* the static mayfly-agent to put in */
    const char *source;              /* recipes name files relative to this directory */
    const char *name;                /* NULL: the recipe's own; an import must have one */
    const char *runtime;             /* of an import; "": none */
    bool if_changed;                 /* a build: not if the store has it from the same inputs */
    const struct image_watch *watch; /* may be NULL */
};

/*
 * image_build_recipe - *ret_info says what is in the store now; *ret_built whether it was made now.
 * image_build_import - @path: a directory, or a tar archive.
 * Both need root: packages and archives hold files of several owners. Network: what the host's apt
 * is set up with. Temporary files ($TMPDIR, else /var/tmp) are gone afterwards, come what may.
 * The same inputs give the same image, bit for bit.
 */
int image_build_recipe(const struct image_build *build, const char *path,
                       struct image_info *ret_info, bool *ret_built, struct error *err);
int image_build_import(const struct image_build *build, const char *path,
                       struct image_info *ret_info, struct error *err);

#endif
