/* An I/O APIC: see ioapic.h. Section numbers are of the 82093AA data sheet. */
#include "ioapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

enum {
    OFFSET_SELECT = 0x00,
    OFFSET_WINDOW = 0x10,

    INDEX_ID = 0x00,
    INDEX_VERSION = 0x01,
    INDEX_ARBITRATION = 0x02,
    INDEX_TABLE = 0x10, /* two registers a pin */

    VERSION = 0x11 | (IOAPIC_PINS - 1) << 16,
    ID_MASK = 0x0f000000,
    SELECT_MASK = 0xff,

    MODE_FIXED = 0,
    MODE_LOWEST_PRIORITY = 1,
    MODE_NMI = 4,
    FIRST_VECTOR = 16, /* lower ones are illegal: SDM 3A §11.5.2 */
};

/* §3.2.4: a redirection entry. */
#define ENTRY_VECTOR UINT64_C(0xff)
#define ENTRY_MODE_SHIFT 8
#define ENTRY_LOGICAL (UINT64_C(1) << 11)
#define ENTRY_MASKED (UINT64_C(1) << 16)
#define ENTRY_DESTINATION_SHIFT 56
/* Writable: vector, delivery and destination mode, polarity, trigger mode, mask, destination; not
 * delivery status (12) and remote IRR (14), which therefore stay 0. */
#define ENTRY_WRITABLE (UINT64_C(0xff00000000000000) | UINT64_C(0x1afff))

struct ioapic {
    struct msi_sink sink;
    pthread_mutex_t lock; /* at */
    struct ioapic_state at;
};

/* SDM 3A §11.11: the message of @entry. Always an edge: see the header. */
static void send_message(const struct ioapic *ioapic, uint64_t entry)
{
    uint32_t mode = (entry >> ENTRY_MODE_SHIFT) & 7;
    uint32_t vector = (uint32_t)(entry & ENTRY_VECTOR);
    uint64_t destination = entry >> ENTRY_DESTINATION_SHIFT;
    uint64_t address = UINT64_C(0xfee00000) | destination << 12;

    /* SMI, INIT and ExtINT are of no use to a guest here, and a vector below 16 would only put an
     * error into its local APIC: dropped. */
    if (mode != MODE_NMI &&
        ((mode != MODE_FIXED && mode != MODE_LOWEST_PRIORITY) || vector < FIRST_VECTOR))
        return;
    if (entry & ENTRY_LOGICAL)
        address |= 1 << 2;
    /* A failure is a guest that has its local APIC off: like a wire that leads nowhere. */
    (void)ioapic->sink.signal(ioapic->sink.opaque, address, mode << 8 | vector);
}

void ioapic_pulse(struct ioapic *ioapic, unsigned pin)
{
    if (pin >= IOAPIC_PINS)
        return;
    pthread_mutex_lock(&ioapic->lock);
    if (ioapic->at.entries[pin] & ENTRY_MASKED)
        ioapic->at.pending |= UINT32_C(1) << pin;
    else
        send_message(ioapic, ioapic->at.entries[pin]);
    pthread_mutex_unlock(&ioapic->lock);
}

static uint32_t read_indexed(const struct ioapic *ioapic)
{
    uint32_t index = ioapic->at.select;

    if (index >= INDEX_TABLE && index < INDEX_TABLE + 2 * IOAPIC_PINS) {
        uint64_t entry = ioapic->at.entries[(index - INDEX_TABLE) / 2];

        return (uint32_t)(index % 2 ? entry >> 32 : entry);
    }
    switch (index) {
    case INDEX_ID:
    case INDEX_ARBITRATION:
        return ioapic->at.id;
    case INDEX_VERSION:
        return VERSION;
    default:
        return 0;
    }
}

static void write_entry(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t entry = ioapic->at.entries[pin];

    if (high)
        entry = (entry & UINT32_MAX) | (uint64_t)value << 32;
    else
        entry = (entry & ~(uint64_t)UINT32_MAX) | value;
    entry &= ENTRY_WRITABLE;
    ioapic->at.entries[pin] = entry;
    if (!(entry & ENTRY_MASKED) && (ioapic->at.pending & UINT32_C(1) << pin)) {
        ioapic->at.pending &= ~(UINT32_C(1) << pin);
        send_message(ioapic, entry);
    }
}

static void write_indexed(struct ioapic *ioapic, uint32_t value)
{
    uint32_t index = ioapic->at.select;

    if (index >= INDEX_TABLE && index < INDEX_TABLE + 2 * IOAPIC_PINS)
        write_entry(ioapic, (index - INDEX_TABLE) / 2, index % 2, value);
    else if (index == INDEX_ID)
        ioapic->at.id = value & ID_MASK;
}

void ioapic_read(struct ioapic *ioapic, uint64_t offset, uint8_t *data, unsigned len_bytes)
{
    uint32_t value = 0;

    memset(data, 0, len_bytes);
    if (len_bytes != 4)
        return;
    pthread_mutex_lock(&ioapic->lock);
    if (offset == OFFSET_SELECT)
        value = ioapic->at.select;
    else if (offset == OFFSET_WINDOW)
        value = read_indexed(ioapic);
    pthread_mutex_unlock(&ioapic->lock);
    store_le32(data, value);
}

void ioapic_write(struct ioapic *ioapic, uint64_t offset, const uint8_t *data, unsigned len_bytes)
{
    if (len_bytes != 4)
        return;
    uint32_t value = load_le32(data);

    pthread_mutex_lock(&ioapic->lock);
    if (offset == OFFSET_SELECT)
        ioapic->at.select = value & SELECT_MASK;
    else if (offset == OFFSET_WINDOW)
        write_indexed(ioapic, value);
    pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_get_state(struct ioapic *ioapic, struct ioapic_state *ret_state)
{
    pthread_mutex_lock(&ioapic->lock);
    *ret_state = ioapic->at;
    pthread_mutex_unlock(&ioapic->lock);
}

int ioapic_set_state(struct ioapic *ioapic, const struct ioapic_state *state, struct error *err)
{
    bool possible = !(state->id & ~(uint32_t)ID_MASK) && state->select <= SELECT_MASK &&
                    state->pending >> IOAPIC_PINS == 0;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = state->entries[pin];

        possible &= !(entry & ~ENTRY_WRITABLE);
        possible &= (entry & ENTRY_MASKED) || !(state->pending & UINT32_C(1) << pin);
    }
    if (!possible)
        return error_say(err, EINVAL, "state of the I/O APIC has impossible bits");
    pthread_mutex_lock(&ioapic->lock);
    ioapic->at = *state;
    pthread_mutex_unlock(&ioapic->lock);
    return 0;
}

int ioapic_new(struct msi_sink sink, struct ioapic **ret_ioapic, struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
    int r = ioapic ? -pthread_mutex_init(&ioapic->lock, NULL) : -ENOMEM;

    if (r < 0) {
        free(ioapic);
        return error_set(err, -r, "make I/O APIC");
    }
    ioapic->sink = sink;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->at.entries[pin] = ENTRY_MASKED;
    *ret_ioapic = ioapic;
    return 0;
}

void ioapic_free(struct ioapic *ioapic)
{
    if (!ioapic)
        return;
    pthread_mutex_destroy(&ioapic->lock);
    free(ioapic);
}
