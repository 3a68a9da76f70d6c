/* Little-endian loads and stores on byte buffers, and arithmetic that notices overflow. */
#ifndef MAYFLY_COMMON_BYTES_H
#define MAYFLY_COMMON_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

static inline uint16_t load_le16(const void *from)
{
    uint16_t v;

    memcpy(&v, from, sizeof(v));
    return le16toh(v);
}

static inline uint32_t load_le32(const void *from)
{
    uint32_t v;

    memcpy(&v, from, sizeof(v));
    return le32toh(v);
}

static inline uint64_t load_le64(const void *from)
{
    uint64_t v;

    memcpy(&v, from, sizeof(v));
    return le64toh(v);
}

static inline void store_le16(void *to, uint16_t v)
{
    v = htole16(v);
    memcpy(to, &v, sizeof(v));
}

static inline void store_le32(void *to, uint32_t v)
{
    v = htole32(v);
    memcpy(to, &v, sizeof(v));
}

static inline void store_le64(void *to, uint64_t v)
{
    v = htole64(v);
    memcpy(to, &v, sizeof(v));
}

/* range_fits - does [offset, offset + len) lie within [0, size)? Never wraps. */
static inline bool range_fits(uint64_t offset, uint64_t len, uint64_t size)
{
    return offset <= size && len <= size - offset;
}

/* round_up - to a multiple of @unit, a power of two. The caller has bounded @value. */
static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

#endif
