/*
 * A 16550A serial port, output only: the guest's console.
 *
 * Process: mayfly-vmm. Trust: a hostile vCPU writes registers and output. Invariant: a vCPU never
 * waits for whoever reads the console; what does not fit the ring or the limit is dropped and
 * counted. The process ignores SIGPIPE: the reader of a pipe may go away.
 *
 * Threads: serial_read/_write and the text functions on any thread (one mutex); draining on the
 * loop thread. The line's raise() is called with the mutex held.
 */
#ifndef MAYFLY_MONITOR_DEVICES_SERIAL_H
#define MAYFLY_MONITOR_DEVICES_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "monitor/devices/virtio_mmio.h" /* struct irq_line */

enum {
    SERIAL_PORT_BASE = 0x3f8, /* COM1 */
    SERIAL_PORT_COUNT = 8,
    SERIAL_IRQ = 4,
    SERIAL_RING_BYTES = 65536,
    SERIAL_TEXT_BYTES = 4096,
};

struct serial; /* opaque */

struct serial_config {
    int output_fd;        /* owned once serial_new() succeeded; a file or a pipe */
    uint64_t limit_bytes; /* never more than this is written to it */
};

struct serial_counters {
    uint64_t written_bytes; /* to the descriptor */
    uint64_t dropped_bytes; /* ring full, limit reached, or the descriptor failed */
};

/* serial_new - returns 0 or -errno. Loop thread. */
int serial_new(const struct serial_config *config, struct loop *loop, struct irq_line irq,
               struct serial **ret_serial, struct error *err);

/* serial_free - writes out what the descriptor takes at once; takes NULL. Loop thread. */
void serial_free(struct serial *serial);

/* serial_read / _write - one port access. @port: 0 to 7, from the base. Any thread. Wider accesses
 * than a byte are the caller's to split. Source: PC16550D data sheet, §8. */
uint8_t serial_read(struct serial *serial, unsigned port);
void serial_write(struct serial *serial, unsigned port, uint8_t value);

/* serial_flush - write out what is buffered, as far as the descriptor takes it at once. Loop
 * thread: before an event about the guest's end is reported. */
void serial_flush(struct serial *serial);

/* serial_last_line - the last line that is not empty, printable ASCII only, cut to @size; "" if
 * there is none. serial_last_text - the last SERIAL_TEXT_BYTES or less, likewise, with newlines.
 * Both terminate. Any thread. */
void serial_last_line(struct serial *serial, char *ret_line, size_t size);
void serial_last_text(struct serial *serial, char *ret_text, size_t size);

struct serial_counters serial_counters(struct serial *serial);

/* For snapshots: registers only; output is the host's. _set returns 0, or -EINVAL. */
struct serial_state {
    uint8_t interrupt_enable;
    uint8_t line_control;
    uint8_t modem_control;
    uint8_t scratch;
    uint8_t fifo_control;
    uint8_t divisor_low;
    uint8_t divisor_high;
    uint8_t transmit_pending; /* 0 or 1: the "transmitter empty" interrupt is not yet seen */
    uint8_t loopback_full;    /* 0 or 1 */
    uint8_t loopback_byte;
};

void serial_get_state(struct serial *serial, struct serial_state *ret_state);
int serial_set_state(struct serial *serial, const struct serial_state *state, struct error *err);

#endif
