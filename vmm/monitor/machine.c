/* A microVM put together: see machine.h. */
#include "machine_internal.h"

#include <errno.h>
#include <linux/kvm.h>
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
#include "kernel_image.h"
#include "kvm_probe.h"
#include "memory_loss.h"
#include "mptable.h"

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

static bool is_memory(void *opaque, uint64_t address, unsigned len_bytes, bool is_write)
{
    const struct machine *machine = opaque;

    return machine_memory_holds(&machine->memory, address, len_bytes, is_write);
}

/* A panic ends in a reset; only the console says which of the two it was. */
static enum machine_end end_of(struct machine *machine, char text[MEMORY_LOSS_TEXT_BYTES])
{
    const size_t size = MEMORY_LOSS_TEXT_BYTES;
    static const char panic[] = "Kernel panic - not syncing: ";
    char tail[SERIAL_TEXT_BYTES + 1];

    /* Whatever a guest without its memory made of it: a panic, a triple fault, an error of KVM. */
    if (memory_loss_describe(&machine->memory, text))
        return MACHINE_INTERNAL;
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
    char text[MEMORY_LOSS_TEXT_BYTES];

    (void)events;
    loop_remove(machine->stop_source);
    machine->stop_source = NULL;
    machine_pause(machine);
    serial_flush(machine->serial);
    enum machine_end how = end_of(machine, text);
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
    int r = machine_memory_init(&machine->memory, machine->vm_fd, config->memory_mib,
                                config->kernel_fd < 0, err);
    if (r == 0)
        r = machine_add_devices(machine, config, err); /* pmem disks bring memslots */
    if (r < 0)
        return r;
    if (ioctl(machine->vm_fd, KVM_ENABLE_CAP, &split) < 0)
        return error_set(err, errno, "KVM_CAP_SPLIT_IRQCHIP");
    return 0;
}

/* Promised only where it can be kept: what a guest sees once it may rely on for good. */
static int choose_cpu(struct machine *machine, const struct machine_config *config,
                      struct error *err)
{
    const char *name = config->cpu_template;
    bool is_kept = false;

    cpu_identity_read(&machine->cpu);
    if (!name || name[0] == '\0')
        return 0;
    machine->cpu_template = cpu_template_find(name);
    if (!machine->cpu_template)
        return error_say(err, EINVAL, "no CPU template '%.40s'; there are: %s", name,
                         cpu_template_names());
    int r = kvm_probe_cpuid(config->kvm_fd, &is_kept, err);
    if (r == 0 && !is_kept)
        r = error_say(
            err, ENOTSUP,
            "CPU template '%s': this KVM shows guests the processor's own CPUID (it runs "
            "their user mode natively, KVM_SET_CPUID2 has no effect there), so no feature "
            "can be hidden",
            name);
    return r < 0 ? r : cpu_template_apply(machine->cpu_template, &machine->cpu, err);
}

static int create_vcpus(struct machine *machine, const struct machine_config *config,
                        struct error *err)
{
    machine->vcpu_host =
        (struct vcpu_host){.kvm_fd = config->kvm_fd,
                           .vm_fd = machine->vm_fd,
                           .ports = &machine->ports,
                           .mmio = &machine->mmio,
                           .memory = &machine->memory.guest,
                           .assist = machine->status.emulates_supervisor,
                           .cpu_template = machine->cpu_template,
                           .count = config->vcpus,
                           .filter = machine->vcpu_filter.filter ? &machine->vcpu_filter : NULL,
                           .stopped = on_vcpu_stopped,
                           .is_memory = is_memory,
                           .opaque = machine};
    for (unsigned i = 0; i < config->vcpus; i++) {
        int r = vcpu_new(&machine->vcpu_host, i, &machine->vcpus[i], err);
        if (r < 0)
            return r;
        machine->n_vcpus++;
    }
    return 0;
}

/* While files can still be opened and memory is nobody's but ours. */
static int make_filters(struct machine *machine, enum seccomp_way way, struct error *err)
{
    if (way == SECCOMP_OFF)
        return 0;
    if (way == SECCOMP_TRAP)
        seccomp_filter_tell();
    int r = seccomp_filter_make(SECCOMP_VCPU_THREAD, way, &machine->vcpu_filter, err);
    if (r == 0)
        r = seccomp_filter_make(SECCOMP_CONTROL_THREAD, way, &machine->control_filter, err);
    return r;
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

/* Touched as far as a snapshot of one vCPU fills it. */
static int make_arena(struct machine *machine, struct error *err)
{
    machine->arena = malloc(sizeof(*machine->arena));
    if (!machine->arena)
        return error_set(err, ENOMEM, "room for a restore");
    memset(machine->arena, 0, 64 << 10);
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
        r = make_filters(machine, config->seccomp, err);
    if (r == 0)
        r = create_vm(machine, config, err);
    if (r == 0)
        r = choose_cpu(machine, config, err);
    if (r == 0)
        r = create_vcpus(machine, config, err);
    if (r == 0) {
        machine->status.tsc_khz = vcpu_tsc_khz(machine->vcpus[0]);
        machine->is_shell = config->kernel_fd < 0;
        r = machine->is_shell ? make_arena(machine, err) : load_guest(machine, config, err);
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
    if (machine->watches_memory)
        memory_loss_unwatch();
    machine_pause(machine); /* none may come to the freeze point, and tell one that is freed */
    for (unsigned i = 0; i < machine->n_vcpus; i++)
        vcpu_free(machine->vcpus[i]);
    free(machine->arena);
    free(machine->control_filter.filter);
    free(machine->vcpu_filter.filter);
    machine_free_devices(machine);
    if (machine->vm_fd >= 0)
        close(machine->vm_fd);
    machine_memory_done(&machine->memory);
    loop_remove(machine->stop_source);
    if (machine->stop_fd >= 0)
        close(machine->stop_fd);
    pthread_mutex_destroy(&machine->stop_lock);
    free(machine);
}

static bool has_stopped(struct machine *machine)
{
    pthread_mutex_lock(&machine->stop_lock);
    bool stopped = machine->stopped;
    pthread_mutex_unlock(&machine->stop_lock);
    return stopped;
}

void machine_watch_memory(struct machine *machine, memory_lost *lost, void *opaque)
{
    memory_loss_watch(&machine->memory, lost, opaque);
    machine->watches_memory = true;
}

int machine_start(struct machine *machine, struct error *err)
{
    machine->status.boot_tsc = vcpu_read_tsc(machine->vcpus[0]);
    int r = 0;

    for (unsigned i = 0; i < machine->n_vcpus && r == 0; i++) {
        if (machine->is_shell)
            vcpu_expect_restore(machine->vcpus[i]);
        r = vcpu_start(machine->vcpus[i], err);
    }
    if (r < 0)
        return r;
    machine_pause(machine); /* each has its filter, has been in KVM_RUN once, and is out of it */
    if (has_stopped(machine))
        return error_say(err, EIO, "%s", machine->stop_text);
    if (machine->control_filter.filter)
        r = seccomp_filter_install(&machine->control_filter, err);
    if (r == 0 && !machine->is_shell)
        machine_resume(machine);
    return r;
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

bool machine_is_at_freeze_point(const struct machine *machine)
{
    return freeze_point_is_reached(machine->freeze_point);
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
    ret_status->first_exit_ns = vcpu_first_exit_ns(machine->vcpus[0]);
}
