/* Shared by the snapshot tests: see snapshot_fixture.h. Failures abort. */
#include "tests/unit/snapshot_fixture.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_format.h"
#include "images/image_sha256.h"
#include "tests/unit/image_fixture.h"

static const uint8_t zero_page[SNAPSHOT_PAGE_BYTES];

static size_t memory_bytes(const struct snapshot_world *world)
{
    return (size_t)world->memory_mib << 20;
}

static void must(int r, const struct error *err)
{
    if (r < 0)
        fprintf(stderr, "fixture: %s\n", err->text);
    assert(r >= 0);
}

struct snapshot_world *snapshot_world_new(uint32_t memory_mib)
{
    struct snapshot_world *world = calloc(1, sizeof(*world));
    struct error err = {0};

    assert(world);
    fixture_directory(world->directory);
    snprintf(world->path, sizeof(world->path), "%s/state/snapshots", world->directory);
    must(snapshot_store_open(world->path, &world->store, &err), &err);
    world->memory_mib = memory_mib;
    world->memory = calloc(1, memory_bytes(world));
    world->before = calloc(1, memory_bytes(world));
    assert(world->memory && world->before);
    return world;
}

void snapshot_world_free(struct snapshot_world *world)
{
    snapshot_store_close(world->store);
    fixture_remove(world->directory);
    free(world->memory);
    free(world->before);
    free(world);
}

void snapshot_world_fill(struct snapshot_world *world, uint32_t first, uint32_t n, unsigned seed)
{
    uint8_t *at = world->memory + (size_t)first * SNAPSHOT_PAGE_BYTES;
    uint32_t state = seed * 2654435761u + first + 1;

    for (size_t i = 0; i < (size_t)n * SNAPSHOT_PAGE_BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        at[i] = i & 2048 ? (uint8_t)(state >> 24) : (uint8_t)((i >> 5) + seed + 1);
    }
}

void snapshot_world_clear(struct snapshot_world *world, uint32_t first, uint32_t n)
{
    memset(world->memory + (size_t)first * SNAPSHOT_PAGE_BYTES, 0, (size_t)n * SNAPSHOT_PAGE_BYTES);
}

void snapshot_world_forget(struct snapshot_world *world)
{
    for (size_t i = 0; i < memory_bytes(world); i++)
        world->before[i] = (uint8_t)~world->memory[i];
}

struct snapshot_manifest snapshot_world_about(const struct snapshot_world *world,
                                              enum snapshot_level level, const char *name,
                                              const struct snapshot_manifest *parent)
{
    struct snapshot_manifest about = {.level = level,
                                      .memory_mib = world->memory_mib,
                                      .vcpus = 1,
                                      .n_roots = 1,
                                      .runtime = "python3.11",
                                      .created_s = 1700000000,
                                      .mayfly_version = "0.1.0",
                                      .cpu = {.vendor = "GenuineTest",
                                              .family = 6,
                                              .model = 143,
                                              .stepping = 8,
                                              .xsave_bytes = 2696,
                                              .n_features = 3,
                                              .features = {0x1234abcd, 0, 0xffffffff}}};

    snprintf(about.name, sizeof(about.name), "%s", name);
    if (parent)
        memcpy(about.parent, parent->id, sizeof(about.parent));
    memset(about.kernel_digest, 'a', SNAPSHOT_ID_HEX);
    memset(about.root_digests[0], 'b', SNAPSHOT_ID_HEX);
    if (level == SNAPSHOT_FUNCTION)
        memset(about.function_digest, 'c', SNAPSHOT_ID_HEX);
    return about;
}

int snapshot_world_memfd(const struct snapshot_world *world)
{
    int fd = memfd_create("memory", MFD_CLOEXEC);
    int r = ftruncate(fd, (off_t)memory_bytes(world));

    assert(fd >= 0 && r == 0);
    for (size_t at = 0; at < memory_bytes(world); at += SNAPSHOT_PAGE_BYTES) {
        if (memcmp(world->memory + at, zero_page, SNAPSHOT_PAGE_BYTES) == 0)
            continue;
        ssize_t n = pwrite(fd, world->memory + at, SNAPSHOT_PAGE_BYTES, (off_t)at);
        assert(n == SNAPSHOT_PAGE_BYTES);
    }
    return fd;
}

struct snapshot_extents snapshot_world_changed(const struct snapshot_world *world)
{
    struct snapshot_extents changed = {0};

    for (uint32_t page = 0; page < world->memory_mib * (uint32_t)SNAPSHOT_PAGES_PER_MIB; page++) {
        size_t at = (size_t)page * SNAPSHOT_PAGE_BYTES;
        int r = 0;

        if (page % 37 == 0 ||
            memcmp(world->memory + at, world->before + at, SNAPSHOT_PAGE_BYTES) != 0)
            r = snapshot_extents_add(&changed, page, 1);
        assert(r == 0);
    }
    return changed;
}

int snapshot_world_try(struct snapshot_world *world, const struct snapshot_manifest *about,
                       struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct snapshot_extents changed = snapshot_world_changed(world);
    char state[3000];
    AUTO_FD fd = snapshot_world_memfd(world);
    struct snapshot_write write = {.about = about,
                                   .state = state,
                                   .state_bytes = sizeof(state),
                                   .memory_fd = fd,
                                   .changed = about->parent[0] ? &changed : NULL};

    for (size_t i = 0; i < sizeof(state); i++)
        state[i] = (char)(i * 7 + (size_t)about->level);
    int r = snapshot_store_write(world->store, &write, ret_manifest, err);
    snapshot_extents_done(&changed);
    return r;
}

struct snapshot_manifest snapshot_world_write(struct snapshot_world *world,
                                              enum snapshot_level level, const char *name,
                                              const struct snapshot_manifest *parent)
{
    struct snapshot_manifest about = snapshot_world_about(world, level, name, parent), made;
    struct error err = {0};

    must(snapshot_world_try(world, &about, &made, &err), &err);
    memcpy(world->before, world->memory, memory_bytes(world));
    return made;
}

void snapshot_world_three(struct snapshot_world *world, struct snapshot_manifest levels[3])
{
    const uint32_t mib = SNAPSHOT_PAGES_PER_MIB, end = world->memory_mib * mib;

    snapshot_world_fill(world, 0, 160, 1);
    snapshot_world_fill(world, mib - 3, 90, 2);
    snapshot_world_fill(world, end - 1, 1, 3);
    levels[0] = snapshot_world_write(world, SNAPSHOT_BASE, "base", NULL);
    snapshot_world_fill(world, 100, 80, 4); /* over and beyond what was there */
    snapshot_world_clear(world, 10, 5);
    for (uint32_t page = mib + 100; page < mib + 200; page += 3)
        snapshot_world_fill(world, page, 1, 5);
    levels[1] = snapshot_world_write(world, SNAPSHOT_RUNTIME, "python3.11", &levels[0]);
    snapshot_world_fill(world, 12, 2, 6); /* zero in the parent */
    snapshot_world_clear(world, 110, 3);  /* data in the parent */
    snapshot_world_clear(world, mib, 2);  /* data in the base */
    snapshot_world_fill(world, mib * 2, 20, 7);
    levels[2] = snapshot_world_write(world, SNAPSHOT_FUNCTION, "hello", &levels[1]);
}

void snapshot_world_assert_flat(struct snapshot_world *world,
                                const struct snapshot_manifest *manifest, const uint8_t *expected)
{
    const size_t len = (size_t)manifest->memory_mib << 20;
    struct error err = {0};
    AUTO_FD fd = -1;

    must(snapshot_store_flatten(world->store, manifest, &fd, NULL, &err), &err);
    uint8_t *flat = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert(flat != MAP_FAILED);
    int difference = memcmp(flat, expected, len);
    munmap(flat, len);
    assert(difference == 0);
}

unsigned snapshot_world_count(const struct snapshot_world *world, const char *below)
{
    char path[256];
    unsigned n = 0;

    snprintf(path, sizeof(path), "%s/%s", world->path, below);
    DIR *dir = opendir(path);
    assert(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

void snapshot_world_file(const struct snapshot_world *world, const char *id, const char *file,
                         char path[256])
{
    snprintf(path, 256, "%s/%s/%s", world->path, id, file);
}

/* --- what an attacker would do --------------------------------------------------------------- */

static void digest_of(const uint8_t *data, size_t len, char hex[2 * SHA256_BYTES + 1])
{
    uint8_t digest[SHA256_BYTES];
    int r = sha256_of(data, len, digest);

    assert(r == 0);
    sha256_hex(digest, hex);
}

/* Size and digest of a part as they are now. */
static void reseal_part(const struct snapshot_world *world, const char *id, const char *file,
                        const char *field, json_t *manifest)
{
    AUTO_FREE uint8_t *data = NULL;
    char path[256], hex[2 * SHA256_BYTES + 1];
    size_t len;

    snapshot_world_file(world, id, file, path);
    if (fd_read_file(path, SIZE_MAX, &data, &len, NULL) < 0)
        return;
    digest_of(data, len, hex);
    json_object_set_new(manifest, field,
                        json_pack("{s:I, s:s}", "bytes", (json_int_t)len, "sha256", hex));
    if (strcmp(field, "memory") == 0 && len >= IMAGE_FORMAT_HEADER_BYTES) {
        digest_of(data, IMAGE_FORMAT_HEADER_BYTES, hex);
        json_object_set_new(manifest, "memory_header_sha256", json_string(hex));
    }
}

void snapshot_world_reseal(struct snapshot_world *world, const char *id, const char *field,
                           void *value, char ret_id[SNAPSHOT_ID_HEX + 1])
{
    char path[256], to[256], text[256];
    json_error_t error;

    snapshot_world_file(world, id, "manifest.json", path);
    json_t *manifest = json_load_file(path, 0, &error);
    assert(manifest);
    reseal_part(world, id, "state.pb", "state", manifest);
    reseal_part(world, id, "memory.pages", "pages", manifest);
    reseal_part(world, id, "memory.mfs", "memory", manifest);
    if (field)
        json_object_set_new(manifest, field, value);
    AUTO_FREE char *dumped = json_dumps(manifest, JSON_INDENT(2));
    assert(dumped);
    fixture_write(path, dumped, strlen(dumped));
    digest_of((uint8_t *)dumped, strlen(dumped), ret_id);
    snapshot_world_file(world, id, "", path);
    snapshot_world_file(world, ret_id, "", to);
    int r = strcmp(path, to) == 0 ? 0 : rename(path, to);
    assert(r == 0);
    const char *name = json_string_value(json_object_get(manifest, "name"));
    snprintf(path, sizeof(path), "%s/names/%.64s.json", world->path, name ? name : "x");
    snprintf(text, sizeof(text), "{\"version\": 1, \"id\": \"%s\"}", ret_id);
    fixture_write(path, text, strlen(text));
    json_decref(manifest);
}
