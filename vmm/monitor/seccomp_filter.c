/*
 * Allow-lists: see seccomp_filter.h. Process: the monitor's. They were found by reading, and by
 * strace of boots, restores, snapshots and hostile guests; what glibc needs besides is among them.
 *
 * Invariant: everything else is the end of the process: other calls, these with other arguments,
 * other architectures (32-bit calls, x32). Source: seccomp(2), KVM api.rst.
 */
#include "seccomp_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "vcpu.h"

#define ALL_BITS UINT64_MAX

#define CALL(name, reason)                                                                         \
    {                                                                                              \
        .call = SYS_##name, .why = (reason)                                                        \
    }
#define PINNED(name, index, bits, wanted, reason)                                                  \
    {                                                                                              \
        .call = SYS_##name, .argument = (index), .mask = (bits), .value = (wanted),                \
        .why = (reason)                                                                            \
    }
#define KVM(request, reason) PINNED(ioctl, 1, ALL_BITS, request, reason)
/* Of a futex operation, what is left without the private and the clock flag. */
#define FUTEX(operation, reason) PINNED(futex, 1, (uint32_t)FUTEX_CMD_MASK, operation, reason)

/* The most frequent first: they are looked at in this order, where libseccomp keeps it. */
static const struct seccomp_rule vcpu_rules[] = {
    KVM(KVM_RUN, "run the guest"),
    CALL(write, "wake the loop by an eventfd"),
    FUTEX(FUTEX_WAIT, "devices' locks; being paused"),
    FUTEX(FUTEX_WAIT_BITSET, "as glibc waits for conditions"),
    FUTEX(FUTEX_WAKE, "devices' locks; say that it is paused"),
    KVM(KVM_SIGNAL_MSI, "an interrupt that a register access raised"),
    KVM(KVM_GET_REGS, "assist: decode an instruction"),
    KVM(KVM_SET_REGS, "assist: its result"),
    KVM(KVM_GET_SREGS, "assist: paging and privilege"),
    KVM(KVM_SET_SREGS, "assist: system call entry, page-table walks"),
    KVM(KVM_GET_MSRS, "assist: system call entry"),
    KVM(KVM_SET_MSRS, "assist: wrmsr"),
    KVM(KVM_GET_XSAVE, "assist: xsave"),
    KVM(KVM_SET_XSAVE, "assist: xrstor"),
    KVM(KVM_GET_XCRS, "assist: xgetbv, xsave"),
    KVM(KVM_GET_VCPU_EVENTS, "assist: inject an exception"),
    KVM(KVM_SET_VCPU_EVENTS, "assist: inject an exception"),
    KVM(KVM_SET_GUEST_DEBUG, "assist: the breakpoint on page faults"),
    CALL(clock_gettime, "times, where the clock is none that the vDSO reads"),
    CALL(time, "the guest reads its CMOS clock"),
    CALL(rt_sigreturn, "after the signal that ends KVM_RUN"),
    CALL(restart_syscall, "the kernel, after being stopped and continued"),
    CALL(rt_sigprocmask, "glibc, at a thread's end"),
    PINNED(madvise, 2, ALL_BITS, MADV_DONTNEED, "glibc, at a thread's end: its stack"),
    CALL(munmap, "glibc, at a thread's end: its stack"),
    CALL(getpid, "glibc's pthread_kill(); abort()"),
    CALL(gettid, "abort()"),
    PINNED(tgkill, 2, ALL_BITS, VCPU_KICK_SIGNAL, "the freeze point: no vCPU runs on"),
    PINNED(tgkill, 2, ALL_BITS, SIGABRT, "abort()"),
    PINNED(newfstatat, 3, ALL_BITS, AT_EMPTY_PATH, "guest memory is gone: was its file cut short"),
    CALL(sendmsg, "guest memory is gone: the monitor's last words to the host"),
    CALL(exit, "a thread's end"),
    CALL(exit_group, "the process's end"),
};

static const struct seccomp_rule control_rules[] = {
    CALL(epoll_wait, "the loop"),
    CALL(read, "eventfds and timers"),
    CALL(write, "the console's file, eventfds, stderr, a snapshot's state"),
    KVM(KVM_SIGNAL_MSI, "a device's interrupt"),
    CALL(readv, "a stream's bytes for the guest"),
    CALL(sendmsg, "a stream's bytes from the guest; replies to the host"),
    CALL(recvmsg, "requests of the host"),
    CALL(recvfrom, "the line of a client that wants to reach the guest"),
    CALL(sendto, "the answer to it"),
    FUTEX(FUTEX_WAIT, "devices' locks, waiting for vCPUs"),
    FUTEX(FUTEX_WAIT_BITSET, "as glibc waits for conditions and for threads' ends"),
    FUTEX(FUTEX_WAKE, "devices' locks, vCPUs run on"),
    CALL(poll, "is there room in a console's pipe; has a stream ended"),
    CALL(epoll_ctl, "streams come and go, and what they wait for"),
    PINNED(timerfd_create, 0, ALL_BITS, CLOCK_MONOTONIC, "time limits of streams, console output"),
    CALL(timerfd_settime, "the same"),
    PINNED(accept4, 3, ALL_BITS, SOCK_CLOEXEC | SOCK_NONBLOCK,
           "clients that want to reach the guest"),
    CALL(shutdown, "one direction of a stream ends"),
    CALL(close, "streams, the descriptors of a request"),
    PINNED(fcntl, 1, ALL_BITS, F_DUPFD_CLOEXEC, "restore: the agent's stream"),
    PINNED(fcntl, 1, ALL_BITS, F_SETFL, "restore: the agent's stream is not waited for"),
    CALL(preadv, "virtio-blk: read"),
    CALL(pwritev, "virtio-blk: write"),
    CALL(fdatasync, "virtio-blk: flush"),
    CALL(getrandom, "virtio-rng"),
    CALL(pread64, "restore: the state; snapshot: the page map"),
    CALL(pwrite64, "snapshot: memory"),
    CALL(ftruncate, "snapshot: the size of the memory file"),
    PINNED(newfstatat, 3, ALL_BITS, AT_EMPTY_PATH,
           "restore: sizes of open files, as glibc's fstat()"),
    PINNED(mmap, 2, PROT_EXEC, 0, "restore: memory; malloc. Never to be executed"),
    CALL(munmap, "the VM's end; malloc"),
    CALL(brk, "malloc"),
    CALL(mremap, "malloc: a large block grows, such as a long list of pages"),
    PINNED(madvise, 2, ALL_BITS, MADV_DONTNEED, "malloc; stacks of ended threads"),
    KVM(KVM_GET_REGS, "snapshot"),
    KVM(KVM_SET_REGS, "restore"),
    KVM(KVM_GET_SREGS, "snapshot; restore with the assist"),
    KVM(KVM_SET_SREGS, "restore"),
    KVM(KVM_GET_MSRS, "snapshot; the TSC at the start"),
    KVM(KVM_SET_MSRS, "restore"),
    KVM(KVM_GET_XSAVE, "snapshot"),
    KVM(KVM_SET_XSAVE, "restore"),
    KVM(KVM_GET_XCRS, "snapshot"),
    KVM(KVM_SET_XCRS, "restore"),
    KVM(KVM_GET_LAPIC, "snapshot"),
    KVM(KVM_SET_LAPIC, "restore"),
    KVM(KVM_GET_VCPU_EVENTS, "snapshot"),
    KVM(KVM_SET_VCPU_EVENTS, "restore"),
    KVM(KVM_GET_DEBUGREGS, "snapshot"),
    KVM(KVM_SET_DEBUGREGS, "restore"),
    KVM(KVM_GET_MP_STATE, "snapshot"),
    KVM(KVM_SET_MP_STATE, "restore"),
    KVM(KVM_GET_MSR_INDEX_LIST, "snapshot: which MSRs there are"),
    KVM(KVM_SET_GUEST_DEBUG, "restore with the assist: its breakpoint"),
    PINNED(tgkill, 2, ALL_BITS, VCPU_KICK_SIGNAL, "take a vCPU out of KVM_RUN"),
    PINNED(tgkill, 2, ALL_BITS, SIGABRT, "abort()"),
    CALL(getpid, "glibc's pthread_kill()"),
    CALL(gettid, "abort()"),
    CALL(rt_sigprocmask, "glibc's pthread_kill()"),
    CALL(rt_sigreturn, "after a signal"),
    CALL(clock_gettime, "times, where the clock is none that the vDSO reads"),
    CALL(restart_syscall, "the kernel, after being stopped and continued"),
    CALL(exit, "a thread's end"),
    CALL(exit_group, "the process's end"),
};

const struct seccomp_rule *seccomp_filter_rules(enum seccomp_role role, size_t *ret_n)
{
    if (role == SECCOMP_VCPU_THREAD) {
        *ret_n = ARRAY_LEN(vcpu_rules);
        return vcpu_rules;
    }
    *ret_n = ARRAY_LEN(control_rules);
    return control_rules;
}

static int add_rules(scmp_filter_ctx context, enum seccomp_role role)
{
    size_t n;
    const struct seccomp_rule *rules = seccomp_filter_rules(role, &n);
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        const struct seccomp_rule *rule = &rules[i];
        const struct scmp_arg_cmp pinned =
            SCMP_CMP(rule->argument, SCMP_CMP_MASKED_EQ, rule->mask, rule->value);

        r = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, rule->call, rule->mask ? 1 : 0,
                                   &pinned);
    }
    return r;
}

/* libseccomp 2.5 gives a program to a file only. */
static int take_program(scmp_filter_ctx context, struct sock_fprog *ret_program)
{
    AUTO_FD file = memfd_create("mayfly-seccomp", MFD_CLOEXEC);
    int r = file < 0 ? -errno : seccomp_export_bpf(context, file);
    off_t len = r < 0 ? 0 : lseek(file, 0, SEEK_CUR);

    if (r < 0)
        return r;
    if (len <= 0 || len > (off_t)(UINT16_MAX * sizeof(struct sock_filter)))
        return -E2BIG;
    AUTO_FREE struct sock_filter *filter = malloc((size_t)len);
    r = filter ? fd_pread_all(file, filter, (size_t)len, 0) : -ENOMEM;
    if (r < 0)
        return r;
    ret_program->len = (unsigned short)((size_t)len / sizeof(*filter));
    ret_program->filter = mem_steal(&filter);
    return 0;
}

int seccomp_filter_make(enum seccomp_role role, enum seccomp_way way,
                        struct sock_fprog *ret_program, struct error *err)
{
    scmp_filter_ctx context =
        seccomp_init(way == SECCOMP_TRAP ? SCMP_ACT_TRAP : SCMP_ACT_KILL_PROCESS);
    int r = context ? 0 : -ENOMEM;

    /* x32 calls have their own numbers on the same architecture; libseccomp refuses them together
     * with other architectures when x32 is not among those of the filter. */
    if (r == 0)
        r = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (r == 0)
        r = add_rules(context, role);
    if (r == 0)
        r = take_program(context, ret_program);
    if (context)
        seccomp_release(context);
    return r < 0 ? error_set(err, -r, "make a filter of system calls") : 0;
}

int seccomp_filter_install(const struct sock_fprog *program, struct error *err)
{
    /* Without it only CAP_SYS_ADMIN could: a filter must not be put on a set-user-ID program. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) < 0)
        return error_set(err, errno,
                         "install the filter of system calls (this kernel needs "
                         "CONFIG_SECCOMP_FILTER)");
    return 0;
}

/* --- for tests -------------------------------------------------------------------------------- */

/* On the thread that made the call, with the other registers still in the context: system call
 * arguments 1 to 3 are rdi, rsi, rdx. write() and exit_group() are on every list. */
static void on_forbidden(int signal, siginfo_t *info, void *opaque)
{
    const ucontext_t *context = opaque;
    char line[160];
    int len = snprintf(line, sizeof(line),
                       "mayfly-vmm: forbidden system call %d (%#llx, %#llx, %#llx, %#llx)\n",
                       info->si_syscall, (unsigned long long)context->uc_mcontext.gregs[REG_RDI],
                       (unsigned long long)context->uc_mcontext.gregs[REG_RSI],
                       (unsigned long long)context->uc_mcontext.gregs[REG_RDX],
                       (unsigned long long)context->uc_mcontext.gregs[REG_R10]);

    (void)signal;
    if (len > 0 && write(STDERR_FILENO, line, (size_t)len) < 0)
        _exit(SIGSYS);
    _exit(128 + SIGSYS);
}

void seccomp_filter_tell(void)
{
    struct sigaction action = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};

    sigaction(SIGSYS, &action, NULL);
}
