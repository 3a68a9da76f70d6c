/*
 * What happens when the file behind guest memory becomes shorter than the memory: a page beyond its
 * end raises SIGBUS here and EFAULT in system calls, a copy of it that the guest had made included
 * (truncate() takes private copies away, too). Nothing can bring such a page back, so the VM ends,
 * and says why; other VMs of the same file end when they reach for a page that is gone, not before.
 *
 * One machine a process. Threads: any may meet the signal.
 */
#ifndef MAYFLY_MONITOR_MEMORY_LOSS_H
#define MAYFLY_MONITOR_MEMORY_LOSS_H

#include <stdbool.h>
#include <stddef.h>

#include "machine_memory.h"

enum { MEMORY_LOSS_TEXT_BYTES = 256 };

/*
 * Called in a signal handler, on the thread that touched the page: nothing but what is
 * async-signal-safe, and it must not return, as the page would be touched again.
 */
typedef void memory_lost(void *opaque, const char *text);

/*
 * memory_loss_watch - from now on a SIGBUS at an address of @memory (borrowed until
 * memory_loss_unwatch()) is told to @lost. Any other SIGBUS kills the process as ever.
 */
void memory_loss_watch(const struct machine_memory *memory, memory_lost *lost, void *opaque);
void memory_loss_unwatch(void);

/*
 * memory_loss_describe - is a file behind @memory shorter than it was? Then true, with a line for a
 * person in @ret_text. Async-signal-safe.
 */
bool memory_loss_describe(const struct machine_memory *memory,
                          char ret_text[MEMORY_LOSS_TEXT_BYTES]);

#endif
