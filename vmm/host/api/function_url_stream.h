/*
 * A function URL's streamed response: what HttpResponseStream.from() wrote first, a JSON object and
 * eight zero bytes, is its head; a stream of another content type has none, and is the body as it
 * is. Used by function_url.c, on one thread. Trust: all that comes is the function's.
 * Source: "Response streaming for Lambda functions"; application/vnd.awslambda.
 * http-integration-response.
 */
#ifndef MAYFLY_HOST_API_FUNCTION_URL_STREAM_H
#define MAYFLY_HOST_API_FUNCTION_URL_STREAM_H

#include "api_internal.h"

enum { URL_PRELUDE_MAX_BYTES = 64 << 10 };

struct url_stream {
    struct api_turn *turn;
    struct stream_pipe *pipe; /* NULL: the head is not complete yet */
    bool has_parts;           /* it is a stream */
    bool is_torn;             /* no more can be written */
    uint8_t *prelude;         /* owned; what has come of it */
    size_t prelude_bytes;
};

void url_stream_init(struct url_stream *stream, struct api_turn *turn);

/* url_stream_part - a response_part_fn; @opaque is the stream. */
int url_stream_part(void *opaque, const struct response_part *part);

/*
 * url_stream_end - after the last part. @is_whole: the function ended well; else the connection is
 * cut, for that is all that can be said. -EBADMSG: nothing was answered yet, as no head has come.
 */
int url_stream_end(struct url_stream *stream, bool is_whole);

#endif
