/* Text from hostile sources, made fit for one line of a message or a terminal. */
#ifndef MAYFLY_COMMON_TEXT_H
#define MAYFLY_COMMON_TEXT_H

#include <stddef.h>

/*
 * text_clean - copy printable ASCII; every other byte (control, escape, non-ASCII) becomes '?', so
 * that a guest can neither break a line nor drive the reader's terminal. Trailing blanks go.
 * @to: always terminated. @size: > 0, of @to. @len: bytes at @from; stops at a 0 byte before.
 */
static inline void text_clean(char *to, size_t size, const void *from, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)from;
    size_t n = 0, end = 0;

    while (n < len && n < size - 1 && bytes[n] != 0) {
        to[n] = bytes[n] >= 0x20 && bytes[n] < 0x7f ? (char)bytes[n] : '?';
        if (bytes[n] > 0x20)
            end = n + 1;
        n++;
    }
    to[end] = '\0';
}

#endif
