/*
 * Manifests in JSON (jansson): see snapshot_manifest.h. A manifest may have been made by anybody
 * who could write to the store or to an archive that is imported. Names and ids from it become
 * parts of paths, sizes become bounds of loops: nothing leaves here that has not been checked for
 * form.
 */
#include "snapshot/snapshot_manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/fd.h"
#include "common/json_fields.h"
#include "images/image_format.h"
#include "images/image_manifest.h"
#include "images/image_sha256.h"
#include "snapshot/snapshot_extents.h"

/* Compressed pages and their index never need more than this. */
#define MEMORY_FILE_BYTES_MAX (2 * IMAGE_FORMAT_RAW_MAX)
#define PAGES_FILE_BYTES_MAX                                                                       \
    (2 * (uint64_t)SNAPSHOT_EXTENTS_HEADER_BYTES +                                                 \
     SNAPSHOT_PAGES_MAX * (uint64_t)SNAPSHOT_EXTENT_BYTES)

static const char *const level_names[] = {"base", "runtime", "function"};

const char *snapshot_level_name(enum snapshot_level level)
{
    return (size_t)level < ARRAY_LEN(level_names) ? level_names[level] : "?";
}

/* --- check ----------------------------------------------------------------------------------- */

static bool is_digest(const char *text)
{
    return image_digest_is_valid(text, SNAPSHOT_ID_HEX);
}

static bool is_digest_or_none(const char *text)
{
    return text[0] == '\0' || is_digest(text);
}

static bool is_text(const char *text, size_t size)
{
    size_t len = strnlen(text, size);

    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    return len < size;
}

static const char *check_cpu(const struct snapshot_cpu *cpu)
{
    if (!is_text(cpu->vendor, sizeof(cpu->vendor)) || cpu->vendor[0] == '\0')
        return "cpu.vendor";
    if (!is_text(cpu->template_name, sizeof(cpu->template_name)))
        return "cpu.template";
    return cpu->n_features > SNAPSHOT_FEATURES_MAX ? "cpu.features" : NULL;
}

static const char *check_origin(const struct snapshot_manifest *manifest)
{
    if (!is_digest(manifest->kernel_digest))
        return "kernel_digest";
    if (manifest->n_roots > SNAPSHOT_ROOTS_MAX)
        return "root_digests";
    for (uint32_t i = 0; i < manifest->n_roots; i++)
        if (!is_digest(manifest->root_digests[i]))
            return "root_digests";
    if (!is_text(manifest->runtime, sizeof(manifest->runtime)))
        return "runtime";
    if (!is_digest_or_none(manifest->function_digest))
        return "function_digest";
    if (!is_digest_or_none(manifest->configuration_digest))
        return "configuration_digest";
    if (manifest->created_s < 0)
        return "created_s";
    if (!is_text(manifest->mayfly_version, sizeof(manifest->mayfly_version)))
        return "mayfly_version";
    return check_cpu(&manifest->cpu);
}

static const char *check_parts(const struct snapshot_manifest *manifest)
{
    const uint32_t pages = manifest->memory_mib * SNAPSHOT_PAGES_PER_MIB;
    const bool has_data = manifest->data_pages > 0;

    if (manifest->state.bytes > SNAPSHOT_STATE_BYTES_MAX || !is_digest(manifest->state.sha256))
        return "state";
    if (manifest->pages.bytes > PAGES_FILE_BYTES_MAX || !is_digest(manifest->pages.sha256))
        return "pages";
    if (manifest->data_pages > pages || manifest->zero_pages > pages - manifest->data_pages)
        return "data_pages";
    if (manifest->zero_pages > 0 && manifest->parent[0] == '\0')
        return "zero_pages";
    if (manifest->memory.bytes > MEMORY_FILE_BYTES_MAX ||
        has_data != (manifest->memory.bytes > 0) ||
        has_data != is_digest(manifest->memory.sha256) ||
        has_data != is_digest(manifest->memory_header_sha256))
        return "memory";
    return is_digest(manifest->flat_sha256) ? NULL : "flat_sha256";
}

const char *snapshot_manifest_check(const struct snapshot_manifest *manifest, bool is_whole)
{
    const char *wrong;

    if ((size_t)manifest->level >= ARRAY_LEN(level_names))
        return "level";
    if (!image_name_is_valid(manifest->name))
        return "name";
    if (!is_digest_or_none(manifest->parent) ||
        (manifest->level == SNAPSHOT_BASE && manifest->parent[0]))
        return "parent";
    if (manifest->memory_mib == 0 || manifest->memory_mib > SNAPSHOT_MEMORY_MIB_MAX)
        return "memory_mib";
    if (manifest->vcpus == 0 || manifest->vcpus > SNAPSHOT_VCPUS_MAX)
        return "vcpus";
    wrong = check_origin(manifest);
    return wrong || !is_whole ? wrong : check_parts(manifest);
}

/* --- encode ---------------------------------------------------------------------------------- */

static json_t *encode_cpu(const struct snapshot_cpu *cpu)
{
    json_t *features = json_array();

    for (uint32_t i = 0; features && i < cpu->n_features; i++)
        json_array_append_new(features, json_sprintf("%08x", cpu->features[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o}", "vendor", cpu->vendor, "template",
                     cpu->template_name, "family", (json_int_t)cpu->family, "model",
                     (json_int_t)cpu->model, "stepping", (json_int_t)cpu->stepping, "xsave_bytes",
                     (json_int_t)cpu->xsave_bytes, "features", features);
}

static json_t *encode_part(const struct snapshot_part *part)
{
    return json_pack("{s:I, s:s}", "bytes", (json_int_t)part->bytes, "sha256", part->sha256);
}

static json_t *encode_object(const struct snapshot_manifest *manifest)
{
    json_t *roots = json_array();

    for (uint32_t i = 0; roots && i < manifest->n_roots; i++)
        json_array_append_new(roots, json_string(manifest->root_digests[i]));
    return json_pack(
        "{s:i, s:s, s:s, s:s, s:I, s:I, s:s, s:o, s:s, s:s, s:s, s:o, s:I, s:s, s:o, s:o, s:o, "
        "s:s, "
        "s:s, s:I, s:I}",
        "version", SNAPSHOT_FORMAT_VERSION, "level", snapshot_level_name(manifest->level), "name",
        manifest->name, "parent", manifest->parent, "memory_mib", (json_int_t)manifest->memory_mib,
        "vcpus", (json_int_t)manifest->vcpus, "kernel_digest", manifest->kernel_digest,
        "root_digests", roots, "runtime", manifest->runtime, "function_digest",
        manifest->function_digest, "configuration_digest", manifest->configuration_digest, "cpu",
        encode_cpu(&manifest->cpu), "created_s", (json_int_t)manifest->created_s, "mayfly_version",
        manifest->mayfly_version, "state", encode_part(&manifest->state), "pages",
        encode_part(&manifest->pages), "memory", encode_part(&manifest->memory),
        "memory_header_sha256", manifest->memory_header_sha256, "flat_sha256",
        manifest->flat_sha256, "data_pages", (json_int_t)manifest->data_pages, "zero_pages",
        (json_int_t)manifest->zero_pages);
}

static int digest_hex(const char *text, size_t len, char hex[SNAPSHOT_ID_HEX + 1])
{
    uint8_t digest[SHA256_BYTES];
    int r = sha256_of(text, len, digest);

    if (r == 0)
        sha256_hex(digest, hex);
    return r;
}

int snapshot_manifest_encode(struct snapshot_manifest *manifest, char **ret_text, size_t *ret_len,
                             struct error *err)
{
    const char *wrong = snapshot_manifest_check(manifest, true);

    if (wrong)
        return error_say(err, EINVAL, "snapshot '%.*s': '%s' is missing or out of bounds",
                         SNAPSHOT_NAME_MAX, manifest->name, wrong);
    json_t *object = encode_object(manifest);
    AUTO_FREE char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    size_t len = text ? strlen(text) : 0;
    int r = text ? digest_hex(text, len, manifest->id) : -ENOMEM;
    if (r < 0)
        return error_set(err, -r, "manifest of snapshot '%s'", manifest->name);
    *ret_text = mem_steal(&text);
    *ret_len = len;
    return 0;
}

/* --- decode ---------------------------------------------------------------------------------- */

static bool take_u32(const json_t *object, const char *field, uint32_t *ret_value)
{
    int64_t value;

    if (!json_take_number(object, field, UINT32_MAX, &value))
        return false;
    *ret_value = (uint32_t)value;
    return true;
}

static bool take_level(const json_t *object, enum snapshot_level *ret_level)
{
    char text[16];

    if (!json_take_text(object, "level", text, sizeof(text)))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (enum snapshot_level)i;
            return true;
        }
    return false;
}

static bool take_part(const json_t *object, const char *field, struct snapshot_part *part)
{
    const json_t *value = json_object_get(object, field);
    int64_t bytes;

    if (!json_take_number(value, "bytes", INT64_MAX, &bytes) ||
        !json_take_text(value, "sha256", part->sha256, sizeof(part->sha256)))
        return false;
    part->bytes = (uint64_t)bytes;
    return json_object_size(value) == 2;
}

static bool take_roots(const json_t *object, struct snapshot_manifest *manifest)
{
    const json_t *roots = json_object_get(object, "root_digests");
    size_t n = json_array_size(roots);

    if (!json_is_array(roots) || n > SNAPSHOT_ROOTS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char *digest = json_string_value(json_array_get(roots, i));

        if (!digest || !is_digest(digest))
            return false;
        memcpy(manifest->root_digests[i], digest, SNAPSHOT_ID_HEX + 1);
    }
    manifest->n_roots = (uint32_t)n;
    return true;
}

static bool take_features(const json_t *object, struct snapshot_cpu *cpu)
{
    const json_t *features = json_object_get(object, "features");
    size_t n = json_array_size(features);

    if (!json_is_array(features) || n > SNAPSHOT_FEATURES_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        const char *word = json_string_value(json_array_get(features, i));

        if (!word || strlen(word) != 8 || strspn(word, "0123456789abcdef") != 8)
            return false;
        cpu->features[i] = (uint32_t)strtoul(word, NULL, 16);
    }
    cpu->n_features = (uint32_t)n;
    return true;
}

static bool take_cpu(const json_t *object, struct snapshot_cpu *cpu)
{
    const json_t *value = json_object_get(object, "cpu");

    return json_take_text(value, "vendor", cpu->vendor, sizeof(cpu->vendor)) &&
           json_take_text(value, "template", cpu->template_name, sizeof(cpu->template_name)) &&
           take_u32(value, "family", &cpu->family) && take_u32(value, "model", &cpu->model) &&
           take_u32(value, "stepping", &cpu->stepping) &&
           take_u32(value, "xsave_bytes", &cpu->xsave_bytes) && take_features(value, cpu) &&
           json_object_size(value) == 7;
}

/* Text fields of a manifest and where they go. */
static const struct {
    const char *name;
    size_t offset, size;
} text_fields[] = {
#define TEXT_FIELD(field)                                                                          \
    {                                                                                              \
#field, offsetof(struct snapshot_manifest, field),                                         \
            sizeof(((struct snapshot_manifest *)NULL)->field)                                      \
    }
    TEXT_FIELD(name),
    TEXT_FIELD(parent),
    TEXT_FIELD(kernel_digest),
    TEXT_FIELD(runtime),
    TEXT_FIELD(function_digest),
    TEXT_FIELD(configuration_digest),
    TEXT_FIELD(mayfly_version),
    TEXT_FIELD(memory_header_sha256),
    TEXT_FIELD(flat_sha256),
};

enum { N_FIELDS = 21 };

/* Fills *manifest; returns the name of the field that is wrong, or NULL. */
static const char *decode(const json_t *object, struct snapshot_manifest *manifest)
{
    for (size_t i = 0; i < ARRAY_LEN(text_fields); i++)
        if (!json_take_text(object, text_fields[i].name, (char *)manifest + text_fields[i].offset,
                            text_fields[i].size))
            return text_fields[i].name;
    if (!take_level(object, &manifest->level))
        return "level";
    if (!take_u32(object, "memory_mib", &manifest->memory_mib))
        return "memory_mib";
    if (!take_u32(object, "vcpus", &manifest->vcpus))
        return "vcpus";
    if (!take_roots(object, manifest))
        return "root_digests";
    if (!take_cpu(object, &manifest->cpu))
        return "cpu";
    if (!json_take_number(object, "created_s", INT64_MAX, &manifest->created_s))
        return "created_s";
    if (!take_part(object, "state", &manifest->state))
        return "state";
    if (!take_part(object, "pages", &manifest->pages))
        return "pages";
    if (!take_part(object, "memory", &manifest->memory))
        return "memory";
    if (!take_u32(object, "data_pages", &manifest->data_pages))
        return "data_pages";
    if (!take_u32(object, "zero_pages", &manifest->zero_pages))
        return "zero_pages";
    if (json_object_size(object) != N_FIELDS)
        return "(one that this version does not know)";
    return snapshot_manifest_check(manifest, true);
}

static int decode_object(const json_t *object, const char *id, struct snapshot_manifest *manifest,
                         struct error *err)
{
    int64_t version;

    if (!json_take_number(object, "version", INT32_MAX, &version))
        return error_say(err, EBADMSG, "manifest of snapshot %.12s: it has no format version", id);
    if (version != SNAPSHOT_FORMAT_VERSION)
        return error_say(err, EBADMSG,
                         "manifest of snapshot %.12s has format version %lld; this program reads "
                         "%d: take the snapshot again",
                         id, (long long)version, SNAPSHOT_FORMAT_VERSION);
    const char *wrong = decode(object, manifest);
    if (wrong)
        return error_say(err, EBADMSG, "manifest of snapshot %.12s: field '%s' is missing or wrong",
                         id, wrong);
    return 0;
}

int snapshot_manifest_decode(const char *text, size_t len, const char *id,
                             struct snapshot_manifest *ret_manifest, struct error *err)
{
    struct snapshot_manifest manifest = {0};
    json_error_t where;
    int r = digest_hex(text, len, manifest.id);

    if (r < 0)
        return error_set(err, -r, "check the manifest of snapshot %.12s", id);
    if (strcmp(manifest.id, id) != 0)
        return error_say(err, EBADMSG,
                         "manifest of snapshot %.12s is damaged: its SHA-256 is %.12s..., not the "
                         "snapshot's id",
                         id, manifest.id);
    json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (!object)
        return error_say(err, EBADMSG, "manifest of snapshot %.12s, line %d column %d: %s", id,
                         where.line, where.column, where.text);
    r = decode_object(object, id, &manifest, err);
    json_decref(object);
    if (r == 0)
        *ret_manifest = manifest;
    return r;
}
