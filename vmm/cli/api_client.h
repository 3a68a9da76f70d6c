/*
 * A client of mayflyd's HTTP API, over libcurl: on its Unix socket, unsigned, or at a URL, signed
 * with an access key. Process: the CLI. One thread. What the daemon answers is bounded.
 */
#ifndef MAYFLY_CLI_API_CLIENT_H
#define MAYFLY_CLI_API_CLIENT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { API_REPLY_MAX_BYTES = 64 << 20 };

struct api_client;

struct api_client_options {
    const char *endpoint; /* http://host:port or https://…; NULL: the socket */
    const char *socket;   /* path of the Unix socket, where there is no endpoint */
    const char *state;    /* the state directory: for advice in messages */
    const char *tenant;   /* on the socket: whose functions; NULL: the default tenant's */
    const char *key_id, *secret, *region; /* at an endpoint; key_id NULL: unsigned */
    int interrupt_fd;                     /* readable: calls give way with -EINTR; -1: none */
};

/* api_client_new - all of @options is copied. Connects to nobody yet. */
int api_client_new(const struct api_client_options *options, struct api_client **ret_client,
                   struct error *err);
void api_client_free(struct api_client *client); /* takes NULL */

struct api_request {
    const char *method; /* a literal: "GET" */
    const char *path;   /* from "/" on, encoded; with its query, names in ASCII order */
    const void *body;   /* borrowed; NULL: none */
    size_t body_bytes;
    const char *const *headers; /* "Name: value", ends with NULL; or NULL */
    /* Called with the body of a good answer as it comes, which is then not kept. Not 0: stop, with
     * this -errno. */
    int (*on_data)(void *opaque, const void *data, size_t len_bytes);
    void *opaque;
};

struct api_reply {
    long status;
    uint8_t *body; /* owned: api_reply_done(); a 0 is after it */
    size_t body_bytes;
};

/*
 * api_client_call - returns 0 with an answer of status 200 to 299. Else -errno and err->text says
 * who, what and what to do:
 *   -EHOSTDOWN nobody answers there, -EACCES not allowed (or no rights on the socket), -EINTR,
 *   -ENOENT 404, -EINVAL 400, -E2BIG 413, -EBUSY 409, -EAGAIN 429, -EIO other failures.
 */
int api_client_call(struct api_client *client, const struct api_request *request,
                    struct api_reply *ret_reply, struct error *err);
void api_reply_done(struct api_reply *reply);

/* api_client_header - of the last answer, whatever its status; NULL: not there. Borrowed until the
 * next call. */
const char *api_client_header(struct api_client *client, const char *name);

/*
 * api_client_json - a call whose bodies are JSON. @body (taken over, may be NULL) is sent.
 * *ret_object is owned; NULL where the answer is empty. @ret_object may be NULL.
 */
int api_client_json(struct api_client *client, const char *method, const char *path, json_t *body,
                    json_t **ret_object, struct error *err);

/* api_path - @format printed with its %s arguments encoded for a URL, into @to. -ENAMETOOLONG. */
int api_path(char *to, size_t size, struct error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
