/* Recipes: what a root image is made of, in YAML (images/recipes/, fields: images/README.md). */
#ifndef MAYFLY_IMAGES_IMAGE_RECIPE_H
#define MAYFLY_IMAGES_IMAGE_RECIPE_H

#include "common/error.h"

struct recipe_link {
    char *path, *target;
};

struct recipe_file {
    char *source; /* a file or directory below the source tree */
    char *path;   /* where it goes in the image */
};

struct recipe_python {
    char *interpreter; /* in the image */
    char **directories;
    unsigned n_directories;
};

/* All strings and arrays are owned by the recipe. Paths of the image are absolute, without "..". */
struct recipe {
    char *name;
    char *runtime; /* NULL: none */
    char *suite;   /* of Debian */
    char **packages;
    unsigned n_packages;
    char **delete; /* fnmatch patterns; '*' crosses '/'; a directory goes with all in it */
    unsigned n_delete;
    char **keep; /* exceptions from delete */
    unsigned n_keep;
    struct recipe_link *links;
    unsigned n_links;
    struct recipe_file *files;
    unsigned n_files;
    struct recipe_python *compile_python; /* NULL: nothing to compile */
};

/*
 * recipe_load - @path's recipe. -EINVAL names file, line and field of what is wrong.
 * *ret_recipe is owned: recipe_free().
 */
int recipe_load(const char *path, struct recipe **ret_recipe, struct error *err);

void recipe_free(struct recipe *recipe); /* takes NULL */

#endif
