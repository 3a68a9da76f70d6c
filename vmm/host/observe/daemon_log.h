/*
 * The daemon's own log: one JSON object a line, on standard error or in a file. For the process's
 * root and what it hands this to; libraries return errors.
 *
 * Writing formats the line on the caller's thread (one or two microseconds), a thread of its own
 * brings it out: nobody waits for a terminal, a pipe that is not read or a disk. What is too much
 * is dropped, counted, and said so in the log. Nothing is flushed to disk.
 * Trust: values may be anybody's bytes (json_line.h). Threads: any.
 */
#ifndef MAYFLY_HOST_OBSERVE_DAEMON_LOG_H
#define MAYFLY_HOST_OBSERVE_DAEMON_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct daemon_log;

enum log_level { LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARNING, LEVEL_ERROR };

/* A member of a line beside time, level and message. */
struct log_field {
    const char *name;
    enum { FIELD_TEXT, FIELD_NUMBER, FIELD_MS } type;
    const char *text; /* NULL or "": left out */
    uint64_t number;  /* FIELD_MS: microseconds, shown as milliseconds */
};

#define LOG_TEXT(name, text) ((struct log_field){(name), FIELD_TEXT, (text), 0})
#define LOG_NUMBER(name, number) ((struct log_field){(name), FIELD_NUMBER, NULL, (number)})
#define LOG_MS(name, us) ((struct log_field){(name), FIELD_MS, NULL, (us)})

/* daemon_log_level - of its word; NULL: info; LEVEL_INFO also for what is none. */
enum log_level daemon_log_level(const char *word);

/* daemon_log_open - @path: appended to, made where missing; NULL: standard error. */
int daemon_log_open(const char *path, enum log_level level, struct daemon_log **ret_log,
                    struct error *err);

bool daemon_log_wants(const struct daemon_log *log, enum log_level level);

/* daemon_log_write - at most 2 KiB a line. @log NULL: at once, on standard error. */
void daemon_log_write(struct daemon_log *log, enum log_level level, const char *message,
                      const struct log_field *fields, size_t n_fields);

/* daemon_log_write_rarely - for what a client can bring about as often as it likes: at most 50 of
 * these a second, all together; one that comes after others were left out says how many. */
void daemon_log_write_rarely(struct daemon_log *log, enum log_level level, const char *message,
                             const struct log_field *fields, size_t n_fields);

/* daemon_log_reopen - the file anew, by its path, before the next line: somebody moved it. */
void daemon_log_reopen(struct daemon_log *log);

uint64_t daemon_log_dropped(const struct daemon_log *log);

/* daemon_log_close - brings out what is left, for two seconds at most. Takes NULL. */
void daemon_log_close(struct daemon_log *log);

#endif
