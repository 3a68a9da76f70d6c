/* The guest's file systems and loopback device: what must stand before anything else can. */
#ifndef MAYFLY_AGENT_BOOT_MOUNTS_H
#define MAYFLY_AGENT_BOOT_MOUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "guest-agent/agent.h"

/*
 * boot_mounts - /dev, /proc, the cgroup tree and an empty /var/task over the read-only root.
 * @contained: the agent runs in namespaces of an ordinary machine (tests): /dev is there already.
 * The root image must have the directories dev, proc, sys/fs/cgroup, tmp and var/task.
 * Returns 0 or -errno. A missing cgroup tree is not an error: it is told to the console.
 */
int boot_mounts(bool contained, struct failure *failure);

/*
 * boot_mount_tmp - an empty /tmp of at most @size_bytes (0: half of the memory). @is_mounted: it is
 * there already and gets that size.
 */
int boot_mount_tmp(uint64_t size_bytes, bool is_mounted, struct failure *failure);

/* boot_loopback_up - 127.0.0.1 answers. Returns 0 or -errno. */
int boot_loopback_up(struct failure *failure);

/*
 * boot_standard_files - make sure that fds 0 to 2 are taken (a kernel without a console leaves them
 * closed, and the next open would become the function's stdin). Returns an fd above 2 on /dev/null.
 */
int boot_standard_files(struct failure *failure);

#endif
