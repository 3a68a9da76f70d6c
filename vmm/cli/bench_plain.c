/* The usual sequence of KVM calls: see bench_plain.h. Process: the CLI. Source: KVM api.rst 4. */
#include "bench_plain.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "monitor/kvm_probe.h"

enum {
    CODE_AT = 0x1000,
    TSS_AT = 0xfffbd000, /* where KVM wants three pages on Intel, api.rst 4.26 */
    MAX_CPUID = 256,
    MAX_MSRS = 16,
};

struct msrs {
    struct kvm_msrs header;
    struct kvm_msr_entry entries[MAX_MSRS];
};

struct cpuid {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
};

/* What Linux sets of a 64-bit guest, and forkers carry over. */
static const uint32_t carried_msrs[] = {
    0x010,      /* TSC */
    0x174,      /* SYSENTER_CS */
    0x175,      /* SYSENTER_ESP */
    0x176,      /* SYSENTER_EIP */
    0x1a0,      /* MISC_ENABLE */
    0x277,      /* PAT */
    0xc0000081, /* STAR */
    0xc0000082, /* LSTAR */
    0xc0000083, /* CSTAR */
    0xc0000084, /* SFMASK */
    0xc0000102, /* KERNEL_GS_BASE */
};

struct bench_plain {
    int kvm_fd; /* owned */
    size_t run_bytes;
    bool emulates_supervisor;
    struct cpuid cpuid;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;
    struct msrs msrs;
};

/* One VM under way; -1, MAP_FAILED: not made. */
struct clone {
    int vm_fd, vcpu_fd;
    uint8_t *memory;
    size_t memory_bytes;
    struct kvm_run *run;
};

static const struct clone no_clone = {
    .vm_fd = -1, .vcpu_fd = -1, .memory = MAP_FAILED, .run = MAP_FAILED};

struct call {
    unsigned long request;
    const char *name;
    const void *data;
};

static int call_all(int fd, const struct call *calls, size_t n, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        if (ioctl(fd, calls[i].request, calls[i].data) < 0)
            return error_set(err, errno, "%s", calls[i].name);
    return 0;
}

static int make_vm(const struct bench_plain *plain, struct clone *clone, struct error *err)
{
    const struct kvm_pit_config pit = {0};
    const struct call pit_call[] = {{KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &pit}};

    clone->vm_fd = ioctl(plain->kvm_fd, KVM_CREATE_VM, 0);
    if (clone->vm_fd < 0)
        return error_set(err, errno, "KVM_CREATE_VM");
    if (ioctl(clone->vm_fd, KVM_SET_TSS_ADDR, TSS_AT) < 0)
        return error_set(err, errno, "KVM_SET_TSS_ADDR");
    if (ioctl(clone->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return error_set(err, errno, "KVM_CREATE_IRQCHIP");
    return call_all(clone->vm_fd, pit_call, ARRAY_LEN(pit_call), err);
}

static int give_memory(struct clone *clone, int fd, size_t bytes, struct error *err)
{
    static const uint8_t code[] = {0xe6, 0x10}; /* out 0x10, al */

    clone->memory_bytes = bytes;
    clone->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (clone->memory == MAP_FAILED)
        return error_set(err, errno, "map the memory");
    memcpy(clone->memory + CODE_AT, code, sizeof(code));
    const struct kvm_userspace_memory_region region = {.memory_size = bytes,
                                                       .userspace_addr = (uintptr_t)clone->memory};
    const struct call call[] = {
        {KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region}};
    return call_all(clone->vm_fd, call, ARRAY_LEN(call), err);
}

static int make_vcpu(const struct bench_plain *plain, struct clone *clone, struct error *err)
{
    clone->vcpu_fd = ioctl(clone->vm_fd, KVM_CREATE_VCPU, 0);
    if (clone->vcpu_fd < 0)
        return error_set(err, errno, "KVM_CREATE_VCPU");
    clone->run =
        mmap(NULL, plain->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, clone->vcpu_fd, 0);
    if (clone->run == MAP_FAILED)
        return error_set(err, errno, "map kvm_run");
    const struct call call[] = {{KVM_SET_CPUID2, "KVM_SET_CPUID2", &plain->cpuid}};
    return call_all(clone->vcpu_fd, call, ARRAY_LEN(call), err);
}

static int set_state(const struct bench_plain *plain, struct clone *clone, struct error *err)
{
    const struct call calls[] = {
        {KVM_SET_SREGS, "KVM_SET_SREGS", &plain->sregs},
        {KVM_SET_XSAVE, "KVM_SET_XSAVE", &plain->xsave},
        {KVM_SET_XCRS, "KVM_SET_XCRS", &plain->xcrs},
        {KVM_SET_REGS, "KVM_SET_REGS", &plain->regs},
        {KVM_SET_LAPIC, "KVM_SET_LAPIC", &plain->lapic},
        {KVM_SET_MSRS, "KVM_SET_MSRS", &plain->msrs},
    };

    return call_all(clone->vcpu_fd, calls, ARRAY_LEN(calls), err);
}

static int run(struct clone *clone, struct error *err)
{
    int r;

    do {
        r = ioctl(clone->vcpu_fd, KVM_RUN, 0);
    } while (r < 0 && errno == EINTR);
    if (r < 0)
        return error_set(err, errno, "KVM_RUN");
    if (clone->run->exit_reason != KVM_EXIT_IO)
        return error_say(err, EIO, "the plain VM came back with KVM exit %u, not its OUT",
                         clone->run->exit_reason);
    return 0;
}

static void tear_down(const struct bench_plain *plain, struct clone *clone)
{
    if (clone->run != MAP_FAILED)
        munmap(clone->run, plain->run_bytes);
    fd_close_at_exit(&clone->vcpu_fd);
    fd_close_at_exit(&clone->vm_fd);
    if (clone->memory != MAP_FAILED)
        munmap(clone->memory, clone->memory_bytes);
}

int bench_plain_clone(const struct bench_plain *plain, int memory_fd, uint32_t memory_mib,
                      struct bench_plain_times *ret_times, struct error *err)
{
    struct clone clone = no_clone;
    struct bench_plain_times times = {0};
    uint64_t began_ns = clock_now_ns();
    int r = make_vm(plain, &clone, err);

    if (r == 0)
        r = give_memory(&clone, memory_fd, (size_t)memory_mib << 20, err);
    if (r == 0)
        r = make_vcpu(plain, &clone, err);
    if (r == 0)
        r = set_state(plain, &clone, err);
    times.restored_ns = clock_now_ns() - began_ns;
    if (r == 0)
        r = run(&clone, err);
    times.first_exit_ns = clock_now_ns() - began_ns;
    began_ns = clock_now_ns();
    tear_down(plain, &clone);
    times.teardown_ns = clock_now_ns() - began_ns;
    if (r < 0)
        return error_wrap(err, "the usual sequence of KVM calls");
    *ret_times = times;
    return 0;
}

/* --- what all clones are given --------------------------------------------------------------- */

/* Those of @plain->msrs that this KVM has: each alone, since a list ends at the first it lacks. */
static void read_msrs(struct bench_plain *plain, int vcpu_fd)
{
    for (size_t i = 0; i < ARRAY_LEN(carried_msrs); i++) {
        struct msrs one = {.header.nmsrs = 1, .entries = {{.index = carried_msrs[i]}}};

        if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) == 1)
            plain->msrs.entries[plain->msrs.header.nmsrs++] = one.entries[0];
    }
}

static int take_state(struct bench_plain *plain, const struct clone *clone, struct error *err)
{
    const struct call calls[] = {
        {KVM_GET_SREGS, "KVM_GET_SREGS", &plain->sregs},
        {KVM_GET_XSAVE, "KVM_GET_XSAVE", &plain->xsave},
        {KVM_GET_XCRS, "KVM_GET_XCRS", &plain->xcrs},
        {KVM_GET_LAPIC, "KVM_GET_LAPIC", &plain->lapic},
    };
    int r = call_all(clone->vcpu_fd, calls, ARRAY_LEN(calls), err);

    plain->sregs.cs.base = 0;
    plain->sregs.cs.selector = 0;
    plain->regs = (struct kvm_regs){.rip = CODE_AT, .rflags = 2};
    read_msrs(plain, clone->vcpu_fd);
    return r;
}

static int prepare(struct bench_plain *plain, struct error *err)
{
    struct clone clone = no_clone;
    struct kvm_probe probe;
    int r = kvm_probe_supervisor(plain->kvm_fd, &probe, err);

    if (r < 0)
        return r;
    plain->emulates_supervisor = probe.emulates_supervisor;
    int bytes = ioctl(plain->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    plain->cpuid.header.nent = MAX_CPUID;
    if (bytes <= 0 || ioctl(plain->kvm_fd, KVM_GET_SUPPORTED_CPUID, &plain->cpuid) < 0)
        return error_set(err, errno, "KVM_GET_SUPPORTED_CPUID");
    plain->run_bytes = (size_t)bytes;
    r = make_vm(plain, &clone, err);
    if (r == 0)
        r = make_vcpu(plain, &clone, err);
    if (r == 0)
        r = take_state(plain, &clone, err);
    tear_down(plain, &clone);
    return r;
}

int bench_plain_new(struct bench_plain **ret_plain, struct error *err)
{
    struct bench_plain *plain = calloc(1, sizeof(*plain));

    if (!plain)
        return error_set(err, ENOMEM, "prepare the usual sequence of KVM calls");
    plain->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int r = plain->kvm_fd < 0
                ? error_set(err, errno, "open /dev/kvm ('mayfly doctor' says what to do)")
                : prepare(plain, err);
    if (r < 0) {
        bench_plain_free(plain);
        return r;
    }
    *ret_plain = plain;
    return 0;
}

void bench_plain_free(struct bench_plain *plain)
{
    if (!plain)
        return;
    fd_close_at_exit(&plain->kvm_fd);
    free(plain);
}

const char *bench_plain_kvm_kind(const struct bench_plain *plain)
{
    return plain->emulates_supervisor ? "emulates supervisor mode" : "hardware";
}
