/*
 * Spawning. Process: mayfly-agent, and for a few system calls its child.
 *
 * The child shares the agent's memory until it executes (CLONE_VM | CLONE_VFORK): no page tables to
 * copy, no copy-on-write faults, and its error needs no pipe. It is born in its cgroup
 * (CLONE_INTO_CGROUP): a later move would wait for an RCU grace period. It gets no namespaces:
 * the guest has one tenant, and the wall around it is the virtual machine. It keeps the capability
 * bounding set, which means nothing to a process that is not root and has no_new_privs.
 */
#include "guest-agent/runtime_process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/sched.h>

struct child {
    const struct spawn_plan *plan;
    const char *step; /* what was being done when it failed; NULL: nothing did */
    int code;
    char *arguments[16];
};

static uint8_t child_stack[32 << 10] __attribute__((aligned(16)));

static int child_failed(struct child *child, const char *step)
{
    child->step = step;
    child->code = errno;
    return 127;
}

static int drop_privileges(struct child *child)
{
    const struct rlimit files = {AGENT_FUNCTION_FILES_MAX, AGENT_FUNCTION_FILES_MAX};
    uid_t uid = AGENT_FUNCTION_UID;

    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        return child_failed(child, "limit open files");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return child_failed(child, "set no_new_privs");
    /* Raw calls: the library's would signal threads of a process whose memory this is not. From
     * root to another user, the kernel clears all capabilities. */
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, uid, uid, uid) < 0 ||
        syscall(SYS_setresuid, uid, uid, uid) < 0)
        return child_failed(child, "become the function's user");
    return 0;
}

/* Runs in the child, on child_stack, in the agent's memory. Returns its exit status. */
static int child_main(void *opaque)
{
    struct child *child = opaque;
    const struct spawn_plan *plan = child->plan;
    sigset_t none;

    for (int fd = 0; fd < 5 && plan->files[fd] >= 0; fd++)
        if (dup2(plan->files[fd], fd) < 0)
            return child_failed(child, "pass files");
    if (drop_privileges(child) != 0)
        return 127;
    if (chdir(AGENT_TASK_DIR) < 0)
        return child_failed(child, "enter " AGENT_TASK_DIR);
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return child_failed(child, "unblock signals");
    for (const char *const *program = plan->programs; *program; program++) {
        child->arguments[0] = (char *)(uintptr_t)*program;
        execve(*program, child->arguments, plan->environment);
        child_failed(child, *program);
        if (errno != ENOENT)
            break;
    }
    return 127;
}

/*
 * clone3(2) with a stack for the child: there is no wrapper in glibc 2.36, and without one the
 * child would return into the frame that its parent is still in.
 */
static long clone_onto_stack(struct clone_args *args, struct child *child)
{
    register long result __asm__("rax") = SYS_clone3;
    register void *args_register __asm__("rdi") = args;
    register size_t size_register __asm__("rsi") = sizeof(*args);
    register int (*function)(void *) __asm__("r12") = child_main;
    register void *argument __asm__("r13") = child;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov $60, %%eax\n\t" /* SYS_exit */
                     "syscall\n\t"
                     "hlt\n\t"
                     "1:"
                     : "+r"(result)
                     : "r"(args_register), "r"(size_register), "r"(function), "r"(argument)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

int runtime_process_spawn(const struct spawn_plan *plan, pid_t *ret_pid, struct failure *failure)
{
    struct child child = {.plan = plan};
    struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK,
                              .exit_signal = SIGCHLD,
                              .stack = (uintptr_t)child_stack,
                              .stack_size = sizeof(child_stack)};
    long pid;

    for (size_t i = 0; plan->arguments[i]; i++) {
        if (i + 2 >= sizeof(child.arguments) / sizeof(child.arguments[0]))
            return failure_say(failure, E2BIG, "too many arguments for the runtime");
        child.arguments[i + 1] = plan->arguments[i];
    }
    if (plan->cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)plan->cgroup_fd;
    }
    pid = clone_onto_stack(&args, &child);
    if (pid < 0)
        return failure_set(failure, (int)-pid, "start a process");
    if (child.step)
        return child.code == ENOENT ? -ENOENT : failure_set(failure, child.code, "%s", child.step);
    *ret_pid = (pid_t)pid;
    return 0;
}
