/*
 * Spawning a monitor. Process: the host's (mayfly, mayflyd); trusts its own arguments only.
 *
 * Invariant: between clone() and the program's execution the child, in which only this thread lives
 * on, makes system calls and nothing else (jail_child.c).
 */
#include "monitor_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/fd.h"
#include "jail_child.h"

enum {
    FIRST_SAFE_FD = 16, /* above every number the child is given, so dup2() overwrites nothing */
    MAX_ARGUMENTS = 9,
};

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

/* The descriptors of one spawn; whatever is not stolen from it is closed at the end. */
struct spawn_ends {
    int null, program;
    int control_ours, control_theirs;
    int output_ours, output_theirs;
    int reports_ours, reports_theirs; /* struct jail_report; ends when the program is executed */
};

static void ends_close(struct spawn_ends *ends)
{
    fd_close_at_exit(&ends->null);
    fd_close_at_exit(&ends->program);
    fd_close_at_exit(&ends->control_ours);
    fd_close_at_exit(&ends->control_theirs);
    fd_close_at_exit(&ends->output_ours);
    fd_close_at_exit(&ends->output_theirs);
    fd_close_at_exit(&ends->reports_ours);
    fd_close_at_exit(&ends->reports_theirs);
}

static int open_pipe(int *ret_ours, int *ret_theirs, int flags)
{
    int pair[2];

    if (pipe2(pair, O_CLOEXEC | flags) < 0)
        return -errno;
    *ret_ours = pair[0];
    *ret_theirs = pair[1];
    return move_up(ret_theirs);
}

static int ends_open(struct spawn_ends *ends)
{
    int pair[2];
    int r;

    ends->null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (ends->null < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    ends->control_ours = pair[0];
    ends->control_theirs = pair[1];
    if ((r = move_up(&ends->null)) < 0 || (r = move_up(&ends->control_theirs)) < 0)
        return r;
    /* Non-blocking at both ends: a full pipe loses lines, it never stops a monitor. */
    r = open_pipe(&ends->output_ours, &ends->output_theirs, O_NONBLOCK);
    return r < 0 ? r : open_pipe(&ends->reports_ours, &ends->reports_theirs, 0);
}

static int open_program(const char *path, struct spawn_ends *ends, struct error *err)
{
    ends->program = open(path, O_RDONLY | O_CLOEXEC);
    if (ends->program < 0 && errno == ENOENT)
        return error_say(err, ENOENT,
                         "no monitor program '%s': build it (make) or install it beside mayfly",
                         path);
    if (ends->program < 0)
        return error_set(err, errno, "open the monitor '%s'", path);
    int r = move_up(&ends->program);
    return r < 0 ? error_set(err, -r, "open the monitor '%s'", path) : 0;
}

/* --- the child ---------------------------------------------------------------------------------
 */

/* A copy of this process, as fork() makes it but with namespaces. Returns 0 in the child. */
static pid_t clone_process(uint64_t flags, int *ret_pidfd)
{
    struct clone_args arguments = {
        .flags = CLONE_PIDFD | flags, .pidfd = (uintptr_t)ret_pidfd, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));

    return pid < 0 ? -errno : (pid_t)pid;
}

/* What is to be run; all borrowed. */
struct spawn_request {
    const char *path, *name;
    struct jail *jail; /* NULL: none, and the program knows nothing of jails */
};

/* execve() takes pointers to non-const text, but does not write there. */
static char *argument(const char *text)
{
    return (char *)(uintptr_t)text;
}

/* In the child, which knows by then what it got. */
static void become_monitor(const struct spawn_request *request,
                           const struct jail_descriptors *descriptors)
{
    static const struct jail_plan no_plan;
    const struct jail_plan *plan = request->jail ? jail_plan(request->jail) : &no_plan;
    char *arguments[MAX_ARGUMENTS];
    size_t n = 0;

    arguments[n++] = argument(request->path);
    arguments[n++] = argument("--control-fd");
    arguments[n++] = argument("3");
    if (request->jail) {
        arguments[n++] = argument("--seccomp");
        arguments[n++] = argument(!plan->confine ? "off" : plan->trap ? "trap" : "kill");
        if (plan->dumpable)
            arguments[n++] = argument("--dumpable");
    }
    if (request->name) {
        arguments[n++] = argument("--name");
        arguments[n++] = argument(request->name);
    }
    arguments[n] = NULL;
    jail_child_run(plan, descriptors, arguments);
}

/* Where namespaces cannot be had, a plan that does not require them goes on without. */
static pid_t clone_jailed(struct jail *jail, int *ret_pidfd)
{
    struct jail_plan *plan = jail_plan(jail);
    bool with_user = plan->user_map[0] != '\0';
    pid_t pid = clone_process(CLONE_NEWPID | (with_user ? (uint64_t)CLONE_NEWUSER : 0), ret_pidfd);

    if (pid >= 0 || plan->required)
        return pid;
    jail_note(jail, with_user ? "user namespace, and so all others" : "pid namespace", -pid);
    if (with_user) {
        plan->user_map[0] = '\0';
        plan->namespaces = false;
        plan->dumpable = true; /* else the host, without privileges, could not read its page map */
    }
    return clone_process(0, ret_pidfd);
}

/* With every signal blocked, so that no handler of ours runs in the child. */
static int start_child(const struct spawn_request *request,
                       const struct jail_descriptors *descriptors, pid_t *ret_pid, int *ret_pidfd)
{
    bool jailed = request->jail && jail_plan(request->jail)->confine;
    sigset_t all, before;
    int pidfd = -1;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = jailed ? clone_jailed(request->jail, &pidfd) : clone_process(0, &pidfd);
    if (pid == 0)
        become_monitor(request, descriptors);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return pid;
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

/* --- its parent ---------------------------------------------------------------------------------
 */

static int say_fatal(const char *path, const struct jail_report *report, struct error *err)
{
    if (report->step == STEP_EXECUTE && report->code == EACCES)
        return error_say(
            err, EACCES,
            "the monitor '%s' may not be executed by every user, as a VM's own has to: "
            "chmod a+rx it",
            path);
    return error_set(err, report->code, "start the monitor '%s': %s", path,
                     jail_step_text(report->step));
}

/* Takes in what the child could not do, until it executes the program or ends. */
static int read_reports(int fd, const struct spawn_request *request, struct error *err)
{
    struct jail_report report;
    int r;

    while ((r = fd_read_all(fd, &report, sizeof(report))) == 0) {
        if (report.fatal)
            return say_fatal(request->path, &report, err);
        if (request->jail)
            jail_note(request->jail, jail_step_text(report.step), report.code);
    }
    return r == -ECONNRESET ? 0 : error_set(err, -r, "start the monitor '%s'", request->path);
}

int monitor_spawn(const char *path, const char *name, struct jail *jail,
                  struct monitor_process *ret, struct error *err)
{
    const struct spawn_request request = {.path = path, .name = name, .jail = jail};
    __attribute__((cleanup(ends_close))) struct spawn_ends ends = {-1, -1, -1, -1, -1, -1, -1, -1};
    struct monitor_process process;
    int r = open_program(path, &ends, err);

    if (r < 0)
        return r;
    r = ends_open(&ends);
    if (r < 0)
        return error_set(err, -r, "open the descriptors of a monitor");
    const struct jail_descriptors descriptors = {.null = ends.null,
                                                 .output = ends.output_theirs,
                                                 .control = ends.control_theirs,
                                                 .program = ends.program,
                                                 .reports = ends.reports_theirs};
    r = start_child(&request, &descriptors, &process.pid, &process.pidfd);
    if (r < 0)
        return error_set(err, -r, "start the monitor '%s'", path);
    close(ends.reports_theirs); /* else its end would never be seen */
    ends.reports_theirs = -1;
    r = read_reports(ends.reports_ours, &request, err);
    if (r < 0) {
        kill(process.pid, SIGKILL); /* it is ours until it is reaped, so the number is its own */
        while (waitpid(process.pid, NULL, 0) < 0 && errno == EINTR)
            ;
        close(process.pidfd);
        return r;
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
