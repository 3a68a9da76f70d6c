/* manifests/<name>.json: a name, the digest it stands for, and what that is. */
#ifndef MAYFLY_IMAGES_IMAGE_MANIFEST_H
#define MAYFLY_IMAGES_IMAGE_MANIFEST_H

#include "common/error.h"
#include "images/image_store.h"

/* image_name_is_valid - [a-z0-9][a-z0-9._-]{0,63}: safe as a part of a path. */
bool image_name_is_valid(const char *name);

/* image_digest_is_valid - @n_min to 64 lower-case hexadecimal digits and nothing else. */
bool image_digest_is_valid(const char *text, size_t n_min);

const char *image_kind_name(enum image_kind kind); /* "root", "kernel" */

/*
 * image_manifest_read - of @name, a valid one, in @dir_fd. -ENOENT; -EBADMSG names the field that
 * is wrong. The file is hostile: everything in *ret_info has been checked for form, not for truth.
 */
int image_manifest_read(int dir_fd, const char *name, struct image_info *ret_info,
                        struct error *err);

/* image_manifest_write - atomically, in place of an older one. */
int image_manifest_write(int dir_fd, const struct image_info *info, struct error *err);

#endif
