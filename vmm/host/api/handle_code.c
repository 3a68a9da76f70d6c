/* Uploaded code: base64 in JSON, as Lambda has it. */
#include "handle_code.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

enum { LARGE_BYTES = 1 << 20, WAITING_MAX = 4 };

static bool is_large(const struct api_turn *turn)
{
    return turn->request->body_bytes > LARGE_BYTES;
}

static atomic_uint *waiting_of(struct api_turn *turn)
{
    return &turn->api->waiting_uploads[api_owner_id(turn->tenant) % API_UPLOAD_OWNERS];
}

int upload_begin(struct api_turn *turn)
{
    if (!is_large(turn))
        return 0;
    if (atomic_fetch_add(waiting_of(turn), 1) >= WAITING_MAX) {
        atomic_fetch_sub(waiting_of(turn), 1);
        return api_fail_throttled(turn, "CallerRateLimitExceeded");
    }
    while (sem_wait(&turn->api->uploads) < 0)
        ; /* a signal */
    return 0;
}

void upload_end(struct api_turn *turn, json_t *code)
{
    (void)json_object_del(code, "ZipFile");
    if (!is_large(turn))
        return;
    sem_post(&turn->api->uploads);
    atomic_fetch_sub(waiting_of(turn), 1);
}

int code_read(struct api_turn *turn, const json_t *object, const char *where,
              struct code_staged **ret_staged)
{
    const json_t *zip = json_object_get(object, "ZipFile");
    struct error err;
    size_t len = 0;

    if (json_object_get(object, "S3Bucket") || json_object_get(object, "S3Key") ||
        json_object_get(object, "ImageUri"))
        return api_fail(turn, API_INVALID_PARAMETER,
                        "%s: this host takes code as a ZipFile, not from S3 or a registry", where);
    if (!json_is_string(zip))
        return api_fail(turn, API_INVALID_PARAMETER, "%s: ZipFile must be there, as base64 text",
                        where);
    size_t size = json_string_length(zip) / 4 * 3 + 3;
    AUTO_FREE uint8_t *data = malloc(size);
    if (!data)
        return api_fail(turn, API_SERVICE, "out of memory");
    if (sodium_base642bin(data, size, json_string_value(zip), json_string_length(zip), "\r\n", &len,
                          NULL, sodium_base64_VARIANT_ORIGINAL) != 0)
        return api_fail(turn, API_INVALID_PARAMETER, "%s: ZipFile is not base64", where);
    int r = code_store_stage(registry_code_store(turn->api->options.registry), data, len,
                             ret_staged, &err);
    return r < 0 ? api_fail_errno(turn, r, &err) : 0;
}
