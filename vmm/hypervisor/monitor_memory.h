/* Memory as the kernel sees it: what a monitor costs, without its guest's, and its page map. */
#ifndef MAYFLY_HYPERVISOR_MONITOR_MEMORY_H
#define MAYFLY_HYPERVISOR_MONITOR_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/*
 * monitor_memory_private - bytes that only process @pid has and that cannot be dropped: the dirty
 * private pages of /proc/PID/smaps, leaving out guest memory. @guest_bytes: the guest's size; where
 * the kernel does not name mappings, one at least as large counts as the guest's.
 * Returns 0 when the process cannot be read. Any thread.
 */
uint64_t monitor_memory_private(pid_t pid, uint64_t guest_bytes);

/*
 * monitor_memory_open_pagemap - /proc/@pid/pagemap, for the monitor itself to read: it has no
 * /proc. It tells which pages are whose, no physical addresses. *ret_fd is owned.
 */
int monitor_memory_open_pagemap(pid_t pid, int *ret_fd, struct error *err);

#endif
