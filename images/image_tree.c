/*
 * Making the tree of a root image: see image_tree.h. Process: the CLI, as root.
 * Invariant: nothing is opened or made below a tree but through openat2() with RESOLVE_IN_ROOT, or
 * with O_NOFOLLOW in a directory opened that way.
 */
#include "images/image_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fts.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_content.h"

enum { COPY_BYTES = 1 << 16 };

/* Opens a directory of the tree; @path "" is the root itself. */
static int open_in_root(int root_fd, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};

    return (int)syscall(SYS_openat2, root_fd, path[0] ? path : ".", &how, sizeof(how));
}

int tree_make_directory(int root_fd, const char *path, struct error *err)
{
    char part[PATH_MAX];
    size_t len = strlen(path);

    if (len >= sizeof(part))
        return error_set(err, ENAMETOOLONG, "make directory '%s' in the image", path);
    AUTO_FD parent = open_in_root(root_fd, "");
    for (size_t i = 1; parent >= 0 && i <= len; i++) {
        if (i < len && path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        const char *name = strrchr(part, '/');
        name = name ? name + 1 : part;
        if (!name[0])
            continue;
        int next = open_in_root(root_fd, part);
        if (next < 0 && errno == ENOENT) {
            if (mkdirat(parent, name, 0755) == 0)
                next = open_in_root(root_fd, part);
        }
        close(parent);
        parent = next;
    }
    return parent < 0 ? error_set(err, errno, "make directory '%s' in the image", path) : 0;
}

/* The directory of @path, made if need be, and the last part of it. */
static int open_parent(int root_fd, const char *path, const char **ret_name, int *ret_fd,
                       struct error *err)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;

    if (len >= sizeof(directory))
        return error_set(err, ENAMETOOLONG, "open '%s' in the image", path);
    memcpy(directory, path, len);
    directory[len] = 0;
    int r = tree_make_directory(root_fd, directory, err);
    if (r < 0)
        return r;
    int fd = open_in_root(root_fd, directory);
    if (fd < 0)
        return error_set(err, errno, "open '%s' in the image", directory);
    *ret_fd = fd;
    *ret_name = slash ? slash + 1 : path;
    return 0;
}

/* A new file at @path in place of an older one. Returns its descriptor. */
static int create_file(int root_fd, const char *path, mode_t mode, struct error *err)
{
    AUTO_FD parent = -1;
    const char *name = NULL;
    int r = open_parent(root_fd, path, &name, &parent, err);

    if (r < 0)
        return r;
    if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "replace '%s' in the image", path);
    AUTO_FD fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0 || fchmod(fd, mode) < 0)
        return error_set(err, errno, "make '%s' in the image", path);
    return fd_steal(&fd);
}

int tree_write_file(int root_fd, const char *path, const char *text, mode_t mode, struct error *err)
{
    AUTO_FD fd = create_file(root_fd, path, mode, err);

    if (fd < 0)
        return fd;
    int r = fd_write_all(fd, text, strlen(text));
    return r < 0 ? error_set(err, -r, "write '%s' in the image", path) : 0;
}

int tree_make_link(int root_fd, const char *path, const char *target, struct error *err)
{
    AUTO_FD parent = -1;
    const char *name = NULL;
    int r = open_parent(root_fd, path, &name, &parent, err);

    if (r < 0)
        return r;
    if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "replace '%s' in the image", path);
    if (symlinkat(target, parent, name) < 0)
        return error_set(err, errno, "make link '%s' in the image", path);
    return 0;
}

static int copy_file(int root_fd, const char *source, const char *path, struct error *err)
{
    AUTO_FD from = open(source, O_RDONLY | O_CLOEXEC);
    AUTO_FREE uint8_t *chunk = malloc(COPY_BYTES);
    struct stat st;

    if (!chunk)
        return error_set(err, ENOMEM, "copy '%s'", source);
    if (from < 0 || fstat(from, &st) < 0)
        return error_set(err, errno, "open '%s'", source);
    AUTO_FD to = create_file(root_fd, path, st.st_mode & S_IXUSR ? 0755 : 0644, err);
    if (to < 0)
        return to;
    for (;;) {
        ssize_t n = read(from, chunk, COPY_BYTES);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, errno, "read '%s'", source);
        if (n == 0)
            return 0;
        int r = fd_write_all(to, chunk, (size_t)n);
        if (r < 0)
            return error_set(err, -r, "write '%s' in the image", path);
    }
}

/* --- sources of the host, in a fixed order --------------------------------------------------- */

static int compare_entries(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* What build tools leave in a source directory does not belong in an image. */
static bool is_build_left_over(const FTSENT *entry)
{
    return strcmp(entry->fts_name, "__pycache__") == 0;
}

/* Calls @visit for every file and directory of @source, with the path below it ("" or "/…"). */
static int walk_source(const char *source,
                       int (*visit)(void *opaque, const FTSENT *entry, const char *below,
                                    struct error *err),
                       void *opaque, struct error *err)
{
    char *paths[] = {(char *)(uintptr_t)source, NULL};
    FTS *fts = fts_open(paths, FTS_COMFOLLOW | FTS_PHYSICAL | FTS_NOCHDIR, compare_entries);
    int r = 0;

    if (!fts)
        return error_set(err, errno, "read '%s'", source);
    for (FTSENT *entry; r == 0 && (entry = fts_read(fts)) != NULL;) {
        if (entry->fts_info == FTS_DP)
            continue;
        if (entry->fts_info == FTS_D && is_build_left_over(entry)) {
            fts_set(fts, entry, FTS_SKIP);
            continue;
        }
        if (entry->fts_info == FTS_D || entry->fts_info == FTS_F)
            r = visit(opaque, entry, entry->fts_path + strlen(source), err);
        else if (entry->fts_errno)
            r = error_set(err, entry->fts_errno, "read '%s'", entry->fts_path);
        else
            r = error_say(err, EINVAL, "'%s' is neither a file nor a directory", entry->fts_path);
    }
    fts_close(fts);
    return r;
}

struct copy {
    int root_fd;
    const char *path;
};

static int copy_entry(void *opaque, const FTSENT *entry, const char *below, struct error *err)
{
    const struct copy *copy = opaque;
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s%s", copy->path, below) >= (int)sizeof(path))
        return error_set(err, ENAMETOOLONG, "copy '%s'", entry->fts_path);
    if (entry->fts_info == FTS_D)
        return tree_make_directory(copy->root_fd, path, err);
    return copy_file(copy->root_fd, entry->fts_accpath, path, err);
}

int tree_copy(int root_fd, const char *source, const char *path, struct error *err)
{
    return walk_source(source, copy_entry, &(struct copy){.root_fd = root_fd, .path = path}, err);
}

static int digest_entry(void *opaque, const FTSENT *entry, const char *below, struct error *err)
{
    struct sha256 *sha256 = opaque;
    uint8_t head[16], digest[SHA256_BYTES];
    bool is_file = entry->fts_info == FTS_F;

    store_le64(head, strlen(below));
    store_le64(head + 8, is_file ? 1 + !!(entry->fts_statp->st_mode & S_IXUSR) : 0);
    sha256_add(sha256, head, sizeof(head));
    sha256_add(sha256, below, strlen(below));
    if (!is_file)
        return 0;
    AUTO_FD fd = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : sha256_of_file(fd, (uint64_t)entry->fts_statp->st_size, digest);
    if (r < 0)
        return error_set(err, -r, "read '%s'", entry->fts_path);
    sha256_add(sha256, digest, sizeof(digest));
    return 0;
}

int tree_digest(const char *source, struct sha256 *sha256, struct error *err)
{
    return walk_source(source, digest_entry, sha256, err);
}

/* --- delete ---------------------------------------------------------------------------------- */

static bool matches(char *const *patterns, size_t n, const char *path)
{
    for (size_t i = 0; i < n; i++)
        if (fnmatch(patterns[i], path, FNM_LEADING_DIR) == 0)
            return true;
    return false;
}

int tree_delete(const char *root, char *const *delete, size_t n_delete, char *const *keep,
                size_t n_keep, struct error *err)
{
    char *paths[] = {(char *)(uintptr_t)root, NULL};
    FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    size_t root_len = strlen(root);
    int r = 0;

    if (!fts)
        return error_set(err, errno, "read '%s'", root);
    for (FTSENT *entry; r == 0 && (entry = fts_read(fts)) != NULL;) {
        const char *path = entry->fts_path + root_len;

        if (entry->fts_info == FTS_D || entry->fts_level == 0 || !matches(delete, n_delete, path) ||
            matches(keep, n_keep, path))
            continue;
        /* A directory with something in it that is kept stays. */
        if (remove(entry->fts_accpath) < 0 && errno != ENOTEMPTY && errno != EEXIST)
            r = error_set(err, errno, "delete '%s' from the image", path);
    }
    fts_close(fts);
    return r;
}

/* --- finish and check ------------------------------------------------------------------------ */

static bool exists(int root_fd, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    AUTO_FD fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));

    return fd >= 0;
}

/* What the kernel gives PID 1 as its first files, and what every program expects to be there. */
static int make_devices(int root_fd, struct error *err)
{
    static const struct {
        const char *name;
        unsigned major, minor;
        mode_t mode;
    } devices[] = {{"console", 5, 1, 0600}, {"null", 1, 3, 0666}};
    AUTO_FD dev = open_in_root(root_fd, "dev");

    if (dev < 0)
        return error_set(err, errno, "open '/dev' in the image");
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        dev_t number = makedev(devices[i].major, devices[i].minor);

        int r = mknodat(dev, devices[i].name, S_IFCHR | devices[i].mode, number);
        if (r == 0)
            r = fchmodat(dev, devices[i].name, devices[i].mode, 0);
        if (r < 0 && errno != EEXIST)
            return error_set(err, errno, "make device '/dev/%s' in the image", devices[i].name);
    }
    return 0;
}

static const char *const directories[] = {
    "/dev",     "/proc", "/sys/fs/cgroup", "/tmp", "/run",  "/var/task", "/var/runtime",
    "/var/tmp", "/opt",  "/etc",           "/mnt", "/root", "/usr/bin",  "/usr/lib/mayfly"};

static const struct {
    const char *path, *text;
} files[] = {
    {"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                    "sbx_user1051:x:993:993::/tmp:/usr/sbin/nologin\n"
                    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"/etc/group", "root:x:0:\ntty:x:5:\nsbx_user1051:x:993:\nnogroup:x:65534:\n"},
    {"/etc/hosts", "127.0.0.1 localhost\n"},
    {"/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"
                           "protocols: files\nservices: files\n"},
};

int tree_finish(int root_fd, const char *agent, struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(directories); i++)
        r = tree_make_directory(root_fd, directories[i], err);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(files); i++)
        if (!exists(root_fd, files[i].path))
            r = tree_write_file(root_fd, files[i].path, files[i].text, 0644, err);
    if (r == 0)
        r = make_devices(root_fd, err);
    /* The root is read-only: what the host says about names is put into /run. */
    if (r == 0)
        r = tree_make_link(root_fd, "/etc/resolv.conf", "/run/resolv.conf", err);
    return r < 0 ? r : copy_file(root_fd, agent, "/sbin/mayfly-agent", err);
}

/* Programs are looked at where programs are; data files may hold anything. */
static int check_program(const FTSENT *entry, const char *path, struct error *err)
{
    uint8_t ident[ELF_IDENT_BYTES];
    char buffer[32];
    const char *slash = strrchr(path, '/');

    if (!(entry->fts_statp->st_mode & 0111) || !slash || slash - path < 4 ||
        (strncmp(slash - 4, "/bin", 4) != 0 && strncmp(slash - 4, "sbin", 4) != 0))
        return 0;
    AUTO_FD fd = open(entry->fts_accpath, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno, "read '%s' of the image", path);
    if (fd_pread_all(fd, ident, sizeof(ident), 0) < 0)
        return 0;
    const char *machine = image_content_elf_machine(ident, buffer);
    if (machine && strcmp(machine, IMAGE_ARCHITECTURE) != 0)
        return error_say(err, EBADMSG,
                         "'%s' of the image is a program for %s; guests are " IMAGE_ARCHITECTURE,
                         path, machine);
    return 0;
}

static int check_entry(const FTSENT *entry, const char *path, struct error *err)
{
    switch (entry->fts_info) {
    case FTS_F:
        return check_program(entry, path, err);
    case FTS_D:
    case FTS_DP:
    case FTS_SL:
    case FTS_SLNONE:
        return 0;
    case FTS_DEFAULT:
        if (S_ISCHR(entry->fts_statp->st_mode) && strncmp(path, "/dev/", 5) == 0)
            return 0;
        return error_say(err, EBADMSG, "'%s' of the image is a device, socket or FIFO; remove it",
                         path);
    default:
        return error_set(err, entry->fts_errno, "read '%s' of the image", path);
    }
}

int tree_check(const char *root, struct error *err)
{
    char *paths[] = {(char *)(uintptr_t)root, NULL};
    FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    int r = 0;

    if (!fts)
        return error_set(err, errno, "read '%s'", root);
    for (FTSENT *entry; r == 0 && (entry = fts_read(fts)) != NULL;)
        r = check_entry(entry, entry->fts_path + strlen(root), err);
    fts_close(fts);
    return r;
}
