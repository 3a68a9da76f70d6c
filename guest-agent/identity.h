/*
 * What must differ between clones of one snapshot and lives in the kernel: host name and boot id.
 *
 * The kernel makes its boot id once and keeps it, so a file of the agent's own lies over
 * /proc/sys/kernel/random/boot_id from boot on: writing it is one system call.
 */
#ifndef MAYFLY_AGENT_IDENTITY_H
#define MAYFLY_AGENT_IDENTITY_H

#include "guest-agent/agent.h"

enum { IDENTITY_BOOT_ID_BYTES = 16, IDENTITY_HOSTNAME_MAX = 64 };

/*
 * identity_open - lay the file over the kernel's; it is empty at first. After boot_mounts().
 * Returns an fd on it (owned by the caller), or -errno: then the kernel's own id is seen.
 */
int identity_open(struct failure *failure);

/*
 * identity_set_boot_id - @id: IDENTITY_BOOT_ID_BYTES, or NULL for one of the kernel's randomness.
 * Its version bits are made those of a random UUID. Returns 0 or -errno.
 */
int identity_set_boot_id(int boot_id_fd, const uint8_t *id, struct failure *failure);

/* identity_set_hostname - @name: "" changes nothing. Returns 0, -EINVAL or -errno. */
int identity_set_hostname(const char *name, struct failure *failure);

#endif
