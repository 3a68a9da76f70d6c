/* The image store: names, content, cache, damage, a full disk, and several processes at once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_store.h"
#include "tests/unit/image_fixture.h"

enum { RAW = 3 << 20 };

/* A store and a raw image file in a directory of their own. */
struct world {
    char directory[64];
    char path[128];
    char raw_path[128];
    struct image_store *store;
    uint8_t *raw;
};

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_non_null(world);
    fixture_directory(world->directory);
    snprintf(world->path, sizeof(world->path), "%s/a/store", world->directory);
    snprintf(world->raw_path, sizeof(world->raw_path), "%s/raw", world->directory);
    world->raw = fixture_root_image(RAW, 7);
    fixture_write(world->raw_path, world->raw, RAW);
    assert_int_equal(image_store_open(world->path, &world->store, NULL), 0);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;

    image_store_close(world->store);
    fixture_remove(world->directory);
    free(world->raw);
    free(world);
    return 0;
}

static struct image_info add(struct world *world, const char *name)
{
    struct image_info info = {.runtime = "provided", .made_of = "test"};
    struct error err = {0};

    snprintf(info.name, sizeof(info.name), "%s", name);
    if (image_store_add(world->store, world->raw_path, &info, &err) < 0)
        fail_msg("%s", err.text);
    return info;
}

/* Files below <store>/<below>, temporary ones too. */
static unsigned count(const struct world *world, const char *below)
{
    char path[256];
    unsigned n = 0;

    snprintf(path, sizeof(path), "%s/%s", world->path, below);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void object_path(const struct world *world, const struct image_info *info, char path[256])
{
    snprintf(path, 256, "%s/objects/sha256/%s.mfi", world->path, info->digest);
}

static void flip_byte(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void assert_error(int r, int code, const struct error *err, const char *words)
{
    assert_int_equal(r, -code);
    if (!strstr(err->text, words))
        fail_msg("'%s' does not say '%s'", err->text, words);
}

static void test_add_find_list_remove(void **state)
{
    struct world *world = *state;
    struct image_info a = add(world, "b-image"), found, *list;
    struct error err = {0};
    char prefix[9];
    size_t n;

    assert_int_equal(a.raw_bytes, RAW);
    assert_string_equal(a.architecture, "x86_64");
    add(world, "a-image");
    assert_int_equal(image_store_find(world->store, "b-image", &found, &err), 0);
    assert_string_equal(found.digest, a.digest);
    assert_string_equal(found.runtime, "provided");
    assert_string_equal(found.made_of, "test");
    snprintf(prefix, sizeof(prefix), "%.8s", a.digest);
    assert_int_equal(image_store_find(world->store, prefix, &found, &err), 0);
    prefix[7] = 0;
    assert_error(image_store_find(world->store, prefix, &found, &err), ENOENT, &err, "no image");
    assert_int_equal(image_store_list(world->store, &list, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_string_equal(list[0].name, "a-image");
    free(list);
    /* One object, two names: it goes with the second. */
    assert_int_equal(image_store_remove(world->store, "a-image", &err), 0);
    assert_int_equal(count(world, "objects/sha256"), 1);
    assert_int_equal(image_store_verify(world->store, &a, &err), 0);
    assert_int_equal(image_store_remove(world->store, "b-image", &err), 0);
    assert_int_equal(count(world, "objects/sha256"), 0);
    assert_error(image_store_remove(world->store, "b-image", &err), ENOENT, &err, "no image");
}

static void test_replaced_image_stays_as_object(void **state)
{
    struct world *world = *state;
    struct image_info first = add(world, "x"), found;
    struct error err = {0};

    world->raw[5000] ^= 1;
    fixture_write(world->raw_path, world->raw, RAW);
    struct image_info second = add(world, "x");
    assert_string_not_equal(first.digest, second.digest);
    assert_int_equal(image_store_find(world->store, first.digest, &found, &err), 0);
    assert_string_equal(found.name, "");
    assert_int_equal(image_store_verify(world->store, &found, &err), 0);
    assert_int_equal(image_store_remove(world->store, first.digest, &err), 0);
    assert_int_equal(count(world, "objects/sha256"), 1);
}

static void test_names(void **state)
{
    struct world *world = *state;
    static const char *const bad[] = {"",     "-a",  ".a",   "A",        "a/b",
                                      "../a", "a b", "a\nb", "\xc3\xa4", "a*"};
    struct error err = {0};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct image_info info = {0};

        snprintf(info.name, sizeof(info.name), "%s", bad[i]);
        assert_error(image_store_add(world->store, world->raw_path, &info, &err), EINVAL, &err,
                     "name an image");
        assert_error(image_store_find(world->store, bad[i], &info, &err), ENOENT, &err, "no image");
    }
    add(world, "a.b_c-9");
    add(world, "0123456789012345678901234567890123456789012345678901234567890123");
}

static void test_raw_is_cached(void **state)
{
    struct world *world = *state;
    struct image_info info = add(world, "x");
    AUTO_FREE char *path = NULL, *again = NULL;
    AUTO_FREE uint8_t *back = NULL;
    size_t len;
    uint64_t us = 0;
    struct error err = {0};

    assert_int_equal(image_store_raw(world->store, &info, &path, &us, &err), 0);
    assert_true(us > 0);
    assert_int_equal(fd_read_file(path, RAW, &back, &len, &err), 0);
    assert_int_equal(len, RAW);
    assert_memory_equal(back, world->raw, RAW);
    assert_int_equal(image_store_raw(world->store, &info, &again, &us, &err), 0);
    assert_int_equal(us, 0);
    assert_string_equal(path, again);
    /* One that was cut short is made anew; one that was altered is found by verify. */
    assert_int_equal(chmod(path, 0600), 0);
    flip_byte(path, 100000);
    assert_error(image_store_verify(world->store, &info, &err), EBADMSG, &err, "copy");
    assert_int_equal(truncate(path, RAW - 1), 0);
    mem_free_at_exit(&again);
    again = NULL;
    assert_int_equal(image_store_raw(world->store, &info, &again, &us, &err), 0);
    assert_true(us > 0);
    assert_int_equal(image_store_verify(world->store, &info, &err), 0);
    assert_int_equal(image_store_remove(world->store, "x", &err), 0);
    assert_int_equal(count(world, "cache"), 0);
}

static void test_damaged_object(void **state)
{
    struct world *world = *state;
    struct image_info info = add(world, "x");
    char path[256], *out;
    struct error err = {0};

    object_path(world, &info, path);
    flip_byte(path, 4000);
    assert_error(image_store_raw(world->store, &info, &out, NULL, &err), EBADMSG, &err,
                 "'x' is damaged: checksum of frame 0 of 3");
    assert_error(image_store_verify(world->store, &info, &err), EBADMSG, &err, "frame 0");
    assert_int_equal(count(world, "cache"), 0);
    assert_int_equal(truncate(path, (off_t)info.stored_bytes / 2), 0);
    assert_error(image_store_raw(world->store, &info, &out, NULL, &err), EBADMSG, &err,
                 "truncated");
    assert_int_equal(unlink(path), 0);
    assert_error(image_store_raw(world->store, &info, &out, NULL, &err), ENOENT, &err, "open");
    assert_int_equal(symlink(world->raw_path, path), 0);
    assert_error(image_store_raw(world->store, &info, &out, NULL, &err), ELOOP, &err, "open");
}

/* A whole and good file, but not the one that the name stands for. */
static void test_substituted_object(void **state)
{
    struct world *world = *state;
    struct image_info a = add(world, "a"), lying;
    char from[256], to[256], *out;
    struct error err = {0};

    world->raw[9000] ^= 1;
    fixture_write(world->raw_path, world->raw, RAW);
    struct image_info b = add(world, "b");
    object_path(world, &b, from);
    object_path(world, &a, to);
    assert_int_equal(rename(from, to), 0);
    assert_error(image_store_raw(world->store, &a, &out, NULL, &err), EBADMSG, &err, "disagree");
    /* The manifest altered to fit: then the digest in the name does not. */
    lying = b;
    memcpy(lying.digest, a.digest, sizeof(lying.digest));
    assert_error(image_store_raw(world->store, &lying, &out, NULL, &err), EBADMSG, &err,
                 "not what its name says");
    assert_error(image_store_verify(world->store, &lying, &err), EBADMSG, &err,
                 "not what its name says");
    assert_int_equal(count(world, "cache"), 0);
}

static void test_wrong_content(void **state)
{
    struct world *world = *state;
    struct image_info info = {.name = "x"};
    struct error err = {0};

    store_le32(world->raw + 1024, 0x12345678);
    fixture_write(world->raw_path, world->raw, RAW);
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "not an EROFS");
    store_le32(world->raw + 1024, 0xE0F5E1E2);
    fixture_write(world->raw_path, world->raw, RAW - 4096);
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "truncated");
    store_le32(world->raw + 1024 + 80, 1);
    fixture_write(world->raw_path, world->raw, RAW);
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "compressed EROFS");
    fixture_write(world->raw_path, "", 0);
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "not an EROFS");
    assert_error(image_store_add(world->store, "/nonexistent", &info, &err), ENOENT, &err, "open");
    assert_error(image_store_add(world->store, "/dev/null", &info, &err), EBADMSG, &err, "regular");
    assert_int_equal(count(world, "objects/sha256"), 0);
    assert_int_equal(count(world, "manifests"), 0);
}

static void test_kernels(void **state)
{
    struct world *world = *state;
    struct image_info info = {.name = "k", .kind = IMAGE_KERNEL};
    uint8_t kernel[8192] = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1};
    struct error err = {0};

    store_le16(kernel + 16, ET_EXEC);
    store_le16(kernel + 18, EM_AARCH64);
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "for aarch64");
    store_le16(kernel + 18, EM_386);
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "for i386");
    store_le16(kernel + 18, 999);
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "machine 999");
    store_le16(kernel + 18, EM_X86_64);
    store_le16(kernel + 16, ET_REL);
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "no executable");
    memcpy(kernel + 0x202, "HdrS", 4);
    kernel[0] = 'M';
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "bzImage");
    kernel[0] = 0x7f;
    store_le16(kernel + 16, ET_EXEC);
    fixture_write(world->raw_path, kernel, sizeof(kernel));
    assert_int_equal(image_store_add(world->store, world->raw_path, &info, &err), 0);
    snprintf(info.architecture, sizeof(info.architecture), "aarch64");
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EBADMSG, &err,
                 "for aarch64");
}

static void test_hostile_manifests(void **state)
{
    struct world *world = *state;
    struct image_info info = add(world, "x"), *list;
    static const char *const changes[][2] = {
        {"\"version\": 1", "\"version\": 2"},
        {"\"kind\": \"root\"", "\"kind\": \"toor\""},
        {"\"name\": \"x\"", "\"name\": \"y\""},
        {"\"digest\": \"", "\"digest\": \"../../"},
        {"\"raw_bytes\": ", "\"raw_bytes\": -"},
        {"\"raw_bytes\": ", "\"raw_bytes\": 99999999999999999"},
        {"\"runtime\": \"provided\"", "\"runtime\": \"0123456789012345678901234567890123456789\""},
        {"\"runtime\": \"provided\"", "\"runtime\": \"a\\u0000b\""},
        {"\"made_of\": \"test\"", "\"made_of\": 5"},
        {"\"made_of\": \"test\"", "\"made_of\": \"test\", \"made_of\": \"x\""},
        {"{", "[{"},
    };
    char path[256], changed[2048];
    AUTO_FREE uint8_t *text = NULL;
    struct error err = {0};
    size_t len, n;

    snprintf(path, sizeof(path), "%s/manifests/x.json", world->path);
    assert_int_equal(fd_read_file(path, 4096, &text, &len, &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        const char *at = strstr((char *)text, changes[i][0]);

        assert_non_null(at);
        snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - (char *)text), (char *)text,
                 changes[i][1], at + strlen(changes[i][0]));
        fixture_write(path, changed, strlen(changed));
        assert_error(image_store_find(world->store, "x", &info, &err), EBADMSG, &err, "manifest");
        assert_error(image_store_list(world->store, &list, &n, &err), EBADMSG, &err, "manifest");
    }
    assert_int_equal(image_store_remove(world->store, "x", &err), 0);
    assert_int_equal(count(world, "manifests"), 0);
}

/* @limit: what a file may grow to, as a full disk would have it. In a process of its own. */
static void assert_fails_within_limit(struct world *world, rlim_t limit, bool is_raw)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct image_info info = {.name = "full"};
        char *path = NULL;
        struct error err = {0};
        struct rlimit rlimit = {limit, limit};

        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &rlimit);
        int r = is_raw ? image_store_find(world->store, "x", &info, &err) : 0;
        if (r == 0)
            r = is_raw ? image_store_raw(world->store, &info, &path, NULL, &err)
                       : image_store_add(world->store, world->raw_path, &info, &err);
        _exit(r == -EFBIG && err.text[0] ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_file_size_limit_leaves_nothing(void **state)
{
    struct world *world = *state;

    add(world, "x");
    for (rlim_t limit = 0; limit < 1 << 20; limit = limit * 3 + 100) {
        assert_fails_within_limit(world, limit, false);
        assert_fails_within_limit(world, limit, true);
    }
    assert_int_equal(count(world, "objects/sha256"), 1);
    assert_int_equal(count(world, "manifests"), 1);
    assert_int_equal(count(world, "cache"), 0);
}

/* A real full disk: a small tmpfs. Needs root; without it the test above stands alone. */
static void test_full_disk(void **state)
{
    struct world *world = *state;
    struct image_info info = {.name = "x"};
    struct image_store *store;
    char path[128], *out;
    struct error err = {0};

    snprintf(path, sizeof(path), "%s/small", world->directory);
    assert_int_equal(mkdir(path, 0755), 0);
    if (mount("tmpfs", path, "tmpfs", 0, "size=3m") < 0)
        skip();
    assert_int_equal(image_store_open(path, &store, &err), 0);
    assert_int_equal(image_store_add(store, world->raw_path, &info, &err), 0);
    int r = image_store_raw(store, &info, &out, NULL, &err);
    struct image_info second = {.name = "y"};
    uint8_t *noise = fixture_root_image(RAW, 9);
    for (size_t i = 4096; i < RAW; i += 2)
        noise[i] = (uint8_t)(noise[i] ^ (i * 2654435761u >> 13));
    fixture_write(world->raw_path, noise, RAW);
    free(noise);
    struct error second_err = {0};
    int second_r = image_store_add(store, world->raw_path, &second, &second_err);
    struct image_info found;
    int find_r = image_store_find(store, "x", &found, NULL);
    image_store_close(store);
    char below[256];
    snprintf(below, sizeof(below), "%s/cache", path);
    bool cache_is_empty = rmdir(below) == 0;
    assert_int_equal(umount(path), 0);
    assert_error(r, ENOSPC, &err, "3 MiB needed");
    assert_error(second_r, ENOSPC, &second_err, "No space left");
    assert_int_equal(find_r, 0);
    assert_true(cache_is_empty);
}

static void test_many_processes_decompress(void **state)
{
    enum { N = 8 };
    struct world *world = *state;
    struct image_info info = add(world, "x");
    pid_t pids[N];
    struct error err = {0};

    for (int i = 0; i < N; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            struct image_store *store;
            AUTO_FREE char *path = NULL;
            AUTO_FREE uint8_t *back = NULL;
            size_t len;
            bool ok = image_store_open(world->path, &store, &err) == 0 &&
                      image_store_raw(store, &info, &path, NULL, &err) == 0 &&
                      fd_read_file(path, RAW, &back, &len, &err) == 0 && len == RAW &&
                      memcmp(back, world->raw, RAW) == 0;
            if (!ok)
                fprintf(stderr, "child: %s\n", err.text);
            _exit(ok ? 0 : 1);
        }
    }
    /* All are waited for before one is judged: a child must not work where the teardown removes. */
    int statuses[N], waited = 0;
    for (int i = 0; i < N; i++)
        waited += waitpid(pids[i], &statuses[i], 0) == pids[i];
    assert_int_equal(waited, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(statuses[i], 0);
    assert_int_equal(count(world, "cache"), 1);
}

/* What a killed process left goes at the next open; what is in use stays. */
static void test_left_overs_are_swept(void **state)
{
    struct world *world = *state;
    struct image_store *store;
    char dead[256], used[256];
    struct error err = {0};

    snprintf(dead, sizeof(dead), "%s/cache/.tmp-0000000000000001", world->path);
    snprintf(used, sizeof(used), "%s/cache/.tmp-0000000000000002", world->path);
    fixture_write(dead, "x", 1);
    fixture_write(used, "x", 1);
    int fd = open(used, O_RDWR | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(image_store_open(world->path, &store, &err), 0);
    image_store_close(store);
    assert_int_equal(access(dead, F_OK), -1);
    assert_int_equal(access(used, F_OK), 0);
    close(fd);
}

static void on_progress(void *opaque, const char *what, uint64_t done, uint64_t total)
{
    uint64_t *last = opaque;

    assert_non_null(what);
    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_progress_and_cancel(void **state)
{
    struct world *world = *state;
    static volatile sig_atomic_t cancelled;
    struct image_info info = {.name = "y"};
    uint64_t last = 0;
    struct error err = {0};

    image_store_on_progress(world->store, on_progress, &last);
    add(world, "x");
    assert_int_equal(last, RAW);
    image_store_on_progress(world->store, NULL, NULL);
    cancelled = 1;
    image_store_set_cancel(world->store, &cancelled);
    /* 64 MiB: takes far longer than the tenth of a second after which the flag is looked at. */
    uint8_t *large = fixture_root_image(64 << 20, 3);
    fixture_write(world->raw_path, large, 64 << 20);
    free(large);
    assert_error(image_store_add(world->store, world->raw_path, &info, &err), EINTR, &err,
                 "interrupted");
    assert_int_equal(count(world, "objects/sha256"), 1);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_add_find_list_remove),
        TEST(test_replaced_image_stays_as_object),
        TEST(test_names),
        TEST(test_raw_is_cached),
        TEST(test_damaged_object),
        TEST(test_substituted_object),
        TEST(test_wrong_content),
        TEST(test_kernels),
        TEST(test_hostile_manifests),
        TEST(test_file_size_limit_leaves_nothing),
        TEST(test_full_disk),
        TEST(test_many_processes_decompress),
        TEST(test_left_overs_are_swept),
        TEST(test_progress_and_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
