/* The file spool: whole lines, nothing outside, bounds, what a kill leaves behind. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "host/events/delivery_target.h"
#include "host/events/spool.h"

struct fixture {
    char directory[64];
    char path[512];
    struct spool *spool;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path);
}

static void open_spool(struct fixture *f, uint64_t tenant_bytes)
{
    struct error err = {0};
    char path[96];

    spool_close(f->spool);
    snprintf(path, sizeof(path), "%s/spool", f->directory);
    if (spool_open(path, tenant_bytes, &f->spool, &err) != 0)
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f)
        return -1;
    snprintf(f->directory, sizeof(f->directory), "/tmp/mayfly-test-spool-XXXXXX");
    if (!mkdtemp(f->directory))
        return -1;
    open_spool(f, 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    spool_close(f->spool);
    nftw(f->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

static const char *path_of(struct fixture *f, const char *name)
{
    snprintf(f->path, sizeof(f->path), "%s/spool/%s", f->directory, name);
    return f->path;
}

static int append(struct fixture *f, const char *tenant, const char *name, const char *line)
{
    struct error err = {0};
    int r = spool_append(f->spool, tenant, name, line, strlen(line), &err);

    if (r < 0)
        assert_true(err.code == -r && err.text[0]);
    return r;
}

static void expect_file(struct fixture *f, const char *name, const char *content)
{
    uint8_t *data = NULL;
    size_t len = 0;

    assert_int_equal(fd_read_file(path_of(f, name), 1 << 20, &data, &len, NULL), 0);
    assert_string_equal((const char *)data, content);
    free(data);
}

static void write_file(struct fixture *f, const char *name, const char *content)
{
    FILE *file = fopen(path_of(f, name), "w");

    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

static void test_lines(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    assert_int_equal(append(f, "alice", "log", "{\"a\":\n 1}"), 0);
    assert_int_equal(append(f, "alice", "log", "{}\r\n"), 0);
    assert_int_equal(append(f, "bob", "log", "[]"), 0);
    expect_file(f, "alice/log.jsonl", "{\"a\":  1}\n{}  \n");
    expect_file(f, "bob/log.jsonl", "[]\n");
    assert_int_equal(stat(path_of(f, "alice/log.jsonl"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(path_of(f, "alice"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    /* Taken away: a new one. */
    assert_int_equal(unlink(path_of(f, "alice/log.jsonl")), 0);
    assert_int_equal(append(f, "alice", "log", "3"), 0);
    expect_file(f, "alice/log.jsonl", "3\n");
}

/* A line that was cut short by a kill; longer than what is looked at in one piece. */
static void test_torn_lines(void **state)
{
    struct fixture *f = *state;
    static char torn[200000];

    assert_int_equal(append(f, "alice", "x", "1"), 0);
    write_file(f, "alice/x.jsonl", "1\n{\"half\":");
    assert_int_equal(append(f, "alice", "x", "2"), 0);
    expect_file(f, "alice/x.jsonl", "1\n2\n");
    memset(torn, 'x', sizeof(torn) - 1);
    write_file(f, "alice/x.jsonl", torn);
    assert_int_equal(append(f, "alice", "x", "3"), 0);
    expect_file(f, "alice/x.jsonl", "3\n");
    memcpy(torn, "1\n", 2);
    write_file(f, "alice/x.jsonl", torn);
    assert_int_equal(append(f, "alice", "x", "4"), 0);
    expect_file(f, "alice/x.jsonl", "1\n4\n");
}

static void test_names(void **state)
{
    static const char *const bad[] = {
        "",        ".",    "..",
        "../x",    "a/b",  "/etc/passwd",
        ".hidden", "a\\b", "a b",
        "a\n",     "é",    "a%2fb",
        "~",       "a:b",  "$x",
        "*",       "a?",   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(spool_name_is_valid(bad[i]));
        assert_int_equal(append(f, "alice", bad[i], "1"), -EINVAL);
        assert_int_equal(append(f, bad[i], "x", "1"), -EINVAL);
    }
    assert_true(spool_name_is_valid("a..b"));
    assert_int_equal(append(f, "alice", "a..b", "1"), 0);
    assert_int_equal(append(f, "a.b", "x", "1"), -EINVAL); /* no tenant has such a name */
}

/* Whatever lies there, nothing is written through it. */
static void test_links(void **state)
{
    struct fixture *f = *state;
    char outside[96], target[96];

    snprintf(outside, sizeof(outside), "%s/outside", f->directory);
    snprintf(target, sizeof(target), "%s/outside/x.jsonl", f->directory);
    assert_int_equal(mkdir(outside, 0700), 0);
    assert_int_equal(symlink(outside, path_of(f, "mallory")), 0);
    assert_int_equal(append(f, "mallory", "x", "1"), -ENOTDIR);
    assert_int_equal(append(f, "alice", "y", "1"), 0);
    assert_int_equal(symlink(target, path_of(f, "alice/x.jsonl")), 0);
    assert_int_equal(append(f, "alice", "x", "1"), -ELOOP);
    assert_int_not_equal(access(target, F_OK), 0);
    /* A second name of another's file. */
    assert_int_equal(append(f, "bob", "y", "1"), 0);
    char from[512];
    snprintf(from, sizeof(from), "%s", path_of(f, "bob/y.jsonl"));
    assert_int_equal(link(from, path_of(f, "alice/z.jsonl")), 0);
    assert_int_equal(append(f, "alice", "z", "2"), -ELOOP);
    expect_file(f, "bob/y.jsonl", "1\n");
    /* Neither a pipe holds us, nor a directory. */
    assert_int_equal(mkfifo(path_of(f, "alice/pipe.jsonl"), 0600), 0);
    assert_int_equal(append(f, "alice", "pipe", "1"), -ELOOP);
    assert_int_equal(mkdir(path_of(f, "alice/dir.jsonl"), 0700), 0);
    assert_int_equal(append(f, "alice", "dir", "1"), -EISDIR);
    write_file(f, "carol", "a file");
    assert_int_equal(append(f, "carol", "x", "1"), -ENOTDIR);
}

static void test_bounds(void **state)
{
    struct fixture *f = *state;
    char name[32];

    open_spool(f, 20);
    assert_int_equal(append(f, "alice", "a", "123456789"), 0);
    assert_int_equal(append(f, "alice", "b", "1234567890"), -EDQUOT); /* with the line's end */
    assert_int_equal(append(f, "alice", "b", "123456789"), 0);
    assert_int_equal(append(f, "alice", "a", ""), -EDQUOT);
    assert_int_equal(append(f, "bob", "a", "1"), 0); /* his own */
    assert_int_equal(unlink(path_of(f, "alice/b.jsonl")), 0);
    assert_int_equal(append(f, "alice", "a", "1"), 0);
    open_spool(f, 0);
    for (int i = 0; i < SPOOL_FILES_MAX - 1; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(append(f, "alice", name, "1"), 0);
    }
    assert_int_equal(append(f, "alice", "more", "1"), -EDQUOT);
    assert_int_equal(append(f, "alice", "n0", "2"), 0);
}

static void test_opening(void **state)
{
    struct fixture *f = *state;
    struct spool *spool = NULL;
    struct error err = {0};

    write_file(f, "file", "x");
    assert_int_equal(spool_open(path_of(f, "file"), 0, &spool, &err), -ENOTDIR);
    assert_int_equal(spool_open(path_of(f, "no/such"), 0, &spool, &err), -ENOENT);
    assert_null(spool);
    assert_non_null(strstr(err.text, "no/such"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_torn_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_opening, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
