/* A microVM put together: see machine.h. */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "boot_linux.h"
#include "command_line.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "devices/blk.h"
#include "devices/cmos_clock.h"
#include "devices/ioapic.h"
#include "devices/pmem.h"
#include "devices/rng.h"
#include "devices/serial.h"
#include "devices/vsock.h"
#include "kernel_image.h"
#include "kvm_probe.h"
#include "layout.h"
#include "machine_memory.h"
#include "mptable.h"

/* One virtio device at its place: window, pin and queues follow from its index. */
struct slot {
    struct machine *machine; /* borrowed */
    unsigned pin;
    struct virtio_mmio *mmio; /* owned */
};

struct machine {
    struct loop *loop; /* borrowed */
    machine_ended *ended;
    void *opaque;

    int vm_fd; /* owned */
    struct machine_memory memory;
    struct bus ports, mmio;
    struct ioapic *ioapic;    /* owned */
    struct serial *serial;    /* owned */
    struct cmos_clock *clock; /* owned */
    struct slot serial_line;
    size_t n_slots;
    struct slot slots[LAYOUT_VIRTIO_MAX];

    struct vcpu_host vcpu_host;
    unsigned n_vcpus;
    struct vcpu *vcpus[LAYOUT_VCPUS_MAX]; /* owned */

    struct machine_status status; /* what stays as it was at the start */

    pthread_mutex_t stop_lock; /* guards the three below: set once by a vCPU's thread */
    bool stopped;
    enum vcpu_stop stop_why;
    char stop_text[256];
    int stop_fd; /* owned: eventfd, tells the loop of it */
    struct loop_source *stop_source;
};

/* --- interrupts ---------------------------------------------------------------------------- */

static int signal_msi(void *opaque, uint64_t address, uint32_t data)
{
    const struct machine *machine = opaque;
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};

    return ioctl(machine->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}

static void raise_pin(void *opaque)
{
    const struct slot *slot = opaque;

    ioapic_pulse(slot->machine->ioapic, slot->pin);
}

static struct irq_line line_of(struct slot *slot)
{
    return (struct irq_line){.raise = raise_pin, .opaque = slot};
}

/* --- bus adapters -------------------------------------------------------------------------- */

static void mmio_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    virtio_mmio_read(device, offset, data, len);
}

static void mmio_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    virtio_mmio_write(device, offset, data, len);
}

static void ioapic_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    ioapic_read(device, offset, data, len);
}

static void ioapic_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    ioapic_write(device, offset, data, len);
}

static void serial_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        data[i] = serial_read(device, (unsigned)offset + i);
}

static void serial_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        serial_write(device, (unsigned)offset + i, data[i]);
}

static void clock_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        data[i] = cmos_clock_read(device, (unsigned)offset + i);
}

static void clock_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        cmos_clock_write(device, (unsigned)offset + i, data[i]);
}

/* Zeros: Linux's calibration against the PIT gives up at the first of them, not at the 50,000th. */
static void zero_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    (void)device;
    (void)offset;
    memset(data, 0, len);
}

static void ignore_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    (void)device;
    (void)offset;
    (void)data;
    (void)len;
}

static const struct bus_ops virtio_bus = {mmio_bus_read, mmio_bus_write};
static const struct bus_ops ioapic_bus = {ioapic_bus_read, ioapic_bus_write};
static const struct bus_ops serial_bus = {serial_bus_read, serial_bus_write};
static const struct bus_ops clock_bus = {clock_bus_read, clock_bus_write};
static const struct bus_ops absent_bus = {zero_bus_read, ignore_bus_write};

/* --- devices ------------------------------------------------------------------------------- */

static int add_ioeventfds(struct machine *machine, struct slot *slot, uint64_t base,
                          struct error *err)
{
    for (unsigned queue = 0; queue < virtio_mmio_n_queues(slot->mmio); queue++) {
        struct kvm_ioeventfd event = {.datamatch = queue,
                                      .addr = base + VIRTIO_MMIO_QUEUE_NOTIFY,
                                      .len = 4,
                                      .fd = virtio_mmio_notify_fd(slot->mmio, queue),
                                      .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};

        if (ioctl(machine->vm_fd, KVM_IOEVENTFD, &event) < 0)
            return error_set(err, errno, "KVM_IOEVENTFD");
    }
    return 0;
}

/* The next free place; its device is put there by attach(). */
static struct slot *next_slot(struct machine *machine)
{
    struct slot *slot = &machine->slots[machine->n_slots];

    slot->machine = machine;
    slot->pin = LAYOUT_IRQ_VIRTIO + (unsigned)machine->n_slots;
    return slot;
}

static int attach(struct machine *machine, struct slot *slot, struct error *err)
{
    uint64_t base = LAYOUT_VIRTIO_MMIO + machine->n_slots * LAYOUT_VIRTIO_STRIDE;
    struct bus_range range = {
        .start = base, .len = VIRTIO_MMIO_SIZE_BYTES, .ops = &virtio_bus, .device = slot->mmio};

    machine->n_slots++;
    int r = bus_add(&machine->mmio, range);
    if (r < 0)
        return error_set(err, -r, "MMIO bus");
    return add_ioeventfds(machine, slot, base, err);
}

static int add_pmem(struct machine *machine, int fd, struct error *err)
{
    int r = machine_memory_add_pmem(&machine->memory, fd, err);

    if (r < 0)
        return r;
    const struct pmem_region *region = &machine->memory.pmem[machine->memory.n_pmem - 1];
    struct virtio_pmem_config config = {.start_gpa = region->start.value,
                                        .size_bytes = region->len_bytes};
    struct slot *slot = next_slot(machine);
    r = virtio_pmem_new(&config, machine->loop, &machine->memory.guest, line_of(slot), &slot->mmio,
                        err);
    return r < 0 ? r : attach(machine, slot, err);
}

static int add_block(struct machine *machine, const struct machine_disk *disk, unsigned index,
                     struct error *err)
{
    AUTO_FD fd = fcntl(disk->fd, F_DUPFD_CLOEXEC, 3);
    struct virtio_blk_config config = {.fd = fd, .read_only = disk->read_only};
    struct slot *slot = next_slot(machine);

    if (fd < 0)
        return error_set(err, errno, "block disk %u", index);
    snprintf(config.id, sizeof(config.id), "mayfly-disk-%u", index);
    int r = virtio_blk_new(&config, machine->loop, &machine->memory.guest, line_of(slot),
                           &slot->mmio, err);
    if (r < 0)
        return r;
    fd_steal(&fd);
    return attach(machine, slot, err);
}

static int add_disks(struct machine *machine, const struct machine_config *config,
                     struct error *err)
{
    for (size_t i = 0; i < config->n_disks; i++) {
        int r = config->disks[i].pmem ? add_pmem(machine, config->disks[i].fd, err)
                                      : add_block(machine, &config->disks[i], (unsigned)i, err);
        if (r < 0)
            return error_wrap(err, "disk %zu", i);
    }
    return 0;
}

static int add_vsock(struct machine *machine, const struct machine_config *config,
                     struct error *err)
{
    AUTO_FD listener = fcntl(config->vsock_listen_fd, F_DUPFD_CLOEXEC, 3);
    struct virtio_vsock_config vsock = {
        .guest_cid = config->guest_cid, .listen_fd = listener, .path = config->vsock_path};
    struct slot *slot = next_slot(machine);

    if (listener < 0)
        return error_set(err, errno, "vsock listener");
    int r = virtio_vsock_new(&vsock, machine->loop, &machine->memory.guest, line_of(slot),
                             &slot->mmio, err);

    if (r < 0)
        return r;
    fd_steal(&listener);
    return attach(machine, slot, err);
}

static int add_rng(struct machine *machine, struct error *err)
{
    struct virtio_rng_config rng = {0};
    struct slot *slot = next_slot(machine);
    int r = virtio_rng_new(&rng, machine->loop, &machine->memory.guest, line_of(slot), &slot->mmio,
                           err);

    return r < 0 ? r : attach(machine, slot, err);
}

static int add_legacy(struct machine *machine, const struct machine_config *config,
                      struct error *err)
{
    AUTO_FD console = fcntl(config->console_fd, F_DUPFD_CLOEXEC, 3);
    struct serial_config serial = {.output_fd = console,
                                   .limit_bytes = config->console_limit_bytes};
    struct msi_sink sink = {.signal = signal_msi, .opaque = machine};

    if (console < 0)
        return error_set(err, errno, "console");
    machine->serial_line = (struct slot){.machine = machine, .pin = SERIAL_IRQ};
    int r = ioapic_new(sink, &machine->ioapic, err);
    if (r == 0)
        r = serial_new(&serial, machine->loop, line_of(&machine->serial_line), &machine->serial,
                       err);
    if (r < 0)
        return r;
    fd_steal(&console);
    r = cmos_clock_new(&machine->clock, err);
    if (r < 0)
        return r;
    const struct bus_range ranges[] = {
        {SERIAL_PORT_BASE, SERIAL_PORT_COUNT, &serial_bus, machine->serial},
        {CMOS_CLOCK_PORT_BASE, CMOS_CLOCK_PORT_COUNT, &clock_bus, machine->clock},
        {0x40, 4, &absent_bus, NULL}, /* PIT */
        {0x61, 1, &absent_bus, NULL}, /* its gate */
        {LAYOUT_PORT_KEYBOARD, 1, &absent_bus, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges) && r == 0; i++)
        r = bus_add(&machine->ports, ranges[i]);
    if (r == 0)
        r = bus_add(&machine->mmio, (struct bus_range){IOAPIC_BASE, IOAPIC_SIZE_BYTES, &ioapic_bus,
                                                       machine->ioapic});
    return r < 0 ? error_set(err, -r, "bus") : 0;
}

/* Pmem first: /dev/pmem0 is the root. */
static int add_devices(struct machine *machine, const struct machine_config *config,
                       struct error *err)
{
    int r = add_legacy(machine, config, err);

    if (r == 0)
        r = add_disks(machine, config, err);
    if (r == 0)
        r = add_vsock(machine, config, err);
    if (r == 0)
        r = add_rng(machine, err);
    return r;
}

/* --- how it ends --------------------------------------------------------------------------- */

/* On the thread of the first vCPU that cannot go on. */
static void on_vcpu_stopped(void *opaque, enum vcpu_stop why, const char *text)
{
    struct machine *machine = opaque;
    uint64_t one = 1;

    pthread_mutex_lock(&machine->stop_lock);
    if (!machine->stopped) {
        machine->stopped = true;
        machine->stop_why = why;
        snprintf(machine->stop_text, sizeof(machine->stop_text), "%s", text);
        ssize_t n = write(machine->stop_fd, &one, sizeof(one));
        (void)n; /* an eventfd at 0 takes a 1 */
    }
    pthread_mutex_unlock(&machine->stop_lock);
}

/* A panic ends in a reset; only the console says which of the two it was. */
static enum machine_end end_of(struct machine *machine, char *text, size_t size)
{
    static const char panic[] = "Kernel panic - not syncing: ";
    char tail[SERIAL_TEXT_BYTES + 1];

    snprintf(text, size, "%s", machine->stop_text);
    switch (machine->stop_why) {
    case VCPU_STOP_SHUTDOWN:
        return MACHINE_SHUTDOWN;
    case VCPU_STOP_INTERNAL:
        return MACHINE_INTERNAL;
    case VCPU_STOP_TRIPLE_FAULT:
        return MACHINE_TRIPLE_FAULT;
    case VCPU_STOP_RESET:
        break;
    }
    serial_last_text(machine->serial, tail, sizeof(tail));
    const char *found = strstr(tail, panic);
    if (!found)
        return MACHINE_RESET;
    found += sizeof(panic) - 1;
    snprintf(text, size, "%.*s", (int)strcspn(found, "\r\n"), found);
    return MACHINE_PANIC;
}

static void on_stop_event(void *opaque, uint32_t events)
{
    struct machine *machine = opaque;
    char text[256];

    (void)events;
    loop_remove(machine->stop_source);
    machine->stop_source = NULL;
    machine_pause(machine);
    serial_flush(machine->serial);
    enum machine_end how = end_of(machine, text, sizeof(text));
    machine->ended(machine->opaque, how, text);
}

/* --- life ---------------------------------------------------------------------------------- */

/* Memslots before the irqchip, the irqchip before the vCPUs: any other order waits for grace
 * periods of the host's kernel, of milliseconds each. */
static int create_vm(struct machine *machine, const struct machine_config *config,
                     struct error *err)
{
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS}};

    machine->vm_fd = ioctl(config->kvm_fd, KVM_CREATE_VM, 0);
    if (machine->vm_fd < 0)
        return error_set(err, errno, "KVM_CREATE_VM");
    /* Only old Intel processors want it; KVM elsewhere ignores it. */
    if (ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
        return error_set(err, errno, "KVM_SET_TSS_ADDR");
    int r = machine_memory_init(&machine->memory, machine->vm_fd, config->memory_mib, err);
    if (r == 0)
        r = add_devices(machine, config, err); /* pmem disks bring memslots */
    if (r < 0)
        return r;
    if (ioctl(machine->vm_fd, KVM_ENABLE_CAP, &split) < 0)
        return error_set(err, errno, "KVM_CAP_SPLIT_IRQCHIP");
    return 0;
}

static int create_vcpus(struct machine *machine, const struct machine_config *config,
                        struct error *err)
{
    machine->vcpu_host = (struct vcpu_host){.kvm_fd = config->kvm_fd,
                                            .vm_fd = machine->vm_fd,
                                            .ports = &machine->ports,
                                            .mmio = &machine->mmio,
                                            .memory = &machine->memory.guest,
                                            .assist = machine->status.emulates_supervisor,
                                            .count = config->vcpus,
                                            .stopped = on_vcpu_stopped,
                                            .opaque = machine};
    for (unsigned i = 0; i < config->vcpus; i++) {
        int r = vcpu_new(&machine->vcpu_host, i, &machine->vcpus[i], err);
        if (r < 0)
            return r;
        machine->n_vcpus++;
    }
    return 0;
}

static int load_guest(struct machine *machine, const struct machine_config *config,
                      struct error *err)
{
    char command_line[LAYOUT_COMMAND_LINE_MAX];
    struct command_line_config line = {
        .tsc_khz = machine->status.tsc_khz,
        .emulates_supervisor = machine->status.emulates_supervisor,
        .n_virtio = (unsigned)machine->n_slots,
        .pmem_root = config->n_disks > 0 && config->disks[0].pmem,
        .extra = config->command_line,
    };
    const struct guest_memory *memory = &machine->memory.guest;
    uint64_t began = clock_now_us();
    gpa_t entry;
    int r = kernel_image_load(config->kernel_fd, memory, &entry, err);

    machine->status.kernel_load_us = clock_now_us() - began;
    if (r == 0)
        r = command_line_build(&line, command_line, sizeof(command_line), err);
    if (r == 0)
        r = boot_linux_write_parameters(memory, command_line, err);
    if (r == 0 && mptable_write(memory, machine->n_vcpus) < 0)
        r = error_say(err, EFAULT, "no room for the MP table");
    return r < 0 ? r : vcpu_boot(machine->vcpus[0], entry, err);
}

static int watch_stop(struct machine *machine, struct error *err)
{
    machine->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (machine->stop_fd < 0)
        return error_set(err, errno, "eventfd");
    int r = loop_add(machine->loop, machine->stop_fd, EPOLLIN, on_stop_event, machine,
                     &machine->stop_source);
    return r < 0 ? error_set(err, -r, "event loop") : 0;
}

static int check_config(const struct machine_config *config, struct error *err)
{
    if (config->vcpus < 1 || config->vcpus > LAYOUT_VCPUS_MAX)
        return error_say(err, EINVAL, "%u vCPUs: must be 1 to %d", config->vcpus, LAYOUT_VCPUS_MAX);
    if (config->n_disks > MACHINE_MAX_DISKS)
        return error_say(err, EINVAL, "%zu disks: at most %d", config->n_disks, MACHINE_MAX_DISKS);
    return 0;
}

int machine_new(const struct machine_config *config, struct loop *loop, machine_ended *ended,
                void *opaque, struct machine **ret_machine, struct error *err)
{
    uint64_t began = clock_now_us();
    struct kvm_probe probe;
    int r = check_config(config, err);

    if (r == 0)
        r = kvm_probe_supervisor(config->kvm_fd, &probe, err);
    if (r < 0)
        return r;
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return error_set(err, ENOMEM, "virtual machine");
    machine->loop = loop;
    machine->ended = ended;
    machine->opaque = opaque;
    machine->vm_fd = machine->stop_fd = -1;
    machine->status.emulates_supervisor = probe.emulates_supervisor;
    pthread_mutex_init(&machine->stop_lock, NULL);
    r = watch_stop(machine, err);
    if (r == 0)
        r = create_vm(machine, config, err);
    if (r == 0)
        r = create_vcpus(machine, config, err);
    if (r == 0) {
        machine->status.tsc_khz = vcpu_tsc_khz(machine->vcpus[0]);
        r = load_guest(machine, config, err);
    }
    if (r < 0) {
        machine_free(machine);
        return r;
    }
    machine->status.create_us = clock_now_us() - began;
    *ret_machine = machine;
    return 0;
}

void machine_free(struct machine *machine)
{
    if (!machine)
        return;
    for (unsigned i = 0; i < machine->n_vcpus; i++)
        vcpu_free(machine->vcpus[i]);
    for (size_t i = 0; i < machine->n_slots; i++)
        virtio_mmio_free(machine->slots[i].mmio);
    cmos_clock_free(machine->clock);
    serial_free(machine->serial);
    ioapic_free(machine->ioapic);
    if (machine->vm_fd >= 0)
        close(machine->vm_fd);
    machine_memory_done(&machine->memory);
    loop_remove(machine->stop_source);
    if (machine->stop_fd >= 0)
        close(machine->stop_fd);
    pthread_mutex_destroy(&machine->stop_lock);
    free(machine);
}

int machine_start(struct machine *machine, struct error *err)
{
    machine->status.boot_tsc = vcpu_read_tsc(machine->vcpus[0]);
    for (unsigned i = 0; i < machine->n_vcpus; i++) {
        int r = vcpu_start(machine->vcpus[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

void machine_pause(struct machine *machine)
{
    for (unsigned i = 0; i < machine->n_vcpus; i++)
        vcpu_pause(machine->vcpus[i]);
}

void machine_resume(struct machine *machine)
{
    for (unsigned i = 0; i < machine->n_vcpus; i++)
        vcpu_resume(machine->vcpus[i]);
}

static void add_counters(struct vcpu_counters *sum, const struct vcpu_counters *one)
{
    sum->exits += one->exits;
    sum->port_exits += one->port_exits;
    sum->mmio_exits += one->mmio_exits;
    sum->assist_instructions += one->assist_instructions;
    sum->assist_system_calls += one->assist_system_calls;
    sum->assist_page_faults += one->assist_page_faults;
}

void machine_get_status(const struct machine *machine, struct machine_status *ret_status)
{
    struct serial_counters console = serial_counters(machine->serial);

    *ret_status = machine->status;
    ret_status->console_bytes = console.written_bytes;
    ret_status->console_dropped_bytes = console.dropped_bytes;
    for (unsigned i = 0; i < machine->n_vcpus; i++) {
        struct vcpu_counters one = vcpu_count(machine->vcpus[i]);

        add_counters(&ret_status->vcpus, &one);
    }
}
