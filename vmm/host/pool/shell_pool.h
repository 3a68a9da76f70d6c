/*
 * A pool of shells: empty microVMs kept ready, so that a cold start only has to fill one. Some of
 * each shape (image, memory, vCPUs) that was asked for lately; refilled behind the callers' backs.
 *
 * All monitors are spawned by the pool's own threads, since a monitor dies with the thread that
 * spawned it: what was taken from a pool lives until its owner ends it or the pool is freed.
 * Threads: any, at the same time, but for shell_pool_free().
 */
#ifndef MAYFLY_HOST_POOL_SHELL_POOL_H
#define MAYFLY_HOST_POOL_SHELL_POOL_H

#include "host/instance/shell.h"

struct shell_pool;

struct shell_pool_config {
    /* How shells are made: hypervisor, run_directory, monitor_path, command_line. Borrowed for the
     * pool's life, as is what it points to; console_path must be NULL. */
    struct instance_config machine;
    uint32_t per_shape; /* how many to keep of each shape; 0: none, all are made on request */
    uint32_t limit;     /* over all shapes: the least recently used give way */
    uint32_t n_makers;  /* threads that make shells, at most 16; 0: one a core, at least 2 */
};

struct shell_pool_status {
    uint32_t shapes;
    uint32_t ready;
    uint32_t making;
    uint32_t waiting;        /* callers of shell_pool_make() */
    uint64_t made;           /* these count from the pool's start */
    uint64_t taken;          /* ready ones */
    uint64_t missed;         /* none was ready */
    uint64_t died;           /* before anybody took them */
    uint64_t failed;         /* could not be made */
    struct error last_error; /* why the last one failed or died; code 0: none did */
};

int shell_pool_new(const struct shell_pool_config *config, struct shell_pool **ret_pool,
                   struct error *err);

/*
 * shell_pool_take - a shell that is ready, at once. *ret_shell is owned: shell_done() it; its
 * create_us is 0. From now on the pool keeps some of that shape.
 * Returns 0, or -EAGAIN if none is ready.
 */
int shell_pool_take(struct shell_pool *pool, const struct shell_shape *shape,
                    struct shell *ret_shell);

/* shell_pool_expect - from now on the pool keeps some of that shape, as if one had been taken. */
void shell_pool_expect(struct shell_pool *pool, const struct shell_shape *shape);

/*
 * shell_pool_make - a new shell, made by a thread of the pool while the caller waits; callers come
 * before the stock, and are not held up by its pauses after failures.
 * Returns as shell_make(); -ETIMEDOUT; -EBUSY when too many shapes are asked for at once.
 */
int shell_pool_make(struct shell_pool *pool, const struct shell_shape *shape, uint64_t timeout_ms,
                    struct shell *ret_shell, struct error *err);

void shell_pool_get_status(struct shell_pool *pool, struct shell_pool_status *ret_status);

/* shell_pool_free - joins the threads, ends all shells. Nobody may be using it, and what was taken
 * from it must have been ended. Takes NULL. */
void shell_pool_free(struct shell_pool *pool);

#endif
