/* Streamed responses of function URLs: see function_url_stream.h. */
#include "function_url_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "function_url.h"

enum { PRELUDE_END_BYTES = 8 };

static const char prelude_type[] = "application/vnd.awslambda.http-integration-response";
static const uint8_t prelude_end[PRELUDE_END_BYTES];

void url_stream_init(struct url_stream *stream, struct api_turn *turn)
{
    *stream = (struct url_stream){.turn = turn};
}

/* The head is complete: from here on the response is the server's. */
static int begin(struct url_stream *stream)
{
    struct api_turn *turn = stream->turn;

    if (stream_pipe_new(&stream->pipe) < 0)
        return -ENOMEM;
    turn->response->stream = &stream_pipe_ops;
    turn->response->stream_opaque = stream->pipe;
    (void)http_response_header(turn->response, "x-amzn-RequestId", turn->request_id);
    atomic_fetch_add(&turn->api->answers[turn->response->status / 100], 1);
    turn->response = NULL;
    http_turn_begin(turn->http);
    return 0;
}

static int begin_plain(struct url_stream *stream, const char *content_type)
{
    stream->turn->response->status = 200;
    (void)http_response_header(stream->turn->response, "Content-Type", content_type);
    return begin(stream);
}

/* Where the prelude ends in what has come of it; -1: not yet. */
static ptrdiff_t find_end(const struct url_stream *stream, size_t from)
{
    const uint8_t *found = memmem(stream->prelude + from, stream->prelude_bytes - from, prelude_end,
                                  sizeof(prelude_end));

    return found ? found - stream->prelude : -1;
}

/* Bytes of the prelude; what is beyond it stays in @part. */
static int add_prelude(struct url_stream *stream, struct response_part *part)
{
    size_t before = stream->prelude_bytes;
    size_t room = URL_PRELUDE_MAX_BYTES - before;
    size_t n = part->len_bytes < room ? part->len_bytes : room;
    size_t look = before < PRELUDE_END_BYTES ? 0 : before - (PRELUDE_END_BYTES - 1);

    if (!stream->prelude)
        stream->prelude = malloc(URL_PRELUDE_MAX_BYTES);
    if (!stream->prelude)
        return -ENOMEM;
    if (n > 0)
        memcpy(stream->prelude + before, part->data, n);
    stream->prelude_bytes += n;
    ptrdiff_t end = find_end(stream, look);
    if (end < 0) {
        part->len_bytes = 0;
        return stream->prelude_bytes == URL_PRELUDE_MAX_BYTES ? -EBADMSG : 0;
    }
    if (function_url_head((const char *)stream->prelude, (size_t)end, stream->turn->response) < 0)
        return -EBADMSG;
    size_t used = (size_t)end + PRELUDE_END_BYTES - before;
    part->data = (const uint8_t *)part->data + used;
    part->len_bytes -= used;
    return begin(stream);
}

int url_stream_part(void *opaque, const struct response_part *part)
{
    struct url_stream *stream = opaque;
    struct response_part rest = *part;
    int r = 0;

    stream->has_parts = true;
    if (part->content_type && strcasecmp(part->content_type, prelude_type) != 0)
        r = begin_plain(stream, part->content_type);
    else if (!stream->pipe)
        r = add_prelude(stream, &rest);
    if (r == 0 && stream->pipe && rest.len_bytes > 0)
        r = stream_pipe_write(stream->pipe, rest.data, rest.len_bytes, part->deadline_ns);
    stream->is_torn = stream->is_torn || r < 0;
    return r;
}

int url_stream_end(struct url_stream *stream, bool is_whole)
{
    free(stream->prelude);
    stream->prelude = NULL;
    if (!stream->pipe)
        return -EBADMSG;
    stream_pipe_end(stream->pipe, stream->is_torn || !is_whole);
    return 0;
}
