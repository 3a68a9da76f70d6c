/* JSON, a line at a time: see json_line.h. Process: the host's daemon. */
#include "json_line.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/utf8.h"

enum { TAIL_BYTES = 2 }; /* kept free for the brace and the line feed */

/* All of it, or nothing. */
static bool put(struct json_line *line, const void *bytes, size_t len)
{
    if (len > line->size - TAIL_BYTES - line->len)
        return false;
    memcpy(line->to + line->len, bytes, len);
    line->len += len;
    return true;
}

static bool put_name(struct json_line *line, const char *name)
{
    size_t before = line->len;

    if ((before == 1 || put(line, ",", 1)) && put(line, "\"", 1) && put(line, name, strlen(name)) &&
        put(line, "\":", 2))
        return true;
    line->len = before;
    return false;
}

void json_line_begin(struct json_line *line, char *to, size_t size)
{
    assert(size >= JSON_LINE_LEAST_BYTES);
    *line = (struct json_line){to, size, 0};
    (void)put(line, "{", 1);
}

/* The character at @from (of @left bytes) and how it is written. Returns how many it takes. */
static size_t escape(const unsigned char *from, size_t left, char ret[8], size_t *ret_len)
{
    size_t n = utf8_sequence(from, left);

    if (n == 0 || *from == 0) { /* many a reader of JSON takes no \u0000 */
        memcpy(ret, "\xef\xbf\xbd", *ret_len = 3);
        return 1;
    }
    if (n == 1 && (*from < 0x20 || *from == 0x7f)) {
        *ret_len = 6;
        snprintf(ret, 8, "\\u%04x", *from);
    } else if (*from == '"' || *from == '\\') {
        ret[0] = '\\';
        ret[1] = (char)*from;
        *ret_len = 2;
    } else {
        memcpy(ret, from, *ret_len = n);
    }
    return n;
}

/* How many bytes from @from on need nothing done to them. */
static size_t plain_bytes(const unsigned char *from, size_t left)
{
    size_t n = 0;

    while (n < left && from[n] >= 0x20 && from[n] < 0x7f && from[n] != '"' && from[n] != '\\')
        n++;
    return n;
}

void json_line_bytes(struct json_line *line, const char *name, const void *bytes, size_t len)
{
    const unsigned char *from = bytes;
    size_t before = line->len;
    char piece[8];

    if (!put_name(line, name) || !put(line, "\"\"", 2)) {
        line->len = before;
        return;
    }
    line->len--;  /* the closing quote has its place… */
    line->size--; /* …which no text takes */
    while (len > 0) {
        size_t n = plain_bytes(from, len), room = line->size - TAIL_BYTES - line->len, piece_len;

        n = n < room ? n : room;
        (void)put(line, from, n);
        from += n;
        len -= n;
        if (len == 0)
            break;
        n = escape(from, len, piece, &piece_len);
        if (!put(line, piece, piece_len))
            break;
        from += n;
        len -= n;
    }
    line->size++;
    (void)put(line, "\"", 1);
}

void json_line_text(struct json_line *line, const char *name, const char *text)
{
    json_line_bytes(line, name, text, strlen(text));
}

static void put_number(struct json_line *line, const char *name, const char *number, size_t len)
{
    size_t before = line->len;

    if (!put_name(line, name) || !put(line, number, len))
        line->len = before;
}

/* Digits of @value before @end; at least so many. Returns where they begin. */
static char *put_digits(char *end, uint64_t value, unsigned least)
{
    for (unsigned n = 0; n < least || value > 0; n++, value /= 10)
        *--end = (char)('0' + value % 10);
    return end;
}

void json_line_integer(struct json_line *line, const char *name, uint64_t value)
{
    char text[24], *end = text + sizeof(text), *at = put_digits(end, value, 1);

    put_number(line, name, at, (size_t)(end - at));
}

void json_line_thousandths(struct json_line *line, const char *name, uint64_t value)
{
    char text[32], *end = text + sizeof(text), *at = put_digits(end, value % 1000, 3);

    *--at = '.';
    at = put_digits(at, value / 1000, 1);
    put_number(line, name, at, (size_t)(end - at));
}

size_t json_line_end(struct json_line *line)
{
    memcpy(line->to + line->len, "}\n", 2);
    return line->len + 2;
}

/* Of a second's many lines, on a thread, one asks the calendar. */
void json_line_time(uint64_t unix_ms, char ret_text[JSON_LINE_TIME_BYTES])
{
    static _Thread_local struct {
        time_t seconds;
        char text[64];
    } last = {.seconds = -1};
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm;

    if (seconds != last.seconds) {
        gmtime_r(&seconds, &tm);
        snprintf(last.text, sizeof(last.text), "%04d-%02d-%02dT%02d:%02d:%02d.000Z",
                 (tm.tm_year + 1900) % 10000, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                 tm.tm_sec);
        last.seconds = seconds;
    }
    memcpy(ret_text, last.text, JSON_LINE_TIME_BYTES - 1);
    (void)put_digits(ret_text + JSON_LINE_TIME_BYTES - 2, unix_ms % 1000, 3);
    ret_text[JSON_LINE_TIME_BYTES - 1] = '\0';
}

uint64_t json_line_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
