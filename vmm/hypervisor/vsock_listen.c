/* Unix sockets of a VM's vsock. What is read back comes from an untrusted monitor: bounded. */
#include "vsock_listen.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/clock.h"
#include "common/fd.h"

enum { BACKLOG = 16, ANSWER_MAX_BYTES = 32 };

static int fill_address(const char *path, struct sockaddr_un *address, struct error *err)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path))
        return error_say(err, ENAMETOOLONG,
                         "'%s' is too long for a Unix socket (over %zu bytes): use a state "
                         "directory with a shorter path",
                         path, sizeof(address->sun_path) - 1);
    memcpy(address->sun_path, path, strlen(path) + 1);
    return 0;
}

int vsock_listen(const char *path, struct error *err)
{
    struct sockaddr_un address;
    AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return error_set(err, errno, "make a Unix socket");
    int r = fill_address(path, &address, err);
    if (r < 0)
        return r;
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return error_set(err, errno, "bind '%s'", path);
    if (listen(fd, BACKLOG) < 0) {
        r = error_set(err, errno, "listen on '%s'", path);
        unlink(path);
        return r;
    }
    return fd_steal(&fd);
}

/* Reads the one line of the answer, byte by byte: what follows it belongs to the stream. */
static int read_line(int fd, char *line, size_t size, uint64_t deadline_ns)
{
    size_t used = 0;

    while (used < size - 1) {
        uint64_t now = clock_now_ns();
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        if (now >= deadline_ns)
            return -ETIMEDOUT;
        int n = poll(&wait, 1, (int)((deadline_ns - now) / 1000000u + 1));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n <= 0)
            continue;
        ssize_t got = recv(fd, line + used, 1, MSG_DONTWAIT);
        if (got == 0)
            return -ECONNREFUSED; /* the device closes what it cannot connect */
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (got == 1 && line[used++] == '\n') {
            line[used] = '\0';
            return 0;
        }
    }
    return -EPROTO;
}

int vsock_connect(const char *path, uint32_t port, uint64_t timeout_ms, struct error *err)
{
    uint64_t deadline_ns = clock_now_ns() + timeout_ms * 1000000u;
    struct sockaddr_un address;
    char line[ANSWER_MAX_BYTES];
    AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return error_set(err, errno, "make a Unix socket");
    int r = fill_address(path, &address, err);
    if (r < 0)
        return r;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return error_set(err, errno, "connect to '%s'", path);
    snprintf(line, sizeof(line), "CONNECT %u\n", port);
    r = fd_write_all(fd, line, strlen(line));
    if (r == 0)
        r = read_line(fd, line, sizeof(line), deadline_ns);
    if (r == 0 && strncmp(line, "OK ", 3) != 0)
        r = -EPROTO;
    if (r < 0)
        return error_set(err, -r, "connect to port %u of the guest", port);
    return fd_steal(&fd);
}
