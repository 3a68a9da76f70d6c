/* See api_fixture.h. */
#include "api_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fd.h"
#include "host/api/sigv4_canonical.h"
#include "images/image_sha256.h"

enum { SIGNED_BYTES = 2048 };

struct seen_invocation fixture_seen;
int64_t fixture_api_now_s;
const char fixture_key_id[] = "AKIDALICE", fixture_secret[] = "alice/secret+key";

static const struct api_key keys[] = {{"AKIDALICE", "alice/secret+key", "alice"},
                                      {"AKIDBOB", "bob's", "bob"}};

static int64_t api_now_s(void)
{
    return fixture_api_now_s ? fixture_api_now_s : (int64_t)time(NULL);
}

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
}

static int answer(struct api_invocation_result *result, const char *text)
{
    result->payload = (uint8_t *)strdup(text);
    assert_non_null(result->payload);
    result->payload_bytes = strlen(text);
    return 0;
}

/* Streams each element of "parts", of the content type "type"; "raise" ends it with an error. */
static int stream_parts(const struct api_invocation *invocation, const json_t *event,
                        struct api_invocation_result *result)
{
    const char *type = json_string_value(json_object_get(event, "type"));
    json_t *parts = json_object_get(event, "parts"), *each;
    struct response_part part = {.content_type = type ? type : "application/octet-stream",
                                 .deadline_ns = clock_now_ns() + 60000000000ull};
    size_t i;

    json_array_foreach(parts, i, each)
    {
        part.data = json_string_value(each);
        part.len_bytes = json_string_length(each);
        if (invocation->on_part(invocation->opaque, &part) < 0)
            break;
        part.content_type = NULL;
    }
    if (!json_is_true(json_object_get(event, "raise")))
        return answer(result, "");
    result->error = API_ERROR_UNHANDLED;
    return answer(result, "{\"errorMessage\":\"mid\",\"errorType\":\"RangeError\"}");
}

/* Answers as the event's "do" says; anything else is echoed. */
static int invoke(void *opaque, const struct api_invocation *invocation,
                  struct api_invocation_result *ret_result, struct error *err)
{
    json_t *event = json_loadb(invocation->payload, invocation->payload_bytes,
                               JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    const char *body = json_string_value(json_object_get(event, "body"));
    json_t *inner = body ? json_loads(body, JSON_ALLOW_NUL, NULL) : NULL;
    if (json_is_string(json_object_get(inner, "do"))) { /* what came through a function URL */
        json_decref(event);
        event = json_incref(inner);
    }
    json_decref(inner);
    const char *what = json_string_value(json_object_get(event, "do"));
    const json_t *parameters = json_object_get(event, "queryStringParameters");
    int r = 0;

    if (!what) /* of a URL: …?do= */
        what = json_string_value(json_object_get(parameters, "do"));
    (void)opaque;
    copy(fixture_seen.name, sizeof(fixture_seen.name), invocation->function->name);
    copy(fixture_seen.version, sizeof(fixture_seen.version), invocation->function->version_text);
    copy(fixture_seen.client_context, sizeof(fixture_seen.client_context),
         invocation->client_context);
    copy(fixture_seen.trace_id, sizeof(fixture_seen.trace_id), invocation->trace_id);
    copy(fixture_seen.invoked_arn, sizeof(fixture_seen.invoked_arn), invocation->invoked_arn);
    fixture_seen.payload_bytes = invocation->payload_bytes;
    snprintf(fixture_seen.payload, sizeof(fixture_seen.payload), "%.*s",
             (int)invocation->payload_bytes, (const char *)invocation->payload);
    fixture_seen.count++;
    ret_result->start = "restored";
    ret_result->acquire_us = 1250;
    ret_result->guest_us = 20007;
    if (invocation->wants_log) {
        memcpy(ret_result->log_tail, "START\nREPORT\n", 13);
        ret_result->log_tail_bytes = 13;
    }
    if (what && strcmp(what, "throttle") == 0) {
        r = error_say(err, EAGAIN, "ConcurrentInvocationLimitExceeded");
    } else if (what && strcmp(what, "pending") == 0) {
        r = error_say(err, EBUSY, "pending");
    } else if (what && strcmp(what, "break") == 0) {
        r = error_say(err, EIO, "cannot open '/var/lib/secret/path'");
    } else if (what && strcmp(what, "raise") == 0) {
        ret_result->error = API_ERROR_UNHANDLED;
        r = answer(ret_result, "{\"errorMessage\":\"x\",\"errorType\":\"ValueError\"}");
    } else if (what && strcmp(what, "timeout") == 0) {
        ret_result->error = API_ERROR_UNHANDLED;
        r = answer(ret_result, "{\"errorMessage\":\"x\",\"errorType\":\"Sandbox.Timedout\"}");
    } else if (what && strcmp(what, "cors") == 0) {
        r = answer(ret_result, "{\"statusCode\":200,\"headers\":{\"access-control-allow-origin\":"
                               "\"https://own.example\",\"X-A\":\"1\"}}");
    } else if (what && strcmp(what, "stream") == 0 && invocation->on_part) {
        r = stream_parts(invocation, event, ret_result);
    } else if (what && strcmp(what, "http") == 0) {
        r = answer(ret_result,
                   "{\"statusCode\":418,\"headers\":{\"X-Tea\":\"pot\"},\"body\":\"t\"}");
    } else {
        r = answer(ret_result, fixture_seen.payload);
    }
    json_decref(event);
    return r;
}

static int metrics(void *opaque, const char *tenant, char **ret_text)
{
    (void)opaque;
    return asprintf(ret_text, "mayfly_up{tenant=\"%s\"} 1\n", tenant ? tenant : "") < 0 ? -ENOMEM
                                                                                        : 0;
}

static void readiness(void *opaque, struct api_readiness *ret_readiness)
{
    (void)opaque;
    ret_readiness->n = 0;
    if (fixture_seen.is_unready)
        strcpy(ret_readiness->reasons[ret_readiness->n++], "warming up");
}

static const struct api_backend backend = {
    .invoke = invoke, .metrics = metrics, .readiness = readiness};

int api_fixture_set_up(void **state)
{
    struct api_fixture *fixture = calloc(1, sizeof(*fixture));
    struct event_queue_options queue_options = {.sole = true};
    struct error err = {0};

    assert_non_null(fixture);
    fixture_seen = (struct seen_invocation){.count = 0};
    fixture_api_now_s = 0;
    fixture_open(&fixture->store);
    fixture_expect(event_queue_open(registry_database(fixture->store.registry), &queue_options,
                                    &fixture->queue, &err),
                   0, &err, "");
    char logs_path[128];
    snprintf(logs_path, sizeof(logs_path), "%s/logs", fixture->store.state);
    const struct log_store_options logs = {.path = logs_path};
    fixture_expect(log_store_open(&logs, &fixture->logs, &err), 0, &err, "");
    struct api_options options = {.registry = fixture->store.registry,
                                  .queue = fixture->queue,
                                  .backend = &backend,
                                  .keys = keys,
                                  .n_keys = 2,
                                  .default_tenant = "alice",
                                  .logs = fixture->logs,
                                  .now_s = api_now_s};
    fixture_expect(api_new(&options, &fixture->api, &err), 0, &err, "");
    snprintf(fixture->socket_path, sizeof(fixture->socket_path), "%s/api.sock",
             fixture->store.state);
    struct http_server_options server = {.listen = "127.0.0.1:0",
                                         .socket_path = fixture->socket_path,
                                         .threads = 2,
                                         .service = &api_service,
                                         .opaque = fixture->api};
    fixture_expect(http_server_start(&server, &fixture->server, &err), 0, &err, "");
    fixture->fd = client_unix(fixture->socket_path);
    *state = fixture;
    return 0;
}

int api_fixture_tear_down(void **state)
{
    struct api_fixture *fixture = *state;

    close(fixture->fd);
    log_store_end_followers(fixture->logs);
    http_server_stop(fixture->server);
    api_free(fixture->api);
    log_store_close(fixture->logs);
    event_queue_close(fixture->queue);
    fixture_close(&fixture->store);
    free(fixture);
    return 0;
}

/* --- calls ----------------------------------------------------------------------------------- */

void call_on(int fd, const char *method, const char *target, const char *headers, const void *body,
             size_t len, struct api_answer *ret_answer)
{
    size_t size = strlen(target) + (headers ? strlen(headers) : 0) + 256;
    AUTO_FREE char *head = malloc(size);

    assert_non_null(head);
    int n = snprintf(head, size, "%s %s HTTP/1.1\r\n%s%sContent-Length: %zu\r\n\r\n", method,
                     target, headers && strstr(headers, "Host:") ? "" : "Host: localhost\r\n",
                     headers ? headers : "", len);
    client_send(fd, head, (size_t)n);
    (void)client_try_send(fd, body, len);
    client_read(fd, &ret_answer->http);
    if (ret_answer->http.status == 0)
        fail_msg("%s %s: no answer", method, target);
    ret_answer->json =
        json_loadb(ret_answer->http.body, ret_answer->http.body_len, JSON_DECODE_ANY, NULL);
}

void call(struct api_fixture *fixture, const char *method, const char *target, const char *headers,
          const char *body, struct api_answer *ret_answer)
{
    call_on(fixture->fd, method, target, headers, body, strlen(body), ret_answer);
}

void api_answer_done(struct api_answer *answer)
{
    json_decref(answer->json);
    http_answer_done(&answer->http);
}

void expect_error(struct api_fixture *fixture, const char *method, const char *target,
                  const char *headers, const char *body, int status, const char *type,
                  const char *words)
{
    struct api_answer got;
    char value[128];

    call(fixture, method, target, headers, body, &got);
    client_header(&got.http, "x-amzn-ErrorType", value, sizeof(value));
    if (got.http.status != status || strcmp(value, type) != 0 ||
        (words && !strstr(got.http.body, words)))
        fail_msg("%s %s with %.200s: expected %d %s '%s', got %s", method, target, body, status,
                 type, words ? words : "", got.http.text);
    assert_true(json_is_object(got.json));
    assert_non_null(json_object_get(got.json, "Type"));
    assert_true(json_object_get(got.json, "message") || json_object_get(got.json, "Message"));
    client_header(&got.http, "x-amzn-RequestId", value, sizeof(value));
    assert_int_equal(strlen(value), 36);
    api_answer_done(&got);
}

json_t *expect_ok(struct api_fixture *fixture, const char *method, const char *target,
                  const char *body, int status)
{
    struct api_answer got;

    call(fixture, method, target, NULL, body, &got);
    if (got.http.status != status)
        fail_msg("%s %s: expected %d, got %s", method, target, status, got.http.text);
    json_t *json = got.json;
    http_answer_done(&got.http);
    return json;
}

static const json_t *at(const json_t *object, const char *path)
{
    char name[128];

    while (*path) {
        size_t len = strcspn(path, ".");

        snprintf(name, sizeof(name), "%.*s", (int)len, path);
        object = json_is_array(object) ? json_array_get(object, (size_t)atoi(name))
                                       : json_object_get(object, name);
        if (!object)
            fail_msg("there is no '%s'", name);
        path += len + (path[len] == '.');
    }
    return object;
}

const char *text_of(const json_t *object, const char *path)
{
    const char *text = json_string_value(at(object, path));

    assert_non_null(text);
    return text;
}

int64_t number_of(const json_t *object, const char *path)
{
    const json_t *value = at(object, path);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* --- what is sent ---------------------------------------------------------------------------- */

char *create_body(const char *name, const char *more)
{
    uint8_t *zip = NULL;
    size_t len = 0;

    fixture_zip("app.py", name, strlen(name), &zip, &len);
    size_t base64_size = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    AUTO_FREE char *base64 = malloc(base64_size);
    size_t size = base64_size + strlen(name) + strlen(more) + 256;
    char *body = malloc(size);

    assert_true(base64 && body);
    sodium_bin2base64(base64, base64_size, zip, len, sodium_base64_VARIANT_ORIGINAL);
    snprintf(body, size,
             "{\"FunctionName\":\"%s\",\"Runtime\":\"python3.11\",\"Handler\":\"app.handler\","
             "\"Role\":\"arn:aws:iam::000000000001:role/r\",\"Code\":{\"ZipFile\":\"%s\"}%s}",
             name, base64, more);
    free(zip);
    return body;
}

void deploy(struct api_fixture *fixture, const char *name)
{
    AUTO_FREE char *body = create_body(name, "");

    json_decref(expect_ok(fixture, "POST", "/2015-03-31/functions", body, 201));
    fixture_build(&fixture->store, name, NULL);
}

static void hmac(uint8_t out[32], const void *key, size_t key_len, const char *text)
{
    crypto_auth_hmacsha256_state state;

    crypto_auth_hmacsha256_init(&state, key, key_len);
    crypto_auth_hmacsha256_update(&state, (const uint8_t *)text, strlen(text));
    crypto_auth_hmacsha256_final(&state, out);
}

static char *sign_headers(const char *method, const char *path, const char *query, const char *host,
                          const char *line, bool says_line, const char *key_id, const char *secret,
                          int64_t at_s)
{
    struct sigv4_claim claim = {.signed_headers = "host;x-amz-date"};
    char when[17], day[9], prefixed[128], hash[65], text[256], more[128] = "";
    time_t s = (time_t)at_s;
    uint8_t digest[32];
    char *canonical = NULL, *result = malloc(SIGNED_BYTES);
    size_t len = 0;
    struct tm tm;

    assert_non_null(result);
    if (says_line) {
        strcpy(claim.signed_headers, "host;x-amz-content-sha256;x-amz-date");
        snprintf(more, sizeof(more), "X-Amz-Content-Sha256: %s\r\n", line);
    }
    gmtime_r(&s, &tm);
    strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
    strftime(day, sizeof(day), "%Y%m%d", &tm);
    struct http_header headers[] = {
        {"Host", host}, {"X-Amz-Date", when}, {"X-Amz-Content-Sha256", line}};
    struct http_request request = {.method = method,
                                   .path = path,
                                   .query = query,
                                   .headers = headers,
                                   .n_headers = says_line ? 3 : 2};
    assert_int_equal(sigv4_canonical(&request, &claim, line, &canonical, &len, NULL), 0);
    assert_int_equal(sha256_of(canonical, len, digest), 0);
    sha256_hex(digest, hash);
    free(canonical);
    snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s/eu-central-1/lambda/aws4_request\n%s",
             when, day, hash);
    snprintf(prefixed, sizeof(prefixed), "AWS4%s", secret);
    hmac(digest, prefixed, strlen(prefixed), day);
    hmac(digest, digest, 32, "eu-central-1");
    hmac(digest, digest, 32, "lambda");
    hmac(digest, digest, 32, "aws4_request");
    hmac(digest, digest, 32, text);
    sha256_hex(digest, hash);
    snprintf(result, SIGNED_BYTES,
             "Host: %s\r\nX-Amz-Date: %s\r\n%sAuthorization: AWS4-HMAC-SHA256 Credential=%s/%s/"
             "eu-central-1/lambda/aws4_request, SignedHeaders=%s, Signature=%s\r\n",
             host, when, more, key_id, day, claim.signed_headers, hash);
    return result;
}

char *sign(const char *method, const char *path, const char *query, const char *host,
           const char *body, const char *key_id, const char *secret, int64_t at_s)
{
    uint8_t digest[32];
    char hash[65];

    assert_int_equal(sha256_of(body, strlen(body), digest), 0);
    sha256_hex(digest, hash);
    return sign_headers(method, path, query, host, hash, false, key_id, secret, at_s);
}

char *sign_payload(const char *method, const char *path, const char *said, const char *key_id,
                   const char *secret, int64_t at_s)
{
    return sign_headers(method, path, "", "h", said, true, key_id, secret, at_s);
}
