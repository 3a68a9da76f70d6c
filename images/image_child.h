/* Run another program: clean environment, output into a log, stopped when the user gives up. */
#ifndef MAYFLY_IMAGES_IMAGE_CHILD_H
#define MAYFLY_IMAGES_IMAGE_CHILD_H

#include "common/error.h"
#include "images/image_codec.h"

struct child {
    const char *const *argv; /* argv[0] is looked up in the system's directories; ends in NULL */
    const char *root;        /* chroot into this first; NULL: not */
    const char *log;         /* stdout and stderr are appended to this file */
    const char *stage;       /* what progress reports it as */
    const struct image_watch *watch;
    /* Instead of a program: called in the child, which exits 0 if it returns 0. NULL: argv. */
    int (*call)(void *opaque, struct error *err);
    void *opaque;
};

/*
 * child_run - start it and wait for its end. 0 when it exits with 0. Otherwise -EIO with the last
 * lines of its output, -EINTR when cancelled (it and its children are ended first), or -errno.
 * A child->call's own error comes back whole. Call from a process with one thread.
 */
int child_run(const struct child *child, struct error *err);

#endif
