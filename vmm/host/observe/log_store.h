/*
 * What functions print, and the platform's lines around it: a few files for each function under
 * <path>/<tenant>/<function>/<number>, one JSON object a line, as the API shows them:
 *
 *   {"time":"2026-01-31T12:00:00.123Z","request_id":"…","version":"…","instance":"…",
 *    "stream":"stdout","message":"…"}
 *
 * Putting never waits: a thread of the store's own writes. Bounded: what waits, the bytes that a
 * function logs in a second, a function's files (the oldest is dropped for a new one), a tenant's
 * (the functions longest silent are dropped), open files, followers. A deleted function's log is
 * kept, as Lambda does, until it was silent for keep_days, or is in the way of a tenant's limit, or
 * is removed. Nothing is flushed to disk: a crash of the host may cost the last seconds.
 *
 * Trust: texts are a guest's and cleaned (json_line.h) before they are in a line; names are checked
 * to be names. Threads: any; a follower's calls on one at a time.
 */
#ifndef MAYFLY_HOST_OBSERVE_LOG_STORE_H
#define MAYFLY_HOST_OBSERVE_LOG_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "json_line.h"

enum {
    LOG_MESSAGE_MAX = 8 << 10, /* bytes of one line's message: a longer line is several */
    LOG_READ_LINES_MAX = 10000,
    LOG_READ_BYTES_MAX = 6 << 20,
    LOG_SCAN_BYTES_MAX = 1 << 20,
    LOG_FOLLOWERS_MAX = 256,
    LOG_FOLLOWERS_TENANT_MAX = 64,
};

enum log_stream { LOG_STDOUT, LOG_STDERR, LOG_PLATFORM };

struct log_store;

/* 0 takes the default. */
struct log_store_options {
    const char *path;         /* a directory of the store's own; made where missing; copied */
    uint64_t function_bytes;  /* 10 MiB */
    uint64_t tenant_bytes;    /* 1 GiB */
    uint64_t rate_bytes_s;    /* of what a function prints: 1 MiB, and four times it at once */
    uint32_t keep_days;       /* 14 */
    uint64_t (*now_ms)(void); /* wall clock; NULL: the real one (tests set it) */
};

int log_store_open(const struct log_store_options *options, struct log_store **ret_store,
                   struct error *err);
/* log_store_close - writes what is left. No calls, and no followers, may be under way. Takes NULL.
 */
void log_store_close(struct log_store *store);

/* One line's parts; borrowed. */
struct log_entry {
    const char *tenant, *function;
    uint64_t time_ms; /* since 1970 */
    const char *request_id, *version, *instance;
    enum log_stream stream;
    const void *message;
    size_t message_bytes; /* what is over LOG_MESSAGE_MAX is cut off */
};

/* log_store_put - for the thread to write; what cannot wait, or is too much of a function's, is
 * dropped: of the former log_store_dropped() tells, of the latter a line in the log. */
void log_store_put(struct log_store *store, const struct log_entry *entry);
uint64_t log_store_dropped(const struct log_store *store);

/* log_store_remove - all of a function's log, soon. Its followers come to their end. */
void log_store_remove(struct log_store *store, const char *tenant, const char *function);

/* --- reading (log_read.c) --- */

struct log_query {
    char since[JSON_LINE_TIME_BYTES]; /* "": from the first */
    size_t limit;                     /* lines, the newest; at most LOG_READ_LINES_MAX */
    const char *request_id;           /* NULL: all */
    size_t max_bytes;                 /* of lines; 0, and at most: LOG_READ_BYTES_MAX */
};

/* Where reading ended: where following goes on. */
struct log_position {
    uint64_t segment; /* 0: before the first */
    uint64_t offset_bytes;
};

/*
 * log_store_read - lines as they are in the file, oldest first, at most LOG_READ_BYTES_MAX of them.
 * *ret_text is owned, terminated. Waits for a disk. -ENOENT: nothing was ever logged.
 */
int log_store_read(const struct log_store *store, const char *tenant, const char *function,
                   const struct log_query *query, char **ret_text, size_t *ret_len,
                   struct log_position *ret_end, struct error *err);

/*
 * log_store_scan - whole lines from *position on, oldest first: at most LOG_SCAN_BYTES_MAX, of one
 * segment. *ret_text (owned; NULL without lines) ends where *position is afterwards; a position
 * whose segment was dropped is the oldest there is. Empty: nothing is there yet. Errors as above.
 */
int log_store_scan(const struct log_store *store, const char *tenant, const char *function,
                   struct log_position *position, char **ret_text, size_t *ret_len,
                   struct error *err);

/* --- following (log_follow.c) --- */

struct log_follower;

/* log_follower_new - from @from on. -EAGAIN: there are too many, of the tenant's or in all. */
int log_follower_new(struct log_store *store, const char *tenant, const char *function,
                     const struct log_position *from, struct log_follower **ret_follower,
                     struct error *err);

/* log_follower_on_more - @wake is called, on the store's thread, when log_follower_read() may have
 * more; not after this was called with NULL. */
void log_follower_on_more(struct log_follower *follower, void (*wake)(void *), void *opaque);

/* log_follower_read - up to @size bytes: how many; 0: none for now; -1: it has ended. Reads from
 * the page cache, mostly. Sends an empty line where there was nothing for a while. */
ptrdiff_t log_follower_read(struct log_follower *follower, void *to, size_t size);
void log_follower_free(struct log_follower *follower);

/* log_store_end_followers - they come to their end, and no new ones (-ESHUTDOWN). */
void log_store_end_followers(struct log_store *store);

#endif
