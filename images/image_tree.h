/*
 * The directory that becomes a root image, while it is being made. Its content may be hostile (an
 * imported archive), so every path is resolved as if the tree were "/": links cannot lead outside.
 */
#ifndef MAYFLY_IMAGES_IMAGE_TREE_H
#define MAYFLY_IMAGES_IMAGE_TREE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "images/image_sha256.h"

/* tree_make_directory - as `mkdir -p`, below the tree's @root_fd. */
int tree_make_directory(int root_fd, const char *path, struct error *err);

/* tree_write_file - @text as a file in place of whatever is there; its directory is made. */
int tree_write_file(int root_fd, const char *path, const char *text, mode_t mode,
                    struct error *err);

/* tree_make_link - a symbolic link in place of whatever is there. */
int tree_make_link(int root_fd, const char *path, const char *target, struct error *err);

/*
 * tree_copy - the file or directory @source of the host to @path of the tree. Directories are 0755,
 * files 0755 if the owner may run them, else 0644. Anything but files and directories is -EINVAL.
 */
int tree_copy(int root_fd, const char *source, const char *path, struct error *err);

/* tree_delete - what @delete matches (fnmatch, '*' crosses '/') and @keep does not. */
int tree_delete(const char *root, char *const *delete, size_t n_delete, char *const *keep,
                size_t n_keep, struct error *err);

/*
 * tree_finish - what a guest's root needs: mount points, users, the files of the network, and
 * @agent as /sbin/mayfly-agent. Files that the tree has already are kept, but for the agent.
 */
int tree_finish(int root_fd, const char *agent, struct error *err);

/*
 * tree_check - nothing in it may be other than a file, a directory, a link, or a device below
 * /dev; programs must be for our architecture. -EBADMSG names the path.
 */
int tree_check(const char *root, struct error *err);

/* tree_digest - add names and content of the file or directory @source of the host to @sha256. */
int tree_digest(const char *source, struct sha256 *sha256, struct error *err);

#endif
