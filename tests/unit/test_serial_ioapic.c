/* The serial port and the I/O APIC. MAYFLY_SERIAL_MB: output in the bounded-output test (1024). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "monitor/devices/ioapic.h"
#include "monitor/devices/serial.h"
#include "virtio_driver.h"

struct port {
    struct loop *loop;
    struct serial *serial;
    unsigned interrupts;
    int fd; /* where output goes, the test's own */
};

static void count(void *opaque)
{
    struct port *port = opaque;

    port->interrupts++;
}

static void begin(struct port *port, uint64_t limit)
{
    memset(port, 0, sizeof(*port));
    port->fd = memfd_create("console", MFD_CLOEXEC);
    struct serial_config config = {.output_fd = dup(port->fd), .limit_bytes = limit};
    struct irq_line irq = {.raise = count, .opaque = port};
    assert_int_equal(loop_new(&port->loop, NULL), 0);
    assert_int_equal(serial_new(&config, port->loop, irq, &port->serial, NULL), 0);
}

static void end(struct port *port)
{
    serial_free(port->serial);
    loop_free(port->loop);
    close(port->fd);
}

static void print(struct port *port, const char *text)
{
    for (; *text; text++)
        serial_write(port->serial, 0, (uint8_t)*text);
}

/* Waits until the loop has nothing to do for @ms. */
static void settle(struct port *port, int ms)
{
    while (loop_turn(port->loop, ms) > 0)
        ;
}

static void output_reaches_the_file(void **state)
{
    struct port port;
    char text[64] = {0};
    (void)state;

    begin(&port, 1000);
    print(&port, "hello\n");
    settle(&port, 100);
    assert_int_equal(pread(port.fd, text, sizeof(text), 0), 6);
    assert_string_equal(text, "hello\n");
    print(&port, "again");
    serial_flush(port.serial); /* at once */
    assert_int_equal(pread(port.fd, text, sizeof(text), 0), 11);
    end(&port);
}

static void limit_is_kept(void **state)
{
    struct port port;
    (void)state;

    begin(&port, 10);
    print(&port, "0123456789abcdef");
    settle(&port, 100);
    assert_int_equal(lseek(port.fd, 0, SEEK_END), 10);
    assert_int_equal(serial_counters(port.serial).written_bytes, 10);
    assert_int_equal(serial_counters(port.serial).dropped_bytes, 6);
    end(&port);
}

/* security.md figure 7. Nobody drains at first: the vCPU goes on all the same. */
static void endless_output(void **state)
{
    uint64_t total = test_count_from_env("MAYFLY_SERIAL_MB", 16) << 20;
    struct port port;
    (void)state;

    begin(&port, 1 << 20);
    for (uint64_t i = 0; i < total; i++) {
        serial_write(port.serial, 0, 'x');
        if (i > total / 2 && i % 4096 == 0)
            loop_turn(port.loop, 0);
    }
    settle(&port, 100);
    struct serial_counters counters = serial_counters(port.serial);
    assert_int_equal(counters.written_bytes + counters.dropped_bytes, total);
    assert_int_equal(lseek(port.fd, 0, SEEK_END), (off_t)counters.written_bytes);
    assert_true(counters.written_bytes <= 1 << 20);
    end(&port);
}

/* A pipe that nobody reads fills up; neither the vCPU nor the loop waits for it. */
static void full_pipe(void **state)
{
    struct port port;
    int pipe_fds[2];
    (void)state;

    begin(&port, UINT64_MAX);
    serial_free(port.serial);
    assert_int_equal(pipe(pipe_fds), 0);
    struct serial_config config = {.output_fd = pipe_fds[1], .limit_bytes = UINT64_MAX};
    struct irq_line irq = {.raise = count, .opaque = &port};
    assert_int_equal(serial_new(&config, port.loop, irq, &port.serial, NULL), 0);
    for (unsigned i = 0; i < 300000; i++) {
        serial_write(port.serial, 0, 'x');
        if (i % 10000 == 0)
            loop_turn(port.loop, 0);
    }
    for (unsigned i = 0; i < 10; i++)
        loop_turn(port.loop, 30);
    struct serial_counters counters = serial_counters(port.serial);
    assert_in_range(counters.written_bytes, 4096, 65536);
    assert_int_equal(counters.written_bytes + counters.dropped_bytes + SERIAL_RING_BYTES, 300000);
    close(pipe_fds[0]); /* the reader is gone: EPIPE, with SIGPIPE ignored as in the monitor */
    end(&port);
}

static void last_lines(void **state)
{
    struct port port;
    char line[40], text[5000];
    (void)state;

    begin(&port, 0);
    serial_last_line(port.serial, line, sizeof(line));
    assert_string_equal(line, "");
    print(&port, "Kernel panic - not syncing: why\r\n\r\n");
    serial_last_line(port.serial, line, sizeof(line));
    assert_string_equal(line, "Kernel panic - not syncing: why");
    serial_last_line(port.serial, line, 7);
    assert_string_equal(line, "Kernel");
    print(&port, "\x1b[31mred\xff");
    serial_last_line(port.serial, line, sizeof(line));
    assert_string_equal(line, "?[31mred?");
    for (unsigned i = 0; i < 10000; i++)
        print(&port, "y");
    serial_last_text(port.serial, text, sizeof(text));
    assert_int_equal(strlen(text), SERIAL_TEXT_BYTES);
    print(&port, "\nend");
    serial_last_text(port.serial, text, 6);
    assert_string_equal(text, "y\nend");
    end(&port);
}

/* What Linux' 8250 driver does to find a 16550A: autoconfig() and its tests. */
static void autodetection(void **state)
{
    struct port port;
    (void)state;

    begin(&port, 1000);
    serial_write(port.serial, 1, 0);
    assert_int_equal(serial_read(port.serial, 1), 0);
    serial_write(port.serial, 1, 0x0f);
    assert_int_equal(serial_read(port.serial, 1), 0x0f);
    serial_write(port.serial, 1, 0);
    serial_write(port.serial, 4, 0x10 | 0x0a); /* loopback: RTS and OUT2 */
    assert_int_equal(serial_read(port.serial, 6) & 0xf0, 0x90);
    serial_write(port.serial, 0, 0x55);
    assert_int_equal(serial_read(port.serial, 5), 0x61);
    assert_int_equal(serial_read(port.serial, 0), 0x55);
    assert_int_equal(serial_read(port.serial, 5), 0x60);
    serial_write(port.serial, 4, 0);
    serial_write(port.serial, 2, 1);
    assert_int_equal(serial_read(port.serial, 2) >> 6, 3); /* 16550A */
    serial_write(port.serial, 7, 0xa5);
    assert_int_equal(serial_read(port.serial, 7), 0xa5);
    serial_write(port.serial, 3, 0x83); /* divisor latch */
    serial_write(port.serial, 0, 0x01);
    serial_write(port.serial, 1, 0x02);
    assert_int_equal(serial_read(port.serial, 0), 0x01);
    assert_int_equal(serial_read(port.serial, 1), 0x02);
    serial_write(port.serial, 3, 0x03);
    assert_int_equal(serial_read(port.serial, 1), 0);
    serial_flush(port.serial);
    assert_int_equal(lseek(port.fd, 0, SEEK_END), 0); /* none of it was output */
    end(&port);
}

static void transmit_interrupts(void **state)
{
    struct port port;
    (void)state;

    begin(&port, 1000);
    serial_write(port.serial, 4, 0x08); /* OUT2 */
    serial_write(port.serial, 1, 0x02);
    assert_int_equal(port.interrupts, 1); /* the transmitter is empty */
    assert_int_equal(serial_read(port.serial, 2) & 0x0f, 0x02);
    assert_int_equal(serial_read(port.serial, 2) & 0x0f, 0x01);
    print(&port, "sixteen of these"); /* a FIFO full: one interrupt */
    assert_int_equal(port.interrupts, 2);
    assert_int_equal(serial_read(port.serial, 2) & 0x0f, 0x02);
    serial_write(port.serial, 1, 0);
    print(&port, "quiet");
    assert_int_equal(port.interrupts, 2);
    serial_write(port.serial, 4, 0);
    serial_write(port.serial, 1, 0x02); /* the line is gated off */
    assert_int_equal(port.interrupts, 2);
    serial_write(port.serial, 4, 0x08);
    assert_int_equal(port.interrupts, 3);
    end(&port);
}

static void serial_states(void **state)
{
    struct port port;
    struct serial_state saved, bad;
    struct error err;
    (void)state;

    begin(&port, 1000);
    serial_write(port.serial, 3, 0x1b);
    serial_write(port.serial, 7, 0x77);
    serial_get_state(port.serial, &saved);
    end(&port);
    begin(&port, 1000);
    bad = saved;
    bad.modem_control = 0xff;
    assert_int_equal(serial_set_state(port.serial, &bad, &err), -EINVAL);
    assert_int_equal(serial_set_state(port.serial, &saved, NULL), 0);
    assert_int_equal(serial_read(port.serial, 3), 0x1b);
    assert_int_equal(serial_read(port.serial, 7), 0x77);
    end(&port);
}

/* ---- I/O APIC ---- */

struct sink {
    unsigned messages;
    uint64_t address;
    uint32_t data;
};

static int take_message(void *opaque, uint64_t address, uint32_t data)
{
    struct sink *sink = opaque;

    sink->messages++;
    sink->address = address;
    sink->data = data;
    return 0;
}

static void ioapic_put(struct ioapic *ioapic, uint32_t index, uint32_t value)
{
    uint8_t data[4];

    store_le32(data, index);
    ioapic_write(ioapic, 0, data, 4);
    store_le32(data, value);
    ioapic_write(ioapic, 0x10, data, 4);
}

static uint32_t ioapic_get(struct ioapic *ioapic, uint32_t index)
{
    uint8_t data[4];

    store_le32(data, index);
    ioapic_write(ioapic, 0, data, 4);
    ioapic_read(ioapic, 0x10, data, 4);
    return load_le32(data);
}

static struct ioapic *new_ioapic(struct sink *sink)
{
    struct ioapic *ioapic;

    memset(sink, 0, sizeof(*sink));
    assert_int_equal(
        ioapic_new((struct msi_sink){.signal = take_message, .opaque = sink}, &ioapic, NULL), 0);
    return ioapic;
}

static void ioapic_registers(void **state)
{
    struct sink sink;
    struct ioapic *ioapic = new_ioapic(&sink);
    (void)state;

    assert_int_equal(ioapic_get(ioapic, 1), 0x00170011);
    ioapic_put(ioapic, 1, 0xffffffff);
    assert_int_equal(ioapic_get(ioapic, 1), 0x00170011);
    ioapic_put(ioapic, 0, 0xffffffff);
    assert_int_equal(ioapic_get(ioapic, 0), 0x0f000000);
    assert_int_equal(ioapic_get(ioapic, 2), 0x0f000000);
    for (uint32_t i = 0; i < 24; i++)
        assert_int_equal(ioapic_get(ioapic, 0x10 + 2 * i), 0x10000);
    ioapic_put(ioapic, 0x10, 0xffffffff); /* read-only bits stay clear */
    assert_int_equal(ioapic_get(ioapic, 0x10), 0x0001afff);
    ioapic_put(ioapic, 0x11, 0xffffffff);
    assert_int_equal(ioapic_get(ioapic, 0x11), 0xff000000);
    ioapic_put(ioapic, 0x40, 0x31); /* behind the table */
    assert_int_equal(ioapic_get(ioapic, 0x40), 0);
    /* Every offset and width has a result. */
    for (uint64_t offset = 0; offset < 0x100; offset++) {
        for (unsigned width = 1; width <= 8; width *= 2) {
            uint8_t data[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

            ioapic_read(ioapic, offset, data, width);
            if (width != 4 || (offset != 0 && offset != 0x10))
                assert_int_equal(data[0], 0);
            ioapic_write(ioapic, offset, data, width);
        }
    }
    assert_int_equal(sink.messages, 0);
    ioapic_free(ioapic);
}

static void ioapic_messages(void **state)
{
    struct sink sink;
    struct ioapic *ioapic = new_ioapic(&sink);
    (void)state;

    ioapic_put(ioapic, 0x10 + 2 * 5 + 1, 0x03000000);
    ioapic_put(ioapic, 0x10 + 2 * 5, 0x00000041);
    ioapic_pulse(ioapic, 5);
    assert_int_equal(sink.messages, 1);
    assert_int_equal(sink.address, 0xfee03000);
    assert_int_equal(sink.data, 0x41);
    ioapic_put(ioapic, 0x10 + 2 * 5, 0x0000a942); /* logical, lowest priority, low, level */
    ioapic_pulse(ioapic, 5);
    assert_int_equal(sink.address, 0xfee03004);
    assert_int_equal(sink.data, 0x142); /* an edge all the same */
    ioapic_pulse(ioapic, 5);
    assert_int_equal(sink.messages, 3); /* and no remote IRR to wait for */
    assert_int_equal(ioapic_get(ioapic, 0x10 + 2 * 5), 0xa942);
    ioapic_put(ioapic, 0x10 + 2 * 5, 0x00000005); /* no legal vector */
    ioapic_pulse(ioapic, 5);
    ioapic_put(ioapic, 0x10 + 2 * 5, 0x00000741); /* ExtINT: there is no PIC */
    ioapic_pulse(ioapic, 5);
    ioapic_pulse(ioapic, 24);
    ioapic_pulse(ioapic, UINT32_MAX);
    assert_int_equal(sink.messages, 3);
    ioapic_put(ioapic, 0x10 + 2 * 5, 0x00000400); /* NMI has no vector */
    ioapic_pulse(ioapic, 5);
    assert_int_equal(sink.data, 0x400);
    ioapic_free(ioapic);
}

static void ioapic_masked_pin_remembers(void **state)
{
    struct sink sink;
    struct ioapic *ioapic = new_ioapic(&sink);
    struct ioapic_state saved, bad;
    struct error err;
    (void)state;

    ioapic_pulse(ioapic, 7);
    ioapic_pulse(ioapic, 7);
    assert_int_equal(sink.messages, 0);
    ioapic_get_state(ioapic, &saved);
    assert_int_equal(saved.pending, 1 << 7);
    ioapic_free(ioapic);
    ioapic = new_ioapic(&sink);
    bad = saved;
    bad.pending |= 1u << 24;
    assert_int_equal(ioapic_set_state(ioapic, &bad, &err), -EINVAL);
    bad = saved;
    bad.entries[3] |= 1 << 14;
    assert_int_equal(ioapic_set_state(ioapic, &bad, &err), -EINVAL);
    bad = saved;
    bad.id = 1;
    assert_int_equal(ioapic_set_state(ioapic, &bad, &err), -EINVAL);
    assert_int_equal(ioapic_set_state(ioapic, &saved, NULL), 0);
    ioapic_put(ioapic, 0x10 + 2 * 7, 0x00010030);
    assert_int_equal(sink.messages, 0);
    ioapic_put(ioapic, 0x10 + 2 * 7, 0x00000030);
    assert_int_equal(sink.messages, 1); /* one edge, however many came */
    ioapic_put(ioapic, 0x10 + 2 * 7, 0x00000030);
    assert_int_equal(sink.messages, 1);
    ioapic_free(ioapic);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_reaches_the_file),
        cmocka_unit_test(limit_is_kept),
        cmocka_unit_test(endless_output),
        cmocka_unit_test(full_pipe),
        cmocka_unit_test(last_lines),
        cmocka_unit_test(autodetection),
        cmocka_unit_test(transmit_interrupts),
        cmocka_unit_test(serial_states),
        cmocka_unit_test(ioapic_registers),
        cmocka_unit_test(ioapic_messages),
        cmocka_unit_test(ioapic_masked_pin_remembers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
