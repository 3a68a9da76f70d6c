/*
 * The log store's writing side: see log_store.h.
 *
 * A record of the queue: flags, tenant 0, function 0, the line. The thread knows the functions that
 * were written to last with their descriptors; one that is not among them is opened anew, in a
 * segment whose last line is whole.
 */
#include "log_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "log_store_internal.h"
#include "host/instance/run_directory.h"

enum {
    QUEUE_BYTES = 2 << 20,
    LINGER_MS = 20,
    TICK_MS = 5000,
    SWEEP_MS = 3600 * 1000,
    BEAT_MS = 15000, /* followers hear something so often */
    CLOSE_MS = 10000,
    FUNCTION_MIB = 10,
    TENANT_MIB = 1024,
    RATE_BYTES_S = 1 << 20,
    RATE_BURST = 4,
    KEEP_DAYS = 14,
    RECORD_HEAD_BYTES = 1 + 2 * LOG_NAME_BYTES,
    SHORT_MESSAGE_BYTES = 512,
    LINE_SHORT_BYTES = SHORT_MESSAGE_BYTES * JSON_LINE_ESCAPED_MAX + 1024,
};

enum record_kind { RECORD_OUTPUT, RECORD_PLATFORM, RECORD_REMOVE };

static uint64_t store_now_ms(const struct log_store *store)
{
    return store->options.now_ms ? store->options.now_ms() : json_line_now_ms();
}

/* --- putting --------------------------------------------------------------------------------- */

static size_t make_line(const struct log_entry *entry, char *to, size_t size)
{
    static const char *const streams[] = {"stdout", "stderr", "platform"};
    char when[JSON_LINE_TIME_BYTES];
    struct json_line line;

    json_line_time(entry->time_ms, when);
    json_line_begin(&line, to, size);
    json_line_text(&line, "time", when);
    json_line_text(&line, "request_id", entry->request_id);
    json_line_text(&line, "version", entry->version);
    json_line_text(&line, "instance", entry->instance);
    json_line_text(&line, "stream", streams[entry->stream]);
    json_line_bytes(&line, "message", entry->message,
                    entry->message_bytes < LOG_MESSAGE_MAX ? entry->message_bytes
                                                           : LOG_MESSAGE_MAX);
    return json_line_end(&line);
}

static size_t put_head(char *to, enum record_kind kind, const char *tenant, const char *function)
{
    size_t tenant_len = strnlen(tenant, FUNCTION_NAME_MAX);
    size_t function_len = strnlen(function, FUNCTION_NAME_MAX);

    to[0] = (char)kind;
    memcpy(to + 1, tenant, tenant_len);
    to[1 + tenant_len] = '\0';
    memcpy(to + 2 + tenant_len, function, function_len);
    to[2 + tenant_len + function_len] = '\0';
    return 3 + tenant_len + function_len;
}

/* Most lines are short, and callers many: their stacks stay small. */
void log_store_put(struct log_store *store, const struct log_entry *entry)
{
    bool is_short = entry->message_bytes < SHORT_MESSAGE_BYTES;
    char small[RECORD_HEAD_BYTES + LINE_SHORT_BYTES];
    AUTO_FREE char *large = is_short ? NULL : malloc(RECORD_HEAD_BYTES + LOG_LINE_BYTES);
    char *record = is_short ? small : large;

    if (!record) {
        atomic_fetch_add(&store->lost, 1);
        return;
    }
    size_t len = put_head(record, entry->stream == LOG_PLATFORM ? RECORD_PLATFORM : RECORD_OUTPUT,
                          entry->tenant, entry->function);
    len += make_line(entry, record + len, is_short ? LINE_SHORT_BYTES : LOG_LINE_BYTES);
    (void)record_queue_put(store->queue, record, len);
}

void log_store_remove(struct log_store *store, const char *tenant, const char *function)
{
    char record[RECORD_HEAD_BYTES];

    (void)record_queue_put(store->queue, record, put_head(record, RECORD_REMOVE, tenant, function));
}

uint64_t log_store_dropped(const struct log_store *store)
{
    return record_queue_dropped(store->queue) + atomic_load(&store->lost);
}

/* --- files ----------------------------------------------------------------------------------- */

static void file_close(struct log_file *file)
{
    fd_close_at_exit(&file->fd);
    fd_close_at_exit(&file->directory);
    *file = (struct log_file){.directory = -1, .fd = -1};
}

static bool file_is(const struct log_file *file, const char *tenant, const char *function)
{
    return strcmp(file->function, function) == 0 && strcmp(file->tenant, tenant) == 0;
}

/* Does the last line have its end? A host that crashed may have left half of one. */
static bool is_whole(const struct log_file *file)
{
    char last = '\n';

    return file->segment_bytes == 0 ||
           (pread(file->fd, &last, 1, (off_t)file->segment_bytes - 1) == 1 && last == '\n');
}

static int open_segment(struct log_file *file, uint64_t number)
{
    int fd = log_segment_open(file->directory, number, O_RDWR | O_APPEND | O_CREAT);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        int r = fd < 0 ? fd : -errno;

        fd_close_at_exit(&fd);
        return r;
    }
    fd_close_at_exit(&file->fd);
    file->fd = fd;
    file->segment = number;
    file->segment_bytes = (uint64_t)st.st_size;
    return 0;
}

/* A new segment; the oldest go, so that with a full one more there are never too many bytes. */
static int rotate(const struct log_store *store, struct log_file *file)
{
    struct log_segments segments;
    uint64_t limit = store->options.function_bytes - store->segment_most_bytes;
    int r = log_segments_list(file->directory, &segments);
    char name[24];
    struct stat st;

    if (r < 0)
        return r;
    for (size_t i = 0; i < segments.n && segments.bytes > limit; i++) {
        snprintf(name, sizeof(name), "%010llu", (unsigned long long)segments.numbers[i]);
        if (fstatat(file->directory, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            unlinkat(file->directory, name, 0) == 0)
            segments.bytes -= (uint64_t)st.st_size;
    }
    uint64_t next = segments.n > 0 ? segments.numbers[segments.n - 1] + 1 : 1;
    log_segments_done(&segments);
    return open_segment(file, next > file->segment ? next : file->segment + 1);
}

static int file_open(const struct log_store *store, struct log_file *file, const char *tenant,
                     const char *function)
{
    struct log_segments segments;
    int r = log_function_open(store->root, tenant, function, true);

    *file = (struct log_file){.directory = r, .fd = -1};
    if (r >= 0)
        r = log_segments_list(file->directory, &segments);
    if (r >= 0) {
        r = open_segment(file, segments.n > 0 ? segments.numbers[segments.n - 1] : 1);
        log_segments_done(&segments);
    }
    if (r >= 0 && !is_whole(file))
        r = rotate(store, file);
    if (r < 0) {
        file_close(file);
        return r;
    }
    snprintf(file->tenant, sizeof(file->tenant), "%s", tenant);
    snprintf(file->function, sizeof(file->function), "%s", function);
    file->tokens = store->options.rate_bytes_s * RATE_BURST;
    file->fed_ms = store_now_ms(store);
    return 0;
}

/* NULL: it cannot be opened. */
static struct log_file *find_file(struct log_store *store, const char *tenant, const char *function)
{
    struct log_file *oldest = &store->files[0];

    for (size_t i = 0; i < LOG_OPEN_FILES; i++) {
        struct log_file *file = &store->files[i];

        if (file->function[0] && file_is(file, tenant, function)) {
            file->used_at = ++store->uses;
            return file;
        }
        if (file->used_at < oldest->used_at)
            oldest = file;
    }
    if (oldest->was_touched)
        log_followers_wake(store, oldest->tenant, oldest->function, false);
    file_close(oldest);
    if (file_open(store, oldest, tenant, function) < 0)
        return NULL;
    oldest->used_at = ++store->uses;
    return oldest;
}

/* --- the thread ------------------------------------------------------------------------------ */

static void append(struct log_store *store, struct log_file *file, const char *line, size_t len)
{
    if (file->segment_bytes > 0 && file->segment_bytes + len > store->segment_most_bytes &&
        rotate(store, file) < 0) {
        atomic_fetch_add(&store->lost, 1);
        return;
    }
    ssize_t n = write(file->fd, line, len);
    if (n == (ssize_t)len) {
        file->segment_bytes += len;
        file->was_touched = true;
        return;
    }
    /* A full disk: no half lines. */
    atomic_fetch_add(&store->lost, 1);
    if (n > 0 && ftruncate(file->fd, (off_t)file->segment_bytes) < 0)
        file_close(file);
}

static void say_dropped(struct log_store *store, struct log_file *file)
{
    char text[160], line[RECORD_HEAD_BYTES + 512];
    struct log_entry entry = {.tenant = file->tenant,
                              .function = file->function,
                              .time_ms = store_now_ms(store),
                              .request_id = "",
                              .version = "",
                              .instance = "",
                              .stream = LOG_PLATFORM,
                              .message = text};

    entry.message_bytes = (size_t)snprintf(
        text, sizeof(text), "MAYFLY %llu lines were dropped: more than %llu bytes a second",
        (unsigned long long)file->dropped_lines, (unsigned long long)store->options.rate_bytes_s);
    file->dropped_lines = 0;
    append(store, file, line, make_line(&entry, line, sizeof(line)));
}

/* May it print @len bytes more? */
static bool spend(const struct log_store *store, struct log_file *file, size_t len)
{
    uint64_t now_ms = store_now_ms(store), rate = store->options.rate_bytes_s;
    uint64_t passed_ms = now_ms > file->fed_ms ? now_ms - file->fed_ms : 0;

    passed_ms = passed_ms < RATE_BURST * 1000 ? passed_ms : RATE_BURST * 1000;
    if (passed_ms * rate / 1000 > 0 || now_ms < file->fed_ms) {
        file->tokens += passed_ms * rate / 1000;
        file->fed_ms = now_ms;
    }
    if (file->tokens > rate * RATE_BURST)
        file->tokens = rate * RATE_BURST;
    if (file->tokens < len)
        return false;
    file->tokens -= len;
    return true;
}

static void forget_file(struct log_store *store, const char *tenant, const char *function)
{
    for (size_t i = 0; i < LOG_OPEN_FILES; i++)
        if (store->files[i].function[0] && file_is(&store->files[i], tenant, function))
            file_close(&store->files[i]);
}

static void take_record(void *opaque, const void *record, size_t len)
{
    struct log_store *store = opaque;
    const char *tenant = (const char *)record + 1, *function = tenant + strlen(tenant) + 1;
    const char *line = function + strlen(function) + 1;
    size_t line_len = len - (size_t)(line - (const char *)record);
    enum record_kind kind = (enum record_kind) * (const char *)record;

    if (kind == RECORD_REMOVE) {
        forget_file(store, tenant, function);
        log_function_remove(store->root, tenant, function);
        log_followers_wake(store, tenant, function, true);
        return;
    }
    struct log_file *file = find_file(store, tenant, function);
    if (!file) {
        atomic_fetch_add(&store->lost, 1);
        return;
    }
    if (kind == RECORD_OUTPUT && !spend(store, file, line_len)) {
        file->dropped_lines++;
        return;
    }
    if (file->dropped_lines > 0)
        say_dropped(store, file);
    if (file->fd >= 0)
        append(store, file, line, line_len);
}

static void sweep(struct log_store *store, uint64_t now_ms)
{
    int64_t kept_s = (int64_t)store->options.keep_days * 86400;
    struct stat st;

    log_sweep(store->root, (int64_t)(now_ms / 1000) - kept_s, store->options.tenant_bytes);
    for (size_t i = 0; i < LOG_OPEN_FILES; i++)
        if (store->files[i].fd >= 0 && fstat(store->files[i].fd, &st) == 0 && st.st_nlink == 0)
            file_close(&store->files[i]);
}

static void end_batch(void *opaque)
{
    struct log_store *store = opaque;
    uint64_t now_ms = store_now_ms(store);

    for (size_t i = 0; i < LOG_OPEN_FILES; i++)
        if (store->files[i].was_touched) {
            store->files[i].was_touched = false;
            log_followers_wake(store, store->files[i].tenant, store->files[i].function, false);
        }
    if (now_ms - store->beat_ms >= BEAT_MS) {
        store->beat_ms = now_ms;
        log_followers_wake(store, NULL, NULL, false);
    }
    if (now_ms - store->swept_ms >= SWEEP_MS) {
        store->swept_ms = now_ms;
        sweep(store, now_ms);
    }
}

/* --- life ------------------------------------------------------------------------------------ */

static void take_options(struct log_store *store, const struct log_store_options *from)
{
    struct log_store_options *to = &store->options;

    *to = *from;
    to->path = NULL;
    to->function_bytes = from->function_bytes ? from->function_bytes : FUNCTION_MIB << 20;
    to->tenant_bytes = from->tenant_bytes ? from->tenant_bytes : (uint64_t)TENANT_MIB << 20;
    to->rate_bytes_s = from->rate_bytes_s ? from->rate_bytes_s : RATE_BYTES_S;
    to->keep_days = from->keep_days ? from->keep_days : KEEP_DAYS;
    store->segment_most_bytes = to->function_bytes / LOG_SEGMENTS;
    if (store->segment_most_bytes > LOG_SEGMENT_MOST_BYTES)
        store->segment_most_bytes = LOG_SEGMENT_MOST_BYTES;
    if (store->segment_most_bytes < LOG_SEGMENT_LEAST_BYTES)
        store->segment_most_bytes = LOG_SEGMENT_LEAST_BYTES;
    if (to->function_bytes < 2 * store->segment_most_bytes)
        to->function_bytes = 2 * store->segment_most_bytes;
}

static void store_free(struct log_store *store)
{
    for (size_t i = 0; i < LOG_OPEN_FILES; i++)
        file_close(&store->files[i]);
    fd_close_at_exit(&store->root);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

int log_store_open(const struct log_store_options *options, struct log_store **ret_store,
                   struct error *err)
{
    struct log_store *store = calloc(1, sizeof(*store));
    int r;

    if (!store)
        return error_set(err, ENOMEM, "open the logs");
    take_options(store, options);
    pthread_mutex_init(&store->lock, NULL);
    for (size_t i = 0; i < LOG_OPEN_FILES; i++)
        store->files[i] = (struct log_file){.directory = -1, .fd = -1};
    store->root = -1;
    r = make_directories(options->path, 1, err);
    if (r == 0) {
        store->root = open(options->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->root < 0)
            r = error_set(err, errno, "open the logs '%s'", options->path);
    }
    const struct record_queue_options queue = {.bytes = QUEUE_BYTES,
                                               .linger_ms = LINGER_MS,
                                               .tick_ms = TICK_MS,
                                               .take = take_record,
                                               .batch_end = end_batch,
                                               .opaque = store};
    if (r == 0)
        r = record_queue_new(&queue, &store->queue, err);
    if (r < 0) {
        store_free(store);
        return r;
    }
    *ret_store = store;
    return 0;
}

void log_store_close(struct log_store *store)
{
    if (store && record_queue_free(store->queue, CLOSE_MS) == 0)
        store_free(store);
}
