/*
 * Every fallible call that a snapshot's way to disk consists of fails once, in turn, with ENOSPC
 * and with EIO: there must be an error with a reason, nothing partial, and a retry that works.
 *
 * How: this program has its own definitions of those calls. They come before libc's for everything
 * linked into it, and for shared libraries (libarchive) too. An armed countdown makes one fail.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"
#include "tests/unit/image_fixture.h"
#include "tests/unit/snapshot_fixture.h"

enum { MIB = 2 };

/* --- the calls ------------------------------------------------------------------------------- */

static atomic_int countdown = -1; /* calls until one fails; < 0: none does */
static int fault_code;
static atomic_int n_calls;
static char failed_call[32];

/* May this call go ahead? If not, errno is set. Other threads may ask at the same time. */
static bool goes_ahead(const char *call)
{
    atomic_fetch_add(&n_calls, 1);
    if (atomic_load(&countdown) < 0 || atomic_fetch_sub(&countdown, 1) != 0)
        return true;
    snprintf(failed_call, sizeof(failed_call), "%s", call);
    errno = fault_code;
    return false;
}

ssize_t write(int fd, const void *data, size_t len)
{
    return goes_ahead("write") ? syscall(SYS_write, fd, data, len) : -1;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return goes_ahead("pwrite") ? syscall(SYS_pwrite64, fd, data, len, offset) : -1;
}

/* Nobody pulls the plug here, and a real one takes most of the test's time. */
int fsync(int fd)
{
    (void)fd;
    return goes_ahead("fsync") ? 0 : -1;
}

int ftruncate(int fd, off_t len)
{
    return goes_ahead("ftruncate") ? (int)syscall(SYS_ftruncate, fd, len) : -1;
}

int fchmod(int fd, mode_t mode)
{
    return goes_ahead("fchmod") ? (int)syscall(SYS_fchmod, fd, mode) : -1;
}

int mkdirat(int dir_fd, const char *path, mode_t mode)
{
    return goes_ahead("mkdirat") ? (int)syscall(SYS_mkdirat, dir_fd, path, mode) : -1;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return goes_ahead("renameat") ? (int)syscall(SYS_renameat, from_fd, from, to_fd, to) : -1;
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return goes_ahead("renameat2") ? (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags)
                                   : -1;
}

int openat(int dir_fd, const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (flags & O_CREAT) {
        va_list arguments;

        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
        if (!goes_ahead("openat"))
            return -1;
    }
    return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

/* --- the tests ------------------------------------------------------------------------------- */

static int set_up(void **state)
{
    *state = snapshot_world_new(MIB);
    return 0;
}

static int tear_down(void **state)
{
    snapshot_world_free(*state);
    return 0;
}

/* What is done with one call failing. */
struct deed {
    const char *what;
    int (*run)(struct snapshot_world *world, void *opaque, struct error *err);
    void *opaque;
    /* Is the world as it was before run()? */
    void (*check)(struct snapshot_world *world, void *opaque);
    void (*undo)(struct snapshot_world *world, void *opaque);
};

static int run_with_fault(const struct deed *deed, struct snapshot_world *world, int at, int code,
                          struct error *err)
{
    fault_code = code;
    atomic_store(&n_calls, 0);
    atomic_store(&countdown, at);
    int r = deed->run(world, deed->opaque, err);
    atomic_store(&countdown, -1);
    return r;
}

static void fail_each_call(const struct deed *deed, struct snapshot_world *world, int code)
{
    struct error err = {0};

    assert_int_equal(run_with_fault(deed, world, -1, code, &err), 0);
    int n = atomic_load(&n_calls);
    deed->undo(world, deed->opaque);
    assert_true(n > 5);
    for (int at = 0; at < n; at++) {
        err = (struct error){0};
        failed_call[0] = '\0';
        int r = run_with_fault(deed, world, at, code, &err);
        assert_true(failed_call[0] != '\0');
        if (r >= 0)
            fail_msg("%s: call %d of %d (%s) failed, but it succeeded", deed->what, at, n,
                     failed_call);
        if (r != -code || err.code != code || !err.text[0])
            fail_msg("%s: call %d of %d (%s) failed with %d: %d '%s'", deed->what, at, n,
                     failed_call, code, r, err.text);
        deed->check(world, deed->opaque);
        /* A retry works, and what it makes is whole. */
        if (deed->run(world, deed->opaque, &err) < 0)
            fail_msg("%s: after call %d (%s): %s", deed->what, at, failed_call, err.text);
        deed->undo(world, deed->opaque);
    }
    print_message("%s: each of %d calls failed once with %s\n", deed->what, n, strerror(code));
}

static void assert_entries(const struct snapshot_world *world, unsigned snapshots, unsigned names,
                           unsigned cached)
{
    assert_int_equal(snapshot_world_count(world, "."), 2 + snapshots);
    assert_int_equal(snapshot_world_count(world, "names"), names);
    assert_int_equal(snapshot_world_count(world, "cache"), cached);
}

/* --- write ----------------------------------------------------------------------------------- */

static int write_child(struct snapshot_world *world, void *opaque, struct error *err)
{
    const struct snapshot_manifest *parent = opaque;
    struct snapshot_manifest made;
    struct snapshot_manifest about =
        snapshot_world_about(world, SNAPSHOT_FUNCTION, "child", parent);
    struct snapshot_extents changed = snapshot_world_changed(world);
    int armed = atomic_exchange(&countdown, -1);
    AUTO_FD fd = snapshot_world_memfd(world); /* the VM's own doing: does not fail */
    struct snapshot_write write = {
        .about = &about, .state = "state", .state_bytes = 5, .memory_fd = fd, .changed = &changed};

    atomic_store(&n_calls, 0);
    atomic_store(&countdown, armed);
    int r = snapshot_store_write(world->store, &write, &made, err);
    snapshot_extents_done(&changed);
    return r;
}

static void check_no_child(struct snapshot_world *world, void *opaque)
{
    struct snapshot_manifest *parent = opaque;
    char id[SNAPSHOT_ID_HEX + 1];

    assert_entries(world, 1, 1, 1);
    assert_int_equal(snapshot_store_find(world->store, "child", id, NULL), -ENOENT);
    assert_int_equal(snapshot_store_verify(world->store, parent->id, NULL), 0);
}

static void remove_child(struct snapshot_world *world, void *opaque)
{
    char id[SNAPSHOT_ID_HEX + 1];

    (void)opaque;
    assert_int_equal(snapshot_store_find(world->store, "child", id, NULL), 0);
    assert_int_equal(snapshot_store_verify(world->store, id, NULL), 0);
    assert_int_equal(snapshot_store_remove(world->store, "child", false, NULL), 0);
}

static struct snapshot_manifest make_parent(struct snapshot_world *world)
{
    struct snapshot_manifest parent;
    AUTO_FD fd = -1;

    snapshot_world_fill(world, 10, 70, 1);
    parent = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    assert_int_equal(snapshot_store_flatten(world->store, &parent, &fd, NULL, NULL), 0);
    snapshot_world_fill(world, 20, 5, 2);
    snapshot_world_fill(world, 300, 100, 2);
    return parent;
}

static void test_write(void **state)
{
    struct snapshot_manifest parent = make_parent(*state);
    struct deed deed = {"write", write_child, &parent, check_no_child, remove_child};

    fail_each_call(&deed, *state, ENOSPC);
    fail_each_call(&deed, *state, EIO);
}

/* --- flatten --------------------------------------------------------------------------------- */

static int flatten(struct snapshot_world *world, void *opaque, struct error *err)
{
    AUTO_FD fd = -1;

    return snapshot_store_flatten(world->store, opaque, &fd, NULL, err);
}

static void check_nothing_cached(struct snapshot_world *world, void *opaque)
{
    (void)opaque;
    assert_entries(world, 1, 1, 0);
}

static void drop_cached(struct snapshot_world *world, void *opaque)
{
    struct snapshot_gc gc;

    assert_int_equal(
        snapshot_store_verify(world->store, ((struct snapshot_manifest *)opaque)->id, NULL), 0);
    snapshot_store_set_cache_limit(world->store, 0);
    assert_int_equal(snapshot_store_gc(world->store, &gc, NULL), 0);
    snapshot_store_set_cache_limit(world->store, SNAPSHOT_CACHE_BYTES_DEFAULT);
    assert_int_equal(gc.cached, 1);
}

static void test_flatten(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest parent = make_parent(world);
    struct deed deed = {"flatten", flatten, &parent, check_nothing_cached, drop_cached};

    drop_cached(world, &parent);
    fail_each_call(&deed, world, ENOSPC);
    fail_each_call(&deed, world, EIO);
}

/* --- working set ----------------------------------------------------------------------------- */

static int set_working_set(struct snapshot_world *world, void *opaque, struct error *err)
{
    struct snapshot_extents pages = {0};

    snapshot_extents_add(&pages, 10, 10);
    int r = snapshot_store_set_working_set(world->store, opaque, &pages, err);
    snapshot_extents_done(&pages);
    return r;
}

/* The older one is still there, or none. */
static void check_working_set(struct snapshot_world *world, void *opaque)
{
    struct snapshot_extents pages = {0};
    const struct snapshot_manifest *manifest = opaque;
    int r = snapshot_store_get_working_set(world->store, manifest, &pages, NULL);

    assert_true(r == 0 || r == -ENOENT);
    assert_int_equal(snapshot_extents_pages(&pages), r == 0 ? 10 : 0);
    snapshot_extents_done(&pages);
    assert_int_equal(snapshot_world_count(world, manifest->id), r == 0 ? 5 : 4);
}

static void test_working_set(void **state)
{
    struct snapshot_manifest parent = make_parent(*state);
    struct deed deed = {"working set", set_working_set, &parent, check_working_set,
                        check_working_set};

    fail_each_call(&deed, *state, ENOSPC);
    fail_each_call(&deed, *state, EIO);
}

/* --- export and import ----------------------------------------------------------------------- */

struct archive_deed {
    struct snapshot_manifest manifest;
    char path[128];
};

static int export_it(struct snapshot_world *world, void *opaque, struct error *err)
{
    struct archive_deed *deed = opaque;

    return snapshot_store_export(world->store, deed->manifest.id, deed->path, err);
}

static void check_no_archive(struct snapshot_world *world, void *opaque)
{
    struct archive_deed *deed = opaque;

    (void)world;
    assert_int_equal(access(deed->path, F_OK), -1);
    assert_int_equal(snapshot_world_count(world, ".."), 1);
}

static void remove_archive(struct snapshot_world *world, void *opaque)
{
    struct archive_deed *deed = opaque;

    (void)world;
    assert_int_equal(unlink(deed->path), 0);
}

static void test_export(void **state)
{
    struct snapshot_world *world = *state;
    struct archive_deed own = {.manifest = make_parent(world)};
    struct deed deed = {"export", export_it, &own, check_no_archive, remove_archive};

    snprintf(own.path, sizeof(own.path), "%s/x.tar", world->directory);
    fail_each_call(&deed, world, ENOSPC);
    fail_each_call(&deed, world, EIO);
}

static int import_it(struct snapshot_world *world, void *opaque, struct error *err)
{
    struct archive_deed *deed = opaque;
    char id[SNAPSHOT_ID_HEX + 1];

    return snapshot_store_import(world->store, deed->path, id, err);
}

static void check_empty(struct snapshot_world *world, void *opaque)
{
    (void)opaque;
    assert_entries(world, 0, 0, 0);
}

static void remove_all(struct snapshot_world *world, void *opaque)
{
    struct archive_deed *deed = opaque;

    assert_int_equal(snapshot_store_verify(world->store, deed->manifest.id, NULL), 0);
    assert_int_equal(snapshot_store_remove(world->store, "base", true, NULL), 0);
}

static void test_import(void **state)
{
    struct snapshot_world *world = *state;
    struct archive_deed own = {.manifest = make_parent(world)};
    struct snapshot_manifest parent = own.manifest;
    struct deed deed = {"import", import_it, &own, check_empty, remove_all};

    own.manifest = snapshot_world_write(world, SNAPSHOT_FUNCTION, "child", &parent);
    snprintf(own.path, sizeof(own.path), "%s/x.tar", world->directory);
    assert_int_equal(export_it(world, &own, NULL), 0);
    remove_all(world, &own);
    fail_each_call(&deed, world, ENOSPC);
    fail_each_call(&deed, world, EIO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_write),  TEST(test_flatten), TEST(test_working_set),
        TEST(test_export), TEST(test_import),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
