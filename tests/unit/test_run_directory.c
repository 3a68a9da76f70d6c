/* Directories of instances: made, locked, swept when their owner is gone. */
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

#include "host/instance/identity.h"
#include "host/instance/run_directory.h"
#include "host/state_lock.h"

static char top[32], parent[80];

static int set_up(void **state)
{
    (void)state;
    snprintf(top, sizeof(top), "/tmp/mayfly-test-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(parent, sizeof(parent), "%s/state/run", top);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", top);
    return system(command);
}

static void touch(const char *directory, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void test_make_and_remove(void **state)
{
    struct run_directory directory;
    struct stat st;

    (void)state;
    assert_int_equal(run_directory_make(parent, "a", &directory, NULL), 0);
    assert_int_equal(stat(directory.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    touch(directory.path, "console.log");
    char kept[128];
    snprintf(kept, sizeof(kept), "%s", directory.path);
    run_directory_remove(&directory);
    assert_int_equal(access(kept, F_OK), -1);
    run_directory_remove(&directory);
}

static void test_same_name_twice(void **state)
{
    struct run_directory directory, second;
    struct error err;

    (void)state;
    assert_int_equal(run_directory_make(parent, "a", &directory, NULL), 0);
    assert_int_equal(run_directory_make(parent, "a", &second, &err), -EEXIST);
    run_directory_remove(&directory);
}

static void test_sweep(void **state)
{
    struct run_directory held, next;
    char orphan[128];

    (void)state;
    assert_int_equal(run_directory_make(parent, "held", &held, NULL), 0);
    snprintf(orphan, sizeof(orphan), "%s/orphan", parent);
    assert_int_equal(mkdir(orphan, 0700), 0);
    touch(orphan, "vsock.sock");
    assert_int_equal(run_directory_make(parent, "next", &next, NULL), 0);
    assert_int_equal(access(orphan, F_OK), -1);
    assert_int_equal(access(held.path, F_OK), 0);
    assert_int_equal(mkdir(orphan, 0700), 0);
    assert_int_equal(run_directory_sweep(parent, NULL), 0);
    assert_int_equal(access(orphan, F_OK), -1);
    assert_int_equal(access(held.path, F_OK), 0);
    assert_int_equal(run_directory_sweep("/proc/nowhere", NULL), 0);
    run_directory_remove(&held);
    run_directory_remove(&next);
}

static void test_unwritable(void **state)
{
    struct run_directory directory;
    struct error err;

    (void)state;
    assert_int_equal(run_directory_make("/proc/nowhere/run", "a", &directory, &err), -ENOENT);
}

/* One holder at a time, in this process or another; killed, it is free. */
static void test_state_lock(void **state)
{
    int lock = -1, other = -1, status, started[2];
    char words[64], byte;
    struct error err;

    (void)state;
    assert_int_equal(state_lock_take("/proc/nowhere", &lock, &err), -ENOENT);
    assert_int_equal(state_lock_take(top, &lock, &err), 0);
    assert_int_equal(state_lock_take(top, &other, &err), -EBUSY);
    snprintf(words, sizeof(words), "mayflyd with process id %d serves", (int)getpid());
    if (!strstr(err.text, words) || !strstr(err.text, top))
        fail_msg("%s", err.text);
    close(lock);
    assert_int_equal(pipe(started), 0);
    pid_t child = fork();
    if (child == 0) {
        if (state_lock_take(top, &lock, &err) < 0 || write(started[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(started[0], &byte, 1), 1);
    assert_int_equal(state_lock_take(top, &other, &err), -EBUSY);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(state_lock_take(top, &other, &err), 0);
    close(other);
    close(started[0]);
    close(started[1]);
}

static void test_identities(void **state)
{
    char one[REQUEST_ID_BYTES], other[REQUEST_ID_BYTES], id[INSTANCE_ID_BYTES];

    (void)state;
    assert_int_equal(identity_request(one, NULL), 0);
    assert_int_equal(identity_request(other, NULL), 0);
    assert_string_not_equal(one, other);
    assert_int_equal(one[14], '4');
    assert_int_equal(one[36], 0);
    assert_int_equal(identity_instance(id, NULL), 0);
    assert_int_equal(id[16], 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_make_and_remove), TEST(test_same_name_twice),
                                       TEST(test_sweep),           TEST(test_state_lock),
                                       TEST(test_unwritable),      TEST(test_identities)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
