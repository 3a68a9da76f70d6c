/*
 * Clock and entropy from the host. Process: mayfly-agent, before anything of the function runs.
 *
 * Of a clone's generator everything is known to its siblings. RNDADDENTROPY alone only adds to the
 * input pool of a generator that is ready already, which may be used a minute later; RNDRESEEDCRNG
 * takes a new key from the pool at once and counts the generation up, which makes every CPU's
 * generator, kernel-internal batch and vDSO state throw away what it has (Linux 6.12
 * drivers/char/random.c: crng_reseed(), crng_make_state()).
 */
#include "guest-agent/clock_entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/random.h>

enum { ENTROPY_MAX_BYTES = 512, AHEAD_S = 50 * 365 * 86400 };

static bool is_clock_ours, is_clock_ahead;

int agent_set_clock(int64_t wall_clock_ns, struct failure *failure)
{
    struct timespec now = {.tv_sec = wall_clock_ns / 1000000000,
                           .tv_nsec = wall_clock_ns % 1000000000};

    if (wall_clock_ns == 0)
        return 0;
    if (clock_settime(CLOCK_REALTIME, &now) < 0)
        return failure_set(failure, errno, "set the clock to %lld ns", (long long)wall_clock_ns);
    is_clock_ours = true;
    is_clock_ahead = false;
    return 0;
}

static void shift_clock(time_t by_s)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += by_s;
    if (clock_settime(CLOCK_REALTIME, &now) < 0)
        agent_die("shift the clock: %s", strerrordesc_np(errno));
    is_clock_ahead = by_s > 0;
}

void agent_clock_ahead(void)
{
    if (is_clock_ours && !is_clock_ahead)
        shift_clock(AHEAD_S);
}

void agent_clock_back(void)
{
    if (is_clock_ahead)
        shift_clock(-AHEAD_S);
}

int agent_add_entropy(const uint8_t *data, size_t len_bytes, struct failure *failure)
{
    union {
        struct rand_pool_info info;
        char room[sizeof(struct rand_pool_info) + ENTROPY_MAX_BYTES];
    } pool;
    static int fd = -1; /* stays open: a clone has no system call to spare */
    int result = 0;

    if (len_bytes == 0)
        return 0;
    if (len_bytes > ENTROPY_MAX_BYTES)
        return failure_say(failure, E2BIG, "%zu bytes of entropy, over %d", len_bytes,
                           ENTROPY_MAX_BYTES);
    pool.info.entropy_count = (int)len_bytes * 8;
    pool.info.buf_size = (int)len_bytes;
    memcpy(pool.room + sizeof(struct rand_pool_info), data, len_bytes);
    if (fd < 0)
        fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool.info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        result = failure_set(failure, errno, "add entropy");
    explicit_bzero(&pool, sizeof(pool));
    return result;
}
