/* Storing the function's code: paths from outside, links on the way, pieces, modes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest-agent/code.h"

struct fixture {
    char directory[64];
    struct task_code code;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct failure failure;

    if (!f)
        return -1;
    snprintf(f->directory, sizeof(f->directory), "/tmp/mayfly-code-XXXXXX");
    if (!mkdtemp(f->directory) || task_code_open(&f->code, f->directory, &failure) < 0)
        return -1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];

    task_code_close(&f->code);
    snprintf(command, sizeof(command), "rm -rf '%s'", f->directory);
    if (system(command) != 0)
        return -1;
    free(f);
    return 0;
}

static int store(struct fixture *f, const char *path, Mayfly__Agent__CodeEntry__Type type,
                 const char *data, bool append, uint32_t mode)
{
    Mayfly__Agent__CodeEntry entry;
    struct failure failure;
    char path_copy[4096];
    uint8_t data_copy[256];

    mayfly__agent__code_entry__init(&entry);
    snprintf(path_copy, sizeof(path_copy), "%s", path);
    memcpy(data_copy, data, strlen(data));
    entry.path = path_copy;
    entry.type = type;
    entry.data.data = data_copy;
    entry.data.len = strlen(data);
    entry.append = append;
    entry.mode = mode;
    return task_code_store(&f->code, &entry, &failure);
}

static int store_file(struct fixture *f, const char *path, const char *data)
{
    return store(f, path, MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE, data, false, 0644);
}

static int store_link(struct fixture *f, const char *path, const char *target)
{
    return store(f, path, MAYFLY__AGENT__CODE_ENTRY__TYPE__SYMLINK, target, false, 0);
}

static void expect_content(struct fixture *f, const char *path, const char *content)
{
    char name[4096];
    char data[256] = "";
    FILE *file;

    snprintf(name, sizeof(name), "%s/%s", f->directory, path);
    file = fopen(name, "r");
    assert_non_null(file);
    (void)!fread(data, 1, sizeof(data) - 1, file);
    fclose(file);
    assert_string_equal(data, content);
}

static void path_validation(void **state)
{
    static const char *const good[] = {"a",   "a/b/c", ".hidden", "..a",
                                       "a..", "...",   "a b",     "\xc3\xa9"};
    static const char *const bad[] = {"",     "/",    "/a",  "a/",   ".",     "..",     "./a",
                                      "../a", "a/..", "a/.", "a//b", "a/../", "a/../b", "//"};
    char longest[TASK_CODE_PATH_MAX + 2];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(task_code_path_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(task_code_path_valid(bad[i]));
    for (size_t i = 0; i < sizeof(longest); i++)
        longest[i] = i % 2 ? '/' : 'x';
    longest[TASK_CODE_PATH_MAX + 1] = '\0';
    assert_false(task_code_path_valid(longest)); /* one character too long */
    longest[TASK_CODE_PATH_MAX - 1] = '\0';
    assert_true(task_code_path_valid(longest));
    memset(longest, 'x', 256);
    longest[256] = '\0';
    assert_false(task_code_path_valid(longest)); /* a part over 255 */
    longest[255] = '\0';
    assert_true(task_code_path_valid(longest));
}

static void files_and_directories(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(store_file(f, "app.py", "one"), 0);
    assert_int_equal(store_file(f, "app.py", "two"), 0); /* the later one wins */
    expect_content(f, "app.py", "two");
    assert_int_equal(store_file(f, "deep/er/and/deeper.py", "x"), 0);
    assert_int_equal(store_file(f, "deep/er/and/next.py", "y"), 0);
    assert_int_equal(store_file(f, "deep/er/up.py", "z"), 0);
    expect_content(f, "deep/er/and/next.py", "y");
    expect_content(f, "deep/er/up.py", "z");
    assert_int_equal(store(f, "deep", MAYFLY__AGENT__CODE_ENTRY__TYPE__DIRECTORY, "", false, 0), 0);
    assert_int_equal(store_file(f, "deep", "no"), -EISDIR);
    assert_int_equal(store_file(f, "app.py/x", "no"), -ENOTDIR);
    assert_int_equal(store(f, "x", (Mayfly__Agent__CodeEntry__Type)7, "", false, 0), -EINVAL);
}

static void pieces_are_appended(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(store_file(f, "big", "ab"), 0);
    assert_int_equal(store(f, "big", MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE, "cd", true, 0644), 0);
    expect_content(f, "big", "abcd");
}

static void modes_are_tamed(void **state)
{
    static const struct {
        uint32_t asked;
        mode_t given;
    } cases[] = {{0600, 0644}, {0700, 0755}, {06777, 0755}, {0, 0644}, {0666, 0644}};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char name[4096];
        struct stat status;

        snprintf(name, sizeof(name), "file%zu", i);
        assert_int_equal(
            store(f, name, MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE, "", false, cases[i].asked), 0);
        assert_int_equal(fstatat(f->code.root_fd, name, &status, 0), 0);
        assert_int_equal(status.st_mode & 07777, cases[i].given);
    }
}

static void links_lead_nowhere(void **state)
{
    struct fixture *f = *state;
    char outside[128];

    snprintf(outside, sizeof(outside), "%s.outside", f->directory);
    assert_int_equal(store_link(f, "out", "/tmp"), 0);
    assert_int_equal(store_link(f, "up", ".."), 0);
    assert_int_equal(store_link(f, "file", outside), 0);
    assert_int_equal(store_file(f, "out/evil", "x"), -ELOOP);
    assert_int_equal(store_file(f, "up/evil", "x"), -ELOOP);
    assert_int_equal(store_file(f, "out/deep/evil", "x"), -ELOOP);
    assert_int_equal(store_file(f, "file", "x"), -ELOOP);
    assert_int_equal(store(f, "file", MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE, "x", true, 0), -ELOOP);
    assert_int_equal(access(outside, F_OK), -1);
    /* A directory that was opened before its name became a link is of no use either. */
    assert_int_equal(store_link(f, "out", "/etc"), -EEXIST);
    assert_int_equal(store_link(f, "empty", ""), -EINVAL);
}

static void libraries_are_noticed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(store_file(f, "a.sorted", ""), 0);
    assert_int_equal(store_file(f, "a.py", ""), 0);
    assert_false(f->code.has_libraries);
    assert_int_equal(store_file(f, "lib/libx.so.1", ""), 0);
    assert_true(f->code.has_libraries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(path_validation),
        cmocka_unit_test_setup_teardown(files_and_directories, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pieces_are_appended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(modes_are_tamed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(links_lead_nowhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(libraries_are_noticed, set_up, tear_down),
    };

    umask(022); /* as in the guest */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
