/*
 * `mayfly run`: one function, one microVM, one event. Process: the CLI, its root: errors are
 * printed here and nowhere below. Whatever happens, the instance is destroyed before the report is
 * printed.
 */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_common.h"
#include "commands.h"
#include "common/clock.h"
#include "host/instance/function_snapshot.h"
#include "host/json_check.h"
#include "host/instance/package.h"
#include "run_options.h"
#include "run_report.h"
#include "stage_ticker.h"

struct run {
    struct run_options options;
    struct run_report report;
    struct stage_ticker *ticker;
    struct image_store *store; /* owned, as are the next four */
    struct snapshot_store *snapshots;
    struct package *package;
    uint8_t *event;
    struct instance *instance;
    size_t event_bytes;
    char run_directory[PATH_MAX];
    struct snapshot_manifest restored; /* what the instance was restored from; ->id "": nothing */
    char created[SNAPSHOT_ID_HEX + 1]; /* by `mayfly snapshot create`; "" otherwise */
    int interrupt_fd;
    const volatile sig_atomic_t *interrupted;
    uint64_t started_ns;
};

/* --- what the user gave
 * --------------------------------------------------------------------------- */

static int read_event(struct run *run, struct error *err)
{
    const char *given = run->options.event;
    bool is_file = given[0] == '@' || strcmp(given, "-") == 0;
    struct error problem;
    int r = 0;

    if (is_file) {
        r = cli_read_input(given[0] == '@' ? given + 1 : given, AGENT_EVENT_MAX_BYTES,
                           run->interrupt_fd, &run->event, &run->event_bytes, err);
    } else {
        run->event_bytes = strlen(given);
        run->event = (uint8_t *)strdup(given);
        if (!run->event)
            r = error_set(err, ENOMEM, "take it");
        else if (run->event_bytes > AGENT_EVENT_MAX_BYTES)
            r = error_say(err, EFBIG, "it has more than the %d bytes allowed",
                          AGENT_EVENT_MAX_BYTES);
    }
    if (r < 0)
        return r == -EINTR ? r : error_wrap(err, "the event (--event)");
    r = json_check(run->event, run->event_bytes, &problem);
    if (r < 0)
        return error_say(err, -r, "the event (--event) is not JSON: %s", problem.text);
    return 0;
}

/* Is it the host that failed, rather than what it was given? */
static bool is_host_trouble(int r)
{
    return r == -ENOMEM || r == -EIO || r == -EMFILE || r == -ENFILE || r == -ENOSPC;
}

/* Returns -1 to go on, or the exit status. */
static int take_input(struct run *run)
{
    struct error *err = &run->report.host_error;
    int r = identity_request(run->report.request_id, err);

    if (r == 0)
        r = read_event(run, err);
    if (r == 0 && run->options.package)
        r = package_open(run->options.package, &run->package, err);
    if (r == 0)
        return -1;
    int status = run_report_print(&run->report);
    return status == CLI_INTERRUPTED || is_host_trouble(r) ? status : CLI_USAGE;
}

/* --- progress and log
 * ----------------------------------------------------------------------------- */

static void on_stage(void *opaque, enum instance_stage stage)
{
    struct run *run = opaque;

    stage_ticker_say_stage(run->ticker, stage);
}

static void on_log(void *opaque, bool is_stderr, const void *data, size_t len_bytes,
                   uint64_t dropped_bytes)
{
    struct run *run = opaque;
    char note[96];

    (void)is_stderr; /* both are the function's log, as in Lambda */
    stage_ticker_write(run->ticker, data, len_bytes);
    if (dropped_bytes > 0) {
        int n = snprintf(note, sizeof(note),
                         "mayfly run: %llu bytes of the function's output were dropped\n",
                         (unsigned long long)dropped_bytes);

        stage_ticker_write(run->ticker, note, (size_t)n);
    }
}

/* --- the run
 * -------------------------------------------------------------------------------------- */

static int path_below_state(const struct run *run, const char *name, char path[PATH_MAX],
                            struct error *err)
{
    if (snprintf(path, PATH_MAX, "%s/%s", run->options.state, name) >= PATH_MAX)
        return error_say(err, ENAMETOOLONG, "the state directory's path is too long");
    return 0;
}

static int open_snapshots(struct run *run, struct error *err)
{
    char path[PATH_MAX];
    int r = path_below_state(run, "snapshots", path, err);

    if (r == 0)
        r = snapshot_store_open(path, &run->snapshots, err);
    if (r == 0)
        snapshot_store_set_cancel(run->snapshots, run->interrupted);
    return r;
}

static int open_stores(struct run *run, struct error *err)
{
    char path[PATH_MAX];
    struct image_info info;
    struct error ignored;
    int r = path_below_state(run, "images", path, err);

    if (r == 0)
        r = path_below_state(run, "run", run->run_directory, err);
    if (r == 0)
        r = image_store_open(path, &run->store, err);
    if (r == 0 && !run->options.boot)
        r = open_snapshots(run, err);
    if (r < 0)
        return r;
    image_store_set_cancel(run->store, run->interrupted);
    /* An image made for custom runtimes alone comes before the base image. */
    if (!run->options.image_given && strcmp(run->options.runtime, "provided") == 0 &&
        image_store_find(run->store, "provided", &info, &ignored) == 0)
        run->options.image = "provided";
    return 0;
}

/* For the tests of ours that want to know which call a monitor's filter forbade. */
static bool wants_trap(void)
{
    const char *way = getenv("MAYFLY_SECCOMP");

    return way && strcmp(way, "trap") == 0;
}

static enum vm_jail jail_of(const struct run_options *options)
{
    if (options->no_jail)
        return JAIL_NONE;
    return options->require_jail ? JAIL_REQUIRED : JAIL_BEST_EFFORT;
}

static struct instance_config instance_config_of(struct run *run)
{
    const struct run_options *options = &run->options;

    return (struct instance_config){.hypervisor = &hypervisor_kvm,
                                    .store = run->store,
                                    .image = options->image,
                                    .kernel = options->kernel,
                                    .run_directory = run->run_directory,
                                    .console_path = options->console,
                                    .jail = jail_of(options),
                                    .seccomp_trap = wants_trap(),
                                    .memory_mib = instance_vm_memory_mib(
                                        (uint32_t)options->memory_mib, (uint32_t)options->tmp_mib),
                                    .cpu_mib = (uint32_t)options->memory_mib,
                                    .vcpus = (uint32_t)options->vcpus,
                                    .cpu_template = options->cpu_template,
                                    .interrupt_fd = run->interrupt_fd,
                                    .on_stage = on_stage,
                                    .on_log = on_log,
                                    .opaque = run};
}

static struct instance_function function_of(const struct run *run)
{
    const struct run_options *options = &run->options;

    return (struct instance_function){.runtime = options->runtime,
                                      .handler = options->handler,
                                      .name = options->function_name,
                                      .version = "$LATEST",
                                      .environment = options->environment,
                                      .n_environment = options->n_environment,
                                      .package = run->package,
                                      .memory_mib = (uint32_t)options->memory_mib,
                                      .tmp_mib = (uint32_t)options->tmp_mib};
}

/* A result replaces the one before it. The agent's own trouble is the host's, not the function's.
 */
static int take_result(struct run *run, struct agent_result *result, struct error *err)
{
    run_report_done(&run->report);
    run->report.result = *result;
    run->report.has_result = true;
    if (result->outcome == OUTCOME_AGENT_ERROR)
        return error_say(err, EIO, "the guest's agent could not run the function: %s",
                         result->message);
    return 0;
}

/* The long way: boot, then the init phase. */
static int start_by_boot(struct run *run, struct error *err)
{
    struct instance_config config = instance_config_of(run);
    struct instance_function function = function_of(run);
    struct agent_result result;
    int r = instance_boot(&config, &run->instance, err);

    if (r == 0)
        r = instance_prepare(run->instance, &function, &result, err);
    if (r < 0)
        return r;
    run->report.limit_ms = result.duration_us / 1000;
    return take_result(run, &result, err);
}

static bool cannot_store(int r)
{
    return r == -ENOSPC || r == -EDQUOT || r == -EIO || r == -EROFS;
}

static void say_unstored(struct run *run, const struct error *why)
{
    char line[sizeof(why->text) + 64];
    int n =
        snprintf(line, sizeof(line), "mayfly run: going on without a snapshot: %s\n", why->text);

    stage_ticker_write(run->ticker, line, (size_t)n);
}

/* A snapshot that is there and of no use is no reason to fail: it is said, and made anew. */
static int restore(struct run *run, const struct function_snapshot_config *config,
                   const struct instance_function *function, struct error *err)
{
    struct snapshot_manifest manifest;
    int r = function_snapshot_find(config, function, &manifest, err);

    if (r == 0)
        r = function_snapshot_restore(config, &manifest, &run->instance, err);
    if (r == 0) {
        run->report.start = "restored";
        run->restored = manifest;
    } else if (r == -EBADMSG || r == -ENOTSUP || r == -EINVAL) {
        char line[sizeof(err->text) + 64];
        int n = snprintf(line, sizeof(line), "mayfly run: making a new snapshot: %s\n", err->text);

        stage_ticker_write(run->ticker, line, (size_t)n);
        r = -ENOENT;
    }
    return r;
}

/* What --snapshot names; its function's own configuration is in it. */
static int start_named(struct run *run, struct error *err)
{
    struct function_snapshot_config config = {.instance = instance_config_of(run),
                                              .snapshots = run->snapshots};
    struct snapshot_manifest manifest;
    int r = function_snapshot_named(&config, run->options.snapshot, &manifest, err);

    if (r == 0)
        r = function_snapshot_restore(&config, &manifest, &run->instance, err);
    if (r < 0)
        return error_wrap(err, "snapshot '%s'", run->options.snapshot);
    run->report.start = "restored";
    run->restored = manifest;
    run->report.memory_mib = manifest.memory_mib;
    return 0;
}

/* The short way: restore the function's snapshot, or make it and go on with what it was made of. */
static int start_by_snapshot(struct run *run, struct error *err)
{
    struct instance_function function = function_of(run);
    struct function_snapshot_config config = {.instance = instance_config_of(run),
                                              .snapshots = run->snapshots,
                                              .name = run->options.output};
    struct snapshot_manifest manifest;
    struct error unstored = {0};
    struct agent_result result;
    bool booted;
    int r = run->options.output ? -ENOENT : restore(run, &config, &function, err);

    if (r != -ENOENT)
        return r;
    /* Whoever only wants a result gets it without a snapshot, too. */
    if (!run->options.output)
        config.unstored = &unstored;
    r = function_snapshot_make(&config, &function, &run->instance, &result, &manifest, &booted,
                               err);
    if (r < 0 && !run->options.output && cannot_store(r)) {
        unstored = *err;
        r = start_by_boot(run, err);
        if (r == 0) /* else that error says it all */
            say_unstored(run, &unstored);
        return r;
    }
    if (r < 0)
        return r;
    if (unstored.code)
        say_unstored(run, &unstored);
    run->report.start = booted ? "boot" : "restored";
    if (run->instance)
        memcpy(run->created, manifest.id, sizeof(run->created));
    run->report.limit_ms = result.duration_us / 1000;
    return take_result(run, &result, err);
}

static int invoke(struct run *run, struct error *err)
{
    struct agent_event event = {.request_id = run->report.request_id,
                                .data = run->event,
                                .len_bytes = run->event_bytes,
                                .timeout_ms = run->options.timeout_ms};
    struct agent_result result;
    int r = instance_invoke(run->instance, &event, &result, err);

    if (r < 0)
        return r;
    run->report.limit_ms = run->options.timeout_ms;
    return take_result(run, &result, err);
}

/* A hint for later runs: that it could not be had is nobody's trouble now. */
static void learn(struct run *run)
{
    const struct function_snapshot_config config = {.instance = instance_config_of(run),
                                                    .snapshots = run->snapshots};
    struct error ignored;

    if (run->restored.id[0] && run->report.has_result && run->report.result.outcome == OUTCOME_OK)
        function_snapshot_learn(&config, &run->restored, run->instance, &ignored);
}

static int interrupted_error(struct error *err)
{
    return error_say(err, EINTR, "interrupted");
}

static int serve(struct run *run, struct error *err)
{
    int r = open_stores(run, err);

    if (r == 0 && cli_interrupted())
        r = interrupted_error(err);
    if (r == 0 && run->options.snapshot)
        r = start_named(run, err);
    else if (r == 0)
        r = run->options.boot ? start_by_boot(run, err) : start_by_snapshot(run, err);
    if (r == 0 && !run->options.output &&
        (!run->report.has_result || run->report.result.outcome == OUTCOME_OK))
        r = invoke(run, err);
    if (r == 0)
        learn(run);
    /* Whatever a cut-short step complains of, Ctrl-C is the reason. */
    return r < 0 && cli_interrupted() ? interrupted_error(err) : r;
}

/* A jail with a hole is not to be overlooked, nor is none. */
static void say_missing(struct run *run)
{
    const char *missing = instance_jail_missing(run->instance);
    char line[600];

    if (missing[0] == '\0')
        return;
    int n =
        snprintf(line, sizeof(line), "mayfly run: warning: the jail is not whole: %s\n", missing);
    stage_ticker_write(run->ticker, line, (size_t)n);
}

static void end(struct run *run)
{
    if (run->instance) {
        say_missing(run);
        run->report.timings = *instance_timings(run->instance);
        run->report.monitor_bytes = instance_private_bytes(run->instance);
    }
    run->report.total_us = (clock_now_ns() - run->started_ns) / 1000u;
    instance_destroy(run->instance);
    run->instance = NULL;
    stage_ticker_free(run->ticker);
    run->ticker = NULL;
}

/* What `mayfly snapshot create` has to say; a failure is reported as run's. */
static int say_created(const struct run *run)
{
    if (run->options.json)
        printf("{\"name\":\"%s\",\"id\":\"%s\",\"created_us\":%llu}\n", run->options.output,
               run->created, (unsigned long long)run->report.total_us);
    else
        printf("%s  %.12s  made in %.1f s\n", run->options.output, run->created,
               (double)run->report.total_us / 1e6);
    return fflush(stdout) == 0 ? CLI_OK : CLI_HOST_ERROR;
}

static int run_function(struct run *run)
{
    struct error *err = &run->report.host_error;
    int status;

    run->started_ns = clock_now_ns();
    run->report.json = run->options.json;
    run->report.start = "boot";
    run->report.memory_mib = (uint32_t)run->options.memory_mib;
    run->interrupt_fd = cli_catch_interrupts(&run->interrupted);
    if (run->interrupt_fd < 0) {
        cli_complain("run", "catch interrupts: %s", strerror(-run->interrupt_fd));
        return CLI_HOST_ERROR;
    }
    status = take_input(run);
    if (status >= 0)
        return status;
    run->ticker = stage_ticker_new();
    if (run->options.no_jail)
        cli_complain("run",
                     "WARNING: --no-jail: nothing but the VM itself is between this function "
                     "and the host; for debugging only");
    if (serve(run, err) == 0)
        err->code = 0;
    end(run);
    if (run->options.output && run->created[0] && err->code == 0)
        return say_created(run);
    return run_report_print(&run->report);
}

int cmd_run(int argc, char **argv)
{
    struct run run = {.interrupt_fd = -1};
    int status = run_options_parse(argc, argv, &run.options);

    if (status < 0)
        status = run_function(&run);
    run_report_done(&run.report);
    image_store_close(run.store);
    snapshot_store_close(run.snapshots);
    package_free(run.package);
    free(run.event);
    run_options_done(&run.options);
    return status;
}
