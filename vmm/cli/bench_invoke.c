/*
 * `mayfly bench invoke`: what the host adds to an invocation, and what else is asked of mayflyd's
 * speed and size. Process: the CLI, its root for this command: errors are printed here.
 *
 * A mayflyd of its own, with a short keep-alive: a function that was not called for that long is
 * restored, one that was, is warm. Which of the two an invocation was, the daemon says with it, so
 * a slow machine spoils no series. All kinds take turns, that they see the same machine.
 */
#include "bench_invoke.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_burst.h"
#include "bench_client.h"
#include "bench_daemon.h"
#include "bench_figures.h"
#include "bench_invoke_options.h"
#include "bench_invoke_report.h"
#include "bench_output.h"
#include "bench_plain.h"
#include "bench_plot.h"
#include "bench_scale.h"
#include "bench_source.h"
#include "bench_state.h"
#include "bench_wrk.h"
#include "cli_common.h"
#include "common/clock.h"
#include "host/credentials.h"
#include "stage_ticker.h"

#define COMMAND "bench"
#define WARM "bench-warm"
#define BURST "bench-burst"
#define FUNCTIONS "/2015-03-31/functions"

enum {
    RESTORED = 8,       /* functions that take turns at being restored */
    ALL = RESTORED + 2, /* that are deployed */
    MEMORY_MIB = 128,
    KEEP_ALIVE_S = 2,
    GONE_MS = 2700, /* after which an instance has surely been ended */
    WARM_CALLS = 4, /* a round */
    DRY_CALLS = 20,
    SETTLE_MS = 2, /* in which the daemon ends what an answer leaves behind */
    SLICES = 3,    /* that dry invocations by wrk are measured in */
    CONNECTIONS = 16,
    DEPLOY_MS = 900000, /* the first time, an image is booted */
    DEPLOY_TRIES = 5,
    LOOK_MS = 50,
    NAME_BYTES = 32,
};

struct bench {
    struct bench_invoke_options options;
    struct bench_state state; /* owned, as all below */
    struct bench_daemon daemon;
    struct bench_client *client;
    struct bench_scale *scale;
    struct bench_plain *plain;
    struct stage_ticker *ticker;
    struct bench_figures figures;
    int interrupt_fd;
    const volatile sig_atomic_t *interrupted;
    struct turn {
        uint64_t called_ns; /* last */
        bool is_unpacked;   /* it was restored before: its snapshot's memory is there as a file */
    } turns[RESTORED];
};

static int interrupted(struct error *err)
{
    return cli_interrupted() ? error_say(err, EINTR, "interrupted") : 0;
}

static int add(struct bench *bench, const char *name, double us, struct error *err)
{
    return bench_figures_add(&bench->figures, name, "us", 0, us, err);
}

static void pause_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* --- deploying ------------------------------------------------------------------------------- */

static void restored_name(unsigned i, char to[NAME_BYTES])
{
    snprintf(to, NAME_BYTES, "bench-restored-%u", i);
}

static int create(struct bench *bench, const char *name, const char *zip_base64, struct error *err)
{
    struct bench_answer answer;
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:i, s:{s:s}}", "FunctionName", name,
                               "Runtime", "python3.11", "Handler", "app.handler", "Role",
                               "arn:aws:iam::000000000000:role/bench", "Timeout", 60, "Code",
                               "ZipFile", zip_base64);
    char *body = json_dumps(object, JSON_COMPACT);

    json_decref(object);
    if (!body)
        return error_set(err, ENOMEM, "deploy '%s'", name);
    int r = bench_client_call(bench->client, "POST", FUNCTIONS, body, NULL, &answer, err);
    free(body);
    if (r == 0 && answer.status != 201)
        r = error_say(err, EIO, "deploy '%s': %u: %.300s", name, answer.status, answer.body);
    return r;
}

/* 1: not yet; 0: Active; else what became of it. */
static int look(struct bench *bench, const char *name, struct error *err)
{
    struct bench_answer answer;
    char path[128];

    snprintf(path, sizeof(path), FUNCTIONS "/%s/configuration", name);
    int r = bench_client_call(bench->client, "GET", path, NULL, NULL, &answer, err);
    if (r < 0)
        return r;
    json_t *object = json_loadb(answer.body, answer.body_bytes, 0, NULL);
    const char *state = json_string_value(json_object_get(object, "State"));
    const char *reason = json_string_value(json_object_get(object, "StateReason"));
    if (state && strcmp(state, "Pending") == 0)
        r = 1;
    else if (!state || strcmp(state, "Active") != 0)
        r = error_say(err, EIO, "deploy '%s': %u: %s: %.300s", name, answer.status,
                      state ? state : "no State", reason ? reason : answer.body);
    json_decref(object);
    return r;
}

/* Until its snapshot is there. */
static int wait_active(struct bench *bench, const char *name, struct error *err)
{
    uint64_t until_ns = clock_now_ns() + DEPLOY_MS * 1000000ull;
    int r;

    while ((r = look(bench, name, err)) == 1 && (r = interrupted(err)) == 0) {
        if (clock_now_ns() > until_ns)
            return error_say(err, ETIMEDOUT, "'%s' has no snapshot after %d s: see mayflyd's log",
                             name, DEPLOY_MS / 1000);
        pause_ms(LOOK_MS);
    }
    return r;
}

static int drop(struct bench *bench, const char *name, struct error *err)
{
    struct bench_answer answer;
    char path[128];

    snprintf(path, sizeof(path), FUNCTIONS "/%s", name);
    return bench_client_call(bench->client, "DELETE", path, NULL, NULL, &answer, err);
}

/* The functions by number: those that are restored, then the two others. */
static void function_name(unsigned i, char to[NAME_BYTES])
{
    if (i < RESTORED)
        restored_name(i, to);
    else
        snprintf(to, NAME_BYTES, "%s", i == RESTORED ? WARM : BURST);
}

/* On a host that is busy with other things an init phase may take too long: once more, then. */
static int await(struct bench *bench, const char *name, const char *zip_base64, struct error *err)
{
    int r = wait_active(bench, name, err);

    for (unsigned tries = 1; r < 0 && tries < DEPLOY_TRIES && !cli_interrupted(); tries++) {
        r = drop(bench, name, err);
        if (r == 0)
            r = create(bench, name, zip_base64, err);
        if (r == 0)
            r = wait_active(bench, name, err);
    }
    return r;
}

/* All at once, since their snapshots are made side by side. */
static int deploy_all(struct bench *bench, struct error *err)
{
    char name[NAME_BYTES], base64[BENCH_ZIP_BYTES / 3 * 4 + 8];
    uint8_t zip[BENCH_ZIP_BYTES];
    int len = bench_state_zip(zip, err), r = len < 0 ? len : 0;

    if (r < 0)
        return r;
    sodium_bin2base64(base64, sizeof(base64), zip, (size_t)len, sodium_base64_VARIANT_ORIGINAL);
    stage_ticker_say(bench->ticker, "deploying: function");
    for (unsigned i = 0; i < ALL && r == 0; i++) {
        function_name(i, name);
        r = create(bench, name, base64, err);
    }
    for (unsigned i = 0; i < ALL && r == 0; i++) {
        stage_ticker_count(bench->ticker, i + 1, ALL);
        function_name(i, name);
        r = await(bench, name, base64, err);
    }
    stage_ticker_say(bench->ticker, NULL);
    return r;
}

/* What all Python functions start from, booted once and kept in the given state: what our own
 * daemon makes goes with its state. Where that fails, the daemon makes its own, or says why not. */
static int make_runtime(struct bench *bench, struct error *err)
{
    struct bench_subject subject = {.memory_fd = -1, .state_fd = -1};
    struct bench_source *source = NULL;
    int r = bench_source_open(bench->options.state, bench->ticker, bench->interrupt_fd,
                              bench->interrupted, &source, err);

    if (r == 0)
        r = bench_source_subject(source, MEMORY_MIB, &subject, err);
    if (r == 0)
        bench_subject_done(&subject);
    bench_source_close(source);
    return interrupted(err);
}

static int prepare(struct bench *bench, struct error *err)
{
    const struct bench_invoke_options *options = &bench->options;
    int r = bench_plain_new(&bench->plain, err);

    if (r == 0)
        r = make_runtime(bench, err);
    if (r == 0)
        r = bench_state_make(options->state, &bench->state, err);
    if (r == 0)
        r = bench_daemon_start(bench->state.path, KEEP_ALIVE_S, &bench->daemon, err);
    if (r == 0)
        r = bench_client_new(bench->daemon.url, &bench->client, err);
    if (r == 0)
        r = deploy_all(bench, err);
    if (r == 0 && options->functions > 0)
        r = bench_scale_new(bench->state.path, options->functions, bench->ticker, &bench->scale,
                            err);
    return r;
}

/* --- one kind, once -------------------------------------------------------------------------- */

static uint64_t host_us(const struct bench_answer *answer)
{
    return answer->wall_us > answer->guest_us ? answer->wall_us - answer->guest_us : 0;
}

static int warm_one(struct bench *bench, bool *ret_is_warm, struct error *err)
{
    struct bench_answer answer;
    int r = bench_client_invoke(bench->client, WARM, "{}", &answer, err);

    if (r < 0)
        return r;
    *ret_is_warm = answer.start == BENCH_WARM;
    if (*ret_is_warm)
        r = add(bench, "warm.total", (double)answer.wall_us, err);
    if (*ret_is_warm && r == 0)
        r = add(bench, "warm.host", (double)host_us(&answer), err);
    return r;
}

static int measure_warm(struct bench *bench, struct error *err)
{
    bool all_warm = true, is_warm = false;
    int r = warm_one(bench, &is_warm, err); /* if its instance has ended, there is one again */

    uint64_t before_ns = bench_daemon_cpu_ns(&bench->daemon);
    for (unsigned i = 0; i < WARM_CALLS && r == 0; i++) {
        r = warm_one(bench, &is_warm, err);
        all_warm = all_warm && is_warm;
    }
    pause_ms(SETTLE_MS);
    uint64_t spent_ns = bench_daemon_cpu_ns(&bench->daemon) - before_ns;
    return r < 0 || !all_warm ? r
                              : add(bench, "warm.cpu", (double)spent_ns / 1e3 / WARM_CALLS, err);
}

static int dry_calls(struct bench *bench, unsigned n, const char *wall, const char *cpu,
                     struct error *err)
{
    uint64_t before_ns = bench_daemon_cpu_ns(&bench->daemon);
    struct bench_answer answer;
    int r = 0;

    for (unsigned i = 0; i < n && r == 0; i++) {
        r = bench_client_call(bench->client, "POST", FUNCTIONS "/" WARM "/invocations", "{}",
                              "X-Amz-Invocation-Type: DryRun", &answer, err);
        if (r == 0 && answer.status != 204)
            r = error_say(err, EIO, "a dry invocation: %u: %.300s", answer.status, answer.body);
        if (r == 0)
            r = add(bench, wall, (double)answer.wall_us, err);
    }
    pause_ms(SETTLE_MS);
    uint64_t spent_ns = bench_daemon_cpu_ns(&bench->daemon) - before_ns;
    return r < 0 ? r : add(bench, cpu, (double)spent_ns / 1e3 / n, err);
}

/* First once, right after a guest has run; then often enough that all is in the caches. */
static int measure_dry(struct bench *bench, struct error *err)
{
    bool is_warm;
    int r = warm_one(bench, &is_warm, err);

    if (r == 0)
        r = dry_calls(bench, 1, "dry.host_cold", "dry.cpu_cold", err);
    return r < 0 ? r : dry_calls(bench, DRY_CALLS, "dry.host", "dry.cpu", err);
}

/* The first restore of all unpacks the snapshot: no start after it does. */
static int measure_restored(struct bench *bench, unsigned which, struct error *err)
{
    struct turn *turn = &bench->turns[which];
    uint64_t gone_ns = turn->called_ns + GONE_MS * 1000000ull, now_ns = clock_now_ns();
    struct bench_answer answer;
    char name[NAME_BYTES];

    if (turn->called_ns > 0 && gone_ns > now_ns)
        pause_ms((int)((gone_ns - now_ns) / 1000000u) + 1);
    restored_name(which, name);
    int r = bench_client_invoke(bench->client, name, "{}", &answer, err);
    bool counts = turn->is_unpacked && answer.start == BENCH_RESTORED;
    turn->is_unpacked |= answer.start == BENCH_RESTORED;
    turn->called_ns = clock_now_ns();
    if (r < 0 || !counts)
        return r;
    r = add(bench, "restored.total", (double)answer.wall_us, err);
    if (r == 0)
        r = add(bench, "restored.host", (double)host_us(&answer), err);
    return r < 0 ? r : add(bench, "restored.acquire", (double)answer.acquire_us, err);
}

/* Each once, when the instance that its snapshot was taken of is gone. */
static int unpack_all(struct bench *bench, struct error *err)
{
    struct bench_answer answer;
    int r = 0;

    pause_ms(GONE_MS);
    for (unsigned i = 0; i < RESTORED && r == 0; i++)
        r = measure_restored(bench, i, err);
    return r < 0 ? r : bench_client_invoke(bench->client, BURST, "{}", &answer, err);
}

/* --- many at once ---------------------------------------------------------------------------- */

static int add_load(struct bench *bench, const struct bench_wrk_load *load, const char *name,
                    struct error *err)
{
    struct bench_wrk_result result;
    int r = bench_wrk_run(load, bench->state.path, &result, err);

    if (r == 0 && result.bad > 0)
        r = error_say(err, EIO, "%llu of wrk's dry invocations were refused",
                      (unsigned long long)result.bad);
    return r < 0 ? r : bench_figures_add(&bench->figures, name, "1/s", 0, result.per_second, err);
}

static int measure_load(struct bench *bench, struct error *err)
{
    struct bench_wrk_load load = {.url = bench->daemon.url,
                                  .function = WARM,
                                  .connections = CONNECTIONS,
                                  .seconds =
                                      (unsigned)(bench->options.seconds + SLICES - 1) / SLICES};
    char path[PATH_MAX + 16];
    struct bench_signature signature;
    struct credentials key;

    snprintf(path, sizeof(path), "%s/credentials", bench->state.path);
    int r = credentials_take(path, "us-east-1", &key, err);
    if (r == 0)
        r = bench_client_sign(bench->client, WARM, key.id, key.secret, &signature, err);
    sodium_memzero(&key, sizeof(key));
    if (r == 0)
        r = add_load(bench, &load, "dry.unsigned", err);
    load.signature = &signature;
    return r < 0 ? r : add_load(bench, &load, "dry.signed", err);
}

static int measure_bursts(struct bench *bench, struct error *err)
{
    const struct bench_burst_config config = {.url = bench->daemon.url,
                                              .warm = WARM,
                                              .burst = BURST,
                                              .client = bench->client,
                                              .n = bench->options.burst};
    int r = 0;

    stage_ticker_say(bench->ticker, "measuring: burst");
    for (uint64_t i = 0; i < bench->options.bursts && r == 0; i++) {
        stage_ticker_count(bench->ticker, i + 1, bench->options.bursts);
        pause_ms(GONE_MS); /* the instances of the one before */
        r = bench_burst_run(&config, &bench->figures, err);
    }
    stage_ticker_say(bench->ticker, NULL);
    return r;
}

/* --- the run --------------------------------------------------------------------------------- */

/* Slice s of SLICES comes before round s * count / SLICES. */
static bool is_slice_due(const struct bench_invoke_options *options, uint64_t slices,
                         uint64_t round)
{
    return options->seconds > 0 && slices < SLICES && slices * options->count <= round * SLICES;
}

static int measure_rounds(struct bench *bench, struct error *err)
{
    const struct bench_invoke_options *options = &bench->options;
    uint64_t slices = 0;
    int r = 0;

    stage_ticker_say(bench->ticker, "measuring: round");
    for (uint64_t i = 0; i < options->count && r == 0; i++) {
        stage_ticker_count(bench->ticker, i + 1, options->count);
        r = interrupted(err);
        for (; r == 0 && is_slice_due(options, slices, i); slices++)
            r = measure_load(bench, err);
        if (r == 0)
            r = measure_warm(bench, err);
        if (r == 0)
            r = measure_dry(bench, err);
        if (r == 0)
            r = measure_restored(bench, (unsigned)(i % RESTORED), err);
        if (r == 0 && bench->scale)
            r = bench_scale_round(bench->scale, &bench->figures, err);
    }
    stage_ticker_say(bench->ticker, NULL);
    return r;
}

static int measure_all(struct bench *bench, struct error *err)
{
    int r = unpack_all(bench, err);

    if (r == 0)
        r = measure_rounds(bench, err);
    if (r == 0)
        r = bench_figures_add(&bench->figures, "rss", "bytes", 0,
                              (double)bench_daemon_rss_bytes(&bench->daemon), err);
    if (r == 0 && bench->scale)
        r = bench_scale_memory(bench->scale, &bench->figures, err);
    if (r == 0 && bench->options.burst > 0)
        r = measure_bursts(bench, err);
    return r;
}

static int report(struct bench *bench, struct error *err)
{
    const struct bench_invoke_options *options = &bench->options;
    const char *kind = bench_plain_kvm_kind(bench->plain);
    const struct bench_invoke_report report = {.options = options,
                                               .figures = &bench->figures,
                                               .kvm = kind,
                                               .emulates_supervisor =
                                                   strcmp(kind, "hardware") != 0};

    bench_figures_sort(&bench->figures);
    if (!bench_output_is_stdout(options->json))
        bench_invoke_print(&report);
    int r = bench_output_json(options->json, bench_invoke_json(&report), err);
    return r < 0 || !options->plot
               ? r
               : bench_plot_render(options->plot, bench_invoke_script, &bench->figures, err);
}

static int run(struct bench *bench, struct error *err)
{
    int r = bench_output_check(bench->options.json, bench->options.plot, err);

    if (r == 0 && bench->options.seconds > 0)
        r = bench_wrk_check(err);
    if (r < 0)
        return r;
    bench->ticker = stage_ticker_new();
    r = prepare(bench, err);
    if (r == 0)
        r = measure_all(bench, err);
    stage_ticker_free(bench->ticker);
    bench->ticker = NULL;
    if (r < 0)
        return cli_interrupted() ? interrupted(err) : r;
    return report(bench, err);
}

static void done(struct bench *bench)
{
    bench_client_free(bench->client);
    bench_scale_free(bench->scale);
    bench_daemon_stop(&bench->daemon);
    bench_state_remove(&bench->state);
    bench_plain_free(bench->plain);
    bench_figures_done(&bench->figures);
}

int bench_invoke(int argc, char **argv)
{
    struct bench bench = {.state = {.path = ""}};
    struct error err = {0};
    int status = bench_invoke_options_parse(argc, argv, &bench.options);

    if (status >= 0)
        return status;
    bench.interrupt_fd = cli_catch_interrupts(&bench.interrupted);
    int r = bench.interrupt_fd < 0 ? error_set(&err, -bench.interrupt_fd, "catch interrupts")
                                   : run(&bench, &err);
    done(&bench);
    if (r < 0)
        cli_complain(COMMAND, "%s", err.text);
    return r == 0 ? CLI_OK : cli_interrupted() ? CLI_INTERRUPTED : CLI_HOST_ERROR;
}
