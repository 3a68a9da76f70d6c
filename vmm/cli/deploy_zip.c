/* Zipping: see deploy_zip.h. Process: the CLI. */
#include "deploy_zip.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "host/instance/package.h"
#include "images/image_sha256.h"

enum { COPY_BYTES = 256 * 1024 };

/* --- what belongs to it ----------------------------------------------------------------------- */

static bool is_part(const char *part, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(part, name, len) == 0;
}

static bool belongs(const char *path)
{
    if (strcmp(path, "mayfly.yaml") == 0)
        return false;
    for (const char *part = path; *part;) {
        size_t len = strcspn(part, "/");

        if (is_part(part, len, ".git") || is_part(part, len, "__pycache__"))
            return false;
        part += len;
        part += *part == '/';
    }
    return true;
}

/* --- writing ---------------------------------------------------------------------------------- */

struct sink {
    struct deploy_zip *zip;
    size_t size;
    int failure;
};

static la_ssize_t write_some(struct archive *archive, void *opaque, const void *data, size_t len)
{
    struct sink *sink = opaque;
    struct deploy_zip *zip = sink->zip;

    (void)archive;
    if (len > PACKAGE_MAX_ARCHIVE_BYTES - zip->len_bytes) {
        sink->failure = -E2BIG;
        return -1;
    }
    if (sink->size - zip->len_bytes < len) {
        size_t size = 2 * (zip->len_bytes + len);
        uint8_t *larger = realloc(zip->data, size);

        if (!larger) {
            sink->failure = -ENOMEM;
            return -1;
        }
        zip->data = larger;
        sink->size = size;
    }
    memcpy(zip->data + zip->len_bytes, data, len);
    zip->len_bytes += len;
    return (la_ssize_t)len;
}

static int write_content(struct archive *archive, const struct package *package,
                         const struct package_entry *entry, uint8_t *buffer)
{
    for (uint64_t at = 0; at < entry->len_bytes;) {
        uint64_t left = entry->len_bytes - at;
        size_t piece = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        int r = package_read(package, entry, at, buffer, piece);

        if (r < 0)
            return r;
        if (archive_write_data(archive, buffer, piece) < 0)
            return -EIO;
        at += piece;
    }
    return 0;
}

/* Without times and owners: what is left depends on the files alone. */
static int write_entry(struct archive *archive, const struct package *package,
                       const struct package_entry *entry, uint8_t *buffer)
{
    static const unsigned types[] = {
        [PACKAGE_FILE] = AE_IFREG, [PACKAGE_DIRECTORY] = AE_IFDIR, [PACKAGE_LINK] = AE_IFLNK};
    struct archive_entry *head = archive_entry_new();
    char target[PACKAGE_MAX_PATH + 1] = "";
    int r = 0;

    if (!head)
        return -ENOMEM;
    archive_entry_set_pathname(head, entry->path);
    archive_entry_set_filetype(head, types[entry->type]);
    archive_entry_set_perm(head, entry->mode);
    archive_entry_set_uid(head, 0);
    archive_entry_set_gid(head, 0);
    if (entry->type == PACKAGE_LINK) {
        r = package_read(package, entry, 0, target, entry->len_bytes);
        archive_entry_set_symlink(head, target);
    } else {
        archive_entry_set_size(head,
                               entry->type == PACKAGE_FILE ? (la_int64_t)entry->len_bytes : 0);
    }
    if (r == 0 && archive_write_header(archive, head) != ARCHIVE_OK)
        r = -EIO;
    if (r == 0 && entry->type == PACKAGE_FILE)
        r = write_content(archive, package, entry, buffer);
    archive_entry_free(head);
    return r;
}

static int write_all(struct archive *archive, const struct package *package, struct deploy_zip *zip)
{
    AUTO_FREE uint8_t *buffer = malloc(COPY_BYTES);
    int r = buffer ? 0 : -ENOMEM;

    for (size_t i = 0; i < package->n_entries && r == 0; i++) {
        if (!belongs(package->entries[i].path))
            continue;
        r = write_entry(archive, package, &package->entries[i], buffer);
        zip->n_files += package->entries[i].type == PACKAGE_FILE;
    }
    return r;
}

static int zip_package(const struct package *package, struct deploy_zip *zip, struct error *err)
{
    struct archive *archive = archive_write_new();
    struct sink sink = {.zip = zip};
    int r = archive ? 0 : -ENOMEM;

    if (r == 0 && (archive_write_set_format_zip(archive) != ARCHIVE_OK ||
                   archive_write_zip_set_compression_deflate(archive) != ARCHIVE_OK ||
                   archive_write_set_bytes_per_block(archive, 0) != ARCHIVE_OK ||
                   archive_write_open(archive, &sink, NULL, write_some, NULL) != ARCHIVE_OK))
        r = -ENOMEM;
    if (r == 0)
        r = write_all(archive, package, zip);
    if (r == 0 && archive_write_close(archive) != ARCHIVE_OK)
        r = -EIO;
    archive_write_free(archive);
    if (sink.failure == -E2BIG)
        return error_say(err, E2BIG,
                         "zipped it has more than %d MB, which is all that a function "
                         "may have",
                         PACKAGE_MAX_ARCHIVE_BYTES >> 20);
    return r < 0 ? error_set(err, sink.failure ? -sink.failure : -r, "zip the function") : 0;
}

static int take_hash(struct deploy_zip *zip)
{
    uint8_t digest[SHA256_BYTES];
    int r = sha256_of(zip->data, zip->len_bytes, digest);

    if (r == 0)
        sodium_bin2base64(zip->sha256, sizeof(zip->sha256), digest, sizeof(digest),
                          sodium_base64_VARIANT_ORIGINAL);
    return r;
}

int deploy_zip_make(const char *path, struct deploy_zip *ret_zip, struct error *err)
{
    /* libarchive turns names into the thread's character set: without UTF-8 some would be lost. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
    struct package *package = NULL;
    struct deploy_zip zip = {.data = NULL};
    int r = package_open(path, &package, err);

    if (r == 0)
        r = zip_package(package, &zip, err);
    if (r == 0 && zip.n_files == 0)
        r = error_say(err, EINVAL, "package '%s': there is no file in it", path);
    if (r == 0 && take_hash(&zip) < 0)
        r = error_set(err, ENOMEM, "hash the function");
    package_free(package);
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    if (r < 0) {
        deploy_zip_done(&zip);
        return r;
    }
    *ret_zip = zip;
    return 0;
}

void deploy_zip_done(struct deploy_zip *zip)
{
    free(zip->data);
    *zip = (struct deploy_zip){0};
}
