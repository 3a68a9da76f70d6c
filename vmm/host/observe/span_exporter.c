/*
 * Spans to a collector: see span_exporter.h. One connection, kept; batches of what came within a
 * second. A batch that the collector cannot take now (429, 502, 503, 504) is tried once more.
 */
#include "span_exporter.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "record_queue.h"

enum {
    QUEUE_BYTES = 1 << 20,
    BATCH_MAX = 256,
    LINGER_MS = 1000,
    CONNECT_MS = 2000,
    SEND_MS = 5000,
    RETRY_US = 500000,
    CLOSE_MS = 8000,
};

struct span_exporter {
    struct record_queue *queue; /* owned */
    char *url;                  /* owned */
    atomic_uint_fast64_t lost;
    /* The thread's: */
    CURL *curl;
    struct curl_slist *headers;
    size_t n;
    struct span_record batch[BATCH_MAX];
};

static size_t discard(char *data, size_t size, size_t n, void *opaque)
{
    (void)data;
    (void)opaque;
    return size * n;
}

/* The status, 0: no answer. */
static long post(struct span_exporter *exporter, const char *text)
{
    long status = 0;

    curl_easy_setopt(exporter->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(text));
    curl_easy_setopt(exporter->curl, CURLOPT_POSTFIELDS, text);
    if (curl_easy_perform(exporter->curl) == CURLE_OK)
        curl_easy_getinfo(exporter->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static bool is_worth_another(long status)
{
    return status == 429 || status == 502 || status == 503 || status == 504;
}

static void send_batch(void *opaque)
{
    struct span_exporter *exporter = opaque;

    if (exporter->n == 0)
        return;
    AUTO_FREE char *text = span_exporter_json(exporter->batch, exporter->n);
    long status = text ? post(exporter, text) : 0;
    if (is_worth_another(status)) {
        usleep(RETRY_US);
        status = post(exporter, text);
    }
    if (status < 200 || status > 299)
        atomic_fetch_add(&exporter->lost, exporter->n);
    exporter->n = 0;
}

static void take_record(void *opaque, const void *record, size_t len)
{
    struct span_exporter *exporter = opaque;

    memcpy(&exporter->batch[exporter->n], record, len);
    if (++exporter->n == BATCH_MAX)
        send_batch(exporter);
}

static int set_up_curl(struct span_exporter *exporter)
{
    CURL *curl = curl_easy_init();

    exporter->curl = curl;
    exporter->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!curl || !exporter->headers)
        return -ENOMEM;
    curl_easy_setopt(curl, CURLOPT_URL, exporter->url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, exporter->headers);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)SEND_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "mayflyd/" MAYFLY_VERSION);
    return 0;
}

/* https://host:4318 → https://host:4318/v1/traces; what has a path is taken as it is. */
static char *make_url(const char *endpoint)
{
    const char *host = strstr(endpoint, "://"), *path = host ? strchr(host + 3, '/') : NULL;
    bool has_path = path && path[1];
    char *url = NULL;

    if (has_path)
        return strdup(endpoint);
    return asprintf(&url, "%.*s/v1/traces", (int)(path ? path - endpoint : (int)strlen(endpoint)),
                    endpoint) < 0
               ? NULL
               : url;
}

static void exporter_free(struct span_exporter *exporter)
{
    curl_slist_free_all(exporter->headers);
    if (exporter->curl)
        curl_easy_cleanup(exporter->curl);
    free(exporter->url);
    free(exporter);
}

int span_exporter_new(const char *endpoint, struct span_exporter **ret_exporter, struct error *err)
{
    struct span_exporter *exporter = calloc(1, sizeof(*exporter));
    int r;

    if (!exporter)
        return error_set(err, ENOMEM, "make the exporter of spans");
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(exporter);
        return error_say(err, EIO, "libcurl cannot be used here");
    }
    exporter->url = make_url(endpoint);
    r = exporter->url ? set_up_curl(exporter) : -ENOMEM;
    if (r < 0)
        error_set(err, -r, "make the exporter of spans");
    const struct record_queue_options queue = {.bytes = QUEUE_BYTES,
                                               .linger_ms = LINGER_MS,
                                               .take = take_record,
                                               .batch_end = send_batch,
                                               .opaque = exporter};
    if (r == 0)
        r = record_queue_new(&queue, &exporter->queue, err);
    if (r < 0) {
        exporter_free(exporter);
        return r;
    }
    *ret_exporter = exporter;
    return 0;
}

void span_exporter_put(struct span_exporter *exporter, const struct span_record *record)
{
    (void)record_queue_put(exporter->queue, record, sizeof(*record));
}

uint64_t span_exporter_dropped(const struct span_exporter *exporter)
{
    return record_queue_dropped(exporter->queue) + atomic_load(&exporter->lost);
}

void span_exporter_free(struct span_exporter *exporter)
{
    if (exporter && record_queue_free(exporter->queue, CLOSE_MS) == 0)
        exporter_free(exporter);
}
