/* The host's half of a jail: users, control groups, what is planted in their way. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
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

static const struct cgroup_limits limits = {.memory_bytes = 256 << 20, .cpus = 2, .tasks = 9};

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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_are_distinct),
        cmocka_unit_test(planted_user_files_are_refused),
        cmocka_unit_test(planted_leaves_are_refused),
        cmocka_unit_test(missing_controllers_are_said),
        cmocka_unit_test(real_leaf),
        cmocka_unit_test(no_jail_asks_for_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
