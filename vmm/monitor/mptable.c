/* The MP table: see mptable.h. Built in a buffer of our own, then copied to the guest once. */
#include "mptable.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/bytes.h"
#include "devices/ioapic.h"
#include "layout.h"

enum {
    TABLE_SIZE = 0x400,
    POINTER_LEN = 16,
    HEADER_LEN = 44,
    ENTRY_PROCESSOR = 0,
    ENTRY_BUS = 1,
    ENTRY_IOAPIC = 2,
    ENTRY_IO_INTERRUPT = 3,
    ENTRY_LOCAL_INTERRUPT = 4,
    INTERRUPT_INT = 0,
    INTERRUPT_NMI = 1,
    INTERRUPT_EXTINT = 3,
    APIC_VERSION = 0x14,
    IOAPIC_VERSION = 0x11,
    ALL_APICS = 0xff,
    /* Active high, edge triggered: what ioapic_pulse() delivers. */
    FLAGS_EDGE_HIGH = 0x5,
};

struct table {
    uint8_t bytes[TABLE_SIZE];
    size_t used;
    uint16_t entries;
    bool full;
};

static uint8_t *add_entry(struct table *table, uint8_t type, size_t len)
{
    static uint8_t overflow[32];

    if (table->used + len > sizeof(table->bytes)) {
        table->full = true;
        return overflow;
    }
    uint8_t *entry = table->bytes + table->used;
    entry[0] = type;
    table->used += len;
    table->entries++;
    return entry;
}

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
    unsigned sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += bytes[i];
    return (uint8_t)(0x100 - (sum & 0xff));
}

static void add_processor(struct table *table, unsigned index)
{
    uint8_t *entry = add_entry(table, ENTRY_PROCESSOR, 20);

    entry[1] = (uint8_t)index;
    entry[2] = APIC_VERSION;
    entry[3] = (uint8_t)(1 | (index == 0 ? 2 : 0)); /* enabled, boot processor */
    store_le32(entry + 4, 0x600);                   /* signature: any family 6 */
    store_le32(entry + 8, 0x201);                   /* features: FPU, APIC */
}

static void add_io_interrupt(struct table *table, unsigned pin, uint8_t ioapic_id)
{
    uint8_t *entry = add_entry(table, ENTRY_IO_INTERRUPT, 8);

    entry[1] = INTERRUPT_INT;
    store_le16(entry + 2, FLAGS_EDGE_HIGH);
    entry[5] = (uint8_t)pin; /* ISA bus 0, IRQ = pin */
    entry[6] = ioapic_id;
    entry[7] = (uint8_t)pin;
}

static void add_local_interrupt(struct table *table, uint8_t type, uint8_t lint)
{
    uint8_t *entry = add_entry(table, ENTRY_LOCAL_INTERRUPT, 8);

    entry[1] = type;
    entry[6] = ALL_APICS;
    entry[7] = lint;
}

int mptable_write(const struct guest_memory *memory, unsigned vcpus)
{
    struct table table = {.used = POINTER_LEN + HEADER_LEN};
    uint8_t *pointer = table.bytes, *header = table.bytes + POINTER_LEN;
    uint8_t ioapic_id = (uint8_t)vcpus;

    for (unsigned i = 0; i < vcpus; i++)
        add_processor(&table, i);
    memcpy(add_entry(&table, ENTRY_BUS, 8) + 2, "ISA   ", 6);
    uint8_t *ioapic = add_entry(&table, ENTRY_IOAPIC, 8);
    ioapic[1] = ioapic_id;
    ioapic[2] = IOAPIC_VERSION;
    ioapic[3] = 1; /* usable */
    store_le32(ioapic + 4, (uint32_t)IOAPIC_BASE);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        add_io_interrupt(&table, pin, ioapic_id);
    add_local_interrupt(&table, INTERRUPT_EXTINT, 0);
    add_local_interrupt(&table, INTERRUPT_NMI, 1);
    if (table.full)
        return -ENOSPC;

    memcpy(header, "PCMP", 4);
    store_le16(header + 4, (uint16_t)(table.used - POINTER_LEN));
    header[6] = 4; /* specification 1.4 */
    memcpy(header + 8, "MAYFLY  MICROVM     ", 20);
    store_le16(header + 34, table.entries);
    store_le32(header + 36, LAYOUT_LOCAL_APIC);
    header[7] = checksum(header, table.used - POINTER_LEN);

    memcpy(pointer, "_MP_", 4);
    store_le32(pointer + 4, LAYOUT_MP_TABLE + POINTER_LEN);
    pointer[8] = 1; /* length in 16-byte units */
    pointer[9] = 4;
    pointer[10] = checksum(pointer, POINTER_LEN);
    return guest_memory_write(memory, gpa(LAYOUT_MP_TABLE), table.bytes, sizeof(table.bytes));
}
