/* The snapshot store: three levels, names, cache, removal, and several processes at once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "tests/unit/image_fixture.h"
#include "tests/unit/snapshot_fixture.h"

enum { MIB = 4 };

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

static void assert_error(int r, int code, const struct error *err, const char *words)
{
    if (r != -code)
        fail_msg("%d instead of %d: '%s'", r, -code, err->text);
    if (!strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

static uint8_t *copy_of(const struct snapshot_world *world)
{
    uint8_t *copy = malloc(MIB << 20);

    assert_non_null(copy);
    memcpy(copy, world->memory, MIB << 20);
    return copy;
}

static void test_three_levels(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    struct snapshot_info info;
    struct error err = {0};
    char id[SNAPSHOT_ID_HEX + 1];

    snapshot_world_three(world, levels);
    snapshot_world_assert_flat(world, &levels[2], world->memory);
    assert_int_equal(levels[0].zero_pages, 0);
    assert_true(levels[1].zero_pages >= 5);
    assert_int_equal(levels[2].zero_pages, 5);
    assert_int_equal(levels[2].data_pages, 22);
    assert_int_equal(snapshot_store_find(world->store, "hello", id, &err), 0);
    assert_string_equal(id, levels[2].id);
    assert_int_equal(snapshot_store_inspect(world->store, id, &info, &err), 0);
    assert_memory_equal(&info.manifest, &levels[2], sizeof(levels[2]));
    assert_string_equal(info.manifest.parent, levels[1].id);
    assert_int_equal(info.manifest.cpu.features[0], 0x1234abcd);
    assert_true(info.is_named && info.cached_bytes > 0 && !info.has_working_set);
    assert_true(info.stored_bytes < 100000);
    for (size_t i = 0; i < 3; i++)
        if (snapshot_store_verify(world->store, levels[i].id, &err) < 0)
            fail_msg("%s", err.text);
    /* Nothing was left behind: three snapshots, names/ and cache/. */
    assert_int_equal(snapshot_world_count(world, "."), 5);
}

/* Every level is what the memory was at its time, and the file has holes where that was zero. */
static void test_each_level_is_what_it_was(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest manifest, parent;
    struct error err = {0};
    struct stat st;
    uint64_t us;

    for (unsigned depth = 0; depth < SNAPSHOT_DEPTH_MAX; depth++) {
        enum snapshot_level level = depth == 0 ? SNAPSHOT_BASE : SNAPSHOT_FUNCTION;
        AUTO_FREE uint8_t *copy = NULL;
        AUTO_FD fd = -1;

        snapshot_world_fill(world, depth * 50, 100, depth);
        snapshot_world_clear(world, depth * 40, 30);
        copy = copy_of(world);
        manifest = snapshot_world_write(world, level, "x", depth ? &parent : NULL);
        parent = manifest;
        snapshot_world_fill(world, 1000, 10, depth); /* after it was taken */
        snapshot_world_assert_flat(world, &manifest, copy);
        assert_int_equal(snapshot_store_flatten(world->store, &manifest, &fd, &us, &err), 0);
        assert_int_equal(us, 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, MIB << 20);
        assert_true(st.st_blocks * 512 < (MIB << 20) / 2);
        assert_int_equal(st.st_mode & 0777, 0444);
    }
    struct snapshot_manifest about = snapshot_world_about(world, SNAPSHOT_FUNCTION, "y", &parent);
    assert_error(snapshot_world_try(world, &about, &manifest, &err), EINVAL, &err,
                 "as many parents");
}

static void test_extreme_memories(void **state)
{
    struct snapshot_world *world = *state;

    /* All zero: no memory file at all. */
    struct snapshot_manifest empty = snapshot_world_write(world, SNAPSHOT_BASE, "empty", NULL);
    assert_int_equal(empty.memory.bytes, 0);
    snapshot_world_assert_flat(world, &empty, world->memory);
    assert_int_equal(snapshot_store_verify(world->store, empty.id, NULL), 0);
    snapshot_world_fill(world, 0, MIB * SNAPSHOT_PAGES_PER_MIB, 3);
    struct snapshot_manifest full = snapshot_world_write(world, SNAPSHOT_RUNTIME, "full", &empty);
    assert_int_equal(full.data_pages, MIB * SNAPSHOT_PAGES_PER_MIB);
    snapshot_world_assert_flat(world, &full, world->memory);
    /* Nothing changed; then everything went. */
    struct snapshot_manifest same = snapshot_world_write(world, SNAPSHOT_RUNTIME, "same", &full);
    assert_int_equal(same.data_pages + same.zero_pages, 0);
    snapshot_world_assert_flat(world, &same, world->memory);
    snapshot_world_clear(world, 0, MIB * SNAPSHOT_PAGES_PER_MIB);
    struct snapshot_manifest gone = snapshot_world_write(world, SNAPSHOT_FUNCTION, "gone", &same);
    assert_int_equal(gone.zero_pages, MIB * SNAPSHOT_PAGES_PER_MIB);
    snapshot_world_assert_flat(world, &gone, world->memory);
    assert_int_equal(snapshot_store_verify(world->store, gone.id, NULL), 0);
}

/* A child may have more memory than its parent, never less. */
static void test_memory_that_grew(void **state)
{
    struct snapshot_world *world = *state;
    struct error err = {0};

    snapshot_world_fill(world, 0, 300, 1);
    world->memory_mib = 2;
    struct snapshot_manifest small = snapshot_world_write(world, SNAPSHOT_BASE, "small", NULL), x;
    world->memory_mib = MIB;
    snapshot_world_fill(world, 600, 100, 2);
    struct snapshot_manifest large = snapshot_world_write(world, SNAPSHOT_RUNTIME, "large", &small);
    assert_int_equal(large.data_pages, 100);
    snapshot_world_assert_flat(world, &large, world->memory);
    world->memory_mib = 2;
    struct snapshot_manifest about = snapshot_world_about(world, SNAPSHOT_FUNCTION, "s", &large);
    assert_error(snapshot_world_try(world, &about, &x, &err), EBADMSG, &err, "less memory");
    world->memory_mib = MIB;
}

static void test_refused_writes(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest base, made, about, good;
    struct error err = {0};

    snapshot_world_fill(world, 0, 10, 1);
    base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    good = snapshot_world_about(world, SNAPSHOT_RUNTIME, "r", &base);
    struct snapshot_manifest runtime = snapshot_world_write(world, SNAPSHOT_FUNCTION, "f", &base);
    unsigned n = snapshot_world_count(world, ".");
    about = good;
    snprintf(about.name, sizeof(about.name), "../x");
    assert_error(snapshot_world_try(world, &about, &made, &err), EINVAL, &err, "'name'");
    about = good;
    about.memory_mib = SNAPSHOT_MEMORY_MIB_MAX + 1;
    assert_error(snapshot_world_try(world, &about, &made, &err), EINVAL, &err, "'memory_mib'");
    about = good;
    about.kernel_digest[0] = 'A';
    assert_error(snapshot_world_try(world, &about, &made, &err), EINVAL, &err, "'kernel_digest'");
    about.kernel_digest[0] = '0';
    assert_error(snapshot_world_try(world, &about, &made, &err), EBADMSG, &err, "another kernel");
    about = good;
    about.parent[3] = about.parent[3] == '0' ? '1' : '0';
    assert_error(snapshot_world_try(world, &about, &made, &err), ENOENT, &err, "open snapshot");
    about = good;
    about.level = SNAPSHOT_BASE;
    assert_error(snapshot_world_try(world, &about, &made, &err), EINVAL, &err, "'parent'");
    about = snapshot_world_about(world, SNAPSHOT_RUNTIME, "r", &runtime);
    assert_error(snapshot_world_try(world, &about, &made, &err), EBADMSG, &err, "above it");
    /* A memory file that is cut short, state that is too large, pages that do not exist. */
    AUTO_FD fd = snapshot_world_memfd(world);
    AUTO_FREE uint8_t *state_bytes = calloc(1, SNAPSHOT_STATE_BYTES_MAX + 1);
    struct snapshot_extents changed = {0};
    struct snapshot_write write = {.about = &good,
                                   .state = state_bytes,
                                   .state_bytes = SNAPSHOT_STATE_BYTES_MAX + 1,
                                   .memory_fd = fd,
                                   .changed = &changed};
    assert_error(snapshot_store_write(world->store, &write, &made, &err), EFBIG, &err, "state");
    write.state_bytes = 5;
    snapshot_extents_add(&changed, MIB * SNAPSHOT_PAGES_PER_MIB, 1);
    assert_error(snapshot_store_write(world->store, &write, &made, &err), EINVAL, &err, "outside");
    changed.items[0].first--;
    assert_int_equal(ftruncate(fd, (MIB << 20) - 1), 0);
    assert_error(snapshot_store_write(world->store, &write, &made, &err), EINVAL, &err, "shorter");
    snapshot_extents_done(&changed);
    assert_int_equal(snapshot_world_count(world, "."), n);
    assert_int_equal(snapshot_world_count(world, "names"), 2);
}

static void test_names(void **state)
{
    struct snapshot_world *world = *state;
    char id[SNAPSHOT_ID_HEX + 1], prefix[16], path[256];
    struct error err = {0};
    struct snapshot_info info;

    snapshot_world_fill(world, 0, 10, 1);
    struct snapshot_manifest first = snapshot_world_write(world, SNAPSHOT_BASE, "x", NULL);
    snapshot_world_fill(world, 0, 10, 2);
    struct snapshot_manifest second = snapshot_world_write(world, SNAPSHOT_BASE, "x", NULL);
    assert_int_equal(snapshot_store_find(world->store, "x", id, &err), 0);
    assert_string_equal(id, second.id);
    snprintf(prefix, sizeof(prefix), "%.8s", first.id);
    assert_int_equal(snapshot_store_find(world->store, prefix, id, &err), 0);
    assert_string_equal(id, first.id);
    assert_int_equal(snapshot_store_inspect(world->store, id, &info, &err), 0);
    assert_false(info.is_named);
    prefix[7] = '\0';
    assert_error(snapshot_store_find(world->store, prefix, id, &err), ENOENT, &err, "no snapshot");
    assert_error(snapshot_store_find(world->store, "../x", id, &err), ENOENT, &err, "no snapshot");
    assert_error(snapshot_store_inspect(world->store, "../x", &info, &err), EINVAL, &err, "id");
    snprintf(path, sizeof(path), "%s/names/x.json", world->path);
    static const char *const damaged[] = {"", "{", "{\"version\": 2, \"id\": \"\"}",
                                          "{\"version\": 1, \"id\": \"../../../etc\"}", "[]"};
    for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
        fixture_write(path, damaged[i], strlen(damaged[i]));
        assert_error(snapshot_store_find(world->store, "x", id, &err), EBADMSG, &err, "'x'");
    }
    struct snapshot_gc gc;
    assert_error(snapshot_store_gc(world->store, &gc, &err), EBADMSG, &err, "rm x");
    assert_int_equal(snapshot_store_remove(world->store, "x", false, &err), 0);
    assert_int_equal(snapshot_world_count(world, "names"), 0);
}

static void test_list(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    AUTO_FREE struct snapshot_info *list = NULL;
    struct error err = {0};
    char path[256];
    size_t n;

    snapshot_world_three(world, levels);
    snapshot_world_file(world, levels[1].id, "manifest.json", path);
    fixture_write(path, "{}", 2);
    assert_int_equal(snapshot_store_list(world->store, &list, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_string_equal(list[0].manifest.name, "base");
    assert_string_equal(list[1].manifest.name, "hello");
    assert_string_equal(list[2].manifest.id, levels[1].id);
    assert_non_null(strstr(list[2].problem, "SHA-256"));
}

static void test_remove(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    struct error err = {0};

    snapshot_world_three(world, levels);
    snapshot_world_assert_flat(world, &levels[2], world->memory);
    assert_error(snapshot_store_remove(world->store, "base", false, &err), ENOTEMPTY, &err,
                 "python3.11");
    assert_error(snapshot_store_remove(world->store, "python3.11", false, &err), ENOTEMPTY, &err,
                 "hello");
    assert_int_equal(snapshot_world_count(world, "."), 5);
    assert_int_equal(snapshot_store_remove(world->store, "hello", false, &err), 0);
    assert_error(snapshot_store_remove(world->store, "hello", false, &err), ENOENT, &err, "hello");
    assert_int_equal(snapshot_world_count(world, "."), 4);
    assert_int_equal(snapshot_store_remove(world->store, "base", true, &err), 0);
    assert_int_equal(snapshot_world_count(world, "."), 2);
    assert_int_equal(snapshot_world_count(world, "names"), 0);
    assert_int_equal(snapshot_world_count(world, "cache"), 0);
}

/* What a clone has mapped stays as it was, whatever happens to the store. */
static void test_removed_under_a_clone(void **state)
{
    struct snapshot_world *world = *state;
    struct error err = {0};
    AUTO_FD fd = -1;

    snapshot_world_fill(world, 0, 700, 1);
    struct snapshot_manifest base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    assert_int_equal(snapshot_store_flatten(world->store, &base, &fd, NULL, &err), 0);
    uint8_t *clone = mmap(NULL, MIB << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(clone, MAP_FAILED);
    clone[0] ^= 1;
    assert_int_equal(snapshot_store_remove(world->store, "base", false, &err), 0);
    clone[0] ^= 1;
    assert_memory_equal(clone, world->memory, MIB << 20);
    munmap(clone, MIB << 20);
}

static void test_gc(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    struct snapshot_gc gc;
    struct error err = {0};
    char path[256];

    snapshot_world_three(world, levels);
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(gc.snapshots + gc.cached + gc.names, 0);
    /* The name goes to another: the old function has none, nor has anybody else a use for it. */
    snapshot_world_fill(world, 500, 2, 9);
    snapshot_world_forget(world);
    struct snapshot_manifest next =
        snapshot_world_write(world, SNAPSHOT_FUNCTION, "hello", &levels[1]);
    snapshot_world_assert_flat(world, &next, world->memory);
    snprintf(path, sizeof(path), "%s/cache/%s.mem", world->path, levels[2].id);
    fixture_write(path, "x", 1);
    snprintf(path, sizeof(path), "%s/cache/%064d.mem", world->path, 0);
    fixture_write(path, "x", 1);
    snprintf(path, sizeof(path), "%s/names/nothing.json", world->path);
    char text[128];
    int len = snprintf(text, sizeof(text), "{\"version\": 1, \"id\": \"%064d\"}", 0);
    fixture_write(path, text, (size_t)len);
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(gc.snapshots, 1);
    assert_int_equal(gc.names, 1);
    assert_int_equal(gc.cached, 2);
    assert_true(gc.freed_bytes > 0);
    assert_int_equal(snapshot_store_verify(world->store, next.id, &err), 0);
    /* Without any name all of it goes, children before parents. */
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/names/%s.json", world->path, levels[i].name);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(gc.snapshots, 0); /* the function needs its parents */
    snprintf(path, sizeof(path), "%s/names/hello.json", world->path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(gc.snapshots, 3);
    assert_int_equal(snapshot_world_count(world, "."), 2);
}

/* If a named snapshot cannot be read, what it needs must stay. */
static void test_gc_never_guesses(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    struct snapshot_gc gc;
    struct error err = {0};
    char path[256], id[16];

    snapshot_world_three(world, levels);
    snprintf(path, sizeof(path), "%s/names/base.json", world->path);
    assert_int_equal(unlink(path), 0);
    snapshot_world_file(world, levels[1].id, "manifest.json", path);
    fixture_write(path, "{}", 2);
    assert_error(snapshot_store_gc(world->store, &gc, &err), EBADMSG, &err, "not known");
    assert_int_equal(snapshot_world_count(world, "."), 5);
    snprintf(id, sizeof(id), "%.12s", levels[1].id);
    assert_int_equal(snapshot_store_remove(world->store, id, true, &err), 0);
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(snapshot_world_count(world, "."), 2);
}

/* Modification times stand for the last use; set here, not waited for. */
static void set_used(const struct snapshot_world *world, const char *id, time_t when)
{
    struct timespec times[2] = {{.tv_sec = when}, {.tv_sec = when}};
    char path[256];

    snprintf(path, sizeof(path), "%s/cache/%.64s.mem", world->path, id);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_cache_limit(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[3];
    struct snapshot_info info;
    struct snapshot_gc gc;
    struct error err = {0};
    AUTO_FD fd = -1;

    for (unsigned i = 0; i < 3; i++) {
        char name[16];

        snapshot_world_fill(world, 0, 256, i);
        snprintf(name, sizeof(name), "s%u", i);
        made[i] = snapshot_world_write(world, SNAPSHOT_BASE, name, NULL);
    }
    snapshot_store_set_cache_limit(world->store, (5 << 20) / 2);
    for (unsigned i = 0; i < 2; i++) {
        AUTO_FD unused = -1;

        assert_int_equal(snapshot_store_flatten(world->store, &made[i], &unused, NULL, &err), 0);
        set_used(world, made[i].id, 1000 + (time_t)i);
    }
    assert_int_equal(snapshot_world_count(world, "cache"), 2);
    /* Used again: now the other one is the oldest. */
    fd_close_at_exit(&fd);
    assert_int_equal(snapshot_store_flatten(world->store, &made[0], &fd, NULL, &err), 0);
    close(fd);
    assert_int_equal(snapshot_store_flatten(world->store, &made[2], &fd, NULL, &err), 0);
    assert_int_equal(snapshot_world_count(world, "cache"), 2);
    snapshot_store_inspect(world->store, made[1].id, &info, &err);
    assert_int_equal(info.cached_bytes, 0);
    /* What was just made stays even if it alone is too large; gc has no such scruples. */
    snapshot_store_set_cache_limit(world->store, 0);
    close(fd);
    assert_int_equal(snapshot_store_flatten(world->store, &made[1], &fd, NULL, &err), 0);
    assert_int_equal(snapshot_world_count(world, "cache"), 1);
    assert_int_equal(snapshot_store_gc(world->store, &gc, &err), 0);
    assert_int_equal(gc.cached, 1);
    assert_int_equal(snapshot_world_count(world, "cache"), 0);
}

static void test_cached_copy_damaged(void **state)
{
    struct snapshot_world *world = *state;
    struct error err = {0};
    char path[256];

    snapshot_world_fill(world, 0, 256, 1);
    struct snapshot_manifest base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    snapshot_world_assert_flat(world, &base, world->memory);
    snprintf(path, sizeof(path), "%s/cache/%s.mem", world->path, base.id);
    assert_int_equal(chmod(path, 0600), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "y", 1, 500000), 1);
    assert_error(snapshot_store_verify(world->store, base.id, &err), EBADMSG, &err, "cache/");
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_error(snapshot_store_verify(world->store, base.id, &err), EBADMSG, &err, "cache/");
    close(fd);
    /* One of the wrong length is made anew. */
    snapshot_world_assert_flat(world, &base, world->memory);
    assert_int_equal(snapshot_store_verify(world->store, base.id, &err), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    snapshot_world_assert_flat(world, &base, world->memory);
}

static void test_state(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    AUTO_FREE uint8_t *bytes = NULL;
    struct error err = {0};
    size_t len;

    assert_int_equal(snapshot_store_state(world->store, &base, &bytes, &len, &err), 0);
    assert_int_equal(len, 3000);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(bytes[i], (uint8_t)(i * 7));
}

static bool is_cached(int fd, uint32_t page)
{
    char byte;
    const struct iovec into = {.iov_base = &byte, .iov_len = 1};

    return preadv2(fd, &into, 1, (off_t)page * SNAPSHOT_PAGE_BYTES, RWF_NOWAIT) == 1;
}

/* Whether pages leave the cache when they are told to is the file system's affair. */
static void test_read_ahead(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_extents pages = {0};
    struct error err;
    int fd;

    snapshot_world_fill(world, 0, 1000, 1);
    struct snapshot_manifest base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    assert_int_equal(snapshot_extents_add(&pages, 10, 5), 0);
    assert_int_equal(snapshot_extents_add(&pages, 700, 30), 0);
    assert_int_equal(snapshot_store_flatten(world->store, &base, &fd, NULL, &err), 0);
    assert_int_equal(snapshot_store_read_ahead(world->store, &base, fd), 0); /* it is hot */
    assert_int_equal(fsync(fd), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (!is_cached(fd, 0) && !is_cached(fd, 720)) {
        assert_int_equal(snapshot_store_read_ahead(world->store, &base, fd), 0); /* none recorded */
        assert_int_equal(snapshot_store_set_working_set(world->store, &base, &pages, &err), 0);
        assert_int_equal(snapshot_store_read_ahead(world->store, &base, fd), 35);
        for (int i = 0; i < 6000 && !(is_cached(fd, 720) && is_cached(fd, 12)); i++)
            poll(NULL, 0, 10);
        assert_true(is_cached(fd, 720) && is_cached(fd, 12));
    }
    close(fd);
    snapshot_extents_done(&pages);
}

static void test_working_set(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    struct snapshot_manifest other = snapshot_world_write(world, SNAPSHOT_RUNTIME, "r", &base);
    struct snapshot_extents pages = {0}, back = {0};
    struct error err = {0};
    AUTO_FREE uint8_t *file = NULL;
    char path[256], to[256];
    size_t len;

    assert_int_equal(snapshot_store_get_working_set(world->store, &base, &back, &err), -ENOENT);
    snapshot_extents_add(&pages, 3, 4);
    snapshot_extents_add(&pages, 900, 100);
    assert_int_equal(snapshot_store_set_working_set(world->store, &base, &pages, &err), 0);
    snapshot_extents_add(&pages, 1023, 1);
    assert_int_equal(snapshot_store_set_working_set(world->store, &base, &pages, &err), 0);
    assert_int_equal(snapshot_store_get_working_set(world->store, &base, &back, &err), 0);
    assert_int_equal(back.n, 3);
    assert_int_equal(back.items[2].first, 1023);
    snapshot_extents_done(&back);
    assert_int_equal(snapshot_store_verify(world->store, base.id, &err), 0);
    snapshot_extents_add(&pages, 1024, 1);
    assert_error(snapshot_store_set_working_set(world->store, &base, &pages, &err), EINVAL, &err,
                 "outside");
    snapshot_extents_done(&pages);
    /* Another snapshot's, damaged ones, too short ones. */
    snapshot_world_file(world, base.id, "working_set", path);
    snapshot_world_file(world, other.id, "working_set", to);
    assert_int_equal(fd_read_file(path, 4096, &file, &len, &err), 0);
    fixture_write(to, file, len);
    assert_error(snapshot_store_get_working_set(world->store, &other, &back, &err), EBADMSG, &err,
                 "another snapshot");
    for (size_t i = 0; i < len; i++) {
        file[i] ^= 0x10;
        fixture_write(path, file, len);
        assert_error(snapshot_store_get_working_set(world->store, &base, &back, &err), EBADMSG,
                     &err, "working_set");
        file[i] ^= 0x10;
        fixture_write(path, file, i);
        assert_error(snapshot_store_get_working_set(world->store, &base, &back, &err), EBADMSG,
                     &err, "working_set");
    }
    assert_error(snapshot_store_verify(world->store, base.id, &err), EBADMSG, &err, "working_set");
}

static void test_many_processes(void **state)
{
    enum { PROCESSES = 8 };
    struct snapshot_world *world = *state;
    struct snapshot_manifest levels[3];
    pid_t pids[PROCESSES];

    snapshot_world_three(world, levels);
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            struct snapshot_world own = *world;

            if (snapshot_store_open(world->path, &own.store, NULL) < 0)
                _exit(1);
            if (i % 2 == 0) {
                snapshot_world_assert_flat(&own, &levels[2], world->memory);
            } else {
                char name[16];

                snprintf(name, sizeof(name), "p%d", i);
                snapshot_world_fill(&own, 900, 10, (unsigned)i);
                snapshot_world_forget(&own);
                struct snapshot_manifest made =
                    snapshot_world_write(&own, SNAPSHOT_FUNCTION, name, &levels[1]);
                snapshot_world_assert_flat(&own, &made, own.memory);
            }
            snapshot_store_close(own.store);
            _exit(0);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;

        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    /* Three and four more; the flattened memories of all but the base, with no temporaries. */
    assert_int_equal(snapshot_world_count(world, "."), 2 + 3 + 4);
    assert_int_equal(snapshot_world_count(world, "cache"), 3 + 4);
}

/* What a killed process left goes at the next open; what is in use stays. */
static void test_left_overs_are_swept(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_store *store;
    char dead[256], used[256], file[300];

    snprintf(dead, sizeof(dead), "%s/.tmp-0000000000000001", world->path);
    snprintf(used, sizeof(used), "%s/.tmp-0000000000000002", world->path);
    assert_int_equal(mkdir(dead, 0755), 0);
    assert_int_equal(mkdir(used, 0755), 0);
    snprintf(file, sizeof(file), "%s/memory.mfs", dead);
    fixture_write(file, "x", 1);
    int fd = open(used, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(snapshot_store_open(world->path, &store, NULL), 0);
    snapshot_store_close(store);
    assert_int_equal(access(dead, F_OK), -1);
    assert_int_equal(access(used, F_OK), 0);
    close(fd);
}

static void on_progress(void *opaque, const char *what, uint64_t done, uint64_t total)
{
    uint64_t *calls = opaque;

    assert_non_null(what);
    assert_true(done <= total);
    (*calls)++;
}

static void test_progress_and_cancel(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made, about = snapshot_world_about(world, SNAPSHOT_BASE, "x", NULL);
    volatile sig_atomic_t cancelled = 0;
    struct error err = {0};
    uint64_t calls = 0;

    snapshot_world_fill(world, 0, 1000, 1);
    snapshot_store_on_progress(world->store, on_progress, &calls);
    snapshot_store_set_cancel(world->store, &cancelled);
    made = snapshot_world_write(world, SNAPSHOT_BASE, "y", NULL);
    assert_true(calls >= 2);
    assert_int_equal(made.data_pages, 1000);
    char path[256];
    snprintf(path, sizeof(path), "%s/x.tar", world->directory);
    cancelled = 1;
    /* Work that is done before the first tick ends well; an export looks after every block. */
    assert_int_equal(snapshot_store_export(world->store, made.id, path, &err), -EINTR);
    assert_int_equal(access(path, F_OK), -1);
    int r = snapshot_world_try(world, &about, &made, &err);
    assert_true(r == 0 || r == -EINTR);
    assert_int_equal(snapshot_world_count(world, "."), r == 0 ? 4 : 3);
}

/* A real full disk: a small tmpfs. Needs root; test_snapshot_faults has the rest. */
static void test_full_disk(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_store *own = world->store;
    struct error flatten_err = {0}, write_err = {0}, err = {0};
    struct snapshot_manifest base, x, about;
    char path[128];
    int fd = -1;

    snprintf(path, sizeof(path), "%s/small", world->directory);
    assert_int_equal(mkdir(path, 0755), 0);
    if (mount("tmpfs", path, "tmpfs", 0, "size=2m") < 0)
        skip();
    assert_int_equal(snapshot_store_open(path, &world->store, &err), 0);
    snapshot_world_fill(world, 0, 600, 1);
    base = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    int flatten_r = snapshot_store_flatten(world->store, &base, &fd, NULL, &flatten_err);
    about = snapshot_world_about(world, SNAPSHOT_BASE, "second", NULL);
    snapshot_world_fill(world, 0, 1000, 2);
    int write_r = snapshot_world_try(world, &about, &x, &write_err);
    /* With less to write the same succeeds. */
    snapshot_world_clear(world, 10, 990);
    int retry_r = snapshot_world_try(world, &about, &x, &err);
    struct snapshot_gc gc;
    int gc_r = snapshot_store_gc(world->store, &gc, &err);
    snapshot_store_close(world->store);
    world->store = own;
    assert_int_equal(umount(path), 0);
    assert_error(flatten_r, ENOSPC, &flatten_err, "3 MiB");
    assert_error(write_r, ENOSPC, &write_err, "No space left");
    assert_int_equal(retry_r, 0);
    assert_int_equal(gc_r, 0);
    assert_int_equal(gc.snapshots, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_three_levels),
        TEST(test_each_level_is_what_it_was),
        TEST(test_extreme_memories),
        TEST(test_memory_that_grew),
        TEST(test_refused_writes),
        TEST(test_names),
        TEST(test_list),
        TEST(test_remove),
        TEST(test_removed_under_a_clone),
        TEST(test_gc),
        TEST(test_gc_never_guesses),
        TEST(test_cache_limit),
        TEST(test_cached_copy_damaged),
        TEST(test_state),
        TEST(test_read_ahead),
        TEST(test_working_set),
        TEST(test_many_processes),
        TEST(test_left_overs_are_swept),
        TEST(test_progress_and_cancel),
        TEST(test_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
