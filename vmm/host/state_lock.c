/* One daemon a state directory: see state_lock.h. Process: mayflyd; the directory is its own. */
#include "state_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>

#include "common/fd.h"

enum { TRIES = 50, PAUSE_MS = 20 };

/* Who holds it, as far as that one said so; 0: unknown. */
static long read_holder(int fd)
{
    char text[24] = "";

    return pread(fd, text, sizeof(text) - 1, 0) > 0 ? strtol(text, NULL, 10) : 0;
}

static int say_held(const char *state, int fd, struct error *err)
{
    long holder = read_holder(fd);
    char who[64] = "another mayflyd";

    if (holder > 0)
        snprintf(who, sizeof(who), "mayflyd with process id %ld", holder);
    return error_say(
        err, EBUSY,
        "%s serves the state directory '%s' already: stop it first, or give this one a "
        "directory of its own (--state)",
        who, state);
}

int state_lock_take(const char *state, int *ret_fd, struct error *err)
{
    AUTO_FREE char *path = NULL;
    char text[24];

    if (asprintf(&path, "%s/mayflyd.lock", state) < 0) {
        path = NULL;
        return error_set(err, ENOMEM, "lock the state directory");
    }
    AUTO_FD fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(err, errno, "open '%s'", path);
    int r = flock(fd, LOCK_EX | LOCK_NB);
    for (int i = 0; i < TRIES && r < 0 && errno == EWOULDBLOCK; i++) {
        poll(NULL, 0, PAUSE_MS);
        r = flock(fd, LOCK_EX | LOCK_NB);
    }
    if (r < 0)
        return errno == EWOULDBLOCK ? say_held(state, fd, err)
                                    : error_set(err, errno, "lock '%s'", path);
    /* For people, and for the text above: the lock does not depend on it. */
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) < 0)
        return error_set(err, errno, "write '%s'", path);
    *ret_fd = fd_steal(&fd);
    return 0;
}
