/*
 * One JSON object on one line, written into a buffer of the caller's: for logs, where a tree of
 * values would cost more than the rest of a warm invocation.
 *
 *   json_line_begin() → json_line_text() … → json_line_end()
 *
 * Trust: values may be anybody's bytes: what is not UTF-8, and 0, becomes U+FFFD, control
 * characters are escaped; names are the program's own. Invariant: whatever is added, the end of it
 * is one whole object and a line feed; what does not fit is cut at a character, or left out.
 * Threads: any.
 */
#ifndef MAYFLY_HOST_OBSERVE_JSON_LINE_H
#define MAYFLY_HOST_OBSERVE_JSON_LINE_H

#include <stddef.h>
#include <stdint.h>

enum {
    JSON_LINE_TIME_BYTES = 25,   /* 2026-01-31T12:00:00.123Z and its 0 */
    JSON_LINE_LEAST_BYTES = 128, /* of a buffer */
    JSON_LINE_ESCAPED_MAX = 6,   /* bytes that one of a text may become */
};

struct json_line {
    char *to; /* borrowed */
    size_t size, len;
};

/* json_line_begin - into @to of @size ≥ JSON_LINE_LEAST_BYTES bytes. */
void json_line_begin(struct json_line *line, char *to, size_t size);
void json_line_text(struct json_line *line, const char *name, const char *text);
void json_line_bytes(struct json_line *line, const char *name, const void *bytes, size_t len);
void json_line_integer(struct json_line *line, const char *name, uint64_t value);
/* json_line_thousandths - @value / 1000, with as many decimals: microseconds as milliseconds. */
void json_line_thousandths(struct json_line *line, const char *name, uint64_t value);
/* json_line_end - returns its length, line feed included. There is no 0 after it. */
size_t json_line_end(struct json_line *line);

/* json_line_time - @unix_ms as RFC 3339 in UTC. */
void json_line_time(uint64_t unix_ms, char ret_text[JSON_LINE_TIME_BYTES]);

/* json_line_now_ms - the wall clock, since 1970. */
uint64_t json_line_now_ms(void);

#endif
