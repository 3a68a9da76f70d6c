/* The pool of shells, with real monitors: build/bin/mayfly-vmm and /dev/kvm. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/pool/shell_pool.h"

enum {
    PATIENCE_MS = 60000,
    IMAGE_BYTES = 2 << 20,
    CYCLES = 200,
    THREADS = 8,
    CYCLES_A_THREAD = 10,
};

static char top[32], run[64], image[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(top, sizeof(top), "/tmp/mayfly-test-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(run, sizeof(run), "%s/run", top);
    snprintf(image, sizeof(image), "%s/image", top);
    AUTO_FD fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? -1 : ftruncate(fd, IMAGE_BYTES);
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", top);
    return system(command);
}

static void need_kvm(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0 || access("build/bin/mayfly-vmm", X_OK) < 0) {
        print_message("no usable /dev/kvm, or no build/bin/mayfly-vmm\n");
        skip();
    }
}

static struct shell_pool_config config_of(uint32_t per_shape, uint32_t limit)
{
    return (struct shell_pool_config){.machine = {.hypervisor = &hypervisor_kvm,
                                                  .run_directory = run,
                                                  .monitor_path = "build/bin/mayfly-vmm"},
                                      .per_shape = per_shape,
                                      .limit = limit};
}

static struct shell_pool *pool_of(const struct shell_pool_config *config)
{
    struct shell_pool *pool = NULL;
    struct error err;

    if (shell_pool_new(config, &pool, &err) < 0)
        fail_msg("%s", err.text);
    return pool;
}

static struct shell_shape shape_of(uint32_t memory_mib)
{
    return (struct shell_shape){.image = image, .memory_mib = memory_mib, .vcpus = 1};
}

static struct shell_pool_status status_of(struct shell_pool *pool)
{
    struct shell_pool_status status;

    shell_pool_get_status(pool, &status);
    return status;
}

static void await_ready(struct shell_pool *pool, uint32_t ready)
{
    uint64_t deadline_ns = clock_now_ns() + PATIENCE_MS * UINT64_C(1000000);
    struct shell_pool_status status = status_of(pool);

    while (status.ready != ready || status.making > 0) {
        if (clock_now_ns() > deadline_ns)
            fail_msg("%u ready, %u being made, not %u: %s", status.ready, status.making, ready,
                     status.last_error.text);
        poll(NULL, 0, 2);
        status = status_of(pool);
    }
}

static struct shell make(struct shell_pool *pool, const struct shell_shape *shape)
{
    struct shell shell = {0};
    struct error err;

    if (shell_pool_make(pool, shape, PATIENCE_MS, &shell, &err) < 0)
        fail_msg("%s", err.text);
    return shell;
}

/* --- processes ------------------------------------------------------------------------------- */

static unsigned count_entries(const char *path)
{
    DIR *directory = opendir(path);
    unsigned n = 0;

    assert_non_null(directory);
    for (struct dirent *item; (item = readdir(directory));)
        n += item->d_name[0] != '.';
    closedir(directory);
    return n;
}

/* Our children, whichever thread spawned them. */
static size_t children(pid_t *pids, size_t max)
{
    DIR *tasks = opendir("/proc/self/task");
    size_t n = 0;

    assert_non_null(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300];
        int pid;

        snprintf(path, sizeof(path), "/proc/self/task/%s/children", task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (file && n < max && fscanf(file, "%d", &pid) == 1)
            pids[n++] = pid;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return n;
}

/* Kills it, and waits until it is dead (not: reaped). */
static void kill_and_wait(pid_t pid)
{
    AUTO_FD fd = pidfd_open(pid, 0);
    struct pollfd end = {.fd = fd, .events = POLLIN};

    assert_true(fd >= 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(poll(&end, 1, PATIENCE_MS), 1);
}

/* The process of the VM @id: its directory's name is an argument of its monitor. */
static pid_t process_of(const char *id)
{
    pid_t pids[64];
    size_t n = children(pids, 64);

    for (size_t i = 0; i < n; i++) {
        char path[64];
        uint8_t *line = NULL;
        size_t len = 0;

        snprintf(path, sizeof(path), "/proc/%d/cmdline", pids[i]);
        int r = fd_read_file(path, 4096, &line, &len, NULL);
        bool is_it = r == 0 && memmem(line, len, id, strlen(id));
        free(line);
        if (is_it)
            return pids[i];
    }
    fail_msg("no process of %s", id);
    return -1;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_kept_ready(void **state)
{
    struct shell_pool_config config = config_of(3, 16);
    struct shell_shape shape = shape_of(128);
    struct shell shell;

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    assert_int_equal(shell_pool_take(pool, &shape, &shell), -EAGAIN);
    await_ready(pool, 3);
    assert_int_equal(shell_pool_take(pool, &shape, &shell), 0);
    assert_false(shell_is_dead(&shell));
    assert_int_equal(shell.create_us, 0);
    assert_int_equal(access(shell.directory.path, F_OK), 0);
    await_ready(pool, 3);
    shell_done(&shell);
    struct shell_pool_status status = status_of(pool);
    assert_int_equal(status.made, 4);
    assert_int_equal(status.taken, 1);
    assert_int_equal(status.missed, 1);
    assert_int_equal(status.failed + status.died, 0);
    shell_pool_free(pool);
    assert_int_equal(count_entries(run), 0);
}

static void test_killed_are_replaced(void **state)
{
    struct shell_pool_config config = config_of(3, 16);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    pid_t before[8], after[8];

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    shell_pool_take(pool, &shape, &shell);
    await_ready(pool, 3);
    assert_int_equal(children(before, 8), 3);
    for (size_t i = 0; i < 3; i++)
        kill_and_wait(before[i]);
    uint64_t deadline_ns = clock_now_ns() + PATIENCE_MS * UINT64_C(1000000);
    while (status_of(pool).died < 3 && clock_now_ns() < deadline_ns)
        poll(NULL, 0, 2);
    await_ready(pool, 3);
    assert_int_equal(children(after, 8), 3);
    for (size_t i = 0; i < 9; i++)
        assert_int_not_equal(before[i / 3], after[i % 3]);
    assert_non_null(strstr(status_of(pool).last_error.text, "ended while it waited"));
    assert_int_equal(count_entries(run), 3);
    shell_pool_free(pool);
    assert_int_equal(children(after, 8), 0);
}

/* However soon after its death. */
static void test_dead_are_not_handed_out(void **state)
{
    struct shell_pool_config config = config_of(2, 16);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    pid_t pids[8];

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    shell_pool_take(pool, &shape, &shell);
    for (int round = 0; round < 5; round++) {
        await_ready(pool, 2);
        size_t n = children(pids, 8);

        for (size_t i = 0; i < n; i++)
            kill_and_wait(pids[i]);
        while (shell_pool_take(pool, &shape, &shell) == 0) {
            assert_false(shell_is_dead(&shell));
            assert_int_equal(kill(process_of(shell.id), 0), 0);
            shell_done(&shell);
        }
    }
    assert_int_equal(status_of(pool).died, 10);
    shell_pool_free(pool);
}

struct crowd {
    struct shell_pool *pool;
    pthread_mutex_t lock;
    unsigned n;
    char ids[THREADS * CYCLES_A_THREAD][INSTANCE_ID_BYTES];
    struct error err; /* the first */
};

static void *crowd_main(void *opaque)
{
    struct crowd *crowd = opaque;
    struct shell_shape shape = shape_of(128);

    for (int i = 0; i < CYCLES_A_THREAD; i++) {
        struct shell shell;
        struct error err = {0};

        if (shell_pool_take(crowd->pool, &shape, &shell) < 0 &&
            shell_pool_make(crowd->pool, &shape, PATIENCE_MS, &shell, &err) < 0) {
            pthread_mutex_lock(&crowd->lock);
            crowd->err = err;
            pthread_mutex_unlock(&crowd->lock);
            return NULL;
        }
        pthread_mutex_lock(&crowd->lock);
        memcpy(crowd->ids[crowd->n++], shell.id, sizeof(shell.id));
        pthread_mutex_unlock(&crowd->lock);
        shell_done(&shell);
    }
    return NULL;
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, INSTANCE_ID_BYTES);
}

static void test_crowd(void **state)
{
    static struct crowd crowd = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct shell_pool_config config = config_of(4, 4);
    pthread_t threads[THREADS];

    (void)state;
    need_kvm();
    crowd.pool = pool_of(&config);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &crowd), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (crowd.err.code)
        fail_msg("%s", crowd.err.text);
    assert_int_equal(crowd.n, THREADS * CYCLES_A_THREAD);
    qsort(crowd.ids, crowd.n, INSTANCE_ID_BYTES, compare_ids);
    for (unsigned i = 1; i < crowd.n; i++)
        assert_memory_not_equal(crowd.ids[i - 1], crowd.ids[i], INSTANCE_ID_BYTES);
    await_ready(crowd.pool, 4);
    shell_pool_free(crowd.pool);
    assert_int_equal(count_entries(run), 0);
}

static void test_nothing_leaks(void **state)
{
    struct shell_pool_config config = config_of(2, 2);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    pid_t pids[8];

    (void)state;
    need_kvm();
    unsigned fds_outside = count_entries("/proc/self/fd");
    struct shell_pool *pool = pool_of(&config);
    shell_pool_take(pool, &shape, &shell);
    await_ready(pool, 2);
    unsigned fds = count_entries("/proc/self/fd");
    for (int i = 0; i < CYCLES; i++) {
        if (shell_pool_take(pool, &shape, &shell) < 0)
            shell = make(pool, &shape);
        shell_done(&shell);
    }
    await_ready(pool, 2);
    assert_int_equal(count_entries("/proc/self/fd"), fds);
    assert_int_equal(children(pids, 8), 2);
    assert_int_equal(count_entries(run), 2);
    assert_int_equal(status_of(pool).failed + status_of(pool).died, 0);
    shell_pool_free(pool);
    assert_int_equal(count_entries("/proc/self/fd"), fds_outside);
    assert_int_equal(children(pids, 8), 0);
}

static void test_limit(void **state)
{
    struct shell_pool_config config = config_of(3, 4);
    struct shell_shape small = shape_of(128), large = shape_of(2048);
    struct shell shell;

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    shell_pool_take(pool, &small, &shell);
    await_ready(pool, 3);
    shell_pool_take(pool, &large, &shell);
    await_ready(pool, 4);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(shell_pool_take(pool, &large, &shell), 0);
        shell_done(&shell);
        await_ready(pool, 4);
    }
    /* One was left of the other size: it is handed out, too. */
    assert_int_equal(shell_pool_take(pool, &small, &shell), 0);
    shell_done(&shell);
    shell_pool_free(pool);
}

static void *make_in_thread(void *opaque)
{
    struct shell_shape shape = shape_of(128);
    struct shell *shell = calloc(1, sizeof(*shell));

    *shell = make(opaque, &shape);
    return shell;
}

/* A shell outlives the thread that asked for it. */
static void test_outlives_its_caller(void **state)
{
    struct shell_pool_config config = config_of(0, 0);
    void *shell = NULL;
    pthread_t thread;

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    assert_int_equal(pthread_create(&thread, NULL, make_in_thread, pool), 0);
    pthread_join(thread, &shell);
    poll(NULL, 0, 100);
    assert_false(shell_is_dead(shell));
    shell_done(shell);
    free(shell);
    shell_pool_free(pool);
}

/* No busy loop, and who asks learns why. */
static void test_cannot_be_made(void **state)
{
    struct shell_pool_config config = config_of(4, 16);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    struct error err = {0};

    (void)state;
    config.machine.monitor_path = "/nonexistent/mayfly-vmm";
    config.n_makers = 2;
    struct shell_pool *pool = pool_of(&config);
    assert_int_equal(shell_pool_take(pool, &shape, &shell), -EAGAIN);
    poll(NULL, 0, 1000);
    struct shell_pool_status status = status_of(pool);
    /* With 2 makers, pauses of at least 0.1, 0.2, 0.4, 0.8 s between pairs of attempts. */
    assert_in_range(status.failed, 1, 10);
    assert_true(status.last_error.code > 0);
    int r = shell_pool_make(pool, &shape, PATIENCE_MS, &shell, &err);
    assert_int_equal(r, access("/dev/kvm", R_OK | W_OK) < 0 ? -err.code : -ENOENT);
    if (r == -ENOENT)
        assert_non_null(strstr(err.text, "/nonexistent/mayfly-vmm"));
    shell_pool_free(pool);
    assert_int_equal(count_entries(run), 0);
}

static void test_no_time(void **state)
{
    struct shell_pool_config config = config_of(1, 1);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    struct error err = {0};

    (void)state;
    need_kvm();
    struct shell_pool *pool = pool_of(&config);
    assert_int_equal(shell_pool_make(pool, &shape, 0, &shell, &err), -ETIMEDOUT);
    await_ready(pool, 1);
    shell_pool_free(pool);
    assert_int_equal(count_entries(run), 0);
}

/* --- shells that die in a restore ------------------------------------------------------------ */

static int deaths_left;

/* The real driver's restore, after the monitor was killed so many times. */
static int dying_restore(struct vm *vm, int memory_fd, int state_fd, int *ret_agent_fd,
                         struct vm_restore_times *ret_times, struct error *err)
{
    pid_t pids[8];
    size_t n = deaths_left > 0 ? children(pids, 8) : 0;

    deaths_left -= n > 0;
    for (size_t i = 0; i < n; i++)
        kill_and_wait(pids[i]);
    return hypervisor_kvm.restore(vm, memory_fd, state_fd, ret_agent_fd, ret_times, err);
}

/* Restores from a state that is none, while as many shells die as @deaths. */
static int restore_with_deaths(struct shell_pool *pool, const struct hypervisor_ops *hypervisor,
                               int deaths, struct error *err)
{
    AUTO_FD memory_fd = memfd_create("memory", MFD_CLOEXEC);
    AUTO_FD state_fd = memfd_create("state", MFD_CLOEXEC);
    const struct instance_config config = {.hypervisor = hypervisor,
                                           .image_path = image,
                                           .run_directory = run,
                                           .monitor_path = "build/bin/mayfly-vmm",
                                           .memory_mib = 128,
                                           .vcpus = 1,
                                           .shells = pool,
                                           .interrupt_fd = -1};
    const struct instance_frozen frozen = {
        .memory_fd = memory_fd, .state_fd = state_fd, .has_function = true};
    struct instance *instance = NULL;

    assert_int_equal(ftruncate(memory_fd, 128 << 20), 0);
    assert_int_equal(fd_write_all(state_fd, "no state", 8), 0);
    deaths_left = deaths;
    int r = instance_restore(&config, &frozen, &instance, err);
    assert_null(instance);
    return r;
}

/* One death is made up for: the second shell is reached, and refuses the state. */
static void test_restore_retries_once(void **state)
{
    struct hypervisor_ops dying = hypervisor_kvm;
    struct shell_pool_config config = config_of(1, 1);
    struct shell_shape shape = shape_of(128);
    struct shell shell;
    struct error err = {0};

    (void)state;
    need_kvm();
    dying.restore = dying_restore;
    config.machine.hypervisor = &dying;
    struct shell_pool *pool = pool_of(&config);
    shell_pool_take(pool, &shape, &shell);
    await_ready(pool, 1);
    assert_int_equal(restore_with_deaths(pool, &dying, 1, &err), -EBADMSG);
    await_ready(pool, 1);
    assert_int_equal(restore_with_deaths(pool, &dying, 2, &err), -ECONNRESET);
    if (!strstr(err.text, "two empty VMs in a row") || !strstr(err.text, "killed by signal 9"))
        fail_msg("unclear: %s", err.text);
    shell_pool_free(pool);
    assert_int_equal(restore_with_deaths(NULL, &dying, 1, &err), -EBADMSG);
    assert_int_equal(count_entries(run), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_kept_ready),
        TEST(test_killed_are_replaced),
        TEST(test_dead_are_not_handed_out),
        TEST(test_crowd),
        TEST(test_nothing_leaks),
        TEST(test_limit),
        TEST(test_outlives_its_caller),
        TEST(test_cannot_be_made),
        TEST(test_no_time),
        TEST(test_restore_retries_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
