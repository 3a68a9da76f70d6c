/* The host's half of a jail: users, control groups, what is planted in their way. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "hypervisor/cgroup.h"
#include "hypervisor/jail.h"
#include "hypervisor/jail_uid.h"

struct scratch {
    char path[32];
};

static void make_scratch(struct scratch *scratch)
{
    strcpy(scratch->path, "/tmp/mayfly-jail-XXXXXX");
    assert_non_null(mkdtemp(scratch->path));
}

static char *below(const struct scratch *scratch, const char *name)
{
    static char paths[16][128];
    static unsigned next;
    char *path = paths[next++ % 16];

    snprintf(path, sizeof(paths[0]), "%s/%s", scratch->path, name);
    return path;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* --- users -------------------------------------------------------------------------------------
 */

static void users_are_distinct(void **state)
{
    struct scratch scratch;
    uid_t first, second;
    int lock, other, status;
    (void)state;

    make_scratch(&scratch);
    const char *directory = below(&scratch, "users");
    assert_int_equal(jail_uid_take(directory, &first, &lock, NULL), 0);
    assert_in_range(first, JAIL_UID_FIRST, JAIL_UID_FIRST + JAIL_UID_COUNT - 1);
    assert_int_equal(jail_uid_take(directory, &second, &other, NULL), 0);
    assert_int_not_equal(first, second);

    /* Another process, too, gets neither of the two, however often it asks. */
    pid_t child = fork();
    if (child == 0) {
        uid_t third;
        int ignored, r = 0;

        for (int i = 0; i < 200 && r == 0; i++)
            r = jail_uid_take(directory, &third, &ignored, NULL) < 0 || third == first ||
                third == second;
        _exit(r);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);

    /* What a process had is free again when it is gone. */
    struct stat st;
    assert_int_equal(stat(below(&scratch, "users/uids"), &st), 0);
    struct flock range = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = JAIL_UID_COUNT};
    close(lock);
    close(other);
    AUTO_FD file = open(below(&scratch, "users/uids"), O_RDWR | O_CLOEXEC);
    assert_int_equal(fcntl(file, F_OFD_SETLK, &range), 0);
    struct error err;
    assert_int_equal(jail_uid_take(directory, &first, &lock, &err), -EUSERS);
    unlink(below(&scratch, "users/uids"));
    rmdir(directory);
    rmdir(scratch.path);
}

static void planted_user_files_are_refused(void **state)
{
    struct scratch scratch;
    uid_t uid;
    int lock;
    (void)state;

    make_scratch(&scratch);
    const char *directory = below(&scratch, "users");
    assert_int_equal(symlink("/tmp", directory), 0);
    assert_int_equal(jail_uid_take(directory, &uid, &lock, NULL), -ENOTDIR);
    unlink(directory);
    assert_int_equal(mkdir(directory, 0700), 0);
    char *target = below(&scratch, "target");
    write_text(target, "kept");
    assert_int_equal(symlink(target, below(&scratch, "users/uids")), 0);
    assert_int_equal(jail_uid_take(directory, &uid, &lock, NULL), -ELOOP);
    unlink(below(&scratch, "users/uids"));
    assert_int_equal(link(target, below(&scratch, "users/uids")), 0);
    assert_int_equal(jail_uid_take(directory, &uid, &lock, NULL), -EPERM);
    unlink(below(&scratch, "users/uids"));
    assert_int_equal(chmod(directory, 0777), 0);
    assert_int_equal(jail_uid_take(directory, &uid, &lock, NULL), -EPERM);
    unlink(target);
    rmdir(directory);
    rmdir(scratch.path);
}

/* --- control groups ----------------------------------------------------------------------------
 */

static const struct cgroup_limits limits = {.memory_bytes = 256 << 20,
                                            .cpu_share = 72,
                                            .cpu_quota_us = 200000,
                                            .cpu_period_us = 100000,
                                            .tasks = 9};

/* A mountinfo that says @options are mounted at @scratch. */
static char *fake_mountinfo(const struct scratch *scratch, const char *options)
{
    char line[256], *path = below(scratch, "mountinfo");

    snprintf(line, sizeof(line),
             "1 0 0:1 / /proc rw - proc proc rw\n"
             "34 24 0:33 / %s/h rw,relatime shared:9 - cgroup cgroup rw,%s\n",
             scratch->path, options);
    write_text(path, line);
    mkdir(below(scratch, "h"), 0700);
    return path;
}

/* A leaf is made anew, or not at all: whatever stands in its place is left alone and said. */
static void planted_leaves_are_refused(void **state)
{
    struct scratch scratch;
    struct cgroup_leaf *leaf = NULL;
    char missing[300];
    struct stat st;
    (void)state;

    make_scratch(&scratch);
    const char *mountinfo = fake_mountinfo(&scratch, "pids");
    assert_int_equal(mkdir(below(&scratch, "target"), 0700), 0);
    assert_int_equal(mkdir(below(&scratch, "h/mayfly"), 0700), 0);
    assert_int_equal(symlink("../../target", below(&scratch, "h/mayfly/x")), 0);
    assert_int_equal(
        cgroup_leaf_new(mountinfo, "x", &limits, &leaf, missing, sizeof(missing), NULL), 0);
    assert_non_null(strstr(missing, "cgroup pids: File exists"));
    int fds[CGROUP_MAX_HIERARCHIES];
    assert_int_equal(cgroup_leaf_procs(leaf, fds), 0);
    cgroup_leaf_free(leaf);
    assert_int_equal(lstat(below(&scratch, "h/mayfly/x"), &st), 0);
    unlink(below(&scratch, "h/mayfly/x"));

    /* The directory above it, likewise. */
    rmdir(below(&scratch, "h/mayfly"));
    assert_int_equal(symlink("../target", below(&scratch, "h/mayfly")), 0);
    assert_int_equal(
        cgroup_leaf_new(mountinfo, "x", &limits, &leaf, missing, sizeof(missing), NULL), 0);
    assert_non_null(strstr(missing, "cgroup pids: Not a directory"));
    cgroup_leaf_free(leaf);
    assert_int_not_equal(stat(below(&scratch, "target/x"), &st), 0);
    unlink(below(&scratch, "h/mayfly"));

    struct error err;
    assert_int_equal(
        cgroup_leaf_new(mountinfo, "../x", &limits, &leaf, missing, sizeof(missing), &err),
        -EINVAL);
    rmdir(below(&scratch, "h"));
    rmdir(below(&scratch, "target"));
    unlink(mountinfo);
    rmdir(scratch.path);
}

/* A hierarchy that is only a name there: each controller that is not is said. */
static void missing_controllers_are_said(void **state)
{
    struct scratch scratch;
    struct cgroup_leaf *leaf = NULL;
    char missing[300];
    (void)state;

    make_scratch(&scratch);
    const char *mountinfo = fake_mountinfo(&scratch, "name=systemd,cpuacct");
    assert_int_equal(
        cgroup_leaf_new(mountinfo, "x", &limits, &leaf, missing, sizeof(missing), NULL), 0);
    assert_string_equal(missing, "cgroup memory: No such file or directory; "
                                 "cgroup pids: No such file or directory; "
                                 "cgroup cpu: No such file or directory");
    cgroup_leaf_free(leaf);
    rmdir(below(&scratch, "h"));
    unlink(mountinfo);
    rmdir(scratch.path);
}

/* On this host's own hierarchies, where they can be written. */
static void real_leaf(void **state)
{
    struct cgroup_leaf *leaf = NULL;
    char name[32], missing[300], self[4096] = "", wanted[64];
    int fds[CGROUP_MAX_HIERARCHIES], status;
    (void)state;

    snprintf(name, sizeof(name), "test-%d", (int)getpid());
    assert_int_equal(cgroup_leaf_new("/proc/self/mountinfo", name, &limits, &leaf, missing,
                                     sizeof(missing), NULL),
                     0);
    size_t n = cgroup_leaf_procs(leaf, fds);
    if (missing[0]) {
        cgroup_leaf_free(leaf);
        print_message("control groups here: %s\n", missing);
        skip();
    }
    pid_t child = fork();
    if (child == 0) {
        int r = 0;

        for (size_t i = 0; i < n; i++)
            r |= write(fds[i], "0", 1) != 1;
        AUTO_FD fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
        r |= read(fd, self, sizeof(self) - 1) <= 0;
        snprintf(wanted, sizeof(wanted), "/mayfly/%s\n", name);
        size_t found = 0;
        for (const char *at = self; (at = strstr(at, wanted)); at++)
            found++;
        _exit(r || found != n);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct error err;
    assert_int_equal(cgroup_leaf_set_memory(leaf, UINT64_C(512) << 20, &err), 0);
    cgroup_leaf_free(leaf);
    /* Nothing is left: the same name can be made again. */
    assert_int_equal(cgroup_leaf_new("/proc/self/mountinfo", name, &limits, &leaf, missing,
                                     sizeof(missing), NULL),
                     0);
    assert_string_equal(missing, "");
    cgroup_leaf_free(leaf);
}

/* A leaf that nobody has locked, with a process in it: both go, a locked one stays. */
static void what_a_killed_host_left_is_swept(void **state)
{
    struct cgroup_leaf *leaf = NULL, *kept = NULL;
    char name[40], kept_name[40], missing[300], path[300];
    int fds[CGROUP_MAX_HIERARCHIES], ready[2], status;
    unsigned left = 99;
    struct error err;
    struct stat st;
    (void)state;

    snprintf(name, sizeof(name), "test-orphan-%d", (int)getpid());
    snprintf(kept_name, sizeof(kept_name), "test-kept-%d", (int)getpid());
    assert_int_equal(cgroup_leaf_new("/proc/self/mountinfo", kept_name, &limits, &kept, missing,
                                     sizeof(missing), NULL),
                     0);
    if (missing[0]) {
        cgroup_leaf_free(kept);
        print_message("control groups here: %s\n", missing);
        skip();
    }
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t host = fork(); /* makes a leaf, puts a process in it, and is gone */
    if (host == 0) {
        if (cgroup_leaf_new("/proc/self/mountinfo", name, &limits, &leaf, missing, sizeof(missing),
                            NULL) < 0)
            _exit(1);
        size_t n = cgroup_leaf_procs(leaf, fds);
        pid_t monitor = fork();
        if (monitor == 0) {
            for (size_t i = 0; i < n; i++)
                if (write(fds[i], "0", 1) != 1)
                    _exit(1);
            AUTO_FD end = ready[1];
            close_range(3, (unsigned)end - 1, 0);
            close_range((unsigned)end + 1, ~0u, 0);
            if (write(end, &(pid_t){getpid()}, sizeof(pid_t)) < 0)
                _exit(1);
            for (;;)
                pause();
        }
        _exit(0);
    }
    close(ready[1]);
    pid_t monitor = 0;
    assert_int_equal(waitpid(host, &status, 0), host);
    assert_int_equal(status, 0);
    assert_int_equal(fd_read_all(ready[0], &monitor, sizeof(monitor)), 0);
    assert_int_equal(cgroup_sweep("/proc/self/mountinfo", &left, &err), 0);
    assert_int_equal(left, 0);
    /* Its pipe's end is the process's end. */
    assert_int_equal(fd_read_all(ready[0], &status, 1), -ECONNRESET);
    close(ready[0]);
    int seen = 0;
    for (int i = 0; i < 3; i++) {
        static const char *const places[] = {"cpu/", "memory/", ""};

        snprintf(path, sizeof(path), "/sys/fs/cgroup/%smayfly/%s", places[i], name);
        assert_int_not_equal(stat(path, &st), 0);
        snprintf(path, sizeof(path), "/sys/fs/cgroup/%smayfly/%s", places[i], kept_name);
        seen += stat(path, &st) == 0;
    }
    assert_in_range(seen, 1, 3);
    cgroup_leaf_free(kept);
}

/* What a VM may have of the CPUs is its memory's part; a restore is never cut short by it. */
static void cpu_in_proportion_to_memory(void **state)
{
    static const struct {
        uint32_t memory_mib, vcpus;
        enum vm_cpu cpu;
        uint32_t share, quota_us, period_us;
    } cases[] = {
        {128, 1, CPU_SHARE, 72, 200000, 100000},     {128, 1, CPU_QUOTA, 72, 49999, 694444},
        {1769, 1, CPU_SHARE, 1000, 200000, 100000},  {1769, 1, CPU_QUOTA, 1000, 100000, 100000},
        {1024, 1, CPU_QUOTA, 578, 57800, 100000},    {10240, 6, CPU_QUOTA, 5788, 578800, 100000},
        {10240, 6, CPU_SHARE, 5788, 700000, 100000}, {16, 1, CPU_QUOTA, 9, 9000, 1000000},
        {1, 1, CPU_QUOTA, 1, 1000, 1000000},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct jail_config config = {.memory_mib = cases[i].memory_mib +
                                                         544, /* with the room for /tmp */
                                           .cpu_mib = cases[i].memory_mib,
                                           .vcpus = cases[i].vcpus,
                                           .cpu = cases[i].cpu,
                                           .is_behind = i % 2 == 1};
        struct cgroup_limits got = {0};

        jail_cpu_limits(&config, true, &got);
        assert_int_equal(got.cpu_share, cases[i].share);
        assert_int_equal(got.cpu_quota_us, cases[i].quota_us);
        assert_int_equal(got.cpu_period_us, cases[i].period_us);
        assert_int_equal(got.cpu_burst_us, config.cpu == CPU_QUOTA ? cases[i].quota_us : 0);
        /* Until it has started no quota holds it up; a restored one stands behind. */
        jail_cpu_limits(&config, false, &got);
        assert_int_equal(got.cpu_share,
                         config.is_behind ? (cases[i].share + 7) / 8 : cases[i].share);
        assert_int_equal(got.cpu_quota_us, (cases[i].vcpus + 1) * 100000);
        assert_int_equal(got.cpu_period_us, 100000);
        assert_int_equal(got.cpu_burst_us, 0);
    }
}

/* The limit that a snapshot raises comes down again; not below what is in use. */
static void memory_limit_comes_back(void **state)
{
    struct cgroup_leaf *leaf = NULL;
    char name[32], missing[300];
    struct error err;
    (void)state;

    snprintf(name, sizeof(name), "test-memory-%d", (int)getpid());
    assert_int_equal(cgroup_leaf_new("/proc/self/mountinfo", name, &limits, &leaf, missing,
                                     sizeof(missing), NULL),
                     0);
    if (missing[0]) {
        cgroup_leaf_free(leaf);
        print_message("control groups here: %s\n", missing);
        skip();
    }
    int fds[CGROUP_MAX_HIERARCHIES], pipes[2], status;
    size_t n = cgroup_leaf_procs(leaf, fds);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(cgroup_leaf_set_memory(leaf, UINT64_C(512) << 20, &err), 0);
    pid_t child = fork();
    if (child == 0) { /* 64 MiB that cannot be reclaimed, until the pipe ends */
        char *memory = malloc(64 << 20), byte;

        for (size_t i = 0; i < n; i++)
            if (write(fds[i], "0", 1) != 1)
                _exit(1);
        if (!memory)
            _exit(1);
        memset(memory, 1, 64 << 20);
        close(pipes[1]);
        _exit(kill(getppid(), SIGUSR1) < 0 || read(pipes[0], &byte, 1) != 0);
    }
    sigset_t wanted;
    int number;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    assert_int_equal(sigwait(&wanted, &number), 0);
    assert_int_equal(cgroup_leaf_set_memory(leaf, UINT64_C(16) << 20, &err), -EBUSY);
    assert_int_equal(cgroup_leaf_set_memory(leaf, UINT64_C(256) << 20, &err), 0);
    close(pipes[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0); /* it was not killed for it */
    assert_int_equal(cgroup_leaf_set_memory(leaf, UINT64_C(16) << 20, &err), 0);
    cgroup_leaf_free(leaf);
}

/* The one of the two files that this host has; -1: none that we know. */
static long read_share(const char *name, bool *ret_v2)
{
    static const char *const places[][2] = {{"cpu/mayfly", "cpu.shares"},
                                            {"cpu,cpuacct/mayfly", "cpu.shares"},
                                            {"mayfly", "cpu.weight"}};
    char path[256], text[32] = "";

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/%s/%s", places[i][0], name, places[i][1]);
        AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
            continue;
        *ret_v2 = strstr(path, "weight") != NULL;
        return strtol(text, NULL, 10);
    }
    return -1;
}

static void who_starts_stands_behind(void **state)
{
    struct jail_config config = {.memory_mib = 1769, .vcpus = 1, .is_behind = true};
    struct jail *jail = NULL;
    char name[64];
    bool is_v2 = false;
    (void)state;

    snprintf(name, sizeof(name), "test-behind-%d", (int)getpid());
    config.name = name;
    assert_int_equal(jail_new(&config, &jail, NULL), 0);
    long share = read_share(name, &is_v2);
    if (share < 0) {
        print_message("no control group for the CPU here: %s\n", jail_missing(jail));
        jail_free(jail);
        skip();
    }
    assert_int_equal(share, is_v2 ? 12 : 128); /* an eighth */
    jail_prefer(jail);
    assert_int_equal(read_share(name, &is_v2), is_v2 ? 100 : 1024);
    jail_prefer(jail);
    jail_free(jail);
    config.is_behind = false;
    assert_int_equal(jail_new(&config, &jail, NULL), 0);
    assert_int_equal(read_share(name, &is_v2), is_v2 ? 100 : 1024);
    jail_prefer(jail);
    jail_free(jail);
}

static void no_jail_asks_for_nothing(void **state)
{
    const struct jail_config config = {
        .mode = JAIL_NONE, .name = "x", .memory_mib = 128, .vcpus = 1};
    struct jail *jail = NULL;
    (void)state;

    assert_int_equal(jail_new(&config, &jail, NULL), 0);
    assert_false(jail_plan(jail)->confine);
    assert_int_equal(jail_plan(jail)->user, 0);
    assert_int_equal(jail_plan(jail)->n_cgroups, 0);
    assert_string_equal(jail_missing(jail), "");
    jail_free(jail);
}

int main(void)
{
    sigset_t signals; /* of memory_limit_comes_back(): waited for */

    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_are_distinct),
        cmocka_unit_test(planted_user_files_are_refused),
        cmocka_unit_test(planted_leaves_are_refused),
        cmocka_unit_test(missing_controllers_are_said),
        cmocka_unit_test(real_leaf),
        cmocka_unit_test(what_a_killed_host_left_is_swept),
        cmocka_unit_test(cpu_in_proportion_to_memory),
        cmocka_unit_test(memory_limit_comes_back),
        cmocka_unit_test(who_starts_stands_behind),
        cmocka_unit_test(no_jail_asks_for_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
