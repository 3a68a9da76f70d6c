/* Random names: see identity.h. */
#include "identity.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>

static int random_bytes(uint8_t *to, size_t len, struct error *err)
{
    if (getrandom(to, len, 0) != (ssize_t)len)
        return error_set(err, errno, "get random numbers");
    return 0;
}

int identity_request(char ret_id[REQUEST_ID_BYTES], struct error *err)
{
    uint8_t b[16];
    int r = random_bytes(b, sizeof(b), err);

    if (r < 0)
        return r;
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(ret_id, REQUEST_ID_BYTES,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
             b[15]);
    return 0;
}

int identity_instance(char ret_id[INSTANCE_ID_BYTES], struct error *err)
{
    uint8_t b[8];
    int r = random_bytes(b, sizeof(b), err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(b); i++)
        snprintf(ret_id + 2 * i, 3, "%02x", b[i]);
    return 0;
}
