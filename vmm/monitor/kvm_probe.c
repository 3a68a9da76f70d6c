/* What kind of KVM this is: see kvm_probe.h. */
#include "kvm_probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/fd.h"

enum { PAGE = 4096, TRIES = 3, EMULATED_ABOVE_NS = 100000, CODE_AT = 0 };

/* 32-bit protected mode without paging: mov ecx, 1000; l: dec ecx; jnz l; out 0x10, al; hlt */
static const uint8_t loop_code[] = {0xb9, 0xe8, 0x03, 0x00, 0x00, 0x49,
                                    0x75, 0xfd, 0xe6, 0x10, 0xf4};

struct tiny_vm {
    int vm_fd, vcpu_fd;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void tiny_vm_done(struct tiny_vm *vm)
{
    if (vm->run)
        munmap(vm->run, vm->run_size);
    if (vm->vcpu_fd >= 0)
        close(vm->vcpu_fd);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    if (vm->memory)
        munmap(vm->memory, PAGE);
}

static int tiny_vm_init(int kvm_fd, struct tiny_vm *vm, struct error *err)
{
    void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return error_set(err, errno, "map a page");
    vm->memory = memory;
    memcpy(vm->memory + CODE_AT, loop_code, sizeof(loop_code));
    vm->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    if (vm->vm_fd < 0)
        return error_set(err, errno, "KVM_CREATE_VM");
    struct kvm_userspace_memory_region region = {.memory_size = PAGE,
                                                 .userspace_addr = (uintptr_t)vm->memory};
    if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return error_set(err, errno, "KVM_SET_USER_MEMORY_REGION");
    vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->vcpu_fd < 0 || size <= 0)
        return error_set(err, errno, "KVM_CREATE_VCPU");
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return error_set(err, errno, "map kvm_run");
    vm->run = run;
    vm->run_size = (size_t)size;
    return 0;
}

static int set_entry(struct tiny_vm *vm, struct error *err)
{
    const struct kvm_segment flat = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    struct kvm_regs regs = {.rip = CODE_AT, .rflags = 2};
    struct kvm_sregs sregs;

    if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return error_set(err, errno, "KVM_GET_SREGS");
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
    sregs.cs = flat;
    sregs.cs.selector = 0x8;
    sregs.cs.type = 11;
    sregs.cr0 |= 1; /* protected mode */
    if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return error_set(err, errno, "KVM_SET_SREGS");
    return 0;
}

static int run_once(struct tiny_vm *vm, uint64_t *ret_ns, struct error *err)
{
    int r = set_entry(vm, err);

    if (r < 0)
        return r;
    uint64_t start = clock_now_ns();
    do {
        r = ioctl(vm->vcpu_fd, KVM_RUN, 0);
    } while (r < 0 && (errno == EINTR || errno == EAGAIN));
    *ret_ns = clock_now_ns() - start;
    if (r < 0)
        return error_set(err, errno, "KVM_RUN");
    if (vm->run->exit_reason != KVM_EXIT_IO)
        return error_say(err, EIO, "KVM probe: unexpected exit %u", vm->run->exit_reason);
    return 0;
}

int kvm_probe_supervisor(int kvm_fd, struct kvm_probe *ret, struct error *err)
{
    __attribute__((cleanup(tiny_vm_done))) struct tiny_vm vm = {.vm_fd = -1, .vcpu_fd = -1};
    uint64_t best = UINT64_MAX;
    int r = tiny_vm_init(kvm_fd, &vm, err);

    /* The best of a few: the first run faults pages in, any may be preempted. */
    for (int i = 0; i < TRIES && r == 0; i++) {
        uint64_t ns = 0;

        r = run_once(&vm, &ns, err);
        if (r == 0 && ns < best)
            best = ns;
    }
    if (r < 0)
        return r;
    ret->loop_ns = best;
    ret->emulates_supervisor = best > EMULATED_ABOVE_NS;
    return 0;
}
