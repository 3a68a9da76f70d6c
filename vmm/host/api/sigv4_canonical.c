/*
 * The canonical request: see sigv4.h. Sizes are bounded once, from the request's own, before
 * anything is written: encoding makes at most three characters of one.
 */
#include "sigv4_canonical.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/fd.h"

struct text {
    char *at; /* the next character; the caller has made room */
};

static void put(struct text *to, const char *from, size_t len)
{
    memcpy(to->at, from, len);
    to->at += len;
}

static bool is_unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static void put_encoded(struct text *to, const char *from, size_t len)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)from[i];

        if (is_unreserved(from[i])) {
            *to->at++ = from[i];
        } else {
            *to->at++ = '%';
            *to->at++ = digits[c >> 4];
            *to->at++ = digits[c & 15];
        }
    }
}

/* Without empty, "." and ".." segments, as the signing libraries do; a last '/' stays. */
static void put_path(struct text *to, const char *path)
{
    char *start = to->at;
    size_t len = strlen(path);

    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t segment = strcspn(p, "/");

        if (segment == 2 && p[0] == '.' && p[1] == '.') {
            while (to->at > start && *--to->at != '/')
                ;
        } else if (segment > 0 && !(segment == 1 && p[0] == '.')) {
            *to->at++ = '/';
            put_encoded(to, p, segment);
        }
        p += segment;
    }
    if (to->at == start || (len > 0 && path[len - 1] == '/'))
        *to->at++ = '/';
}

struct pair {
    char *name, *value; /* encoded */
};

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *left = a, *right = b;
    int r = strcmp(left->name, right->name);

    return r ? r : strcmp(left->value, right->value);
}

static char *encoded(struct text *to, const char *value)
{
    char *start = to->at;

    put_encoded(to, value, strlen(value));
    *to->at++ = '\0';
    return start;
}

static int put_query(struct text *to, const struct http_request *request, bool is_query_form,
                     struct error *err)
{
    struct http_query query;
    struct pair pairs[HTTP_MAX_PARAMETERS];
    size_t n = 0;
    int r = http_query_read(request->query, &query, err);

    if (r < 0)
        return r;
    AUTO_FREE char *block = malloc(3 * strlen(request->query) + 2 * HTTP_MAX_PARAMETERS + 1);
    if (!block) {
        http_query_done(&query);
        return error_set(err, ENOMEM, "check a signature");
    }
    struct text room = {block};
    for (size_t i = 0; i < query.n; i++) {
        if (is_query_form && strcmp(query.parameters[i].name, "X-Amz-Signature") == 0)
            continue;
        pairs[n].name = encoded(&room, query.parameters[i].name);
        pairs[n].value = encoded(&room, query.parameters[i].value);
        n++;
    }
    http_query_done(&query);
    qsort(pairs, n, sizeof(pairs[0]), compare_pairs);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            *to->at++ = '&';
        put(to, pairs[i].name, strlen(pairs[i].name));
        *to->at++ = '=';
        put(to, pairs[i].value, strlen(pairs[i].value));
    }
    return 0;
}

/* Blanks at the ends go, those within become one. */
static void put_value(struct text *to, const char *value)
{
    char *start = to->at;

    value += strspn(value, " \t");
    while (*value) {
        size_t word = strcspn(value, " \t");

        if (to->at > start)
            *to->at++ = ' ';
        put(to, value, word);
        value += word;
        value += strspn(value, " \t");
    }
}

/* One line for all headers of that name. */
static int put_header(struct text *to, const struct http_request *request, const char *name,
                      size_t len, struct error *err)
{
    bool found = false;

    put(to, name, len);
    *to->at++ = ':';
    for (size_t i = 0; i < request->n_headers; i++) {
        const struct http_header *header = &request->headers[i];

        if (strlen(header->name) != len || strncasecmp(header->name, name, len) != 0)
            continue;
        if (found)
            *to->at++ = ',';
        found = true;
        put_value(to, header->value);
    }
    if (!found)
        return error_say(err, EINVAL, "the signed header '%.*s' is not in the request", (int)len,
                         name);
    *to->at++ = '\n';
    return 0;
}

static int put_headers(struct text *to, const struct http_request *request, const char *list,
                       struct error *err)
{
    while (*list) {
        size_t len = strcspn(list, ";");
        int r = put_header(to, request, list, len, err);

        if (r < 0)
            return r;
        list += len + (list[len] == ';');
    }
    return 0;
}

static size_t bound(const struct http_request *request, const struct sigv4_claim *claim)
{
    size_t size = strlen(request->method) + 3 * strlen(request->path) + 8;

    size += 3 * strlen(request->query) + 2 * HTTP_MAX_PARAMETERS + 8;
    for (size_t i = 0; i < request->n_headers; i++)
        size += strlen(request->headers[i].name) + strlen(request->headers[i].value) + 4;
    return size + 2 * strlen(claim->signed_headers) + 2 * SIGV4_MAX_SIGNED + 128;
}

int sigv4_canonical(const struct http_request *request, const struct sigv4_claim *claim,
                    const char *payload_hash, char **ret_text, size_t *ret_len, struct error *err)
{
    AUTO_FREE char *block = malloc(bound(request, claim));
    struct text to = {block};

    if (!block)
        return error_set(err, ENOMEM, "check a signature");
    put(&to, request->method, strlen(request->method));
    *to.at++ = '\n';
    put_path(&to, request->path);
    *to.at++ = '\n';
    int r = put_query(&to, request, claim->is_query, err);
    if (r < 0)
        return r;
    *to.at++ = '\n';
    r = put_headers(&to, request, claim->signed_headers, err);
    if (r < 0)
        return r;
    *to.at++ = '\n';
    put(&to, claim->signed_headers, strlen(claim->signed_headers));
    *to.at++ = '\n';
    put(&to, payload_hash, strlen(payload_hash));
    *to.at = '\0';
    *ret_len = (size_t)(to.at - block);
    *ret_text = mem_steal(&block);
    return 0;
}
