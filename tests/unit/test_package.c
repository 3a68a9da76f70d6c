/* Packages: directories and archives, good and hostile. The archives are made here. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/instance/package.h"

static char directory[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(directory, sizeof(directory), "/tmp/mayfly-test-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[96];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static const char *in_directory(const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static void write_file(const char *name, const char *content, mode_t mode)
{
    int fd = open(in_directory(name), O_WRONLY | O_CREAT | O_TRUNC, mode);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    fchmod(fd, mode);
    close(fd);
}

static void make_directory(const char *name)
{
    assert_int_equal(mkdir(in_directory(name), 0755), 0);
}

/* --- archives ------------------------------------------------------------------------------------
 */

struct item {
    const char *path;
    unsigned type; /* AE_IF… */
    const char *data;
    const char *hard_link;
};

static void add_item(struct archive *archive, const struct item *item)
{
    struct archive_entry *entry = archive_entry_new();
    size_t len = item->type == AE_IFREG && item->data ? strlen(item->data) : 0;

    archive_entry_set_pathname(entry, item->path);
    archive_entry_set_filetype(entry, item->type);
    archive_entry_set_perm(entry, item->type == AE_IFDIR ? 0755 : 0644);
    archive_entry_set_size(entry, (int64_t)len);
    if (item->type == AE_IFLNK)
        archive_entry_set_symlink(entry, item->data);
    if (item->hard_link)
        archive_entry_set_hardlink(entry, item->hard_link);
    if (item->type == AE_IFCHR)
        archive_entry_set_rdev(entry, makedev(1, 3));
    assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
    if (len > 0)
        assert_int_equal(archive_write_data(archive, item->data, len), len);
    archive_entry_free(entry);
}

static struct archive *begin_archive(const char *name, bool zip)
{
    struct archive *archive = archive_write_new();

    if (zip)
        archive_write_set_format_zip(archive);
    else
        archive_write_set_format_pax_restricted(archive);
    assert_int_equal(archive_write_open_filename(archive, in_directory(name)), ARCHIVE_OK);
    return archive;
}

static void end_archive(struct archive *archive)
{
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
}

static const char *make_archive(const char *name, bool zip, const struct item *items, size_t n)
{
    struct archive *archive = begin_archive(name, zip);

    for (size_t i = 0; i < n; i++)
        add_item(archive, &items[i]);
    end_archive(archive);
    return in_directory(name);
}

static void refused(const char *path, int code, const char *words)
{
    struct package *package = NULL;
    struct error err = {0};

    assert_int_equal(package_open(path, &package, &err), -code);
    assert_null(package);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
}

static void refused_items(const struct item *items, size_t n, int code, const char *words)
{
    refused(make_archive("bad.tar", false, items, n), code, words);
}

static struct package *accepted(const char *path)
{
    struct package *package = NULL;
    struct error err = {0};

    if (package_open(path, &package, &err) < 0)
        fail_msg("%s", err.text);
    return package;
}

static void has_content(const struct package *package, const char *path, const char *content)
{
    const struct package_entry *entry = package_find(package, path);
    char data[64] = {0};

    assert_non_null(entry);
    assert_int_equal(entry->len_bytes, strlen(content));
    assert_int_equal(package_read(package, entry, 0, data, entry->len_bytes), 0);
    assert_string_equal(data, content);
}

/* --- good ones -----------------------------------------------------------------------------------
 */

static void test_directory(void **state)
{
    (void)state;
    make_directory("fn");
    make_directory("fn/lib");
    write_file("fn/app.py", "print(1)", 0644);
    write_file("fn/lib/tool", "#!", 0755);
    write_file("fn/.hidden", "", 0600);
    assert_int_equal(symlink("lib/tool", in_directory("fn/link")), 0);
    struct package *package = accepted(in_directory("fn"));
    const char *const order[] = {".hidden", "app.py", "lib", "lib/tool", "link"};

    assert_int_equal(package->n_entries, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(package->entries[i].path, order[i]);
    has_content(package, "app.py", "print(1)");
    has_content(package, "link", "lib/tool");
    assert_int_equal(package_find(package, "lib/tool")->mode, 0755);
    assert_int_equal(package_find(package, "link")->type, PACKAGE_LINK);
    assert_int_equal(package->total_bytes, 18);
    package_free(package);
}

static void test_archives_agree_with_directory(void **state)
{
    static const struct item items[] = {{"./lib/b.py", AE_IFREG, "b", NULL},
                                        {"lib-x", AE_IFREG, "x", NULL},
                                        {"app.py", AE_IFREG, "a", NULL},
                                        {"lib/a.py", AE_IFREG, "aa", NULL}};

    (void)state;
    make_directory("fn");
    make_directory("fn/lib");
    write_file("fn/app.py", "a", 0644);
    write_file("fn/lib-x", "x", 0644);
    write_file("fn/lib/a.py", "aa", 0644);
    write_file("fn/lib/b.py", "b", 0644);
    struct package *plain = accepted(in_directory("fn"));
    struct package *zip = accepted(make_archive("fn.zip", true, items, 4));
    struct package *tar = accepted(make_archive("fn.tar", false, items, 4));

    assert_int_equal(zip->n_entries, 5); /* "lib" is implied */
    assert_int_equal(package_find(zip, "lib")->type, PACKAGE_DIRECTORY);
    assert_string_equal(plain->digest, zip->digest);
    assert_string_equal(plain->digest, tar->digest);
    package_free(plain);
    package_free(zip);
    package_free(tar);
}

static void test_digest_sees_everything(void **state)
{
    char before[65];

    (void)state;
    make_directory("fn");
    write_file("fn/app.py", "a", 0644);
    struct package *package = accepted(in_directory("fn"));
    snprintf(before, sizeof(before), "%s", package->digest);
    package_free(package);
    write_file("fn/app.py", "a", 0755);
    package = accepted(in_directory("fn"));
    assert_string_not_equal(before, package->digest);
    package_free(package);
    write_file("fn/app.py", "b", 0644);
    package = accepted(in_directory("fn"));
    assert_string_not_equal(before, package->digest);
    package_free(package);
}

static void test_utf8_names_in_zip(void **state)
{
    static const struct item items[] = {{"gr\xc3\xbc\xc3\x9f.py", AE_IFREG, "x", NULL}};
    struct package *package = accepted(make_archive("u.zip", true, items, 1));

    (void)state;
    assert_int_equal(package->n_entries, 1);
    package_free(package);
}

/* --- hostile ones --------------------------------------------------------------------------------
 */

static void test_paths_outside(void **state)
{
    static const struct item up[] = {{"../evil", AE_IFREG, "x", NULL}};
    static const struct item inner[] = {{"a/../../evil", AE_IFREG, "x", NULL}};
    static const struct item absolute[] = {{"/etc/passwd", AE_IFREG, "x", NULL}};

    (void)state;
    refused_items(up, 1, EINVAL, "leads out");
    refused_items(inner, 1, EINVAL, "leads out");
    refused_items(absolute, 1, EINVAL, "absolute");
    refused(make_archive("bad.zip", true, up, 1), EINVAL, "leads out");
    refused(make_archive("bad.zip", true, absolute, 1), EINVAL, "absolute");
}

static void test_links_outside(void **state)
{
    static const struct item absolute[] = {{"l", AE_IFLNK, "/etc", NULL}};
    static const struct item up[] = {{"a/l", AE_IFLNK, "../../x", NULL}};
    static const struct item winding[] = {{"a/l", AE_IFLNK, "b/../../../x", NULL}};
    static const struct item through[] = {
        {"l", AE_IFLNK, "d", NULL}, {"d", AE_IFDIR, NULL, NULL}, {"l/x", AE_IFREG, "x", NULL}};
    static const struct item fine[] = {{"a/l", AE_IFLNK, "../x", NULL}};

    (void)state;
    refused_items(absolute, 1, EINVAL, "outside");
    refused_items(up, 1, EINVAL, "outside");
    refused_items(winding, 1, EINVAL, "outside");
    refused_items(through, 3, EINVAL, "no directory");
    package_free(accepted(make_archive("ok.tar", false, fine, 1)));
    make_directory("fn");
    assert_int_equal(symlink("../..", in_directory("fn/l")), 0);
    refused(in_directory("fn"), EINVAL, "outside");
}

static void test_forbidden_types(void **state)
{
    static const struct item device[] = {{"null", AE_IFCHR, NULL, NULL}};
    static const struct item fifo[] = {{"pipe", AE_IFIFO, NULL, NULL}};
    static const struct item hard[] = {{"a", AE_IFREG, "x", NULL}, {"b", AE_IFREG, NULL, "a"}};

    (void)state;
    refused_items(device, 1, EINVAL, "neither");
    refused_items(fifo, 1, EINVAL, "neither");
    refused_items(hard, 2, EINVAL, "hard link");
    make_directory("fn");
    assert_int_equal(mkfifo(in_directory("fn/pipe"), 0600), 0);
    refused(in_directory("fn"), EINVAL, "neither");
}

static void test_duplicates(void **state)
{
    static const struct item twice[] = {{"a", AE_IFREG, "x", NULL}, {"./a", AE_IFREG, "y", NULL}};
    static const struct item below_file[] = {{"a", AE_IFREG, "x", NULL},
                                             {"a/b", AE_IFREG, "y", NULL}};

    (void)state;
    refused_items(twice, 2, EINVAL, "twice");
    refused_items(below_file, 2, EINVAL, "no directory");
}

static void test_long_paths(void **state)
{
    char deep[400] = "", part[300];

    (void)state;
    for (int i = 0; i < 70; i++)
        strcat(deep, "d/");
    strcat(deep, "f");
    const struct item deep_item = {deep, AE_IFREG, "x", NULL};
    refused_items(&deep_item, 1, ENAMETOOLONG, "too deep");
    memset(part, 'x', sizeof(part));
    part[299] = 0;
    const struct item long_item = {part, AE_IFREG, "x", NULL};
    refused_items(&long_item, 1, ENAMETOOLONG, "too long");
}

/* 100 MiB of zeros three times: 300 KB zipped. */
static void test_bomb(void **state)
{
    enum { CHUNK = 1 << 20, CHUNKS = 100 };
    uint8_t *zeros = calloc(1, CHUNK);
    struct archive *archive = begin_archive("bomb.zip", true);

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct archive_entry *entry = archive_entry_new();
        char name[16];

        snprintf(name, sizeof(name), "z%d", i);
        archive_entry_set_pathname(entry, name);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_size(entry, (int64_t)CHUNK * CHUNKS);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        for (int j = 0; j < CHUNKS; j++)
            assert_int_equal(archive_write_data(archive, zeros, CHUNK), CHUNK);
        archive_entry_free(entry);
    }
    end_archive(archive);
    free(zeros);
    refused(in_directory("bomb.zip"), EFBIG, "unpacked");
}

static void test_too_many_entries(void **state)
{
    struct archive *archive = begin_archive("many.tar", false);
    char name[16];

    (void)state;
    for (int i = 0; i <= PACKAGE_MAX_ENTRIES; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        add_item(archive, &(struct item){name, AE_IFREG, NULL, NULL});
    }
    end_archive(archive);
    refused(in_directory("many.tar"), EFBIG, "entries");
}

static void test_large_archive(void **state)
{
    (void)state;
    write_file("large.zip", "PK", 0644);
    assert_int_equal(truncate(in_directory("large.zip"), (off_t)PACKAGE_MAX_ARCHIVE_BYTES + 1), 0);
    refused(in_directory("large.zip"), EFBIG, "larger");
}

static void test_no_package(void **state)
{
    static const struct item items[] = {{"app.py", AE_IFREG, "0123456789", NULL}};

    (void)state;
    refused(in_directory("absent"), ENOENT, "absent");
    write_file("app.py", "print(1)\n", 0644);
    refused(in_directory("app.py"), EINVAL, "no ZIP");
    make_directory("empty");
    refused(in_directory("empty"), EINVAL, "nothing");
    make_archive("cut.zip", true, items, 1);
    assert_int_equal(truncate(in_directory("cut.zip"), 40), 0);
    refused(in_directory("cut.zip"), EINVAL, "");
}

/* Every truncation and every flipped byte of a small ZIP: refused or read, never worse. */
static void test_damaged_zip(void **state)
{
    static const struct item items[] = {{"app.py", AE_IFREG, "hello hello hello", NULL},
                                        {"d/l", AE_IFLNK, "../app.py", NULL}};
    char data[4096];
    struct error err;

    (void)state;
    make_archive("x.zip", true, items, 2);
    int fd = open(in_directory("x.zip"), O_RDONLY);
    ssize_t len = read(fd, data, sizeof(data));
    close(fd);
    assert_true(len > 100);
    for (ssize_t i = 0; i < 2 * len; i++) {
        struct package *package = NULL;
        ssize_t at = i / 2, n = i & 1 ? at : len;

        fd = open(in_directory("y.zip"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        data[at] = (char)(data[at] ^ 0x41);
        assert_int_equal(write(fd, data, (size_t)n), n);
        data[at] = (char)(data[at] ^ 0x41);
        close(fd);
        if (package_open(in_directory("y.zip"), &package, &err) == 0)
            package_free(package);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_directory),
        TEST(test_archives_agree_with_directory),
        TEST(test_digest_sees_everything),
        TEST(test_utf8_names_in_zip),
        TEST(test_paths_outside),
        TEST(test_links_outside),
        TEST(test_forbidden_types),
        TEST(test_duplicates),
        TEST(test_long_paths),
        TEST(test_bomb),
        TEST(test_too_many_entries),
        TEST(test_large_archive),
        TEST(test_no_package),
        TEST(test_damaged_zip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
