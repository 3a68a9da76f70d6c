/*
 * Spawning a monitor. Process: the host's (mayfly, mayflyd); trusts its own arguments only.
 *
 * Invariant: between clone() and execve() the child, which shares our memory, touches nothing but
 * its own stack and struct spawn_plan, and allocates nothing.
 */
#include "monitor_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/fd.h"

enum {
    CONTROL_FD = 3,
    FIRST_SAFE_FD = 10, /* above every number the child is given, so dup2() overwrites nothing */
    CHILD_STACK_BYTES = 256 * 1024,
};

/* Shared with the child, which runs before clone() returns (CLONE_VFORK). */
struct spawn_plan {
    const char *path;
    char *const *argv;
    int null, output, control;
    pid_t parent;
    int failed_errno; /* set by the child when it could not become the monitor */
    const char *failed_step;
};

static int child_fail(struct spawn_plan *plan, const char *step)
{
    plan->failed_errno = errno;
    plan->failed_step = step;
    return 127;
}

/* Ignored signals survive execve(), handled ones do not: make all of them the default. */
static void child_reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int child_main(void *opaque)
{
    struct spawn_plan *plan = opaque;
    char *const no_environment[] = {NULL};

    child_reset_signals();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return child_fail(plan, "set the parent-death signal");
    if (getppid() != plan->parent)
        return child_fail(plan, "find its parent alive");
    setsid();
    if (dup2(plan->null, 0) < 0 || dup2(plan->null, 1) < 0 || dup2(plan->output, 2) < 0 ||
        dup2(plan->control, CONTROL_FD) < 0)
        return child_fail(plan, "place its descriptors");
    if (close_range(CONTROL_FD + 1, ~0u, 0) < 0)
        return child_fail(plan, "close other descriptors");
    execve(plan->path, plan->argv, no_environment);
    return child_fail(plan, "execute");
}

/* Moves @fd (owned, replaced) to a number that no dup2() of the child hits. */
static int move_up(int *fd)
{
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_SAFE_FD);

    if (moved < 0)
        return -errno;
    close(*fd);
    *fd = moved;
    return 0;
}

/* Runs the child with every signal blocked, so that no handler of ours runs in it. */
static int clone_child(struct spawn_plan *plan, pid_t *ret_pid, int *ret_pidfd)
{
    sigset_t all, before;
    int pidfd = -1;
    uint8_t *stack = mmap(NULL, CHILD_STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

    if (stack == MAP_FAILED)
        return -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = clone(child_main, stack + CHILD_STACK_BYTES,
                      CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, plan, &pidfd);
    int r = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, CHILD_STACK_BYTES);
    if (r < 0)
        return r;
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

static int spawn_failed(const struct spawn_plan *plan, struct error *err)
{
    if (plan->failed_errno == ENOENT)
        return error_say(err, ENOENT,
                         "no monitor program '%s': build it (make) or install it beside mayfly",
                         plan->path);
    return error_set(err, plan->failed_errno, "start the monitor '%s': %s", plan->path,
                     plan->failed_step);
}

/* The descriptors of one spawn; whatever is not stolen from it is closed at the end. */
struct spawn_ends {
    int null;
    int control_ours, control_theirs;
    int output_ours, output_theirs;
};

static void ends_close(struct spawn_ends *ends)
{
    fd_close_at_exit(&ends->null);
    fd_close_at_exit(&ends->control_ours);
    fd_close_at_exit(&ends->control_theirs);
    fd_close_at_exit(&ends->output_ours);
    fd_close_at_exit(&ends->output_theirs);
}

static int ends_open(struct spawn_ends *ends)
{
    int pair[2];
    int r;

    *ends = (struct spawn_ends){-1, -1, -1, -1, -1};
    ends->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (ends->null < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    ends->control_ours = pair[0];
    ends->control_theirs = pair[1];
    /* Non-blocking at both ends: a full pipe loses lines, it never stops a monitor. */
    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    ends->output_ours = pair[0];
    ends->output_theirs = pair[1];
    if ((r = move_up(&ends->null)) < 0 || (r = move_up(&ends->control_theirs)) < 0)
        return r;
    return move_up(&ends->output_theirs);
}

/* execve() takes pointers to non-const text, but does not write there. */
static char *argument(const char *text)
{
    return (char *)(uintptr_t)text;
}

int monitor_spawn(const char *path, const char *name, struct monitor_process *ret,
                  struct error *err)
{
    char *const arguments[] = {argument(path), argument("--control-fd"),
                               argument("3"),  name ? argument("--name") : NULL,
                               argument(name), NULL};
    __attribute__((cleanup(ends_close))) struct spawn_ends ends;
    struct monitor_process process;
    int r = ends_open(&ends);

    if (r < 0)
        return error_set(err, -r, "open the descriptors of a monitor");
    struct spawn_plan plan = {.path = path,
                              .argv = arguments,
                              .null = ends.null,
                              .output = ends.output_theirs,
                              .control = ends.control_theirs,
                              .parent = getpid()};
    r = clone_child(&plan, &process.pid, &process.pidfd);
    if (r < 0)
        return error_set(err, -r, "start the monitor '%s'", path);
    if (plan.failed_step) {
        waitpid(process.pid, NULL, 0);
        close(process.pidfd);
        return spawn_failed(&plan, err);
    }
    process.control = fd_steal(&ends.control_ours);
    process.output = fd_steal(&ends.output_ours);
    *ret = process;
    return 0;
}

int monitor_reap(const struct monitor_process *process, int timeout_ms, int *ret_status)
{
    struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};
    int n;

    do {
        n = poll(&ended, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    if (n <= 0)
        return -ETIMEDOUT;
    while (waitpid(process->pid, ret_status, 0) < 0) {
        if (errno != EINTR) {
            *ret_status = 0;
            break;
        }
    }
    return 0;
}
