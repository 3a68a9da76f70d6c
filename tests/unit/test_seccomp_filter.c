/*
 * security.md figure 13: under each list every rule lets its call pass, a pinned argument that is
 * another one is SIGSYS, and so is every call that has no rule. Each in a child under the filter.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "monitor/seccomp_filter.h"

enum {
    LAST_CALL = 500,
    X32_BIT = 0x40000000,
    PASSED = 42,
    /* Return paths of kernel probes: the kernel shows them to no filter, and sends SIGILL to
     * whoever calls them from anywhere else (Linux 6.11 and 6.18). */
    CALL_URETPROBE = 335,
    CALL_UPROBE = 336,
};

static const enum seccomp_role roles[] = {SECCOMP_CONTROL_THREAD, SECCOMP_VCPU_THREAD};

/* Arguments with which no call does anything: no descriptor, no address, no length. */
struct arguments {
    uint64_t at[6];
};

static const struct arguments harmless = {.at = {UINT64_MAX}};

static void on_signal(int signal)
{
    (void)signal;
}

static long call(int number, const struct arguments *a)
{
    return syscall(number, a->at[0], a->at[1], a->at[2], a->at[3], a->at[4], a->at[5]);
}

/* In the child: a signal is let in, so that its handler returns by the system call. */
static void return_from_handler(void)
{
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
}

static void prepare_signal(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t one;

    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    raise(SIGUSR1);
}

/* The wait status of a child that makes this call under @program. */
static int status_of(const struct sock_fprog *program, int number, const struct arguments *a)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        if (number == SYS_rt_sigreturn)
            prepare_signal();
        if (seccomp_filter_install(program, NULL) < 0)
            _exit(1);
        if (number == SYS_rt_sigreturn)
            return_from_handler();
        else
            call(number, a);
        syscall(SYS_exit_group, PASSED);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static bool allows(const struct seccomp_rule *rules, size_t n, int number, unsigned argument,
                   uint64_t value)
{
    for (size_t i = 0; i < n; i++)
        if (rules[i].call == number &&
            (rules[i].mask == 0 ||
             (rules[i].argument == argument && (value & rules[i].mask) == rules[i].value)))
            return true;
    return false;
}

/* A value of the pinned argument that no rule of this call allows. */
static uint64_t other_value(const struct seccomp_rule *rules, size_t n,
                            const struct seccomp_rule *rule)
{
    for (unsigned bit = 0; bit < 32; bit++) {
        uint64_t value = rule->value ^ (UINT64_C(1) << bit);

        if (!allows(rules, n, rule->call, rule->argument, value))
            return value;
    }
    fail_msg("every value is allowed: %s", rule->why);
    return 0;
}

static bool is_killed(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

static void check_rule(const struct sock_fprog *program, const struct seccomp_rule *rules, size_t n,
                       const struct seccomp_rule *rule)
{
    struct arguments a = harmless;
    bool ends = rule->call == SYS_exit || rule->call == SYS_exit_group;

    if (rule->mask)
        a.at[rule->argument] = rule->value;
    int status = status_of(program, rule->call, &a);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != (ends ? 255 : PASSED))
        fail_msg("call %d (%s): status %#x", rule->call, rule->why, status);
    if (!rule->mask)
        return;
    a.at[rule->argument] = other_value(rules, n, rule);
    status = status_of(program, rule->call, &a);
    if (!is_killed(status))
        fail_msg("call %d (%s) with argument %u of %#llx: status %#x", rule->call, rule->why,
                 rule->argument, (unsigned long long)a.at[rule->argument], status);
}

static void every_rule(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++) {
        struct sock_fprog program;
        size_t n;
        const struct seccomp_rule *rules = seccomp_filter_rules(roles[r], &n);

        assert_int_equal(seccomp_filter_make(roles[r], SECCOMP_KILL, &program, NULL), 0);
        for (size_t i = 0; i < n; i++) {
            assert_true(rules[i].why && rules[i].why[0]);
            check_rule(&program, rules, n, &rules[i]);
        }
        free(program.filter);
    }
}

/* --- calls without a rule -----------------------------------------------------------------------
 */

static volatile sig_atomic_t trapped;

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    trapped = info->si_syscall;
}

static bool has_rule(const struct seccomp_rule *rules, size_t n, int number)
{
    for (size_t i = 0; i < n; i++)
        if (rules[i].call == number)
            return true;
    return false;
}

/* In the child, under the filter that traps: the first call that was let through, or 0. */
static int first_let_through(const struct seccomp_rule *rules, size_t n)
{
    for (int number = 0; number <= LAST_CALL; number++) {
        if (has_rule(rules, n, number) || number == CALL_URETPROBE || number == CALL_UPROBE)
            continue;
        trapped = -1;
        call(number, &harmless);
        if (trapped != number)
            return number;
    }
    return 0;
}

static void every_other_call(void **state)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    (void)state;

    for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++) {
        struct sock_fprog program;
        size_t n;
        const struct seccomp_rule *rules = seccomp_filter_rules(roles[r], &n);
        int *passed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        int status;

        assert_true(passed != MAP_FAILED);
        *passed = -1;
        assert_int_equal(seccomp_filter_make(roles[r], SECCOMP_TRAP, &program, NULL), 0);
        pid_t child = fork();
        if (child == 0) {
            sigaction(SIGSYS, &action, NULL);
            if (seccomp_filter_install(&program, NULL) == 0)
                *passed = first_let_through(rules, n);
            syscall(SYS_exit_group, 0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        assert_int_equal(*passed, 0);
        munmap(passed, 4096);
        free(program.filter);
    }
}

/* The same numbers mean other calls there: both ways in are closed. */
static void other_architectures(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++) {
        struct sock_fprog program;
        int status;

        assert_int_equal(seccomp_filter_make(roles[r], SECCOMP_KILL, &program, NULL), 0);
        assert_true(is_killed(status_of(&program, X32_BIT | SYS_write, &harmless)));
        pid_t child = fork();
        if (child == 0) {
            int number = 20; /* getpid() of i386; writev() here */

            if (seccomp_filter_install(&program, NULL) < 0)
                _exit(1);
            __asm__ volatile("int $0x80" : "+a"(number) : : "memory", "r8", "r9", "r10", "r11");
            syscall(SYS_exit_group, PASSED);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        /* A kernel without 32-bit calls knows no such interrupt. */
        assert_true(WIFSIGNALED(status));
        assert_true(WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV);
        free(program.filter);
    }
}

/* What must not be on any list, whatever is added to them: it would undo the jail. */
static void never_allowed(void **state)
{
    static const int never[] = {
        SYS_open,        SYS_openat,      SYS_openat2,      SYS_creat,
        SYS_socket,      SYS_connect,     SYS_bind,         SYS_listen,
        SYS_execve,      SYS_execveat,    SYS_clone,        SYS_clone3,
        SYS_fork,        SYS_vfork,       SYS_ptrace,       SYS_mprotect,
        SYS_mount,       SYS_unshare,     SYS_setns,        SYS_bpf,
        SYS_kill,        SYS_prctl,       SYS_seccomp,      SYS_io_uring_setup,
        SYS_keyctl,      SYS_userfaultfd, SYS_memfd_create, SYS_process_vm_readv,
        SYS_pidfd_getfd, SYS_rt_sigaction};
    (void)state;

    for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++) {
        size_t n;
        const struct seccomp_rule *rules = seccomp_filter_rules(roles[r], &n);

        for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
            assert_false(has_rule(rules, n, never[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule),
        cmocka_unit_test(every_other_call),
        cmocka_unit_test(other_architectures),
        cmocka_unit_test(never_allowed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
