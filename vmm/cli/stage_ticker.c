/* The drawing thread: see stage_ticker.h. Process: the CLI. Every field belongs to `lock`. */
#include "stage_ticker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/fd.h"

enum {
    TERMINAL_PERIOD_MS = 100,
    TERMINAL_DELAY_MS = 150, /* what is over sooner is not worth a flicker */
    PLAIN_PERIOD_MS = 5000,
};

struct stage_ticker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool terminal, stop;
    bool drawn;    /* a progress line is on the terminal */
    bool mid_line; /* the log's last line has not ended */
    const char *what;
    uint64_t since_ns, count_done, count_total;
};

static void erase(struct stage_ticker *ticker)
{
    if (ticker->drawn)
        fputs("\r\033[K", stderr);
    ticker->drawn = false;
}

static void draw(struct stage_ticker *ticker)
{
    uint64_t elapsed_ms = (clock_now_ns() - ticker->since_ns) / 1000000u;
    char count[64] = "";

    if (!ticker->what || ticker->mid_line)
        return;
    if (ticker->count_total > 0)
        snprintf(count, sizeof(count), " %llu of %llu", (unsigned long long)ticker->count_done,
                 (unsigned long long)ticker->count_total);
    if (ticker->terminal && elapsed_ms >= TERMINAL_DELAY_MS) {
        fprintf(stderr, "\r\033[K%s%s  %.1f s", ticker->what, count, (double)elapsed_ms / 1000.0);
        fflush(stderr);
        ticker->drawn = true;
    } else if (!ticker->terminal && elapsed_ms >= PLAIN_PERIOD_MS) {
        fprintf(stderr, "%s%s … %.0f s\n", ticker->what, count, (double)elapsed_ms / 1000.0);
    }
}

static void *run(void *opaque)
{
    struct stage_ticker *ticker = opaque;
    long period_ms = ticker->terminal ? TERMINAL_PERIOD_MS : PLAIN_PERIOD_MS;

    pthread_mutex_lock(&ticker->lock);
    while (!ticker->stop) {
        struct timespec until;
        int r;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += period_ms % 1000 * 1000000;
        until.tv_sec += period_ms / 1000 + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        r = pthread_cond_timedwait(&ticker->changed, &ticker->lock, &until);
        if (r == ETIMEDOUT)
            draw(ticker);
    }
    pthread_mutex_unlock(&ticker->lock);
    return NULL;
}

/* Signals are for the main thread. */
static int start_thread(struct stage_ticker *ticker)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&ticker->thread, NULL, run, ticker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

struct stage_ticker *stage_ticker_new(void)
{
    struct stage_ticker *ticker = calloc(1, sizeof(*ticker));
    pthread_condattr_t monotonic;

    if (!ticker)
        return NULL;
    ticker->terminal = isatty(STDERR_FILENO) == 1;
    pthread_mutex_init(&ticker->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&ticker->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (start_thread(ticker) != 0) {
        pthread_cond_destroy(&ticker->changed);
        pthread_mutex_destroy(&ticker->lock);
        free(ticker);
        return NULL;
    }
    return ticker;
}

void stage_ticker_say(struct stage_ticker *ticker, const char *what)
{
    if (!ticker)
        return;
    pthread_mutex_lock(&ticker->lock);
    erase(ticker);
    ticker->what = what;
    ticker->since_ns = clock_now_ns();
    ticker->count_total = 0;
    pthread_cond_signal(&ticker->changed); /* the period starts again */
    pthread_mutex_unlock(&ticker->lock);
}

void stage_ticker_count(struct stage_ticker *ticker, uint64_t done, uint64_t total)
{
    if (!ticker)
        return;
    pthread_mutex_lock(&ticker->lock);
    ticker->count_done = done;
    ticker->count_total = total;
    pthread_mutex_unlock(&ticker->lock);
}

void stage_ticker_write(struct stage_ticker *ticker, const void *data, size_t len_bytes)
{
    if (len_bytes == 0)
        return;
    if (ticker) {
        pthread_mutex_lock(&ticker->lock);
        erase(ticker);
        ticker->mid_line = ((const char *)data)[len_bytes - 1] != '\n';
    }
    fflush(stderr);
    fd_write_all(STDERR_FILENO, data, len_bytes); /* a reader that went away loses the log only */
    if (ticker)
        pthread_mutex_unlock(&ticker->lock);
}

void stage_ticker_free(struct stage_ticker *ticker)
{
    if (!ticker)
        return;
    pthread_mutex_lock(&ticker->lock);
    ticker->stop = true;
    erase(ticker);
    if (ticker->mid_line)
        fputc('\n', stderr);
    pthread_cond_signal(&ticker->changed);
    pthread_mutex_unlock(&ticker->lock);
    pthread_join(ticker->thread, NULL);
    pthread_cond_destroy(&ticker->changed);
    pthread_mutex_destroy(&ticker->lock);
    free(ticker);
}

void stage_ticker_say_stage(struct stage_ticker *ticker, enum instance_stage stage)
{
    static const char *const words[] = {[STAGE_DECOMPRESS] = "decompressing image and kernel",
                                        [STAGE_VM_CREATE] = "creating the VM",
                                        [STAGE_KERNEL] = "booting the guest",
                                        [STAGE_INIT] = "init phase",
                                        [STAGE_FREEZE] = "taking a snapshot",
                                        [STAGE_RESTORE] = "restoring a snapshot",
                                        [STAGE_INVOKE] = "invoking the function"};

    stage_ticker_say(ticker, words[stage]);
}
