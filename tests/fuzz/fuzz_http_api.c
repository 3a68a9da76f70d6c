/*
 * What the API makes of a request's head, and of a function's answer to a URL. Input: lines. The
 * first is "METHOD TARGET", then headers "Name: value" up to an empty line, then the body.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/api_internal.h"
#include "host/api/function_url.h"
#include "host/api/http_server_internal.h"
#include "host/api/sigv4.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Cuts one line off; its end becomes a 0. */
static char *cut_line(char **text)
{
    char *line = *text, *end = strchr(line, '\n');

    if (end) {
        *end = '\0';
        *text = end + 1;
    } else {
        *text += strlen(line);
    }
    return line;
}

static size_t cut_headers(char **text, struct http_header *headers)
{
    size_t n = 0;

    while (**text && n < HTTP_MAX_HEADERS) {
        char *name = cut_line(text), *colon = strchr(name, ':');

        if (!*name)
            break;
        if (!colon)
            continue;
        *colon = '\0';
        headers[n++] = (struct http_header){name, colon + 1};
    }
    return n;
}

static void try_signature(const struct http_request *request)
{
    struct sigv4_claim claim;
    struct error err;

    if (sigv4_parse(request, &claim, &err) != 0)
        return;
    /* Nobody guesses a signature: if this ever passes, the check is broken. */
    assert(sigv4_verify(request, &claim, "a secret that is in no input", "lambda", claim.time_s,
                        &err) != 0);
}

static void try_route(const struct http_request *request)
{
    struct function_reference reference;
    struct route_match match;

    if (router_match(api_routes, api_n_routes, request->method, request->path, &match) != 0)
        return;
    assert(((const struct api_operation *)match.route->target)->handle);
    for (size_t i = 0; i < match.n_variables; i++) {
        if (function_reference_read(match.variables[i], &reference) != 0)
            continue;
        assert(function_name_is_valid(reference.name));
        assert(!reference.qualifier[0] || qualifier_is_valid(reference.qualifier));
    }
}

/* What stands before us, and whose word on the client counts. */
static void try_head(const struct http_request *request, const char *target)
{
    static const char *const names[] = {"10.0.0.0/8", "fd00::/8", "127.0.0.1"};
    static struct trusted_proxies *proxies;
    struct http_request split = *request;
    const char *authority = NULL;
    char client[64], *block = NULL;

    if (!proxies)
        assert(trusted_proxies_new(names, 3, &proxies, NULL) == 0);
    snprintf(split.peer, sizeof(split.peer), "127.0.0.1");
    trusted_proxies_client(proxies, &split, client);
    assert(strlen(client) > 0 && strspn(client, "0123456789abcdefABCDEF:.") == strlen(client));
    (void)trusted_proxies_is_https(proxies, &split);
    assert(http_head_split(target, &block, &authority, &split) == 0);
    assert(!strchr(split.path, '?'));
    if (http_head_is_one_request(&split, authority) && authority)
        assert(http_header_find(&split, "host"));
    free(block);
}

/* The same claim, before the body is there: nobody guesses a signature then, either. */
static void try_signature_head(const struct http_request *request)
{
    struct sigv4_claim claim;
    struct error err;

    if (sigv4_parse(request, &claim, &err) == 0)
        assert(sigv4_verify_head(request, &claim, "a secret that is in no input", "lambda",
                                 claim.time_s, &err) != 0);
}

static void try_function_url(const struct http_request *request)
{
    static const struct url_context context = {
        .account_id = "1", .id = "i", .domain = "d", .request_id = "r", .path = "/"};
    static const char cors[] = "{\"AllowOrigins\":[\"https://a\",7],\"AllowMethods\":[\"GET\"]}";
    struct http_response response = {.status = 0};
    json_t *event = function_url_event(request, &context);

    if (event) {
        char *text = json_dumps(event, JSON_COMPACT);

        assert(text);
        free(text);
    }
    json_decref(event);
    (void)function_url_cors(request, cors, &response);
    http_response_done(&response);
    (void)function_url_is_timeout((const char *)request->body, request->body_bytes);
    (void)function_url_response((const char *)request->body, request->body_bytes, &response);
    for (size_t i = 0; i < response.n_headers; i++)
        assert(!strpbrk(response.headers[i].value, "\r\n"));
    http_response_done(&response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_header headers[HTTP_MAX_HEADERS];
    struct http_request request = {.query = "", .headers = headers};
    char *block = malloc(size + 1), *text = block;

    assert(block);
    memcpy(block, data, size);
    block[size] = '\0';
    request.method = cut_line(&text);
    char *target = strchr(request.method, ' ');
    if (target) {
        *target++ = '\0';
        char *whole = strdup(target);
        assert(whole);
        request.path = target;
        char *query = strchr(target, '?');
        if (query) {
            *query = '\0';
            request.query = query + 1;
        }
        request.n_headers = cut_headers(&text, headers);
        request.body = (const uint8_t *)text;
        request.body_bytes = (size_t)(block + size - text);
        try_head(&request, whole);
        free(whole);
        try_signature_head(&request);
        try_signature(&request);
        try_route(&request);
        try_function_url(&request);
    }
    free(block);
    return 0;
}
