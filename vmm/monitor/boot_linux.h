/* The 64-bit Linux boot protocol: memory and registers as the kernel's entry point wants them. */
#ifndef MAYFLY_MONITOR_BOOT_LINUX_H
#define MAYFLY_MONITOR_BOOT_LINUX_H

#include <linux/kvm.h>

#include "common/error.h"
#include "guest_memory.h"

/*
 * boot_linux_write_parameters - zero page, memory map, command line, page tables and GDT.
 * @memory holds the RAM regions only. -E2BIG if the command line is longer than Linux takes.
 * Source: Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and zero-page.rst.
 */
int boot_linux_write_parameters(const struct guest_memory *memory, const char *command_line,
                                struct error *err);

/* boot_linux_set_registers - change @sregs (as KVM_GET_SREGS gave them) and fill @regs. */
void boot_linux_set_registers(gpa_t entry, struct kvm_sregs *sregs, struct kvm_regs *regs);

#endif
