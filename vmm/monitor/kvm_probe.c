/* What kind of KVM this is: see kvm_probe.h. */
#include "kvm_probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "common/fd.h"
#include "kvm_probe_vm.h"

enum { PAGE = 4096, TRIES = 3, EMULATED_ABOVE_NS = 100000, CODE_AT = 0 };

/* 32-bit protected mode without paging: mov ecx, 1000; l: dec ecx; jnz l; out 0x10, al; hlt */
static const uint8_t loop_code[] = {0xb9, 0xe8, 0x03, 0x00, 0x00, 0x49,
                                    0x75, 0xfd, 0xe6, 0x10, 0xf4};

static int set_entry(struct probe_vm *vm, struct error *err)
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

static int run_once(struct probe_vm *vm, uint64_t *ret_ns, struct error *err)
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
    __attribute__((cleanup(probe_vm_done))) struct probe_vm vm = PROBE_VM_NONE;
    uint64_t best = UINT64_MAX;
    int r = probe_vm_init(kvm_fd, PAGE, &vm, err);

    if (r == 0)
        memcpy(vm.memory + CODE_AT, loop_code, sizeof(loop_code));
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
