/*
 * The heads of requests: what libmicrohttpd parsed, as our own plain data, and whether it is one
 * request and not two. Process: the daemon's. Input: hostile.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "http_server_internal.h"

int http_head_split(const char *uri, char **ret_block, const char **ret_authority,
                    struct http_request *request)
{
    const char *authority = strncasecmp(uri, "http://", 7) == 0    ? uri + 7
                            : strncasecmp(uri, "https://", 8) == 0 ? uri + 8
                                                                   : NULL;
    size_t authority_len = authority ? strcspn(authority, "/?") : 0;
    const char *rest = authority ? authority + authority_len : uri;
    const char *slash = authority && *rest != '/' ? "/" : "";
    size_t size = strlen(slash) + strlen(rest) + 1;
    char *block = malloc(authority_len + 1 + size);

    if (!block)
        return -ENOMEM;
    memcpy(block, authority ? authority : "", authority_len);
    block[authority_len] = '\0';
    char *path = block + authority_len + 1;
    snprintf(path, size, "%s%s", slash, rest);
    char *query = strchr(path, '?');
    request->path = path;
    request->query = "";
    if (query) {
        *query = '\0';
        request->query = query + 1;
    }
    *ret_authority = authority ? block : NULL;
    *ret_block = block;
    return 0;
}

struct header_sink {
    struct http_header *headers;
    size_t n, max;
};

static enum MHD_Result take_header(void *opaque, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    struct header_sink *sink = opaque;

    (void)kind;
    if (sink->n == sink->max)
        return MHD_NO;
    sink->headers[sink->n++] = (struct http_header){name, value ? value : ""};
    return MHD_YES;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;

        memcpy(&v4, address, sizeof(v4));
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof(v6));
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == 127);
}

static void learn_peer(const struct http_listener *listener, struct MHD_Connection *connection,
                       struct http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

    if (listener->is_unix) {
        request->origin = HTTP_FROM_UNIX;
        return;
    }
    request->origin = HTTP_FROM_NETWORK;
    if (!info || !info->client_addr)
        return;
    if (info->client_addr->sa_family == AF_INET) {
        struct sockaddr_in v4;

        memcpy(&v4, info->client_addr, sizeof(v4));
        inet_ntop(AF_INET, &v4.sin_addr, request->peer, sizeof(request->peer));
    } else if (info->client_addr->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;

        memcpy(&v6, info->client_addr, sizeof(v6));
        inet_ntop(AF_INET6, &v6.sin6_addr, request->peer, sizeof(request->peer));
    } else {
        return;
    }
    if (is_loopback(info->client_addr))
        request->origin = HTTP_FROM_LOOPBACK;
}

int http_head_read(const struct http_listener *listener, struct MHD_Connection *connection,
                   const char *method, struct http_header **ret_headers,
                   struct http_request *request)
{
    struct header_sink sink = {.n = 0};
    int n = MHD_get_connection_values(connection, MHD_HEADER_KIND, NULL, NULL);

    if (n < 0 || n > HTTP_MAX_HEADERS)
        return -E2BIG;
    sink.headers = calloc((size_t)n + 1, sizeof(*sink.headers));
    if (!sink.headers)
        return -ENOMEM;
    sink.max = (size_t)n;
    MHD_get_connection_values(connection, MHD_HEADER_KIND, take_header, &sink);
    request->method = method;
    request->headers = *ret_headers = sink.headers;
    request->n_headers = sink.n;
    request->is_tls = listener->is_tls;
    learn_peer(listener, connection, request);
    return 0;
}

/* RFC 9110 §5.6.2 */
static bool is_token(const char *text)
{
    size_t n = 0;

    while (isalnum((unsigned char)text[n]) || (text[n] && strchr("!#$%&'*+-.^_`|~", text[n])))
        n++;
    return n > 0 && text[n] == '\0';
}

bool http_head_is_one_request(const struct http_request *request, const char *authority)
{
    const char *length = NULL, *coding = NULL, *host = NULL;
    const struct {
        const char *name, **value;
    } once[] = {{"content-length", &length}, {"transfer-encoding", &coding}, {"host", &host}};

    for (size_t i = 0; i < request->n_headers; i++) {
        const struct http_header *header = &request->headers[i];

        if (!is_token(header->name))
            return false;
        for (size_t k = 0; k < ARRAY_LEN(once); k++) {
            if (strcasecmp(header->name, once[k].name) != 0)
                continue;
            if (*once[k].value)
                return false;
            *once[k].value = header->value;
        }
    }
    if ((length && coding) || (coding && strcasecmp(coding, "chunked") != 0) ||
        (length && (!*length || strspn(length, "0123456789") != strlen(length))))
        return false;
    return !authority || (host && strcasecmp(host, authority) == 0);
}
