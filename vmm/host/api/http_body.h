/*
 * A request's body as it comes in: in memory while it is small, in a file without a name once it
 * may become large (code), so that uploads take the disk's room and not that of instances.
 *
 *   http_body_init() → http_body_append()… → http_body_end() → what it gave is there until
 * http_body_done()
 *
 * Trust: what is announced is a hint where to end, never a reason to take more than came; the
 * caller has bounded the body itself. Threads: one at a time.
 */
#ifndef MAYFLY_HOST_API_HTTP_BODY_H
#define MAYFLY_HOST_API_HTTP_BODY_H

#include "byte_budget.h"
#include "common/error.h"

/* Where bodies may lie; shared by all of a server. */
struct http_body_room {
    struct byte_budget memory, disk;
    const char *directory; /* of the files; NULL: everything in memory. Borrowed */
};

struct http_body {
    struct http_body_room *room; /* borrowed */
    struct byte_owner owner;
    bool may_spool;
    int file;              /* owned; -1: in memory */
    uint8_t *data;         /* owned: heap or, once ended, a mapping of the file */
    size_t used_bytes;     /* of the body */
    size_t reserved_bytes; /* taken from the budget */
    bool is_mapped;
};

/* @may_spool: it may become a file. */
void http_body_init(struct http_body *body, struct http_body_room *room,
                    const struct byte_owner *owner, bool may_spool);
/* http_body_append - @announced_bytes: of the whole body, 0 if not known. Returns 0, -ENOBUFS (no
 * budget), -ENOMEM, or what writing the file gave (-ENOSPC, …). */
int http_body_append(struct http_body *body, const void *data, size_t len_bytes,
                     uint64_t announced_bytes);
/* http_body_end - all is there; *ret_data is borrowed until http_body_done(). */
int http_body_end(struct http_body *body, const uint8_t **ret_data);
/* http_body_done - frees it, gives the budget back; the body is empty then. */
void http_body_done(struct http_body *body);

#endif
