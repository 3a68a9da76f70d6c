/* Many clones at once: see bench_crowd.h. Process: the CLI. */
#include "bench_crowd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli_common.h"
#include "common/clock.h"
#include "common/fd.h"
#include "host/identity.h"
#include "host/run_directory.h"

enum {
    MAX_THREADS = 16,
    FDS_OF_A_CLONE = 9, /* the host's end of it */
    FDS_OF_OURS = 64,
    SETTLE_MS = 1000,
};

/* One of the crowd. */
struct member {
    struct bench_clone clone;
    struct run_directory directory;
    uint64_t first_exit_ns;
    int result; /* of its restore, on a thread of the burst */
    struct error err;
};

struct crowd {
    const struct bench_crowd_config *config; /* borrowed */
    struct member *members;                  /* owned */
};

/* --- shells ---------------------------------------------------------------------------------- */

static int raise_limit(int resource, rlim_t wanted, const char *what, size_t n, struct error *err)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) < 0)
        return error_set(err, errno, "read the limit of %s", what);
    if (limit.rlim_cur >= wanted)
        return 0;
    if (limit.rlim_max < wanted)
        return error_say(err, EMFILE,
                         "%zu clones take %llu %s, and the limit is %llu: raise it "
                         "(ulimit), or ask for fewer clones",
                         n, (unsigned long long)wanted, what, (unsigned long long)limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit) < 0 ? error_set(err, errno, "raise the limit of %s", what)
                                           : 0;
}

static int start_member(struct crowd *crowd, struct member *member, struct error *err)
{
    char id[INSTANCE_ID_BYTES];
    int r = identity_instance(id, err);

    if (r == 0)
        r = run_directory_make(crowd->config->run_directory, id, &member->directory, err);
    if (r == 0)
        r = bench_clone_start(crowd->config->subject, member->directory.path, &member->clone, err);
    return r;
}

static void crowd_done(struct crowd *crowd)
{
    if (!crowd->members)
        return;
    stage_ticker_say(crowd->config->ticker, "ending the clones");
    for (size_t i = 0; i < crowd->config->n; i++) {
        bench_clone_end(&crowd->members[i].clone);
        run_directory_remove(&crowd->members[i].directory);
    }
    free(crowd->members);
    stage_ticker_say(crowd->config->ticker, NULL);
}

static int crowd_start(struct crowd *crowd, struct error *err)
{
    const struct bench_crowd_config *config = crowd->config;
    int r = raise_limit(RLIMIT_NOFILE, FDS_OF_OURS + FDS_OF_A_CLONE * config->n, "open files",
                        config->n, err);

    if (r < 0)
        return r;
    crowd->members = calloc(config->n, sizeof(*crowd->members));
    if (!crowd->members)
        return error_set(err, ENOMEM, "%zu clones", config->n);
    stage_ticker_say(config->ticker, "making shells");
    for (size_t i = 0; i < config->n && r == 0; i++) {
        stage_ticker_count(config->ticker, i, config->n);
        r = cli_interrupted() ? error_say(err, EINTR, "interrupted")
                              : start_member(crowd, &crowd->members[i], err);
        if (r < 0)
            error_wrap(err, "shell %zu of %zu", i + 1, config->n);
    }
    return r;
}

/* --- burst ----------------------------------------------------------------------------------- */

enum gate { GATE_CLOSED, GATE_OPEN, GATE_GIVE_UP };

struct burst {
    struct crowd crowd;
    pthread_mutex_t lock; /* guards `gate` */
    pthread_cond_t changed;
    enum gate gate;
    size_t n_threads;
    struct burst_thread {
        struct burst *burst; /* borrowed */
        size_t first;
        pthread_t thread;
    } threads[MAX_THREADS];
};

static void open_gate(struct burst *burst, enum gate how)
{
    pthread_mutex_lock(&burst->lock);
    burst->gate = how;
    pthread_cond_broadcast(&burst->changed);
    pthread_mutex_unlock(&burst->lock);
}

/* Returns whether to go on. */
static bool pass_gate(struct burst *burst)
{
    pthread_mutex_lock(&burst->lock);
    while (burst->gate == GATE_CLOSED)
        pthread_cond_wait(&burst->changed, &burst->lock);
    bool open = burst->gate == GATE_OPEN;
    pthread_mutex_unlock(&burst->lock);
    return open;
}

/* Every n_threads-th clone. */
static void *restore_share(void *opaque)
{
    const struct burst_thread *thread = opaque;
    struct burst *burst = thread->burst;
    const struct bench_crowd_config *config = burst->crowd.config;
    bool go = pass_gate(burst);

    for (size_t i = thread->first; go && i < config->n; i += burst->n_threads) {
        struct member *member = &burst->crowd.members[i];

        member->result = bench_clone_restore(config->subject, config->interrupt_fd, &member->clone,
                                             &member->err);
        if (member->result == 0)
            member->result = bench_clone_tell(&member->clone, &member->err);
    }
    return NULL;
}

/* How many threads wait at the gate; fewer than wanted where the system has no more. */
static size_t start_threads(struct burst *burst)
{
    sigset_t all, before;
    size_t n = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the main thread */
    for (; n < burst->n_threads; n++) {
        burst->threads[n] = (struct burst_thread){.burst = burst, .first = n};
        if (pthread_create(&burst->threads[n].thread, NULL, restore_share, &burst->threads[n]) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n;
}

static int run_burst(struct burst *burst, uint64_t *ret_began_ns, struct error *err)
{
    size_t n = start_threads(burst);

    stage_ticker_say(burst->crowd.config->ticker, "restoring all at once");
    *ret_began_ns = clock_now_ns();
    open_gate(burst, n == burst->n_threads ? GATE_OPEN : GATE_GIVE_UP);
    for (size_t i = 0; i < n; i++)
        pthread_join(burst->threads[i].thread, NULL);
    return n == burst->n_threads ? 0 : error_say(err, EAGAIN, "no more threads for the burst");
}

static int add_burst(const struct crowd *crowd, uint64_t began_ns, struct bench_figures *figures,
                     struct error *err)
{
    uint32_t mib = crowd->config->subject->memory_mib;
    uint64_t last_ns = 0;
    int r = 0;

    for (size_t i = 0; i < crowd->config->n && r == 0; i++) {
        const struct member *member = &crowd->members[i];
        const struct vm_restore_times *times = &member->clone.times;
        uint64_t restored_ns = times->began_ns + times->restored_ns - began_ns;
        uint64_t first_exit_ns = member->first_exit_ns - began_ns;

        last_ns = first_exit_ns > last_ns ? first_exit_ns : last_ns;
        r = bench_figures_add(figures, "burst.restored", "us", mib, (double)restored_ns / 1e3, err);
        if (r == 0)
            r = bench_figures_add(figures, "burst.first_exit", "us", mib,
                                  (double)first_exit_ns / 1e3, err);
    }
    return r < 0 ? r
                 : bench_figures_add(figures, "burst.all_first_exit", "us", mib,
                                     (double)last_ns / 1e3, err);
}

static int measure_burst(struct burst *burst, struct bench_figures *figures, struct error *err)
{
    struct crowd *crowd = &burst->crowd;
    uint64_t began_ns = 0;
    int r = crowd_start(crowd, err);

    if (r == 0)
        r = run_burst(burst, &began_ns, err);
    for (size_t i = 0; i < crowd->config->n && r == 0; i++) {
        struct member *member = &crowd->members[i];

        r = member->result;
        if (r < 0)
            *err = member->err;
        else
            r = bench_clone_first_exit(&member->clone, &member->first_exit_ns, err);
        if (r < 0)
            error_wrap(err, "clone %zu of %zu at once", i + 1, crowd->config->n);
    }
    return r < 0 ? r : add_burst(crowd, began_ns, figures, err);
}

int bench_crowd_burst(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err)
{
    struct burst burst = {.crowd = {.config = config},
                          .lock = PTHREAD_MUTEX_INITIALIZER,
                          .changed = PTHREAD_COND_INITIALIZER,
                          .n_threads = config->n < MAX_THREADS ? config->n : MAX_THREADS};
    int r = measure_burst(&burst, figures, err);

    crowd_done(&burst.crowd);
    return r;
}

/* --- alive ----------------------------------------------------------------------------------- */

/* What the kernel could still give away, in bytes; 0: it does not say. */
static uint64_t available_bytes(void)
{
    char line[128];
    uint64_t kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");

    while (file && fgets(line, sizeof(line), file) &&
           sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) != 1)
        continue;
    if (file)
        fclose(file);
    return kib * 1024;
}

static int restore_all(struct crowd *crowd, struct error *err)
{
    const struct bench_crowd_config *config = crowd->config;
    int r = 0;

    stage_ticker_say(config->ticker, "restoring clones that stay");
    for (size_t i = 0; i < config->n && r == 0; i++) {
        stage_ticker_count(config->ticker, i, config->n);
        r = bench_clone_restore(config->subject, config->interrupt_fd, &crowd->members[i].clone,
                                err);
        if (r == 0 && cli_interrupted())
            r = error_say(err, EINTR, "interrupted");
        if (r < 0)
            error_wrap(err, "clone %zu of %zu", i + 1, config->n);
    }
    return r;
}

/* A clone that died meanwhile is an error: all have to be alive at once. */
static int add_memory(struct crowd *crowd, struct bench_figures *figures, struct error *err)
{
    uint32_t mib = crowd->config->subject->memory_mib;
    struct vm_status status;
    int r = 0;

    for (size_t i = 0; i < crowd->config->n && r == 0; i++) {
        r = bench_clone_status(&crowd->members[i].clone, &status, err);
        if (r == 0)
            r = bench_figures_add(figures, "alive.guest", "bytes", mib, (double)status.guest_bytes,
                                  err);
        if (r == 0)
            r = bench_figures_add(figures, "alive.monitor", "bytes", mib,
                                  (double)status.private_bytes, err);
        if (r < 0)
            error_wrap(err, "clone %zu of %zu alive", i + 1, crowd->config->n);
    }
    return r;
}

int bench_crowd_alive(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err)
{
    struct crowd crowd = {.config = config};
    uint64_t before = available_bytes();
    int r = crowd_start(&crowd, err);

    if (r == 0)
        r = restore_all(&crowd, err);
    if (r == 0) {
        poll(NULL, 0, SETTLE_MS); /* what a restored guest does by itself, it has done then */
        uint64_t after = available_bytes();
        r = bench_figures_add(figures, "alive.host", "bytes", config->subject->memory_mib,
                              before > after ? (double)(before - after) / (double)config->n : 0,
                              err);
    }
    if (r == 0)
        r = add_memory(&crowd, figures, err);
    crowd_done(&crowd);
    return r;
}
