/*
 * An HTTP client that takes the time: one connection, kept open. Process: the CLI. Input: the
 * daemon's answers; bounded. Threads: one at a time per client.
 */
#ifndef MAYFLY_CLI_BENCH_CLIENT_H
#define MAYFLY_CLI_BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct bench_client;

enum bench_start { BENCH_START_UNKNOWN, BENCH_WARM, BENCH_RESTORED, BENCH_COLD };

/* An answer. */
struct bench_answer {
    unsigned status;
    uint64_t wall_us; /* request about to be sent, to the first byte of the answer */
    /* What Server-Timing says of an invocation; else 0. */
    enum bench_start start;
    uint64_t acquire_us, guest_us;
    const char *body; /* borrowed until the next call; a 0 after it */
    size_t body_bytes;
};

/* bench_client_new - @url: "http://127.0.0.1:9555", copied. Connects with the first call. */
int bench_client_new(const char *url, struct bench_client **ret_client, struct error *err);
void bench_client_free(struct bench_client *client); /* takes NULL */

/*
 * bench_client_call - one request and its answer, whatever its status. @body: JSON, NULL for none.
 * @header: one more header ("X-Amz-Invocation-Type: DryRun"), or NULL.
 */
int bench_client_call(struct bench_client *client, const char *method, const char *path,
                      const char *body, const char *header, struct bench_answer *ret_answer,
                      struct error *err);

/* bench_client_invoke - the function @name with the event @body; anything but a good result is an
 * error. */
int bench_client_invoke(struct bench_client *client, const char *name, const char *body,
                        struct bench_answer *ret_answer, struct error *err);

struct bench_signature {
    char authorization[512];
    char date[32]; /* X-Amz-Date */
};

/* bench_client_sign - sends a dry invocation of @name signed with the key, and gives the signature,
 * good for five minutes. */
int bench_client_sign(struct bench_client *client, const char *name, const char *key_id,
                      const char *secret, struct bench_signature *ret_signature, struct error *err);

/* bench_client_parse_timing - the value of Server-Timing; what is not there stays. Pure. */
void bench_client_parse_timing(const char *value, struct bench_answer *answer);

#endif
