/*
 * The pool of shells: see shell_pool.h. Process: the host's daemon; trusts its callers.
 *
 * Makers (threads) do what shell_policy_next() says, one step at a time, outside the lock; the
 * watcher (a thread) sleeps until a shell that waits dies. Invariant: a shell is in exactly one
 * place: with a maker, in its shape's stock, among the doomed, or with a caller.
 */
#include "shell_pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cpu_template.h"
#include "common/fd.h"
#include "shell_policy.h"

enum {
    MAKERS_MIN = 2, /* one may be busy with a monitor that does not answer */
    MAKERS_MAX = 16,
    WATCHER_BATCH = 16,
    REFILL_MS = 50,
    STOP_EVENT = 0,           /* the watcher's; shells have serials from 1 */
    SETTLED_NS = 10000000000, /* one that lived for so long was well made */
};

/* A shell in stock, or doomed. */
struct stocked {
    struct stocked *next;
    struct shell shell;
    uint64_t serial;
    uint64_t made_ns;
};

/* A caller of shell_pool_make(), on its stack; in its shape's list until it is served. */
struct waiter {
    struct waiter *next;
    pthread_cond_t served;
    bool is_served;
    int result;
    struct shell shell;
    struct error err;
};

struct shape {
    char *image;                             /* owned */
    const struct cpu_template *cpu_template; /* NULL: the host's CPU */
    uint32_t memory_mib;
    uint32_t cpu_mib;
    uint32_t vcpus;
    struct stocked *stock;  /* owned; the newest first */
    struct waiter *waiters; /* the oldest first */
};

struct shell_pool {
    struct shell_pool_config config;
    pthread_t makers[MAKERS_MAX];
    pthread_t watcher;
    uint32_t n_makers; /* that run */
    bool has_watcher;
    int epoll;   /* owned: what the watcher waits for */
    int stop_fd; /* owned eventfd */
    pthread_cond_t work;

    pthread_mutex_t lock; /* of all below */
    bool is_stopping;
    struct shape shapes[SHELL_SHAPES_MAX];
    struct shell_demand demand[SHELL_SHAPES_MAX]; /* of shapes[] */
    size_t n_shapes;
    struct stocked *doomed; /* owned; to be ended by a maker */
    uint64_t last_serial;   /* of shells and of uses */
    struct shell_pool_status counts;
};

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Waits until signalled or @at_ns. Returns 0 or ETIMEDOUT. */
static int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t at_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(at_ns / 1000000000u),
                                   .tv_nsec = (long)(at_ns % 1000000000u)};

    if (at_ns == UINT64_MAX)
        return pthread_cond_wait(cond, lock);
    return pthread_cond_timedwait(cond, lock, &until);
}

/* --- shapes, under the lock ------------------------------------------------------------------ */

static void doom(struct shell_pool *pool, struct stocked *item)
{
    item->next = pool->doomed;
    pool->doomed = item;
    pthread_cond_signal(&pool->work);
}

/* Takes @item out of its stock: nobody watches it any more. */
static void unstock(struct shell_pool *pool, size_t shape, struct stocked **link)
{
    struct stocked *item = *link;

    *link = item->next;
    pool->demand[shape].ready--;
    epoll_ctl(pool->epoll, EPOLL_CTL_DEL, item->shell.hypervisor->end_fd(item->shell.vm), NULL);
}

static void doom_stock(struct shell_pool *pool, size_t shape)
{
    while (pool->shapes[shape].stock) {
        struct stocked *item = pool->shapes[shape].stock;

        unstock(pool, shape, &pool->shapes[shape].stock);
        doom(pool, item);
    }
}

/* Room for another shape: a new place, or that of the one that nobody has used for longest. */
static size_t find_place(struct shell_pool *pool)
{
    size_t best = SHELL_SHAPES_MAX;

    if (pool->n_shapes < SHELL_SHAPES_MAX)
        return pool->n_shapes++;
    for (size_t i = 0; i < pool->n_shapes; i++)
        if (pool->demand[i].waiting == 0 && pool->demand[i].making == 0 &&
            (best == SHELL_SHAPES_MAX || pool->demand[i].last_used < pool->demand[best].last_used))
            best = i;
    if (best < SHELL_SHAPES_MAX) {
        doom_stock(pool, best);
        free(pool->shapes[best].image);
    }
    return best;
}

static const struct cpu_template *template_of(const struct shell_shape *shape)
{
    return shape->cpu_template ? cpu_template_find(shape->cpu_template) : NULL;
}

/* The place of @shape, which is being used now. Returns it, -ENOMEM or -EBUSY. */
static int use_shape(struct shell_pool *pool, const struct shell_shape *shape)
{
    size_t i = 0;

    while (i < pool->n_shapes &&
           (pool->shapes[i].memory_mib != shape->memory_mib ||
            pool->shapes[i].cpu_mib != shape->cpu_mib || pool->shapes[i].vcpus != shape->vcpus ||
            pool->shapes[i].cpu_template != template_of(shape) ||
            strcmp(pool->shapes[i].image, shape->image) != 0))
        i++;
    if (i == pool->n_shapes) {
        char *image = strdup(shape->image);

        if (!image)
            return -ENOMEM;
        i = find_place(pool);
        if (i == SHELL_SHAPES_MAX) {
            free(image);
            return -EBUSY;
        }
        pool->shapes[i] = (struct shape){.image = image,
                                         .cpu_template = template_of(shape),
                                         .memory_mib = shape->memory_mib,
                                         .cpu_mib = shape->cpu_mib,
                                         .vcpus = shape->vcpus};
        pool->demand[i] = (struct shell_demand){0};
    }
    pool->demand[i].last_used = ++pool->last_serial;
    return (int)i;
}

/* One more failure in a row: the stock of that shape waits for longer and longer. */
static void count_failure(struct shell_pool *pool, size_t shape, const struct error *err)
{
    struct shell_demand *demand = &pool->demand[shape];

    demand->failures++;
    demand->retry_at_ns = clock_now_ns() + shell_policy_pause_ns(demand->failures);
    pool->counts.last_error = *err;
}

/* A shell died while it waited: out with it. */
static void bury(struct shell_pool *pool, size_t shape, struct stocked **link)
{
    struct stocked *item = *link;
    struct error err;

    if (clock_now_ns() - item->made_ns > SETTLED_NS)
        pool->demand[shape].failures = 0;
    pool->counts.died++;
    error_say(&err, ECONNRESET, "the empty VM '%s' ended while it waited", item->shell.id);
    count_failure(pool, shape, &err);
    unstock(pool, shape, link);
    doom(pool, item);
}

/* --- makers ---------------------------------------------------------------------------------- */

static void serve(struct shell_pool *pool, size_t shape, int result, const struct shell *shell,
                  const struct error *err)
{
    struct waiter *waiter = pool->shapes[shape].waiters;

    pool->shapes[shape].waiters = waiter->next;
    pool->demand[shape].waiting--;
    waiter->is_served = true;
    waiter->result = result;
    if (result == 0)
        waiter->shell = *shell;
    else
        waiter->err = *err;
    pthread_cond_signal(&waiter->served);
}

/* Puts a new shell where it is wanted most. */
static void stock_or_serve(struct shell_pool *pool, size_t shape, struct stocked *item)
{
    struct epoll_event event = {.events = EPOLLIN};

    pool->counts.made++;
    if (pool->shapes[shape].waiters) {
        pool->demand[shape].failures = 0;
        serve(pool, shape, 0, &item->shell, NULL);
        free(item);
        return;
    }
    item->serial = ++pool->last_serial;
    item->made_ns = clock_now_ns();
    event.data.u64 = item->serial;
    if (epoll_ctl(pool->epoll, EPOLL_CTL_ADD, item->shell.hypervisor->end_fd(item->shell.vm),
                  &event) < 0) {
        struct error err;

        error_set(&err, errno, "watch an empty VM");
        pool->counts.failed++;
        count_failure(pool, shape, &err);
        doom(pool, item);
        return;
    }
    item->next = pool->shapes[shape].stock;
    pool->shapes[shape].stock = item;
    pool->demand[shape].ready++;
}

static int make_one(struct shell_pool *pool, const struct shell_shape *shape,
                    struct stocked **ret_item, struct error *err)
{
    struct stocked *item = calloc(1, sizeof(*item));

    if (!item)
        return error_set(err, ENOMEM, "make an empty VM");
    int r = shell_make(&pool->config.machine, shape, &item->shell, err);
    if (r < 0) {
        free(item);
        return error_wrap(err, "make an empty VM of %u MiB", shape->memory_mib);
    }
    *ret_item = item;
    return 0;
}

/* The lock is given up while a shell is made; the shape stays where it is, since it is counted. */
static void step_make(struct shell_pool *pool, size_t i)
{
    const struct cpu_template *template = pool->shapes[i].cpu_template;
    const struct shell_shape shape = {.image = pool->shapes[i].image,
                                      .cpu_template = template ? template->name : NULL,
                                      .memory_mib = pool->shapes[i].memory_mib,
                                      .cpu_mib = pool->shapes[i].cpu_mib,
                                      .vcpus = pool->shapes[i].vcpus};
    struct stocked *item = NULL;
    struct error err;

    pool->demand[i].making++;
    pthread_mutex_unlock(&pool->lock);
    int r = make_one(pool, &shape, &item, &err);
    pthread_mutex_lock(&pool->lock);
    pool->demand[i].making--;
    if (r == 0) {
        stock_or_serve(pool, i, item);
        return;
    }
    pool->counts.failed++;
    count_failure(pool, i, &err);
    if (pool->shapes[i].waiters)
        serve(pool, i, r, NULL, &err);
}

static void step_bury(struct shell_pool *pool)
{
    struct stocked *item = pool->doomed;

    pool->doomed = item->next;
    pthread_mutex_unlock(&pool->lock);
    shell_done(&item->shell);
    free(item);
    pthread_mutex_lock(&pool->lock);
}

static void end_newest(struct shell_pool *pool, size_t shape)
{
    struct stocked *item = pool->shapes[shape].stock;

    unstock(pool, shape, &pool->shapes[shape].stock);
    doom(pool, item);
}

/* Somebody waits for it. */
static bool is_urgent(const struct shell_pool *pool, const struct shell_step *step)
{
    const struct shell_demand *demand = &pool->demand[step->shape];

    return step->action == SHELL_MAKE && demand->waiting > demand->making;
}

static void *maker_main(void *opaque)
{
    struct shell_pool *pool = opaque;

    pthread_mutex_lock(&pool->lock);
    while (!pool->is_stopping) {
        struct shell_step step =
            shell_policy_next(pool->demand, pool->n_shapes, pool->config.per_shape,
                              pool->config.limit, clock_now_ns());

        if (step.action == SHELL_END)
            end_newest(pool, step.shape);
        else if (pool->doomed && !is_urgent(pool, &step))
            step_bury(pool);
        else if (step.action == SHELL_MAKE)
            step_make(pool, step.shape);
        else
            cond_wait_until(&pool->work, &pool->lock, step.at_ns);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* --- watcher --------------------------------------------------------------------------------- */

/* It may have been taken since: then it is no longer found, and none of ours. */
static void look_at(struct shell_pool *pool, uint64_t serial)
{
    for (size_t i = 0; i < pool->n_shapes; i++) {
        for (struct stocked **link = &pool->shapes[i].stock; *link; link = &(*link)->next) {
            if ((*link)->serial == serial && shell_is_dead(&(*link)->shell)) {
                bury(pool, i, link);
                return;
            }
        }
    }
}

static void *watcher_main(void *opaque)
{
    struct shell_pool *pool = opaque;
    struct epoll_event events[WATCHER_BATCH];

    for (;;) {
        int n = epoll_wait(pool->epoll, events, WATCHER_BATCH, -1);

        pthread_mutex_lock(&pool->lock);
        for (int i = 0; i < n; i++)
            if (events[i].data.u64 != STOP_EVENT)
                look_at(pool, events[i].data.u64);
        bool is_stopping = pool->is_stopping;
        pthread_mutex_unlock(&pool->lock);
        if (is_stopping)
            return NULL;
    }
}

/* --- callers --------------------------------------------------------------------------------- */

/* The newest living one of the stock. Returns NULL if there is none. */
static struct stocked *take_living(struct shell_pool *pool, size_t shape)
{
    struct stocked **stock = &pool->shapes[shape].stock;

    while (*stock && shell_is_dead(&(*stock)->shell))
        bury(pool, shape, stock);
    struct stocked *item = *stock;
    if (item)
        unstock(pool, shape, stock);
    return item;
}

/* Making another takes more of a CPU than the restore that this one is for, and whoever waits for
 * that comes first. From the first that was taken on, so that a steady stream does not put it off
 * for ever. */
static void rest_a_little(struct shell_demand *demand)
{
    uint64_t now_ns = clock_now_ns();

    if (demand->failures > 0 || demand->retry_at_ns <= now_ns)
        demand->retry_at_ns = now_ns + REFILL_MS * UINT64_C(1000000);
    demand->failures = 0;
}

int shell_pool_take(struct shell_pool *pool, const struct shell_shape *shape,
                    struct shell *ret_shell)
{
    pthread_mutex_lock(&pool->lock);
    int i = use_shape(pool, shape);
    struct stocked *item = i < 0 ? NULL : take_living(pool, (size_t)i);
    if (item) {
        pool->counts.taken++;
        rest_a_little(&pool->demand[i]);
    } else {
        pool->counts.missed++;
    }
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    if (!item)
        return -EAGAIN;
    *ret_shell = item->shell;
    ret_shell->create_us = 0;
    free(item);
    return 0;
}

void shell_pool_expect(struct shell_pool *pool, const struct shell_shape *shape)
{
    pthread_mutex_lock(&pool->lock);
    (void)use_shape(pool, shape); /* where there is no place, they are made when they are needed */
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

/* It was in time for nothing: nobody may serve it any more. */
static void withdraw(struct shell_pool *pool, size_t shape, struct waiter *waiter)
{
    struct waiter **link = &pool->shapes[shape].waiters;

    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
    pool->demand[shape].waiting--;
}

static void queue_up(struct shell_pool *pool, size_t shape, struct waiter *waiter)
{
    struct waiter **end = &pool->shapes[shape].waiters;

    while (*end)
        end = &(*end)->next;
    *end = waiter;
    pool->demand[shape].waiting++;
    pthread_cond_signal(&pool->work);
}

int shell_pool_make(struct shell_pool *pool, const struct shell_shape *shape, uint64_t timeout_ms,
                    struct shell *ret_shell, struct error *err)
{
    uint64_t deadline_ns = clock_now_ns() + timeout_ms * 1000000u;
    struct waiter waiter = {0};

    pthread_mutex_lock(&pool->lock);
    int i = use_shape(pool, shape);
    if (i < 0) {
        pthread_mutex_unlock(&pool->lock);
        return error_set(err, -i, "make an empty VM: of %d sizes at once", SHELL_SHAPES_MAX);
    }
    cond_init(&waiter.served);
    queue_up(pool, (size_t)i, &waiter);
    while (!waiter.is_served) {
        if (cond_wait_until(&waiter.served, &pool->lock, deadline_ns) == ETIMEDOUT &&
            !waiter.is_served) {
            withdraw(pool, (size_t)i, &waiter);
            waiter.result =
                error_say(&waiter.err, ETIMEDOUT, "no empty VM could be made within %.1f s",
                          (double)timeout_ms / 1000.0);
            break;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_destroy(&waiter.served);
    if (waiter.result == 0)
        *ret_shell = waiter.shell;
    else if (err)
        *err = waiter.err;
    return waiter.result;
}

void shell_pool_get_status(struct shell_pool *pool, struct shell_pool_status *ret_status)
{
    pthread_mutex_lock(&pool->lock);
    struct shell_pool_status status = pool->counts;

    status.shapes = (uint32_t)pool->n_shapes;
    for (size_t i = 0; i < pool->n_shapes; i++) {
        status.ready += pool->demand[i].ready;
        status.making += pool->demand[i].making;
        status.waiting += pool->demand[i].waiting;
    }
    pthread_mutex_unlock(&pool->lock);
    *ret_status = status;
}

/* --- life ------------------------------------------------------------------------------------ */

/* Signals are for the process's other threads. */
static int start_thread(pthread_t *thread, void *(*main)(void *), struct shell_pool *pool)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(thread, NULL, main, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

static int start_threads(struct shell_pool *pool, struct error *err)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t wanted = pool->config.n_makers;
    int r;

    if (wanted == 0)
        wanted = cores > MAKERS_MIN ? (uint32_t)cores : MAKERS_MIN;
    r = start_thread(&pool->watcher, watcher_main, pool);

    pool->has_watcher = r == 0;
    while (r == 0 && pool->n_makers < wanted && pool->n_makers < MAKERS_MAX) {
        r = start_thread(&pool->makers[pool->n_makers], maker_main, pool);
        pool->n_makers += r == 0;
    }
    return r == 0 ? 0 : error_set(err, r, "start the threads of the pool of shells");
}

int shell_pool_new(const struct shell_pool_config *config, struct shell_pool **ret_pool,
                   struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = STOP_EVENT}};
    struct shell_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return error_set(err, ENOMEM, "make the pool of shells");
    pool->config = *config;
    pthread_mutex_init(&pool->lock, NULL);
    cond_init(&pool->work);
    pool->epoll = epoll_create1(EPOLL_CLOEXEC);
    pool->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = pool->epoll < 0 || pool->stop_fd < 0 ||
                    epoll_ctl(pool->epoll, EPOLL_CTL_ADD, pool->stop_fd, &event) < 0
                ? error_set(err, errno, "make the pool of shells")
                : start_threads(pool, err);
    if (r < 0) {
        shell_pool_free(pool);
        return r;
    }
    *ret_pool = pool;
    return 0;
}

static void stop_threads(struct shell_pool *pool)
{
    uint64_t one = 1;

    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    if (pool->stop_fd >= 0 && write(pool->stop_fd, &one, sizeof(one)) < 0)
        return; /* an eventfd at 0 always takes a 1 */
    for (uint32_t i = 0; i < pool->n_makers; i++)
        pthread_join(pool->makers[i], NULL);
    if (pool->has_watcher)
        pthread_join(pool->watcher, NULL);
}

void shell_pool_free(struct shell_pool *pool)
{
    if (!pool)
        return;
    stop_threads(pool);
    for (size_t i = 0; i < pool->n_shapes; i++) {
        doom_stock(pool, i);
        free(pool->shapes[i].image);
    }
    while (pool->doomed) {
        struct stocked *item = pool->doomed;

        pool->doomed = item->next;
        shell_done(&item->shell);
        free(item);
    }
    fd_close_at_exit(&pool->epoll);
    fd_close_at_exit(&pool->stop_fd);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}
