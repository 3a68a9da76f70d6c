/* Base64, see base64.h. Process: mayfly-agent; input: the function's. */
#include "guest-agent/base64.h"

#include <string.h>

static int value_of(char digit)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = digit ? strchr(digits, digit) : NULL;

    return found ? (int)(found - digits) : -1;
}

size_t base64_decode(const char *text, uint8_t *to, size_t size)
{
    unsigned bits = 0, n_bits = 0;
    size_t used = 0;

    for (; *text && *text != '='; text++) {
        int value = value_of(*text);

        if (value < 0)
            return 0;
        bits = bits << 6 | (unsigned)value;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        if (used == size)
            return 0;
        to[used++] = (uint8_t)(bits >> n_bits);
    }
    return text[strspn(text, "=")] == '\0' ? used : 0;
}
