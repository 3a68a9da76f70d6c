/* The event loop: see loop.h. */
#include "loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "fd.h"

enum { LOOP_BATCH = 32 };

struct loop_source {
    struct loop *loop; /* borrowed */
    int fd;            /* borrowed, unless owns_fd */
    bool owns_fd;      /* timers */
    bool removed;      /* freed once the batch that may still name it is done */
    loop_callback *callback;
    void *opaque;
    struct loop_source *next_removed;
};

struct loop {
    int epoll_fd;
    int stop_fd;
    _Atomic int result;
    _Atomic bool stopped;
    bool dispatching;
    struct loop_source *removed; /* to free after the running batch */
};

int loop_new(struct loop **ret_loop, struct error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    if (!loop)
        return error_set(err, ENOMEM, "make event loop");
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->stop_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->stop_fd, &event) < 0) {
        int r = error_set(err, errno, "make event loop");
        loop_free(loop);
        return r;
    }
    *ret_loop = loop;
    return 0;
}

static void free_removed(struct loop *loop)
{
    while (loop->removed) {
        struct loop_source *source = loop->removed;

        loop->removed = source->next_removed;
        free(source);
    }
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    free_removed(loop);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->stop_fd >= 0)
        close(loop->stop_fd);
    free(loop);
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_callback *callback, void *opaque,
             struct loop_source **ret_source)
{
    struct loop_source *source = calloc(1, sizeof(*source));
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (!source)
        return -ENOMEM;
    source->loop = loop;
    source->fd = fd;
    source->callback = callback;
    source->opaque = opaque;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int r = -errno;
        free(source);
        return r;
    }
    *ret_source = source;
    return 0;
}

int loop_change(struct loop_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    return epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0 ? -errno : 0;
}

void loop_remove(struct loop_source *source)
{
    if (!source || source->removed)
        return;
    struct loop *loop = source->loop;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    if (source->owns_fd)
        close(source->fd);
    source->removed = true;
    source->next_removed = loop->removed;
    loop->removed = source;
    if (!loop->dispatching)
        free_removed(loop);
}

int loop_add_timer(struct loop *loop, uint64_t delay_ms, loop_callback *callback, void *opaque,
                   struct loop_source **ret_source)
{
    /* A zero it_value would disarm the timer: the shortest delay is one nanosecond. */
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(delay_ms / 1000),
                     .tv_nsec = (long)(delay_ms % 1000) * 1000000 + (delay_ms == 0)}};
    AUTO_FD fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    if (fd < 0 || timerfd_settime(fd, 0, &when, NULL) < 0)
        return -errno;
    int r = loop_add(loop, fd, EPOLLIN | EPOLLONESHOT, callback, opaque, ret_source);
    if (r < 0)
        return r;
    (*ret_source)->owns_fd = true;
    fd_steal(&fd);
    return 0;
}

int loop_turn(struct loop *loop, int timeout_ms)
{
    struct epoll_event events[LOOP_BATCH];
    int n = epoll_wait(loop->epoll_fd, events, LOOP_BATCH, timeout_ms);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    loop->dispatching = true;
    for (int i = 0; i < n && !atomic_load(&loop->stopped); i++) {
        struct loop_source *source = events[i].data.ptr;

        if (source && !source->removed)
            source->callback(source->opaque, events[i].events);
    }
    loop->dispatching = false;
    free_removed(loop);
    return n;
}

int loop_run(struct loop *loop)
{
    while (!atomic_load(&loop->stopped)) {
        int r = loop_turn(loop, -1);

        if (r < 0)
            return r;
    }
    return atomic_load(&loop->result);
}

void loop_stop(struct loop *loop, int result)
{
    uint64_t one = 1;

    atomic_store(&loop->result, result);
    atomic_store(&loop->stopped, true);
    ssize_t n = write(loop->stop_fd, &one, sizeof(one));
    (void)n; /* only EAGAIN is possible: the loop is being woken already */
}
