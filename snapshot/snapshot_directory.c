/*
 * Directories of snapshots: made under a temporary name, published by rename, taken out of sight by
 * rename before they are removed. Part of the snapshot store (snapshot_internal.h).
 * A temporary directory is locked by its creator as long as it lives; one that nobody has locked
 * was left by a process that was killed, and whoever opens the store next removes it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_sha256.h"
#include "snapshot/snapshot_internal.h"

#define TEMP_PREFIX ".tmp-"
#define TRASH_PREFIX ".trash-"

static int random_name(const char *prefix, char name[SNAPSHOT_FILE_NAME_BYTES])
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    snprintf(name, SNAPSHOT_FILE_NAME_BYTES, "%s%016llx", prefix, (unsigned long long)random);
    return 0;
}

static int open_directory(int store_fd, const char *name)
{
    int fd = openat(store_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* --- remove ---------------------------------------------------------------------------------- */

/* A snapshot's directory has files only; one that has more is not ours to take apart. */
static int empty_directory(int fd)
{
    int own_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own_fd < 0 ? NULL : fdopendir(own_fd);
    int r = 0;

    if (!dir) {
        r = -errno;
        if (own_fd >= 0)
            close(own_fd);
        return r;
    }
    for (struct dirent *entry; r == 0 && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) < 0 && errno != ENOENT)
            r = -errno;
    }
    closedir(dir);
    return r;
}

static int remove_directory(int store_fd, const char *name)
{
    AUTO_FD fd = open_directory(store_fd, name);
    int r = fd < 0 ? fd : empty_directory(fd);

    if (r < 0)
        return r;
    return unlinkat(store_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int snapshot_directory_remove(int store_fd, const char *name, struct error *err)
{
    char trash[SNAPSHOT_FILE_NAME_BYTES];
    int r = random_name(TRASH_PREFIX, trash);

    if (r == 0 && renameat(store_fd, name, store_fd, trash) < 0)
        r = -errno;
    if (r == 0 && fsync(store_fd) < 0)
        r = -errno;
    if (r == 0)
        r = remove_directory(store_fd, trash);
    return r < 0 ? error_set(err, -r, "remove snapshot %.12s", name) : 0;
}

static void sweep_one(int store_fd, const char *name)
{
    AUTO_FD fd = open_directory(store_fd, name);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        remove_directory(store_fd, name);
}

void snapshot_directory_sweep(int store_fd)
{
    int own_fd = openat(store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own_fd < 0 ? NULL : fdopendir(own_fd);

    if (!dir) {
        if (own_fd >= 0)
            close(own_fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0 ||
            strncmp(entry->d_name, TRASH_PREFIX, strlen(TRASH_PREFIX)) == 0)
            sweep_one(store_fd, entry->d_name);
    closedir(dir);
}

/* --- stage ----------------------------------------------------------------------------------- */

/* 1 made, 0 a sweeper was faster than the lock (try again), -errno. */
static int try_create(struct staged_snapshot *staged)
{
    struct stat st;
    int r = random_name(TEMP_PREFIX, staged->name);

    if (r < 0)
        return r;
    if (mkdirat(staged->store_fd, staged->name, 0755) < 0)
        return errno == EEXIST ? 0 : -errno;
    staged->fd = open_directory(staged->store_fd, staged->name);
    if (staged->fd < 0) {
        r = staged->fd;
        unlinkat(staged->store_fd, staged->name, AT_REMOVEDIR);
        return r == -ENOENT ? 0 : r;
    }
    if (flock(staged->fd, LOCK_EX | LOCK_NB) == 0 && fstat(staged->fd, &st) == 0 && st.st_nlink > 0)
        return 1;
    staged_done(staged);
    return 0;
}

int staged_create(struct staged_snapshot *staged, int store_fd, struct error *err)
{
    int r = 0;

    *staged = (struct staged_snapshot){.store_fd = store_fd, .fd = -1};
    for (int tries = 0; r == 0 && tries < 16; tries++)
        r = try_create(staged);
    if (r == 1)
        return 0;
    staged->name[0] = '\0';
    return error_set(err, r < 0 ? -r : EAGAIN, "create a temporary directory");
}

static int write_file(int fd, const void *data, size_t len_bytes, struct snapshot_part *part)
{
    uint8_t digest[SHA256_BYTES];
    int r = sha256_of(data, len_bytes, digest);

    if (r == 0)
        r = file_pwrite_all(fd, data, len_bytes, 0);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    part->bytes = len_bytes;
    sha256_hex(digest, part->sha256);
    return r;
}

int staged_add_file(const struct staged_snapshot *staged, const char *name, const void *data,
                    size_t len_bytes, struct snapshot_part *ret_part, struct error *err)
{
    struct snapshot_part part = {0};
    AUTO_FD fd = openat(staged->fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    int r = fd < 0 ? -errno : write_file(fd, data, len_bytes, &part);

    if (r < 0)
        return error_set(err, -r, "write %s", name);
    *ret_part = part;
    return 0;
}

/* What is there under @id makes way, and comes back if its successor cannot take its place. */
static int rename_into_place(const struct staged_snapshot *staged, const char *id)
{
    char trash[SNAPSHOT_FILE_NAME_BYTES] = "";
    int r = 0;

    if (renameat2(staged->store_fd, staged->name, staged->store_fd, id, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    r = random_name(TRASH_PREFIX, trash);
    if (r < 0)
        return r;
    if (renameat(staged->store_fd, id, staged->store_fd, trash) < 0)
        return -errno;
    if (renameat(staged->store_fd, staged->name, staged->store_fd, id) < 0) {
        r = -errno;
        renameat(staged->store_fd, trash, staged->store_fd, id);
        return r;
    }
    remove_directory(staged->store_fd, trash);
    return 0;
}

int staged_publish(struct staged_snapshot *staged, const char *id, struct error *err)
{
    if (fsync(staged->fd) < 0)
        return error_set(err, errno, "flush snapshot %.12s to disk", id);
    int r = rename_into_place(staged, id);
    if (r < 0)
        return error_set(err, -r, "rename snapshot %.12s into place", id);
    if (fsync(staged->store_fd) < 0) {
        r = -errno;
        renameat(staged->store_fd, id, staged->store_fd, staged->name);
        return error_set(err, -r, "flush the directory of snapshot %.12s to disk", id);
    }
    staged->name[0] = '\0';
    return 0;
}

void staged_done(struct staged_snapshot *staged)
{
    if (staged->fd >= 0) {
        if (staged->name[0])
            remove_directory(staged->store_fd, staged->name);
        close(staged->fd);
    }
    staged->fd = -1;
    staged->name[0] = '\0';
}
