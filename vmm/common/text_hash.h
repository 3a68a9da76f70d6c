/* FNV-1a over texts, for tables whose keys the host chose or bounded. */
#ifndef MAYFLY_COMMON_TEXT_HASH_H
#define MAYFLY_COMMON_TEXT_HASH_H

#include <stdint.h>

#define TEXT_HASH_START UINT64_C(0xcbf29ce484222325)

/* text_hash - goes on from @hash, the terminating 0 included: no two lists of texts run together.
 */
static inline uint64_t text_hash(uint64_t hash, const char *text)
{
    do
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    while (*text++);
    return hash;
}

#endif
