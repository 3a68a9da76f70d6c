/* A vCPU's thread and its exits: see vcpu.h. */
#include "vcpu.h"

#include <cpuid.h> /* the compiler's */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "assist/assist.h"
#include "boot_linux.h"
#include "common/clock.h"
#include "common/fd.h"
#include "cpuid.h"
#include "layout.h"
#include "seccomp_filter.h"

#define MSR_TSC 0x10u
#define XCR0_X87_SSE_AVX 7u /* Intel SDM 3A 2.6 */

enum { KEYBOARD_RESET = 0xfe };

enum wanted { WANT_RUN, WANT_PAUSE, WANT_END };

struct vcpu {
    const struct vcpu_host *host; /* borrowed */
    unsigned index;
    int fd;              /* owned */
    struct kvm_run *run; /* owned mapping, shared with KVM; the vCPU's thread's while it runs */
    size_t run_size;
    struct assist *assist; /* owned; NULL on hosts that do not need it */
    struct vcpu_baseline baseline;
    bool can_sync; /* KVM_CAP_SYNC_REGS: registers can be set through kvm_run */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* guards the two below */
    pthread_cond_t changed;
    enum wanted wanted;
    bool parked;

    bool restored;                  /* set before the thread runs on */
    _Atomic uint64_t first_exit_ns; /* after a restore; written by the vCPU's thread */
    _Atomic uint64_t exits, port_exits, mmio_exits; /* written by the vCPU's thread only */
};

/* The signal only has to interrupt KVM_RUN. */
static void on_kick(int signal)
{
    (void)signal;
}

static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

int vcpu_new(const struct vcpu_host *host, unsigned index, struct vcpu **ret_vcpu,
             struct error *err)
{
    struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
    int r = 0;

    if (!vcpu)
        return error_set(err, ENOMEM, "vCPU %u", index);
    vcpu->host = host;
    vcpu->index = index;
    vcpu->wanted = WANT_RUN;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->changed, NULL);
    vcpu->fd = ioctl(host->vm_fd, KVM_CREATE_VCPU, index);
    if (vcpu->fd < 0)
        r = error_set(err, errno, "KVM_CREATE_VCPU %u", index);
    if (r == 0) {
        vcpu->run_size = (size_t)ioctl(host->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
        void *run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
        if (run == MAP_FAILED)
            r = error_set(err, errno, "map kvm_run of vCPU %u", index);
        else
            vcpu->run = run;
    }
    if (r == 0)
        r = cpuid_set(host->kvm_fd, vcpu->fd, host->cpu_template, index, host->count, err);
    if (r == 0)
        r = vcpu_state_baseline(host->kvm_fd, vcpu->fd, &vcpu->baseline, err);
    if (r == 0 && host->assist)
        r = assist_new(vcpu->fd, host->memory, &vcpu->assist, err);
    if (r < 0) {
        vcpu_free(vcpu);
        return r;
    }
    int synced = ioctl(host->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    vcpu->can_sync = (synced & KVM_SYNC_X86_VALID_FIELDS) == KVM_SYNC_X86_VALID_FIELDS;
    *ret_vcpu = vcpu;
    return 0;
}

static void want(struct vcpu *vcpu, enum wanted wanted)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->wanted != WANT_END)
        vcpu->wanted = wanted;
    /* immediate_exit makes the next KVM_RUN return at once: a signal that comes just before it is
     * then not lost (KVM api.rst 5, "immediate_exit"). */
    if (wanted != WANT_RUN)
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
    if (wanted != WANT_RUN && vcpu->has_thread)
        pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
}

void vcpu_free(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    if (vcpu->has_thread) {
        want(vcpu, WANT_END);
        pthread_join(vcpu->thread, NULL);
    }
    assist_free(vcpu->assist);
    if (vcpu->run)
        munmap(vcpu->run, vcpu->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    pthread_cond_destroy(&vcpu->changed);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

int vcpu_boot(struct vcpu *vcpu, gpa_t entry, struct error *err)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;

    if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return error_set(err, errno, "KVM_GET_SREGS");
    boot_linux_set_registers(entry, &sregs, &regs);
    if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
        return error_set(err, errno, "KVM_SET_SREGS");
    if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
        return error_set(err, errno, "KVM_SET_REGS");
    return 0;
}

static int stop(struct vcpu *vcpu, enum vcpu_stop why, const char *text)
{
    vcpu->host->stopped(vcpu->host->opaque, why, text);
    return -ECANCELED;
}

static void handle_ports(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            bus_write(vcpu->host->ports, run->io.port, data, run->io.size);
        else
            bus_read(vcpu->host->ports, run->io.port, data, run->io.size);
    }
}

static bool is_reset(const struct kvm_run *run)
{
    return run->io.direction == KVM_EXIT_IO_OUT && run->io.port == LAYOUT_PORT_KEYBOARD &&
           *((const uint8_t *)run + run->io.data_offset) == KEYBOARD_RESET;
}

static int handle_mmio(struct vcpu *vcpu, struct error *err)
{
    struct kvm_run *run = vcpu->run;

    /* KVM's instruction emulator takes memory that it cannot reach for a device's. */
    if (vcpu->host->is_memory(vcpu->host->opaque, run->mmio.phys_addr, run->mmio.len,
                              run->mmio.is_write))
        return error_say(err, EFAULT, "KVM could not reach guest memory at %#llx",
                         (unsigned long long)run->mmio.phys_addr);
    if (run->mmio.is_write)
        bus_write(vcpu->host->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(vcpu->host->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    return 0;
}

static int handle_internal_error(struct vcpu *vcpu, struct error *err)
{
    const struct kvm_run *run = vcpu->run;

    if (vcpu->assist && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        return assist_on_internal_error(vcpu->assist, err);
    return error_say(err, EIO, "KVM internal error %u", run->internal.suberror);
}

/* One exit. Returns 0 to run on; the VM has been told to stop otherwise. */
static int dispatch(struct vcpu *vcpu)
{
    struct error err = {0};
    int r = 0;

    count(&vcpu->exits);
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        count(&vcpu->port_exits);
        if (is_reset(vcpu->run))
            return stop(vcpu, VCPU_STOP_RESET, "");
        handle_ports(vcpu);
        r = vcpu->assist ? assist_on_io(vcpu->assist, &err) : 0;
        break;
    case KVM_EXIT_MMIO:
        count(&vcpu->mmio_exits);
        r = handle_mmio(vcpu, &err);
        if (r == 0 && vcpu->assist)
            r = assist_on_io(vcpu->assist, &err);
        break;
    case KVM_EXIT_INTR:
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        r = handle_internal_error(vcpu, &err);
        break;
    case KVM_EXIT_DEBUG:
        r = vcpu->assist ? assist_on_debug(vcpu->assist, &err)
                         : error_say(&err, EIO, "unexpected debug exit");
        break;
    case KVM_EXIT_SHUTDOWN:
        return stop(vcpu, VCPU_STOP_TRIPLE_FAULT, "the guest's processor took a triple fault");
    case KVM_EXIT_SYSTEM_EVENT:
        return stop(vcpu, VCPU_STOP_SHUTDOWN, "");
    case KVM_EXIT_FAIL_ENTRY:
        r = error_say(&err, EIO, "KVM could not enter the guest: hardware reason %#llx",
                      (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        r = error_say(&err, EIO, "unexpected KVM exit %u", vcpu->run->exit_reason);
    }
    return r < 0 ? stop(vcpu, VCPU_STOP_INTERNAL, err.text) : 0;
}

static int run_guest(struct vcpu *vcpu)
{
    int r = ioctl(vcpu->fd, KVM_RUN, 0);

    if (vcpu->restored) {
        vcpu->restored = false;
        atomic_store(&vcpu->first_exit_ns, clock_now_ns());
    }
    if (r == 0)
        return dispatch(vcpu);
    if (errno == EINTR || errno == EAGAIN)
        return 0;
    struct error err;
    error_set(&err, errno, "KVM_RUN on vCPU %u", vcpu->index);
    return stop(vcpu, VCPU_STOP_INTERNAL, err.text);
}

/* Parks while a pause is wanted. False: the thread is to end. */
static bool park_while_wanted(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    while (vcpu->wanted == WANT_PAUSE) {
        vcpu->parked = true;
        pthread_cond_broadcast(&vcpu->changed);
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    }
    vcpu->parked = false;
    vcpu->run->immediate_exit = vcpu->wanted == WANT_END;
    bool go_on = vcpu->wanted == WANT_RUN;
    pthread_mutex_unlock(&vcpu->lock);
    return go_on;
}

/* Before anything of the guest runs, or is looked at, on this thread. */
static int put_filter_on(struct vcpu *vcpu)
{
    struct error err;

    if (!vcpu->host->filter || seccomp_filter_install(vcpu->host->filter, &err) == 0)
        return 0;
    return stop(vcpu, VCPU_STOP_INTERNAL, err.text);
}

static void run_until_stopped(struct vcpu *vcpu)
{
    for (;;) {
        if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST)) {
            /* Complete a pending port or MMIO read first: KVM_RUN with immediate_exit finishes it
             * and returns -EINTR, so that saved registers are those after the instruction. */
            if (ioctl(vcpu->fd, KVM_RUN, 0) == 0 && dispatch(vcpu) < 0)
                break;
            if (!park_while_wanted(vcpu))
                break;
        }
        if (run_guest(vcpu) < 0)
            break;
    }
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    char name[16];

    snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    if (put_filter_on(vcpu) == 0)
        run_until_stopped(vcpu);
    /* Whoever pauses a stopped vCPU must not wait for it. */
    pthread_mutex_lock(&vcpu->lock);
    vcpu->parked = true;
    vcpu->wanted = WANT_END;
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
    return NULL;
}

/* What Linux takes of the processor: where supervisor mode is emulated, the command line has it do
 * without AVX-512 (command_line.c); elsewhere all that there is. */
static uint64_t usual_xcr0(const struct vcpu *vcpu)
{
    unsigned low = 0, ebx, ecx, high = 0;

    if (vcpu->host->cpu_template)
        return vcpu->host->cpu_template->xcr0;
    if (vcpu->assist)
        return XCR0_X87_SSE_AVX;
    __get_cpuid_count(0xd, 0, &low, &ebx, &ecx, &high);
    return low | (uint64_t)high << 32;
}

void vcpu_expect_restore(struct vcpu *vcpu)
{
    vcpu_state_expect(vcpu->fd, usual_xcr0(vcpu), &vcpu->baseline);
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
    struct sigaction action = {.sa_handler = on_kick};

    sigaction(VCPU_KICK_SIGNAL, &action, NULL);
    want(vcpu, WANT_PAUSE);
    int r = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
    if (r != 0)
        return error_set(err, r, "thread of vCPU %u", vcpu->index);
    vcpu->has_thread = true;
    return 0;
}

void vcpu_pause(struct vcpu *vcpu)
{
    if (!vcpu->has_thread)
        return;
    want(vcpu, WANT_PAUSE);
    pthread_mutex_lock(&vcpu->lock);
    while (!vcpu->parked)
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_ask_pause(struct vcpu *vcpu)
{
    want(vcpu, WANT_PAUSE);
}

void vcpu_resume(struct vcpu *vcpu)
{
    want(vcpu, WANT_RUN);
}

int vcpu_get_state(struct vcpu *vcpu, struct vcpu_state *ret_state, struct error *err)
{
    return vcpu_state_get(vcpu->host->kvm_fd, vcpu->fd, &vcpu->baseline, ret_state, err);
}

int vcpu_set_state(struct vcpu *vcpu, const struct vcpu_state *state, struct error *err)
{
    int r =
        vcpu_state_set(vcpu->fd, vcpu->can_sync ? vcpu->run : NULL, &vcpu->baseline, state, err);

    if (r == 0 && vcpu->assist)
        r = assist_restored(vcpu->assist, state, vcpu->host->count == 1, err);
    vcpu->restored = r == 0;
    return r;
}

uint64_t vcpu_first_exit_ns(const struct vcpu *vcpu)
{
    return atomic_load(&vcpu->first_exit_ns);
}

uint32_t vcpu_tsc_khz(const struct vcpu *vcpu)
{
    int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

    return khz > 0 ? (uint32_t)khz : 0;
}

uint64_t vcpu_read_tsc(const struct vcpu *vcpu)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msr = {.header.nmsrs = 1, .entry.index = MSR_TSC};

    return ioctl(vcpu->fd, KVM_GET_MSRS, &msr) == 1 ? msr.entry.data : 0;
}

struct vcpu_counters vcpu_count(const struct vcpu *vcpu)
{
    struct vcpu_counters counters = {
        .exits = atomic_load_explicit(&vcpu->exits, memory_order_relaxed),
        .port_exits = atomic_load_explicit(&vcpu->port_exits, memory_order_relaxed),
        .mmio_exits = atomic_load_explicit(&vcpu->mmio_exits, memory_order_relaxed),
    };

    if (vcpu->assist) {
        struct assist_counters assist = assist_get_counters(vcpu->assist);

        counters.assist_instructions = assist.instructions;
        counters.assist_system_calls = assist.system_calls;
        counters.assist_page_faults = assist.page_faults;
    }
    return counters;
}
