/* A burst beside warm invocations: see bench_burst.h. Process: the CLI. */
#include "bench_burst.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cli_common.h"
#include "common/clock.h"

enum { BEFORE = 60, STACK_BYTES = 256 << 10 };

struct burst;

/* One request. */
struct shot {
    struct burst *burst; /* borrowed */
    pthread_t thread;
    struct bench_client *client; /* owned */
    struct bench_answer answer;
    uint64_t done_ns;
    int result;
    struct error err;
};

struct burst {
    const struct bench_burst_config *config; /* borrowed */
    struct shot *shots;                      /* owned */
    size_t n_threads;
    atomic_uint n_done;
    pthread_mutex_t lock; /* of the next two */
    pthread_cond_t changed;
    bool is_open;
};

static void *shot_main(void *opaque)
{
    struct shot *shot = opaque;
    struct burst *burst = shot->burst;

    pthread_mutex_lock(&burst->lock);
    while (!burst->is_open)
        pthread_cond_wait(&burst->changed, &burst->lock);
    pthread_mutex_unlock(&burst->lock);
    if (shot->result == 0)
        shot->result = bench_client_invoke(shot->client, burst->config->burst, "{}", &shot->answer,
                                           &shot->err);
    shot->done_ns = clock_now_ns();
    atomic_fetch_add(&burst->n_done, 1);
    return NULL;
}

/* Connected already: the handshake is not what is measured. */
static int connect_shot(struct shot *shot, const char *url, struct error *err)
{
    struct bench_answer answer;
    int r = bench_client_new(url, &shot->client, err);

    return r < 0 ? r : bench_client_call(shot->client, "GET", "/healthz", NULL, NULL, &answer, err);
}

static int start(struct burst *burst, struct error *err)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int r = 0;

    for (size_t i = 0; i < burst->config->n && r == 0; i++) {
        burst->shots[i].burst = burst;
        r = connect_shot(&burst->shots[i], burst->config->url, err);
    }
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the main thread */
    while (r == 0 && burst->n_threads < burst->config->n) {
        struct shot *shot = &burst->shots[burst->n_threads];
        int e = pthread_create(&shot->thread, &attributes, shot_main, shot);

        if (e)
            r = error_set(err, e, "start %zu threads", (size_t)burst->config->n);
        else
            burst->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return r;
}

static void open_gate(struct burst *burst)
{
    pthread_mutex_lock(&burst->lock);
    burst->is_open = true;
    pthread_cond_broadcast(&burst->changed);
    pthread_mutex_unlock(&burst->lock);
}

static int warm_one(const struct bench_burst_config *config, const char *series,
                    struct bench_figures *figures, struct error *err)
{
    struct bench_answer answer;
    int r = cli_interrupted()
                ? error_say(err, EINTR, "interrupted")
                : bench_client_invoke(config->client, config->warm, "{}", &answer, err);

    return r < 0 || answer.start != BENCH_WARM
               ? r
               : bench_figures_add(figures, series, "us", 0, (double)answer.wall_us, err);
}

/* What the burst itself came to. */
static int add_shots(const struct burst *burst, uint64_t began_ns, struct bench_figures *figures,
                     struct error *err)
{
    uint64_t last_ns = began_ns;
    int r = 0;

    for (size_t i = 0; i < burst->n_threads && r == 0; i++) {
        const struct shot *shot = &burst->shots[i];

        last_ns = shot->done_ns > last_ns ? shot->done_ns : last_ns;
        if (shot->result < 0) {
            *err = shot->err;
            return error_wrap(err, "request %zu of the burst", i + 1);
        }
        if (shot->answer.start == BENCH_RESTORED)
            r = bench_figures_add(figures, "burst.first_result", "us", 0,
                                  (double)shot->answer.wall_us, err);
    }
    return r < 0 ? r
                 : bench_figures_add(figures, "burst.all_results", "us", 0,
                                     (double)(last_ns - began_ns) / 1e3, err);
}

static int run(struct burst *burst, struct bench_figures *figures, struct error *err)
{
    const struct bench_burst_config *config = burst->config;
    int r = start(burst, err);

    for (unsigned i = 0; i < BEFORE && r == 0; i++)
        r = warm_one(config, "burst.warm_before", figures, err);
    uint64_t began_ns = clock_now_ns();
    for (size_t i = 0; r < 0 && i < burst->n_threads; i++)
        burst->shots[i].result = r; /* nobody waits for them any more */
    open_gate(burst);
    while (r == 0 && atomic_load(&burst->n_done) < burst->n_threads)
        r = warm_one(config, "burst.warm_during", figures, err);
    for (size_t i = 0; i < burst->n_threads; i++)
        pthread_join(burst->shots[i].thread, NULL);
    return r < 0 ? r : add_shots(burst, began_ns, figures, err);
}

int bench_burst_run(const struct bench_burst_config *config, struct bench_figures *figures,
                    struct error *err)
{
    struct burst burst = {.config = config,
                          .shots = calloc(config->n, sizeof(struct shot)),
                          .lock = PTHREAD_MUTEX_INITIALIZER,
                          .changed = PTHREAD_COND_INITIALIZER};

    if (!burst.shots)
        return error_set(err, ENOMEM, "%zu requests", (size_t)config->n);
    int r = run(&burst, figures, err);
    for (size_t i = 0; i < config->n; i++)
        bench_client_free(burst.shots[i].client);
    free(burst.shots);
    return r;
}
