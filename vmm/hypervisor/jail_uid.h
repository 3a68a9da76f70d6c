/*
 * A user of its own for each VM, so that a monitor that was taken over can neither signal nor trace
 * another, nor reach its files. Numbers come from one range of this host, which no system user, no
 * login and no container manager of systemd's conventions uses.
 */
#ifndef MAYFLY_HYPERVISOR_JAIL_UID_H
#define MAYFLY_HYPERVISOR_JAIL_UID_H

#include <sys/types.h>

#include "common/error.h"

enum {
    JAIL_UID_FIRST = 0x70000000, /* systemd.io/UIDS-GIDS: above containers, below 2^31 */
    JAIL_UID_COUNT = 65536,
};

/* Where hosts (processes) agree on who has which; below /run, so that a reboot forgets it. */
#define JAIL_UID_DIRECTORY "/run/mayfly"

/*
 * jail_uid_take - a number that no other process of this host has taken, for user and group alike.
 * @directory: made where missing, mode 0700. *ret_lock: owned; the number is free again when it is
 * closed, or its process has died. Any thread. Returns 0 or -errno; -EUSERS when all are taken.
 */
int jail_uid_take(const char *directory, uid_t *ret_uid, int *ret_lock, struct error *err);

#endif
