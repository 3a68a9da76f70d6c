/*
 * The daemon's log: see daemon_log.h.
 *
 * The thread writes pieces of at most PIPE_BUF bytes, each after poll() said that there is room:
 * a pipe takes such a piece whole and without waiting, so that it can still be told to end.
 */
#include "daemon_log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/fd.h"
#include "json_line.h"
#include "record_queue.h"

enum {
    LINE_BYTES = 2048,
    QUEUE_BYTES = 512 << 10,
    LINGER_MS = 10,
    RARE_PER_S = 50,
    POLL_MS = 100,
    ENDING_MS = 1500, /* to a reader that does not read, when the daemon ends */
    CLOSE_MS = 3000,
};

struct daemon_log {
    struct record_queue *queue; /* owned */
    enum log_level level;
    char *path; /* owned; NULL: standard error */
    atomic_bool is_to_reopen;
    atomic_uint_fast64_t rare_second, n_rare, n_left_out; /* of lines that are written rarely */
    /* The thread's: */
    int fd; /* owned if there is a path */
    uint64_t dropped_said, ending_us;
    size_t used;
    char piece[PIPE_BUF];
};

static const char *const words[] = {"debug", "info", "warning", "error"};

enum log_level daemon_log_level(const char *word)
{
    for (size_t i = 0; word && i < ARRAY_LEN(words); i++)
        if (strcmp(words[i], word) == 0)
            return (enum log_level)i;
    return LEVEL_INFO;
}

/* --- lines ----------------------------------------------------------------------------------- */

static size_t make_line(enum log_level level, const char *message, const struct log_field *fields,
                        size_t n_fields, char to[LINE_BYTES])
{
    char now[JSON_LINE_TIME_BYTES];
    struct json_line line;

    json_line_time(json_line_now_ms(), now);
    json_line_begin(&line, to, LINE_BYTES);
    json_line_text(&line, "time", now);
    json_line_text(&line, "level", words[level]);
    json_line_text(&line, "message", message);
    for (size_t i = 0; i < n_fields; i++) {
        if (fields[i].type == FIELD_NUMBER)
            json_line_integer(&line, fields[i].name, fields[i].number);
        else if (fields[i].type == FIELD_MS)
            json_line_thousandths(&line, fields[i].name, fields[i].number);
        else if (fields[i].text && fields[i].text[0])
            json_line_text(&line, fields[i].name, fields[i].text);
    }
    return json_line_end(&line);
}

bool daemon_log_wants(const struct daemon_log *log, enum log_level level)
{
    return !log || level >= log->level;
}

void daemon_log_write(struct daemon_log *log, enum log_level level, const char *message,
                      const struct log_field *fields, size_t n_fields)
{
    char line[LINE_BYTES];

    if (!daemon_log_wants(log, level))
        return;
    size_t len = make_line(level, message, fields, n_fields, line);
    if (log)
        (void)record_queue_put(log->queue, line, len);
    else
        (void)fd_write_all(STDERR_FILENO, line, len);
}

/* Two threads that meet at a second's turn may count a line too few: it is no more than a line. */
static bool may_write_rarely(struct daemon_log *log)
{
    uint64_t second = clock_now_us() / 1000000;

    if (atomic_exchange(&log->rare_second, second) != second)
        atomic_store(&log->n_rare, 0);
    if (atomic_fetch_add(&log->n_rare, 1) < RARE_PER_S)
        return true;
    atomic_fetch_add(&log->n_left_out, 1);
    return false;
}

void daemon_log_write_rarely(struct daemon_log *log, enum log_level level, const char *message,
                             const struct log_field *fields, size_t n_fields)
{
    if (!log || !daemon_log_wants(log, level)) {
        daemon_log_write(log, level, message, fields, n_fields);
        return;
    }
    if (!may_write_rarely(log))
        return;
    const struct log_field left_out = LOG_NUMBER("left_out", atomic_exchange(&log->n_left_out, 0));
    if (left_out.number > 0)
        daemon_log_write(log, level, "lines like the next were left out", &left_out, 1);
    daemon_log_write(log, level, message, fields, n_fields);
}

/* --- the thread ------------------------------------------------------------------------------ */

/* Waits for room. False: the daemon ends and nobody reads. */
static bool wait_for_room(struct daemon_log *log)
{
    struct pollfd poll_fd = {.fd = log->fd, .events = POLLOUT};

    while (log->ending_us == 0 || clock_now_us() < log->ending_us) {
        if (poll(&poll_fd, 1, POLL_MS) != 0)
            return true;
        if (log->ending_us == 0 && record_queue_is_ending(log->queue))
            log->ending_us = clock_now_us() + ENDING_MS * 1000ull;
    }
    return false;
}

/* A log that cannot be written has nobody to tell: its lines are gone. */
static void bring_out(struct daemon_log *log)
{
    size_t done = 0;

    while (done < log->used && wait_for_room(log)) {
        ssize_t n = write(log->fd, log->piece + done, log->used - done);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    log->used = 0;
}

static int open_file(const char *path, int *ret_fd)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);

    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static void reopen_if_asked(struct daemon_log *log)
{
    int fd = -1;

    if (!atomic_exchange(&log->is_to_reopen, false) || !log->path || open_file(log->path, &fd) < 0)
        return; /* better the old one than none */
    close(log->fd);
    log->fd = fd;
}

static void take_line(void *opaque, const void *line, size_t len)
{
    struct daemon_log *log = opaque;

    if (len > sizeof(log->piece) - log->used)
        bring_out(log);
    memcpy(log->piece + log->used, line, len);
    log->used += len;
}

static void end_batch(void *opaque)
{
    struct daemon_log *log = opaque;
    uint64_t dropped = record_queue_dropped(log->queue);
    char line[LINE_BYTES];

    bring_out(log);
    if (dropped > log->dropped_said) {
        const struct log_field number = LOG_NUMBER("dropped", dropped - log->dropped_said);

        log->dropped_said = dropped;
        take_line(log, line,
                  make_line(LEVEL_WARNING, "lines of this log were dropped", &number, 1, line));
        bring_out(log);
    }
    reopen_if_asked(log);
}

/* --- life ------------------------------------------------------------------------------------ */

static void log_free(struct daemon_log *log)
{
    if (log->path)
        fd_close_at_exit(&log->fd);
    free(log->path);
    free(log);
}

int daemon_log_open(const char *path, enum log_level level, struct daemon_log **ret_log,
                    struct error *err)
{
    struct daemon_log *log = calloc(1, sizeof(*log));
    int r = 0;

    if (!log)
        return error_set(err, ENOMEM, "open the log");
    log->level = level;
    log->fd = STDERR_FILENO;
    if (path) {
        log->fd = -1;
        log->path = strdup(path);
        r = log->path ? open_file(path, &log->fd) : -ENOMEM;
        if (r < 0)
            error_set(err, -r, "open the log '%s'", path);
    }
    const struct record_queue_options queue = {.bytes = QUEUE_BYTES,
                                               .linger_ms = LINGER_MS,
                                               .take = take_line,
                                               .batch_end = end_batch,
                                               .opaque = log};
    if (r == 0)
        r = record_queue_new(&queue, &log->queue, err);
    if (r < 0) {
        log_free(log);
        return r;
    }
    *ret_log = log;
    return 0;
}

void daemon_log_reopen(struct daemon_log *log)
{
    atomic_store(&log->is_to_reopen, true);
    record_queue_poke(log->queue);
}

uint64_t daemon_log_dropped(const struct daemon_log *log)
{
    return record_queue_dropped(log->queue);
}

void daemon_log_close(struct daemon_log *log)
{
    if (log && record_queue_free(log->queue, CLOSE_MS) == 0)
        log_free(log);
}
