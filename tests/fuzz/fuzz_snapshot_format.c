/*
 * Fuzz target: what is read of a snapshot. The first byte of the input says what the rest is:
 *   0  a list of pages (memory.pages), as it is
 *   1  a manifest, as it is; its id is made to fit
 *   2  changes to a good manifest, 3 bytes each: where (low byte, high byte), what to put there;
 * the id is made to fit 3  changes to a good snapshot's memory.pages and memory.mfs, 4 bytes each:
 * which file, where (low byte, high byte), what; all digests are made to fit, as an attacker would.
 * Then flattened 4  an archive to import
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_format.h"
#include "images/image_sha256.h"
#include "snapshot/memory_flatten.h"
#include "snapshot/memory_pages.h"
#include "snapshot/snapshot_store.h"

enum { MIB = 1, PAGES = MIB * SNAPSHOT_PAGES_PER_MIB, INPUT_MAX = 1 << 16, FRAMES_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Made once: a store, a good snapshot in it, and its files. */
struct good {
    char directory[64];
    struct snapshot_store *store;
    struct snapshot_manifest manifest;
    char *text; /* of the manifest */
    size_t text_len;
    uint8_t *pages, *memory;
    size_t pages_len, memory_len;
    int scratch_fd; /* a directory for changed files */
};

static struct good good;

static void must(int r)
{
    assert(r >= 0);
}

static void load(const char *file, uint8_t **ret_data, size_t *ret_len)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s/%s", good.directory, good.manifest.id, file);
    must(fd_read_file(path, 1 << 20, ret_data, ret_len, NULL));
}

static void clean_up(void)
{
    char command[128];

    snapshot_store_close(good.store);
    snprintf(command, sizeof(command), "rm -r %s", good.directory);
    must(system(command));
}

static void make_good(void)
{
    struct snapshot_manifest about = {.level = SNAPSHOT_RUNTIME,
                                      .name = "good",
                                      .memory_mib = MIB,
                                      .vcpus = 1,
                                      .n_roots = 1,
                                      .created_s = 1,
                                      .cpu = {.vendor = "fuzz", .n_features = 2}};
    AUTO_FD fd = memfd_create("memory", MFD_CLOEXEC);
    char path[128];

    memset(about.kernel_digest, 'a', SNAPSHOT_ID_HEX);
    memset(about.root_digests[0], 'b', SNAPSHOT_ID_HEX);
    snprintf(good.directory, sizeof(good.directory), "/tmp/mayfly-fuzz-XXXXXX");
    assert(mkdtemp(good.directory));
    atexit(clean_up);
    must(snapshot_store_open(good.directory, &good.store, NULL));
    must(ftruncate(fd, MIB << 20));
    for (uint32_t page = 2; page < 150; page += 1 + page % 3)
        must((int)pwrite(fd, "some content", 12, (off_t)page * SNAPSHOT_PAGE_BYTES + page));
    must(snapshot_store_write(
        good.store,
        &(struct snapshot_write){
            .about = &about, .state = "state", .state_bytes = 5, .memory_fd = fd},
        &good.manifest, NULL));
    load("memory.pages", &good.pages, &good.pages_len);
    load("memory.mfs", &good.memory, &good.memory_len);
    load("manifest.json", (uint8_t **)(void *)&good.text, &good.text_len);
    snprintf(path, sizeof(path), "%s/scratch", good.directory);
    must(mkdir(path, 0755));
    good.scratch_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(good.scratch_fd);
}

static void digest_of(const void *data, size_t len, char hex[2 * SHA256_BYTES + 1])
{
    uint8_t digest[SHA256_BYTES];

    must(sha256_of(data, len, digest));
    sha256_hex(digest, hex);
}

/* --- lists and manifests --------------------------------------------------------------------- */

static void try_pages(const uint8_t *data, size_t size)
{
    struct memory_pages pages;
    struct error err = {0};

    if (memory_pages_decode(data, size, PAGES, "fuzz", &pages, &err) < 0) {
        assert(err.code != 0 && err.text[0]);
        return;
    }
    assert(snapshot_extents_end(&pages.data) <= PAGES);
    assert(snapshot_extents_end(&pages.zero) <= PAGES);
    assert(!snapshot_extents_overlap(&pages.data, &pages.zero));
    memory_pages_done(&pages);
}

/* What is accepted must be what encoding it again gives. */
static void try_manifest(const char *text, size_t len)
{
    struct snapshot_manifest manifest, again;
    AUTO_FREE char *encoded = NULL;
    char id[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};
    size_t encoded_len;

    digest_of(text, len, id);
    if (snapshot_manifest_decode(text, len, id, &manifest, &err) < 0) {
        assert(err.code != 0 && err.text[0]);
        return;
    }
    assert(snapshot_manifest_check(&manifest, true) == NULL);
    must(snapshot_manifest_encode(&manifest, &encoded, &encoded_len, &err));
    must(snapshot_manifest_decode(encoded, encoded_len, manifest.id, &again, &err));
    assert(memcmp(&manifest, &again, sizeof(again)) == 0);
}

static void change_manifest(const uint8_t *data, size_t size)
{
    AUTO_FREE char *text = malloc(good.text_len);

    assert(text);
    memcpy(text, good.text, good.text_len);
    for (; size >= 3; data += 3, size -= 3)
        text[load_le16(data) % good.text_len] = (char)data[2];
    try_manifest(text, good.text_len);
}

/* --- memory ---------------------------------------------------------------------------------- */

static void reseal_memory(uint8_t *file, size_t size)
{
    uint32_t n = load_le32(file + 8 + 76);
    uint64_t index = load_le64(file + 8 + 80);
    uint64_t len = (uint64_t)n * IMAGE_FORMAT_ENTRY_BYTES;

    if (n <= FRAMES_MAX && range_fits(index, 8 + len, size)) {
        uint8_t *entries = file + index + 8;

        for (uint32_t i = 0; i < n; i++) {
            uint8_t *entry = entries + i * (size_t)IMAGE_FORMAT_ENTRY_BYTES;
            uint64_t offset = load_le64(entry), stored = load_le32(entry + 8);

            if (range_fits(offset, stored, size))
                sha256_of(file + offset, stored, entry + 16);
        }
        sha256_of(entries, len, file + 8 + 128);
    }
    sha256_of(file + 8, 160, file + 8 + 160);
}

static void put(const char *name, const uint8_t *data, size_t len)
{
    AUTO_FD fd = openat(good.scratch_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    must(fd);
    must(fd_write_all(fd, data, len));
}

/* What the lists say, if they can be read at all: the manifest is made to agree. */
static void count_pages(const uint8_t *pages, struct snapshot_manifest *manifest)
{
    struct memory_pages decoded;

    if (memory_pages_decode(pages, good.pages_len, PAGES, "fuzz", &decoded, NULL) < 0)
        return;
    manifest->data_pages = snapshot_extents_pages(&decoded.data);
    manifest->zero_pages = snapshot_extents_pages(&decoded.zero);
    memory_pages_done(&decoded);
}

static void flatten(struct snapshot_manifest *manifest)
{
    struct snapshot_chain chain = {.n = 1};
    AUTO_FD out = memfd_create("flat", MFD_CLOEXEC);
    struct error err = {0};

    chain.objects[0].fd = good.scratch_fd;
    chain.objects[0].manifest = *manifest;
    if (memory_flatten(&chain, out, manifest->data_pages & 1, NULL, &err) < 0)
        assert(err.code != 0 && err.text[0]);
}

static void change_memory(const uint8_t *data, size_t size)
{
    struct snapshot_manifest manifest = good.manifest;
    AUTO_FREE uint8_t *pages = malloc(good.pages_len), *memory = malloc(good.memory_len);

    assert(pages && memory);
    memcpy(pages, good.pages, good.pages_len);
    memcpy(memory, good.memory, good.memory_len);
    for (; size >= 4; data += 4, size -= 4) {
        if (data[0] & 1)
            pages[load_le16(data + 1) % good.pages_len] = data[3];
        else
            memory[load_le16(data + 1) % good.memory_len] = data[3];
    }
    reseal_memory(memory, good.memory_len);
    put("memory.pages", pages, good.pages_len);
    put("memory.mfs", memory, good.memory_len);
    digest_of(pages, good.pages_len, manifest.pages.sha256);
    digest_of(memory, good.memory_len, manifest.memory.sha256);
    digest_of(memory, IMAGE_FORMAT_HEADER_BYTES, manifest.memory_header_sha256);
    count_pages(pages, &manifest);
    flatten(&manifest);
}

/* --- archives -------------------------------------------------------------------------------- */

static void import(const uint8_t *data, size_t size)
{
    char path[128], id[SNAPSHOT_ID_HEX + 1];
    struct error err = {0};

    put("archive.tar", data, size);
    snprintf(path, sizeof(path), "%s/scratch/archive.tar", good.directory);
    if (snapshot_store_import(good.store, path, id, &err) < 0)
        assert(err.code != 0 && err.text[0]);
    else
        must(snapshot_store_verify(good.store, id, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > INPUT_MAX)
        return 0;
    if (!good.store)
        make_good();
    switch (data[0] % 5) {
    case 0:
        try_pages(data + 1, size - 1);
        break;
    case 1:
        try_manifest((const char *)data + 1, size - 1);
        break;
    case 2:
        change_manifest(data + 1, size - 1);
        break;
    case 3:
        change_memory(data + 1, size - 1);
        break;
    default:
        import(data + 1, size - 1);
        break;
    }
    return 0;
}
