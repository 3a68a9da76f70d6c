/* Bodies of requests: see http_body.h. */
#include "http_body.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/fd.h"

enum {
    FIRST_BYTES = 16 << 10,
    SPOOL_FROM_BYTES = 1 << 20,
    SPOOL_STEP_BYTES = 1 << 20, /* of the disk's budget that is taken at once */
};

void http_body_init(struct http_body *body, struct http_body_room *room,
                    const struct byte_owner *owner, bool may_spool)
{
    *body = (struct http_body){.room = room,
                               .owner = *owner,
                               .may_spool = may_spool && room->directory != NULL,
                               .file = -1};
}

static struct byte_budget *budget_of(struct http_body *body)
{
    return body->file < 0 ? &body->room->memory : &body->room->disk;
}

/* The budget holds @bytes for this body, more or less than until now. */
static int reserve(struct http_body *body, size_t bytes)
{
    struct byte_budget *budget = budget_of(body);
    int r = 0;

    if (bytes > body->reserved_bytes)
        r = byte_budget_take(budget, &body->owner, bytes - body->reserved_bytes);
    else
        byte_budget_give(budget, &body->owner, body->reserved_bytes - bytes);
    if (r == 0)
        body->reserved_bytes = bytes;
    return r;
}

static int append_to_memory(struct http_body *body, const void *data, size_t len,
                            uint64_t announced)
{
    size_t need = body->used_bytes + len;
    size_t size = body->reserved_bytes ? body->reserved_bytes : FIRST_BYTES;

    if (need > body->reserved_bytes) {
        while (size < need)
            size *= 2;
        if (announced >= need && announced < size)
            size = announced;
        int r = reserve(body, size);
        if (r < 0)
            return r;
        uint8_t *grown = realloc(body->data, size);
        if (!grown)
            return -ENOMEM;
        body->data = grown;
    }
    memcpy(body->data + body->used_bytes, data, len);
    body->used_bytes = need;
    return 0;
}

static int append_to_file(struct http_body *body, const void *data, size_t len)
{
    size_t need = body->used_bytes + len;

    if (need > body->reserved_bytes) {
        int r = reserve(body, (need / SPOOL_STEP_BYTES + 1) * SPOOL_STEP_BYTES);

        if (r < 0)
            return r;
    }
    int r = fd_write_all(body->file, data, len);
    if (r == 0)
        body->used_bytes = need;
    return r;
}

/* What came until now goes to a file that nobody else can open. */
static int spool(struct http_body *body)
{
    AUTO_FREE uint8_t *data = body->data;
    size_t len = body->used_bytes;
    int fd = open(body->room->directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    body->data = NULL;
    if (fd < 0) {
        int e = errno;

        (void)reserve(body, 0);
        return -e;
    }
    (void)reserve(body, 0);
    body->file = fd;
    body->used_bytes = 0;
    return append_to_file(body, data, len);
}

int http_body_append(struct http_body *body, const void *data, size_t len_bytes,
                     uint64_t announced_bytes)
{
    int r = 0;

    if (body->may_spool && body->file < 0 &&
        (announced_bytes > SPOOL_FROM_BYTES || body->used_bytes + len_bytes > SPOOL_FROM_BYTES))
        r = spool(body);
    if (r < 0)
        return r;
    return body->file < 0 ? append_to_memory(body, data, len_bytes, announced_bytes)
                          : append_to_file(body, data, len_bytes);
}

int http_body_end(struct http_body *body, const uint8_t **ret_data)
{
    if (body->file >= 0 && body->used_bytes > 0) {
        void *map = mmap(NULL, body->used_bytes, PROT_READ, MAP_PRIVATE, body->file, 0);

        if (map == MAP_FAILED)
            return -errno;
        body->data = map;
        body->is_mapped = true;
    }
    *ret_data = body->data;
    return 0;
}

void http_body_done(struct http_body *body)
{
    if (!body->room)
        return;
    if (body->is_mapped)
        munmap(body->data, body->used_bytes);
    else
        free(body->data);
    (void)reserve(body, 0);
    if (body->file >= 0)
        close(body->file);
    *body = (struct http_body){.file = -1};
}
