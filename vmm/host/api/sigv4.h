/*
 * AWS Signature Version 4, the verifying side: header form and presigned-query form.
 *
 *   sigv4_parse() reads who claims to have signed (cheap: before the body is there)
 *   sigv4_verify() computes the signature anew with that key's secret and compares
 *
 * Trust: all of the request is hostile until sigv4_verify() returned 0. Invariants: "host" and each
 * x-amz-* header present are signed; the body is the one that was signed, unless the client said
 * UNSIGNED-PAYLOAD; the comparison takes the same time whatever differs. Threads: any.
 * Source: "Signature Version 4 signing process", AWS General Reference; for the path, that every
 * service but S3 signs the encoded path encoded once more, dot segments removed.
 */
#ifndef MAYFLY_HOST_API_SIGV4_H
#define MAYFLY_HOST_API_SIGV4_H

#include "http_message.h"

enum {
    SIGV4_SKEW_S = 300,
    SIGV4_MAX_EXPIRES_S = 604800, /* of a presigned query */
    SIGV4_KEY_ID_BYTES = 129,
    SIGV4_REGION_BYTES = 65,
    SIGV4_MAX_SIGNED = 64, /* headers */
};

struct sigv4_claim {
    bool is_query;
    char key_id[SIGV4_KEY_ID_BYTES];
    char date[9]; /* of the scope: YYYYMMDD */
    char region[SIGV4_REGION_BYTES];
    char service[33];
    char time_text[17]; /* YYYYMMDDTHHMMSSZ */
    int64_t time_s;     /* the same, since 1970 */
    int64_t expires_s;  /* presigned: how long from then; else 0 */
    char signature[65]; /* 64 lower-case hexadecimal digits */
    char signed_headers[1024];
};

/*
 * sigv4_parse - the claim of @request, whose body need not be there yet.
 * Returns 0, 1 if it carries no signature at all, or -EINVAL (IncompleteSignatureException).
 */
int sigv4_parse(const struct http_request *request, struct sigv4_claim *ret_claim,
                struct error *err);

/*
 * sigv4_verify - @secret: of the claim's key. @service: the scope must name it. @now_s: since 1970.
 * Within its time the same request may come again: clients repeat what got no answer.
 * Returns 0, -EINVAL (incomplete: something needed is not signed), -ETIME (too old or too new),
 * -EACCES (another signature or another body), -ENOMEM.
 */
int sigv4_verify(const struct http_request *request, const struct sigv4_claim *claim,
                 const char *secret, const char *service, int64_t now_s, struct error *err);

/*
 * sigv4_verify_head - what can be said before the body is there: as sigv4_verify(), where the
 * request says its body's hash (x-amz-content-sha256). That the body has this hash is for
 * sigv4_verify() to say.
 * Returns 0, 1 where everything but the signature is right, which needs the body; else as above.
 */
int sigv4_verify_head(const struct http_request *request, const struct sigv4_claim *claim,
                      const char *secret, const char *service, int64_t now_s, struct error *err);

#endif
