/* Trees and archives of root images: nothing may be written or read outside the tree. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_child.h"
#include "images/image_tree.h"
#include "images/image_unpack.h"
#include "tests/unit/image_fixture.h"

/* <directory>/root is the tree; <directory>/outside must stay empty. */
struct world {
    char directory[64], root[80], outside[80], tar[80], log[80];
    int root_fd;
};

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_non_null(world);
    fixture_directory(world->directory);
    snprintf(world->root, sizeof(world->root), "%s/root", world->directory);
    snprintf(world->outside, sizeof(world->outside), "%s/outside", world->directory);
    snprintf(world->tar, sizeof(world->tar), "%s/x.tar", world->directory);
    snprintf(world->log, sizeof(world->log), "%s/log", world->directory);
    assert_int_equal(mkdir(world->root, 0755), 0);
    assert_int_equal(mkdir(world->outside, 0755), 0);
    world->root_fd = open(world->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;

    close(world->root_fd);
    assert_int_equal(rmdir(world->outside), 0); /* empty, or something got out */
    fixture_remove(world->directory);
    free(world);
    return 0;
}

static bool in_tree(const struct world *world, const char *path)
{
    struct stat st;

    return fstatat(world->root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void assert_says(const struct error *err, const char *words)
{
    if (!strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

/* --- trees ----------------------------------------------------------------------------------- */

static void test_links_lead_nowhere(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    char up[128];

    snprintf(up, sizeof(up), "../../../../../..%s", world->outside);
    assert_int_equal(symlinkat(world->outside, world->root_fd, "etc"), 0);
    assert_int_equal(symlinkat(up, world->root_fd, "sbin"), 0);
    /* Both links point to a path that the tree does not have. */
    assert_true(tree_write_file(world->root_fd, "/etc/hosts", "x", 0644, &err) < 0);
    assert_true(tree_make_link(world->root_fd, "/sbin/x", "y", &err) < 0);
    assert_true(tree_make_directory(world->root_fd, "/etc/a/b", &err) < 0);
    assert_true(tree_finish(world->root_fd, "/proc/self/exe", &err) < 0);
    /* A link that is to be replaced is not followed. */
    assert_int_equal(symlinkat(world->outside, world->root_fd, "f"), 0);
    assert_int_equal(tree_write_file(world->root_fd, "/f", "x", 0644, &err), 0);
    assert_int_equal(tree_write_file(world->root_fd, "/../../g", "x", 0644, &err), 0);
    assert_true(in_tree(world, "g"));
}

static void test_finish(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    static const char *const wanted[] = {"proc",
                                         "sys/fs/cgroup",
                                         "dev",
                                         "tmp",
                                         "run",
                                         "var/task",
                                         "opt",
                                         "etc/passwd",
                                         "etc/hosts",
                                         "etc/resolv.conf",
                                         "sbin/mayfly-agent"};

    if (geteuid() != 0)
        skip(); /* device nodes */
    assert_int_equal(tree_write_file(world->root_fd, "/etc/hosts", "own", 0644, &err), 0);
    if (tree_finish(world->root_fd, "/proc/self/exe", &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (!in_tree(world, wanted[i]))
            fail_msg("no %s", wanted[i]);
    char text[4] = "";
    int fd = openat(world->root_fd, "etc/hosts", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fd_pread_all(fd, text, 3, 0), 0);
    close(fd);
    assert_string_equal(text, "own");
}

static void test_delete(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    static const char *const made[] = {"/a/b/c", "/a/b/keep", "/a/d", "/x/test/t", "/x/testing"};
    char *const delete[] = {(char[]){"/a/*"}, (char[]){"/x/test"}};
    char *const keep[] = {(char[]){"/a/b/keep"}};

    for (size_t i = 0; i < ARRAY_LEN(made); i++)
        assert_int_equal(tree_write_file(world->root_fd, made[i], "x", 0644, &err), 0);
    assert_int_equal(symlinkat(world->outside, world->root_fd, "a/link"), 0);
    assert_int_equal(tree_delete(world->root, delete, 2, keep, 1, &err), 0);
    assert_true(in_tree(world, "a/b/keep"));
    assert_true(in_tree(world, "x/testing"));
    assert_false(in_tree(world, "a/b/c"));
    assert_false(in_tree(world, "a/d"));
    assert_false(in_tree(world, "a/link"));
    assert_false(in_tree(world, "x/test"));
}

static void test_check(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    char program[64] = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1};
    char path[128];

    assert_int_equal(tree_check(world->root, &err), 0);
    program[18] = (char)EM_AARCH64;
    assert_int_equal(tree_make_directory(world->root_fd, "/usr/bin", &err), 0);
    snprintf(path, sizeof(path), "%s/usr/bin/env", world->root);
    fixture_write(path, program, sizeof(program));
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(tree_check(world->root, &err), -EBADMSG);
    assert_says(&err, "'/usr/bin/env' of the image is a program for aarch64");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0644), 0);
    assert_int_equal(tree_check(world->root, &err), -EBADMSG);
    assert_says(&err, "FIFO");
}

static void test_copy_and_digest(void **state)
{
    struct world *world = *state;
    struct sha256 *sha256 = sha256_new();
    uint8_t first[SHA256_BYTES], second[SHA256_BYTES];
    char path[160];
    struct error err = {0};

    snprintf(path, sizeof(path), "%s/src", world->directory);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(path, sizeof(path), "%s/src/a", world->directory);
    fixture_write(path, "one", 3);
    path[strlen(path) - 2] = 0;
    assert_int_equal(tree_copy(world->root_fd, path, "/to/here", &err), 0);
    assert_true(in_tree(world, "to/here/a"));
    assert_int_equal(tree_digest(path, sha256, &err), 0);
    sha256_take(sha256, first);
    strcat(path, "/a");
    fixture_write(path, "two", 3);
    path[strlen(path) - 2] = 0;
    assert_int_equal(tree_digest(path, sha256, &err), 0);
    sha256_take(sha256, second);
    assert_memory_not_equal(first, second, SHA256_BYTES);
    assert_int_equal(tree_copy(world->root_fd, "/nonexistent", "/x", &err), -ENOENT);
    sha256_free(sha256);
}

/* --- archives -------------------------------------------------------------------------------- */

/* One entry; a link has a target, a file content. */
struct entry {
    const char *name;
    mode_t type;
    const char *target; /* of a link; hard if type is 0 */
    int64_t size;       /* 0: 4 bytes are written; else only claimed */
};

static void write_tar(const struct world *world, const struct entry *entries, size_t n)
{
    struct archive *tar = archive_write_new();

    archive_write_set_format_pax_restricted(tar);
    archive_write_add_filter_zstd(tar);
    assert_int_equal(archive_write_open_filename(tar, world->tar), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *entry = archive_entry_new();
        bool is_file = entries[i].type == S_IFREG;

        archive_entry_set_pathname_utf8(entry, entries[i].name);
        archive_entry_set_filetype(entry, entries[i].type ? entries[i].type : S_IFREG);
        archive_entry_set_perm(entry, 0755);
        archive_entry_set_size(entry, !is_file ? 0 : entries[i].size ? entries[i].size : 4);
        if (entries[i].type == S_IFLNK)
            archive_entry_set_symlink(entry, entries[i].target);
        if (entries[i].type == 0)
            archive_entry_set_hardlink(entry, entries[i].target);
        archive_write_header(tar, entry);
        if (is_file)
            archive_write_data(tar, "data", 4);
        archive_entry_free(entry);
    }
    archive_write_free(tar);
}

struct call {
    const struct world *world;
    int fd;
};

static int call_unpack(void *opaque, struct error *err)
{
    const struct call *call = opaque;

    /* Without chroot: what unpack_tar() does on its own must be enough. */
    if (chdir(call->world->root) < 0)
        return error_set(err, errno, "enter");
    return unpack_tar(call->fd, "x.tar", err);
}

static int unpack(const struct world *world, struct error *err)
{
    struct call call = {.world = world, .fd = open(world->tar, O_RDONLY | O_CLOEXEC)};
    int r = child_run(
        &(struct child){.log = world->log, .stage = "unpack", .call = call_unpack, .opaque = &call},
        err);
    close(call.fd);
    return r;
}

static void test_good_archive(void **state)
{
    struct world *world = *state;
    const struct entry entries[] = {
        {"./", S_IFDIR, NULL, 0},           {"./bin", S_IFLNK, "usr/bin", 0},
        {"./usr/bin/sh", S_IFREG, NULL, 0}, {"usr/bin/\xc3\xa4", S_IFREG, NULL, 0},
        {"abs", S_IFLNK, "/etc/passwd", 0}, {"usr/bin/hard", 0, "usr/bin/sh", 0},
        {"dev/null", S_IFCHR, NULL, 0}};
    struct error err = {0};

    write_tar(world, entries, ARRAY_LEN(entries));
    if (unpack(world, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(in_tree(world, "usr/bin/sh"));
    assert_true(in_tree(world, "usr/bin/\xc3\xa4"));
    assert_true(in_tree(world, "usr/bin/hard"));
    assert_true(in_tree(world, "abs"));
    assert_false(in_tree(world, "dev/null"));
}

static void test_hostile_archives(void **state)
{
    struct world *world = *state;
    const struct {
        struct entry entries[2];
        const char *words;
    } cases[] = {
        {{{"../outside/x", S_IFREG, NULL, 0}}, "leads outside"},
        {{{"a/../../outside/x", S_IFREG, NULL, 0}}, "leads outside"},
        {{{"..", S_IFDIR, NULL, 0}}, "leads outside"},
        {{{world->outside, S_IFREG, NULL, 0}}, "leads outside"},
        {{{"l", S_IFLNK, "../outside", 0}, {"l/x", S_IFREG, NULL, 0}}, "symlink"},
        {{{"m", S_IFLNK, world->outside, 0}, {"m/x", S_IFREG, NULL, 0}}, "symlink"},
        {{{"h", 0, "/etc/passwd", 0}}, "hard link"},
        {{{"h", 0, "../log", 0}}, "hard link"},
        {{{"disk", S_IFBLK, NULL, 0}}, "device"},
        {{{"fifo", S_IFIFO, NULL, 0}}, "device"},
        {{{"big", S_IFREG, NULL, INT64_C(9) << 30}}, "8 GiB"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};

        write_tar(world, cases[i].entries, cases[i].entries[1].name ? 2 : 1);
        assert_true(unpack(world, &err) < 0);
        assert_says(&err, "archive 'x.tar'");
        assert_says(&err, cases[i].words);
    }
}

static void test_damaged_archives(void **state)
{
    struct world *world = *state;
    const struct entry entries[] = {{"a", S_IFREG, NULL, 0}, {"b", S_IFREG, NULL, 0}};
    struct error err = {0};
    struct stat st;

    write_tar(world, entries, 2);
    assert_int_equal(stat(world->tar, &st), 0);
    assert_int_equal(truncate(world->tar, st.st_size / 2), 0);
    assert_true(unpack(world, &err) < 0);
    assert_says(&err, "x.tar");
    fixture_write(world->tar, "this is not an archive", 22);
    assert_true(unpack(world, &err) < 0);
    assert_says(&err, "x.tar");
    fixture_write(world->tar, "", 0);
    assert_true(unpack(world, &err) < 0);
    assert_says(&err, "x.tar");
}

/* --- child processes ------------------------------------------------------------------------- */

static void test_child_failures(void **state)
{
    struct world *world = *state;
    const char *const missing[] = {"no-such-program", NULL};
    const char *const fails[] = {"sh", "-c", "echo first; echo 'last words'; exit 7", NULL};
    const char *const marked[] = {"sh", "-c", "echo 'E: the cause'; echo noise; exit 1", NULL};
    const char *const clean[] = {"sh", "-c", "test -z \"$MAYFLY_SECRET\"", NULL};
    struct child child = {.log = world->log, .stage = "test", .argv = missing};
    struct error err = {0};

    assert_int_equal(child_run(&child, &err), -ENOENT);
    assert_says(&err, "no-such-program");
    child.argv = fails;
    assert_int_equal(child_run(&child, &err), -EIO);
    assert_says(&err, "status 7");
    assert_says(&err, "first|last words");
    child.argv = marked;
    assert_int_equal(child_run(&child, &err), -EIO);
    assert_says(&err, ": the cause");
    assert_int_equal(setenv("MAYFLY_SECRET", "x", 1), 0);
    child.argv = clean;
    assert_int_equal(child_run(&child, &err), 0);
}

static void test_child_is_cancelled(void **state)
{
    struct world *world = *state;
    const char *const sleeps[] = {"sh", "-c", "sleep 1000 & sleep 1000", NULL};
    volatile sig_atomic_t cancelled = 1;
    struct image_watch watch = {.cancelled = &cancelled};
    struct child child = {.log = world->log, .stage = "test", .argv = sleeps, .watch = &watch};
    struct error err = {0};

    assert_int_equal(child_run(&child, &err), -EINTR);
    assert_says(&err, "interrupted");
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_links_lead_nowhere),
        TEST(test_finish),
        TEST(test_delete),
        TEST(test_check),
        TEST(test_copy_and_digest),
        TEST(test_good_archive),
        TEST(test_hostile_archives),
        TEST(test_damaged_archives),
        TEST(test_child_failures),
        TEST(test_child_is_cancelled),
    };

    setlocale(LC_CTYPE, "C.UTF-8"); /* names in the archives made here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
