/* Shared by the log store's files (log_store.c, log_segments.c, log_read.c, log_follow.c) only. */
#ifndef MAYFLY_HOST_OBSERVE_LOG_STORE_INTERNAL_H
#define MAYFLY_HOST_OBSERVE_LOG_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "log_store.h"
#include "record_queue.h"
#include "host/store/registry.h"

enum {
    LOG_SEGMENTS = 8, /* of a function, about */
    LOG_SEGMENT_LEAST_BYTES = 16 << 10,
    LOG_SEGMENT_MOST_BYTES = 4 << 20,
    LOG_OPEN_FILES = 64,
    LOG_NAME_BYTES = FUNCTION_NAME_MAX + 1,
    LOG_LINE_BYTES = LOG_MESSAGE_MAX * JSON_LINE_ESCAPED_MAX + 1024,
};

/* --- log_segments.c: a function's files --- */

/* Which there are. */
struct log_segments {
    uint64_t *numbers; /* owned; rising */
    size_t n;
    uint64_t bytes; /* of all of them */
    int64_t newest_s;
};

/* log_segments_list - of the open directory @directory (borrowed). 0 or -errno; _done() it. */
int log_segments_list(int directory, struct log_segments *ret_segments);
void log_segments_done(struct log_segments *segments);
/* log_segment_open - @flags as open(2)'s. The descriptor, or -errno. */
int log_segment_open(int directory, uint64_t number, int flags);
/* log_function_open - the directory of a function's; -ENOENT, -EINVAL for what is no name. */
int log_function_open(int root, const char *tenant, const char *function, bool makes);
void log_function_remove(int root, const char *tenant, const char *function);
/* log_sweep - what is silent since before @oldest_s goes, and of each tenant what is over
 * @tenant_bytes. */
void log_sweep(int root, int64_t oldest_s, uint64_t tenant_bytes);

/* --- the store --- */

/* A function that is being written to: the thread's. */
struct log_file {
    char tenant[LOG_NAME_BYTES], function[LOG_NAME_BYTES]; /* "": free */
    int directory, fd;
    uint64_t segment, segment_bytes, total_bytes;
    uint64_t used_at;        /* in the order of use */
    uint64_t tokens, fed_ms; /* bytes that it may still print, and when that was so */
    uint64_t dropped_lines;
    bool was_touched; /* in this batch */
};

struct log_follower {
    LIST_ENTRY(log_follower) in_store;
    struct log_store *store;
    char tenant[LOG_NAME_BYTES], function[LOG_NAME_BYTES];
    void (*wake)(void *); /* by the store's lock */
    void *wake_opaque;
    atomic_bool has_ended;
    /* The reader's: */
    int directory, fd; /* owned; -1: not there yet */
    uint64_t segment, offset_bytes;
    bool is_within_line;
    uint64_t sent_us;
};

struct log_store {
    struct log_store_options options;
    char *path; /* owned */
    int root;   /* owned */
    struct record_queue *queue;
    uint64_t segment_most_bytes;
    /* The thread's: */
    struct log_file files[LOG_OPEN_FILES];
    uint64_t uses, swept_ms, beat_ms;
    atomic_uint_fast64_t lost; /* lines that could not be written */
    pthread_mutex_t lock;      /* of these: */
    LIST_HEAD(, log_follower) followers;
    size_t n_followers;
    bool is_ending;
};

/* log_followers_wake - those of @tenant's @function; NULL: all. @ends: it is gone. */
void log_followers_wake(struct log_store *store, const char *tenant, const char *function,
                        bool ends);

#endif
