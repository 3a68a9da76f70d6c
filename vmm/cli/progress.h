/* What a long command is doing, on stderr: one moving line on a terminal, a line a stage elsewhere.
 */
#ifndef MAYFLY_CLI_PROGRESS_H
#define MAYFLY_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool terminal;
    char stage[64]; /* "" before the first */
    uint64_t started_ns, stage_ns;
};

void progress_init(struct progress *progress);

/*
 * progress_report - an image_progress (images/image_store.h) whose @opaque is a struct progress.
 * A new @what ends the stage before it. @total_bytes 0: not known, only the time is shown.
 */
void progress_report(void *opaque, const char *what, uint64_t done_bytes, uint64_t total_bytes);

/* progress_done - end the last stage. @ok: it succeeded. Leaves the cursor at the start of a line.
 */
void progress_done(struct progress *progress, bool ok);

/* progress_elapsed_ms - since progress_init(). */
uint64_t progress_elapsed_ms(const struct progress *progress);

#endif
