/* Answers of the API: see api_internal.h. */
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

void api_reply_bytes(struct api_turn *turn, unsigned status, const char *content_type, void *data,
                     size_t len_bytes)
{
    struct http_response *response = turn->response;

    free(response->body);
    response->status = status;
    response->body = data;
    response->body_bytes = data ? len_bytes : 0;
    (void)http_response_header(response, "Content-Type", content_type);
}

void api_reply_file(struct api_turn *turn, unsigned status, const char *content_type, int file,
                    uint64_t len_bytes)
{
    struct http_response *response = turn->response;

    http_response_done(response);
    response->status = status;
    response->has_file = true;
    response->file = file;
    response->file_bytes = len_bytes;
    (void)http_response_header(response, "Content-Type", content_type);
}

void api_reply_json(struct api_turn *turn, unsigned status, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    if (text)
        api_reply_bytes(turn, status, "application/json", text, strlen(text));
    else
        turn->response->status = 500; /* no memory for words either */
}

void api_reply_page(struct api_turn *turn, const char *name, json_t *items, const char *next_marker)
{
    json_t *object = json_pack("{s:o}", name, items);

    if (next_marker[0])
        (void)json_object_set_new(object, "NextMarker", json_string(next_marker));
    api_reply_json(turn, 200, object);
}

void api_reply_empty(struct api_turn *turn, unsigned status)
{
    turn->response->status = status;
}

void api_changed(struct api_turn *turn, const char *function)
{
    const struct api_options *options = &turn->api->options;

    if (options->backend->changed)
        options->backend->changed(options->backend_opaque, turn->tenant, function);
}
