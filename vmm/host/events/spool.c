/* The file spool: see spool.h. */
#include "spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "host/api/router.h"
#include "common/fd.h"
#include "delivery_target.h"

enum { PATH_BYTES = 4096, FILE_NAME_BYTES = 80, LOOK_BACK_BYTES = 65536 };

#define TENANT_BYTES (UINT64_C(1) << 30)

struct spool {
    char directory[PATH_BYTES]; /* for messages */
    int fd;
    uint64_t tenant_bytes;
    pthread_mutex_t lock; /* of all writing: a file's end is looked at, then written */
};

/* openat2(2): Linux 5.6, older than any kernel with what else Mayfly needs. */
static int open_beneath(int directory, const char *name, int flags, mode_t mode)
{
    struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC | O_NOFOLLOW),
                           .mode = mode,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, directory, name, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

int spool_open(const char *directory, uint64_t tenant_bytes, struct spool **ret_spool,
               struct error *err)
{
    struct spool *spool = calloc(1, sizeof(*spool));

    if (!spool)
        return error_set(err, ENOMEM, "open the spool '%s'", directory);
    if (mkdir(directory, 0700) < 0 && errno != EEXIST) {
        free(spool);
        return error_set(err, errno, "make the spool's directory '%s'", directory);
    }
    spool->fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (spool->fd < 0) {
        free(spool);
        return error_set(err, errno, "open the spool's directory '%s'", directory);
    }
    snprintf(spool->directory, sizeof(spool->directory), "%s", directory);
    spool->tenant_bytes = tenant_bytes ? tenant_bytes : TENANT_BYTES;
    pthread_mutex_init(&spool->lock, NULL);
    *ret_spool = spool;
    return 0;
}

void spool_close(struct spool *spool)
{
    if (!spool)
        return;
    pthread_mutex_destroy(&spool->lock);
    close(spool->fd);
    free(spool);
}

/* --- a tenant's directory -------------------------------------------------------------------- */

static int open_tenant(struct spool *spool, const char *tenant, int *ret_fd, struct error *err)
{
    int fd = open_beneath(spool->fd, tenant, O_RDONLY | O_DIRECTORY, 0);

    if (fd == -ENOENT) {
        if (mkdirat(spool->fd, tenant, 0700) == 0)
            (void)fsync(spool->fd);
        fd = open_beneath(spool->fd, tenant, O_RDONLY | O_DIRECTORY, 0);
    }
    if (fd < 0)
        return error_set(err, -fd, "open the spool '%s/%s'", spool->directory, tenant);
    *ret_fd = fd;
    return 0;
}

/* What the tenant's files hold together; any that lie there count. */
static int measure(int tenant_fd, uint64_t *ret_bytes, size_t *ret_files)
{
    int fd = openat(tenant_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    struct stat st;

    *ret_bytes = *ret_files = 0;
    if (!entries) {
        int code = errno;

        if (fd >= 0)
            close(fd);
        return -code;
    }
    while ((entry = readdir(entries))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(tenant_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        *ret_bytes += (uint64_t)st.st_size;
        ++*ret_files;
    }
    closedir(entries);
    return 0;
}

static int check_room(const struct spool *spool, int tenant_fd, const char *tenant, bool is_new,
                      size_t len, struct error *err)
{
    uint64_t bytes;
    size_t files;
    int r = measure(tenant_fd, &bytes, &files);

    if (r < 0)
        return error_set(err, -r, "look at the spool '%s/%s'", spool->directory, tenant);
    if (is_new && files >= SPOOL_FILES_MAX)
        return error_say(err, EDQUOT, "the spool '%s/%s' has %zu files (limit %d): take some away",
                         spool->directory, tenant, files, SPOOL_FILES_MAX);
    if (bytes > spool->tenant_bytes || len + 1 > spool->tenant_bytes - bytes)
        return error_say(err, EDQUOT,
                         "the spool '%s/%s' has %llu bytes of its %llu: take files away from it",
                         spool->directory, tenant, (unsigned long long)bytes,
                         (unsigned long long)spool->tenant_bytes);
    return 0;
}

/* --- a file ---------------------------------------------------------------------------------- */

/* Where its last whole line ends: 0 where there is none, or -errno. */
static off_t end_of_lines(int fd, off_t size)
{
    char block[LOOK_BACK_BYTES];

    while (size > 0) {
        size_t n = size < LOOK_BACK_BYTES ? (size_t)size : LOOK_BACK_BYTES;
        int r = fd_pread_all(fd, block, n, size - (off_t)n);

        if (r < 0)
            return r;
        const char *last = memrchr(block, '\n', n);
        if (last)
            return size - (off_t)n + (last - block) + 1;
        size -= (off_t)n;
    }
    return 0;
}

/* One write with the line's end in it, as far as the kernel lets us. */
static int write_line(int fd, const void *line, size_t len)
{
    char *copy = malloc(len + 1);
    int r;

    if (!copy)
        return -ENOMEM;
    memcpy(copy, line, len);
    for (size_t i = 0; i < len; i++)
        if (copy[i] == '\n' || copy[i] == '\r')
            copy[i] = ' ';
    copy[len] = '\n';
    r = fd_write_all(fd, copy, len + 1);
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    free(copy);
    return r;
}

/* All of it or nothing. */
static int append_to(int fd, const void *line, size_t len)
{
    struct stat st;
    off_t end;
    int r;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_nlink > 1)
        return -ELOOP; /* a device, or a second name of another's file */
    end = end_of_lines(fd, st.st_size);
    if (end < 0)
        return (int)end;
    if (end < st.st_size && ftruncate(fd, end) < 0)
        return -errno;
    r = write_line(fd, line, len);
    if (r < 0 && ftruncate(fd, end) < 0)
        return -errno; /* a part of a line may be there now: the next append takes it away */
    return r;
}

static int append(struct spool *spool, int tenant_fd, const char *tenant, const char *name,
                  const void *line, size_t len, struct error *err)
{
    char file[FILE_NAME_BYTES];
    struct stat st;
    bool is_new;
    int r;

    snprintf(file, sizeof(file), "%s.jsonl", name);
    is_new = fstatat(tenant_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0;
    r = check_room(spool, tenant_fd, tenant, is_new, len, err);
    if (r < 0)
        return r;
    /* O_NONBLOCK: a pipe that lies there must not hold us. */
    AUTO_FD fd =
        open_beneath(tenant_fd, file, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, 0600);
    r = fd < 0 ? fd : append_to(fd, line, len);
    if (r < 0)
        return error_set(err, -r, "write to the spool '%s/%s/%s'", spool->directory, tenant, file);
    if (is_new)
        (void)fsync(tenant_fd);
    return 0;
}

int spool_append(struct spool *spool, const char *tenant, const char *name, const void *line,
                 size_t len_bytes, struct error *err)
{
    int fd = -1, r;

    if (!function_name_is_valid(tenant) || !spool_name_is_valid(name))
        return error_say(err, EINVAL, "that is no spool's name");
    pthread_mutex_lock(&spool->lock);
    r = open_tenant(spool, tenant, &fd, err);
    if (r == 0) {
        r = append(spool, fd, tenant, name, line, len_bytes, err);
        close(fd);
    }
    pthread_mutex_unlock(&spool->lock);
    return r;
}
