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
#include "host/instance/identity.h"
#include "host/instance/run_directory.h"

enum {
    MAX_THREADS = 16,
    FDS_OF_A_CLONE = 9, /* the host's end of it */
    FDS_OF_OURS = 64,
    SETTLE_MS = 2000,
};

/* One of the crowd. */
struct member {
    struct bench_clone clone;
    struct run_directory directory;
    struct vm_status status;
    uint64_t status_ns; /* when it was taken */
    int result;         /* of what was last done to it, on a thread of a team */
    struct error err;
};

struct crowd {
    const struct bench_crowd_config *config; /* borrowed */
    struct member *members;                  /* owned; NULL before crowd_start() */
};

/* --- doing one thing to all of them ---------------------------------------------------------- */

typedef int member_action(const struct bench_crowd_config *config, struct member *member,
                          struct error *err);

/* Threads that all begin at the same moment. */
struct team {
    struct crowd *crowd;   /* borrowed */
    member_action *action; /* */
    pthread_mutex_t lock;  /* guards the next three */
    pthread_cond_t changed;
    bool open;
    size_t n_threads;
    struct team_thread {
        struct team *team; /* borrowed */
        size_t first;
        pthread_t thread;
    } threads[MAX_THREADS];
};

/* Every n-th member, from @first on. */
static void do_share(struct team *team, size_t first, size_t n)
{
    const struct bench_crowd_config *config = team->crowd->config;

    for (size_t i = first; i < config->n; i += n) {
        struct member *member = &team->crowd->members[i];

        member->result = team->action(config, member, &member->err);
    }
}

static void *team_thread(void *opaque)
{
    const struct team_thread *thread = opaque;
    struct team *team = thread->team;

    pthread_mutex_lock(&team->lock);
    while (!team->open)
        pthread_cond_wait(&team->changed, &team->lock);
    size_t n = team->n_threads;
    pthread_mutex_unlock(&team->lock);
    do_share(team, thread->first, n);
    return NULL;
}

/* Fewer than wanted where the system has no more threads. */
static size_t start_threads(struct team *team, size_t wanted)
{
    sigset_t all, before;
    size_t n = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the main thread */
    for (; n < wanted; n++) {
        team->threads[n] = (struct team_thread){.team = team, .first = n};
        if (pthread_create(&team->threads[n].thread, NULL, team_thread, &team->threads[n]) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n;
}

/* @action on every member, by several threads from one moment on: *ret_began_ns (may be NULL). */
static int crowd_each(struct crowd *crowd, member_action *action, uint64_t *ret_began_ns,
                      struct error *err)
{
    struct team team = {.crowd = crowd,
                        .action = action,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .changed = PTHREAD_COND_INITIALIZER};
    size_t n_members = crowd->config->n;
    size_t n = start_threads(&team, n_members < MAX_THREADS ? n_members : MAX_THREADS);

    if (ret_began_ns)
        *ret_began_ns = clock_now_ns();
    pthread_mutex_lock(&team.lock);
    team.open = true;
    team.n_threads = n;
    pthread_cond_broadcast(&team.changed);
    pthread_mutex_unlock(&team.lock);
    if (n == 0)
        do_share(&team, 0, 1);
    for (size_t i = 0; i < n; i++)
        pthread_join(team.threads[i].thread, NULL);
    for (size_t i = 0; i < n_members; i++) {
        if (crowd->members[i].result < 0) {
            *err = crowd->members[i].err;
            return error_wrap(err, "clone %zu of %zu", i + 1, n_members);
        }
    }
    return 0;
}

/* --- shells ---------------------------------------------------------------------------------- */

/* Enough open files for @n clones, as far as we may allow them to ourselves. */
static int raise_file_limit(size_t n, struct error *err)
{
    rlim_t wanted = FDS_OF_OURS + FDS_OF_A_CLONE * n;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return error_set(err, errno, "read the limit of open files");
    if (limit.rlim_cur >= wanted)
        return 0;
    if (limit.rlim_max < wanted)
        return error_say(err, EMFILE,
                         "%zu clones take %llu open files, and the limit is %llu: raise it "
                         "(ulimit -n), or ask for fewer clones",
                         n, (unsigned long long)wanted, (unsigned long long)limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0
               ? error_set(err, errno, "raise the limit of open files")
               : 0;
}

static int start_member(const struct bench_crowd_config *config, struct member *member,
                        struct error *err)
{
    char id[INSTANCE_ID_BYTES];
    int r = identity_instance(id, err);

    if (r == 0)
        r = run_directory_make(config->run_directory, id, &member->directory, err);
    if (r == 0)
        r = bench_clone_start(config->subject, member->directory.path, &member->clone, err);
    return r;
}

static int end_member(const struct bench_crowd_config *config, struct member *member,
                      struct error *err)
{
    (void)config;
    (void)err;
    bench_clone_end(&member->clone);
    run_directory_remove(&member->directory);
    return 0;
}

static void crowd_done(struct crowd *crowd)
{
    struct error ignored;

    if (!crowd->members)
        return;
    stage_ticker_say(crowd->config->ticker, "ending the clones");
    crowd_each(crowd, end_member, NULL, &ignored);
    free(crowd->members);
    stage_ticker_say(crowd->config->ticker, NULL);
}

static int crowd_start(struct crowd *crowd, struct error *err)
{
    const struct bench_crowd_config *config = crowd->config;
    int r = raise_file_limit(config->n, err);

    if (r < 0)
        return r;
    crowd->members = calloc(config->n, sizeof(*crowd->members));
    if (!crowd->members)
        return error_set(err, ENOMEM, "%zu clones", config->n);
    stage_ticker_say(config->ticker, "making shells");
    for (size_t i = 0; i < config->n && r == 0; i++) {
        stage_ticker_count(config->ticker, i, config->n);
        r = cli_interrupted() ? error_say(err, EINTR, "interrupted")
                              : start_member(config, &crowd->members[i], err);
        if (r < 0)
            error_wrap(err, "shell %zu of %zu", i + 1, config->n);
    }
    return r;
}

/* --- burst ----------------------------------------------------------------------------------- */

static int restore_member(const struct bench_crowd_config *config, struct member *member,
                          struct error *err)
{
    int r = bench_clone_restore(config->subject, config->interrupt_fd, &member->clone, err);

    return r < 0 ? r : bench_clone_tell(&member->clone, err);
}

static int await_first_exit(const struct bench_crowd_config *config, struct member *member,
                            struct error *err)
{
    (void)config;
    return bench_clone_first_exit(&member->clone, &member->status, err);
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
        uint64_t first_exit_ns = member->status.first_exit_ns - began_ns;

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

int bench_crowd_burst(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err)
{
    struct crowd crowd = {.config = config};
    uint64_t began_ns = 0;
    int r = crowd_start(&crowd, err);

    if (r == 0) {
        stage_ticker_say(config->ticker, "restoring all at once");
        r = crowd_each(&crowd, restore_member, &began_ns, err);
    }
    if (r == 0)
        r = crowd_each(&crowd, await_first_exit, NULL, err);
    if (r == 0)
        r = add_burst(&crowd, began_ns, figures, err);
    crowd_done(&crowd);
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
static int take_status(const struct bench_crowd_config *config, struct member *member,
                       struct error *err)
{
    (void)config;
    member->status_ns = clock_now_ns();
    return bench_clone_status(&member->clone, &member->status, err);
}

static int add_memory(const struct crowd *crowd, struct bench_figures *figures, struct error *err)
{
    uint32_t mib = crowd->config->subject->memory_mib;
    int r = 0;

    for (size_t i = 0; i < crowd->config->n && r == 0; i++) {
        const struct vm_status *status = &crowd->members[i].status;

        r = bench_figures_add(figures, "alive.guest", "bytes", mib, (double)status->guest_bytes,
                              err);
        if (r == 0)
            r = bench_figures_add(figures, "alive.monitor", "bytes", mib,
                                  (double)status->private_bytes, err);
    }
    return r;
}

/* A clone that waits should cost no processor time: how much of a core does it take? */
static int add_rest(struct crowd *crowd, struct bench_figures *figures, struct error *err)
{
    uint32_t mib = crowd->config->subject->memory_mib;
    AUTO_FREE struct member *before = calloc(crowd->config->n, sizeof(*before));

    if (!before)
        return error_set(err, ENOMEM, "%zu clones", crowd->config->n);
    memcpy(before, crowd->members, crowd->config->n * sizeof(*before));
    poll(NULL, 0, SETTLE_MS);
    int r = crowd_each(crowd, take_status, NULL, err);
    for (size_t i = 0; i < crowd->config->n && r == 0; i++) {
        const struct member *after = &crowd->members[i];
        double used_us = (double)(after->status.cpu_us - before[i].status.cpu_us);
        double us = (double)(after->status_ns - before[i].status_ns) / 1e3;

        r = bench_figures_add(figures, "alive.cpu", "percent", mib, 100 * used_us / us, err);
    }
    return r;
}

static int measure_alive(struct crowd *crowd, uint64_t available_before,
                         struct bench_figures *figures, struct error *err)
{
    const struct bench_crowd_config *config = crowd->config;

    stage_ticker_say(config->ticker, "measuring clones that live");
    poll(NULL, 0, SETTLE_MS); /* what a restored guest does by itself, it has done then */
    uint64_t available = available_bytes();
    int r = 0;

    if (available_before > available) /* else others gave back more meanwhile: nothing is known */
        r = bench_figures_add(figures, "alive.host", "bytes", config->subject->memory_mib,
                              (double)(available_before - available) / (double)config->n, err);
    if (r == 0)
        r = crowd_each(crowd, take_status, NULL, err);
    if (r == 0)
        r = add_memory(crowd, figures, err);
    return r < 0 ? r : add_rest(crowd, figures, err);
}

int bench_crowd_alive(const struct bench_crowd_config *config, struct bench_figures *figures,
                      struct error *err)
{
    struct crowd crowd = {.config = config};
    uint64_t available = available_bytes();
    int r = crowd_start(&crowd, err);

    if (r == 0)
        r = restore_all(&crowd, err);
    if (r == 0)
        r = measure_alive(&crowd, available, figures, err);
    crowd_done(&crowd);
    return r;
}
