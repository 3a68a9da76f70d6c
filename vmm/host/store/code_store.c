/* Deployed code on disk: see code_store.h. Process: the daemon's; the zips are hostile. */
#include "code_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "code_store_internal.h"
#include "common/fd.h"
#include "images/image_file.h"
#include "images/image_sha256.h"
#include "host/instance/package.h"
#include "registry.h"

enum {
    HEX_CHARACTERS = 2 * SHA256_BYTES,
    FILE_NAME_BYTES = HEX_CHARACTERS + sizeof(".zip"),
    COPY_BYTES = 256 * 1024,
};

struct code_store {
    char *directory;
    int dir_fd;
};

struct code_staged {
    struct code_store *store; /* borrowed */
    struct temp_file temp;
    struct sha256 *hash; /* until it is written */
    uint64_t len_bytes;
    char sha256[CODE_SHA256_BYTES];
};

/* --- names ---------------------------------------------------------------------------------------
 */

static void to_base64(const uint8_t digest[SHA256_BYTES], char ret_text[CODE_SHA256_BYTES])
{
    EVP_EncodeBlock((unsigned char *)ret_text, digest, SHA256_BYTES);
}

/* Strictly what to_base64() writes: one text for each hash. */
static bool from_base64(const char *text, uint8_t ret_digest[SHA256_BYTES])
{
    uint8_t decoded[SHA256_BYTES + 1]; /* the padding decodes to a byte of its own */
    char again[CODE_SHA256_BYTES];

    if (strlen(text) != CODE_SHA256_BYTES - 1 ||
        EVP_DecodeBlock(decoded, (const unsigned char *)text, CODE_SHA256_BYTES - 1) !=
            (int)sizeof(decoded))
        return false;
    to_base64(decoded, again);
    memcpy(ret_digest, decoded, SHA256_BYTES);
    return strcmp(again, text) == 0;
}

bool code_sha256_check(const char *text)
{
    uint8_t digest[SHA256_BYTES];

    return from_base64(text, digest);
}

static int file_name(const char *code_sha256, char ret_name[FILE_NAME_BYTES], struct error *err)
{
    uint8_t digest[SHA256_BYTES];

    if (!from_base64(code_sha256, digest))
        return error_say(err, EINVAL, "the code's hash is not the base64 of 32 bytes");
    sha256_hex(digest, ret_name);
    memcpy(ret_name + HEX_CHARACTERS, ".zip", sizeof(".zip"));
    return 0;
}

int code_store_path(const struct code_store *store, const char *code_sha256, char *ret_path,
                    size_t size, struct error *err)
{
    char name[FILE_NAME_BYTES];
    int r = file_name(code_sha256, name, err);

    if (r < 0)
        return r;
    if (strlen(store->directory) + 1 + sizeof(name) > size)
        return error_say(err, ENAMETOOLONG, "the path of the code store is too long");
    snprintf(ret_path, size, "%s/%s", store->directory, name);
    return 0;
}

/* --- opening -------------------------------------------------------------------------------------
 */

int code_store_open(const char *directory, struct code_store **ret_store, struct error *err)
{
    struct code_store *store = calloc(1, sizeof(*store));
    char *copy = strdup(directory);

    if (!store || !copy) {
        free(store);
        free(copy);
        return error_set(err, ENOMEM, "open the code store");
    }
    *store = (struct code_store){.directory = copy, .dir_fd = -1};
    int r = file_make_directory(directory, 0700, err);
    if (r == 0) {
        store->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->dir_fd < 0)
            r = error_set(err, errno, "open the code store '%s'", directory);
    }
    if (r < 0) {
        code_store_close(store);
        return r;
    }
    *ret_store = store;
    return 0;
}

void code_store_close(struct code_store *store)
{
    if (!store)
        return;
    fd_close_at_exit(&store->dir_fd);
    free(store->directory);
    free(store);
}

/* --- staging -------------------------------------------------------------------------------------
 */

static int too_large(struct error *err)
{
    return error_say(err, E2BIG, "the zipped code is larger than %d MB: %d bytes are allowed",
                     PACKAGE_MAX_ARCHIVE_BYTES >> 20, PACKAGE_MAX_ARCHIVE_BYTES);
}

static int begin(struct code_store *store, struct code_staged **ret_staged, struct error *err)
{
    struct code_staged *staged = calloc(1, sizeof(*staged));

    if (!staged)
        return error_set(err, ENOMEM, "keep the code");
    staged->store = store;
    staged->temp.fd = -1;
    staged->hash = sha256_new();
    int r = staged->hash ? temp_file_create(&staged->temp, store->dir_fd, err)
                         : error_set(err, ENOMEM, "keep the code");
    if (r < 0) {
        code_staged_free(staged);
        return error_wrap(err, "keep the code");
    }
    *ret_staged = staged;
    return 0;
}

static int append(struct code_staged *staged, const void *data, size_t len_bytes, struct error *err)
{
    if (len_bytes > PACKAGE_MAX_ARCHIVE_BYTES - staged->len_bytes)
        return too_large(err);
    int r = file_pwrite_all(staged->temp.fd, data, len_bytes, staged->len_bytes);
    if (r < 0)
        return error_set(err, r == -EFBIG || r == -EDQUOT ? ENOSPC : -r, "keep the code");
    sha256_add(staged->hash, data, len_bytes);
    staged->len_bytes += len_bytes;
    return 0;
}

/* Lambda takes nothing but ZIP; package.h would also take tar. */
static int check_magic(const struct code_staged *staged, struct error *err)
{
    uint8_t magic[4];

    if (staged->len_bytes < sizeof(magic) ||
        fd_pread_all(staged->temp.fd, magic, sizeof(magic), 0) < 0 ||
        memcmp(magic, "PK\3\4", sizeof(magic)) != 0)
        return error_say(err, EINVAL, "the code is not a zip file with something in it");
    return 0;
}

/* What package_open() says begins with the path it was given, which is none of the client's. */
static void drop_path(struct error *err, const char *path)
{
    char prefix[64];
    size_t len = (size_t)snprintf(prefix, sizeof(prefix), "package '%s': ", path);

    if (err && strncmp(err->text, prefix, len) == 0)
        memmove(err->text, err->text + len, strlen(err->text + len) + 1);
}

/* Reads it through once, by the very code that will unpack it for a guest. */
static int check_content(const struct code_staged *staged, struct error *err)
{
    struct package *package = NULL;
    struct error why = {0};
    char path[40];
    int r = check_magic(staged, err);

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", staged->temp.fd);
    r = package_open(path, &package, &why);
    package_free(package);
    if (r == 0)
        return 0;
    drop_path(&why, path);
    if (r == -EINVAL || r == -EFBIG || r == -ENAMETOOLONG)
        return error_say(err, EINVAL, "the code's zip: %s", why.text);
    return error_say(err, -r, "check the code's zip: %s", why.text);
}

static int finish(struct code_staged *staged, struct error *err)
{
    uint8_t digest[SHA256_BYTES];
    int r = check_content(staged, err);

    if (r < 0)
        return r;
    if (fsync(staged->temp.fd) < 0)
        return error_set(err, errno, "keep the code");
    sha256_take(staged->hash, digest);
    to_base64(digest, staged->sha256);
    return 0;
}

static int end(struct code_staged *staged, int result, struct code_staged **ret_staged)
{
    if (result < 0)
        code_staged_free(staged);
    else
        *ret_staged = staged;
    return result;
}

int code_store_stage(struct code_store *store, const void *data, size_t len_bytes,
                     struct code_staged **ret_staged, struct error *err)
{
    struct code_staged *staged = NULL;
    int r = len_bytes > PACKAGE_MAX_ARCHIVE_BYTES ? too_large(err) : begin(store, &staged, err);

    if (r < 0)
        return r;
    r = append(staged, data, len_bytes, err);
    if (r == 0)
        r = finish(staged, err);
    return end(staged, r, ret_staged);
}

static int copy_file(struct code_staged *staged, int from, struct error *err)
{
    AUTO_FREE uint8_t *buffer = malloc(COPY_BYTES);
    int r = buffer ? 0 : error_set(err, ENOMEM, "keep the code");

    while (r == 0) {
        ssize_t n = read(from, buffer, COPY_BYTES);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, errno, "read the code");
        if (n == 0)
            break;
        r = append(staged, buffer, (size_t)n, err);
    }
    return r;
}

int code_store_stage_file(struct code_store *store, const char *path,
                          struct code_staged **ret_staged, struct error *err)
{
    AUTO_FD from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct code_staged *staged = NULL;
    struct stat st;

    if (from < 0 || fstat(from, &st) < 0)
        return error_set(err, errno, "open '%s'", path);
    if (!S_ISREG(st.st_mode))
        return error_say(err, EINVAL, "'%s' is no file", path);
    int r = begin(store, &staged, err);
    if (r < 0)
        return r;
    r = copy_file(staged, from, err);
    if (r == 0)
        r = finish(staged, err);
    return end(staged, r, ret_staged);
}

const char *code_staged_sha256(const struct code_staged *staged)
{
    return staged->sha256;
}

uint64_t code_staged_len_bytes(const struct code_staged *staged)
{
    return staged->len_bytes;
}

void code_staged_free(struct code_staged *staged)
{
    if (!staged)
        return;
    temp_file_done(&staged->temp);
    sha256_free(staged->hash);
    free(staged);
}

/* --- for the registry ----------------------------------------------------------------------------
 */

int code_staged_publish(struct code_staged *staged, struct error *err)
{
    char name[FILE_NAME_BYTES];
    struct stat st;
    int r = file_name(staged->sha256, name, err);

    if (r < 0)
        return r;
    if (fstatat(staged->store->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(st.st_mode) && (uint64_t)st.st_size == staged->len_bytes)
        return 0;
    if (staged->temp.name[0] == '\0') /* published in an attempt that failed later, then swept */
        return error_say(err, EIO, "keep the code: it has to be sent again");
    r = temp_file_publish(&staged->temp, name, 0600, err);
    return r < 0 ? error_wrap(err, "keep the code") : 0;
}

bool code_staged_is_published(const struct code_staged *staged)
{
    return staged->temp.name[0] == '\0';
}

int code_store_remove(struct code_store *store, const char *code_sha256, struct error *err)
{
    char name[FILE_NAME_BYTES];
    int r = file_name(code_sha256, name, err);

    if (r == 0 && unlinkat(store->dir_fd, name, 0) < 0 && errno != ENOENT)
        r = error_set(err, errno, "remove '%s' from the code store", name);
    return r;
}

/* The hash that a file of the store is named after; false: it is none of ours. */
static bool hash_of_name(const char *name, char ret_text[CODE_SHA256_BYTES])
{
    uint8_t digest[SHA256_BYTES];
    char hex[HEX_CHARACTERS + 1];

    if (strlen(name) != FILE_NAME_BYTES - 1 || strcmp(name + HEX_CHARACTERS, ".zip") != 0 ||
        strspn(name, "0123456789abcdef") != HEX_CHARACTERS)
        return false;
    memcpy(hex, name, HEX_CHARACTERS);
    hex[HEX_CHARACTERS] = '\0';
    sha256_from_hex(hex, digest);
    to_base64(digest, ret_text);
    return true;
}

int code_store_sweep(struct code_store *store, code_in_use *in_use, void *opaque,
                     uint64_t *ret_freed_bytes, struct error *err)
{
    int copy = openat(store->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    char text[CODE_SHA256_BYTES];
    uint64_t freed = 0;
    struct stat st;
    int r = 0;

    if (!directory) {
        fd_close_at_exit(&copy);
        return error_set(err, errno, "list the code store");
    }
    temp_file_sweep(store->dir_fd);
    for (struct dirent *item; r >= 0 && (item = readdir(directory));) {
        if (!hash_of_name(item->d_name, text))
            continue;
        r = in_use(opaque, text, err);
        if (r == 0 && fstatat(store->dir_fd, item->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            unlinkat(store->dir_fd, item->d_name, 0) == 0)
            freed += (uint64_t)st.st_size;
    }
    closedir(directory);
    if (r < 0)
        return r;
    *ret_freed_bytes = freed;
    return 0;
}
