/* Files that appear whole or not at all, and other file work that several modules here need. */
#ifndef MAYFLY_IMAGES_IMAGE_FILE_H
#define MAYFLY_IMAGES_IMAGE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum { TEMP_NAME_BYTES = 32 };

/* A file that nobody sees under its real name until temp_file_publish(). */
struct temp_file {
    int fd;                     /* owned; -1: none */
    int dir_fd;                 /* borrowed from the caller, who keeps it open */
    char name[TEMP_NAME_BYTES]; /* in that directory; "" once published */
};

/*
 * temp_file_create - a new empty file in @dir_fd. Its creator's lock on it marks it as in use.
 * Returns 0 or -errno. Always follow with temp_file_done().
 */
int temp_file_create(struct temp_file *temp, int dir_fd, struct error *err);

/*
 * temp_file_publish - fsync, set @mode, rename to @name over what may be there, fsync the
 * directory. After an error the file still has its temporary name, and @name stands for what it
 * stood for before.
 */
int temp_file_publish(struct temp_file *temp, const char *name, mode_t mode, struct error *err);

/* temp_file_done - closes, and removes what was not published. */
void temp_file_done(struct temp_file *temp);

/* temp_file_sweep - remove what killed processes left in @dir_fd. Files in use are kept. */
void temp_file_sweep(int dir_fd);

/* file_pwrite_all - over short writes and EINTR. Returns 0 or -errno. */
int file_pwrite_all(int fd, const void *from, size_t len_bytes, uint64_t offset_bytes);

/*
 * file_read_small - all of the regular file @name of @dir_fd, never through a symbolic link, in one
 * heap block with a terminating 0 after it. -EBADMSG if it is no regular file or has more than
 * @limit_bytes.
 */
int file_read_small(int dir_fd, const char *name, size_t limit_bytes, uint8_t **ret_data,
                    size_t *ret_len_bytes, struct error *err);

/*
 * file_reserve - room for @len_bytes on disk now, so that -ENOSPC comes before the work and not in
 * the middle of it. A file system that cannot reserve is taken as it is.
 */
int file_reserve(int fd, uint64_t len_bytes, struct error *err);

/* file_make_directory - as `mkdir -p`. @mode: of the new ones. */
int file_make_directory(const char *path, mode_t mode, struct error *err);

/*
 * file_open_directory_at - open the directory @name of @parent_fd (made if missing); never through
 * a symbolic link. Returns the descriptor or -errno.
 */
int file_open_directory_at(int parent_fd, const char *name, struct error *err);

/* file_remove_tree - a directory and all in it, never through links or across mounts. */
int file_remove_tree(const char *path, struct error *err);

#endif
