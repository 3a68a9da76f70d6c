/*
 * The guest-physical address space of a microVM. Host and guest agree on it through the boot
 * parameters, the MP table and the command line; nothing else may name an address.
 */
#ifndef MAYFLY_MONITOR_LAYOUT_H
#define MAYFLY_MONITOR_LAYOUT_H

#include <stdint.h>

/* --- low memory: what the boot protocol needs, all below the legacy hole at 640 KiB --- */
#define LAYOUT_GDT 0x500u
#define LAYOUT_BOOT_PARAMS 0x7000u
#define LAYOUT_BOOT_STACK 0x8ff0u
#define LAYOUT_PAGE_TABLES 0x9000u /* PML4, PDPT, PD: three pages */
#define LAYOUT_COMMAND_LINE 0x20000u
#define LAYOUT_COMMAND_LINE_MAX 2048u /* COMMAND_LINE_SIZE of x86 Linux */
#define LAYOUT_MP_TABLE 0x9fc00u      /* the last KiB of base memory: where Linux looks for it */
#define LAYOUT_LOW_END 0x9fc00u
#define LAYOUT_HIGH_START 0x100000u /* RAM goes on here */

/* --- the hole below 4 GiB --- */
#define LAYOUT_RAM_LOW_MAX 0xc0000000u /* RAM beyond 3 GiB continues at 4 GiB */
#define LAYOUT_VIRTIO_MMIO 0xd0000000u /* one page a device */
#define LAYOUT_VIRTIO_STRIDE 0x1000u
#define LAYOUT_VIRTIO_MAX 16u
#define LAYOUT_LOCAL_APIC 0xfee00000u
#define LAYOUT_TSS 0xfffbd000u /* three pages that VT-x without unrestricted guest wants */

/* --- above 4 GiB --- */
#define LAYOUT_RAM_HIGH 0x100000000u
/* Persistent memory starts above the largest guest (20,853 MiB and the hole). */
#define LAYOUT_PMEM 0x600000000u
/* Linux maps device memory in subsections of 2 MiB; each region starts on a 1 GiB line of its own
 * so that the direct map can use large pages. */
#define LAYOUT_PMEM_ALIGN 0x40000000u
#define LAYOUT_PMEM_UNIT 0x200000u

/* --- interrupts (IOAPIC pins) and ports; devices/serial.h and ioapic.h have their own --- */
#define LAYOUT_IRQ_VIRTIO 5u       /* the n-th virtio device has pin 5 + n */
#define LAYOUT_PORT_KEYBOARD 0x64u /* a write of 0xfe is the guest's reboot */

/* At most: 10 GiB for the function, 10 GiB of /tmp, 32 MiB for the guest itself and a 60th. */
enum { LAYOUT_MEMORY_MIN_MIB = 64, LAYOUT_MEMORY_MAX_MIB = 20853, LAYOUT_VCPUS_MAX = 32 };

#endif
