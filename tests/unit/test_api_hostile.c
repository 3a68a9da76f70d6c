/* What strangers try on the API: uploads before they are known, proxies' marks, broken JSON,
 * hostile packages, disks that fill. Over real sockets. */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "api_fixture.h"
#include "common/bytes.h"
#include "common/fd.h"
#include "host/api/rate_limit.h"
#include "host/api/trusted_proxies.h"
#include "host/instance/package.h"

#define FUNCTIONS "/2015-03-31/functions"
#define INVOKE FUNCTIONS "/f/invocations"

/* --- before the body is there ---------------------------------------------------------------- */

/* Only the head of an upload, whose client waits for leave: what does the server say? */
static void expect_head(struct api_fixture *fixture, const char *headers, int status,
                        const char *type)
{
    AUTO_FD fd = client_tcp(http_server_port(fixture->server));
    struct http_answer answer;
    char head[2048], value[128];
    int n = snprintf(head, sizeof(head),
                     "POST " FUNCTIONS " HTTP/1.1\r\n%s%sContent-Length: 30000000\r\n"
                     "Expect: 100-continue\r\n\r\n",
                     strstr(headers, "Host:") ? "" : "Host: h\r\n", headers);

    client_send(fd, head, (size_t)n);
    if (status == 100) {
        assert_int_equal(recv(fd, value, 12, MSG_WAITALL), 12);
        assert_memory_equal(value, "HTTP/1.1 100", 12);
        return;
    }
    client_read(fd, &answer);
    if (answer.status != status ||
        strcmp(client_header(&answer, "x-amzn-ErrorType", value, sizeof(value)), type) != 0)
        fail_msg("expected %d %s, got %s", status, type, answer.text);
    http_answer_done(&answer);
}

static void test_uploads_of_strangers(void **state)
{
    struct api_fixture *fixture = *state;
    static const char hash[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    time_t now = time(NULL);

    expect_head(fixture, "", 403, "MissingAuthenticationTokenException");
    AUTO_FREE char *good =
        sign("POST", FUNCTIONS, "", "h", "", fixture_key_id, fixture_secret, now);
    expect_head(fixture, good, 100, ""); /* whether it is right can be said at the end only */
    AUTO_FREE char *unknown = sign("POST", FUNCTIONS, "", "h", "", "AKIDNOBODY", "x", now);
    expect_head(fixture, unknown, 403, "UnrecognizedClientException");
    AUTO_FREE char *old =
        sign("POST", FUNCTIONS, "", "h", "", fixture_key_id, fixture_secret, now - 4000);
    expect_head(fixture, old, 403, "InvalidSignatureException");
    AUTO_FREE char *said =
        sign_payload("POST", FUNCTIONS, hash, fixture_key_id, fixture_secret, now);
    expect_head(fixture, said, 100, "");
    /* The hash is said, so a forged signature is known at once. */
    AUTO_FREE char *forged = sign_payload("POST", FUNCTIONS, hash, fixture_key_id, "guess", now);
    expect_head(fixture, forged, 403, "InvalidSignatureException");
    AUTO_FREE char *chunks = sign_payload("POST", FUNCTIONS, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                                          fixture_key_id, fixture_secret, now);
    expect_head(fixture, chunks, 403, "IncompleteSignatureException");
    /* And another body than the one that was said. */
    AUTO_FD fd = client_tcp(http_server_port(fixture->server));
    AUTO_FREE char *body = malloc(100000);
    struct api_answer got;
    assert_non_null(body);
    memset(body, ' ', 100000);
    call_on(fd, "POST", FUNCTIONS, said, body, 100000, &got);
    assert_int_equal(got.http.status, 403);
    assert_non_null(strstr(got.http.body, "not the hash of the body"));
    api_answer_done(&got);
}

/* "…?X-Amz-Algorithm=…" made by botocore is in the suite `compatibility`; here what is wrong. */
static void test_presigned(void **state)
{
    static const char *const queries[] = {
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256",
        "?X-Amz-Algorithm=AWS4-HMAC-SHA1&X-Amz-Signature=0",
        "?X-Amz-Signature=00&X-Amz-Signature=11",
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDALICE%2F20260101%2Fa%2Flambda%2F"
        "aws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Expires=604801&X-Amz-SignedHeaders=host&"
        "X-Amz-Signature=0000000000000000000000000000000000000000000000000000000000000000",
    };
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
        char path[1024];

        snprintf(path, sizeof(path), FUNCTIONS "/f%s", queries[i]);
        expect_error(fixture, "GET", path, NULL, "", 403, "IncompleteSignatureException", NULL);
    }
}

/* --- proxies --------------------------------------------------------------------------------- */

/* Through a proxy on this host anybody comes from loopback, or through the socket. */
static void test_forwarded_unsigned(void **state)
{
    static const char *const marks[] = {
        "X-Forwarded-For: 1.2.3.4\r\n", "Forwarded: for=1.2.3.4\r\n", "Via: 1.1 proxy\r\n",
        "x-forwarded-proto: https\r\n", "x-forwarded-host: a\r\n",    "X-Real-IP: 1.2.3.4\r\n"};
    struct api_fixture *fixture = *state;

    deploy(fixture, "f");
    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        expect_error(fixture, "GET", FUNCTIONS "/f", marks[i], "", 403,
                     "MissingAuthenticationTokenException", "proxy");
    expect_error(fixture, "GET", "/metrics", marks[0], "", 403,
                 "MissingAuthenticationTokenException", "proxy"); /* they name every tenant */
    AUTO_FD tcp = client_tcp(http_server_port(fixture->server));
    AUTO_FREE char *signature =
        sign("GET", FUNCTIONS "/f", "", "h", "", fixture_key_id, fixture_secret, time(NULL));
    char headers[1200];
    struct api_answer got;
    snprintf(headers, sizeof(headers), "%s%s", signature, marks[0]);
    call_on(tcp, "GET", FUNCTIONS "/f", headers, "", 0, &got);
    assert_int_equal(got.http.status, 200);
    api_answer_done(&got);
}

static void check_client(const char *const *names, size_t n_names, const char *peer,
                         const char *first, const char *second, const char *expected)
{
    struct http_header headers[] = {{"X-Forwarded-For", first}, {"x-forwarded-for", second}};
    struct http_request request = {.headers = headers, .n_headers = second ? 2 : first ? 1 : 0};
    struct trusted_proxies *proxies = NULL;
    char client[64];
    struct error err;

    snprintf(request.peer, sizeof(request.peer), "%s", peer);
    assert_int_equal(trusted_proxies_new(names, n_names, &proxies, &err), 0);
    trusted_proxies_client(proxies, &request, client);
    assert_string_equal(client, expected);
    trusted_proxies_free(proxies);
}

static void test_trusted_proxies(void **state)
{
    static const char *const names[] = {"127.0.0.1", "10.0.0.0/9", "fd00::/8", "192.168.7.0/30"};
    static const char *const bad[] = {"",         "localhost", "10.0.0.0/33", "::/129",    "1.2.3",
                                      "1.2.3.4/", "/8",        "1.2.3.4/-1",  "1.2.3.4/8x"};
    struct trusted_proxies *proxies = NULL;
    struct error err;

    (void)state;
    check_client(NULL, 0, "127.0.0.1", "1.2.3.4", NULL, "127.0.0.1");
    check_client(names, 4, "9.9.9.9", "1.2.3.4", NULL, "9.9.9.9");
    check_client(names, 4, "127.0.0.1", NULL, NULL, "127.0.0.1");
    check_client(names, 4, "127.0.0.1", "1.2.3.4", NULL, "1.2.3.4");
    /* What the client itself wrote stands before what the proxy added. */
    check_client(names, 4, "127.0.0.1", "8.8.8.8, 1.2.3.4", NULL, "1.2.3.4");
    check_client(names, 4, "127.0.0.1", "8.8.8.8", "1.2.3.4 , 10.127.0.1", "1.2.3.4");
    check_client(names, 4, "10.1.2.3", "1.2.3.4,10.128.0.1", NULL, "10.128.0.1");
    check_client(names, 4, "fd12::1", "[2001:db8::1]:443", NULL, "2001:db8::1");
    check_client(names, 4, "192.168.7.3", "1.2.3.4:5678", NULL, "1.2.3.4");
    check_client(names, 4, "192.168.7.4", "1.2.3.4", NULL, "192.168.7.4");
    check_client(names, 4, "127.0.0.1", "<script>", NULL, "127.0.0.1");
    check_client(names, 4, "127.0.0.1", "unknown, 10.0.0.9", NULL, "10.0.0.9");
    check_client(names, 4, "127.0.0.1", ",,,", NULL, "127.0.0.1");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (trusted_proxies_new(&bad[i], 1, &proxies, &err) != -EINVAL)
            fail_msg("taken: %s", bad[i]);
}

/* --- rates ----------------------------------------------------------------------------------- */

static void test_buckets(void **state)
{
    struct rate_limit *limit = NULL;
    struct error err;
    uint64_t now_us = 1000000000;

    (void)state;
    assert_int_equal(rate_limit_new(0, 1, &limit, &err), -EINVAL);
    assert_int_equal(rate_limit_new(10, 20, &limit, &err), 0);
    for (int i = 0; i < 20; i++)
        assert_true(rate_limit_take(limit, "a", now_us));
    assert_false(rate_limit_take(limit, "a", now_us));
    assert_true(rate_limit_take(limit, "b", now_us)); /* another's are another's */
    assert_false(rate_limit_take(limit, "a", now_us + 99000));
    assert_true(rate_limit_take(limit, "a", now_us + 100000));
    assert_false(rate_limit_take(limit, "a", now_us + 100000));
    now_us += 3600ull * 1000000;
    int n = 0;
    while (rate_limit_take(limit, "a", now_us))
        n++;
    assert_int_equal(n, 20); /* however long it waited */
    rate_limit_free(limit);
}

/* One tenant's hurry: it is told so, another is served, and invocations are not counted. */
static void test_rates(void **state)
{
    struct api_fixture *fixture = *state;
    struct api_options options = {.registry = fixture->store.registry,
                                  .backend = &(const struct api_backend){.invoke = NULL},
                                  .default_tenant = "alice",
                                  .control_rate = 1};
    struct api_answer got;
    struct error err;

    deploy(fixture, "f");
    close(fixture->fd);
    http_server_stop(fixture->server);
    api_free(fixture->api);
    assert_int_equal(api_new(&options, &fixture->api, &err), 0);
    struct http_server_options server = {
        .socket_path = fixture->socket_path, .service = &api_service, .opaque = fixture->api};
    assert_int_equal(http_server_start(&server, &fixture->server, &err), 0);
    fixture->fd = client_unix(fixture->socket_path);
    do {
        call(fixture, "GET", FUNCTIONS "/f", NULL, "", &got);
        int status = got.http.status;
        if (status == 429) {
            char value[64];

            assert_string_equal(text_of(got.json, "Reason"), "CallerRateLimitExceeded");
            assert_string_equal(client_header(&got.http, "Retry-After", value, 64), "1");
        }
        api_answer_done(&got);
        if (status == 429)
            break;
        assert_int_equal(status, 200);
    } while (true);
    call(fixture, "GET", FUNCTIONS, "X-Mayfly-Tenant: bob\r\n", "", &got);
    assert_int_equal(got.http.status, 200);
    api_answer_done(&got);
    for (int i = 0; i < 20; i++) {
        call(fixture, "POST", INVOKE, "X-Amz-Invocation-Type: DryRun\r\n", "{}", &got);
        assert_int_equal(got.http.status, 204);
        api_answer_done(&got);
    }
}

/* --- JSON and paths -------------------------------------------------------------------------- */

static char *nested(const char *open, const char *close, int depth)
{
    char *text = calloc(1, (size_t)depth * (strlen(open) + strlen(close)) + 32), *to = text;

    assert_non_null(text);
    to += sprintf(to, "{\"Tags\":");
    for (int i = 0; i < depth; i++)
        to += sprintf(to, "%s", open);
    to += sprintf(to, "1");
    for (int i = 0; i < depth; i++)
        to += sprintf(to, "%s", close);
    strcpy(to, "}");
    return text;
}

static void test_bad_json(void **state)
{
    static const char *const texts[] = {"{\"FunctionName\":NaN}",
                                        "{\"FunctionName\":Infinity}",
                                        "{\"a\":1e999}",
                                        "{\"a\":-}",
                                        "{\"a\":01}",
                                        "{'a':1}",
                                        "{\"a\":1,}",
                                        "{\"a\":\"\\ud800\"}",
                                        "{\"a\":\"\\u0000\"}",
                                        "{\"a\\u0000b\":1}",
                                        "{\"a\":\"\xc0\x80\"}",
                                        "{\"a\":\"\xed\xa0\x80\"}",
                                        "{\"a\":\"\xf5\x80\x80\x80\"}",
                                        "{\"a\":\"\x01\"}",
                                        "{\"a\":1} {}",
                                        "{\"a\":1}x",
                                        "\xef\xbb\xbf{}",
                                        "{\"a\":1,\"a\":1}",
                                        "null",
                                        "true",
                                        "1",
                                        "[[]]",
                                        "{\"a\":99999999999999999999}"};
    struct api_fixture *fixture = *state;
    AUTO_FREE char *lists = nested("[", "]", 40000), *objects = nested("{\"a\":", "}", 20000);

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        expect_error(fixture, "POST", FUNCTIONS, NULL, texts[i], 400,
                     "InvalidRequestContentException", NULL);
    expect_error(fixture, "POST", FUNCTIONS, NULL, lists, 400, "InvalidRequestContentException",
                 NULL);
    expect_error(fixture, "POST", FUNCTIONS, NULL, objects, 400, "InvalidRequestContentException",
                 NULL);
    deploy(fixture, "f");
    expect_error(fixture, "POST", INVOKE, NULL, lists, 400, "InvalidRequestContentException",
                 "deep");
    expect_error(fixture, "POST", INVOKE, NULL, "{\"a\":NaN}", 400,
                 "InvalidRequestContentException", NULL);
    assert_int_equal(fixture_seen.count, 0);
}

static void test_bad_paths(void **state)
{
    struct api_fixture *fixture = *state;
    AUTO_FREE char *path = malloc(20000);

    assert_non_null(path);
    deploy(fixture, "f");
    static const struct {
        const char *path, *type;
        int status;
    } bad[] = {
        {FUNCTIONS "/f%00", "ValidationException", 400},
        {FUNCTIONS "/%66%0", "ValidationException", 400},
        {FUNCTIONS "/%zz", "ValidationException", 400},
        {FUNCTIONS "/f%2Fconfiguration", "ValidationException", 400},
        {FUNCTIONS "/..%2F..%2Fetc", "ValidationException", 400},
        {FUNCTIONS "/../functions/f", "UnknownOperationException", 404},
        {FUNCTIONS "/%ff", "ValidationException", 400},
        {FUNCTIONS "//f", "UnknownOperationException", 404},
        {FUNCTIONS "/f?Qualifier=%00", "InvalidParameterValueException", 400},
        {FUNCTIONS "/f?Qualifier=$LATEST&Qualifier=1", "InvalidParameterValueException", 400},
        {FUNCTIONS "?MaxItems=1&MaxItems=2", "InvalidParameterValueException", 400},
        {"/code/alice/..%2f..%2fmayfly.db?until=9&token=x", "AccessDeniedException", 403},
        {"*", "UnknownOperationException", 404},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        expect_error(fixture, "GET", bad[i].path, NULL, "", bad[i].status, bad[i].type, NULL);
    int n = sprintf(path, FUNCTIONS "/");
    memset(path + n, 'a', 15000);
    path[n + 15000] = '\0';
    expect_error(fixture, "GET", path, NULL, "", 400, "ValidationException", NULL);
    n = sprintf(path, FUNCTIONS "?a");
    for (int i = 0; i < 200; i++)
        n += sprintf(path + n, "&b%d=1", i);
    expect_error(fixture, "GET", path, NULL, "", 400, "InvalidParameterValueException", "128");
    struct api_answer got;
    call(fixture, "GET", "http://localhost" FUNCTIONS "/f", NULL, "", &got);
    assert_int_equal(got.http.status, 200);
    api_answer_done(&got);
}

/* --- packages -------------------------------------------------------------------------------- */

struct entry {
    const char *path;
    unsigned type;
    const char *link;
    size_t len;
};

static uint8_t *pack(const struct entry *entries, size_t n, size_t *ret_len)
{
    static const char zeros[65536];
    struct archive *archive = archive_write_new();
    size_t size = 8 << 20;
    uint8_t *zip = malloc(size);

    assert_non_null(zip);
    archive_write_set_format_zip(archive);
    archive_write_set_bytes_in_last_block(archive, 1);
    assert_int_equal(archive_write_open_memory(archive, zip, size, ret_len), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *entry = archive_entry_new();

        archive_entry_set_pathname(entry, entries[i].path);
        archive_entry_set_filetype(entry, entries[i].type);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_size(entry, (int64_t)entries[i].len);
        if (entries[i].link)
            archive_entry_set_symlink(entry, entries[i].link);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        for (size_t at = 0; at < entries[i].len; at += sizeof(zeros)) {
            size_t left = entries[i].len - at;
            archive_write_data(archive, zeros, left < sizeof(zeros) ? left : sizeof(zeros));
        }
        archive_entry_free(entry);
    }
    archive_write_close(archive);
    archive_write_free(archive);
    return zip;
}

static char *body_of(const void *zip, size_t len, const char *name)
{
    size_t size = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    char *body = malloc(size + 256);

    assert_non_null(body);
    int n = sprintf(body,
                    "{\"FunctionName\":\"%s\",\"Runtime\":\"python3.11\",\"Handler\":\"a.h\","
                    "\"Role\":\"arn:aws:iam::000000000001:role/r\",\"Code\":{\"ZipFile\":\"",
                    name);
    sodium_bin2base64(body + n, size, zip, len, sodium_base64_VARIANT_ORIGINAL);
    strcat(body + n, "\"}}");
    return body;
}

static size_t count_files(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    size_t n = 0;

    if (!directory)
        return 0;
    while ((entry = readdir(directory)))
        n += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    closedir(directory);
    return n;
}

static size_t put_le(uint8_t *to, uint32_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)(value >> 8 * i);
    return n;
}

/* A zip of one empty entry, by hand: with a type that no archiver writes (APPNOTE 4.3.7, 4.3.12).
 */
static size_t zip_of_type(unsigned mode, uint8_t zip[128])
{
    size_t n = 0;

    memset(zip, 0, 128);
    n += put_le(zip + n, 0x04034b50, 4) + 22; /* sizes, times and sum are 0 */
    n += put_le(zip + n, 3, 2) + 2;
    memcpy(zip + n, "dev", 3);
    n += 3;
    size_t central = n;
    n += put_le(zip + n, 0x02014b50, 4);
    n += put_le(zip + n, 3 << 8 | 20, 2) + 22; /* made by Unix */
    n += put_le(zip + n, 3, 2) + 8;
    n += put_le(zip + n, mode << 16, 4) + 4;
    memcpy(zip + n, "dev", 3);
    n += 3;
    size_t end = n;
    n += put_le(zip + n, 0x06054b50, 4) + 4;
    n += put_le(zip + n, 1, 2);
    n += put_le(zip + n, 1, 2);
    n += put_le(zip + n, (uint32_t)(end - central), 4);
    n += put_le(zip + n, (uint32_t)central, 4) + 2;
    return n;
}

static void test_hostile_packages(void **state)
{
    static const struct entry bad[] = {
        {"../../etc/cron.d/x", AE_IFREG, NULL, 1},
        {"/etc/passwd", AE_IFREG, NULL, 1},
        {"a/../../b", AE_IFREG, NULL, 1},
        {"link", AE_IFLNK, "/etc/shadow", 0},
        {"link", AE_IFLNK, "../../x", 0},
        {"bomb", AE_IFREG, NULL, (size_t)PACKAGE_MAX_BYTES + 1},
    };
    /* An entry that says it is a FIFO is an empty file to libarchive, and so to us. */
    static const unsigned modes[] = {S_IFCHR | 0666, S_IFBLK | 0666, S_IFSOCK | 0666};
    struct api_fixture *fixture = *state;
    char code[128];
    size_t len;

    snprintf(code, sizeof(code), "%s", fixture_path(&fixture->store, "code"));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        AUTO_FREE uint8_t *zip = pack(&bad[i], 1, &len);
        AUTO_FREE char *body = body_of(zip, len, "f");

        expect_error(fixture, "POST", FUNCTIONS, NULL, body, 400, "InvalidParameterValueException",
                     NULL);
        assert_int_equal(count_files(code), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        uint8_t zip[128];

        len = zip_of_type(modes[i], zip);
        AUTO_FREE char *body = body_of(zip, len, "f");
        expect_error(fixture, "POST", FUNCTIONS, NULL, body, 400, "InvalidParameterValueException",
                     NULL);
        assert_int_equal(count_files(code), 0);
    }
    static const char *const texts[] = {"",
                                        "=",
                                        "A",
                                        "AAA",
                                        "AAAA=",
                                        "AA==x",
                                        "%50%4b",
                                        "UEsDBA==\\u0041",
                                        "UEs DBA==",
                                        "UEsDB-_=",
                                        "PK\\u0003\\u0004"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char body[512];

        snprintf(body, sizeof(body),
                 "{\"FunctionName\":\"f\",\"Runtime\":\"python3.11\",\"Handler\":\"a.h\","
                 "\"Role\":\"arn:aws:iam::000000000001:role/r\",\"Code\":{\"ZipFile\":\"%s\"}}",
                 texts[i]);
        expect_error(fixture, "POST", FUNCTIONS, NULL, body, 400, "InvalidParameterValueException",
                     NULL);
    }
    assert_int_equal(count_files(code), 0);
    json_t *list = expect_ok(fixture, "GET", FUNCTIONS, "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "Functions")), 0);
    json_decref(list);
}

/* --- a full disk ----------------------------------------------------------------------------- */

/* A zip that does not shrink. */
static char *large_body(const char *name)
{
    size_t noise_len = 900 << 10, len;
    AUTO_FREE uint8_t *noise = malloc(noise_len);
    uint8_t *zip = NULL;

    assert_non_null(noise);
    randombytes_buf(noise, noise_len);
    fixture_zip("app.py", noise, noise_len, &zip, &len);
    char *body = body_of(zip, len, name);
    free(zip);
    return body;
}

/* In a child, on a disk of 4 MB: until it is full, and then on. */
static void fill_disk(void **state)
{
    struct api_fixture *fixture = NULL;
    int made = 0, failed = 0;
    char value[128];

    (void)state;
    api_fixture_set_up((void **)&fixture);
    for (int i = 0; i < 12; i++) {
        char name[16];
        struct api_answer got;

        snprintf(name, sizeof(name), "f%d", i);
        AUTO_FREE char *body = large_body(name);
        call(fixture, "POST", FUNCTIONS, NULL, body, &got);
        made += got.http.status == 201;
        if (got.http.status != 201) {
            assert_int_equal(got.http.status, 500);
            client_header(&got.http, "x-amzn-ErrorType", value, sizeof(value));
            assert_string_equal(value, "ServiceException");
            assert_non_null(strstr(got.http.body, "no storage left"));
            assert_null(strstr(got.http.body, fixture->store.state));
            failed++;
        }
        api_answer_done(&got);
    }
    assert_true(made > 0 && failed > 0);
    /* What was refused is not there, not in part either; what was accepted is whole. */
    json_t *list = expect_ok(fixture, "GET", FUNCTIONS, "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "Functions")), made);
    json_decref(list);
    char code[128];
    snprintf(code, sizeof(code), "%s", fixture_path(&fixture->store, "code"));
    assert_int_equal(count_files(code), made);
    struct api_answer got;
    call(fixture, "DELETE", FUNCTIONS "/f0", NULL, "", &got); /* and it goes on */
    assert_int_equal(got.http.status, 204);
    api_answer_done(&got);
    api_fixture_tear_down((void **)&fixture);
}

static void test_full_disk(void **state)
{
    int status;

    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if ((unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("none", "/tmp", "tmpfs", 0, "size=6m") < 0)
            _exit(77);
        const struct CMUnitTest tests[] = {cmocka_unit_test(fill_disk)};
        if (!freopen("/dev/null", "w", stdout))
            _exit(78);
        _exit(cmocka_run_group_tests(tests, NULL, NULL));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* no name space of its own may be made here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define API_TEST(test)                                                                             \
    cmocka_unit_test_setup_teardown(test, api_fixture_set_up, api_fixture_tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets),
        API_TEST(test_rates),
        API_TEST(test_uploads_of_strangers),
        API_TEST(test_presigned),
        API_TEST(test_forwarded_unsigned),
        cmocka_unit_test(test_trusted_proxies),
        API_TEST(test_bad_json),
        API_TEST(test_bad_paths),
        API_TEST(test_hostile_packages),
        cmocka_unit_test(test_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
