/*
 * What is being done and for how long, on stderr, while the main thread waits: one moving line on a
 * terminal, a line every few seconds elsewhere. A thread of its own draws it, and shares stderr
 * with the function's log by a lock.
 */
#ifndef MAYFLY_CLI_STAGE_TICKER_H
#define MAYFLY_CLI_STAGE_TICKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/instance/instance.h"

struct stage_ticker;

/* stage_ticker_new - NULL when there is no memory or thread: every call below takes NULL. */
struct stage_ticker *stage_ticker_new(void);

/* stage_ticker_say - @what (a literal) begins now; NULL: nothing is being done. */
void stage_ticker_say(struct stage_ticker *ticker, const char *what);

/* stage_ticker_say_stage - likewise, for a stage of an instance. */
void stage_ticker_say_stage(struct stage_ticker *ticker, enum instance_stage stage);

/* stage_ticker_count - how far what is being done has come; shown with it until the next say. */
void stage_ticker_count(struct stage_ticker *ticker, uint64_t done, uint64_t total);

/* stage_ticker_write - bytes of the function's log, between two drawings. */
void stage_ticker_write(struct stage_ticker *ticker, const void *data, size_t len_bytes);

/* stage_ticker_free - leaves the cursor at the start of an empty line. */
void stage_ticker_free(struct stage_ticker *ticker);

#endif
