/*
 * Reading a package from a directory. The directory may be changed while it is read: every name is
 * opened beneath the root without following a link, and what is read is what is kept.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/fd.h"
#include "package_internal.h"

enum { READ_BYTES = 256 * 1024 };

static int open_beneath(int root, const char *path, int flags)
{
    struct open_how how = {.flags = (uint32_t)(flags | O_CLOEXEC | O_NOFOLLOW),
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

static int add_file(struct package *package, int root, const char *path, struct error *err)
{
    AUTO_FD fd = open_beneath(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    AUTO_FREE uint8_t *buffer = malloc(READ_BYTES);
    struct stat st;
    int r;

    if (fd < 0)
        return error_set(err, -fd, "open '%s'", path);
    if (!buffer || fstat(fd, &st) < 0)
        return error_set(err, buffer ? errno : ENOMEM, "read '%s'", path);
    if (!S_ISREG(st.st_mode))
        return error_say(err, EINVAL, "'%s' changed while it was read", path);
    r = package_add(package, path, PACKAGE_FILE, st.st_mode, err);
    while (r >= 0) {
        ssize_t n = read(fd, buffer, READ_BYTES);

        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, errno, "read '%s'", path);
        r = package_append(package, buffer, (size_t)n, err);
    }
    return r;
}

static int add_link(struct package *package, int parent, const char *name, const char *path,
                    struct error *err)
{
    char target[PACKAGE_MAX_PATH + 2];
    ssize_t n = readlinkat(parent, name, target, sizeof(target));

    if (n < 0)
        return error_set(err, errno, "read the link '%s'", path);
    int r = package_add(package, path, PACKAGE_LINK, 0777, err);
    return r < 0 ? r : package_append(package, target, (size_t)n, err);
}

static int add_name(struct package *package, int root, int parent, const char *name,
                    const char *path, struct error *err)
{
    struct stat st;
    int r;

    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_set(err, errno, "look at '%s'", path);
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        return add_file(package, root, path, err);
    case S_IFLNK:
        return add_link(package, parent, name, path, err);
    case S_IFDIR:
        r = package_add(package, path, PACKAGE_DIRECTORY, st.st_mode, err);
        return r < 0 ? r : 0;
    default:
        return error_say(err, EINVAL, "'%s' is neither a file, a directory nor a link", path);
    }
}

/* Adds what lies in the directory @path ("." is the root). */
static int add_directory(struct package *package, int root, const char *path, struct error *err)
{
    int fd = open_beneath(root, path, O_RDONLY | O_DIRECTORY);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    char child[PACKAGE_MAX_PATH + NAME_MAX + 2];
    int r = 0;

    if (!directory) {
        r = error_set(err, fd < 0 ? -fd : errno, "open the directory '%s'", path);
        fd_close_at_exit(&fd);
        return r;
    }
    while (r == 0) {
        errno = 0;
        struct dirent *item = readdir(directory);
        if (!item) {
            if (errno != 0)
                r = error_set(err, errno, "read the directory '%s'", path);
            break;
        }
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
            continue;
        if (strcmp(path, ".") == 0)
            snprintf(child, sizeof(child), "%s", item->d_name);
        else
            snprintf(child, sizeof(child), "%s/%s", path, item->d_name);
        r = add_name(package, root, dirfd(directory), item->d_name, child, err);
    }
    closedir(directory);
    return r;
}

int package_read_directory(struct package *package, int root, struct error *err)
{
    int r = add_directory(package, root, ".", err);

    /* The list is the queue: directories found are read in their turn. Entries may move. */
    for (size_t i = 0; r == 0 && i < package->n_entries; i++) {
        char path[PACKAGE_MAX_PATH + 1];

        if (package->entries[i].type != PACKAGE_DIRECTORY)
            continue;
        snprintf(path, sizeof(path), "%s", package->entries[i].path);
        r = add_directory(package, root, path, err);
    }
    return r;
}
