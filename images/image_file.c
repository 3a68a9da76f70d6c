/*
 * Temporary files and small file work: see image_file.h.
 * A temporary file is locked by its creator as long as it lives; one that nobody has locked was
 * left by a process that was killed, and whoever opens the store next removes it.
 */
#include "images/image_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/fd.h"

#define TEMP_PREFIX ".tmp-"

/* 1 made, 0 a sweeper was faster than the lock (try again), -errno. */
static int try_create(struct temp_file *temp)
{
    uint64_t random;
    struct stat st;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    snprintf(temp->name, sizeof(temp->name), TEMP_PREFIX "%016llx", (unsigned long long)random);
    temp->fd =
        openat(temp->dir_fd, temp->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (temp->fd < 0)
        return errno == EEXIST ? 0 : -errno;
    if (flock(temp->fd, LOCK_EX | LOCK_NB) == 0 && fstat(temp->fd, &st) == 0 && st.st_nlink > 0)
        return 1;
    temp_file_done(temp);
    return 0;
}

int temp_file_create(struct temp_file *temp, int dir_fd, struct error *err)
{
    int r = 0;

    *temp = (struct temp_file){.fd = -1, .dir_fd = dir_fd};
    for (int tries = 0; r == 0 && tries < 16; tries++)
        r = try_create(temp);
    if (r == 1)
        return 0;
    temp->name[0] = 0;
    return error_set(err, r < 0 ? -r : EAGAIN, "create a temporary file");
}

/*
 * Renames the temporary file to @name. What stood there before gets the temporary name: until the
 * directory is on disk too, all of it can be undone. (Not on file systems that cannot exchange.)
 */
static int swap_in(const struct temp_file *temp, const char *name, bool *ret_is_swapped)
{
    *ret_is_swapped = false;
    if (renameat2(temp->dir_fd, temp->name, temp->dir_fd, name, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST &&
        renameat2(temp->dir_fd, temp->name, temp->dir_fd, name, RENAME_EXCHANGE) == 0) {
        *ret_is_swapped = true;
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    return renameat(temp->dir_fd, temp->name, temp->dir_fd, name) < 0 ? -errno : 0;
}

static void swap_out(const struct temp_file *temp, const char *name, bool is_swapped)
{
    renameat2(temp->dir_fd, name, temp->dir_fd, temp->name,
              is_swapped ? RENAME_EXCHANGE : RENAME_NOREPLACE);
}

int temp_file_publish(struct temp_file *temp, const char *name, mode_t mode, struct error *err)
{
    bool is_swapped;

    if (fsync(temp->fd) < 0)
        return error_set(err, errno, "flush '%s' to disk", name);
    if (fchmod(temp->fd, mode) < 0)
        return error_set(err, errno, "set the mode of '%s'", name);
    int r = swap_in(temp, name, &is_swapped);
    if (r < 0)
        return error_set(err, -r, "rename a temporary file to '%s'", name);
    if (fsync(temp->dir_fd) < 0) {
        r = error_set(err, errno, "flush the directory of '%s' to disk", name);
        swap_out(temp, name, is_swapped);
        return r;
    }
    if (is_swapped)
        unlinkat(temp->dir_fd, temp->name, 0);
    temp->name[0] = 0;
    return 0;
}

void temp_file_done(struct temp_file *temp)
{
    if (temp->fd >= 0) {
        if (temp->name[0])
            unlinkat(temp->dir_fd, temp->name, 0);
        close(temp->fd);
    }
    temp->fd = -1;
    temp->name[0] = 0;
}

static void sweep_one(int dir_fd, const char *name)
{
    AUTO_FD fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(dir_fd, name, 0);
}

void temp_file_sweep(int dir_fd)
{
    int own_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own_fd < 0 ? NULL : fdopendir(own_fd);

    if (!dir) {
        if (own_fd >= 0)
            close(own_fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0)
            sweep_one(dir_fd, entry->d_name);
    closedir(dir);
}

int file_pwrite_all(int fd, const void *from, size_t len_bytes, uint64_t offset_bytes)
{
    const uint8_t *at = from;

    while (len_bytes > 0) {
        ssize_t n = pwrite(fd, at, len_bytes, (off_t)offset_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        offset_bytes += (uint64_t)n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

int file_read_small(int dir_fd, const char *name, size_t limit_bytes, uint8_t **ret_data,
                    size_t *ret_len_bytes, struct error *err)
{
    AUTO_FD fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s'", name);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > limit_bytes)
        return error_say(err, EBADMSG, "'%s' is no regular file of at most %zu bytes", name,
                         limit_bytes);
    AUTO_FREE uint8_t *data = malloc((size_t)st.st_size + 1);
    if (!data)
        return error_set(err, ENOMEM, "read '%s'", name);
    int r = fd_pread_all(fd, data, (size_t)st.st_size, 0);
    if (r < 0)
        return error_set(err, -r, "read '%s'", name);
    data[st.st_size] = 0;
    *ret_data = mem_steal(&data);
    *ret_len_bytes = (size_t)st.st_size;
    return 0;
}

int file_reserve(int fd, uint64_t len_bytes, struct error *err)
{
    struct statvfs fs;
    int r;

    /* Not posix_fallocate(): where the file system has no such call, glibc writes zeroes instead.
     */
    do {
        r = fallocate(fd, 0, 0, (off_t)len_bytes) < 0 ? -errno : 0;
    } while (r == -EINTR);
    if (r == -EOPNOTSUPP || r == -ENOSYS)
        r = ftruncate(fd, (off_t)len_bytes) < 0 ? -errno : 0;
    if (r == -ENOSPC && fstatvfs(fd, &fs) == 0)
        return error_say(err, ENOSPC, "no space left on device: %llu MiB needed, %llu MiB free",
                         (unsigned long long)(len_bytes + (1 << 20) - 1) >> 20,
                         (unsigned long long)fs.f_bavail * fs.f_frsize >> 20);
    return r < 0 ? error_set(err, -r, "reserve %llu bytes", (unsigned long long)len_bytes) : 0;
}

int file_make_directory(const char *path, mode_t mode, struct error *err)
{
    char part[PATH_MAX];
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof(part))
        return error_set(err, ENAMETOOLONG, "make directory '%s'", path);
    for (size_t i = 1; i <= len; i++) {
        if (i < len && path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return error_set(err, errno, "make directory '%s'", part);
    }
    return 0;
}

int file_open_directory_at(int parent_fd, const char *name, struct error *err)
{
    if (mkdirat(parent_fd, name, 0755) < 0 && errno != EEXIST && errno != EROFS)
        return error_set(err, errno, "make directory '%s'", name);
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? error_set(err, errno, "open directory '%s'", name) : fd;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int file_remove_tree(const char *path, struct error *err)
{
    if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0)
        return error_set(err, errno, "remove '%s'", path);
    return 0;
}
