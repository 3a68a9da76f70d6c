/*
 * Packages: the list, its checks and its digest. Process: the host's; the input is hostile.
 * The readers are package_directory.c and package_archive.c.
 */
#include "package.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "common/text.h"
#include "images/image_sha256.h"
#include "package_internal.h"

enum { NAME_MAX_BYTES = 255, COPY_BYTES = 256 * 1024, IMPLIED_MODE = 0755 };

/* For messages: a hostile path, cleaned and cut. */
struct shown_path {
    char text[200];
};

static struct shown_path shown(const char *path)
{
    struct shown_path result;

    text_clean(result.text, sizeof(result.text), path, strlen(path));
    return result;
}

/* --- adding ------------------------------------------------------------------------------------
 */

/*
 * Writes @path without ".", empty parts and trailing slashes to @clean (PACKAGE_MAX_PATH + 1
 * bytes). An attacker who got ".." or a leading "/" past here could name files outside.
 */
static int clean_path(const char *path, char *clean, struct error *err)
{
    size_t used = 0, depth = 0;

    if (path[0] == '/')
        return error_say(err, EINVAL, "'%s' has an absolute path", shown(path).text);
    for (const char *part = path; *part;) {
        size_t len = strcspn(part, "/");

        if (len == 2 && part[0] == '.' && part[1] == '.')
            return error_say(err, EINVAL, "'%s' leads out of the package", shown(path).text);
        if (len > NAME_MAX_BYTES || ++depth > PACKAGE_MAX_DEPTH ||
            used + len + 1 > PACKAGE_MAX_PATH)
            return error_say(err, ENAMETOOLONG, "'%s…' is too long or too deep a path",
                             shown(path).text);
        if (len > 0 && !(len == 1 && part[0] == '.')) {
            if (used > 0)
                clean[used++] = '/';
            memcpy(clean + used, part, len);
            used += len;
        }
        part += len;
        part += *part == '/';
    }
    clean[used] = '\0';
    return 0;
}

/* Room for one more in an array that doubles whenever its length is a power of two. */
static int grow(struct package *package)
{
    size_t n = package->n_entries;

    if (n > 0 && (n & (n - 1)) != 0)
        return 0;
    struct package_entry *larger = realloc(package->entries, (n ? 2 * n : 1) * sizeof(*larger));
    if (!larger)
        return -ENOMEM;
    package->entries = larger;
    return 0;
}

int package_add(struct package *package, const char *path, enum package_type type, uint32_t mode,
                struct error *err)
{
    char clean[PACKAGE_MAX_PATH + 1];
    int r = clean_path(path, clean, err);

    if (r < 0)
        return r;
    if (clean[0] == '\0')
        return type == PACKAGE_DIRECTORY ? 0 : error_say(err, EINVAL, "an entry has no name");
    if (package->n_entries >= PACKAGE_MAX_ENTRIES)
        return error_say(err, EFBIG, "more than %d entries", PACKAGE_MAX_ENTRIES);
    if (grow(package) < 0)
        return error_set(err, ENOMEM, "list '%s'", shown(clean).text);
    char *owned = strdup(clean);
    if (!owned)
        return error_set(err, ENOMEM, "list '%s'", shown(clean).text);
    package->entries[package->n_entries++] = (struct package_entry){
        .path = owned, .type = type, .mode = mode & 0777, .offset = package->total_bytes};
    return 1;
}

int package_append(struct package *package, const void *data, size_t len_bytes, struct error *err)
{
    struct package_entry *entry = &package->entries[package->n_entries - 1];

    if (len_bytes > PACKAGE_MAX_BYTES - package->total_bytes)
        return error_say(err, EFBIG, "more than %d MB unpacked, at '%s'", PACKAGE_MAX_BYTES >> 20,
                         shown(entry->path).text);
    int r = fd_write_all(package->store, data, len_bytes);
    if (r < 0)
        return error_set(err, -r, "hold '%s' in memory", shown(entry->path).text);
    entry->len_bytes += len_bytes;
    package->total_bytes += len_bytes;
    return 0;
}

/* --- order and parents ---------------------------------------------------------------------------
 */

static int compare_entries(const void *left, const void *right)
{
    const struct package_entry *a = left, *b = right;

    return strcmp(a->path, b->path);
}

static int compare_key(const void *key, const void *entry)
{
    return strcmp(key, ((const struct package_entry *)entry)->path);
}

static const struct package_entry *find_sorted(const struct package *package, const char *path,
                                               size_t n)
{
    return n == 0 ? NULL
                  : bsearch(path, package->entries, n, sizeof(package->entries[0]), compare_key);
}

static int refuse_duplicates(const struct package *package, struct error *err)
{
    for (size_t i = 1; i < package->n_entries; i++)
        if (strcmp(package->entries[i - 1].path, package->entries[i].path) == 0)
            return error_say(err, EINVAL, "'%s' occurs twice",
                             shown(package->entries[i].path).text);
    return 0;
}

/* Is @parent a leading part of @path ("a/b" of "a/b/c")? */
static bool is_below(const char *path, const char *parent, size_t parent_len)
{
    return strncmp(path, parent, parent_len) == 0 && path[parent_len] == '/';
}

/*
 * Every leading part of entry @index must be a directory, listed or to be added: writing through a
 * link or below a file is how archives reach outside. @sorted: how many entries are in order.
 */
static int check_parents(struct package *package, size_t index, size_t sorted, struct error *err)
{
    char parent[PACKAGE_MAX_PATH + 1];
    size_t len = strlen(package->entries[index].path);

    memcpy(parent, package->entries[index].path, len + 1);
    for (char *cut = strchr(parent, '/'); cut; cut = strchr(cut + 1, '/')) {
        size_t parent_len = (size_t)(cut - parent);
        int r;

        /* The entry before lies below it too: then it was seen to. */
        if (index > 0 && is_below(package->entries[index - 1].path, parent, parent_len))
            continue;
        *cut = '\0';
        const struct package_entry *found = find_sorted(package, parent, sorted);
        if (found && found->type != PACKAGE_DIRECTORY)
            return error_say(err, EINVAL, "'%s' lies below '%s', which is no directory",
                             shown(package->entries[index].path).text, shown(parent).text);
        r = found ? 0 : package_add(package, parent, PACKAGE_DIRECTORY, IMPLIED_MODE, err);
        *cut = '/';
        if (r < 0)
            return r;
    }
    return 0;
}

/* Two far-apart entries may each have added the same parent. */
static void drop_twice_implied(struct package *package)
{
    size_t kept = 0;

    for (size_t i = 0; i < package->n_entries; i++) {
        if (kept > 0 && strcmp(package->entries[kept - 1].path, package->entries[i].path) == 0)
            free(package->entries[i].path);
        else
            package->entries[kept++] = package->entries[i];
    }
    package->n_entries = kept;
}

static int put_in_order(struct package *package, struct error *err)
{
    size_t sorted = package->n_entries;
    int r;

    qsort(package->entries, sorted, sizeof(package->entries[0]), compare_entries);
    r = refuse_duplicates(package, err);
    for (size_t i = 0; r == 0 && i < sorted; i++)
        r = check_parents(package, i, sorted, err);
    if (r < 0)
        return r;
    qsort(package->entries, package->n_entries, sizeof(package->entries[0]), compare_entries);
    drop_twice_implied(package);
    return 0;
}

/* --- links ---------------------------------------------------------------------------------------
 */

/*
 * A target may climb, at its start only, no further than the package's root, and must not climb
 * again after it went down. As parents are real directories, the start of the way is inside; going
 * down leads to files, directories or further links of the package, which obey the same rule.
 */
static int check_target(const char *path, const char *target, struct error *err)
{
    size_t depth = 0;
    bool descended = false;

    for (const char *at = path; (at = strchr(at, '/')); at++)
        depth++;
    if (target[0] == '\0' || target[0] == '/')
        return error_say(err, EINVAL, "the link '%s' points outside the package", shown(path).text);
    for (const char *part = target; *part;) {
        size_t len = strcspn(part, "/");
        bool up = len == 2 && part[0] == '.' && part[1] == '.';

        if (up && (descended || depth == 0))
            return error_say(err, EINVAL, "the link '%s' points outside the package",
                             shown(path).text);
        if (up)
            depth--;
        else if (len > 0 && !(len == 1 && part[0] == '.'))
            descended = true;
        part += len;
        part += *part == '/';
    }
    return 0;
}

static int check_links(const struct package *package, struct error *err)
{
    char target[PACKAGE_MAX_PATH + 1];

    for (size_t i = 0; i < package->n_entries; i++) {
        const struct package_entry *entry = &package->entries[i];

        if (entry->type != PACKAGE_LINK)
            continue;
        if (entry->len_bytes > PACKAGE_MAX_PATH)
            return error_say(err, ENAMETOOLONG, "the link '%s' has too long a target",
                             shown(entry->path).text);
        int r = package_read(package, entry, 0, target, entry->len_bytes);
        if (r < 0)
            return error_set(err, -r, "read back '%s'", shown(entry->path).text);
        target[entry->len_bytes] = '\0';
        r = check_target(entry->path, target, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- digest --------------------------------------------------------------------------------------
 */

static int add_content(const struct package *package, const struct package_entry *entry,
                       struct sha256 *sha256, uint8_t *buffer)
{
    for (uint64_t at = 0; at < entry->len_bytes;) {
        uint64_t left = entry->len_bytes - at;
        size_t piece = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        int r = package_read(package, entry, at, buffer, piece);

        if (r < 0)
            return r;
        sha256_add(sha256, buffer, piece);
        at += piece;
    }
    return 0;
}

/* Each entry as type, mode, path length, content length (little-endian), path, content. */
static int take_digest(struct package *package, struct error *err)
{
    struct sha256 *sha256 = sha256_new();
    AUTO_FREE uint8_t *buffer = malloc(COPY_BYTES);
    uint8_t head[20], digest[SHA256_BYTES];
    int r = sha256 && buffer ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < package->n_entries; i++) {
        const struct package_entry *entry = &package->entries[i];
        size_t path_len = strlen(entry->path);

        store_le32(head, (uint32_t)entry->type);
        store_le32(head + 4, entry->mode);
        store_le32(head + 8, (uint32_t)path_len);
        store_le64(head + 12, entry->len_bytes);
        sha256_add(sha256, head, sizeof(head));
        sha256_add(sha256, entry->path, path_len);
        r = add_content(package, entry, sha256, buffer);
    }
    if (r == 0) {
        sha256_take(sha256, digest);
        sha256_hex(digest, package->digest);
    }
    sha256_free(sha256);
    return r < 0 ? error_set(err, -r, "compute the package's digest") : 0;
}

/* --- opening -------------------------------------------------------------------------------------
 */

static int read_source(struct package *package, const char *path, struct error *err)
{
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, errno, "open the package '%s'", path);
    int r;
    if (S_ISDIR(st.st_mode))
        r = package_read_directory(package, fd, err);
    else if (!S_ISREG(st.st_mode))
        r = error_say(err, EINVAL, "it is neither a directory nor an archive");
    else if (st.st_size > PACKAGE_MAX_ARCHIVE_BYTES)
        r = error_say(err, EFBIG, "the archive is larger than %d MB",
                      PACKAGE_MAX_ARCHIVE_BYTES >> 20);
    else
        r = package_read_archive(package, fd, err);
    if (r == 0 && package->n_entries == 0)
        r = error_say(err, EINVAL, "there is nothing in it");
    if (r == 0)
        r = put_in_order(package, err);
    if (r == 0)
        r = check_links(package, err);
    return r < 0 ? error_wrap(err, "package '%s'", path) : 0;
}

int package_open(const char *path, struct package **ret_package, struct error *err)
{
    struct package *package = calloc(1, sizeof(*package));

    if (!package)
        return error_set(err, ENOMEM, "read the package '%s'", path);
    package->store = memfd_create("mayfly-package", MFD_CLOEXEC);
    int r = package->store < 0 ? error_set(err, errno, "make a memory file") : 0;
    if (r == 0)
        r = read_source(package, path, err);
    if (r == 0)
        r = take_digest(package, err);
    if (r < 0) {
        package_free(package);
        return r;
    }
    *ret_package = package;
    return 0;
}

int package_read(const struct package *package, const struct package_entry *entry,
                 uint64_t offset_bytes, void *to, size_t len_bytes)
{
    if (!range_fits(offset_bytes, len_bytes, entry->len_bytes))
        return -EINVAL;
    return fd_pread_all(package->store, to, len_bytes, (off_t)(entry->offset + offset_bytes));
}

const struct package_entry *package_find(const struct package *package, const char *path)
{
    return find_sorted(package, path, package->n_entries);
}

void package_free(struct package *package)
{
    if (!package)
        return;
    for (size_t i = 0; i < package->n_entries; i++)
        free(package->entries[i].path);
    free(package->entries);
    fd_close_at_exit(&package->store);
    free(package);
}
