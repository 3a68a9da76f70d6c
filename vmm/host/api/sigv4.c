/* Signature checks: see sigv4.h. What is signed is put together in sigv4_canonical.c. */
#include "sigv4.h"

#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "images/image_sha256.h"
#include "sigv4_canonical.h"

static const char algorithm[] = "AWS4-HMAC-SHA256";
static const char unsigned_payload[] = "UNSIGNED-PAYLOAD";

/* --- the claim ------------------------------------------------------------------------------- */

static int incomplete(struct error *err, const char *what)
{
    return error_say(err, EINVAL, "%s", what);
}

/* Copies @len characters that are all in @allowed. */
static bool take(char *to, size_t size, const char *from, size_t len, const char *allowed)
{
    if (len == 0 || len >= size || strspn(from, allowed) < len)
        return false;
    memcpy(to, from, len);
    to[len] = '\0';
    return true;
}

#define DIGITS "0123456789"
#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* <key id>/<date>/<region>/<service>/aws4_request */
static int parse_scope(const char *text, size_t len, struct sigv4_claim *claim, struct error *err)
{
    static const char what[] =
        "Credential must be <access key>/<date>/<region>/<service>/aws4_request";
    const char *part[5];
    size_t part_len[5], n = 0, start = 0;

    for (size_t i = 0; i <= len; i++) {
        if (i < len && text[i] != '/')
            continue;
        if (n == 5)
            return incomplete(err, what);
        part[n] = text + start;
        part_len[n++] = i - start;
        start = i + 1;
    }
    if (n != 5 || part_len[4] != strlen("aws4_request") ||
        memcmp(part[4], "aws4_request", part_len[4]) != 0 ||
        !take(claim->key_id, sizeof(claim->key_id), part[0], part_len[0],
              UPPER LOWER DIGITS "_-") ||
        !take(claim->date, sizeof(claim->date), part[1], part_len[1], DIGITS) ||
        !take(claim->region, sizeof(claim->region), part[2], part_len[2], LOWER DIGITS "-") ||
        !take(claim->service, sizeof(claim->service), part[3], part_len[3], LOWER DIGITS "-"))
        return incomplete(err, what);
    return 0;
}

/* Lower-case names in strictly rising order: so each is there once, which bounds what they make. */
static int parse_signed_headers(const char *text, size_t len, struct sigv4_claim *claim,
                                struct error *err)
{
    char last[128] = "", name[128];
    size_t n = 0;

    if (!take(claim->signed_headers, sizeof(claim->signed_headers), text, len,
              LOWER DIGITS "-_;.!#$%&'*+^`|~"))
        return incomplete(err, "SignedHeaders must be lower-case names separated by ';'");
    for (const char *p = claim->signed_headers; *p || n == 0;) {
        size_t name_len = strcspn(p, ";");

        if (name_len == 0 || name_len >= sizeof(name) || ++n > SIGV4_MAX_SIGNED ||
            (p[name_len] == ';' && p[name_len + 1] == '\0'))
            return incomplete(err, "SignedHeaders has an empty name, a long one, or too many");
        memcpy(name, p, name_len);
        name[name_len] = '\0';
        if (strcmp(last, name) >= 0)
            return incomplete(err, "SignedHeaders must be sorted, each name once");
        memcpy(last, name, name_len + 1);
        p += name_len + (p[name_len] == ';');
    }
    return 0;
}

static int parse_signature(const char *text, size_t len, struct sigv4_claim *claim,
                           struct error *err)
{
    if (len != 64 || !take(claim->signature, sizeof(claim->signature), text, len, DIGITS "abcdef"))
        return incomplete(err, "Signature must be 64 lower-case hexadecimal digits");
    return 0;
}

static int parse_time(const char *text, struct sigv4_claim *claim, struct error *err)
{
    struct tm tm = {0};
    int n = 0;

    if (strlen(text) != 16 || strspn(text, DIGITS "TZ") != 16 ||
        sscanf(text, "%4d%2d%2dT%2d%2d%2dZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
               &tm.tm_min, &tm.tm_sec, &n) != 6 ||
        n != 16 || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
        tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60 || tm.tm_year < 1970)
        return incomplete(err, "X-Amz-Date must be of the form YYYYMMDDTHHMMSSZ");
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    memcpy(claim->time_text, text, 17);
    claim->time_s = timegm(&tm);
    if (strncmp(claim->date, text, 8) != 0)
        return incomplete(err, "the date of Credential is not that of X-Amz-Date");
    return 0;
}

/* The three comma-separated parts of an Authorization header, each once. */
static int parse_parts(const char *text, struct sigv4_claim *claim, struct error *err)
{
    static const struct {
        const char *name;
        int (*parse)(const char *, size_t, struct sigv4_claim *, struct error *);
    } parts[] = {{"Credential=", parse_scope},
                 {"SignedHeaders=", parse_signed_headers},
                 {"Signature=", parse_signature}};
    unsigned seen = 0;

    while (*text) {
        size_t i = 0;

        text += strspn(text, ", \t");
        size_t len = strcspn(text, ", \t");
        if (len == 0)
            break;
        while (i < ARRAY_LEN(parts) && strncmp(text, parts[i].name, strlen(parts[i].name)) != 0)
            i++;
        if (i == ARRAY_LEN(parts) || (seen & 1u << i))
            return incomplete(err, "Authorization must have Credential, SignedHeaders and "
                                   "Signature, each once, and nothing else");
        size_t skip = strlen(parts[i].name);
        int r = parts[i].parse(text + skip, len - skip, claim, err);
        if (r < 0)
            return r;
        seen |= 1u << i;
        text += len;
    }
    return seen == 7 ? 0
                     : incomplete(err, "Authorization lacks one of Credential, SignedHeaders and "
                                       "Signature");
}

static int parse_header_form(const struct http_request *request, const char *authorization,
                             struct sigv4_claim *claim, struct error *err)
{
    const char *date = http_header_find(request, "x-amz-date");
    size_t skip = sizeof(algorithm) - 1;

    if (strncmp(authorization, algorithm, skip) != 0 ||
        (authorization[skip] != ' ' && authorization[skip] != '\t'))
        return incomplete(err, "Authorization must begin with AWS4-HMAC-SHA256");
    int r = parse_parts(authorization + skip, claim, err);
    if (r < 0)
        return r;
    return date ? parse_time(date, claim, err)
                : incomplete(err, "a signed request must have the header X-Amz-Date");
}

static int parse_query_form(const struct http_query *query, struct sigv4_claim *claim,
                            struct error *err)
{
    const char *used = http_query_find(query, "X-Amz-Algorithm");
    const char *scope = http_query_find(query, "X-Amz-Credential");
    const char *headers = http_query_find(query, "X-Amz-SignedHeaders");
    const char *signature = http_query_find(query, "X-Amz-Signature");
    const char *date = http_query_find(query, "X-Amz-Date");
    const char *expires = http_query_find(query, "X-Amz-Expires");
    char *end = NULL;

    if (!used || strcmp(used, algorithm) != 0 || !scope || !headers || !signature || !date ||
        !expires)
        return incomplete(err, "a presigned query must have X-Amz-Algorithm=AWS4-HMAC-SHA256, "
                               "-Credential, -Date, -Expires, -SignedHeaders and -Signature");
    claim->is_query = true;
    errno = 0;
    claim->expires_s = strtoll(expires, &end, 10);
    if (errno || !isdigit((unsigned char)expires[0]) || *end || claim->expires_s < 1 ||
        claim->expires_s > SIGV4_MAX_EXPIRES_S)
        return incomplete(err, "X-Amz-Expires must be between 1 and 604800 seconds");
    int r = parse_scope(scope, strlen(scope), claim, err);
    if (r == 0)
        r = parse_signed_headers(headers, strlen(headers), claim, err);
    if (r == 0)
        r = parse_signature(signature, strlen(signature), claim, err);
    return r == 0 ? parse_time(date, claim, err) : r;
}

int sigv4_parse(const struct http_request *request, struct sigv4_claim *ret_claim,
                struct error *err)
{
    const char *authorization = http_header_find(request, "authorization");
    struct sigv4_claim claim = {.is_query = false};
    struct http_query query;
    int r = 0;

    if (authorization) {
        r = parse_header_form(request, authorization, &claim, err);
    } else if (strstr(request->query, "X-Amz-")) {
        r = http_query_read(request->query, &query, err);
        if (r < 0)
            return r;
        if (http_query_find(&query, "X-Amz-Signature") ||
            http_query_find(&query, "X-Amz-Algorithm"))
            r = parse_query_form(&query, &claim, err);
        else
            r = 1;
        http_query_done(&query);
    } else {
        r = 1;
    }
    if (r == 0)
        *ret_claim = claim;
    return r;
}

/* --- the signature --------------------------------------------------------------------------- */

static void hmac(uint8_t ret[32], const void *key, size_t key_len, const void *data, size_t len)
{
    crypto_auth_hmacsha256_state state;

    crypto_auth_hmacsha256_init(&state, key, key_len);
    crypto_auth_hmacsha256_update(&state, data, len);
    crypto_auth_hmacsha256_final(&state, ret);
    sodium_memzero(&state, sizeof(state));
}

/* The chain that binds the secret to day, region and service. */
static void signing_key(const struct sigv4_claim *claim, const char *secret, uint8_t ret_key[32])
{
    static const char prefix[] = "AWS4", last[] = "aws4_request";
    char key[4 + 256];
    int len = snprintf(key, sizeof(key), "%s%s", prefix, secret);
    uint8_t step[32];

    size_t key_len = len < 0 ? 0 : (size_t)len < sizeof(key) ? (size_t)len : sizeof(key) - 1;
    hmac(step, key, key_len, claim->date, strlen(claim->date));
    hmac(step, step, sizeof(step), claim->region, strlen(claim->region));
    hmac(step, step, sizeof(step), claim->service, strlen(claim->service));
    hmac(ret_key, step, sizeof(step), last, sizeof(last) - 1);
    sodium_memzero(key, sizeof(key));
    sodium_memzero(step, sizeof(step));
}

static bool is_signed(const struct sigv4_claim *claim, const char *name)
{
    const char *p = claim->signed_headers;

    while (*p) {
        size_t len = strcspn(p, ";");

        if (strlen(name) == len && strncasecmp(name, p, len) == 0)
            return true;
        p += len + (p[len] == ';');
    }
    return false;
}

static int check_coverage(const struct http_request *request, const struct sigv4_claim *claim,
                          struct error *err)
{
    if (!is_signed(claim, "host"))
        return incomplete(err, "the header 'host' must be signed");
    for (size_t i = 0; i < request->n_headers; i++) {
        const char *name = request->headers[i].name;

        if (strncasecmp(name, "x-amz-", 6) == 0 && !is_signed(claim, name))
            return error_say(err, EINVAL, "the header '%.100s' must be signed", name);
    }
    return 0;
}

static int check_time(const struct sigv4_claim *claim, int64_t now_s, struct error *err)
{
    int64_t lifetime_s = claim->is_query ? claim->expires_s : SIGV4_SKEW_S;

    if (claim->time_s > now_s + SIGV4_SKEW_S)
        return error_say(err, ETIME, "Signature not yet current: %s is still later than now",
                         claim->time_text);
    if (claim->time_s + lifetime_s < now_s)
        return error_say(err, ETIME, "Signature expired: %s is now earlier than %lld s ago",
                         claim->time_text, (long long)lifetime_s);
    return 0;
}

/* The last line of the canonical request, as the client says that it is. 1: it does not say. */
static int said_line(const struct http_request *request, char ret_line[65], struct error *err)
{
    const char *said = http_header_find(request, "x-amz-content-sha256");

    if (!said)
        return 1;
    if (strncmp(said, "STREAMING-", 10) == 0)
        return error_say(
            err, EINVAL,
            "x-amz-content-sha256: '%.60s' is not supported here: sign the whole body, "
            "or say UNSIGNED-PAYLOAD",
            said);
    if (strcmp(said, unsigned_payload) != 0 &&
        (strlen(said) != 64 || strspn(said, DIGITS "abcdef") != 64))
        return error_say(err, EINVAL,
                         "x-amz-content-sha256 must be the body's SHA-256 in lower-case "
                         "hexadecimal, or UNSIGNED-PAYLOAD");
    memcpy(ret_line, said, strlen(said) + 1);
    return 0;
}

/* What the last line must be, if the body is the one that was signed. */
static int payload_line(const struct http_request *request, char ret_line[65], struct error *err)
{
    uint8_t digest[SHA256_BYTES];
    char said[65] = "";
    int r = said_line(request, said, err);

    if (r < 0)
        return r;
    if (strcmp(said, unsigned_payload) == 0) {
        memcpy(ret_line, unsigned_payload, sizeof(unsigned_payload));
        return 0;
    }
    r = sha256_of(request->body_bytes ? request->body : (const uint8_t *)"", request->body_bytes,
                  digest);
    if (r < 0)
        return error_set(err, -r, "hash a body");
    sha256_hex(digest, ret_line);
    if (said[0] && strcmp(said, ret_line) != 0)
        return error_say(err, EACCES,
                         "the header x-amz-content-sha256 is not the hash of the body");
    return 0;
}

static int check_signature(const struct sigv4_claim *claim, const char *secret,
                           const char *canonical, size_t canonical_len, struct error *err)
{
    uint8_t digest[32], key[32], signature[32], claimed[32];
    char hex[65], text[256];

    crypto_hash_sha256(digest, (const uint8_t *)canonical, canonical_len);
    sha256_hex(digest, hex);
    int len = snprintf(text, sizeof(text), "%s\n%s\n%s/%s/%s/aws4_request\n%s", algorithm,
                       claim->time_text, claim->date, claim->region, claim->service, hex);
    if (len < 0 || (size_t)len >= sizeof(text))
        return error_say(err, EINVAL, "the credential scope is too long");
    signing_key(claim, secret, key);
    hmac(signature, key, sizeof(key), text, (size_t)len);
    sodium_memzero(key, sizeof(key));
    sha256_from_hex(claim->signature, claimed);
    if (sodium_memcmp(signature, claimed, sizeof(signature)) != 0)
        return error_say(err, EACCES,
                         "The request signature we calculated does not match the signature you "
                         "provided. Check your access key, its secret and the signing method");
    return 0;
}

static int check_claim(const struct http_request *request, const struct sigv4_claim *claim,
                       const char *service, int64_t now_s, struct error *err)
{
    if (strcmp(claim->service, service) != 0)
        return error_say(err, EACCES, "Credential should be scoped to correct service: '%s'",
                         service);
    int r = check_coverage(request, claim, err);
    return r < 0 ? r : check_time(claim, now_s, err);
}

static int check_with_line(const struct http_request *request, const struct sigv4_claim *claim,
                           const char *secret, const char *line, struct error *err)
{
    AUTO_FREE char *canonical = NULL;
    size_t len = 0;
    int r = sigv4_canonical(request, claim, line, &canonical, &len, err);

    return r < 0 ? r : check_signature(claim, secret, canonical, len, err);
}

int sigv4_verify(const struct http_request *request, const struct sigv4_claim *claim,
                 const char *secret, const char *service, int64_t now_s, struct error *err)
{
    char line[65];
    int r = check_claim(request, claim, service, now_s, err);

    if (r == 0)
        r = payload_line(request, line, err);
    return r < 0 ? r : check_with_line(request, claim, secret, line, err);
}

int sigv4_verify_head(const struct http_request *request, const struct sigv4_claim *claim,
                      const char *secret, const char *service, int64_t now_s, struct error *err)
{
    char line[65];
    int r = check_claim(request, claim, service, now_s, err);

    if (r == 0)
        r = said_line(request, line, err);
    return r != 0 ? r : check_with_line(request, claim, secret, line, err);
}
