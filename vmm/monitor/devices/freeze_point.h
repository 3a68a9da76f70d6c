/*
 * The port at which a guest is frozen (images/kernel/patches/0002-freeze-point.patch).
 *
 * The guest writes to it when it is ready for a snapshot: interrupts off, nothing under way. It is
 * paused at that write; it, and every clone of the snapshot, goes on there and reads by how many
 * TSC cycles its clocks are to be put back.
 *
 *   offset 0, write  I stand still
 *   offset 0, read   TSC cycles that passed since then without the guest: low half, which latches
 *   offset 4, read   the high half (together a signed number)
 *
 * Threads: ports are a vCPU's; the rest belongs to the control thread while the vCPUs are paused,
 * but for freeze_point_is_reached(), which may be called at any time.
 */
#ifndef MAYFLY_MONITOR_DEVICES_FREEZE_POINT_H
#define MAYFLY_MONITOR_DEVICES_FREEZE_POINT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum { FREEZE_POINT_PORT = 0x5f0, FREEZE_POINT_PORT_COUNT = 8 };

struct freeze_point_config {
    /*
     * Every guest has the host's TSC, and none can be given another (seen where KVM emulates
     * supervisor mode). Otherwise a restore sets the guest's TSC, and nothing is to be skipped.
     */
    bool has_host_tsc;
    void (*reached)(void *opaque); /* on the vCPU's thread: pause them all, do not wait for it */
    void *opaque;
};

struct freeze_point;

int freeze_point_new(const struct freeze_point_config *config, struct freeze_point **ret_point,
                     struct error *err);
void freeze_point_free(struct freeze_point *point); /* takes NULL */

void freeze_point_write(struct freeze_point *point);
/* freeze_point_read - the 32 bits at @offset (0 or 4). */
uint32_t freeze_point_read(struct freeze_point *point, unsigned offset);

/* freeze_point_is_reached - does the guest stand there? */
bool freeze_point_is_reached(const struct freeze_point *point);

/* The host's TSC when the guest came there: what a snapshot keeps. */
uint64_t freeze_point_get_tsc(const struct freeze_point *point);
/* freeze_point_set_tsc - of a guest that is being restored: it stands there. */
void freeze_point_set_tsc(struct freeze_point *point, uint64_t tsc);

/* freeze_point_missed_cycles - what the guest is going to read, as of now. */
int64_t freeze_point_missed_cycles(const struct freeze_point *point);

#endif
