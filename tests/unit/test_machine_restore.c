/*
 * Restoring well-formed states that contradict themselves, into a real machine: an error that says
 * what, or a VM that dies with a reason; never the end of this process, which is under ASan.
 * The state is that of an empty machine with a working vsock device added, so that the unchanged
 * one is good. Needs /dev/kvm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"
#include "machine_state.pb-c.h"
#include "monitor/machine.h"
#include "monitor/machine_internal.h"
#include "monitor/machine_snapshot.h"

enum {
    MEMORY_MIB = 64,
    QUEUE_AT = 1 << 20, /* three queues' rings, 64 KiB apart; all zero, so empty */
    QUEUE_SIZE = 8,
    STATUS_LIVE = 15,
    VSOCK_ID = 19,
    KEPT_PORT = 1024,
    RUN_TURNS = 5, /* of 2 ms: what the guest does with a state that was taken */
    RANDOM_ROUNDS = 60,
};

typedef Mayfly__Snapshot__MachineState State;

static int kvm = -1;
static uint8_t *good; /* a packed state that is taken */
static size_t good_len;

/* --- machines -------------------------------------------------------------------------------- */

struct shell {
    struct loop *loop;
    struct machine *machine;
    int console, listener;
    int ended; /* how many times it was said to have ended */
};

static void on_ended(void *opaque, enum machine_end how, const char *text)
{
    struct shell *shell = opaque;

    (void)how;
    assert_non_null(text);
    shell->ended++;
}

static void shell_open(struct shell *shell)
{
    struct error err = {0};

    memset(shell, 0, sizeof(*shell));
    shell->console = open("/dev/null", O_WRONLY | O_CLOEXEC);
    shell->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const struct sockaddr_un nowhere = {.sun_family = AF_UNIX};
    bind(shell->listener, (const struct sockaddr *)&nowhere, sizeof(sa_family_t)); /* abstract */
    listen(shell->listener, 1);
    const struct machine_config config = {.memory_mib = MEMORY_MIB,
                                          .vcpus = 1,
                                          .kvm_fd = kvm,
                                          .console_fd = shell->console,
                                          .vsock_listen_fd = shell->listener,
                                          .kernel_fd = -1,
                                          .console_limit_bytes = 1 << 16,
                                          .guest_cid = 3,
                                          .seccomp = SECCOMP_OFF}; /* this process goes on */
    assert_int_equal(loop_new(&shell->loop, &err), 0);
    if (machine_new(&config, shell->loop, on_ended, shell, &shell->machine, &err) < 0 ||
        machine_start(shell->machine, &err) < 0)
        fail_msg("%s", err.text);
}

static void shell_close(struct shell *shell)
{
    machine_free(shell->machine);
    loop_free(shell->loop);
    close(shell->console);
    close(shell->listener);
}

static int file_of(const void *data, size_t len)
{
    int fd = memfd_create("state", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, data, len), 0);
    return fd;
}

/* Restores @data into a new machine and lets it run a little. Returns what the restore did. */
static int try(const void *data, size_t len, off_t memory_bytes, struct error *err)
{
    struct restore_times times;
    struct shell shell;
    int pair[2], state = file_of(data, len), memory = memfd_create("memory", MFD_CLOEXEC);

    shell_open(&shell);
    assert_int_equal(ftruncate(memory, memory_bytes), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *err = (struct error){0};
    int r = machine_restore(shell.machine, memory, state, pair[0], &times, err);
    close(pair[0]);
    if (r < 0) {
        assert_int_equal(err->code, -r);
        assert_true(err->text[0] != '\0');
    }
    for (int i = 0; i < RUN_TURNS && r == 0 && shell.ended == 0; i++)
        loop_turn(shell.loop, 2);
    assert_true(shell.ended <= 1);
    shell_close(&shell);
    close(pair[1]);
    close(state);
    close(memory);
    return r;
}

static State *unpack_good(void)
{
    State *state = mayfly__snapshot__machine_state__unpack(NULL, good_len, good);

    assert_non_null(state);
    return state;
}

/* As try(), of @state, which it frees. */
static int try_state(State *state, struct error *err)
{
    size_t len = mayfly__snapshot__machine_state__get_packed_size(state);
    uint8_t *data = malloc(len);

    mayfly__snapshot__machine_state__pack(state, data);
    mayfly__snapshot__machine_state__free_unpacked(state, NULL);
    int r = try(data, len, (off_t)MEMORY_MIB << 20, err);
    free(data);
    return r;
}

static void assert_refused(State *state, int code, const char *words)
{
    struct error err;
    int r = try_state(state, &err);

    if (r != -code || !strstr(err.text, words))
        fail_msg("%d instead of %d (%s): '%s'", r, -code, words, err.text);
}

/* Whatever comes of it, this process stands. */
static void survive(State *state)
{
    struct error err;

    try_state(state, &err);
}

/* --- a good state ---------------------------------------------------------------------------- */

static Mayfly__Snapshot__VirtioDevice *vsock_of(State *state)
{
    for (size_t i = 0; i < state->n_virtio; i++)
        if (state->virtio[i]->device_id == VSOCK_ID)
            return state->virtio[i];
    fail_msg("no vsock device");
    return NULL;
}

static void make_vsock_live(State *state)
{
    Mayfly__Snapshot__VirtioDevice *vsock = vsock_of(state);

    vsock->status = STATUS_LIVE;
    vsock->driver_features = 1ull << 32;
    for (size_t i = 0; i < vsock->n_queues; i++) {
        Mayfly__Snapshot__Virtqueue *queue = vsock->queues[i];

        queue->size = QUEUE_SIZE;
        queue->ready = 1;
        queue->descriptors = QUEUE_AT + i * 0x10000;
        queue->driver = queue->descriptors + 0x4000;
        queue->device = queue->descriptors + 0x8000;
    }
}

static void add_stream(State *state, uint32_t host_port, bool agent)
{
    Mayfly__Snapshot__Connection *stream = malloc(sizeof(*stream));

    mayfly__snapshot__connection__init(stream);
    stream->host_port = host_port;
    stream->guest_port = 5000;
    stream->agent = agent;
    stream->peer_alloc = 1 << 16;
    state->connections =
        realloc(state->connections, (state->n_connections + 1) * sizeof(state->connections[0]));
    state->connections[state->n_connections++] = stream;
}

static int set_up(void **unused)
{
    struct error err = {0};
    struct shell shell;
    uint8_t *data;
    size_t len;

    (void)unused;
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return 0;
    int memory = memfd_create("memory", 0), file = memfd_create("state", 0);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const struct machine_snapshot_fds fds = {.memory = memory, .state = file, .pagemap = pagemap};
    shell_open(&shell);
    freeze_point_write(shell.machine->freeze_point); /* as a guest does before it is frozen */
    if (machine_snapshot(shell.machine, &fds, KEPT_PORT, &err) < 0)
        fail_msg("%s", err.text);
    shell_close(&shell);
    len = (size_t)lseek(file, 0, SEEK_END);
    data = malloc(len);
    assert_int_equal(fd_pread_all(file, data, len, 0), 0);
    State *state = mayfly__snapshot__machine_state__unpack(NULL, len, data);
    make_vsock_live(state);
    add_stream(state, KEPT_PORT, true);
    good_len = mayfly__snapshot__machine_state__get_packed_size(state);
    good = malloc(good_len);
    mayfly__snapshot__machine_state__pack(state, good);
    mayfly__snapshot__machine_state__free_unpacked(state, NULL);
    free(data);
    close(memory);
    close(file);
    close(pagemap);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    free(good);
    if (kvm >= 0)
        close(kvm);
    return 0;
}

static void need_kvm(void)
{
    if (kvm < 0) {
        print_message("no usable /dev/kvm\n");
        skip();
    }
}

static void the_unchanged_state_is_taken(void **unused)
{
    struct error err;

    (void)unused;
    need_kvm();
    if (try_state(unpack_good(), &err) < 0)
        fail_msg("%s", err.text);
}

/* --- shape ----------------------------------------------------------------------------------- */

static void bytes_that_are_no_state(void **unused)
{
    const size_t large_len = (4 << 20) + 1;
    uint8_t *large = calloc(1, large_len);
    struct error err;

    (void)unused;
    need_kvm();
    assert_true(try(good, 0, MEMORY_MIB << 20, &err) < 0);
    assert_true(try(large, large_len, MEMORY_MIB << 20, &err) < 0);
    assert_true(try("\xff\xff\xff\xff", 4, MEMORY_MIB << 20, &err) < 0);
    for (size_t len = 1; len < good_len; len += good_len / 9)
        assert_true(try(good, len, MEMORY_MIB << 20, &err) < 0);
    assert_int_equal(try(good, good_len, (MEMORY_MIB << 20) - 1, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "memory file of 67108863 bytes"));
    free(large);
}

static void another_machine(void **unused)
{
    State *state;

    (void)unused;
    need_kvm();
    state = unpack_good();
    state->version++;
    assert_refused(state, EBADMSG, "version");
    state = unpack_good();
    state->memory_mib *= 2;
    assert_refused(state, EBADMSG, "128 MiB, the shell has 64");
    state = unpack_good();
    mayfly__snapshot__vcpu__free_unpacked(state->vcpus[0], NULL);
    state->n_vcpus = 0;
    assert_refused(state, EBADMSG, "0 vCPUs, the shell has 1");
    state = unpack_good();
    mayfly__snapshot__virtio_device__free_unpacked(state->virtio[--state->n_virtio], NULL);
    assert_refused(state, EBADMSG, "devices are not the shell's");
    state = unpack_good();
    state->tsc_khz += 1000;
    assert_refused(state, ENOTSUP, "TSC runs at");
    state = unpack_good();
    state->pmem = malloc(sizeof(state->pmem[0]));
    state->pmem[0] = malloc(sizeof(*state->pmem[0]));
    mayfly__snapshot__pmem__init(state->pmem[0]);
    state->n_pmem = 1;
    assert_refused(state, EBADMSG, "devices are not the shell's");
}

static void another_processor(void **unused)
{
    State *state;
    uint32_t lost;
    char words[64];

    (void)unused;
    need_kvm();
    state = unpack_good();
    lost = ~state->cpu->features[2] & -~state->cpu->features[2]; /* one that is missing here */
    state->cpu->features[2] |= lost;
    snprintf(words, sizeof(words), "7.ebx:%#x", lost);
    assert_refused(state, ENOTSUP, words);
    state = unpack_good();
    memset(state->cpu->vendor, 'x', strlen(state->cpu->vendor));
    assert_refused(state, ENOTSUP, "snapshot of a xxxx");
    state = unpack_good();
    state->cpu->xsave_bytes += 64;
    assert_refused(state, ENOTSUP, "XSAVE");
    state = unpack_good();
    state->cpu->n_features--;
    assert_refused(state, EBADMSG, "processor description");
    state = unpack_good();
    state->cpu->template_ = strdup("portable");
    assert_refused(state, EBADMSG, "CPU template 'portable'");
}

/* --- devices --------------------------------------------------------------------------------- */

static void queues_in_impossible_places(void **unused)
{
    const uint64_t ram = (uint64_t)MEMORY_MIB << 20;
    const uint64_t places[] = {ram, ram - 16, ram + (1 << 30), UINT64_MAX - 4095, UINT64_MAX, 1};

    (void)unused;
    need_kvm();
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
        for (int part = 0; part < 3; part++) {
            State *state = unpack_good();
            Mayfly__Snapshot__Virtqueue *queue = vsock_of(state)->queues[i % 3];
            uint64_t *fields[] = {&queue->descriptors, &queue->driver, &queue->device};

            *fields[part] = places[i];
            assert_refused(state, EINVAL, "a queue of impossible size or place");
        }
}

static void queues_of_impossible_size(void **unused)
{
    const uint32_t sizes[] = {0, 3, 65535, 32768};
    State *state;

    (void)unused;
    need_kvm();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        state = unpack_good();
        vsock_of(state)->queues[0]->size = sizes[i];
        assert_refused(state, EINVAL, "a queue of impossible size or place");
    }
    state = unpack_good();
    vsock_of(state)->queues[1]->next_used = 1 << 16;
    assert_refused(state, EBADMSG, "numbers are too large");
    state = unpack_good();
    mayfly__snapshot__virtqueue__free_unpacked(vsock_of(state)->queues[2], NULL);
    vsock_of(state)->n_queues = 2;
    assert_refused(state, EINVAL, "virtio device");
    /* Ring positions are the guest's affair: a broken ring is met when it is used. */
    state = unpack_good();
    for (size_t i = 0; i < 3; i++) {
        vsock_of(state)->queues[i]->next_available = 12345;
        vsock_of(state)->queues[i]->next_used = 54321;
        vsock_of(state)->queues[i]->signalled_used = 65535;
    }
    survive(state);
}

static void devices_in_impossible_states(void **unused)
{
    State *state;

    (void)unused;
    need_kvm();
    state = unpack_good();
    vsock_of(state)->device_id = 4;
    assert_refused(state, EINVAL, "virtio device");
    state = unpack_good();
    vsock_of(state)->driver_features = UINT64_MAX;
    assert_refused(state, EINVAL, "virtio device");
    for (uint32_t bit = 1; bit < 256; bit <<= 1) {
        state = unpack_good();
        vsock_of(state)->status ^= bit;
        survive(state);
    }
    state = unpack_good();
    vsock_of(state)->queue_sel = vsock_of(state)->interrupt_status = UINT32_MAX;
    vsock_of(state)->device_features_sel = vsock_of(state)->driver_features_sel = UINT32_MAX;
    survive(state);
    state = unpack_good();
    state->ioapic->n_entries--;
    assert_refused(state, EBADMSG, "interrupt controller");
    state = unpack_good();
    memset(state->ioapic->entries, 0xff, state->ioapic->n_entries * sizeof(uint64_t));
    state->ioapic->id = state->ioapic->select = state->ioapic->pending = UINT32_MAX;
    survive(state);
    state = unpack_good();
    state->serial->registers.len--;
    assert_refused(state, EBADMSG, "console's registers");
    state = unpack_good();
    memset(state->serial->registers.data, 0xff, state->serial->registers.len);
    survive(state);
}

static void streams_that_cannot_be(void **unused)
{
    State *state;

    (void)unused;
    need_kvm();
    state = unpack_good();
    state->connections[0]->agent = false;
    assert_refused(state, EBADMSG, "no connection to the agent");
    state = unpack_good();
    add_stream(state, KEPT_PORT, true); /* the same once more */
    survive(state);
    state = unpack_good();
    for (uint32_t i = 0; i < 5000; i++)
        add_stream(state, 2000 + i, false);
    survive(state);
    for (int field = 0; field < 5; field++) {
        state = unpack_good();
        Mayfly__Snapshot__Connection *stream = state->connections[0];
        uint32_t *fields[] = {&stream->received, &stream->told, &stream->sent, &stream->peer_alloc,
                              &stream->peer_forwarded};

        *fields[field] = UINT32_MAX;
        survive(state);
    }
    state = unpack_good();
    vsock_of(state)->status = 0; /* a stream on a device that was never set up */
    survive(state);
}

/* --- processors ------------------------------------------------------------------------------ */

static ProtobufCBinaryData *part_of(Mayfly__Snapshot__Vcpu *vcpu, int part)
{
    ProtobufCBinaryData *parts[] = {&vcpu->regs,  &vcpu->sregs,  &vcpu->xsave,    &vcpu->xcrs,
                                    &vcpu->lapic, &vcpu->events, &vcpu->debugregs};

    return parts[part];
}

static void processors_of_the_wrong_size(void **unused)
{
    (void)unused;
    need_kvm();
    for (int part = 0; part < 7; part++) {
        State *state = unpack_good();

        part_of(state->vcpus[0], part)->len--;
        assert_refused(state, EBADMSG, "structures have the wrong size");
    }
}

/* KVM takes some of it and refuses the rest; a guest of what it took may do as it likes. */
static void processors_of_garbage(void **unused)
{
    static const uint8_t fills[] = {0x00, 0xff, 0x5a};

    (void)unused;
    need_kvm();
    for (int part = 0; part < 7; part++)
        for (size_t i = 0; i < sizeof(fills); i++) {
            State *state = unpack_good();

            memset(part_of(state->vcpus[0], part)->data, fills[i],
                   part_of(state->vcpus[0], part)->len);
            survive(state);
        }
    for (uint32_t mp_state = 1; mp_state < 12; mp_state++) {
        State *state = unpack_good();

        state->vcpus[0]->mp_state = mp_state;
        survive(state);
    }
}

static void add_msrs(State *state, uint32_t n, uint32_t index, uint64_t value)
{
    Mayfly__Snapshot__Vcpu *vcpu = state->vcpus[0];

    vcpu->msrs = realloc(vcpu->msrs, (vcpu->n_msrs + n) * sizeof(vcpu->msrs[0]));
    for (uint32_t i = 0; i < n; i++) {
        Mayfly__Snapshot__Msr *msr = malloc(sizeof(*msr));

        mayfly__snapshot__msr__init(msr);
        msr->index = index;
        msr->value = value;
        vcpu->msrs[vcpu->n_msrs++] = msr;
    }
}

static void registers_of_no_processor(void **unused)
{
    State *state;

    (void)unused;
    need_kvm();
    state = unpack_good();
    add_msrs(state, 1, 0xdeadbeef, 1);
    assert_refused(state, ENOTSUP, "0xdeadbeef");
    state = unpack_good();
    add_msrs(state, VCPU_MAX_MSRS + 1, 0x10, 1);
    assert_refused(state, EBADMSG, "structures have the wrong size");
    state = unpack_good(); /* as many as there may be, the APIC base beside them */
    add_msrs(state, VCPU_MAX_MSRS - (uint32_t)state->vcpus[0]->n_msrs, 0x10, 1);
    survive(state);
    state = unpack_good();
    add_msrs(state, VCPU_MAX_MSRS - (uint32_t)state->vcpus[0]->n_msrs, 0x6e0, UINT64_MAX);
    survive(state);
}

/* --- anything -------------------------------------------------------------------------------- */

static void bytes_changed_at_random(void **unused)
{
    uint8_t *data = malloc(good_len + 1);
    const char *wanted = getenv("MAYFLY_STATES"); /* more of them, when somebody has the time */
    const int rounds = wanted ? atoi(wanted) : RANDOM_ROUNDS;
    unsigned seed = 20240611;
    struct error err;

    (void)unused;
    need_kvm();
    for (int round = 0; round < rounds; round++) {
        memcpy(data, good, good_len);
        for (int i = 0; i <= round % 8; i++)
            data[(size_t)rand_r(&seed) % good_len] = (uint8_t)rand_r(&seed);
        try(data, good_len, (off_t)MEMORY_MIB << 20, &err);
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_unchanged_state_is_taken),
        cmocka_unit_test(bytes_that_are_no_state),
        cmocka_unit_test(another_machine),
        cmocka_unit_test(another_processor),
        cmocka_unit_test(queues_in_impossible_places),
        cmocka_unit_test(queues_of_impossible_size),
        cmocka_unit_test(devices_in_impossible_states),
        cmocka_unit_test(streams_that_cannot_be),
        cmocka_unit_test(processors_of_the_wrong_size),
        cmocka_unit_test(processors_of_garbage),
        cmocka_unit_test(registers_of_no_processor),
        cmocka_unit_test(bytes_changed_at_random),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
