/* The whole API over real sockets: a registry of its own, a backend that answers by the event. */
#ifndef MAYFLY_TESTS_API_FIXTURE_H
#define MAYFLY_TESTS_API_FIXTURE_H

#include <jansson.h>

#include "host/api/api.h"
#include "host/observe/log_store.h"
#include "http_client.h"
#include "registry_fixture.h"

struct api_fixture {
    struct registry_fixture store;
    struct event_queue *queue;
    struct log_store *logs;
    struct api *api;
    struct http_server *server;
    char socket_path[96];
    int fd; /* to the Unix socket: unsigned, tenant alice */
};

/* What the backend was last asked. */
struct seen_invocation {
    char name[FUNCTION_NAME_MAX + 1], version[VERSION_TEXT_BYTES], client_context[256];
    char trace_id[128], invoked_arn[256], payload[8192];
    size_t payload_bytes;
    int count;
    bool is_unready;
};

extern struct seen_invocation fixture_seen;

/* The time that the API believes it is; 0: the real one. */
extern int64_t fixture_api_now_s;

extern const char fixture_key_id[], fixture_secret[]; /* alice's */

int api_fixture_set_up(void **state);
int api_fixture_tear_down(void **state);

/* An answer, read: status, and its body as JSON (NULL where it is none). */
struct api_answer {
    struct http_answer http;
    json_t *json;
};

/*
 * call - one request over the Unix socket; @headers: lines each ending in \r\n, or NULL.
 * call_on - over any connection. Both fail the test where there is no answer.
 */
void call(struct api_fixture *fixture, const char *method, const char *target, const char *headers,
          const char *body, struct api_answer *ret_answer);
void call_on(int fd, const char *method, const char *target, const char *headers, const void *body,
             size_t len, struct api_answer *ret_answer);
void api_answer_done(struct api_answer *answer);

/* expect - call, and check status and (unless NULL) the error's name; text it must say, or NULL. */
void expect_error(struct api_fixture *fixture, const char *method, const char *target,
                  const char *headers, const char *body, int status, const char *type,
                  const char *words);

/* expect_ok - call, check the status, give the body (json_decref() it; NULL where it is empty). */
json_t *expect_ok(struct api_fixture *fixture, const char *method, const char *target,
                  const char *body, int status);

/* text_of - a member as text; the test fails where it is not there. Dots go down: "A.B". */
const char *text_of(const json_t *object, const char *path);
int64_t number_of(const json_t *object, const char *path);

/* deploy - a function through the API, made Active. */
void deploy(struct api_fixture *fixture, const char *name);

/* create_body - CreateFunction's body with a real zip; @more: further members (", \"A\": 1") or "".
 * free() it. */
char *create_body(const char *name, const char *more);

/* sign - an Authorization and X-Amz-Date header line pair for a request. free() it. */
char *sign(const char *method, const char *path, const char *query, const char *host,
           const char *body, const char *key_id, const char *secret, int64_t at_s);

/* sign_payload - as sign(), with X-Amz-Content-Sha256: @said in place of a body's hash. */
char *sign_payload(const char *method, const char *path, const char *said, const char *key_id,
                   const char *secret, int64_t at_s);

#endif
