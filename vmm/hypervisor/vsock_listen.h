/* The Unix sockets of one VM's vsock, as the monitor's vsock device defines them. */
#ifndef MAYFLY_HYPERVISOR_VSOCK_LISTEN_H
#define MAYFLY_HYPERVISOR_VSOCK_LISTEN_H

#include <stdint.h>

#include "common/error.h"

/*
 * vsock_listen - a listening, non-blocking AF_UNIX stream socket at @path, which must not exist.
 * Returns an owned fd or -errno; -ENAMETOOLONG says what to shorten.
 */
int vsock_listen(const char *path, struct error *err);

/*
 * vsock_connect - a stream to @port in the guest, through the device's socket at @path:
 * "CONNECT <port>\n", answered with "OK <host port>\n".
 * Returns an owned blocking socket; -ECONNREFUSED when nothing listens there; -ETIMEDOUT.
 */
int vsock_connect(const char *path, uint32_t port, uint64_t timeout_ms, struct error *err);

#endif
