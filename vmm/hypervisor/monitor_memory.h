/* How much memory a monitor costs, and how much its guest. */
#ifndef MAYFLY_HYPERVISOR_MONITOR_MEMORY_H
#define MAYFLY_HYPERVISOR_MONITOR_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

struct monitor_memory {
    uint64_t own_bytes;   /* the monitor's */
    uint64_t guest_bytes; /* guest memory that this guest has written to: its copies */
};

/*
 * monitor_memory_read - bytes that only process @pid has and that cannot be dropped, by
 * /proc/PID/smaps. @guest_bytes: the guest's size; where the kernel does not name mappings, one at
 * least as large counts as the guest's. What the kernel keeps for the process (page tables, KVM's
 * structures) is not in it. All 0 when the process cannot be read. Any thread.
 */
void monitor_memory_read(pid_t pid, uint64_t guest_bytes, struct monitor_memory *ret_memory);

#endif
