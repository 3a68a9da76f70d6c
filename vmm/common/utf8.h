/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef MAYFLY_COMMON_UTF8_H
#define MAYFLY_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* utf8_sequence - how many of the @len bytes make the first character; 0 if they are none. */
static inline size_t utf8_sequence(const unsigned char *at, size_t len)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = at[0] < 0x80             ? 1
               : (at[0] & 0xe0) == 0xc0 ? 2
               : (at[0] & 0xf0) == 0xe0 ? 3
               : (at[0] & 0xf8) == 0xf0 ? 4
                                        : 0;
    uint32_t point;

    if (n <= 1 || n > len)
        return n == 1 ? 1 : 0;
    point = at[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (at[i] & 0x3fu);
    }
    if (point < least[n] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
        return 0;
    return n;
}

/* utf8_check - is all of it UTF-8? *ret_characters (may be NULL): how many. */
static inline bool utf8_check(const void *text, size_t len, size_t *ret_characters)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t characters = 0;

    while (len > 0) {
        size_t n = utf8_sequence(at, len);

        if (n == 0)
            return false;
        at += n;
        len -= n;
        characters++;
    }
    if (ret_characters)
        *ret_characters = characters;
    return true;
}

#endif
