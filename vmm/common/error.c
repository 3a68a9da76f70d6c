/* Errors without allocation: see error.h. */
#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int usable_code(int code)
{
    return code > 0 ? code : EIO;
}

static void append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);

    snprintf(text + used, size - used, "%s", more);
}

int error_set(struct error *err, int code, const char *format, ...)
{
    code = usable_code(code);
    if (err) {
        char reason[96];
        va_list args;

        va_start(args, format);
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        err->code = code;
        append(err->text, sizeof(err->text), ": ");
        append(err->text, sizeof(err->text), strerror_r(code, reason, sizeof(reason)));
    }
    return -code;
}

int error_say(struct error *err, int code, const char *format, ...)
{
    code = usable_code(code);
    if (err) {
        va_list args;

        va_start(args, format);
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        err->code = code;
    }
    return -code;
}

int error_wrap(struct error *err, const char *format, ...)
{
    char inner[sizeof(err->text)];
    va_list args;

    if (!err)
        return -EIO;
    memcpy(inner, err->text, sizeof(inner));
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    append(err->text, sizeof(err->text), ": ");
    append(err->text, sizeof(err->text), inner);
    err->code = usable_code(err->code);
    return -err->code;
}
