/*
 * Snapshots that are not what was written: cut short, with changed bytes, and with changed bytes
 * around which all checksums were made to fit. The first two must always be refused, with a reason;
 * the third may be a snapshot of something else, but must never harm.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_format.h"
#include "images/image_sha256.h"
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

/* All that a host does with a snapshot before it restores it. Returns the first error. */
static int use(struct snapshot_world *world, const char *id, struct error *err)
{
    AUTO_FREE uint8_t *state_bytes = NULL;
    struct snapshot_info info;
    AUTO_FD fd = -1;
    size_t len;
    int r = snapshot_store_inspect(world->store, id, &info, err);

    if (r == 0)
        r = snapshot_store_state(world->store, &info.manifest, &state_bytes, &len, err);
    if (r == 0)
        r = snapshot_store_flatten(world->store, &info.manifest, &fd, NULL, err);
    return r;
}

static void assert_refused(struct snapshot_world *world, const char *id, const char *words,
                           const char *what, size_t at)
{
    struct error err = {0};
    int r = use(world, id, &err);

    if (r == 0)
        fail_msg("%s, %zu: it was taken", what, at);
    if (r != -EBADMSG)
        fail_msg("%s, %zu: %d, %s", what, at, r, err.text);
    if (!strstr(err.text, words))
        fail_msg("%s, %zu: '%s' does not say '%s'", what, at, err.text, words);
    assert_int_equal(snapshot_world_count(world, "cache"), 0);
}

/* The file @file of snapshot @id. */
struct file {
    char path[256];
    uint8_t *data; /* owned */
    size_t len;
};

static struct file load(const struct snapshot_world *world, const char *id, const char *name)
{
    struct file file;
    struct error err = {0};

    snapshot_world_file(world, id, name, file.path);
    if (fd_read_file(file.path, 1 << 24, &file.data, &file.len, &err) < 0)
        fail_msg("%s", err.text);
    return file;
}

static void poke(const struct file *file, size_t at, uint8_t byte)
{
    int fd = open(file->path, O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* What makes the parents' copies in the cache go: only the compressed form is left. */
static void empty_cache(struct snapshot_world *world)
{
    struct snapshot_gc gc;

    snapshot_store_set_cache_limit(world->store, 0);
    assert_int_equal(snapshot_store_gc(world->store, &gc, NULL), 0);
    snapshot_store_set_cache_limit(world->store, SNAPSHOT_CACHE_BYTES_DEFAULT);
    assert_int_equal(snapshot_world_count(world, "cache"), 0);
}

/* A runtime and a function; flips and cuts are made in either. */
static void make_two(struct snapshot_world *world, struct snapshot_manifest made[2])
{
    snapshot_world_fill(world, 3, 60, 1);
    snapshot_world_fill(world, 500, 60, 1);
    made[0] = snapshot_world_write(world, SNAPSHOT_RUNTIME, "python3.11", NULL);
    snapshot_world_fill(world, 40, 9, 2);
    snapshot_world_clear(world, 510, 3);
    made[1] = snapshot_world_write(world, SNAPSHOT_FUNCTION, "hello", &made[0]);
    empty_cache(world);
}

static void flip_every_byte(struct snapshot_world *world, const char *id, const char *used_id,
                            const char *name, const char *words, size_t step)
{
    struct file file = load(world, id, name);

    for (size_t at = 0; at < file.len; at += step) {
        poke(&file, at, (uint8_t)(file.data[at] ^ (1u << (at % 8))));
        assert_refused(world, used_id, words, name, at);
        poke(&file, at, file.data[at]);
    }
    free(file.data);
}

static void test_flipped_bytes(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    struct error err = {0};

    make_two(world, made);
    flip_every_byte(world, made[1].id, made[1].id, "manifest.json", "manifest", 1);
    flip_every_byte(world, made[1].id, made[1].id, "state.pb", "state.pb", 1);
    flip_every_byte(world, made[1].id, made[1].id, "memory.pages", "memory.pages", 1);
    flip_every_byte(world, made[1].id, made[1].id, "memory.mfs", "memory.mfs", 37);
    /* The same in the parent, when the child is used. */
    flip_every_byte(world, made[0].id, made[1].id, "manifest.json", "manifest", 29);
    flip_every_byte(world, made[0].id, made[1].id, "memory.pages", "memory.pages", 3);
    flip_every_byte(world, made[0].id, made[1].id, "memory.mfs", "memory.mfs", 997);
    assert_int_equal(use(world, made[1].id, &err), 0);
}

/* Every byte of header and index, which are small but matter most. */
static void test_flipped_header_and_index(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];

    make_two(world, made);
    struct file file = load(world, made[1].id, "memory.mfs");
    for (size_t at = 0; at < file.len; at++) {
        if (at >= IMAGE_FORMAT_HEADER_BYTES && at + 200 < file.len)
            continue;
        poke(&file, at, (uint8_t)~file.data[at]);
        assert_refused(world, made[1].id, "memory.mfs", "memory.mfs", at);
        poke(&file, at, file.data[at]);
    }
    free(file.data);
}

static void cut(struct snapshot_world *world, const char *id, const char *used_id, const char *name,
                size_t step)
{
    struct file file = load(world, id, name);

    for (size_t at = 0; at < file.len; at += step) {
        assert_int_equal(truncate(file.path, (off_t)at), 0);
        assert_refused(world, used_id, name, name, at);
        fixture_write(file.path, file.data, file.len);
    }
    /* One byte less, one byte more. */
    assert_int_equal(truncate(file.path, (off_t)file.len - 1), 0);
    assert_refused(world, used_id, name, name, file.len - 1);
    fixture_write(file.path, file.data, file.len);
    assert_int_equal(truncate(file.path, (off_t)file.len + 1), 0);
    assert_refused(world, used_id, name[0] == 'm' && name[1] == 'a' ? "manifest" : name, name,
                   file.len + 1);
    fixture_write(file.path, file.data, file.len);
    assert_int_equal(unlink(file.path), 0);
    assert_refused(world, used_id, name, name, 0);
    fixture_write(file.path, file.data, file.len);
    free(file.data);
}

static void test_truncated(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    struct error err = {0};

    make_two(world, made);
    for (size_t i = 0; i < 2; i++) {
        cut(world, made[i].id, made[1].id, "memory.mfs", 4096);
        cut(world, made[i].id, made[1].id, "memory.pages", 5);
    }
    cut(world, made[1].id, made[1].id, "state.pb", 100);
    struct file file = load(world, made[1].id, "manifest.json");
    for (size_t at = 0; at < file.len; at++) {
        assert_int_equal(truncate(file.path, (off_t)at), 0);
        assert_refused(world, made[1].id, "manifest", "manifest.json", at);
        fixture_write(file.path, file.data, file.len);
    }
    free(file.data);
    assert_int_equal(use(world, made[1].id, &err), 0);
}

static void test_missing_parent(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    char from[256], to[256];
    struct error err = {0};

    make_two(world, made);
    snapshot_world_file(world, made[0].id, "", from);
    snprintf(to, sizeof(to), "%s/elsewhere", world->directory);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(use(world, made[1].id, &err), -ENOENT);
    assert_non_null(strstr(err.text, "parent"));
    from[strlen(world->path) + 1 + 12] = '\0';
    assert_non_null(strstr(err.text, from + strlen(world->path) + 1));
    assert_int_equal(snapshot_store_verify(world->store, made[1].id, &err), -ENOENT);
}

/* One that stands under another's id. */
static void test_substituted(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    char from[256], to[256];
    struct error err = {0};

    make_two(world, made);
    snapshot_world_file(world, made[0].id, "", from);
    snprintf(to, sizeof(to), "%s/%064d", world->path, 7);
    assert_int_equal(rename(from, to), 0);
    snprintf(to, sizeof(to), "%064d", 7);
    assert_refused(world, to, "not the snapshot's id", "id", 0);
    assert_int_equal(snapshot_store_verify(world->store, to, &err), -EBADMSG);
}

/* --- well formed, but inconsistent ----------------------------------------------------------- */

/* Sets a field of the manifest, makes the id fit, and must be refused with @words. */
static void assert_field_refused(struct snapshot_world *world, char id[SNAPSHOT_ID_HEX + 1],
                                 const char *field, json_t *value, const char *words)
{
    struct file before = load(world, id, "manifest.json");
    char changed[SNAPSHOT_ID_HEX + 1], path[256], to[256];

    snapshot_world_reseal(world, id, field, value, changed);
    assert_refused(world, changed, words, field, 0);
    snapshot_world_file(world, changed, "manifest.json", path);
    fixture_write(path, before.data, before.len);
    snapshot_world_file(world, changed, "", path);
    snapshot_world_file(world, id, "", to);
    assert_int_equal(rename(path, to), 0);
    free(before.data);
}

static void test_fields(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];

    make_two(world, made);
    char *id = made[1].id;
    assert_field_refused(world, id, "version", json_integer(2), "version 2");
    assert_field_refused(world, id, "version", json_string("1"), "version");
    assert_field_refused(world, id, "level", json_string("top"), "'level'");
    assert_field_refused(world, id, "name", json_string("../../x"), "'name'");
    assert_field_refused(world, id, "parent", json_string("abc"), "'parent'");
    assert_field_refused(world, id, "parent", json_string(""), "'zero_pages'");
    assert_field_refused(world, id, "parent", json_null(), "'parent'");
    assert_field_refused(world, id, "memory_mib", json_integer(0), "'memory_mib'");
    assert_field_refused(world, id, "memory_mib", json_integer(SNAPSHOT_MEMORY_MIB_MAX + 1),
                         "'memory_mib'");
    assert_field_refused(world, id, "memory_mib", json_integer(-1), "'memory_mib'");
    assert_field_refused(world, id, "memory_mib", json_integer(1), "less memory");
    assert_field_refused(world, id, "memory_mib", json_integer(SNAPSHOT_MEMORY_MIB_MAX),
                         "flat_sha256");
    assert_field_refused(world, id, "vcpus", json_integer(INT64_MAX), "'vcpus'");
    assert_field_refused(world, id, "kernel_digest", json_sprintf("%064d", 1), "another kernel");
    assert_field_refused(world, id, "root_digests", json_pack("[i]", 5), "'root_digests'");
    assert_field_refused(world, id, "cpu", json_object(), "'cpu'");
    assert_field_refused(world, id, "data_pages", json_integer(UINT32_MAX), "'data_pages'");
    assert_field_refused(world, id, "data_pages", json_integer(8), "memory.pages");
    assert_field_refused(world, id, "data_pages", json_integer(0), "'memory'");
    assert_field_refused(world, id, "zero_pages", json_integer(5), "memory.pages");
    assert_field_refused(world, id, "flat_sha256", json_sprintf("%064d", 1), "flat_sha256");
    assert_field_refused(world, id, "memory_header_sha256", json_string("x"), "'memory'");
    assert_field_refused(world, id, "extra", json_true(), "does not know");
    assert_field_refused(world, id, "state",
                         json_pack("{s:i, s:s}", "bytes", 1 << 30, "sha256", made[1].state.sha256),
                         "'state'");
    struct error err = {0};
    assert_int_equal(use(world, id, &err), 0);
}

/* More parents than there may be: each is well formed by itself. */
static void test_too_many_parents(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest parent, made;
    char id[SNAPSHOT_ID_HEX + 1], last[SNAPSHOT_ID_HEX + 1];

    snapshot_world_fill(world, 1, 3, 1);
    parent = snapshot_world_write(world, SNAPSHOT_RUNTIME, "d1", NULL);
    for (int depth = 2; depth <= SNAPSHOT_DEPTH_MAX; depth++) {
        char name[16];

        snprintf(name, sizeof(name), "d%d", depth);
        snapshot_world_fill(world, (uint32_t)depth, 3, 1);
        made = snapshot_world_write(world, SNAPSHOT_RUNTIME, name, &parent);
        parent = made;
    }
    made = snapshot_world_write(world, SNAPSHOT_RUNTIME, "alone", NULL);
    memcpy(id, made.id, sizeof(id));
    empty_cache(world);
    snapshot_world_reseal(world, id, "parent", json_string(parent.id), last);
    assert_refused(world, last, "more than 3 parents", "depth", 0);
}

/* Takes a snapshot whose checksums all fit; it may fail or not, but then with a reason. */
static void use_resealed(struct snapshot_world *world, char id[SNAPSHOT_ID_HEX + 1])
{
    char changed[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};

    snapshot_world_reseal(world, id, NULL, NULL, changed);
    memcpy(id, changed, sizeof(changed));
    int r = use(world, id, &err);
    assert_true(r == 0 || (err.code == -r && err.text[0]));
    err.code = 0;
    r = snapshot_store_verify(world->store, id, &err);
    assert_true(r == 0 || (err.code == -r && err.text[0]));
    empty_cache(world);
}

static void test_resealed_pages(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    char id[SNAPSHOT_ID_HEX + 1];

    make_two(world, made);
    memcpy(id, made[1].id, sizeof(id));
    struct file file = load(world, id, "memory.pages");
    for (size_t at = 0; at < file.len; at++) {
        static const uint8_t bytes[] = {0, 1, 0x7f, 0xff};

        for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
            snapshot_world_file(world, id, "memory.pages", file.path);
            poke(&file, at, bytes[i]);
            use_resealed(world, id);
        }
        snapshot_world_file(world, id, "memory.pages", file.path);
        poke(&file, at, file.data[at]);
    }
    free(file.data);
}

/* Header and index changed, their digests made to fit, as an attacker would. */
static void reseal_memory(uint8_t *data, size_t len)
{
    const uint8_t *header = data + 8;
    uint32_t n = load_le32(header + 76);
    uint64_t index = load_le64(header + 80);

    if (n < 100 && range_fits(index, 8 + n * (uint64_t)IMAGE_FORMAT_ENTRY_BYTES, len))
        sha256_of(data + index + 8, n * (size_t)IMAGE_FORMAT_ENTRY_BYTES, data + 8 + 128);
    sha256_of(data + 8, 160, data + 8 + 160);
}

static void test_resealed_memory(void **state)
{
    struct snapshot_world *world = *state;
    struct snapshot_manifest made[2];
    char id[SNAPSHOT_ID_HEX + 1];

    make_two(world, made);
    memcpy(id, made[1].id, sizeof(id));
    struct file file = load(world, id, "memory.mfs");
    AUTO_FREE uint8_t *changed = malloc(file.len);
    assert_non_null(changed);
    uint64_t index = load_le64(file.data + 8 + 80);
    for (size_t at = 0; at < file.len; at++) {
        if (at >= IMAGE_FORMAT_HEADER_BYTES + 40 && at < index)
            continue;
        memcpy(changed, file.data, file.len);
        changed[at] ^= (uint8_t)(1u << (at % 8));
        reseal_memory(changed, file.len);
        snapshot_world_file(world, id, "memory.mfs", file.path);
        fixture_write(file.path, changed, file.len);
        use_resealed(world, id);
    }
    free(file.data);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_flipped_bytes),    TEST(test_flipped_header_and_index),
        TEST(test_truncated),        TEST(test_missing_parent),
        TEST(test_substituted),      TEST(test_fields),
        TEST(test_too_many_parents), TEST(test_resealed_pages),
        TEST(test_resealed_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
