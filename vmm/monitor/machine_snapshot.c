/* A machine's state as bytes, and back: see machine_snapshot.h. */
#include "machine_snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "machine_internal.h"
#include "machine_state.pb-c.h"
#include "vcpu_state.h"

enum {
    STATE_VERSION = 2,
    MAX_STREAMS = 64,
};

typedef Mayfly__Snapshot__MachineState State;

/* --- out ----------------------------------------------------------------------------------- */

/*
 * The message is built in an arena of its own: nothing of it is freed one by one, and every
 * allocation that fails is noticed at the end, once.
 */
struct arena {
    struct block {
        struct block *next;
        max_align_t data[];
    } * blocks;
    bool failed;
};

static void *arena_take(struct arena *arena, size_t len_bytes)
{
    static max_align_t scratch[4096 / sizeof(max_align_t) * 8];
    struct block *block =
        len_bytes <= sizeof(scratch) ? calloc(1, sizeof(*block) + len_bytes) : NULL;

    if (!block) {
        arena->failed = true;
        return scratch;
    }
    block->next = arena->blocks;
    arena->blocks = block;
    return block->data;
}

static void arena_done(struct arena *arena)
{
    while (arena->blocks) {
        struct block *block = arena->blocks;

        arena->blocks = block->next;
        free(block);
    }
}

#define ARENA_NEW(arena, type) ((type *)arena_take(arena, sizeof(type)))
#define ARENA_ARRAY(arena, type, n) ((type *)arena_take(arena, (n) * sizeof(type)))

static ProtobufCBinaryData bytes_of(struct arena *arena, const void *from, size_t len)
{
    ProtobufCBinaryData data = {.len = len, .data = arena_take(arena, len)};

    memcpy(data.data, from, len);
    return data;
}

static void put_cpu(struct arena *arena, const struct machine *machine, State *state)
{
    const struct cpu_identity *cpu = &machine->cpu;
    Mayfly__Snapshot__Cpu *to = state->cpu = ARENA_NEW(arena, Mayfly__Snapshot__Cpu);

    mayfly__snapshot__cpu__init(to);
    to->vendor = (char *)bytes_of(arena, cpu->vendor, sizeof(cpu->vendor)).data;
    to->family = cpu->family;
    to->model = cpu->model;
    to->stepping = cpu->stepping;
    to->n_features = CPU_FEATURE_WORDS;
    to->features = (uint32_t *)(void *)bytes_of(arena, cpu->features, sizeof(cpu->features)).data;
    to->xsave_bytes = cpu->xsave_bytes;
    if (machine->cpu_template)
        to->template_ = (char *)(uintptr_t)machine->cpu_template->name; /* only read */
}

static void put_msrs(struct arena *arena, const struct msr_list *msrs, Mayfly__Snapshot__Vcpu *to)
{
    to->n_msrs = msrs->header.nmsrs;
    to->msrs = ARENA_ARRAY(arena, Mayfly__Snapshot__Msr *, to->n_msrs + 1);
    for (size_t i = 0; i < to->n_msrs && !arena->failed; i++) {
        to->msrs[i] = ARENA_NEW(arena, Mayfly__Snapshot__Msr);
        mayfly__snapshot__msr__init(to->msrs[i]);
        to->msrs[i]->index = msrs->entries[i].index;
        to->msrs[i]->value = msrs->entries[i].data;
    }
}

static Mayfly__Snapshot__Vcpu *put_vcpu(struct arena *arena, const struct vcpu_state *vcpu)
{
    Mayfly__Snapshot__Vcpu *to = ARENA_NEW(arena, Mayfly__Snapshot__Vcpu);

    mayfly__snapshot__vcpu__init(to);
    to->regs = bytes_of(arena, &vcpu->regs, sizeof(vcpu->regs));
    to->sregs = bytes_of(arena, &vcpu->sregs, sizeof(vcpu->sregs));
    to->xsave = bytes_of(arena, &vcpu->xsave, sizeof(vcpu->xsave));
    to->xcrs = bytes_of(arena, &vcpu->xcrs, sizeof(vcpu->xcrs));
    to->lapic = bytes_of(arena, &vcpu->lapic, sizeof(vcpu->lapic));
    to->events = bytes_of(arena, &vcpu->events, sizeof(vcpu->events));
    to->debugregs = bytes_of(arena, &vcpu->debugregs, sizeof(vcpu->debugregs));
    to->mp_state = vcpu->mp_state.mp_state;
    put_msrs(arena, &vcpu->msrs, to);
    return to;
}

static int put_vcpus(struct arena *arena, struct machine *machine, State *state, struct error *err)
{
    AUTO_FREE struct vcpu_state *vcpu = calloc(1, sizeof(*vcpu));

    if (!vcpu)
        return error_set(err, ENOMEM, "vCPU state");
    state->vcpus = ARENA_ARRAY(arena, Mayfly__Snapshot__Vcpu *, machine->n_vcpus);
    for (unsigned i = 0; i < machine->n_vcpus && !arena->failed; i++) {
        int r = vcpu_get_state(machine->vcpus[i], vcpu, err);
        if (r < 0)
            return error_wrap(err, "vCPU %u", i);
        state->vcpus[state->n_vcpus++] = put_vcpu(arena, vcpu);
    }
    return 0;
}

static void put_legacy(struct arena *arena, struct machine *machine, State *state)
{
    struct ioapic_state ioapic;
    struct serial_state serial;

    ioapic_get_state(machine->ioapic, &ioapic);
    state->ioapic = ARENA_NEW(arena, Mayfly__Snapshot__Ioapic);
    mayfly__snapshot__ioapic__init(state->ioapic);
    state->ioapic->id = ioapic.id;
    state->ioapic->select = ioapic.select;
    state->ioapic->pending = ioapic.pending;
    state->ioapic->n_entries = IOAPIC_PINS;
    state->ioapic->entries =
        (uint64_t *)(void *)bytes_of(arena, ioapic.entries, sizeof(ioapic.entries)).data;

    serial_get_state(machine->serial, &serial);
    state->serial = ARENA_NEW(arena, Mayfly__Snapshot__Serial);
    mayfly__snapshot__serial__init(state->serial);
    state->serial->registers = bytes_of(arena, &serial, sizeof(serial));
}

static Mayfly__Snapshot__Virtqueue *put_queue(struct arena *arena,
                                              const struct virtqueue_state *queue)
{
    Mayfly__Snapshot__Virtqueue *to = ARENA_NEW(arena, Mayfly__Snapshot__Virtqueue);

    mayfly__snapshot__virtqueue__init(to);
    to->size = queue->size;
    to->ready = queue->ready;
    to->descriptors = queue->desc_gpa;
    to->driver = queue->driver_gpa;
    to->device = queue->device_gpa;
    to->next_available = queue->next_avail;
    to->next_used = queue->next_used;
    to->signalled_used = queue->signalled_used;
    return to;
}

static Mayfly__Snapshot__VirtioDevice *put_device(struct arena *arena,
                                                  const struct virtio_mmio_state *device)
{
    Mayfly__Snapshot__VirtioDevice *to = ARENA_NEW(arena, Mayfly__Snapshot__VirtioDevice);

    mayfly__snapshot__virtio_device__init(to);
    to->device_id = device->device_id;
    to->status = device->status;
    to->driver_features = device->driver_features;
    to->device_features_sel = device->device_features_sel;
    to->driver_features_sel = device->driver_features_sel;
    to->queue_sel = device->queue_sel;
    to->interrupt_status = device->interrupt_status;
    to->config_generation = device->config_generation;
    to->queues = ARENA_ARRAY(arena, Mayfly__Snapshot__Virtqueue *, VIRTIO_MMIO_MAX_QUEUES);
    for (uint32_t i = 0; i < device->n_queues && !arena->failed; i++)
        to->queues[to->n_queues++] = put_queue(arena, &device->queues[i]);
    return to;
}

static int put_devices(struct arena *arena, struct machine *machine, State *state,
                       struct error *err)
{
    state->virtio = ARENA_ARRAY(arena, Mayfly__Snapshot__VirtioDevice *, LAYOUT_VIRTIO_MAX);
    for (size_t i = 0; i < machine->n_slots && !arena->failed; i++) {
        struct virtio_mmio_state device;
        int r = virtio_mmio_get_state(machine->slots[i].mmio, &device, err);
        if (r < 0)
            return error_wrap(err, "virtio device %zu", i);
        state->virtio[state->n_virtio++] = put_device(arena, &device);
    }
    return 0;
}

static int put_streams(struct arena *arena, struct machine *machine, uint32_t kept, State *state,
                       struct error *err)
{
    struct virtio_vsock_stream streams[MAX_STREAMS];
    size_t n = 0;
    int r = virtio_vsock_get_streams(machine->vsock, kept, streams, MAX_STREAMS, &n, err);

    if (r < 0)
        return r;
    state->connections = ARENA_ARRAY(arena, Mayfly__Snapshot__Connection *, MAX_STREAMS);
    for (size_t i = 0; i < n && !arena->failed; i++) {
        Mayfly__Snapshot__Connection *to = ARENA_NEW(arena, Mayfly__Snapshot__Connection);

        mayfly__snapshot__connection__init(to);
        to->host_port = streams[i].host_port;
        to->guest_port = streams[i].guest_port;
        to->agent = streams[i].host_port == kept;
        to->received = streams[i].received;
        to->told = streams[i].told;
        to->sent = streams[i].sent;
        to->peer_alloc = streams[i].peer_alloc;
        to->peer_forwarded = streams[i].peer_forwarded;
        state->connections[state->n_connections++] = to;
    }
    return 0;
}

static void put_pmem(struct arena *arena, struct machine *machine, State *state)
{
    state->pmem = ARENA_ARRAY(arena, Mayfly__Snapshot__Pmem *, MACHINE_MEMORY_MAX_PMEM);
    for (size_t i = 0; i < machine->memory.n_pmem && !arena->failed; i++) {
        Mayfly__Snapshot__Pmem *to = ARENA_NEW(arena, Mayfly__Snapshot__Pmem);

        mayfly__snapshot__pmem__init(to);
        to->start = machine->memory.pmem[i].start.value;
        to->len_bytes = machine->memory.pmem[i].len_bytes;
        state->pmem[state->n_pmem++] = to;
    }
}

static int write_state(const State *state, int fd, struct error *err)
{
    size_t len = mayfly__snapshot__machine_state__get_packed_size(state);
    AUTO_FREE uint8_t *packed = malloc(len);

    if (!packed)
        return error_set(err, ENOMEM, "machine state of %zu bytes", len);
    mayfly__snapshot__machine_state__pack(state, packed);
    int r = fd_write_all(fd, packed, len);
    return r < 0 ? error_set(err, -r, "write machine state") : 0;
}

int machine_snapshot(struct machine *machine, const struct machine_snapshot_fds *fds,
                     uint32_t kept_host_port, struct error *err)
{
    __attribute__((cleanup(arena_done))) struct arena arena = {0};
    State state = MAYFLY__SNAPSHOT__MACHINE_STATE__INIT;
    char lost[MEMORY_LOSS_TEXT_BYTES];

    state.version = STATE_VERSION;
    state.memory_mib = (uint32_t)(machine->memory.ram_bytes >> 20);
    state.tsc_khz = machine->status.tsc_khz;
    if (!freeze_point_is_reached(machine->freeze_point))
        return error_say(err, EINVAL, "snapshot: the guest does not stand at its freeze point");
    state.frozen_tsc = freeze_point_get_tsc(machine->freeze_point);
    state.emulates_supervisor = machine->status.emulates_supervisor;
    put_cpu(&arena, machine, &state);
    /* Devices before vCPUs and memory: coming to rest, they may still write to guest memory and
     * raise interrupts. */
    int r = put_devices(&arena, machine, &state, err);
    if (r == 0)
        r = put_streams(&arena, machine, kept_host_port, &state, err);
    if (r == 0)
        r = put_vcpus(&arena, machine, &state, err);
    if (r < 0)
        return r;
    put_legacy(&arena, machine, &state);
    put_pmem(&arena, machine, &state);
    if (arena.failed)
        return error_set(err, ENOMEM, "machine state");
    r = machine_memory_write_changed(&machine->memory, fds->pagemap, fds->memory, err);
    /* Pages that went with the end of a truncated file look as if they had never been changed. */
    if (memory_loss_describe(&machine->memory, lost))
        r = error_say(err, EIO, "%s", lost);
    return r < 0 ? r : write_state(&state, fds->state, err);
}

int machine_working_set(const struct machine *machine, int pagemap, int fd, struct error *err)
{
    struct snapshot_extents pages;
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    int r = machine_memory_pages(&machine->memory, pagemap, false, &pages, err);

    if (r < 0)
        return r;
    r = snapshot_extents_serialise(&pages, &data, &len);
    snapshot_extents_done(&pages);
    if (r == 0)
        r = fd_write_all(fd, data, len);
    return r < 0 ? error_set(err, -r, "write the working set") : 0;
}

/* --- back ---------------------------------------------------------------------------------- */

static int damaged(struct error *err, const char *what)
{
    return error_say(err, EBADMSG, "machine state: %s", what);
}

/*
 * Unpacking makes some 150 small blocks. They come from one that the machine holds ready, touched
 * when the shell was made: neither malloc nor page faults are on the way of a restore.
 */
static void *unpack_take(void *opaque, size_t len_bytes)
{
    struct restore_arena *arena = opaque;
    size_t start = (size_t)round_up(arena->used, sizeof(max_align_t));

    if (!range_fits(start, len_bytes, sizeof(arena->bytes)))
        return NULL;
    arena->used = start + len_bytes;
    return arena->bytes + start;
}

static void unpack_give(void *opaque, void *pointer)
{
    (void)opaque;
    (void)pointer;
}

/* NULL on failure, with @err set. Valid until the next call. */
static State *read_state(struct restore_arena *arena, int fd, struct error *err)
{
    ProtobufCAllocator allocator = {
        .alloc = unpack_take, .free = unpack_give, .allocator_data = arena};
    struct stat st;

    if (fstat(fd, &st) < 0) {
        error_set(err, errno, "machine state");
        return NULL;
    }
    arena->used = 0;
    uint8_t *packed = st.st_size > 0 && st.st_size <= (off_t)sizeof(arena->bytes)
                          ? unpack_take(arena, (size_t)st.st_size)
                          : NULL;
    int r = packed ? fd_pread_all(fd, packed, (size_t)st.st_size, 0) : -EFBIG;
    if (r < 0) {
        error_set(err, -r, "read machine state");
        return NULL;
    }
    State *state = mayfly__snapshot__machine_state__unpack(&allocator, (size_t)st.st_size, packed);
    if (!state)
        damaged(err, "not readable");
    return state;
}

static int check_cpu(const struct machine *machine, const Mayfly__Snapshot__Cpu *cpu,
                     struct error *err)
{
    const char *template = machine->cpu_template ? machine->cpu_template->name : "";
    struct cpu_identity was = {0};

    if (!cpu || cpu->n_features != CPU_FEATURE_WORDS || strlen(cpu->vendor) >= sizeof(was.vendor))
        return damaged(err, "no usable processor description");
    memcpy(was.vendor, cpu->vendor, strlen(cpu->vendor));
    was.family = cpu->family;
    was.model = cpu->model;
    was.stepping = cpu->stepping;
    was.xsave_bytes = cpu->xsave_bytes;
    memcpy(was.features, cpu->features, sizeof(was.features));
    if (strcmp(cpu->template_, template) != 0)
        return error_say(err, EBADMSG, "machine state: CPU template '%.40s', the shell has '%s'",
                         cpu->template_, template);
    return cpu_identity_check(&was, &machine->cpu, err);
}

static bool same_pmem(const struct machine *machine, const State *state)
{
    if (state->n_pmem != machine->memory.n_pmem)
        return false;
    for (size_t i = 0; i < state->n_pmem; i++)
        if (state->pmem[i]->start != machine->memory.pmem[i].start.value ||
            state->pmem[i]->len_bytes != machine->memory.pmem[i].len_bytes)
            return false;
    return true;
}

/* Linux measures the TSC at each boot where the processor does not name its frequency, and never
 * gets quite the same. KVM itself takes 250 ppm for equal (kvm.tsc_tolerance_ppm). */
static bool same_frequency(uint32_t a_khz, uint32_t b_khz)
{
    uint32_t difference = a_khz > b_khz ? a_khz - b_khz : b_khz - a_khz;

    return difference <= b_khz / 4000;
}

/* Does the state belong to a machine built like this one? */
static int check_shape(const struct machine *machine, const State *state, struct error *err)
{
    if (state->version != STATE_VERSION)
        return error_say(err, EBADMSG, "machine state: version %u, this monitor knows %d",
                         state->version, STATE_VERSION);
    if (state->memory_mib != machine->memory.ram_bytes >> 20)
        return error_say(err, EBADMSG, "machine state: of a guest of %u MiB, the shell has %llu",
                         state->memory_mib, (unsigned long long)(machine->memory.ram_bytes >> 20));
    if (state->n_vcpus != machine->n_vcpus)
        return error_say(err, EBADMSG, "machine state: of %zu vCPUs, the shell has %u",
                         state->n_vcpus, machine->n_vcpus);
    if (state->n_virtio != machine->n_slots || !same_pmem(machine, state))
        return damaged(err, "its devices are not the shell's");
    if (!state->ioapic || state->ioapic->n_entries != IOAPIC_PINS || !state->serial)
        return damaged(err, "no interrupt controller or console");
    if (!same_frequency(state->tsc_khz, machine->status.tsc_khz))
        return error_say(err, ENOTSUP, "snapshot of a processor whose TSC runs at %u kHz; here %u",
                         state->tsc_khz, machine->status.tsc_khz);
    if (state->emulates_supervisor != machine->status.emulates_supervisor)
        return error_say(err, ENOTSUP, "snapshot of a KVM that %s supervisor mode; this one %s",
                         state->emulates_supervisor ? "emulates" : "does not emulate",
                         state->emulates_supervisor ? "does not" : "does");
    return check_cpu(machine, state->cpu, err);
}

static bool take_bytes(const ProtobufCBinaryData *from, void *to, size_t len)
{
    if (from->len != len || !from->data)
        return false;
    memcpy(to, from->data, len);
    return true;
}

static int take_vcpu(const Mayfly__Snapshot__Vcpu *from, struct vcpu_state *to, struct error *err)
{
    if (!take_bytes(&from->regs, &to->regs, sizeof(to->regs)) ||
        !take_bytes(&from->sregs, &to->sregs, sizeof(to->sregs)) ||
        !take_bytes(&from->xsave, &to->xsave, sizeof(to->xsave)) ||
        !take_bytes(&from->xcrs, &to->xcrs, sizeof(to->xcrs)) ||
        !take_bytes(&from->lapic, &to->lapic, sizeof(to->lapic)) ||
        !take_bytes(&from->events, &to->events, sizeof(to->events)) ||
        !take_bytes(&from->debugregs, &to->debugregs, sizeof(to->debugregs)) ||
        from->n_msrs > VCPU_MAX_MSRS)
        return damaged(err, "a vCPU's structures have the wrong size");
    to->mp_state.mp_state = from->mp_state;
    to->msrs.header = (struct kvm_msrs){.nmsrs = (uint32_t)from->n_msrs};
    for (size_t i = 0; i < from->n_msrs; i++)
        to->msrs.entries[i] =
            (struct kvm_msr_entry){.index = from->msrs[i]->index, .data = from->msrs[i]->value};
    return 0;
}

static int set_legacy(struct machine *machine, const State *state, struct error *err)
{
    struct ioapic_state ioapic = {.id = state->ioapic->id,
                                  .select = state->ioapic->select,
                                  .pending = state->ioapic->pending};
    struct serial_state serial;

    memcpy(ioapic.entries, state->ioapic->entries, sizeof(ioapic.entries));
    if (!take_bytes(&state->serial->registers, &serial, sizeof(serial)))
        return damaged(err, "the console's registers have the wrong size");
    int r = ioapic_set_state(machine->ioapic, &ioapic, err);
    return r < 0 ? r : serial_set_state(machine->serial, &serial, err);
}

static int set_device(struct virtio_mmio *mmio, const Mayfly__Snapshot__VirtioDevice *from,
                      struct error *err)
{
    struct virtio_mmio_state device = {.device_id = from->device_id,
                                       .status = from->status,
                                       .driver_features = from->driver_features,
                                       .device_features_sel = from->device_features_sel,
                                       .driver_features_sel = from->driver_features_sel,
                                       .queue_sel = from->queue_sel,
                                       .interrupt_status = from->interrupt_status,
                                       .config_generation = from->config_generation,
                                       .n_queues = (uint32_t)from->n_queues};

    if (from->n_queues > VIRTIO_MMIO_MAX_QUEUES)
        return damaged(err, "a device with too many queues");
    for (size_t i = 0; i < from->n_queues; i++) {
        const Mayfly__Snapshot__Virtqueue *queue = from->queues[i];

        if (queue->size > UINT16_MAX || queue->next_available > UINT16_MAX ||
            queue->next_used > UINT16_MAX || queue->signalled_used > UINT16_MAX)
            return damaged(err, "a queue's numbers are too large");
        device.queues[i] =
            (struct virtqueue_state){.size = (uint16_t)queue->size,
                                     .ready = queue->ready,
                                     .desc_gpa = queue->descriptors,
                                     .driver_gpa = queue->driver,
                                     .device_gpa = queue->device,
                                     .next_avail = (uint16_t)queue->next_available,
                                     .next_used = (uint16_t)queue->next_used,
                                     .signalled_used = (uint16_t)queue->signalled_used};
    }
    return virtio_mmio_set_state(mmio, &device, err);
}

static int set_devices(struct machine *machine, const State *state, struct error *err)
{
    int r = set_legacy(machine, state, err);

    freeze_point_set_tsc(machine->freeze_point, state->frozen_tsc);

    for (size_t i = 0; i < state->n_virtio && r == 0; i++) {
        r = set_device(machine->slots[i].mmio, state->virtio[i], err);
        if (r < 0)
            return error_wrap(err, "virtio device %zu", i);
    }
    return r;
}

/* The host's stream goes on with @agent_fd; of the others the guest hears that they are gone. */
static int set_streams(struct machine *machine, const State *state, int agent_fd, struct error *err)
{
    bool carried = false;

    for (size_t i = 0; i < state->n_connections; i++) {
        const Mayfly__Snapshot__Connection *from = state->connections[i];
        struct virtio_vsock_stream stream = {.host_port = from->host_port,
                                             .guest_port = from->guest_port,
                                             .received = from->received,
                                             .told = from->told,
                                             .sent = from->sent,
                                             .peer_alloc = from->peer_alloc,
                                             .peer_forwarded = from->peer_forwarded};

        if (!from->agent) {
            virtio_vsock_end_stream(machine->vsock, &stream);
            continue;
        }
        int r = virtio_vsock_carry_on(machine->vsock, &stream, agent_fd, err);
        if (r < 0)
            return r;
        carried = true;
    }
    return carried ? 0 : damaged(err, "no connection to the agent in it");
}

/* Where the guest's TSC went on, so did the deadline of its timer. */
static void move_deadline(struct vcpu_state *vcpu, int64_t missed_cycles)
{
    for (unsigned i = 0; i < vcpu->msrs.header.nmsrs; i++)
        if (vcpu->msrs.entries[i].index == MSR_TSC_DEADLINE && vcpu->msrs.entries[i].data != 0)
            vcpu->msrs.entries[i].data += (uint64_t)missed_cycles;
}

static int set_vcpus(struct machine *machine, const State *state, struct error *err)
{
    int64_t missed_cycles = freeze_point_missed_cycles(machine->freeze_point);
    struct vcpu_state vcpu;
    int r = 0;

    /* None runs before all have their state: the first could send an interrupt to the second. */
    for (unsigned i = 0; i < machine->n_vcpus && r == 0; i++) {
        r = take_vcpu(state->vcpus[i], &vcpu, err);
        if (r == 0) {
            move_deadline(&vcpu, missed_cycles);
            r = vcpu_set_state(machine->vcpus[i], &vcpu, err);
            /* What this KVM does not take is of no use here, and to be made anew. */
            if (r == -EINVAL)
                err->code = ENOTSUP;
        }
        if (r < 0)
            return error_wrap(err, "vCPU %u", i);
    }
    return r;
}

static int map_memory(struct machine *machine, int fd, struct restore_times *times,
                      struct error *err)
{
    uint64_t began = clock_now_ns();
    int r = machine_memory_map(&machine->memory, fd, err);

    times->map_ns = clock_now_ns() - began;
    return r;
}

int machine_restore(struct machine *machine, int memory_fd, int state_fd, int agent_fd,
                    struct restore_times *ret_times, struct error *err)
{
    uint64_t began = clock_now_ns();
    State *state = read_state(machine->arena, state_fd, err);

    if (!state)
        return -err->code;
    int r = check_shape(machine, state, err);
    if (r < 0)
        return r;
    freeze_point_set_tsc(machine->freeze_point, state->frozen_tsc);
    r = map_memory(machine, memory_fd, ret_times, err);
    if (r == 0)
        r = set_devices(machine, state, err);
    if (r == 0)
        r = set_vcpus(machine, state, err);
    if (r == 0)
        r = set_streams(machine, state, agent_fd, err);
    if (r < 0)
        return r;
    ret_times->restored_ns = clock_now_ns() - began;
    machine_resume(machine);
    return 0;
}
