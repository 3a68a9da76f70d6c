/* A 16550A, output only: see serial.h. */
#include "serial.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "common/fd.h"

/* PC16550D §8: ports, and the bits that Linux' 8250 driver looks at. */
enum {
    PORT_DATA = 0, /* THR, RBR; divisor low */
    PORT_IER = 1,  /* divisor high */
    PORT_IIR_FCR = 2,
    PORT_LCR = 3,
    PORT_MCR = 4,
    PORT_LSR = 5,
    PORT_MSR = 6,
    PORT_SCR = 7,

    IER_RECEIVE = 0x01,
    IER_TRANSMIT = 0x02,
    IER_MASK = 0x0f,
    IIR_NONE = 0x01,
    IIR_TRANSMIT = 0x02,
    IIR_RECEIVE = 0x04,
    IIR_FIFO = 0xc0,
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVE = 0x02,
    FCR_MASK = 0xc9, /* what is kept: trigger level, DMA mode, enable */
    LCR_DIVISOR = 0x80,
    MCR_OUT2 = 0x08, /* gates the interrupt line on a PC */
    MCR_LOOP = 0x10,
    MCR_MASK = 0x1f,
    LSR_DATA = 0x01,
    LSR_TRANSMIT_EMPTY = 0x60, /* THRE and TEMT: a byte is gone as soon as it is written */
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

enum {
    /* Output is gathered for so long before it is written. */
    DRAIN_DELAY_MS = 10,
    /* A pipe that polls writable takes this much without blocking: pipe(7), PIPE_BUF. */
    PIPE_CHUNK_BYTES = 4096,
};

struct serial {
    struct loop *loop; /* borrowed */
    struct irq_line irq;
    int output_fd; /* owned */
    bool output_is_file;
    uint64_t limit_bytes;
    int wake_fd; /* owned eventfd: output waits */
    struct loop_source *wake_source;
    struct loop_source *drain_timer; /* loop thread */

    pthread_mutex_t lock; /* all below */
    struct serial_state at;
    struct serial_counters counters;
    size_t ring_start; /* of the oldest byte */
    size_t ring_used;
    uint64_t text_total; /* bytes ever put into text[] */
    uint8_t ring[SERIAL_RING_BYTES];
    uint8_t text[SERIAL_TEXT_BYTES]; /* circular: the last of the output, dropped or not */
};

/* ---- output ---- */

static void wake(const struct serial *serial)
{
    uint64_t one = 1;
    ssize_t n = write(serial->wake_fd, &one, sizeof(one));

    (void)n; /* EAGAIN: it is being woken */
}

static void put_byte(struct serial *serial, uint8_t byte)
{
    serial->text[serial->text_total++ % SERIAL_TEXT_BYTES] = byte;
    if (serial->ring_used == SERIAL_RING_BYTES) {
        serial->counters.dropped_bytes++;
        return;
    }
    serial->ring[(serial->ring_start + serial->ring_used) % SERIAL_RING_BYTES] = byte;
    serial->ring_used++;
    /* The first byte starts the timer; a ring that fills up is drained at once. */
    if (serial->ring_used == 1 || serial->ring_used == SERIAL_RING_BYTES / 2)
        wake(serial);
}

/* How much may be written now without blocking; 0: nothing. */
static size_t writable_bytes(const struct serial *serial, size_t wanted)
{
    struct pollfd pollfd = {.fd = serial->output_fd, .events = POLLOUT};

    if (serial->output_is_file)
        return wanted;
    if (poll(&pollfd, 1, 0) != 1)
        return 0;
    return wanted < PIPE_CHUNK_BYTES ? wanted : PIPE_CHUNK_BYTES;
}

static void drop_front(struct serial *serial, size_t bytes)
{
    serial->ring_start = (serial->ring_start + bytes) % SERIAL_RING_BYTES;
    serial->ring_used -= bytes;
}

/*
 * Writes one stretch of the ring; returns false when there is no more, or no room for it.
 * The mutex is not held while writing: vCPUs only append, so the stretch stays as it is.
 */
static bool drain_some(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    size_t start = serial->ring_start;
    size_t wanted = SERIAL_RING_BYTES - start;
    if (wanted > serial->ring_used)
        wanted = serial->ring_used;
    uint64_t allowed = serial->limit_bytes - serial->counters.written_bytes;
    pthread_mutex_unlock(&serial->lock);

    if (wanted == 0)
        return false;
    ssize_t n = -1;
    bool give_up = allowed == 0;
    if (!give_up) {
        size_t len = writable_bytes(serial, wanted < allowed ? wanted : (size_t)allowed);

        if (len == 0)
            return false;
        n = write(serial->output_fd, serial->ring + start, len);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            return false;
        give_up = n <= 0; /* a full disk, a closed pipe: the guest goes on all the same */
    }
    pthread_mutex_lock(&serial->lock);
    if (give_up) {
        serial->counters.dropped_bytes += wanted;
        drop_front(serial, wanted);
    } else {
        serial->counters.written_bytes += (uint64_t)n;
        drop_front(serial, (size_t)n);
    }
    pthread_mutex_unlock(&serial->lock);
    return true;
}

/* Two turns of the ring at most: a guest that prints without end does not hold the loop. */
void serial_flush(struct serial *serial)
{
    unsigned stretches = 2 * SERIAL_RING_BYTES / PIPE_CHUNK_BYTES;

    while (stretches-- > 0 && drain_some(serial))
        ;
}

static void on_drain_timer(void *opaque, uint32_t events);

static void drain_later(struct serial *serial)
{
    if (!serial->drain_timer && loop_add_timer(serial->loop, DRAIN_DELAY_MS, on_drain_timer, serial,
                                               &serial->drain_timer) < 0) {
        serial->drain_timer = NULL;
        serial_flush(serial);
    }
}

static size_t waiting_bytes(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    size_t used = serial->ring_used;
    pthread_mutex_unlock(&serial->lock);
    return used;
}

static void on_drain_timer(void *opaque, uint32_t events)
{
    struct serial *serial = opaque;

    (void)events;
    loop_remove(serial->drain_timer);
    serial->drain_timer = NULL;
    serial_flush(serial);
    if (waiting_bytes(serial) > 0)
        drain_later(serial);
}

static void on_wake(void *opaque, uint32_t events)
{
    struct serial *serial = opaque;
    uint64_t count;

    (void)events;
    if (read(serial->wake_fd, &count, sizeof(count)) < 0)
        return;
    if (waiting_bytes(serial) >= SERIAL_RING_BYTES / 2)
        serial_flush(serial);
    if (waiting_bytes(serial) > 0)
        drain_later(serial);
}

/* ---- registers ---- */

/* The cause that IIR shows: the highest of those enabled. */
static uint8_t interrupt_cause(const struct serial_state *at)
{
    if ((at->interrupt_enable & IER_RECEIVE) && at->loopback_full)
        return IIR_RECEIVE;
    if ((at->interrupt_enable & IER_TRANSMIT) && at->transmit_pending)
        return IIR_TRANSMIT;
    return IIR_NONE;
}

/* An edge for a cause that was not there @before: further bytes while the driver has not yet
 * looked at IIR cost no further interrupts. */
static void update_line(struct serial *serial, uint8_t before)
{
    uint8_t now = interrupt_cause(&serial->at);

    if (now != IIR_NONE && now != before && (serial->at.modem_control & MCR_OUT2) &&
        !(serial->at.modem_control & MCR_LOOP))
        serial->irq.raise(serial->irq.opaque);
}

static uint8_t modem_status(const struct serial_state *at)
{
    uint8_t mcr = at->modem_control;

    if (!(mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD; /* a terminal that is always there */
    /* §8.6.7: RTS, DTR, OUT1 and OUT2 come back as CTS, DSR, RI and DCD. */
    return (uint8_t)((mcr & 0x02 ? MSR_CTS : 0) | (mcr & 0x01 ? MSR_DSR : 0) |
                     (mcr & 0x04 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static uint8_t read_locked(struct serial *serial, unsigned port)
{
    struct serial_state *at = &serial->at;
    bool divisor = at->line_control & LCR_DIVISOR;
    uint8_t cause;

    switch (port) {
    case PORT_DATA:
        if (divisor)
            return at->divisor_low;
        at->loopback_full = 0;
        return at->loopback_byte;
    case PORT_IER:
        return divisor ? at->divisor_high : at->interrupt_enable;
    case PORT_IIR_FCR:
        cause = interrupt_cause(at);
        if (cause == IIR_TRANSMIT)
            at->transmit_pending = 0; /* reading it takes it away */
        return cause | (at->fifo_control & FCR_ENABLE ? IIR_FIFO : 0);
    case PORT_LCR:
        return at->line_control;
    case PORT_MCR:
        return at->modem_control;
    case PORT_LSR:
        return LSR_TRANSMIT_EMPTY | (at->loopback_full ? LSR_DATA : 0);
    case PORT_MSR:
        return modem_status(at);
    default:
        return at->scratch;
    }
}

uint8_t serial_read(struct serial *serial, unsigned port)
{
    pthread_mutex_lock(&serial->lock);
    uint8_t value = read_locked(serial, port % SERIAL_PORT_COUNT);
    pthread_mutex_unlock(&serial->lock);
    return value;
}

static void transmit(struct serial *serial, uint8_t value)
{
    struct serial_state *at = &serial->at;

    if (at->modem_control & MCR_LOOP) {
        at->loopback_byte = value;
        at->loopback_full = 1;
    } else {
        put_byte(serial, value);
    }
    at->transmit_pending = 1;
}

static void write_locked(struct serial *serial, unsigned port, uint8_t value)
{
    struct serial_state *at = &serial->at;
    bool divisor = at->line_control & LCR_DIVISOR;

    switch (port) {
    case PORT_DATA:
        if (divisor)
            at->divisor_low = value;
        else
            transmit(serial, value);
        break;
    case PORT_IER:
        if (divisor) {
            at->divisor_high = value;
            break;
        }
        /* Enabling the transmit interrupt with an empty transmitter causes one. */
        if ((value & IER_TRANSMIT) && !(at->interrupt_enable & IER_TRANSMIT))
            at->transmit_pending = 1;
        at->interrupt_enable = value & IER_MASK;
        break;
    case PORT_IIR_FCR:
        if (value & FCR_CLEAR_RECEIVE)
            at->loopback_full = 0;
        at->fifo_control = value & FCR_MASK;
        break;
    case PORT_LCR:
        at->line_control = value;
        break;
    case PORT_MCR:
        at->modem_control = value & MCR_MASK;
        break;
    case PORT_SCR:
        at->scratch = value;
        break;
    default:
        break; /* LSR and MSR are read-only */
    }
}

void serial_write(struct serial *serial, unsigned port, uint8_t value)
{
    pthread_mutex_lock(&serial->lock);
    uint8_t before = interrupt_cause(&serial->at);
    /* With the line gated off no cause has been signalled: the gate opening is the edge. */
    if (!(serial->at.modem_control & MCR_OUT2) || (serial->at.modem_control & MCR_LOOP))
        before = IIR_NONE;
    write_locked(serial, port % SERIAL_PORT_COUNT, value);
    update_line(serial, before);
    pthread_mutex_unlock(&serial->lock);
}

/* ---- text ---- */

/* Copies text[from, to), free-running positions, in printable form. */
static void copy_text(const struct serial *serial, uint64_t from, uint64_t to, bool newlines,
                      char *ret_text, size_t size)
{
    size_t used = 0;

    for (uint64_t i = from; i < to && used + 1 < size; i++) {
        uint8_t byte = serial->text[i % SERIAL_TEXT_BYTES];

        if (byte == '\r')
            continue;
        bool keep = (byte >= ' ' && byte < 0x7f) || (newlines && byte == '\n');
        ret_text[used++] = keep ? (char)byte : '?';
    }
    if (size > 0)
        ret_text[used] = 0;
}

static bool is_line_end(const struct serial *serial, uint64_t at)
{
    uint8_t byte = serial->text[at % SERIAL_TEXT_BYTES];

    return byte == '\n' || byte == '\r';
}

static uint64_t oldest_text(const struct serial *serial)
{
    return serial->text_total > SERIAL_TEXT_BYTES ? serial->text_total - SERIAL_TEXT_BYTES : 0;
}

void serial_last_line(struct serial *serial, char *ret_line, size_t size)
{
    pthread_mutex_lock(&serial->lock);
    uint64_t oldest = oldest_text(serial);
    uint64_t end = serial->text_total;
    while (end > oldest && is_line_end(serial, end - 1))
        end--;
    uint64_t start = end;
    while (start > oldest && !is_line_end(serial, start - 1))
        start--;
    copy_text(serial, start, end, false, ret_line, size);
    pthread_mutex_unlock(&serial->lock);
}

void serial_last_text(struct serial *serial, char *ret_text, size_t size)
{
    pthread_mutex_lock(&serial->lock);
    uint64_t start = oldest_text(serial);
    if (size > 0 && serial->text_total - start > size - 1)
        start = serial->text_total - (size - 1); /* rather the end than the beginning */
    copy_text(serial, start, serial->text_total, true, ret_text, size);
    pthread_mutex_unlock(&serial->lock);
}

struct serial_counters serial_counters(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    struct serial_counters counters = serial->counters;
    pthread_mutex_unlock(&serial->lock);
    return counters;
}

/* ---- state, life ---- */

void serial_get_state(struct serial *serial, struct serial_state *ret_state)
{
    pthread_mutex_lock(&serial->lock);
    *ret_state = serial->at;
    pthread_mutex_unlock(&serial->lock);
}

int serial_set_state(struct serial *serial, const struct serial_state *state, struct error *err)
{
    if ((state->interrupt_enable & ~IER_MASK) || (state->modem_control & ~MCR_MASK) ||
        (state->fifo_control & ~FCR_MASK) || state->transmit_pending > 1 ||
        state->loopback_full > 1)
        return error_say(err, EINVAL, "state of the serial port has impossible bits");
    pthread_mutex_lock(&serial->lock);
    serial->at = *state;
    pthread_mutex_unlock(&serial->lock);
    return 0;
}

int serial_new(const struct serial_config *config, struct loop *loop, struct irq_line irq,
               struct serial **ret_serial, struct error *err)
{
    AUTO_FD wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct stat stat;

    if (wake_fd < 0 || fstat(config->output_fd, &stat) < 0)
        return error_set(err, errno, "make serial port");
    struct serial *serial = calloc(1, sizeof(*serial));
    if (!serial)
        return error_set(err, ENOMEM, "make serial port");
    int r = loop_add(loop, wake_fd, EPOLLIN, on_wake, serial, &serial->wake_source);
    if (r == 0 && (r = -pthread_mutex_init(&serial->lock, NULL)) < 0)
        loop_remove(serial->wake_source);
    if (r < 0) {
        free(serial);
        return error_set(err, -r, "make serial port");
    }
    serial->loop = loop;
    serial->irq = irq;
    serial->output_fd = config->output_fd;
    serial->output_is_file = S_ISREG(stat.st_mode);
    serial->limit_bytes = config->limit_bytes;
    serial->wake_fd = fd_steal(&wake_fd);
    serial->at.divisor_low = 1; /* 115200 baud */
    *ret_serial = serial;
    return 0;
}

void serial_free(struct serial *serial)
{
    if (!serial)
        return;
    serial_flush(serial);
    loop_remove(serial->drain_timer);
    loop_remove(serial->wake_source);
    close(serial->wake_fd);
    close(serial->output_fd);
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}
