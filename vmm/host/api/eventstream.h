/*
 * Frames of application/vnd.amazon.eventstream, as InvokeWithResponseStream answers with.
 * A frame: total length, headers' length, CRC-32 of these two; headers; payload; CRC-32 of all
 * before it. All numbers big-endian. Source: "Event Stream Encoding", Amazon Transcribe developer
 * guide and the AWS SDKs' specification.
 */
#ifndef MAYFLY_HOST_API_EVENTSTREAM_H
#define MAYFLY_HOST_API_EVENTSTREAM_H

#include <stddef.h>
#include <stdint.h>

enum { EVENTSTREAM_PAYLOAD_MAX = 1 << 20 }; /* of one frame; longer contents take several */

/*
 * eventstream_frame - an event with the headers :message-type "event", :event-type @type and
 * :content-type @content_type. *ret_frame is owned.
 * Returns 0, -EMSGSIZE over EVENTSTREAM_PAYLOAD_MAX or 255 characters in a header, or -ENOMEM.
 */
int eventstream_frame(const char *type, const char *content_type, const void *payload,
                      size_t len_bytes, uint8_t **ret_frame, size_t *ret_len_bytes);

#endif
