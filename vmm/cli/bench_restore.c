/*
 * `mayfly bench restore`: what a start from a snapshot costs, against the sequence of KVM calls
 * that forkers of microVMs usually make and against a cold boot. Process: the CLI, its root for
 * this command: errors are printed here.
 *
 * The ways take turns in one run, so that all see the same machine, fast or slow.
 */
#include "bench_restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench_clone.h"
#include "bench_crowd.h"
#include "bench_figures.h"
#include "bench_options.h"
#include "bench_output.h"
#include "bench_plain.h"
#include "bench_plot.h"
#include "bench_report.h"
#include "bench_source.h"
#include "cli_common.h"
#include "common/clock.h"
#include "common/fd.h"
#include "host/instance/identity.h"
#include "host/instance/run_directory.h"

#define COMMAND "bench"

struct bench {
    struct bench_options options;
    struct bench_source *source; /* owned, as are the next four */
    struct bench_plain *plain;
    struct stage_ticker *ticker;
    struct bench_figures figures;
    struct run_directory directory; /* of the one clone at a time */
    struct bench_subject subjects[BENCH_MAX_SIZES];
    size_t n_subjects;
    int interrupt_fd;
    const volatile sig_atomic_t *interrupted;
};

/* --- one way, once --------------------------------------------------------------------------- */

static int add(struct bench *bench, const struct bench_subject *subject, const char *name,
               uint64_t ns, struct error *err)
{
    return bench_figures_add(&bench->figures, name, "us", subject->memory_mib, (double)ns / 1e3,
                             err);
}

static int measure_plain(struct bench *bench, const struct bench_subject *subject,
                         struct error *err)
{
    struct bench_plain_times times;
    int r = bench_plain_clone(bench->plain, subject->memory_fd, subject->memory_mib, &times, err);

    if (r == 0)
        r = add(bench, subject, "plain.restored", times.restored_ns, err);
    if (r == 0)
        r = add(bench, subject, "plain.first_exit", times.first_exit_ns, err);
    return r < 0 ? r : add(bench, subject, "plain.teardown", times.teardown_ns, err);
}

/* Ends @clone; a teardown counts only if all went well before. */
static int end(struct bench *bench, const struct bench_subject *subject, const char *name,
               struct bench_clone *clone, int r, struct error *err)
{
    uint64_t began_ns = clock_now_ns();

    bench_clone_end(clone);
    return r < 0 || !name ? r : add(bench, subject, name, clock_now_ns() - began_ns, err);
}

/* With nothing prepared: from the decision to have a clone. */
static int measure_no_shell(struct bench *bench, const struct bench_subject *subject,
                            struct error *err)
{
    struct bench_clone clone;
    struct vm_status status;
    uint64_t began_ns = clock_now_ns(), shell_ns = 0;
    int r = bench_clone_start(subject, bench->directory.path, &clone, err);

    shell_ns = clock_now_ns();
    if (r == 0)
        r = bench_clone_restore(subject, bench->interrupt_fd, &clone, err);
    if (r == 0)
        r = bench_clone_tell(&clone, err);
    if (r == 0)
        r = bench_clone_first_exit(&clone, &status, err);
    if (r == 0)
        r = add(bench, subject, "no_shell.shell_made", shell_ns - began_ns, err);
    if (r == 0)
        r = add(bench, subject, "no_shell.restored",
                clone.times.began_ns + clone.times.restored_ns - began_ns, err);
    if (r == 0)
        r = add(bench, subject, "no_shell.first_exit", status.first_exit_ns - began_ns, err);
    return end(bench, subject, "no_shell.teardown", &clone, r, err);
}

/* What one start from a shell came to. */
struct shell_start {
    uint64_t began_ns, result_ns;
    struct vm_restore_times times;
    struct vm_status before, after;
};

static int add_shell(struct bench *bench, const struct bench_subject *subject,
                     const struct shell_start *start, struct error *err)
{
    const struct vm_restore_times *times = &start->times;
    const struct {
        const char *name;
        uint64_t ns;
    } figures[] = {
        {"shell.restored", times->began_ns + times->restored_ns - start->began_ns},
        {"shell.restored_monitor", times->restored_ns},
        {"shell.first_exit", start->after.first_exit_ns - start->began_ns},
        {"shell.first_exit_monitor", start->after.first_exit_ns - times->began_ns},
        {"shell.first_result", start->result_ns - start->began_ns},
        {"shell.first_result_cpu", (start->after.cpu_us - start->before.cpu_us) * 1000},
    };
    int r = 0;

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]) && r == 0; i++)
        r = add(bench, subject, figures[i].name, figures[i].ns, err);
    return r;
}

/* A waiting shell: from the decision to have a clone to the result of its first event. */
static int measure_shell(struct bench *bench, const struct bench_subject *subject,
                         struct error *err)
{
    struct bench_clone clone;
    struct shell_start start;
    int r = bench_clone_start(subject, bench->directory.path, &clone, err);

    if (r == 0)
        r = bench_clone_status(&clone, &start.before, err);
    start.began_ns = clock_now_ns();
    if (r == 0)
        r = bench_clone_restore(subject, bench->interrupt_fd, &clone, err);
    if (r == 0)
        r = bench_clone_invoke(&clone, err);
    start.result_ns = clock_now_ns();
    if (r == 0)
        r = bench_clone_first_exit(&clone, &start.after, err);
    start.times = clone.times;
    if (r == 0)
        r = add_shell(bench, subject, &start, err);
    return end(bench, subject, "shell.teardown", &clone, r, err);
}

/* The same without an event: until the agent has made the guest its own and says so. */
static int measure_answer(struct bench *bench, const struct bench_subject *subject,
                          struct error *err)
{
    struct bench_clone clone;
    uint64_t began_ns = 0;
    int r = bench_clone_start(subject, bench->directory.path, &clone, err);

    began_ns = clock_now_ns();
    if (r == 0)
        r = bench_clone_restore(subject, bench->interrupt_fd, &clone, err);
    if (r == 0)
        r = bench_clone_awaken(&clone, err);
    if (r == 0)
        r = add(bench, subject, "shell.agent_answers", clock_now_ns() - began_ns, err);
    return end(bench, subject, NULL, &clone, r, err);
}

static int measure_boot(struct bench *bench, const struct bench_subject *subject, struct error *err)
{
    struct bench_boot_times times;
    int r = bench_source_boot(bench->source, subject->memory_mib, &times, err);

    if (r == 0)
        r = add(bench, subject, "boot.agent_answers", times.agent_answers_ns, err);
    if (r == 0)
        r = add(bench, subject, "boot.first_result", times.first_result_ns, err);
    return r < 0 ? r : add(bench, subject, "boot.teardown", times.teardown_ns, err);
}

/* --- the run --------------------------------------------------------------------------------- */

static int interrupted(struct error *err)
{
    return cli_interrupted() ? error_say(err, EINTR, "interrupted") : 0;
}

static int measure_round(struct bench *bench, const struct bench_subject *subject,
                         struct error *err)
{
    static int (*const ways[])(struct bench *, const struct bench_subject *, struct error *) = {
        measure_plain, measure_no_shell, measure_shell, measure_answer};
    int r = interrupted(err);

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]) && r == 0; i++)
        r = ways[i](bench, subject, err);
    return r;
}

/* Boots are spread over the rounds: boot b comes before round b * count / boots. */
static bool is_boot_due(const struct bench_options *options, uint64_t boots, uint64_t round)
{
    return boots < options->boots && boots * options->count <= round * options->boots;
}

static int measure_rounds(struct bench *bench, struct error *err)
{
    const struct bench_options *options = &bench->options;
    uint64_t boots = 0;
    int r = 0;

    for (uint64_t i = 0; i < options->count && r == 0; i++) {
        bool say = i == 0;

        for (; r == 0 && is_boot_due(options, boots, i); boots++, say = true)
            r = measure_boot(bench, &bench->subjects[0], err);
        if (say)
            stage_ticker_say(bench->ticker, "measuring: round");
        stage_ticker_count(bench->ticker, i + 1, options->count);
        for (size_t s = 0; s < bench->n_subjects && r == 0; s++)
            r = measure_round(bench, &bench->subjects[s], err);
    }
    stage_ticker_say(bench->ticker, NULL);
    return r;
}

static int measure_crowds(struct bench *bench, struct error *err)
{
    struct bench_crowd_config config = {.subject = &bench->subjects[0],
                                        .run_directory = bench_source_run_directory(bench->source),
                                        .n = bench->options.parallel,
                                        .interrupt_fd = bench->interrupt_fd,
                                        .ticker = bench->ticker};
    int r = config.n > 0 ? bench_crowd_burst(&config, &bench->figures, err) : 0;

    config.n = bench->options.alive;
    return r == 0 && config.n > 0 ? bench_crowd_alive(&config, &bench->figures, err) : r;
}

static int prepare(struct bench *bench, struct error *err)
{
    char id[INSTANCE_ID_BYTES];
    int r = bench_plain_new(&bench->plain, err);

    if (r == 0)
        r = bench_source_open(bench->options.state, bench->ticker, bench->interrupt_fd,
                              bench->interrupted, &bench->source, err);
    for (size_t i = 0; i < bench->options.n_memory && r == 0; i++) {
        r = bench_source_subject(bench->source, bench->options.memory_mib[i], &bench->subjects[i],
                                 err);
        bench->n_subjects += r == 0;
    }
    if (r == 0)
        r = identity_instance(id, err);
    if (r == 0)
        r = run_directory_make(bench_source_run_directory(bench->source), id, &bench->directory,
                               err);
    return r;
}

/* --- what comes of it ------------------------------------------------------------------------ */

static int report(struct bench *bench, struct error *err)
{
    const struct bench_options *options = &bench->options;
    const char *kind = bench_plain_kvm_kind(bench->plain);
    struct bench_report report = {.options = options,
                                  .figures = &bench->figures,
                                  .kvm = kind,
                                  .emulates_supervisor = strcmp(kind, "hardware") != 0};

    for (size_t i = 0; i < bench->n_subjects; i++)
        report.age_s[i] = (int64_t)time(NULL) - bench->subjects[i].created_s;
    bench_figures_sort(&bench->figures);
    if (!bench_output_is_stdout(options->json))
        bench_report_print(&report);
    int r = bench_output_json(options->json, bench_report_json(&report), err);
    if (r == 0 && options->plot)
        r = bench_plot_draw(options->plot, &bench->figures, options->memory_mib, options->n_memory,
                            err);
    return r;
}

static int run(struct bench *bench, struct error *err)
{
    int r = bench_output_check(bench->options.json, bench->options.plot, err);

    if (r < 0)
        return r;
    bench->ticker = stage_ticker_new();
    r = prepare(bench, err);
    if (r == 0)
        r = measure_rounds(bench, err);
    if (r == 0)
        r = measure_crowds(bench, err);
    stage_ticker_free(bench->ticker);
    bench->ticker = NULL;
    if (r < 0)
        return cli_interrupted() ? interrupted(err) : r;
    return report(bench, err);
}

static void done(struct bench *bench)
{
    run_directory_remove(&bench->directory);
    for (size_t i = 0; i < bench->n_subjects; i++)
        bench_subject_done(&bench->subjects[i]);
    bench_source_close(bench->source);
    bench_plain_free(bench->plain);
    bench_figures_done(&bench->figures);
}

int bench_restore(int argc, char **argv)
{
    struct bench bench = {.directory = {.lock = -1}};
    struct error err = {0};
    int status = bench_options_parse(argc, argv, &bench.options);

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
