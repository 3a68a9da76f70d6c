/* Whole-buffer I/O and descriptor passing: see fd.h. */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { FD_MESSAGE_MAX_FDS = 32 };

int fd_read_all(int fd, void *to, size_t len_bytes)
{
    uint8_t *at = to;

    while (len_bytes > 0) {
        ssize_t n = read(fd, at, len_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ECONNRESET;
        at += n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

int fd_write_all(int fd, const void *from, size_t len_bytes)
{
    const uint8_t *at = from;

    while (len_bytes > 0) {
        ssize_t n = send(fd, at, len_bytes, MSG_NOSIGNAL);

        if (n < 0 && errno == ENOTSOCK)
            n = write(fd, at, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

int fd_pread_all(int fd, void *to, size_t len_bytes, off_t offset_bytes)
{
    uint8_t *at = to;

    while (len_bytes > 0) {
        ssize_t n = pread(fd, at, len_bytes, offset_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENODATA;
        at += n;
        offset_bytes += n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

/* Reads until end of file, so that pipes, /proc and /dev/stdin work as well as plain files. */
static int read_to_end(int fd, size_t limit_bytes, uint8_t **ret_data, size_t *ret_len_bytes)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t used = 0, size = 0;

    for (;;) {
        if (size - used < 2) {
            size_t larger = size ? size * 2 : 16384;
            uint8_t *grown = realloc(data, larger);

            if (!grown)
                return -ENOMEM;
            data = grown;
            size = larger;
        }
        ssize_t n = read(fd, data + used, size - used - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
        if (used > limit_bytes)
            return -EFBIG;
    }
    data[used] = 0;
    *ret_data = mem_steal(&data);
    *ret_len_bytes = used;
    return 0;
}

int fd_read_file(const char *path, size_t limit_bytes, uint8_t **ret_data, size_t *ret_len_bytes,
                 struct error *err)
{
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return error_set(err, errno, "open '%s'", path);
    int r = read_to_end(fd, limit_bytes, ret_data, ret_len_bytes);
    if (r == -EFBIG)
        return error_say(err, EFBIG, "'%s' is larger than the limit of %zu bytes", path,
                         limit_bytes);
    if (r < 0)
        return error_set(err, -r, "read '%s'", path);
    return 0;
}

int fd_send_message(int socket, const void *data, size_t len_bytes, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FD_MESSAGE_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len_bytes};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds > FD_MESSAGE_MAX_FDS)
        return -EINVAL;
    if (n_fds > 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
    }
    for (;;) {
        ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        return (size_t)n == len_bytes ? 0 : -EMSGSIZE;
    }
}

/* Takes every descriptor of @message: the first @max_fds into @fds, the rest are closed. */
static size_t take_fds(struct msghdr *message, int *fds, size_t max_fds, int *ret_too_many)
{
    size_t taken = 0;

    *ret_too_many = 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(message); h; h = CMSG_NXTHDR(message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
            if (taken < max_fds) {
                fds[taken++] = fd;
            } else {
                close(fd);
                *ret_too_many = 1;
            }
        }
    }
    return taken;
}

int fd_recv_message(int socket, void *data, size_t size_bytes, size_t *ret_len_bytes, int *ret_fds,
                    size_t max_fds, size_t *ret_n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FD_MESSAGE_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = size_bytes};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    int fds[FD_MESSAGE_MAX_FDS];
    int too_many;
    ssize_t n;

    if (max_fds > FD_MESSAGE_MAX_FDS)
        return -EINVAL;
    do {
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    size_t taken = take_fds(&message, fds, max_fds, &too_many);
    if (n == 0 || too_many || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        for (size_t i = 0; i < taken; i++)
            close(fds[i]);
        return n == 0 ? -ECONNRESET : -EMSGSIZE;
    }
    if (taken > 0)
        memcpy(ret_fds, fds, taken * sizeof(int));
    *ret_n_fds = taken;
    *ret_len_bytes = (size_t)n;
    return 0;
}
