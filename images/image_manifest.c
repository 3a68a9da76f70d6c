/*
 * Manifests in JSON (jansson): see image_manifest.h. The files may have been altered by anybody who
 * could write to the store; a digest or name from one becomes part of a path, so both are held to
 * their alphabets before anything else sees them.
 */
#include "images/image_manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "common/json_fields.h"
#include "images/image_content.h"
#include "images/image_file.h"
#include "images/image_format.h"

enum { MANIFEST_MAX_BYTES = 65536, MANIFEST_VERSION = 1 };

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool image_name_is_valid(const char *name)
{
    size_t len = strnlen(name, IMAGE_NAME_MAX + 1);

    if (len == 0 || len > IMAGE_NAME_MAX || !is_name_char(name[0]))
        return false;
    for (size_t i = 1; i < len; i++)
        if (!is_name_char(name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

bool image_digest_is_valid(const char *text, size_t n_min)
{
    size_t len = strnlen(text, IMAGE_DIGEST_HEX + 1);

    return len >= n_min && len <= IMAGE_DIGEST_HEX && strspn(text, "0123456789abcdef") == len;
}

const char *image_kind_name(enum image_kind kind)
{
    return kind == IMAGE_KERNEL ? "kernel" : kind == IMAGE_MEMORY ? "memory" : "root";
}

static bool take_kind(const json_t *object, enum image_kind *ret_kind)
{
    char kind[8];

    if (!json_take_text(object, "kind", kind, sizeof(kind)))
        return false;
    *ret_kind = strcmp(kind, "kernel") == 0 ? IMAGE_KERNEL : IMAGE_ROOT;
    return strcmp(kind, image_kind_name(*ret_kind)) == 0;
}

/* Fills *info; returns the name of the field that is wrong, or NULL. */
static const char *decode(const json_t *object, const char *name, struct image_info *info)
{
    const int64_t bytes_max = (int64_t)IMAGE_FORMAT_RAW_MAX;
    int64_t version, raw_bytes, stored_bytes;

    if (!json_take_number(object, "version", INT32_MAX, &version) || version != MANIFEST_VERSION)
        return "version";
    if (!json_take_text(object, "name", info->name, sizeof(info->name)) ||
        strcmp(info->name, name) != 0)
        return "name";
    if (!json_take_text(object, "digest", info->digest, sizeof(info->digest)) ||
        !image_digest_is_valid(info->digest, IMAGE_DIGEST_HEX))
        return "digest";
    if (!json_take_text(object, "raw_digest", info->raw_digest, sizeof(info->raw_digest)) ||
        !image_digest_is_valid(info->raw_digest, IMAGE_DIGEST_HEX))
        return "raw_digest";
    if (!take_kind(object, &info->kind))
        return "kind";
    if (!json_take_text(object, "architecture", info->architecture, sizeof(info->architecture)))
        return "architecture";
    if (!json_take_text(object, "runtime", info->runtime, sizeof(info->runtime)))
        return "runtime";
    if (!json_take_number(object, "raw_bytes", bytes_max, &raw_bytes))
        return "raw_bytes";
    if (!json_take_number(object, "stored_bytes", 2 * bytes_max, &stored_bytes))
        return "stored_bytes";
    if (!json_take_number(object, "created_s", INT64_MAX, &info->created_s))
        return "created_s";
    if (!json_take_text(object, "made_of", info->made_of, sizeof(info->made_of)))
        return "made_of";
    info->raw_bytes = (uint64_t)raw_bytes;
    info->stored_bytes = (uint64_t)stored_bytes;
    return NULL;
}

int image_manifest_read(int dir_fd, const char *name, struct image_info *ret_info,
                        struct error *err)
{
    struct image_info info = {0};
    char file[IMAGE_NAME_MAX + 8];
    AUTO_FREE uint8_t *text = NULL;
    size_t len = 0;
    json_error_t where;

    snprintf(file, sizeof(file), "%.*s.json", IMAGE_NAME_MAX, name);
    int r = file_read_small(dir_fd, file, MANIFEST_MAX_BYTES, &text, &len, err);
    if (r < 0) {
        error_wrap(err, "manifest");
        return r;
    }
    json_t *object = json_loadb((const char *)text, len, JSON_REJECT_DUPLICATES, &where);
    if (!object)
        return error_say(err, EBADMSG, "manifest '%s' line %d column %d: %s", file, where.line,
                         where.column, where.text);
    const char *wrong = decode(object, name, &info);
    json_decref(object);
    if (wrong)
        return error_say(err, EBADMSG,
                         "manifest '%s': field '%s' is missing or wrong; remove the image and "
                         "build or import it again",
                         file, wrong);
    *ret_info = info;
    return 0;
}

int image_manifest_write(int dir_fd, const struct image_info *info, struct error *err)
{
    struct temp_file temp;
    char file[IMAGE_NAME_MAX + 8];
    json_t *object = json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "version", MANIFEST_VERSION,
        "name", info->name, "digest", info->digest, "raw_digest", info->raw_digest, "kind",
        image_kind_name(info->kind), "architecture", info->architecture, "runtime", info->runtime,
        "raw_bytes", (json_int_t)info->raw_bytes, "stored_bytes", (json_int_t)info->stored_bytes,
        "created_s", (json_int_t)info->created_s, "made_of", info->made_of);
    AUTO_FREE char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;

    json_decref(object);
    if (!text)
        return error_set(err, ENOMEM, "manifest of '%s'", info->name);
    int r = temp_file_create(&temp, dir_fd, err);
    if (r < 0)
        return r;
    snprintf(file, sizeof(file), "%.*s.json", IMAGE_NAME_MAX, info->name);
    r = fd_write_all(temp.fd, text, strlen(text));
    if (r == 0)
        r = fd_write_all(temp.fd, "\n", 1);
    if (r < 0)
        error_set(err, -r, "write manifest '%s'", file);
    else
        r = temp_file_publish(&temp, file, 0644, err);
    temp_file_done(&temp);
    return r;
}
