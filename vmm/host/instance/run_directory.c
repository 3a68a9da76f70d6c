/* Directories of running instances: see run_directory.h. Process: the host's; trusts <state>. */
#include "run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/fd.h"

int make_directories(const char *path, int private_last, struct error *err)
{
    char part[PATH_MAX];

    if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
        return error_say(err, ENAMETOOLONG, "'%s' is too long a path", path);
    for (char *cut = strchr(part + 1, '/'); cut; cut = strchr(cut + 1, '/')) {
        *cut = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return error_set(err, errno, "make the directory '%s'", part);
        *cut = '/';
    }
    if (mkdir(part, private_last ? 0700 : 0755) < 0 && errno != EEXIST)
        return error_set(err, errno, "make the directory '%s'", part);
    return 0;
}

/* Removes the directory @name of @parent, which holds only plain files and sockets. */
static void remove_at(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);

    if (!directory) {
        fd_close_at_exit(&fd);
        return;
    }
    for (struct dirent *item; (item = readdir(directory));)
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            unlinkat(dirfd(directory), item->d_name, 0);
    closedir(directory);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* Removes every directory whose owner is gone: nobody holds its lock. @parent is locked. */
static void sweep(int parent)
{
    int copy = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);

    if (!directory) {
        fd_close_at_exit(&copy);
        return;
    }
    for (struct dirent *item; (item = readdir(directory));) {
        if (item->d_name[0] == '.')
            continue;
        AUTO_FD fd = openat(parent, item->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            remove_at(parent, item->d_name);
    }
    closedir(directory);
}

/* Makes and locks @id in @parent, which is locked: so no sweeper sees it before it is locked. */
static int make_locked(int parent, const char *id, int *ret_lock)
{
    if (mkdirat(parent, id, 0700) < 0)
        return -errno;
    AUTO_FD fd = openat(parent, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int r = -errno;

        unlinkat(parent, id, AT_REMOVEDIR);
        return r;
    }
    *ret_lock = fd_steal(&fd);
    return 0;
}

int run_directory_make(const char *parent, const char *id, struct run_directory *ret,
                       struct error *err)
{
    AUTO_FREE char *path = NULL;
    int r = make_directories(parent, 1, err);

    if (r < 0)
        return r;
    AUTO_FD fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return error_set(err, errno, "open the directory '%s'", parent);
    if (asprintf(&path, "%s/%s", parent, id) < 0) {
        path = NULL;
        return error_set(err, ENOMEM, "make an instance's directory");
    }
    sweep(fd);
    r = make_locked(fd, id, &ret->lock);
    if (r < 0)
        return error_set(err, -r, "make the instance's directory '%s'", path);
    ret->path = mem_steal(&path);
    return 0;
}

int run_directory_sweep(const char *parent, struct error *err)
{
    AUTO_FD fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return error_set(err, errno, "open the directory '%s'", parent);
    sweep(fd);
    return 0;
}

void run_directory_remove(struct run_directory *directory)
{
    if (!directory->path)
        return;
    remove_at(AT_FDCWD, directory->path);
    fd_close_at_exit(&directory->lock);
    directory->lock = -1;
    free(directory->path);
    directory->path = NULL;
}
