/*
 * Loading a guest kernel: an ELF64 x86-64 vmlinux, or a zstd stream of one, into guest memory.
 * The file is untrusted: every header field is checked before it is used.
 */
#ifndef MAYFLY_MONITOR_KERNEL_IMAGE_H
#define MAYFLY_MONITOR_KERNEL_IMAGE_H

#include "common/error.h"
#include "guest_memory.h"

/*
 * kernel_image_load - @fd is borrowed, at any offset. *ret_entry: the 64-bit entry point
 * (guest-physical). Returns 0; -ENOEXEC when it is no such kernel (the text says why), -EFAULT when
 * it does not fit the guest's memory, or what reading the file gave.
 */
int kernel_image_load(int fd, const struct guest_memory *memory, gpa_t *ret_entry,
                      struct error *err);

#endif
