/* File descriptors and heap blocks that clean up after themselves, and whole-buffer I/O. */
#ifndef MAYFLY_COMMON_FD_H
#define MAYFLY_COMMON_FD_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "error.h"

static inline void fd_close_at_exit(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* fd_steal - hand an AUTO_FD to somebody else: the variable no longer closes it. */
static inline int fd_steal(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}

static inline void mem_free_at_exit(void *pointer)
{
    free(*(void **)pointer);
}

static inline void *mem_steal_pointer(void *pointer)
{
    void *stolen = *(void **)pointer;

    *(void **)pointer = NULL;
    return stolen;
}

#define AUTO_FD __attribute__((cleanup(fd_close_at_exit))) int
#define AUTO_FREE __attribute__((cleanup(mem_free_at_exit)))
#define mem_steal(pointer) ((__typeof__(*(pointer)))mem_steal_pointer(pointer))

/*
 * fd_read_all / fd_write_all - move exactly @len_bytes, over short transfers and EINTR.
 * The fd must be blocking. fd_write_all never raises SIGPIPE on sockets.
 * Return 0, or -errno (-ECONNRESET from fd_read_all at an early end of file). No error object:
 * the caller knows what the bytes were.
 */
int fd_read_all(int fd, void *to, size_t len_bytes);
int fd_write_all(int fd, const void *from, size_t len_bytes);

/* fd_pread_all - as fd_read_all() at @offset_bytes of a file; -ENODATA at an early end. */
int fd_pread_all(int fd, void *to, size_t len_bytes, off_t offset_bytes);

/*
 * fd_read_file - the whole file in one heap block with a terminating 0 after it.
 * @limit_bytes: a larger file is refused with -EFBIG. Returns 0 or -errno; *ret_data is owned.
 */
int fd_read_file(const char *path, size_t limit_bytes, uint8_t **ret_data, size_t *ret_len_bytes,
                 struct error *err);

/*
 * fd_send_message / fd_recv_message - one datagram with descriptors, over AF_UNIX SOCK_SEQPACKET.
 * fd_recv_message: received fds are CLOEXEC and owned by the caller; a truncated datagram or more
 * than @max_fds fds is -EMSGSIZE, and everything received is closed. End of file is -ECONNRESET.
 * Returns 0 or -errno.
 */
int fd_send_message(int socket, const void *data, size_t len_bytes, const int *fds, size_t n_fds);
int fd_recv_message(int socket, void *data, size_t size_bytes, size_t *ret_len_bytes, int *ret_fds,
                    size_t max_fds, size_t *ret_n_fds);

#endif
