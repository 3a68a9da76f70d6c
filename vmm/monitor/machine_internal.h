/* Shared by the machine's files (machine.c, machine_devices.c, machine_snapshot.c) only. */
#ifndef MAYFLY_MONITOR_MACHINE_INTERNAL_H
#define MAYFLY_MONITOR_MACHINE_INTERNAL_H

#include <pthread.h>

#include "bus.h"
#include "common/cpu_identity.h"
#include "devices/cmos_clock.h"
#include "devices/freeze_point.h"
#include "devices/ioapic.h"
#include "devices/serial.h"
#include "devices/vsock.h"
#include "layout.h"
#include "machine.h"
#include "machine_memory.h"

/* One virtio device at its place: window, pin and queues follow from its index. */
struct slot {
    struct machine *machine; /* borrowed */
    unsigned pin;
    struct virtio_mmio *mmio; /* owned */
};

/* Room for a state's bytes and the message made of them: 32 vCPUs need some 400 KiB of each. */
struct restore_arena {
    size_t used;
    _Alignas(16) uint8_t bytes[1 << 20];
};

struct machine {
    struct loop *loop;           /* borrowed */
    bool is_shell;               /* made without a kernel */
    struct restore_arena *arena; /* owned; of a shell only */
    machine_ended *ended;
    void *opaque;

    int vm_fd; /* owned */
    struct machine_memory memory;
    struct bus ports, mmio;
    struct ioapic *ioapic;             /* owned */
    struct serial *serial;             /* owned */
    struct cmos_clock *clock;          /* owned */
    struct freeze_point *freeze_point; /* owned */
    struct slot serial_line;
    size_t n_slots;
    struct slot slots[LAYOUT_VIRTIO_MAX];
    struct virtio_mmio *vsock; /* one of the slots */

    struct vcpu_host vcpu_host;
    unsigned n_vcpus;
    struct vcpu *vcpus[LAYOUT_VCPUS_MAX]; /* owned */

    struct cpu_identity cpu;      /* of this host */
    struct machine_status status; /* what stays as it was at the start */

    pthread_mutex_t stop_lock; /* guards the three below: set once by a vCPU's thread */
    bool stopped;
    enum vcpu_stop stop_why;
    char stop_text[256];
    int stop_fd; /* owned: eventfd, tells the loop of it */
    struct loop_source *stop_source;
};

/*
 * machine_add_devices - make every device and its memslots, buses and notifications. Must be called
 * before the irqchip is made. On failure machine_free_devices() takes what there is.
 */
int machine_add_devices(struct machine *machine, const struct machine_config *config,
                        struct error *err);
void machine_free_devices(struct machine *machine);

#endif
