/*
 * Tar archives through libarchive: see image_unpack.h. The archive is hostile. Libarchive's own
 * checks (SECURE_*) are on; the process is chroot()ed into the target as well, so that a mistake in
 * either is not enough to write elsewhere.
 */
#include "images/image_unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16 };

/* One archive under way. */
struct unpack {
    struct archive *from, *to; /* owned */
    const char *what;
    uint64_t bytes, entries;
};

static int failed(const struct unpack *unpack, struct archive *archive, const char *entry,
                  struct error *err)
{
    const char *text = archive_error_string(archive);
    int code = archive_errno(archive);

    /* What the disk has to say keeps its code; everything else is the archive's fault. */
    return error_say(err, code == ENOSPC || code == EDQUOT || code == EIO ? code : EBADMSG,
                     "archive '%s'%s%s%s: %s", unpack->what, entry ? ", entry '" : "",
                     entry ? entry : "", entry ? "'" : "", text ? text : "damaged");
}

static int copy_data(struct unpack *unpack, const char *name, struct error *err)
{
    const void *block;
    size_t len;
    int64_t offset;

    for (;;) {
        int r = archive_read_data_block(unpack->from, &block, &len, &offset);

        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK)
            return failed(unpack, unpack->from, name, err);
        if (archive_write_data_block(unpack->to, block, len, offset) < ARCHIVE_OK)
            return failed(unpack, unpack->to, name, err);
    }
}

static bool has_dot_dot(const char *path)
{
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == 0))
            return true;
    }
    return false;
}

/* 1: unpack it, 0: leave it out, -errno. */
static int judge(struct unpack *unpack, struct archive_entry *entry, struct error *err)
{
    const char *name = archive_entry_pathname(entry), *link = archive_entry_hardlink(entry);

    if (!name || !name[0])
        return error_say(err, EBADMSG, "archive '%s': an entry has no usable name", unpack->what);
    if (name[0] == '/' || has_dot_dot(name))
        return error_say(err, EBADMSG, "archive '%s': entry '%s' leads outside the image",
                         unpack->what, name);
    if (link && (link[0] == '/' || has_dot_dot(link)))
        return error_say(err, EBADMSG,
                         "archive '%s': entry '%s' is a hard link to '%s', outside the image",
                         unpack->what, name, link);
    /* By the size it says, not by the data it brings: a sparse file's holes count as well. */
    uint64_t size = (uint64_t)archive_entry_size(entry);
    if (size > UNPACK_BYTES_MAX - unpack->bytes)
        return error_say(err, EFBIG, "archive '%s' unpacks to more than 8 GiB", unpack->what);
    unpack->bytes += size;
    mode_t type = archive_entry_filetype(entry);
    if (link || type == S_IFREG || type == S_IFDIR || type == S_IFLNK)
        return 1;
    name += strncmp(name, "./", 2) == 0 ? 2 : 0;
    if (strncmp(name, "dev/", 4) == 0)
        return 0;
    return error_say(err, EBADMSG, "archive '%s': entry '%s' is a device, socket or FIFO",
                     unpack->what, name);
}

static int unpack_entry(struct unpack *unpack, struct archive_entry *entry, struct error *err)
{
    int r = judge(unpack, entry, err);

    if (r <= 0)
        return r;
    /* Its own name may change under archive_write_header(). */
    const char *name = archive_entry_pathname(entry);
    if (archive_write_header(unpack->to, entry) < ARCHIVE_OK)
        return failed(unpack, unpack->to, name, err);
    if (archive_entry_size(entry) > 0 && (r = copy_data(unpack, name, err)) < 0)
        return r;
    if (archive_write_finish_entry(unpack->to) < ARCHIVE_OK)
        return failed(unpack, unpack->to, name, err);
    return 0;
}

static int unpack_all(struct unpack *unpack, int fd, struct error *err)
{
    struct archive_entry *entry;
    int r = archive_read_open_fd(unpack->from, fd, READ_BYTES);

    if (r != ARCHIVE_OK)
        return failed(unpack, unpack->from, NULL, err);
    for (;;) {
        r = archive_read_next_header(unpack->from, &entry);
        if (r == ARCHIVE_EOF)
            break;
        if (r != ARCHIVE_OK)
            return failed(unpack, unpack->from, NULL, err);
        if (++unpack->entries > UNPACK_ENTRIES_MAX)
            return error_say(err, EFBIG, "archive '%s' has more than %d entries", unpack->what,
                             UNPACK_ENTRIES_MAX);
        r = unpack_entry(unpack, entry, err);
        if (r < 0)
            return r;
    }
    if (unpack->entries == 0)
        return error_say(err, EBADMSG, "archive '%s' is empty", unpack->what);
    /* Modes and times of directories are set here. */
    if (archive_write_close(unpack->to) < ARCHIVE_OK)
        return failed(unpack, unpack->to, NULL, err);
    return 0;
}

/* No filter that runs another program, no format but tar: the fewer parsers, the better. */
static void accept_tar(struct archive *from)
{
    archive_read_support_filter_gzip(from);
    archive_read_support_filter_bzip2(from);
    archive_read_support_filter_xz(from);
    archive_read_support_filter_zstd(from);
    archive_read_support_format_tar(from);
}

int unpack_tar(int fd, const char *what, struct error *err)
{
    struct unpack unpack = {
        .from = archive_read_new(), .to = archive_write_disk_new(), .what = what};
    int flags = ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;
    int r = unpack.from && unpack.to ? 0 : error_set(err, ENOMEM, "read archive '%s'", what);

    /* Names in pax headers are UTF-8 and are not to be translated. */
    setlocale(LC_CTYPE, "C.UTF-8");
    if (geteuid() == 0)
        flags |= ARCHIVE_EXTRACT_OWNER;
    if (r == 0) {
        accept_tar(unpack.from);
        archive_write_disk_set_options(unpack.to, flags);
        r = unpack_all(&unpack, fd, err);
    }
    archive_read_free(unpack.from);
    archive_write_free(unpack.to);
    return r;
}
