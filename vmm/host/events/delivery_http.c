/* One POST: see delivery_http.h. Process: mayflyd. */
#include "delivery_http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "common/text.h"

enum {
    TIMEOUT_MS = 15000,
    CONNECT_TIMEOUT_MS = 5000,
    RESPONSE_MAX_BYTES = 64 << 10, /* of head and body together */
    HEADER_BYTES = 1200,
    SHOWN_BYTES = 200,
};

struct delivery_http {
    struct delivery_http_options options;
    CURL *curl; /* owned */
    /* Of one post: */
    char refused[INET6_ADDRSTRLEN + 64]; /* the address that was refused, and why; or "" */
    bool was_connected;                  /* an address was good */
    size_t received_bytes;
    char detail[CURL_ERROR_SIZE];
};

/* --- what libcurl calls ---------------------------------------------------------------------- */

/* An address whose route leads back to itself: connect() of a datagram socket only chooses one. */
static bool is_own_address(const struct curl_sockaddr *address)
{
    AUTO_FD fd = socket(address->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof(from);

    if (fd < 0 || connect(fd, &address->addr, address->addrlen) < 0 ||
        getsockname(fd, (struct sockaddr *)&from, &len) < 0 || from.ss_family != address->family)
        return false; /* no way there, either */
    if (address->family == AF_INET) {
        struct sockaddr_in to, own;

        memcpy(&to, &address->addr, sizeof(to));
        memcpy(&own, &from, sizeof(own));
        return to.sin_addr.s_addr == own.sin_addr.s_addr;
    }
    struct sockaddr_in6 to, own;
    memcpy(&to, &address->addr, sizeof(to));
    memcpy(&own, &from, sizeof(own));
    return memcmp(&to.sin6_addr, &own.sin6_addr, sizeof(to.sin6_addr)) == 0;
}

static void note_refused(struct delivery_http *client, const struct curl_sockaddr *address,
                         const char *why)
{
    char text[INET6_ADDRSTRLEN] = "?";
    struct sockaddr_storage copy = {.ss_family = AF_UNSPEC};

    memcpy(&copy, &address->addr,
           address->addrlen < sizeof(copy) ? address->addrlen : sizeof(copy));
    const void *at = copy.ss_family == AF_INET
                         ? (const void *)&((const struct sockaddr_in *)&copy)->sin_addr
                         : (const void *)&((const struct sockaddr_in6 *)&copy)->sin6_addr;
    if (copy.ss_family == AF_INET || copy.ss_family == AF_INET6)
        inet_ntop(copy.ss_family, at, text, sizeof(text));
    snprintf(client->refused, sizeof(client->refused), "%s is %s", text, why);
}

static curl_socket_t open_socket(void *opaque, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct delivery_http *client = opaque;
    const struct delivery_http_options *options = &client->options;
    const char *why =
        address_refusal(&address->addr, address->addrlen, options->allowed, options->n_allowed);

    if (purpose != CURLSOCKTYPE_IPCXN)
        return CURL_SOCKET_BAD;
    /* What is special was allowed by name, if it comes here: only global ones may be our own. */
    if (!why && is_own_address(address) &&
        !address_is_allowed(&address->addr, address->addrlen, options->allowed, options->n_allowed))
        why = "an address of this host";
    if (why) {
        note_refused(client, address, why);
        return CURL_SOCKET_BAD;
    }
    client->was_connected = true;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* What it says is thrown away; too much of it ends the transfer. */
static size_t count_received(char *data, size_t size, size_t n, void *opaque)
{
    struct delivery_http *client = opaque;

    (void)data;
    client->received_bytes += size * n;
    return client->received_bytes > RESPONSE_MAX_BYTES ? 0 : size * n;
}

static int check_ending(void *opaque, curl_off_t total_down, curl_off_t down, curl_off_t total_up,
                        curl_off_t up)
{
    const struct delivery_http *client = opaque;

    (void)total_down, (void)down, (void)total_up, (void)up;
    return client->options.is_ending && atomic_load(client->options.is_ending);
}

/* --- life ------------------------------------------------------------------------------------ */

int delivery_http_new(const struct delivery_http_options *options,
                      struct delivery_http **ret_client, struct error *err)
{
    struct delivery_http *client = calloc(1, sizeof(*client));

    if (!client || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(client);
        return error_set(err, ENOMEM, "set up libcurl");
    }
    client->options = *options;
    client->curl = curl_easy_init();
    if (!client->curl) {
        free(client);
        return error_set(err, ENOMEM, "set up libcurl");
    }
    *ret_client = client;
    return 0;
}

void delivery_http_free(struct delivery_http *client)
{
    if (!client)
        return;
    curl_easy_cleanup(client->curl);
    free(client);
}

/* --- a post ---------------------------------------------------------------------------------- */

static int add_header(struct curl_slist **list, const char *name, const char *value)
{
    char line[HEADER_BYTES];
    struct curl_slist *longer;

    /* libcurl's way to send one without a value. */
    snprintf(line, sizeof(line), *value ? "%s: %s" : "%s;", name, value);
    longer = curl_slist_append(*list, line);
    if (!longer)
        return -ENOMEM;
    *list = longer;
    return 0;
}

static int make_headers(const struct delivery_header *headers, size_t n, struct curl_slist **list)
{
    int r = add_header(list, "Content-Type", "application/json");

    if (r == 0)
        r = add_header(list, "Accept", "*/*");
    for (size_t i = 0; r == 0 && i < n; i++)
        r = add_header(list, headers[i].name, headers[i].value);
    /* No "Expect: 100-continue", which would wait a second for servers that do not know it. */
    if (r == 0) {
        struct curl_slist *longer = curl_slist_append(*list, "Expect:");

        *list = longer ? longer : *list;
    }
    return r;
}

#define SET(option, value)                                                                         \
    if (code == CURLE_OK)                                                                          \
    code = curl_easy_setopt(curl, option, value)

/* What keeps it within bounds: every one of these must be taken. */
static CURLcode set_bounds(struct delivery_http *client)
{
    const struct delivery_http_options *options = &client->options;
    unsigned timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
    CURL *curl = client->curl;
    CURLcode code = CURLE_OK;

    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(CURLOPT_OPENSOCKETDATA, client);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOPROXY, "*");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_FORBID_REUSE, 1L);
    SET(CURLOPT_FRESH_CONNECT, 1L);
    SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    SET(CURLOPT_CONNECTTIMEOUT_MS,
        (long)(timeout_ms < CONNECT_TIMEOUT_MS ? timeout_ms : CONNECT_TIMEOUT_MS));
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    if (options->ca_file)
        SET(CURLOPT_CAINFO, options->ca_file);
    SET(CURLOPT_WRITEFUNCTION, count_received);
    SET(CURLOPT_WRITEDATA, client);
    SET(CURLOPT_HEADERFUNCTION, count_received);
    SET(CURLOPT_HEADERDATA, client);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, check_ending);
    SET(CURLOPT_XFERINFODATA, client);
    return code;
}

static CURLcode set_request(struct delivery_http *client, const char *url,
                            struct curl_slist *headers, const void *body, size_t body_bytes)
{
    CURL *curl = client->curl;
    CURLcode code = set_bounds(client);

    SET(CURLOPT_ERRORBUFFER, client->detail);
    SET(CURLOPT_USERAGENT, "mayfly/" MAYFLY_VERSION);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_bytes);
    SET(CURLOPT_POSTFIELDS, body); /* borrowed until it is performed */
    SET(CURLOPT_URL, url);
    return code;
}

static int say_status(const char *url, long status, struct error *err)
{
    if (status >= 200 && status < 300)
        return 0;
    return error_say(err, EPROTO, "'%s' answered with status %ld%s", url, status,
                     status >= 300 && status < 400 ? " (redirects are not followed)" : "");
}

/* libcurl's words, made ours. */
static int take_outcome(struct delivery_http *client, CURLcode code, const char *url,
                        struct error *err)
{
    char shown[SHOWN_BYTES], detail[CURL_ERROR_SIZE];
    long status = 0;

    text_clean(shown, sizeof(shown), url, strlen(url));
    text_clean(detail, sizeof(detail), client->detail, strlen(client->detail));
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return error_say(err, ECANCELED, "'%s': broken off, as the daemon ends", shown);
    if (client->refused[0] && !client->was_connected)
        return error_say(err, EACCES,
                         "'%s' must not be reached: %s (see destinations.allow in mayflyd.yaml)",
                         shown, client->refused);
    (void)curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    /* More than we read of the response to a request that it has taken. */
    if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && status >= 200))
        return say_status(shown, status, err);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return error_say(err, ETIMEDOUT, "'%s' did not answer in time: %s", shown, detail);
    return error_say(err, code == CURLE_COULDNT_CONNECT ? ECONNREFUSED : EIO, "'%s': %s", shown,
                     detail[0] ? detail : curl_easy_strerror(code));
}

int delivery_http_post(struct delivery_http *client, const char *url,
                       const struct delivery_header *headers, size_t n_headers, const void *body,
                       size_t body_bytes, struct error *err)
{
    struct curl_slist *list = NULL;
    CURLcode code;
    int r = make_headers(headers, n_headers, &list);

    if (r < 0) {
        curl_slist_free_all(list);
        return error_set(err, -r, "post to an endpoint");
    }
    client->refused[0] = client->detail[0] = '\0';
    client->was_connected = false;
    client->received_bytes = 0;
    curl_easy_reset(client->curl);
    code = set_request(client, url, list, body, body_bytes);
    if (code == CURLE_OK) {
        code = curl_easy_perform(client->curl);
        r = take_outcome(client, code, url, err);
    } else {
        r = error_say(err, EINVAL, "libcurl does not take a setting: %s", curl_easy_strerror(code));
    }
    curl_slist_free_all(list);
    return r;
}
