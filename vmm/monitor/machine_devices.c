/*
 * The machine's devices: each at its place on a bus, with its interrupt pin and, for virtio, its
 * notification eventfds in KVM.
 */
#include "machine_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "devices/blk.h"
#include "devices/pmem.h"
#include "devices/rng.h"

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

static void freeze_bus_read(void *device, uint64_t offset, uint8_t *data, unsigned len)
{
    uint32_t value = freeze_point_read(device, (unsigned)offset);

    memset(data, 0xff, len);
    memcpy(data, &value, len < sizeof(value) ? len : sizeof(value));
}

static void freeze_bus_write(void *device, uint64_t offset, const uint8_t *data, unsigned len)
{
    (void)offset;
    (void)data;
    (void)len;
    freeze_point_write(device);
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
static const struct bus_ops freeze_bus = {freeze_bus_read, freeze_bus_write};
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
    machine->vsock = slot->mmio;
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

/* On the thread of the vCPU that came there: it parks after its exit, the others soon. */
static void on_freeze_point(void *opaque)
{
    struct machine *machine = opaque;

    for (unsigned i = 0; i < machine->n_vcpus; i++)
        vcpu_ask_pause(machine->vcpus[i]);
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
    const struct freeze_point_config freeze = {.has_host_tsc = machine->status.emulates_supervisor,
                                               .reached = on_freeze_point,
                                               .opaque = machine};
    if (r == 0)
        r = freeze_point_new(&freeze, &machine->freeze_point, err);
    if (r < 0)
        return r;
    const struct bus_range ranges[] = {
        {SERIAL_PORT_BASE, SERIAL_PORT_COUNT, &serial_bus, machine->serial},
        {CMOS_CLOCK_PORT_BASE, CMOS_CLOCK_PORT_COUNT, &clock_bus, machine->clock},
        {FREEZE_POINT_PORT, FREEZE_POINT_PORT_COUNT, &freeze_bus, machine->freeze_point},
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
int machine_add_devices(struct machine *machine, const struct machine_config *config,
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

void machine_free_devices(struct machine *machine)
{
    for (size_t i = 0; i < machine->n_slots; i++)
        virtio_mmio_free(machine->slots[i].mmio);
    freeze_point_free(machine->freeze_point);
    cmos_clock_free(machine->clock);
    serial_free(machine->serial);
    ioapic_free(machine->ioapic);
}
