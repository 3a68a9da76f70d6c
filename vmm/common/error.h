/*
 * Errors: a callee fills the caller's fixed-size object, callers wrap it on the way up, the
 * process root prints it once. Nothing here allocates, so running out of memory can be reported.
 */
#ifndef MAYFLY_COMMON_ERROR_H
#define MAYFLY_COMMON_ERROR_H

#include <stdarg.h>

struct error {
    int code;       /* a positive errno value, 0 when no error is set */
    char text[640]; /* one line, no newline, always terminated */
};

/*
 * error_set - say what failed: "<message>: <strerror(code)>".
 * @err: may be NULL. @code: a positive errno value; anything else counts as EIO.
 * Returns -code, so that `return error_set(err, errno, "open '%s'", path);` is the idiom.
 */
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* error_say - as error_set(), but the message stands alone: for what errno's words do not help. */
int error_say(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* error_wrap - put "<message>: " before what @err already says. Returns -err->code. */
int error_wrap(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));

#endif
