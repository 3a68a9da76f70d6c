/*
 * Numbers for VMs' users: see jail_uid.h. Process: the host's; the directory is root's own.
 *
 * Invariant: a number is taken while somebody holds the lock on that byte of the one file. Locks
 * belong to the open file, not to the process, so threads do not share them, and the kernel frees
 * those of a process that was killed: nothing is left to sweep.
 */
#include "jail_uid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/fd.h"

/* A link in the file's place, or somebody else's file, would let others say who has which. */
static int open_locks(const char *directory, int *ret_fd, struct error *err)
{
    struct stat st;

    if (mkdir(directory, 0700) < 0 && errno != EEXIST)
        return error_set(err, errno, "make '%s'", directory);
    AUTO_FD parent = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (parent < 0 || fstat(parent, &st) < 0)
        return error_set(err, errno, "open '%s'", directory);
    if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return error_say(err, EPERM, "'%s' can be written by others", directory);
    AUTO_FD fd = openat(parent, "uids", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open '%s/uids'", directory);
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        return error_say(err, EPERM, "'%s/uids' is a link, or no file", directory);
    *ret_fd = fd_steal(&fd);
    return 0;
}

int jail_uid_take(const char *directory, uid_t *ret_uid, int *ret_lock, struct error *err)
{
    uint16_t start = 0;
    AUTO_FD fd = -1;
    int r = open_locks(directory, &fd, err);

    if (r < 0)
        return r;
    /* From anywhere: a number just left by a VM that was killed is not likely the next one. */
    if (getrandom(&start, sizeof(start), 0) < 0)
        return error_set(err, errno, "choose a user");
    for (uint32_t i = 0; i < JAIL_UID_COUNT; i++) {
        uint32_t at = (start + i) % JAIL_UID_COUNT;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

        if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
            *ret_uid = (uid_t)JAIL_UID_FIRST + at;
            *ret_lock = fd_steal(&fd);
            return 0;
        }
        if (errno != EAGAIN && errno != EACCES)
            return error_set(err, errno, "lock '%s/uids'", directory);
    }
    return error_say(err, EUSERS, "all %d users for VMs are taken", JAIL_UID_COUNT);
}
