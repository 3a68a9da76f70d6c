/* Progress of long commands for a person: see progress.h. Process: the CLI, its only thread. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

static double seconds_since(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e9;
}

void progress_init(struct progress *progress)
{
    *progress =
        (struct progress){.terminal = isatty(STDERR_FILENO) == 1, .started_ns = clock_now_ns()};
}

static void end_stage(struct progress *progress, const char *how)
{
    if (progress->stage[0])
        fprintf(stderr, "%s%s: %s (%.1f s)\n", progress->terminal ? "\r\033[K" : "",
                progress->stage, how, seconds_since(progress->stage_ns));
    progress->stage[0] = 0;
}

void progress_report(void *opaque, const char *what, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *progress = opaque;

    if (strncmp(progress->stage, what, sizeof(progress->stage) - 1) != 0) {
        end_stage(progress, "done");
        snprintf(progress->stage, sizeof(progress->stage), "%s", what);
        progress->stage_ns = clock_now_ns();
        if (!progress->terminal)
            fprintf(stderr, "%s ...\n", what);
    }
    if (!progress->terminal)
        return;
    fprintf(stderr, "\r\033[K%s  %.1f s", what, seconds_since(progress->stage_ns));
    if (total_bytes > 0)
        fprintf(stderr, "  %llu of %llu MiB", (unsigned long long)(done_bytes >> 20),
                (unsigned long long)(total_bytes >> 20));
    fflush(stderr);
}

void progress_done(struct progress *progress, bool ok)
{
    end_stage(progress, ok ? "done" : "failed");
}

uint64_t progress_elapsed_ms(const struct progress *progress)
{
    return (clock_now_ns() - progress->started_ns) / 1000000;
}
