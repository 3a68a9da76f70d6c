/* Serial port and I/O APIC under arbitrary accesses. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/bytes.h"
#include "monitor/devices/ioapic.h"
#include "monitor/devices/serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int sink(void *opaque, uint64_t address, uint32_t data)
{
    unsigned *messages = opaque;

    if ((address & ~UINT64_C(0xff004)) != 0xfee00000 || (data & ~UINT32_C(0x7ff)) != 0)
        abort(); /* not a message that an I/O APIC sends */
    (*messages)++;
    return 0;
}

static void raise_pin(void *opaque)
{
    ioapic_pulse(opaque, SERIAL_IRQ);
}

static void step(struct serial *serial, struct ioapic *ioapic, struct loop *loop, const uint8_t *op)
{
    struct serial_state serial_state;
    struct ioapic_state ioapic_state;
    uint8_t data[8];
    char text[100];

    memcpy(data, op + 2, 4);
    memset(data + 4, op[2], 4);
    switch (op[0] % 8) {
    case 0:
    case 1:
        serial_write(serial, op[1] % 8, op[2]);
        break;
    case 2:
        serial_read(serial, op[1] % 8);
        break;
    case 3:
        ioapic_write(ioapic, op[1] % 2 ? 0x10 : 0, data, 4);
        break;
    case 4:
        ioapic_read(ioapic, op[1], data, 1u << op[2] % 4);
        ioapic_write(ioapic, op[3], data, 1u << op[4] % 4);
        break;
    case 5:
        ioapic_pulse(ioapic, op[1]);
        break;
    case 6:
        serial_last_line(serial, text, op[1] % sizeof(text));
        serial_last_text(serial, text, op[2] % sizeof(text));
        loop_turn(loop, 0);
        break;
    default:
        serial_get_state(serial, &serial_state);
        ((uint8_t *)&serial_state)[op[1] % sizeof(serial_state)] = op[2];
        serial_set_state(serial, &serial_state, NULL);
        ioapic_get_state(ioapic, &ioapic_state);
        ((uint8_t *)&ioapic_state)[op[3] % sizeof(ioapic_state)] = op[4];
        ioapic_set_state(ioapic, &ioapic_state, NULL);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct loop *loop;
    struct serial *serial;
    struct ioapic *ioapic;
    unsigned messages = 0;

    if (loop_new(&loop, NULL) < 0 ||
        ioapic_new((struct msi_sink){.signal = sink, .opaque = &messages}, &ioapic, NULL) < 0)
        abort();
    struct serial_config config = {.output_fd = memfd_create("console", MFD_CLOEXEC),
                                   .limit_bytes = 1000};
    if (serial_new(&config, loop, (struct irq_line){.raise = raise_pin, .opaque = ioapic}, &serial,
                   NULL) < 0)
        abort();
    for (size_t i = 0; i + 6 <= size; i += 6)
        step(serial, ioapic, loop, data + i);
    serial_free(serial);
    ioapic_free(ioapic);
    loop_free(loop);
    return 0;
}
