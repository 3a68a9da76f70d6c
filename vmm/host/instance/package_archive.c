/*
 * Reading a package from an archive (ZIP, tar, tar.gz, tar.zst), through libarchive. Nothing is
 * written to disk; what an entry may be called and be is decided here and in package.c.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "common/text.h"
#include "package_internal.h"

enum { BLOCK_BYTES = 64 * 1024 };

static int archive_failed(struct archive *archive, const char *doing, struct error *err)
{
    const char *said = archive_error_string(archive);
    char why[200];

    text_clean(why, sizeof(why), said ? said : "", said ? strlen(said) : 0);
    return error_say(err, EINVAL, "%s: %s", doing, why[0] ? why : "the archive is damaged");
}

static int add_data(struct package *package, struct archive *archive, struct error *err)
{
    uint8_t buffer[BLOCK_BYTES];

    for (;;) {
        la_ssize_t n = archive_read_data(archive, buffer, sizeof(buffer));

        if (n == 0)
            return 0;
        if (n < 0)
            return archive_failed(archive, "unpack", err);
        int r = package_append(package, buffer, (size_t)n, err);
        if (r < 0)
            return r;
    }
}

static int add_entry(struct package *package, struct archive *archive, struct archive_entry *entry,
                     struct error *err)
{
    const char *path = archive_entry_pathname(entry);
    const char *target = archive_entry_symlink(entry);
    char name[200];
    int r;

    if (!path)
        return error_say(err, EINVAL, "an entry's name is not text");
    text_clean(name, sizeof(name), path, strlen(path));
    if (archive_entry_is_encrypted(entry))
        return error_say(err, EINVAL, "'%s' is encrypted", name);
    if (archive_entry_hardlink(entry))
        return error_say(err, EINVAL, "'%s' is a hard link: pack it as a file", name);
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        r = package_add(package, path, PACKAGE_FILE, archive_entry_perm(entry), err);
        return r < 0 ? r : add_data(package, archive, err);
    case AE_IFDIR:
        r = package_add(package, path, PACKAGE_DIRECTORY, archive_entry_perm(entry), err);
        return r < 0 ? r : 0;
    case AE_IFLNK:
        if (!target)
            return error_say(err, EINVAL, "the link '%s' has no target", name);
        r = package_add(package, path, PACKAGE_LINK, 0777, err);
        return r < 0 ? r : package_append(package, target, strlen(target), err);
    default:
        return error_say(err, EINVAL, "'%s' is neither a file, a directory nor a link", name);
    }
}

static int read_entries(struct package *package, struct archive *archive, struct error *err)
{
    struct archive_entry *entry;

    for (;;) {
        int r = archive_read_next_header(archive, &entry);

        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return archive_failed(
                archive, package->n_entries ? "read the archive" : "it is no ZIP or tar archive",
                err);
        r = add_entry(package, archive, entry, err);
        if (r < 0)
            return r;
    }
}

static int read_archive(struct package *package, int file, struct error *err)
{
    struct archive *archive = archive_read_new();
    int r;

    if (!archive)
        return error_set(err, ENOMEM, "read the archive");
    archive_read_support_format_zip(archive);
    archive_read_support_format_tar(archive);
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_zstd(archive);
    if (archive_read_open_fd(archive, file, BLOCK_BYTES) != ARCHIVE_OK)
        r = archive_failed(archive, "it is no ZIP or tar archive", err);
    else
        r = read_entries(package, archive, err);
    archive_read_free(archive);
    return r;
}

int package_read_archive(struct package *package, int file, struct error *err)
{
    /* libarchive turns names into the thread's character set: without UTF-8 some would be lost. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
    int r = read_archive(package, file, err);

    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    return r;
}
