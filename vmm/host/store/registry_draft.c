/* Drafts of versions: see registry_draft.h. What comes in was checked (registry_rules.c). */
#include "registry_draft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "images/image_sha256.h"

enum { TIMEOUT_DEFAULT_S = 3, MEMORY_DEFAULT_MIB = 128, TMP_DEFAULT_MIB = 512 };

_Static_assert((int)CONTENT_BYTES == (int)SHA256_BYTES, "the content hash is a SHA-256");

void draft_from_defaults(struct draft *draft)
{
    *draft = (struct draft){
        .runtime = "",
        .handler = "",
        .role = "",
        .description = "",
        .dead_letter = "",
        .code_sha256 = "",
        .timeout_s = TIMEOUT_DEFAULT_S,
        .memory_mib = MEMORY_DEFAULT_MIB,
        .tmp_mib = TMP_DEFAULT_MIB,
        .tracing = TRACING_PASS_THROUGH,
    };
}

int draft_from_function(struct draft *draft, const struct function *function, struct error *err)
{
    *draft = (struct draft){
        .runtime = function->runtime,
        .handler = function->handler,
        .role = function->role,
        .description = function->description,
        .dead_letter = function->dead_letter,
        .code_sha256 = function->code_sha256,
        .timeout_s = function->timeout_s,
        .memory_mib = function->memory_mib,
        .tmp_mib = function->tmp_mib,
        .tracing = function->tracing,
    };
    return pairs_encode("environment", function->environment, function->n_environment,
                        &draft->environment, &draft->environment_bytes, err);
}

static void set_text(uint32_t members, uint32_t member, const char *value, const char **to)
{
    if (members & member)
        *to = value ? value : "";
}

static void set_number(uint32_t members, uint32_t member, int64_t value, uint32_t *to)
{
    if (members & member)
        *to = (uint32_t)value;
}

int draft_apply(struct draft *draft, const struct function_settings *s, struct error *err)
{
    char *environment = NULL;
    size_t len = 0;

    if (s->members & SETS_ENVIRONMENT) {
        int r =
            pairs_encode("environment", s->environment, s->n_environment, &environment, &len, err);

        if (r < 0)
            return r;
        free(draft->environment);
        draft->environment = environment;
        draft->environment_bytes = len;
    }
    set_text(s->members, SETS_RUNTIME, s->runtime, &draft->runtime);
    set_text(s->members, SETS_HANDLER, s->handler, &draft->handler);
    set_text(s->members, SETS_ROLE, s->role, &draft->role);
    set_text(s->members, SETS_DESCRIPTION, s->description, &draft->description);
    set_text(s->members, SETS_DEAD_LETTER, s->dead_letter, &draft->dead_letter);
    set_number(s->members, SETS_TIMEOUT, s->timeout_s, &draft->timeout_s);
    set_number(s->members, SETS_MEMORY, s->memory_mib, &draft->memory_mib);
    set_number(s->members, SETS_TMP, s->tmp_mib, &draft->tmp_mib);
    if (s->members & SETS_TRACING)
        draft->tracing = (enum tracing_mode)s->tracing;
    return 0;
}

int draft_seal(struct draft *draft, struct error *err)
{
    const char *const texts[] = {draft->code_sha256, draft->runtime,     draft->handler,
                                 draft->role,        draft->description, draft->dead_letter};
    struct sha256 *hash = sha256_new();
    uint8_t numbers[16];

    if (!hash)
        return error_set(err, ENOMEM, "compute a version's hash");
    /* With the terminating zeros, so that no two lists of texts look alike. */
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        sha256_add(hash, texts[i], strlen(texts[i]) + 1);
    store_le32(numbers, draft->timeout_s);
    store_le32(numbers + 4, draft->memory_mib);
    store_le32(numbers + 8, draft->tmp_mib);
    store_le32(numbers + 12, (uint32_t)draft->tracing);
    sha256_add(hash, numbers, sizeof(numbers));
    if (draft->environment_bytes > 0)
        sha256_add(hash, draft->environment, draft->environment_bytes);
    sha256_take(hash, draft->content);
    sha256_free(hash);
    return 0;
}

void draft_done(struct draft *draft)
{
    free(draft->environment);
    draft->environment = NULL;
}
