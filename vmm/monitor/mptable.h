/* The MP table: how a guest without ACPI learns of its processors and its IOAPIC. */
#ifndef MAYFLY_MONITOR_MPTABLE_H
#define MAYFLY_MONITOR_MPTABLE_H

#include "guest_memory.h"

/*
 * mptable_write - put the table for @vcpus processors at LAYOUT_MP_TABLE.
 * Returns 0 or -EFAULT / -ENOSPC. Source: Intel MultiProcessor Specification 1.4, chapter 4.
 */
int mptable_write(const struct guest_memory *memory, unsigned vcpus);

#endif
