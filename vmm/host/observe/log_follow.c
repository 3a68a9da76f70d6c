/*
 * Following a function's log: see log_store.h. A follower reads the store's files by itself, behind
 * the writer; the store's thread only tells it that there is more.
 *
 * Locks: the store's is held while a follower is woken, and a wake may take locks of the server's;
 * so log_follower_read(), which is called under those, takes none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/fd.h"
#include "log_store_internal.h"

enum { QUIET_US = 10000000 }; /* then an empty line */

static int check_room(const struct log_store *store, const char *tenant, struct error *err)
{
    const struct log_follower *each;
    size_t n = 0;

    if (store->is_ending)
        return error_say(err, ESHUTDOWN, "the daemon is being stopped");
    LIST_FOREACH(each, &store->followers, in_store)
    n += strcmp(each->tenant, tenant) == 0;
    if (store->n_followers < LOG_FOLLOWERS_MAX && n < LOG_FOLLOWERS_TENANT_MAX)
        return 0;
    return error_say(err, EAGAIN, "too many follow logs already");
}

int log_follower_new(struct log_store *store, const char *tenant, const char *function,
                     const struct log_position *from, struct log_follower **ret_follower,
                     struct error *err)
{
    struct log_follower *follower = calloc(1, sizeof(*follower));
    int r;

    if (!follower)
        return error_set(err, ENOMEM, "follow a log");
    follower->store = store;
    strncpy(follower->tenant, tenant, sizeof(follower->tenant) - 1);
    strncpy(follower->function, function, sizeof(follower->function) - 1);
    follower->directory = follower->fd = -1;
    follower->segment = from->segment;
    follower->offset_bytes = from->offset_bytes;
    follower->sent_us = clock_now_us();
    pthread_mutex_lock(&store->lock);
    r = check_room(store, tenant, err);
    if (r == 0) {
        LIST_INSERT_HEAD(&store->followers, follower, in_store);
        store->n_followers++;
    }
    pthread_mutex_unlock(&store->lock);
    if (r < 0)
        free(follower);
    else
        *ret_follower = follower;
    return r;
}

void log_follower_on_more(struct log_follower *follower, void (*wake)(void *), void *opaque)
{
    pthread_mutex_lock(&follower->store->lock);
    follower->wake = wake;
    follower->wake_opaque = opaque;
    pthread_mutex_unlock(&follower->store->lock);
}

void log_follower_free(struct log_follower *follower)
{
    struct log_store *store = follower->store;

    pthread_mutex_lock(&store->lock);
    LIST_REMOVE(follower, in_store);
    store->n_followers--;
    pthread_mutex_unlock(&store->lock);
    fd_close_at_exit(&follower->fd);
    fd_close_at_exit(&follower->directory);
    free(follower);
}

void log_followers_wake(struct log_store *store, const char *tenant, const char *function,
                        bool ends)
{
    struct log_follower *each;

    pthread_mutex_lock(&store->lock);
    LIST_FOREACH(each, &store->followers, in_store)
    {
        if (tenant && (strcmp(each->tenant, tenant) != 0 || strcmp(each->function, function) != 0))
            continue;
        if (ends)
            atomic_store(&each->has_ended, true);
        if (each->wake)
            each->wake(each->wake_opaque);
    }
    pthread_mutex_unlock(&store->lock);
}

void log_store_end_followers(struct log_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->is_ending = true;
    pthread_mutex_unlock(&store->lock);
    log_followers_wake(store, NULL, NULL, true);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Where the first segment after the present one is: -EAGAIN where there is none yet. */
static int find_next(const struct log_follower *follower, uint64_t *ret_number)
{
    struct log_segments segments;
    int r = log_segments_list(follower->directory, &segments);
    size_t i = 0;

    if (r < 0)
        return r;
    while (i < segments.n && segments.numbers[i] <= follower->segment)
        i++;
    r = i < segments.n ? 0 : -EAGAIN;
    if (r == 0)
        *ret_number = segments.numbers[i];
    log_segments_done(&segments);
    return r;
}

/* Opens it; the present one stays as it is. The descriptor, or -EAGAIN; -ENOENT: the present one
 * was removed, and nothing follows it. */
static int open_next(const struct log_follower *follower, uint64_t *ret_number)
{
    uint64_t number = follower->segment + 1;
    struct stat st = {.st_nlink = 1};
    int fd = log_segment_open(follower->directory, number, O_RDONLY);

    if (follower->fd >= 0 && fstat(follower->fd, &st) < 0)
        return -errno;
    /* Behind by so much that the oldest were dropped? */
    if (fd < 0 && (follower->segment == 0 || st.st_nlink == 0)) {
        if (find_next(follower, &number) < 0)
            return st.st_nlink == 0 ? -ENOENT : -EAGAIN;
        fd = log_segment_open(follower->directory, number, O_RDONLY);
    }
    *ret_number = number;
    return fd < 0 ? -EAGAIN : fd;
}

static void go_to(struct log_follower *follower, int fd, uint64_t number)
{
    fd_close_at_exit(&follower->fd);
    follower->fd = fd;
    follower->segment = number;
    follower->offset_bytes = 0;
}

/* The segment to go on with: is there any yet? */
static bool open_present(struct log_follower *follower)
{
    uint64_t number;
    int fd;

    if (follower->fd >= 0)
        return true;
    if (follower->directory < 0)
        follower->directory =
            log_function_open(follower->store->root, follower->tenant, follower->function, false);
    if (follower->directory < 0)
        return false;
    if (follower->segment > 0)
        follower->fd = log_segment_open(follower->directory, follower->segment, O_RDONLY);
    if (follower->fd < 0) {
        fd = open_next(follower, &number);
        if (fd >= 0)
            go_to(follower, fd, number);
    }
    return follower->fd >= 0;
}

/* Bytes of the present segment: 0 at its end. */
static size_t read_present(struct log_follower *follower, char *to, size_t size)
{
    ssize_t n = pread(follower->fd, to, size, (off_t)follower->offset_bytes);

    if (n <= 0)
        return 0;
    follower->offset_bytes += (size_t)n;
    return (size_t)n;
}

/* Bytes of the present segment, or else of the next. */
static size_t read_on(struct log_follower *follower, char *to, size_t size)
{
    size_t n = read_present(follower, to, size);
    uint64_t number;
    int fd = n > 0 ? -EAGAIN : open_next(follower, &number);

    if (fd == -ENOENT)
        atomic_store(&follower->has_ended, true);
    if (fd < 0)
        return n;
    /* Nothing is added to a segment once there is a next one: what it does not have now, it never
     * has. */
    n = read_present(follower, to, size);
    if (n > 0) {
        close(fd);
        return n;
    }
    go_to(follower, fd, number);
    if (follower->is_within_line) { /* the disk was full: the rest of the line never came */
        to[0] = '\n';
        return 1;
    }
    return read_present(follower, to, size);
}

static ptrdiff_t sent(struct log_follower *follower, const char *bytes, size_t n)
{
    follower->is_within_line = bytes[n - 1] != '\n';
    follower->sent_us = clock_now_us();
    return (ptrdiff_t)n;
}

ptrdiff_t log_follower_read(struct log_follower *follower, void *to, size_t size)
{
    size_t n = open_present(follower) ? read_on(follower, to, size) : 0;

    if (n > 0)
        return sent(follower, to, n);
    if (atomic_load(&follower->has_ended))
        return -1;
    if (follower->is_within_line || clock_now_us() - follower->sent_us < QUIET_US)
        return 0;
    memcpy(to, "\n", 1);
    return sent(follower, to, 1);
}
