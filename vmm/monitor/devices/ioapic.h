/*
 * An I/O APIC of 24 pins (Intel 82093AA, version 0x11), which turns pins into MSIs.
 *
 * Process: mayfly-vmm, whose KVM has a split interrupt controller: local APICs in the kernel, this
 * here. Trust: hostile vCPUs write the registers. Every pin is an edge: a redirection entry that
 * says "level" is delivered as an edge and its remote IRR never set, which is right as long as
 * each device signals every event, as ours do; no EOI has to reach us.
 *
 * Threads: all functions on any thread; one mutex, held while the sink is called.
 */
#ifndef MAYFLY_MONITOR_DEVICES_IOAPIC_H
#define MAYFLY_MONITOR_DEVICES_IOAPIC_H

#include <stdint.h>

#include "common/error.h"

#define IOAPIC_BASE UINT64_C(0xfec00000)

enum {
    IOAPIC_SIZE_BYTES = 0x1000,
    IOAPIC_PINS = 24,
};

struct ioapic; /* opaque */

/* Where interrupts go: KVM_SIGNAL_MSI. Returns < 0 if it could not be done. */
struct msi_sink {
    int (*signal)(void *opaque, uint64_t address, uint32_t data);
    void *opaque; /* borrowed: outlives the IOAPIC */
};

struct ioapic_state {
    uint32_t id;
    uint32_t select;               /* IOREGSEL */
    uint32_t pending;              /* a bit a pin: an edge that came while it was masked */
    uint64_t entries[IOAPIC_PINS]; /* redirection table */
};

/* ioapic_new - all pins masked. Returns 0 or -errno. */
int ioapic_new(struct msi_sink sink, struct ioapic **ret_ioapic, struct error *err);

void ioapic_free(struct ioapic *ioapic);

/* ioapic_read / _write - one access at @offset from the base; only aligned 4-byte ones do
 * anything, other reads give zeros. Source: 82093AA data sheet §3. */
void ioapic_read(struct ioapic *ioapic, uint64_t offset, uint8_t *data, unsigned len_bytes);
void ioapic_write(struct ioapic *ioapic, uint64_t offset, const uint8_t *data, unsigned len_bytes);

/* ioapic_pulse - an edge on @pin. A masked pin remembers one, delivered when it is unmasked. */
void ioapic_pulse(struct ioapic *ioapic, unsigned pin);

/* For snapshots. _set: -EINVAL for bits that no driver could have written; sends nothing. */
void ioapic_get_state(struct ioapic *ioapic, struct ioapic_state *ret_state);
int ioapic_set_state(struct ioapic *ioapic, const struct ioapic_state *state, struct error *err);

#endif
