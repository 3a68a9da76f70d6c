/*
 * The files of the log store: numbered segments in a directory for each function. See log_store.h.
 * All names are checked, all directories opened without following links: what is removed is the
 * store's own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/api/router.h"
#include "common/fd.h"
#include "log_store_internal.h"

enum { SEGMENTS_MAX = 4096, DIGITS = 10, SWEEP_MAX = 10000 };

static const int as_directory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

/* --- segments -------------------------------------------------------------------------------- */

static void segment_name(uint64_t number, char to[24])
{
    snprintf(to, 24, "%010llu", (unsigned long long)number);
}

/* Of a file's name; 0: it is none. */
static uint64_t segment_number(const char *name)
{
    if (strlen(name) != DIGITS || strspn(name, "0123456789") != DIGITS)
        return 0;
    return strtoull(name, NULL, 10);
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static DIR *list(int directory)
{
    int copy = openat(directory, ".", as_directory);
    DIR *listing = copy < 0 ? NULL : fdopendir(copy);

    if (!listing && copy >= 0)
        close(copy);
    return listing;
}

int log_segments_list(int directory, struct log_segments *ret_segments)
{
    struct log_segments segments = {.numbers = calloc(SEGMENTS_MAX, sizeof(uint64_t))};
    DIR *listing = list(directory);
    struct stat st;

    if (!segments.numbers || !listing) {
        int r = segments.numbers ? -errno : -ENOMEM;

        if (listing)
            closedir(listing);
        free(segments.numbers);
        return r;
    }
    for (struct dirent *item; segments.n < SEGMENTS_MAX && (item = readdir(listing));) {
        uint64_t number = segment_number(item->d_name);

        if (number == 0 || fstatat(directory, item->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        segments.numbers[segments.n++] = number;
        segments.bytes += (uint64_t)st.st_size;
        if (st.st_mtim.tv_sec > segments.newest_s)
            segments.newest_s = st.st_mtim.tv_sec;
    }
    closedir(listing);
    qsort(segments.numbers, segments.n, sizeof(uint64_t), compare_numbers);
    *ret_segments = segments;
    return 0;
}

void log_segments_done(struct log_segments *segments)
{
    free(segments->numbers);
}

int log_segment_open(int directory, uint64_t number, int flags)
{
    char name[24];

    segment_name(number, name);
    int fd = openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

/* --- functions ------------------------------------------------------------------------------- */

static int open_directory(int parent, const char *name, bool makes)
{
    if (!function_name_is_valid(name))
        return -EINVAL;
    if (makes && mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(parent, name, as_directory);
    return fd < 0 ? -errno : fd;
}

int log_function_open(int root, const char *tenant, const char *function, bool makes)
{
    AUTO_FD parent = open_directory(root, tenant, makes);

    return parent < 0 ? parent : open_directory(parent, function, makes);
}

void log_function_remove(int root, const char *tenant, const char *function)
{
    AUTO_FD parent = open_directory(root, tenant, false);
    AUTO_FD directory = parent < 0 ? -1 : open_directory(parent, function, false);
    DIR *listing = directory < 0 ? NULL : list(directory);

    if (!listing)
        return;
    for (struct dirent *item; (item = readdir(listing));)
        if (segment_number(item->d_name) != 0)
            unlinkat(directory, item->d_name, 0);
    closedir(listing);
    unlinkat(parent, function, AT_REMOVEDIR);
}

/* --- sweeping -------------------------------------------------------------------------------- */

struct silent {
    char function[LOG_NAME_BYTES];
    int64_t newest_s;
    uint64_t bytes;
};

static int compare_silent(const void *a, const void *b)
{
    int64_t x = ((const struct silent *)a)->newest_s, y = ((const struct silent *)b)->newest_s;

    return x < y ? -1 : x > y;
}

static size_t list_functions(int directory, struct silent *found, uint64_t *ret_bytes)
{
    DIR *listing = list(directory);
    size_t n = 0;

    *ret_bytes = 0;
    for (struct dirent *item; listing && n < SWEEP_MAX && (item = readdir(listing));) {
        AUTO_FD fd = open_directory(directory, item->d_name, false);
        struct log_segments segments;

        if (fd < 0 || log_segments_list(fd, &segments) < 0)
            continue;
        snprintf(found[n].function, sizeof(found[n].function), "%.64s", item->d_name);
        found[n].newest_s = segments.newest_s;
        found[n++].bytes = segments.bytes;
        *ret_bytes += segments.bytes;
        log_segments_done(&segments);
    }
    if (listing)
        closedir(listing);
    return n;
}

static void sweep_tenant(int root, const char *tenant, int64_t oldest_s, uint64_t limit)
{
    AUTO_FD directory = open_directory(root, tenant, false);
    AUTO_FREE struct silent *found =
        directory < 0 ? NULL : calloc(SWEEP_MAX, sizeof(struct silent));
    uint64_t bytes = 0;
    size_t n = found ? list_functions(directory, found, &bytes) : 0;

    if (n > 0)
        qsort(found, n, sizeof(*found), compare_silent);
    for (size_t i = 0; i < n && (found[i].newest_s < oldest_s || bytes > limit); i++) {
        log_function_remove(root, tenant, found[i].function);
        bytes -= found[i].bytes;
    }
    if (directory >= 0)
        unlinkat(root, tenant, AT_REMOVEDIR); /* if it is empty */
}

void log_sweep(int root, int64_t oldest_s, uint64_t tenant_bytes)
{
    DIR *listing = list(root);

    for (struct dirent *item; listing && (item = readdir(listing));)
        if (function_name_is_valid(item->d_name))
            sweep_tenant(root, item->d_name, oldest_s, tenant_bytes);
    if (listing)
        closedir(listing);
}
