/* A JSON recogniser: see json_check.h. Process: the host's. Input: hostile. */
#include "json_check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct reader {
    const uint8_t *data;
    size_t at, len;
    const char *problem; /* NULL until the first */
    size_t depth;
    size_t n_values, most_values;            /* names count, too; most 0: any number */
    uint8_t is_object[JSON_CHECK_MAX_DEPTH]; /* by depth: object or array? */
};

static bool fail(struct reader *reader, const char *problem)
{
    if (!reader->problem)
        reader->problem = problem;
    return false;
}

/* The next byte, or -1 at the end. */
static int peek(const struct reader *reader)
{
    return reader->at < reader->len ? reader->data[reader->at] : -1;
}

static bool accept(struct reader *reader, int byte)
{
    if (peek(reader) != byte)
        return false;
    reader->at++;
    return true;
}

static bool is_digit(int byte)
{
    return byte >= '0' && byte <= '9';
}

static void skip_space(struct reader *reader)
{
    for (int c = peek(reader); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = peek(reader))
        reader->at++;
}

static bool read_word(struct reader *reader, const char *word)
{
    size_t len = strlen(word);

    if (reader->len - reader->at < len || memcmp(reader->data + reader->at, word, len) != 0)
        return fail(reader, "a value is neither null, true, false, a number nor text");
    reader->at += len;
    return true;
}

static bool read_digits(struct reader *reader)
{
    if (!is_digit(peek(reader)))
        return fail(reader, "a number lacks a digit");
    while (is_digit(peek(reader)))
        reader->at++;
    return true;
}

static bool read_number(struct reader *reader)
{
    accept(reader, '-');
    if (accept(reader, '0')) {
        if (is_digit(peek(reader)))
            return fail(reader, "a number begins with 0");
    } else if (!read_digits(reader)) {
        return false;
    }
    if (accept(reader, '.') && !read_digits(reader))
        return false;
    if (accept(reader, 'e') || accept(reader, 'E')) {
        if (!accept(reader, '+'))
            accept(reader, '-');
        return read_digits(reader);
    }
    return true;
}

static bool read_escape(struct reader *reader)
{
    int c = peek(reader);

    if (c < 0)
        return fail(reader, "text without its closing quote");
    reader->at++;
    if (c != 'u')
        return (c > 0 && strchr("\"\\/bfnrt", c)) || fail(reader, "an unknown escape in text");
    for (int i = 0; i < 4; i++, reader->at++) {
        c = peek(reader);
        if (!is_digit(c) && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F'))
            return fail(reader, "\\u without four hexadecimal digits");
    }
    return true;
}

/* One character of more than one byte (RFC 3629 §4): no overlong forms, no surrogates. */
static bool read_utf8(struct reader *reader)
{
    int lead = peek(reader);
    int n = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    int low = 0x80, high = 0xbf;

    if (lead < 0xc2 || lead > 0xf4)
        return fail(reader, "text that is not UTF-8");
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    for (reader->at++; n > 0; n--, reader->at++, low = 0x80, high = 0xbf)
        if (peek(reader) < low || peek(reader) > high)
            return fail(reader, "text that is not UTF-8");
    return true;
}

static bool read_text(struct reader *reader)
{
    if (!accept(reader, '"'))
        return fail(reader, "a name in quotes is missing");
    for (;;) {
        int c = peek(reader);

        if (c < 0)
            return fail(reader, "text without its closing quote");
        if (c < 0x20)
            return fail(reader, "a control character in text");
        if (c >= 0x80) {
            if (!read_utf8(reader))
                return false;
            continue;
        }
        reader->at++;
        if (c == '"')
            return true;
        if (c == '\\' && !read_escape(reader))
            return false;
    }
}

/* A name and its colon, inside an object. */
static bool count_value(struct reader *reader)
{
    return ++reader->n_values <= reader->most_values || reader->most_values == 0 ||
           fail(reader, "it has too many values");
}

static bool read_name(struct reader *reader)
{
    if (!count_value(reader))
        return false;
    skip_space(reader);
    if (!read_text(reader))
        return false;
    skip_space(reader);
    return accept(reader, ':') || fail(reader, "a colon is missing");
}

/*
 * Begins a value. *ret_open: it is a container that is not empty, and its first value follows.
 */
static bool begin_value(struct reader *reader, bool *ret_open)
{
    *ret_open = false;
    if (!count_value(reader))
        return false;
    skip_space(reader);
    int c = peek(reader);
    switch (c) {
    case '{':
    case '[':
        if (reader->depth == JSON_CHECK_MAX_DEPTH)
            return fail(reader, "values are nested too deeply");
        reader->at++;
        skip_space(reader);
        if (accept(reader, c == '{' ? '}' : ']'))
            return true;
        reader->is_object[reader->depth++] = c == '{';
        *ret_open = true;
        return c == '[' || read_name(reader);
    case '"':
        return read_text(reader);
    case 't':
        return read_word(reader, "true");
    case 'f':
        return read_word(reader, "false");
    case 'n':
        return read_word(reader, "null");
    case -1:
        return fail(reader, "it ends where a value is due");
    default:
        if (c != '-' && !is_digit(c))
            return fail(reader, "a value is neither null, true, false, a number nor text");
        return read_number(reader);
    }
}

/* After a value: closes what ends here. *ret_more: a comma said that another value follows. */
static bool end_value(struct reader *reader, bool *ret_more)
{
    *ret_more = false;
    while (reader->depth > 0) {
        bool is_object = reader->is_object[reader->depth - 1];

        skip_space(reader);
        if (accept(reader, ',')) {
            *ret_more = true;
            return !is_object || read_name(reader);
        }
        if (!accept(reader, is_object ? '}' : ']'))
            return fail(reader, peek(reader) < 0 ? "it ends inside an object or array"
                                                 : "a comma or a closing bracket is missing");
        reader->depth--;
    }
    return true;
}

static bool read_all(struct reader *reader)
{
    bool again = true;

    while (again) {
        bool open;

        if (!begin_value(reader, &open))
            return false;
        if (open)
            continue;
        if (!end_value(reader, &again))
            return false;
    }
    skip_space(reader);
    return reader->at == reader->len || fail(reader, "something follows its end");
}

static int check(const void *data, size_t len_bytes, size_t most_values, struct error *err)
{
    struct reader reader = {.data = data, .len = len_bytes, .most_values = most_values};
    size_t line = 1, column = 1;

    if (read_all(&reader))
        return 0;
    for (size_t i = 0; i < reader.at && i < len_bytes; i++) {
        column = reader.data[i] == '\n' ? 1 : column + 1;
        line += reader.data[i] == '\n';
    }
    return error_say(err, most_values > 0 && reader.n_values > most_values ? E2BIG : EBADMSG,
                     "%s (line %zu, column %zu)", reader.problem, line, column);
}

int json_check(const void *data, size_t len_bytes, struct error *err)
{
    return check(data, len_bytes, 0, err);
}

int json_check_small(const void *data, size_t len_bytes, struct error *err)
{
    return check(data, len_bytes, JSON_TREE_MAX_VALUES, err);
}
