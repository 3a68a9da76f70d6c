/* Requests by libcurl: see bench_client.h. Process: the CLI. */
#include "bench_client.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

enum { BODY_MAX_BYTES = 8 << 20, FIRST_BODY_BYTES = 4096, PATIENCE_S = 300, URL_BYTES = 512 };

struct bench_client {
    CURL *curl; /* owned */
    char url[URL_BYTES];
    char *body; /* owned */
    size_t size, len;
    struct bench_answer answer;
    struct bench_signature *signature; /* where to, during bench_client_sign(); else NULL */
};

/* --- what comes back ------------------------------------------------------------------------- */

static size_t take_body(char *data, size_t one, size_t n, void *opaque)
{
    struct bench_client *client = opaque;
    size_t size = client->size ? client->size : FIRST_BODY_BYTES, need = client->len + n * one + 1;

    if (need > BODY_MAX_BYTES)
        return 0;
    while (size < need)
        size *= 2;
    if (size > client->size) {
        char *grown = realloc(client->body, size);

        if (!grown)
            return 0;
        client->body = grown;
        client->size = size;
    }
    memcpy(client->body + client->len, data, n * one);
    client->len += n * one;
    client->body[client->len] = '\0';
    return n * one;
}

/* "acquire;dur=0.012" in milliseconds; false: not there. */
static bool read_duration(const char *value, const char *name, uint64_t *ret_us)
{
    const char *at = strstr(value, name);
    char *end;

    if (!at)
        return false;
    double ms = strtod(at + strlen(name), &end);
    if (end == at + strlen(name) || !(ms >= 0 && ms < 1e9))
        return false;
    *ret_us = (uint64_t)(ms * 1e3 + 0.5);
    return true;
}

void bench_client_parse_timing(const char *value, struct bench_answer *answer)
{
    static const char *const starts[] = {
        [BENCH_WARM] = "start;desc=warm",
        [BENCH_RESTORED] = "start;desc=restored",
        [BENCH_COLD] = "start;desc=cold",
    };

    for (size_t i = BENCH_WARM; i <= BENCH_COLD; i++)
        if (strstr(value, starts[i]))
            answer->start = (enum bench_start)i;
    read_duration(value, "acquire;dur=", &answer->acquire_us);
    read_duration(value, "guest;dur=", &answer->guest_us);
}

static size_t take_header(char *data, size_t one, size_t n, void *opaque)
{
    static const char name[] = "Server-Timing:";
    struct bench_client *client = opaque;
    char line[256];

    snprintf(line, sizeof(line), "%.*s", (int)(n * one < sizeof(line) ? n * one : 0), data);
    if (strncasecmp(line, name, strlen(name)) == 0)
        bench_client_parse_timing(line + strlen(name), &client->answer);
    return n * one;
}

/* --- one request ----------------------------------------------------------------------------- */

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int bench_client_new(const char *url, struct bench_client **ret_client, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct bench_client *client = calloc(1, sizeof(*client));

    pthread_once(&once, init_curl);
    if (client)
        client->curl = curl_easy_init();
    if (!client || !client->curl) {
        bench_client_free(client);
        return error_set(err, ENOMEM, "make an HTTP client");
    }
    snprintf(client->url, sizeof(client->url), "%s", url);
    *ret_client = client;
    return 0;
}

void bench_client_free(struct bench_client *client)
{
    if (!client)
        return;
    if (client->curl)
        curl_easy_cleanup(client->curl);
    free(client->body);
    free(client);
}

static struct curl_slist *headers_of(const char *header)
{
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    struct curl_slist *longer = list && header ? curl_slist_append(list, header) : NULL;

    return longer ? longer : list;
}

/* All but signatures survives from call to call; set again, which costs nothing that is timed. */
static void set_options(struct bench_client *client, const char *method, const char *body)
{
    CURL *curl = client->curl;

    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)PATIENCE_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, client);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, client);
    curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
    if (!body)
        return;
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
}

static uint64_t wall_us(CURL *curl)
{
    curl_off_t sent = 0, first = 0;

    curl_easy_getinfo(curl, CURLINFO_PRETRANSFER_TIME_T, &sent);
    curl_easy_getinfo(curl, CURLINFO_STARTTRANSFER_TIME_T, &first);
    return first > sent ? (uint64_t)(first - sent) : 0;
}

int bench_client_call(struct bench_client *client, const char *method, const char *path,
                      const char *body, const char *header, struct bench_answer *ret_answer,
                      struct error *err)
{
    char url[2 * URL_BYTES];
    struct curl_slist *headers = headers_of(header);
    long status = 0;

    client->len = 0;
    client->answer = (struct bench_answer){.start = BENCH_START_UNKNOWN};
    snprintf(url, sizeof(url), "%s%s", client->url, path);
    set_options(client, method, body);
    curl_easy_setopt(client->curl, CURLOPT_URL, url);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(client->curl);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    if (code != CURLE_OK)
        return error_say(err, EIO, "%s %s: %s", method, url, curl_easy_strerror(code));
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    client->answer.status = (unsigned)status;
    client->answer.wall_us = wall_us(client->curl);
    client->answer.body = client->len ? client->body : "";
    client->answer.body_bytes = client->len;
    *ret_answer = client->answer;
    return 0;
}

/* --- invocations ----------------------------------------------------------------------------- */

int bench_client_invoke(struct bench_client *client, const char *name, const char *body,
                        struct bench_answer *ret_answer, struct error *err)
{
    char path[URL_BYTES], words[200];

    snprintf(path, sizeof(path), "/2015-03-31/functions/%s/invocations", name);
    int r = bench_client_call(client, "POST", path, body, "X-Mayfly-Timing: 1", ret_answer, err);
    if (r < 0 || (ret_answer->status == 200 && !strstr(ret_answer->body, "errorMessage")))
        return r;
    text_clean(words, sizeof(words), ret_answer->body, ret_answer->body_bytes);
    return error_say(err, EIO, "invoking '%s': %u: %s", name, ret_answer->status, words);
}

static void take_value(const char *line, size_t len, const char *name, char *to, size_t size)
{
    size_t at = strlen(name);

    if (len <= at || strncasecmp(line, name, at) != 0)
        return;
    while (at < len && line[at] == ' ')
        at++;
    size_t n = len - at;
    if (n < size)
        snprintf(to, size, "%.*s", (int)n, line + at);
}

/* The head as libcurl sends it, in one or several pieces, each of whole lines. */
static int watch(CURL *curl, curl_infotype kind, char *data, size_t len, void *opaque)
{
    struct bench_client *client = opaque;

    (void)curl;
    if (kind != CURLINFO_HEADER_OUT || !client->signature)
        return 0;
    for (size_t at = 0; at < len;) {
        const char *end = memchr(data + at, '\r', len - at);
        size_t n = end ? (size_t)(end - data) - at : len - at;

        take_value(data + at, n, "Authorization:", client->signature->authorization,
                   sizeof(client->signature->authorization));
        take_value(data + at, n, "X-Amz-Date:", client->signature->date,
                   sizeof(client->signature->date));
        at += n + 2;
    }
    return 0;
}

int bench_client_sign(struct bench_client *client, const char *name, const char *key_id,
                      const char *secret, struct bench_signature *ret_signature, struct error *err)
{
    CURL *curl = client->curl;
    char path[URL_BYTES];
    struct bench_answer answer;

    *ret_signature = (struct bench_signature){.date = ""};
    client->signature = ret_signature;
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, "aws:amz:us-east-1:lambda");
    curl_easy_setopt(curl, CURLOPT_USERNAME, key_id);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, secret);
    curl_easy_setopt(curl, CURLOPT_DEBUGFUNCTION, watch);
    curl_easy_setopt(curl, CURLOPT_DEBUGDATA, client);
    curl_easy_setopt(curl, CURLOPT_VERBOSE, 1L);
    snprintf(path, sizeof(path), "/2015-03-31/functions/%s/invocations", name);
    int r = bench_client_call(client, "POST", path, "{}", "X-Amz-Invocation-Type: DryRun", &answer,
                              err);
    curl_easy_setopt(curl, CURLOPT_VERBOSE, 0L);
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, NULL);
    curl_easy_setopt(curl, CURLOPT_USERPWD, NULL);
    client->signature = NULL;
    if (r == 0 && (answer.status != 204 || !ret_signature->authorization[0]))
        r = error_say(err, EIO, "a signed dry invocation: %u: %.200s", answer.status, answer.body);
    return r;
}
