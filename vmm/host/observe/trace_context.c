/* Trace headers: see trace_context.h. */
#include "trace_context.h"

#include <ctype.h>
#include <sodium.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { HEADER_MAX = 1024, ROOT_LEN = TRACE_ROOT_BYTES - 1 };

/* @len digits, not all of them 0, in lower case into @to. */
static bool take_hex(const char *from, size_t len, char *to)
{
    bool is_zero = true;

    for (size_t i = 0; i < len; i++) {
        if (!isxdigit((unsigned char)from[i]))
            return false;
        to[i] = (char)tolower((unsigned char)from[i]);
        is_zero = is_zero && to[i] == '0';
    }
    to[len] = '\0';
    return !is_zero;
}

/* --- X-Amzn-Trace-Id ------------------------------------------------------------------------- */

enum sampled { SAMPLED_NO, SAMPLED_YES, SAMPLED_OPEN };

struct amzn {
    char root[TRACE_ROOT_BYTES], parent[SPAN_ID_BYTES];
    enum sampled sampled;
};

static bool take_root(const char *value, size_t len, char to[TRACE_ROOT_BYTES])
{
    char digits[25];

    if (len != ROOT_LEN || value[0] != '1' || value[1] != '-' || value[10] != '-')
        return false;
    memcpy(to, "1-", 2);
    (void)take_hex(value + 2, 8, digits);
    if (strspn(digits, "0123456789abcdef") < 8)
        return false;
    memcpy(to + 2, digits, 8);
    to[10] = '-';
    if (!take_hex(value + 11, 24, digits))
        return false;
    memcpy(to + 11, digits, 25);
    return true;
}

static void take_field(struct amzn *amzn, const char *field, size_t len, bool *is_bad)
{
    const char *equals = memchr(field, '=', len);
    size_t name_len = equals ? (size_t)(equals - field) : 0;
    const char *value = equals ? equals + 1 : field;
    size_t value_len = equals ? len - name_len - 1 : 0;

    if (name_len == 4 && memcmp(field, "Root", 4) == 0)
        *is_bad = *is_bad || amzn->root[0] || !take_root(value, value_len, amzn->root);
    else if (name_len == 6 && memcmp(field, "Parent", 6) == 0)
        *is_bad = *is_bad || value_len != 16 || !take_hex(value, 16, amzn->parent);
    else if (name_len == 7 && memcmp(field, "Sampled", 7) == 0 && value_len == 1)
        amzn->sampled = *value == '1' ? SAMPLED_YES : *value == '0' ? SAMPLED_NO : SAMPLED_OPEN;
}

/* Fields that are not known (Self, Lineage, a client's own) are left out. */
static bool read_amzn(const char *text, size_t len, struct amzn *ret)
{
    bool is_bad = len >= HEADER_MAX;

    *ret = (struct amzn){.sampled = SAMPLED_OPEN};
    while (len > 0 && !is_bad) {
        const char *end = memchr(text, ';', len);
        size_t field_len = end ? (size_t)(end - text) : len;
        size_t blanks = 0;

        while (blanks < field_len && text[blanks] == ' ')
            blanks++;
        take_field(ret, text + blanks, field_len - blanks, &is_bad);
        text += field_len + (end != NULL);
        len -= field_len + (end != NULL);
    }
    return !is_bad && ret->root[0];
}

/* --- traceparent ----------------------------------------------------------------------------- */

/* Later versions may have more after what this one has. */
static bool read_traceparent(const char *text, struct trace_context *ret)
{
    char version[3], flags[3];
    size_t len = strnlen(text, HEADER_MAX);

    if (len < TRACE_PARENT_BYTES - 1 || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return false;
    bool is_first = memcmp(text, "00", 2) == 0;
    if (!is_first && (!take_hex(text, 2, version) || strcmp(version, "ff") == 0))
        return false;
    if (len > TRACE_PARENT_BYTES - 1 && (is_first || text[55] != '-'))
        return false;
    if (!take_hex(text + 3, 32, ret->trace_id) || !take_hex(text + 36, 16, ret->parent_id) ||
        (!take_hex(text + 53, 2, flags) && memcmp(text + 53, "00", 2) != 0))
        return false;
    ret->is_sampled = (strchr("0123456789", flags[1]) ? flags[1] - '0' : flags[1] - 'a' + 10) & 1;
    return true;
}

/* --- both ------------------------------------------------------------------------------------ */

static void root_to_id(const char root[TRACE_ROOT_BYTES], char id[TRACE_ID_BYTES])
{
    memcpy(id, root + 2, 8);
    memcpy(id + 8, root + 11, 25);
}

static void id_to_root(const char id[TRACE_ID_BYTES], char root[TRACE_ROOT_BYTES])
{
    memcpy(root, "1-", 2);
    memcpy(root + 2, id, 8);
    root[10] = '-';
    memcpy(root + 11, id + 8, 25);
}

static bool roll(double ratio)
{
    return ratio >= 1 || (ratio > 0 && (double)randombytes_random() / 4294967296.0 < ratio);
}

static void random_hex(size_t bytes, char *to)
{
    uint8_t random[16];

    do
        randombytes_buf(random, bytes);
    while (sodium_is_zero(random, bytes));
    sodium_bin2hex(to, 2 * bytes + 1, random, bytes);
}

void trace_span_id(char ret_id[SPAN_ID_BYTES])
{
    random_hex(8, ret_id);
}

/* X-Ray's ids begin with the time, in seconds. */
static void begin_trace(struct trace_context *context, double ratio)
{
    char digits[9];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    random_hex(16, context->trace_id);
    snprintf(digits, sizeof(digits), "%08x", (unsigned)now.tv_sec);
    memcpy(context->trace_id, digits, 8);
    id_to_root(context->trace_id, context->root);
    context->is_sampled = roll(ratio);
}

void trace_context_read(struct trace_context *ret_context, const char *amzn_text,
                        const char *traceparent, double ratio)
{
    struct trace_context *context = ret_context;
    struct amzn amzn;

    *context = (struct trace_context){.is_sampled = false};
    if (traceparent && read_traceparent(traceparent, context)) {
        context->has_traceparent = true;
        id_to_root(context->trace_id, context->root);
        memcpy(context->root_parent, context->parent_id, SPAN_ID_BYTES);
    } else {
        *context = (struct trace_context){.is_sampled = false};
    }
    if (amzn_text && read_amzn(amzn_text, strnlen(amzn_text, HEADER_MAX), &amzn)) {
        memcpy(context->root, amzn.root, TRACE_ROOT_BYTES);
        memcpy(context->root_parent, amzn.parent, SPAN_ID_BYTES);
        if (context->has_traceparent)
            return;
        root_to_id(amzn.root, context->trace_id);
        memcpy(context->parent_id, amzn.parent, SPAN_ID_BYTES);
        context->is_sampled =
            amzn.sampled == SAMPLED_YES || (amzn.sampled == SAMPLED_OPEN && roll(ratio));
    } else if (!context->has_traceparent) {
        begin_trace(context, ratio);
    }
}

void trace_context_amzn(const struct trace_context *context, const char *parent,
                        char ret_text[TRACE_AMZN_BYTES])
{
    const char *shown = parent ? parent : context->root_parent;

    snprintf(ret_text, TRACE_AMZN_BYTES, "Root=%s%s%s;Sampled=%d", context->root,
             shown[0] ? ";Parent=" : "", shown, context->is_sampled);
}

void trace_context_traceparent(const struct trace_context *context, const char *parent,
                               char ret_text[TRACE_PARENT_BYTES])
{
    snprintf(ret_text, TRACE_PARENT_BYTES, "00-%s-%s-%02x", context->trace_id,
             parent ? parent : context->parent_id, context->is_sampled);
}
