/* How much memory a monitor costs, without its guest's. */
#ifndef MAYFLY_HYPERVISOR_MONITOR_MEMORY_H
#define MAYFLY_HYPERVISOR_MONITOR_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

/*
 * monitor_memory_private - bytes that only process @pid has and that cannot be dropped: the dirty
 * private pages of /proc/PID/smaps, leaving out guest memory. @guest_bytes: the guest's size; where
 * the kernel does not name mappings, one at least as large counts as the guest's.
 * Returns 0 when the process cannot be read. Any thread.
 */
uint64_t monitor_memory_private(pid_t pid, uint64_t guest_bytes);

#endif
