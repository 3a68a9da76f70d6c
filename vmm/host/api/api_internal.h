/* Shared by the API's own files (api*.c, handle_*.c, function_url*.c) only. */
#ifndef MAYFLY_HOST_API_API_INTERNAL_H
#define MAYFLY_HOST_API_API_INTERNAL_H

#include <jansson.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "api.h"
#include "host/instance/identity.h"
#include "host/store/registry_attached.h"
#include "rate_limit.h"
#include "router.h"
#include "trusted_proxies.h"

enum { API_UPLOAD_OWNERS = 256 }; /* tenants by hash */

struct api_key_entry {
    char *id, *secret, *tenant; /* owned */
};

struct api {
    struct api_options options; /* texts below replace its pointers */
    char *region, *default_tenant, *public_url;
    struct api_key_entry *keys; /* owned; sorted by id */
    size_t n_keys;
    struct trusted_proxies *proxies; /* owned, as the next */
    struct rate_limit *rate;
    sem_t uploads; /* how many large ones may be taken apart at once: see handle_code.h */
    atomic_uint waiting_uploads[API_UPLOAD_OWNERS]; /* for that, by tenant */
    uint8_t link_key[32];                           /* signs links to code; new with each start */
    atomic_uint_fast64_t answers[6];
};

/* A request on its way through a handler; all borrowed but for query. */
struct api_turn {
    struct api *api;
    const struct http_request *request;
    struct http_response *response;
    struct http_turn *http;
    struct route_match match;
    struct http_query query; /* owned by the dispatcher */
    char request_id[REQUEST_ID_BYTES];
    char tenant[FUNCTION_NAME_MAX + 1]; /* "" in routes without authentication */
    char account_id[ACCOUNT_ID_BYTES];
    const struct api_key_entry *key; /* that it claims to be signed with; NULL: unsigned */
};

typedef void api_handler(struct api_turn *turn);

enum api_flags {
    API_PUBLIC = 1 << 0,  /* anybody may ask */
    API_INVOKES = 1 << 1, /* concurrency bounds it, not the rate */
};

struct api_operation {
    const char *name;
    api_handler *handle;
    enum http_lane lane;
    size_t body_limit;
    unsigned flags;
};

extern const struct route api_routes[]; /* their targets are struct api_operation */
extern const size_t api_n_routes;

/* --- api_error.c: Lambda's exceptions --- */

enum api_exception {
    API_INVALID_PARAMETER,
    API_VALIDATION,
    API_INVALID_CONTENT,
    API_NOT_FOUND,
    API_CONFLICT,
    API_TOO_MANY_REQUESTS,
    API_TOO_LARGE,
    API_HEAD_TOO_LARGE,
    API_BAD_HEAD,
    API_CODE_STORAGE,
    API_POLICY_LENGTH,
    API_PRECONDITION,
    API_SERVICE,
    API_UNAVAILABLE,
    API_NO_PROVISIONED,
    API_NOT_READY,
    API_UNKNOWN_OPERATION,
    API_METHOD_NOT_ALLOWED,
    API_BAD_SIGNATURE,
    API_INCOMPLETE_SIGNATURE,
    API_UNKNOWN_KEY,
    API_MISSING_TOKEN,
    API_ACCESS_DENIED,
};

/* api_fail - answer with @exception and a message for the client. Always returns -1. */
int api_fail(struct api_turn *turn, enum api_exception exception, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* api_fail_throttled - TooManyRequestsException with its Reason. Returns -1. */
int api_fail_throttled(struct api_turn *turn, const char *reason);

/* api_fail_errno - what the registry's @r and @err are to a client (registry.h). Returns -1. */
int api_fail_errno(struct api_turn *turn, int r, const struct error *err);

/* api_fail_function - as above, where -ENOENT means @key's function (or its version or alias). */
int api_fail_function(struct api_turn *turn, int r, const struct function_key *key,
                      const struct error *err);

/* --- api_reply.c: answers --- */

/* api_reply_json - @object is taken over; NULL is a lack of memory. */
void api_reply_json(struct api_turn *turn, unsigned status, json_t *object);
/* api_reply_page - of a listing: @items (taken over) under @name, and the marker unless it is "".
 */
void api_reply_page(struct api_turn *turn, const char *name, json_t *items,
                    const char *next_marker);
void api_reply_empty(struct api_turn *turn, unsigned status);
/* api_reply_bytes - @data (owned by the heap) is taken over. */
void api_reply_bytes(struct api_turn *turn, unsigned status, const char *content_type, void *data,
                     size_t len_bytes);
/* api_reply_file - @file (owned) is taken over: its first @len_bytes are the body. */
void api_reply_file(struct api_turn *turn, unsigned status, const char *content_type, int file,
                    uint64_t len_bytes);
/* api_changed - tell the backend that @function was changed. */
void api_changed(struct api_turn *turn, const char *function);

/* --- api_input.c: what a client sent; each function answers itself where it fails (-1) --- */

/* Whose function: names are checked, accounts compared. */
struct api_target {
    struct function_key key; /* borrows from reference and the turn */
    struct function_reference reference;
};

enum api_qualifier {
    API_QUALIFIER_NONE,     /* a function as a whole: one in the name is refused */
    API_QUALIFIER_OPTIONAL, /* in the name or ?Qualifier= */
    API_QUALIFIER_REQUIRED,
};

int api_read_target(struct api_turn *turn, enum api_qualifier qualifier,
                    struct api_target *ret_target);
int api_read_reference(struct api_turn *turn, const char *text, struct api_target *ret_target);

/* api_read_object - the body as a JSON object; an empty body is an empty object. */
int api_read_object(struct api_turn *turn, json_t **ret_object);

/* api_check_shape - types of the members that this host has no use for (api_shape.c). */
int api_check_shape(struct api_turn *turn, const json_t *object);

/* Members: absent or null leaves *ret_… alone and returns 0; else 1, or -1. Texts are borrowed. */
int api_take_text(struct api_turn *turn, const json_t *object, const char *member,
                  const char **ret_text);
int api_take_integer(struct api_turn *turn, const json_t *object, const char *member,
                     int64_t *ret_value);
int api_take_boolean(struct api_turn *turn, const json_t *object, const char *member,
                     bool *ret_value);
int api_take_object(struct api_turn *turn, const json_t *object, const char *member,
                    const json_t **ret_object);
/* api_take_pairs - an object of texts. *ret_pairs is owned (one block; texts borrowed). */
int api_take_pairs(struct api_turn *turn, const json_t *object, const char *member,
                   struct text_pair **ret_pairs, size_t *ret_n);
/* api_require - -1 after answering, where @value is NULL. */
int api_require(struct api_turn *turn, const void *value, const char *member);

/* api_read_page - ?Marker= and ?MaxItems=. */
int api_read_page(struct api_turn *turn, const char **ret_marker, int64_t *ret_max_items);

/* --- api_json.c: what Lambda's shapes look like --- */

enum { API_ARN_BYTES = 512, API_TIME_BYTES = 40, API_URL_BYTES = 320 };

/* @qualifier: NULL or "" for none. */
void api_function_arn(const struct api *api, const char *account_id, const char *name,
                      const char *qualifier, char ret_arn[API_ARN_BYTES]);
/* 2026-01-31T12:00:00.000+0000 */
void api_time_text(uint64_t ms, char ret_text[API_TIME_BYTES]);
/* api_function_json - a FunctionConfiguration; its ARN ends in @qualifier, unless that is NULL. */
json_t *api_function_json(const struct api *api, const struct function *function,
                          const char *qualifier);
/* api_base_url - "http://host:port" as the client sees us. */
void api_base_url(const struct api_turn *turn, char ret_url[API_URL_BYTES]);

/* api_user_arn - who asks, as the ARN of an IAM user named as the tenant. */
void api_user_arn(const struct api_turn *turn, char *ret_arn, size_t size);

/* --- api_auth.c --- */

/* api_authenticate - fills the turn's tenant, or answers (-1). @service: of the signature's scope.
 */
int api_authenticate(struct api_turn *turn, const char *service);
/* api_take_rate - one more request of the turn's tenant; -1: too many, answered. */
int api_take_rate(struct api_turn *turn);
/* api_authenticate_head - the body is not there yet: all that can be said without it, and who is to
 * answer for its memory. Answers itself (-1) where the request would be refused anyway. */
int api_authenticate_head(struct api_turn *turn, struct byte_owner *ret_owner);
/* api_owner_id - a name as a number, for struct byte_owner. */
uint32_t api_owner_id(const char *name);
const struct api_key_entry *api_find_key(const struct api *api, const char *id);

/* --- code_link.c: Code.Location of GetFunction --- */

void api_code_link(const struct api_turn *turn, const struct function *function, char *ret_link,
                   size_t size);

/* --- stream_pipe.c: a body that a handler writes while the server sends it --- */

struct stream_pipe;

extern const struct http_stream_ops stream_pipe_ops;

/* stream_pipe_new - two references: the writer's and the server's (stream_pipe_ops.close). */
int stream_pipe_new(struct stream_pipe **ret_pipe);
/* stream_pipe_write - waits while the client is behind, at the longest until @deadline_ns
 * (CLOCK_MONOTONIC): -ETIMEDOUT. -EPIPE: it is gone. */
int stream_pipe_write(struct stream_pipe *pipe, const void *data, size_t len_bytes,
                      uint64_t deadline_ns);
/* stream_pipe_end - no more; drops the writer's reference. @broken: cut the connection. */
void stream_pipe_end(struct stream_pipe *pipe, bool broken);

/* --- function_url.c --- */

/* function_url_is_host - is the Host header that of a function URL? Then any path is the
 * function's. */
bool function_url_is_host(const struct http_request *request);
api_handler handle_function_url;

/* --- handlers, one file a resource --- */

api_handler handle_create_function, handle_get_function, handle_get_configuration,
    handle_list_functions, handle_update_code, handle_update_configuration, handle_delete_function;
api_handler handle_publish_version, handle_list_versions;
api_handler handle_create_alias, handle_get_alias, handle_update_alias, handle_delete_alias,
    handle_list_aliases;
api_handler handle_put_concurrency, handle_get_concurrency, handle_delete_concurrency;
api_handler handle_put_provisioned, handle_get_provisioned, handle_delete_provisioned;
api_handler handle_create_url, handle_get_url, handle_update_url, handle_delete_url,
    handle_list_urls;
api_handler handle_list_tags, handle_tag, handle_untag;
api_handler handle_account_settings;
api_handler handle_add_permission, handle_get_policy, handle_remove_permission;
api_handler handle_get_code_signing, handle_delete_code_signing, handle_refuse_code_signing,
    handle_list_code_signing;
api_handler handle_get_runtime_management, handle_put_runtime_management, handle_get_recursion,
    handle_put_recursion;
api_handler handle_list_event_sources, handle_refuse_event_source, handle_not_there;
api_handler handle_list_layers, handle_list_layer_versions, handle_refuse_layer,
    handle_delete_layer;
api_handler handle_sts;
api_handler handle_put_event_config, handle_update_event_config, handle_get_event_config,
    handle_delete_event_config, handle_list_event_configs;
api_handler handle_invoke, handle_invoke_stream, handle_invoke_async;
api_handler handle_health, handle_ready, handle_metrics, handle_code_link;
api_handler handle_logs, handle_delete_logs, handle_log_events;

#endif
