/* Snapshots that travel: export, import, and archives that nobody exported. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "tests/unit/image_fixture.h"
#include "tests/unit/snapshot_fixture.h"

enum { MIB = 4 };

/* A store with three snapshots, their archive, and an empty store. */
struct pair {
    struct snapshot_world *world;
    struct snapshot_manifest levels[3];
    char archive[128];
    struct snapshot_world other;
};

static int set_up(void **state)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    struct error err = {0};

    assert_non_null(pair);
    pair->world = snapshot_world_new(MIB);
    snapshot_world_three(pair->world, pair->levels);
    snprintf(pair->archive, sizeof(pair->archive), "%s/a.tar", pair->world->directory);
    assert_int_equal(
        snapshot_store_export(pair->world->store, pair->levels[2].id, pair->archive, &err), 0);
    pair->other = *pair->world;
    snprintf(pair->other.path, sizeof(pair->other.path), "%s/other", pair->world->directory);
    assert_int_equal(snapshot_store_open(pair->other.path, &pair->other.store, &err), 0);
    *state = pair;
    return 0;
}

static int tear_down(void **state)
{
    struct pair *pair = *state;

    snapshot_store_close(pair->other.store);
    snapshot_world_free(pair->world);
    free(pair);
    return 0;
}

static void assert_error(int r, int code, const struct error *err, const char *words)
{
    if (r != -code)
        fail_msg("%d instead of %d: '%s'", r, -code, err->text);
    if (!strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

static void assert_import_refused(struct pair *pair, const char *path, int code, const char *words)
{
    char id[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};
    int r = snapshot_store_import(pair->other.store, path, id, &err);

    assert_error(r, code, &err, words);
    assert_int_equal(snapshot_world_count(&pair->other, "."), 2);
    assert_int_equal(snapshot_world_count(&pair->other, "names"), 0);
    assert_int_equal(snapshot_world_count(&pair->other, "cache"), 0);
}

static void test_there_and_back(void **state)
{
    struct pair *pair = *state;
    struct snapshot_extents pages = {0};
    char id[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};

    snapshot_extents_add(&pages, 5, 5);
    assert_int_equal(
        snapshot_store_set_working_set(pair->world->store, &pair->levels[2], &pages, &err), 0);
    snapshot_extents_done(&pages);
    assert_int_equal(
        snapshot_store_export(pair->world->store, pair->levels[2].id, pair->archive, &err), 0);
    if (snapshot_store_import(pair->other.store, pair->archive, id, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(id, pair->levels[2].id);
    assert_int_equal(snapshot_world_count(&pair->other, "."), 5);
    assert_int_equal(snapshot_world_count(&pair->other, "names"), 3);
    snapshot_world_assert_flat(&pair->other, &pair->levels[2], pair->world->memory);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(snapshot_store_verify(pair->other.store, pair->levels[i].id, &err), 0);
    assert_int_equal(
        snapshot_store_get_working_set(pair->other.store, &pair->levels[2], &pages, &err), 0);
    assert_int_equal(snapshot_extents_pages(&pages), 5);
    snapshot_extents_done(&pages);
    /* Again: it is all there already. */
    assert_int_equal(snapshot_store_import(pair->other.store, pair->archive, id, &err), 0);
    assert_int_equal(snapshot_world_count(&pair->other, "."), 5);
}

/* What was damaged is replaced; names that stand for something else stay, but for the leaf's. */
static void test_import_over_others(void **state)
{
    struct pair *pair = *state;
    char id[SNAPSHOT_ID_HEX + 1], path[256];
    struct error err = {0};

    snapshot_world_clear(pair->world, 0, MIB * SNAPSHOT_PAGES_PER_MIB);
    struct snapshot_manifest base = snapshot_world_write(&pair->other, SNAPSHOT_BASE, "base", NULL);
    struct snapshot_manifest hello =
        snapshot_world_write(&pair->other, SNAPSHOT_FUNCTION, "hello", &base);
    assert_int_equal(snapshot_store_import(pair->other.store, pair->archive, id, &err), 0);
    assert_int_equal(snapshot_store_find(pair->other.store, "base", id, &err), 0);
    assert_string_equal(id, base.id);
    assert_int_equal(snapshot_store_find(pair->other.store, "hello", id, &err), 0);
    assert_string_equal(id, pair->levels[2].id);
    assert_string_not_equal(id, hello.id);
    snapshot_world_file(&pair->other, pair->levels[1].id, "memory.mfs", path);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(snapshot_store_verify(pair->other.store, id, &err), -EBADMSG);
    assert_int_equal(snapshot_store_import(pair->other.store, pair->archive, id, &err), 0);
    assert_int_equal(snapshot_store_verify(pair->other.store, id, &err), 0);
    assert_int_equal(snapshot_world_count(&pair->other, "."), 2 + 5);
}

static void test_damaged_archives(void **state)
{
    struct pair *pair = *state;
    AUTO_FREE uint8_t *data = NULL;
    char path[160];
    size_t len;
    struct error err = {0};

    snprintf(path, sizeof(path), "%s/damaged.tar", pair->world->directory);
    assert_int_equal(fd_read_file(pair->archive, 1 << 24, &data, &len, &err), 0);
    /* Cut anywhere in its content; what follows is tar's own padding and end mark. */
    size_t end = len;
    while (end > 0 && data[end - 1] == 0)
        end--;
    for (size_t cut = 0; cut < end; cut += 4096) {
        fixture_write(path, data, cut);
        assert_import_refused(pair, path, EBADMSG, "import");
    }
    for (size_t at = 600; at < end; at += 9973) {
        struct error flip_err = {0};
        char id[SNAPSHOT_ID_HEX + 1];

        data[at] ^= 0x40;
        fixture_write(path, data, len);
        data[at] ^= 0x40;
        int r = snapshot_store_import(pair->other.store, path, id, &flip_err);
        if (r == 0) { /* in tar's padding or a time: nothing of ours */
            assert_int_equal(snapshot_store_verify(pair->other.store, id, &err), 0);
            assert_int_equal(snapshot_store_remove(pair->other.store, "base", true, &err), 0);
        }
        assert_int_equal(snapshot_world_count(&pair->other, "."), 2);
        assert_true(r == 0 || flip_err.text[0]);
    }
    fixture_write(path, "", 0);
    assert_import_refused(pair, path, EBADMSG, "import");
    fixture_write(path, "hello, this is no archive", 25);
    assert_import_refused(pair, path, EBADMSG, "import");
    assert_import_refused(pair, "/nonexistent", ENOENT, "open");
    assert_import_refused(pair, pair->world->directory, EBADMSG, "import");
}

/* --- archives made by hand ------------------------------------------------------------------- */

static struct archive *tar_open(const char *path)
{
    struct archive *to = archive_write_new();

    assert_int_equal(archive_write_set_format_pax(to), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(to, path), ARCHIVE_OK);
    return to;
}

static void tar_close(struct archive *to)
{
    assert_int_equal(archive_write_close(to), ARCHIVE_OK);
    archive_write_free(to);
}

static void tar_add(struct archive *to, const char *path, unsigned type, const char *target,
                    const void *data, size_t len)
{
    struct archive_entry *entry = archive_entry_new();

    archive_entry_set_pathname(entry, path);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_filetype(entry, type);
    if (type == AE_IFLNK)
        archive_entry_set_symlink(entry, target);
    else if (target)
        archive_entry_set_hardlink(entry, target);
    archive_entry_set_size(entry, (la_int64_t)len);
    archive_write_header(to, entry);
    if (len > 0)
        archive_write_data(to, data, len);
    archive_entry_free(entry);
}

static void test_hostile_entries(void **state)
{
    static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const struct {
        const char *below; /* what stands after the id; NULL: @path is all */
        const char *path;
        unsigned type;
        const char *target, *words;
    } entries[] = {
        {NULL, "../../etc/passwd", AE_IFREG, NULL, "not of a snapshot"},
        {NULL, "/etc/passwd", AE_IFREG, NULL, "not of a snapshot"},
        {NULL, "names/base.json", AE_IFREG, NULL, "not of a snapshot"},
        {NULL, "................................................................/state.pb",
         AE_IFREG, NULL, "not of a snapshot"},
        {"/../x", NULL, AE_IFREG, NULL, "no part"},
        {"/state.pb/x", NULL, AE_IFREG, NULL, "no part"},
        {"//state.pb", NULL, AE_IFREG, NULL, "no part"},
        {"/.tmp-0000000000000000", NULL, AE_IFREG, NULL, "no part"},
        {"/state.pb", NULL, AE_IFLNK, "/etc/passwd", "not a plain file"},
        {"/state.pb", NULL, AE_IFREG, "/etc/passwd", "not a plain file"},
        {"/state.pb", NULL, AE_IFCHR, NULL, "not a plain file"},
        {"/state.pb", NULL, AE_IFIFO, NULL, "not a plain file"},
        {"/state.pb", NULL, AE_IFDIR, NULL, "no part"}, /* libarchive adds a slash */
        {"/manifest.json", NULL, AE_IFREG, NULL, "manifest"},
        {"/state.pb", NULL, AE_IFREG, NULL, "manifest"},
    };
    struct pair *pair = *state;
    char path[160], name[128];

    snprintf(path, sizeof(path), "%s/hostile.tar", pair->world->directory);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        struct archive *to = tar_open(path);

        snprintf(name, sizeof(name), "%s%s", entries[i].path ? entries[i].path : id,
                 entries[i].path ? "" : entries[i].below);
        tar_add(to, name, entries[i].type, entries[i].target, "x",
                entries[i].type == AE_IFREG && !entries[i].target ? 1 : 0);
        tar_close(to);
        assert_import_refused(pair, path, EBADMSG, entries[i].words);
    }
}

static void test_too_much(void **state)
{
    static uint8_t large[SNAPSHOT_STATE_BYTES_MAX + 1];
    struct pair *pair = *state;
    char path[160], name[128];

    snprintf(path, sizeof(path), "%s/hostile.tar", pair->world->directory);
    struct archive *to = tar_open(path);
    snprintf(name, sizeof(name), "%064d/state.pb", 1);
    tar_add(to, name, AE_IFREG, NULL, large, sizeof(large));
    tar_close(to);
    assert_import_refused(pair, path, EFBIG, "10000000 are allowed");
    /* Twice the same, more snapshots than a chain has. */
    to = tar_open(path);
    tar_add(to, name, AE_IFREG, NULL, "x", 1);
    tar_add(to, name, AE_IFREG, NULL, "y", 1);
    tar_close(to);
    assert_import_refused(pair, path, EBADMSG, "twice");
    to = tar_open(path);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "%064d/state.pb", i);
        tar_add(to, name, AE_IFREG, NULL, "x", 1);
    }
    tar_close(to);
    assert_import_refused(pair, path, EBADMSG, "more than 4 snapshots");
}

/* Whole snapshots of the other store, but not one and its parents. */
static void tar_add_snapshot(const struct pair *pair, struct archive *to, const char *id)
{
    static const char *const files[] = {"manifest.json", "state.pb", "memory.pages", "memory.mfs"};

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        AUTO_FREE uint8_t *data = NULL;
        char path[256], name[128];
        size_t len;

        snapshot_world_file(pair->world, id, files[i], path);
        if (fd_read_file(path, 1 << 24, &data, &len, NULL) < 0)
            continue;
        snprintf(name, sizeof(name), "%s/%s", id, files[i]);
        tar_add(to, name, AE_IFREG, NULL, data, len);
    }
}

static void test_not_a_chain(void **state)
{
    struct pair *pair = *state;
    char path[160], id[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};

    snprintf(path, sizeof(path), "%s/hostile.tar", pair->world->directory);
    struct archive *to = tar_open(path);
    tar_add_snapshot(pair, to, pair->levels[2].id);
    tar_add_snapshot(pair, to, pair->levels[0].id);
    tar_close(to);
    assert_import_refused(pair, path, ENOENT, "parent");
    snapshot_world_fill(pair->world, 0, 3, 77);
    struct snapshot_manifest second =
        snapshot_world_write(pair->world, SNAPSHOT_BASE, "second", NULL);
    to = tar_open(path);
    tar_add_snapshot(pair, to, pair->levels[0].id);
    tar_add_snapshot(pair, to, second.id);
    tar_close(to);
    assert_import_refused(pair, path, EBADMSG, "not one snapshot and its parents");
    /* Children first is fine, and so is a parent that is in the store already. */
    to = tar_open(path);
    tar_add_snapshot(pair, to, pair->levels[1].id);
    tar_add_snapshot(pair, to, pair->levels[0].id);
    tar_close(to);
    assert_int_equal(snapshot_store_import(pair->other.store, path, id, &err), 0);
    to = tar_open(path);
    tar_add_snapshot(pair, to, pair->levels[2].id);
    tar_close(to);
    if (snapshot_store_import(pair->other.store, path, id, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(id, pair->levels[2].id);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_there_and_back),  TEST(test_import_over_others), TEST(test_damaged_archives),
        TEST(test_hostile_entries), TEST(test_too_much),           TEST(test_not_a_chain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
