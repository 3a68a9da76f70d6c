/*
 * Storing the function's code. Process: mayfly-agent, as root, before the function runs.
 * Input: paths and link targets chosen by the function's owner, so by an attacker. Invariant: every
 * name is created relative to a directory fd that was opened beneath the root without following a
 * single link, so links stored earlier lead the agent nowhere.
 */
#include "guest-agent/code.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/openat2.h>

bool task_code_path_valid(const char *path)
{
    size_t len = strlen(path);

    if (len == 0 || len > TASK_CODE_PATH_MAX)
        return false;
    for (const char *part = path;; part++) {
        size_t part_len = strcspn(part, "/");

        if (part_len == 0 || part_len > 255 || (part_len == 1 && part[0] == '.') ||
            (part_len == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        part += part_len;
        if (*part == '\0')
            return true;
    }
}

int task_code_open(struct task_code *code, const char *directory, struct failure *failure)
{
    code->parent_fd = -1;
    code->parent[0] = '\0';
    code->has_libraries = false;
    code->root_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (code->root_fd < 0)
        return failure_set(failure, errno, "open '%s'", directory);
    return 0;
}

static void forget_parent(struct task_code *code)
{
    if (code->parent_fd >= 0)
        close(code->parent_fd);
    code->parent_fd = -1;
    code->parent[0] = '\0';
}

void task_code_close(struct task_code *code)
{
    forget_parent(code);
    if (code->root_fd >= 0)
        close(code->root_fd);
    code->root_fd = -1;
}

static int open_directory(const struct task_code *code, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, code->root_fd, path, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* Make every directory of @path that is missing, one part after the other, each from an fd. */
static int make_directories(const struct task_code *code, char *path)
{
    int parent = code->root_fd;
    char *name = path;
    int result = 0;

    for (char *cut = strchr(path, '/');; cut = strchr(cut + 1, '/')) {
        int fd;

        if (cut)
            *cut = '\0';
        if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
            result = -errno;
        fd = result < 0 ? result : open_directory(code, path);
        if (parent != code->root_fd)
            close(parent);
        if (cut)
            *cut = '/';
        if (fd < 0 || !cut)
            return fd;
        parent = fd;
        name = cut + 1;
    }
}

/* The directory that @path's last part goes into; *ret_name is that part. Borrowed from @code. */
static int find_parent(struct task_code *code, const char *path, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char parent[TASK_CODE_PATH_MAX + 1];
    size_t len;
    int fd;

    *ret_name = slash ? slash + 1 : path;
    if (!slash)
        return code->root_fd;
    len = (size_t)(slash - path);
    memcpy(parent, path, len);
    parent[len] = '\0';
    if (code->parent_fd >= 0 && strcmp(parent, code->parent) == 0)
        return code->parent_fd;
    fd = open_directory(code, parent);
    if (fd == -ENOENT)
        fd = make_directories(code, parent);
    if (fd < 0)
        return fd;
    forget_parent(code);
    code->parent_fd = fd;
    memcpy(code->parent, parent, len + 1);
    return fd;
}

/* What its owner may do, all may do, but write: sandboxes differ in users, archives in modes. */
static mode_t readable_mode(uint32_t mode)
{
    return (mode & 0111) ? 0755 : 0644;
}

static int store_file(int parent, const char *name, const Mayfly__Agent__CodeEntry *entry)
{
    int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
    const uint8_t *data = entry->data.data;
    size_t left = entry->data.len;
    int result = 0;
    int fd;

    fd = openat(parent, name, flags | (entry->append ? O_APPEND : O_TRUNC),
                readable_mode(entry->mode));
    if (fd < 0)
        return -errno;
    while (left > 0 && result == 0) {
        ssize_t written = write(fd, data, left);

        if (written < 0 && errno != EINTR)
            result = -errno;
        if (written > 0) {
            data += written;
            left -= (size_t)written;
        }
    }
    close(fd);
    return result;
}

static int store_link(int parent, const char *name, const Mayfly__Agent__CodeEntry *entry)
{
    char target[TASK_CODE_PATH_MAX + 1];

    if (entry->data.len == 0 || entry->data.len > TASK_CODE_PATH_MAX ||
        memchr(entry->data.data, '\0', entry->data.len))
        return -EINVAL;
    memcpy(target, entry->data.data, entry->data.len);
    target[entry->data.len] = '\0';
    return symlinkat(target, parent, name) < 0 ? -errno : 0;
}

static bool is_library(const char *name)
{
    const char *suffix = strstr(name, ".so");

    return suffix && (suffix[3] == '\0' || suffix[3] == '.');
}

int task_code_store(struct task_code *code, const Mayfly__Agent__CodeEntry *entry,
                    struct failure *failure)
{
    const char *name;
    int result;
    int parent;

    if (!task_code_path_valid(entry->path))
        return failure_say(failure, EINVAL, "code path '%.64s' is not a plain relative path",
                           entry->path);
    parent = find_parent(code, entry->path, &name);
    if (parent < 0)
        return failure_set(failure, -parent, "make the directory of '%.128s'", entry->path);
    switch (entry->type) {
    case MAYFLY__AGENT__CODE_ENTRY__TYPE__FILE:
        code->has_libraries = code->has_libraries || is_library(name);
        result = store_file(parent, name, entry);
        break;
    case MAYFLY__AGENT__CODE_ENTRY__TYPE__DIRECTORY:
        result = mkdirat(parent, name, 0755) < 0 && errno != EEXIST ? -errno : 0;
        break;
    case MAYFLY__AGENT__CODE_ENTRY__TYPE__SYMLINK:
        result = store_link(parent, name, entry);
        break;
    default:
        result = -EINVAL;
    }
    if (result == -ENOSPC || result == -ENOMEM)
        return failure_say(failure, ENOSPC,
                           "the code does not fit into the guest's memory (at '%.128s'): give the "
                           "function more memory",
                           entry->path);
    if (result < 0)
        return failure_set(failure, -result, "store '%.128s'", entry->path);
    return 0;
}
