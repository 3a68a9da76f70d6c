/* Requests and responses as data: see http_message.h. */
#include "http_message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/fd.h"

const char *http_header_find(const struct http_request *request, const char *name)
{
    for (size_t i = 0; i < request->n_headers; i++)
        if (strcasecmp(request->headers[i].name, name) == 0)
            return request->headers[i].value;
    return NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int http_percent_decode(const char *text, size_t len, char *to, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c == '%') {
            if (len - i < 3)
                return -EINVAL;
            int a = hex_digit(text[i + 1]), b = hex_digit(text[i + 2]);
            if (a < 0 || b < 0 || (a == 0 && b == 0))
                return -EINVAL;
            c = (char)(a * 16 + b);
            i += 2;
        }
        if (n + 1 >= size)
            return -ENAMETOOLONG;
        to[n++] = c;
    }
    if (size == 0)
        return -ENAMETOOLONG;
    to[n] = '\0';
    return 0;
}

/* One "name=value" of @len characters at @raw, decoded to @to, which has room for len + 2. */
static int read_parameter(const char *raw, size_t len, char *to, struct http_header *ret)
{
    const char *equals = memchr(raw, '=', len);
    size_t name_len = equals ? (size_t)(equals - raw) : len;
    int r = http_percent_decode(raw, name_len, to, name_len + 1);

    if (r < 0)
        return r;
    ret->name = to;
    to += name_len + 1;
    size_t value_len = equals ? len - name_len - 1 : 0;
    ret->value = to;
    return http_percent_decode(equals ? equals + 1 : "", value_len, to, value_len + 1);
}

int http_query_read(const char *raw, struct http_query *ret_query, struct error *err)
{
    size_t len = strlen(raw);
    /* Each parameter needs its own characters and at most two zeros; '&' and '=' pay for those of
     * all but the last. */
    AUTO_FREE char *text = malloc(2 * len + 4);
    struct http_query query = {.n = 0};
    char *to = text;

    if (!text)
        return error_set(err, ENOMEM, "read a query");
    while (*raw) {
        size_t part = strcspn(raw, "&");

        if (part > 0) {
            if (query.n == HTTP_MAX_PARAMETERS)
                return error_say(err, EINVAL, "more than %d query parameters", HTTP_MAX_PARAMETERS);
            if (read_parameter(raw, part, to, &query.parameters[query.n]) < 0)
                return error_say(err, EINVAL, "a query parameter is not percent-encoded rightly");
            query.n++;
            to += part + 2;
        }
        raw += part + (raw[part] == '&');
    }
    query.text = mem_steal(&text);
    *ret_query = query;
    return 0;
}

void http_query_done(struct http_query *query)
{
    free(query->text);
    *query = (struct http_query){.n = 0};
}

const char *http_query_find(const struct http_query *query, const char *name)
{
    for (size_t i = 0; i < query->n; i++)
        if (strcmp(query->parameters[i].name, name) == 0)
            return query->parameters[i].value;
    return NULL;
}

int http_response_header(struct http_response *response, const char *name, const char *value)
{
    if (response->n_headers == HTTP_RESPONSE_HEADERS)
        return -ENOSPC;
    AUTO_FREE char *own_name = strdup(name);
    AUTO_FREE char *own_value = strdup(value);
    if (!own_name || !own_value)
        return -ENOMEM;
    for (char *c = own_value; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    response->headers[response->n_headers].name = mem_steal(&own_name);
    response->headers[response->n_headers].value = mem_steal(&own_value);
    response->n_headers++;
    return 0;
}

void http_response_done(struct http_response *response)
{
    for (size_t i = 0; i < response->n_headers; i++) {
        free(response->headers[i].name);
        free(response->headers[i].value);
    }
    free(response->body);
    if (response->stream)
        response->stream->close(response->stream_opaque);
    if (response->has_file)
        close(response->file);
    *response = (struct http_response){.status = 0};
}
