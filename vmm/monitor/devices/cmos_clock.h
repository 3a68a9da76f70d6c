/*
 * The clock of a PC's CMOS (MC146818), read-only: a booting guest learns the time of day from it.
 * Without one Linux polls an absent chip for a second.
 *
 * Trust: the guest chooses ports and register numbers. Threads: any; one mutex.
 */
#ifndef MAYFLY_MONITOR_DEVICES_CMOS_CLOCK_H
#define MAYFLY_MONITOR_DEVICES_CMOS_CLOCK_H

#include <stdint.h>

#include "common/error.h"

enum { CMOS_CLOCK_PORT_BASE = 0x70, CMOS_CLOCK_PORT_COUNT = 2 };

struct cmos_clock; /* opaque */

int cmos_clock_new(struct cmos_clock **ret_clock, struct error *err);
void cmos_clock_free(struct cmos_clock *clock);

/* @port: 0 (register number) or 1 (data), from the base. Source: MC146818 data sheet, registers. */
uint8_t cmos_clock_read(struct cmos_clock *clock, unsigned port);
void cmos_clock_write(struct cmos_clock *clock, unsigned port, uint8_t value);

#endif
