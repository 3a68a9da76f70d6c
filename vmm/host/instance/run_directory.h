/*
 * Directories of running instances, below <state>/run: private, one an instance, gone with it.
 * Whoever owns one holds a lock on it, so that what a killed process left can be told from what is
 * in use, and swept.
 */
#ifndef MAYFLY_HOST_INSTANCE_RUN_DIRECTORY_H
#define MAYFLY_HOST_INSTANCE_RUN_DIRECTORY_H

#include "common/error.h"

struct run_directory {
    char *path; /* owned */
    int lock;   /* owned: the directory itself, flock()ed */
};

/*
 * run_directory_make - make @parent (with its parents) where it is missing, sweep what is orphaned
 * in it, make @parent/@id, mode 0700. Returns 0 or -errno with nothing left behind.
 */
int run_directory_make(const char *parent, const char *id, struct run_directory *ret,
                       struct error *err);

/* run_directory_sweep - what is orphaned in @parent goes: directories whose owner is no more. Fine
 * where there is no @parent. */
int run_directory_sweep(const char *parent, struct error *err);

/* run_directory_remove - with all files in it; *directory is empty then. Takes an empty one. */
void run_directory_remove(struct run_directory *directory);

/* make_directories - as mkdir -p, mode 0755 (0700 for the last one if @private_last). */
int make_directories(const char *path, int private_last, struct error *err);

#endif
