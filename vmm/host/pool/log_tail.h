/* The last bytes of a function's output: Lambda's X-Amz-Log-Result has 4 KiB of it. */
#ifndef MAYFLY_HOST_POOL_LOG_TAIL_H
#define MAYFLY_HOST_POOL_LOG_TAIL_H

#include <stddef.h>
#include <string.h>

enum { LOG_TAIL_BYTES = 4096 };

/* A zeroed object is empty. */
struct log_tail {
    size_t len_bytes;
    char bytes[LOG_TAIL_BYTES]; /* as the function wrote them: any bytes */
};

static inline void log_tail_add(struct log_tail *tail, const void *data, size_t len_bytes)
{
    const char *from = data;

    if (len_bytes > LOG_TAIL_BYTES) {
        from += len_bytes - LOG_TAIL_BYTES;
        len_bytes = LOG_TAIL_BYTES;
    }
    size_t kept =
        tail->len_bytes < LOG_TAIL_BYTES - len_bytes ? tail->len_bytes : LOG_TAIL_BYTES - len_bytes;
    memmove(tail->bytes, tail->bytes + tail->len_bytes - kept, kept);
    memcpy(tail->bytes + kept, from, len_bytes);
    tail->len_bytes = kept + len_bytes;
}

#endif
