/*
 * From clone() to the monitor's execution. Process: the child, which has all privileges of the host
 * when it begins and none when it ends. It trusts its plan, which the host made.
 *
 * Invariant: the order is the security. Each part needs a privilege that a later one takes away, or
 * would undo it; where a part fails it is told to the parent, and if it had to be there, it is the
 * end: nothing is ever run with less than what was asked for without being said.
 */
#include "jail_child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/bytes.h"

/* The numbers a monitor has, and no others. The last two close when it is executed. */
enum { FD_CONTROL = 3, FD_REPORTS, FD_PROGRAM, FD_FIRST_UNUSED };

static const char *const step_texts[N_STEPS] = {
    [STEP_CGROUP] = "join its control group",
    [STEP_DESCRIPTORS] = "place its descriptors",
    [STEP_USER_MAP] = "map its user",
    [STEP_MOUNT_NAMESPACE] = "mount namespace",
    [STEP_IPC_NAMESPACE] = "IPC namespace",
    [STEP_UTS_NAMESPACE] = "host name's namespace",
    [STEP_NET_NAMESPACE] = "network namespace",
    [STEP_EMPTY_ROOT] = "empty root",
    [STEP_LIMITS] = "resource limits",
    [STEP_BOUNDING_SET] = "drop the capability bounding set",
    [STEP_GROUPS] = "drop groups",
    [STEP_USER] = "change to its own user",
    [STEP_CAPABILITIES] = "drop capabilities",
    [STEP_NO_NEW_PRIVILEGES] = "no_new_privs",
    [STEP_PARENT_DEATH] = "set the parent-death signal",
    [STEP_EXECUTE] = "execute",
};

const char *jail_step_text(enum jail_step step)
{
    return step < N_STEPS ? step_texts[step] : "a step unknown here";
}

/* Tells of a failure; errno says which. With @essential, or if the plan wants all, it is the end.
 */
static void failed(const struct jail_plan *plan, int reports, enum jail_step step, bool essential)
{
    struct jail_report report = {
        .step = (uint8_t)step, .fatal = essential || plan->required, .code = (uint16_t)errno};
    ssize_t n = write(reports, &report, sizeof(report));

    if (n != sizeof(report) || report.fatal)
        _exit(127);
}

/* Ignored signals survive execve(), handled ones do not: make all of them the default. */
static void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* "0" is whoever writes it: right in every pid namespace. */
static int join_cgroups(const struct jail_plan *plan)
{
    for (size_t i = 0; i < plan->n_cgroups; i++)
        if (write(plan->cgroups[i], "0", 1) != 1)
            return -1;
    return 0;
}

static int place_descriptors(const struct jail_descriptors *d)
{
    if (dup2(d->null, 0) < 0 || dup2(d->null, 1) < 0 || dup2(d->output, 2) < 0 ||
        dup2(d->control, FD_CONTROL) < 0 || dup3(d->reports, FD_REPORTS, O_CLOEXEC) < 0 ||
        dup3(d->program, FD_PROGRAM, O_CLOEXEC) < 0)
        return -1;
    return close_range(FD_FIRST_UNUSED, ~0u, 0);
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n < 0 ? -1 : 0;
}

/* Whoever is not root may map itself only, and must give up setgroups(2) first: user_namespaces(7).
 */
static int map_user(const struct jail_plan *plan)
{
    if (write_text("/proc/self/setgroups", "deny") < 0 ||
        write_text("/proc/self/uid_map", plan->user_map) < 0)
        return -1;
    return write_text("/proc/self/gid_map", plan->group_map);
}

/*
 * The root becomes a file system of its own with nothing in it, not even a place to put something:
 * one inode, read-only. All by descriptor but for /dev, whose mount is only a place to hang it up.
 * pivot_root(2), "pivot_root(".", ".")": the old root is then on top of the new one and is taken
 * off.
 */
static int empty_root(void)
{
    /* Events of the host's mounts still come in, so an unmount there is not held up by our copies;
     * nothing of ours goes out. Must be before anything is mounted here. */
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -1;
    int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_SET_STRING, "nr_inodes", "1", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "size", "4k", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "mode", "0555", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    int root =
        fsmount(context, FSMOUNT_CLOEXEC,
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    close(context);
    if (root < 0 || move_mount(root, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
        return -1;
    /* Until here the host's files could be reached; a descriptor of a directory would still do. */
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return -1;
    return close(root);
}

static void make_namespaces(const struct jail_plan *plan)
{
    static const struct {
        int flag;
        enum jail_step step;
    } list[] = {{CLONE_NEWNS, STEP_MOUNT_NAMESPACE},
                {CLONE_NEWIPC, STEP_IPC_NAMESPACE},
                {CLONE_NEWUTS, STEP_UTS_NAMESPACE},
                {CLONE_NEWNET, STEP_NET_NAMESPACE}}; /* without even loopback: it stays down */
    bool has[ARRAY_LEN(list)];

    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        has[i] = unshare(list[i].flag) == 0;
        if (!has[i])
            failed(plan, FD_REPORTS, list[i].step, false);
    }
    /* The host's name is nobody's business in there. */
    if (has[2] && sethostname("mayfly-vmm", strlen("mayfly-vmm")) < 0)
        failed(plan, FD_REPORTS, STEP_UTS_NAMESPACE, false);
    if (!has[0])
        errno = EPERM; /* without a mount namespace of its own it would be the host's root */
    if (!has[0] || empty_root() < 0)
        failed(plan, FD_REPORTS, STEP_EMPTY_ROOT, false);
}

static int set_limit(__rlimit_resource_t what, uint64_t most)
{
    const struct rlimit limit = {.rlim_cur = most, .rlim_max = most};

    return setrlimit(what, &limit);
}

static int set_limits(const struct jail_plan *plan)
{
    if (set_limit(RLIMIT_NOFILE, plan->descriptors) < 0 ||
        set_limit(RLIMIT_FSIZE, plan->file_bytes) < 0 ||
        set_limit(RLIMIT_CORE, 0) < 0 || /* a core file would have the guest's memory in it */
        set_limit(RLIMIT_MEMLOCK, 0) < 0 || set_limit(RLIMIT_MSGQUEUE, 0) < 0)
        return -1;
    /* Counted for each user: only right for one that nobody else has. */
    return plan->user ? set_limit(RLIMIT_NPROC, plan->tasks) : 0;
}

/* No program that is executed from here on can have any of them, whatever its file says. */
static int drop_bounding_set(void)
{
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -1;
    return 0;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {{0}};

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -1;
    return (int)syscall(SYS_capset, &header, none);
}

/* The system calls themselves: glibc's functions would signal threads that are not in this process.
 */
static void change_user(const struct jail_plan *plan)
{
    if (syscall(SYS_setgroups, 0, NULL) < 0)
        failed(plan, FD_REPORTS, STEP_GROUPS, false);
    if (syscall(SYS_setresgid, plan->user, plan->user, plan->user) < 0 ||
        syscall(SYS_setresuid, plan->user, plan->user, plan->user) < 0)
        failed(plan, FD_REPORTS, STEP_USER, false);
}

static void confine(const struct jail_plan *plan)
{
    /* A user namespace gives all capabilities over the namespaces made in it: it comes first. */
    if (plan->user_map[0] && map_user(plan) < 0)
        failed(plan, FD_REPORTS, STEP_USER_MAP, false);
    /* Wants CAP_SYS_ADMIN. The pid namespace came with clone(): its first process is this one. */
    if (plan->namespaces)
        make_namespaces(plan);
    /* While still root: a hard limit may have to go up. */
    if (set_limits(plan) < 0)
        failed(plan, FD_REPORTS, STEP_LIMITS, false);
    /* Wants CAP_SETPCAP, which changing the user takes away. */
    if (drop_bounding_set() < 0)
        failed(plan, FD_REPORTS, STEP_BOUNDING_SET, false);
    /* Groups before the user: CAP_SETGID goes with being root. */
    if (plan->user)
        change_user(plan);
    /* Changing the user has emptied the effective and permitted sets; this empties the inheritable
     * one, and all of them where the user stays. */
    if (drop_capabilities() < 0)
        failed(plan, FD_REPORTS, STEP_CAPABILITIES, true);
    /* Set-user-ID and file capabilities are void from here on; and filters may be installed. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        failed(plan, FD_REPORTS, STEP_NO_NEW_PRIVILEGES, true);
}

void jail_child_run(const struct jail_plan *plan, const struct jail_descriptors *descriptors,
                    char *const *arguments)
{
    char *const no_environment[] = {NULL};

    reset_signals();
    /* First, so that all it does from now on is counted. A group without its process limits nobody:
     * joining fails only together with what jail.c has noted, or for good reason. */
    if (join_cgroups(plan) < 0)
        failed(plan, descriptors->reports, STEP_CGROUP, false);
    setsid(); /* no terminal: no Ctrl-C, and no pushing input into it (TIOCSTI) */
    if (place_descriptors(descriptors) < 0)
        failed(plan, descriptors->reports, STEP_DESCRIPTORS, true);
    if (plan->confine)
        confine(plan);
    /* After the change of user, which clears it. Should the parent be dead already, the control
     * socket has no other end by now, and the monitor stops at its first read of it. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        failed(plan, FD_REPORTS, STEP_PARENT_DEATH, true);
    /* By descriptor: there is no path in an empty root. The program is static for the same reason.
     */
    syscall(SYS_execveat, FD_PROGRAM, "", arguments, no_environment, AT_EMPTY_PATH);
    failed(plan, FD_REPORTS, STEP_EXECUTE, true);
    _exit(127);
}
