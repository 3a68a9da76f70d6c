/* Paths and references: see router.h. */
#include "router.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "http_message.h"

/* --- paths ----------------------------------------------------------------------------------- */

static bool is_dots(const char *segment, size_t len)
{
    return (len == 1 && segment[0] == '.') || (len == 2 && memcmp(segment, "..", 2) == 0);
}

/* 1 it has this form, 0 not, -EINVAL it does but for how a variable is written. */
static int match_pattern(const char *pattern, const char *path, struct route_match *match)
{
    bool is_broken = false;

    match->n_variables = 0;
    match->rest = NULL;
    while (*pattern == '/' && *path == '/') {
        size_t want = strcspn(++pattern, "/"), have = strcspn(++path, "/");

        if (want >= 3 && pattern[0] == '{' && pattern[want - 2] == '*') {
            match->rest = path;
            return is_broken ? -EINVAL : 1;
        }
        if (want > 0 && pattern[0] == '{') {
            if (have == 0 || is_dots(path, have))
                return 0;
            if (http_percent_decode(path, have, match->variables[match->n_variables],
                                    ROUTE_VARIABLE_BYTES) < 0)
                is_broken = true;
            match->n_variables++;
        } else if (want != have || memcmp(pattern, path, want) != 0) {
            return 0;
        }
        pattern += want;
        path += have;
    }
    /* One last slash is forgiven: Lambda's own paths of listings have it. */
    if (*pattern || (*path && strcmp(path, "/") != 0))
        return 0;
    return is_broken ? -EINVAL : 1;
}

static void note_method(struct route_match *match, const char *method)
{
    size_t used = strlen(match->allow);

    if (!strstr(match->allow, method))
        snprintf(match->allow + used, sizeof(match->allow) - used, "%s%s", used ? ", " : "",
                 method);
}

int router_match(const struct route *routes, size_t n_routes, const char *method, const char *path,
                 struct route_match *ret_match)
{
    ret_match->allow[0] = '\0';
    for (size_t i = 0; i < n_routes; i++) {
        int r = match_pattern(routes[i].pattern, path, ret_match);

        if (r == 0)
            continue;
        if (strcmp(routes[i].method, method) == 0 || strcmp(routes[i].method, "*") == 0) {
            ret_match->route = &routes[i];
            return r < 0 ? r : 0;
        }
        note_method(ret_match, routes[i].method);
    }
    return ret_match->allow[0] ? -EOPNOTSUPP : -ENOENT;
}

/* --- references ------------------------------------------------------------------------------ */

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

bool function_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= FUNCTION_NAME_MAX && strspn(name, NAME_CHARACTERS) == len;
}

bool qualifier_is_valid(const char *qualifier)
{
    size_t len = strlen(qualifier);

    return strcmp(qualifier, "$LATEST") == 0 ||
           (len > 0 && len <= QUALIFIER_MAX && strspn(qualifier, NAME_CHARACTERS) == len);
}

bool alias_name_is_valid(const char *name)
{
    return qualifier_is_valid(name) && name[0] != '$' && strspn(name, "0123456789") != strlen(name);
}

enum { MAX_PARTS = 8 };

struct parts {
    const char *at[MAX_PARTS];
    size_t len[MAX_PARTS], n;
};

static int split(const char *text, struct parts *parts)
{
    parts->n = 0;
    for (;;) {
        size_t len = strcspn(text, ":");

        if (parts->n == MAX_PARTS || len == 0)
            return -EINVAL;
        parts->at[parts->n] = text;
        parts->len[parts->n++] = len;
        if (!text[len])
            return 0;
        text += len + 1;
    }
}

static bool is_text(const struct parts *parts, size_t i, const char *text)
{
    return i < parts->n && parts->len[i] == strlen(text) &&
           memcmp(parts->at[i], text, parts->len[i]) == 0;
}

static bool is_account(const struct parts *parts, size_t i)
{
    return i < parts->n && parts->len[i] == 12 && strspn(parts->at[i], "0123456789") >= 12;
}

/* aa-something-1 */
static bool is_region(const struct parts *parts, size_t i)
{
    if (i >= parts->n)
        return false;
    const char *text = parts->at[i];
    size_t len = parts->len[i];

    return len >= 6 && len < 32 && islower((unsigned char)text[0]) &&
           islower((unsigned char)text[1]) && text[2] == '-' && text[len - 2] == '-' &&
           isdigit((unsigned char)text[len - 1]) &&
           strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") >= len;
}

static bool take(char *to, size_t size, const struct parts *parts, size_t i)
{
    if (i >= parts->n || parts->len[i] >= size)
        return false;
    memcpy(to, parts->at[i], parts->len[i]);
    to[parts->len[i]] = '\0';
    return true;
}

int function_reference_read(const char *text, struct function_reference *ret_reference)
{
    struct function_reference reference = {.name = ""};
    struct parts parts;
    size_t i = 0;
    bool is_full = false;

    if (split(text, &parts) < 0)
        return -EINVAL;
    if (is_text(&parts, 0, "arn") && parts.n > 2) {
        if (parts.len[1] < 3 || memcmp(parts.at[1], "aws", 3) != 0 || !is_text(&parts, 2, "lambda"))
            return -EINVAL;
        is_full = true;
        i = 3;
    }
    if (is_region(&parts, i) && (is_full || parts.n > i + 1))
        i++;
    else if (is_full)
        return -EINVAL;
    if (is_account(&parts, i) && parts.n > i + 1)
        (void)take(reference.account_id, sizeof(reference.account_id), &parts, i++);
    else if (is_full)
        return -EINVAL;
    if (is_text(&parts, i, "function") && parts.n > i + 1)
        i++;
    else if (is_full)
        return -EINVAL;
    if (!take(reference.name, sizeof(reference.name), &parts, i) ||
        !function_name_is_valid(reference.name))
        return -EINVAL;
    i++;
    if (i < parts.n && (!take(reference.qualifier, sizeof(reference.qualifier), &parts, i++) ||
                        !qualifier_is_valid(reference.qualifier)))
        return -EINVAL;
    if (i != parts.n)
        return -EINVAL;
    *ret_reference = reference;
    return 0;
}
