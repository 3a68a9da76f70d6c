/*
 * Reading the log store: the newest lines that a query asks for. See log_store.h.
 *
 * Segments are read from the newest back, each whole (4 MiB at most), their lines from the last
 * back, until there are enough. The files are the store's own writing; yet nothing here relies on
 * more than that lines end in line feeds.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "log_store_internal.h"

/* {"time":"2026-01-31T12:00:00.123Z","request_id":"… */
enum { TIME_AT = 9, TIME_LEN = JSON_LINE_TIME_BYTES - 1, REQUEST_AT = TIME_AT + TIME_LEN + 16 };

/* What was found, from the end of a buffer to its start. */
struct found {
    char *buffer; /* owned; of size bytes */
    size_t size, len, lines;
    bool is_over; /* no older lines are wanted */
};

static bool is_wanted(const struct log_query *query, const char *line, size_t len)
{
    size_t id_len = query->request_id ? strlen(query->request_id) : 0;

    if (query->since[0] &&
        (len < TIME_AT + TIME_LEN || memcmp(line + TIME_AT, query->since, TIME_LEN) < 0))
        return false;
    return !query->request_id || (len > REQUEST_AT + id_len &&
                                  memcmp(line + REQUEST_AT, query->request_id, id_len) == 0 &&
                                  line[REQUEST_AT + id_len] == '"');
}

static int grow(struct found *found, size_t more)
{
    size_t size = found->size ? found->size : 64 << 10;
    char *buffer;

    if (more <= found->size - found->len)
        return 0;
    while (size - found->len < more)
        size *= 2;
    buffer = malloc(size);
    if (!buffer)
        return -ENOMEM;
    if (found->len > 0)
        memcpy(buffer + size - found->len, found->buffer + found->size - found->len, found->len);
    free(found->buffer);
    found->buffer = buffer;
    found->size = size;
    return 0;
}

static int take_line(struct found *found, const struct log_query *query, const char *line,
                     size_t len)
{
    if (!is_wanted(query, line, len))
        return 0;
    size_t most = query->max_bytes && query->max_bytes < LOG_READ_BYTES_MAX ? query->max_bytes
                                                                            : LOG_READ_BYTES_MAX;

    if (found->lines == query->limit || found->len + len > most) {
        found->is_over = true;
        return 0;
    }
    int r = grow(found, len);
    if (r < 0)
        return r;
    found->len += len;
    found->lines++;
    memcpy(found->buffer + found->size - found->len, line, len);
    return 0;
}

/* The whole lines of @text, from the last. */
static int take_lines(struct found *found, const struct log_query *query, const char *text,
                      size_t len)
{
    int r = 0;

    while (r == 0 && len > 0 && !found->is_over) {
        const char *before = len > 1 ? memrchr(text, '\n', len - 1) : NULL;
        size_t start = before ? (size_t)(before - text) + 1 : 0;

        r = take_line(found, query, text + start, len - start);
        len = start;
    }
    return r;
}

/* The segment's text from @offset on, at most @max bytes, up to its last line feed there. A segment
 * that is gone has none. */
static int read_segment(int directory, uint64_t number, uint64_t offset, size_t max,
                        char **ret_text, size_t *ret_len)
{
    AUTO_FD fd = log_segment_open(directory, number, O_RDONLY);
    AUTO_FREE char *text = NULL;
    struct stat st;
    size_t len = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fd == -ENOENT ? 0 : -EIO;
    uint64_t left = (uint64_t)st.st_size > offset ? (uint64_t)st.st_size - offset : 0;
    size_t size = left < max ? (size_t)left : max;
    text = malloc(size + 1);
    if (!text)
        return -ENOMEM;
    for (ssize_t n = 1; n > 0 && len<size; len += n> 0 ? (size_t)n : 0) {
        n = pread(fd, text + len, size - len, (off_t)(offset + len));
        if (n < 0)
            return -errno;
    }
    const char *last = len ? memrchr(text, '\n', len) : NULL;
    *ret_len = last ? (size_t)(last - text) + 1 : 0;
    *ret_text = mem_steal(&text);
    return 0;
}

/* No line of it can be wanted: lines are in the order of their times, but for as long as an
 * invocation may take. */
static bool is_too_old(const struct log_query *query, const char *text, size_t len)
{
    const char *before = len > 1 ? memrchr(text, '\n', len - 1) : NULL;
    const char *line = before ? before + 1 : text;
    size_t line_len = len - (size_t)(line - text);

    return query->since[0] && line_len >= TIME_AT + TIME_LEN &&
           memcmp(line + TIME_AT, query->since, TIME_LEN) < 0;
}

static int read_segments(int directory, const struct log_segments *segments,
                         const struct log_query *query, struct found *found,
                         struct log_position *end)
{
    int r = 0;

    for (size_t i = segments->n; i > 0 && r == 0 && !found->is_over; i--) {
        AUTO_FREE char *text = NULL;
        size_t len = 0;

        r = read_segment(directory, segments->numbers[i - 1], 0,
                         LOG_SEGMENT_MOST_BYTES + LOG_LINE_BYTES, &text, &len);
        if (i == segments->n)
            *end = (struct log_position){segments->numbers[i - 1], len};
        if (r == 0 && len > 0)
            r = take_lines(found, query, text, len);
        if (r == 0 && len > 0 && is_too_old(query, text, len))
            found->is_over = true;
    }
    return r;
}

int log_store_read(const struct log_store *store, const char *tenant, const char *function,
                   const struct log_query *query, char **ret_text, size_t *ret_len,
                   struct log_position *ret_end, struct error *err)
{
    AUTO_FD directory = log_function_open(store->root, tenant, function, false);
    struct found found = {.buffer = NULL};
    struct log_position end = {0, 0};
    struct log_segments segments;
    int r = directory < 0 ? directory : log_segments_list(directory, &segments);

    if (r < 0)
        return error_set(err, -r, "read the log of '%s'", function);
    r = read_segments(directory, &segments, query, &found, &end);
    log_segments_done(&segments);
    char *text = r == 0 ? malloc(found.len + 1) : NULL;
    if (text) {
        if (found.len > 0)
            memcpy(text, found.buffer + found.size - found.len, found.len);
        text[found.len] = '\0';
        *ret_text = text;
        *ret_len = found.len;
        *ret_end = end;
    } else if (r == 0) {
        r = -ENOMEM;
    }
    free(found.buffer);
    return r < 0 ? error_set(err, -r, "read the log of '%s'", function) : 0;
}

static int scan(int directory, const struct log_segments *segments, struct log_position *position,
                char **ret_text, size_t *ret_len)
{
    int r = 0;

    for (size_t i = 0; i < segments->n && r == 0 && *ret_len == 0; i++) {
        if (segments->numbers[i] < position->segment)
            continue;
        if (segments->numbers[i] != position->segment)
            *position = (struct log_position){segments->numbers[i], 0};
        free(mem_steal(ret_text));
        r = read_segment(directory, position->segment, position->offset_bytes, LOG_SCAN_BYTES_MAX,
                         ret_text, ret_len);
    }
    return r;
}

int log_store_scan(const struct log_store *store, const char *tenant, const char *function,
                   struct log_position *position, char **ret_text, size_t *ret_len,
                   struct error *err)
{
    AUTO_FD directory = log_function_open(store->root, tenant, function, false);
    struct log_position at = *position;
    struct log_segments segments;
    AUTO_FREE char *text = NULL;
    size_t len = 0;
    int r = directory < 0 ? directory : log_segments_list(directory, &segments);

    if (r >= 0) {
        r = scan(directory, &segments, &at, &text, &len);
        log_segments_done(&segments);
    }
    if (r < 0)
        return error_set(err, -r, "read the log of '%s'", function);
    at.offset_bytes += len;
    *position = at;
    *ret_text = len > 0 ? mem_steal(&text) : NULL;
    *ret_len = len;
    return 0;
}
