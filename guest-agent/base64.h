/* Base64 (RFC 4648 §4), for error objects in HTTP trailers. No state. */
#ifndef MAYFLY_AGENT_BASE64_H
#define MAYFLY_AGENT_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* base64_decode - @text, with or without its padding, into @to. How many bytes it was; 0 if it is
 * no base64, or more than @size. */
size_t base64_decode(const char *text, uint8_t *to, size_t size);

#endif
