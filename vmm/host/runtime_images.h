/*
 * The runtimes that functions may name, and the images that they need on this host.
 *
 * Process: mayflyd. Threads: any. Trust: a runtime's name is a client's; what errors say is meant
 * for clients and names no path.
 */
#ifndef MAYFLY_HOST_RUNTIME_IMAGES_H
#define MAYFLY_HOST_RUNTIME_IMAGES_H

#include <stddef.h>

#include "common/error.h"

struct runtime {
    const char *name;  /* as CreateFunction has it */
    const char *agent; /* as the guest's agent knows it */
    const char *image; /* its root image in the store */
};

/* runtime_find - NULL: not a known one. runtime_name - of the one at @index; NULL: no more. */
const struct runtime *runtime_find(const char *name);
const char *runtime_name(size_t index);

/*
 * runtime_check_images - is what @name needs, and the kernel, in the store at @images_path?
 * -ENOENT: not; err->text says what the administrator must do. -EAGAIN: nothing at all is there
 * (yet): a host that is not set up. Else as the store.
 */
int runtime_check_images(const char *images_path, const char *kernel, const char *name,
                         struct error *err);

#endif
