/*
 * What names, texts and numbers may be: Lambda's rules (API reference, 2015-03-31, the constraints
 * of each field). Pure; everything that comes in is hostile.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/text.h"
#include "common/utf8.h"
#include "host/events/delivery_target.h"
#include "registry_internal.h"

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"
#define NAME_CHARACTERS LETTERS DIGITS "-_"

enum {
    HANDLER_MAX = 128,
    ROLE_MAX = 512,
    ENVIRONMENT_MAX_BYTES = 4096,
    TAG_NAME_MAX = 128,
    TAG_VALUE_MAX = 256,
    TIMEOUT_MAX_S = 900,
    MEMORY_LEAST_MIB = 128,
    MEMORY_MAX_MIB = 10240,
    TMP_LEAST_MIB = 512,
    VERSION_DIGITS_MAX = 9, /* fits 32 bits with room */
};

struct shown shown(const char *text)
{
    struct shown result;

    text_clean(result.text, sizeof(result.text), text, strlen(text));
    return result;
}

/* --- names ---------------------------------------------------------------------------------------
 */

int check_name(const char *what, const char *name, struct error *err)
{
    size_t len = name ? strlen(name) : 0;

    if (len == 0 || len > FUNCTION_NAME_MAX || strspn(name, NAME_CHARACTERS) != len)
        return error_say(err, EINVAL,
                         "%s '%s' is not of 1 to %d letters, digits, hyphens and underscores", what,
                         shown(name ? name : "").text, FUNCTION_NAME_MAX);
    return 0;
}

int check_key(const struct function_key *key, struct error *err)
{
    int r = check_name("the tenant", key->tenant, err);

    return r < 0 ? r : check_name("the function name", key->name, err);
}

static uint32_t number_of(const char *digits)
{
    uint32_t number = 0;

    for (; *digits; digits++)
        number = number * 10 + (uint32_t)(*digits - '0');
    return number;
}

int check_qualifier(const char *qualifier, enum qualifier_kind *ret_kind, uint32_t *ret_number,
                    struct error *err)
{
    size_t len = qualifier ? strlen(qualifier) : 0;

    *ret_number = VERSION_LATEST;
    if (len == 0 || strcmp(qualifier, "$LATEST") == 0) {
        *ret_kind = QUALIFIER_LATEST;
        return 0;
    }
    if (len > QUALIFIER_MAX || strspn(qualifier, NAME_CHARACTERS) != len)
        return error_say(err, EINVAL,
                         "the qualifier '%s' is neither $LATEST, a version nor an alias: 1 to %d "
                         "letters, digits, hyphens and underscores",
                         shown(qualifier).text, QUALIFIER_MAX);
    if (strspn(qualifier, DIGITS) != len) {
        *ret_kind = QUALIFIER_ALIAS;
        return 0;
    }
    /* What no version can be is a version that is not there. */
    *ret_kind = QUALIFIER_VERSION;
    *ret_number =
        len <= VERSION_DIGITS_MAX && qualifier[0] != '0' ? number_of(qualifier) : UINT32_MAX;
    return 0;
}

int check_version(const char *text, uint32_t *ret_number, struct error *err)
{
    enum qualifier_kind kind = QUALIFIER_ALIAS;
    int r = text && text[0] ? check_qualifier(text, &kind, ret_number, err) : 0;

    if (r == 0 && kind == QUALIFIER_ALIAS)
        r = error_say(err, EINVAL, "the version '%s' is neither $LATEST nor a number",
                      shown(text ? text : "").text);
    return r;
}

/* --- texts and numbers ---------------------------------------------------------------------------
 */

int check_text(const char *what, const char *text, size_t least_characters, size_t max_characters,
               struct error *err)
{
    size_t characters = 0;

    /* Four bytes a character at most: what is longer is not looked at. */
    if (strnlen(text, 4 * max_characters + 1) > 4 * max_characters)
        return error_say(err, EINVAL, "%s is longer than %zu characters", what, max_characters);
    if (!utf8_check(text, strlen(text), &characters))
        return error_say(err, EINVAL, "%s is not valid UTF-8", what);
    if (characters < least_characters || characters > max_characters)
        return error_say(err, EINVAL, "%s has %zu characters, %zu to %zu are allowed", what,
                         characters, least_characters, max_characters);
    return 0;
}

int check_range(const char *what, int64_t value, int64_t least, int64_t most, struct error *err)
{
    if (value < least || value > most)
        return error_say(err, EINVAL, "%s is %lld, %lld to %lld are allowed", what,
                         (long long)value, (long long)least, (long long)most);
    return 0;
}

int page_size(int64_t max_items, struct error *err)
{
    int r = max_items == 0 ? 0 : check_range("MaxItems", max_items, 1, MAX_ITEMS, err);

    if (r < 0)
        return r;
    return max_items == 0 || max_items > PAGE_MAX ? PAGE_MAX : (int)max_items;
}

int check_marker(const char *marker, char ret_after[QUALIFIER_MAX + 1], struct error *err)
{
    size_t len = marker ? strnlen(marker, QUALIFIER_MAX + 1) : 0;

    if (len > QUALIFIER_MAX || (marker && strspn(marker, NAME_CHARACTERS "$") != len))
        return error_say(err, EINVAL, "the Marker is none that a listing returned");
    memcpy(ret_after, marker ? marker : "", len + 1);
    return 0;
}

/* --- settings ------------------------------------------------------------------------------------
 */

static int check_runtime(const struct registry *registry, const char *runtime, struct error *err)
{
    for (size_t i = 0; registry->runtimes[i]; i++)
        if (strcmp(registry->runtimes[i], runtime) == 0)
            return registry->check_runtime ? registry->check_runtime(registry->opaque, runtime, err)
                                           : 0;
    return error_say(err, EINVAL, "the runtime '%s' is not supported: %s%s%s%s%s%s are",
                     shown(runtime).text, registry->runtimes[0], registry->runtimes[1] ? ", " : "",
                     registry->runtimes[1] ? registry->runtimes[1] : "",
                     registry->runtimes[1] && registry->runtimes[2] ? ", " : "",
                     registry->runtimes[1] && registry->runtimes[2] ? registry->runtimes[2] : "",
                     registry->runtimes[1] && registry->runtimes[2] && registry->runtimes[3]
                         ? " and others"
                         : "");
}

static int check_handler(const char *handler, struct error *err)
{
    for (const char *at = handler; *at; at++)
        if ((unsigned char)*at <= ' ' || *at == 0x7f)
            return error_say(err, EINVAL, "the handler '%s' has white space in it",
                             shown(handler).text);
    return check_text("the handler", handler, 1, HANDLER_MAX, err);
}

/* arn:aws[a-zA-Z-]*:iam::<12 digits>:role/[a-zA-Z_0-9+=,.@-_/]+ */
static int check_role(const char *role, struct error *err)
{
    static const char partition[] = "arn:aws", service[] = ":iam::";
    const char *at = role;
    int r = check_text("the role", role, 0, ROLE_MAX, err);

    if (r < 0 || role[0] == '\0')
        return r;
    if (strncmp(at, partition, strlen(partition)) == 0) {
        at += strlen(partition);
        at += strspn(at, LETTERS "-");
        if (strncmp(at, service, strlen(service)) == 0) {
            at += strlen(service);
            if (strspn(at, DIGITS) == 12 && strncmp(at + 12, ":role/", 6) == 0) {
                at += 12 + 6;
                size_t len = strspn(at, LETTERS DIGITS "_+=,.@-/");
                if (len > 0 && at[len] == '\0')
                    return 0;
            }
        }
    }
    return error_say(err, EINVAL, "the role '%s' is no role's ARN", shown(role).text);
}

/* Lambda's own: its runtimes and SDKs would be misled by other values. */
static bool is_reserved_variable(const char *name)
{
    static const char *const names[] = {
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static int check_variable(const struct text_pair *variable, size_t *used_bytes, struct error *err)
{
    const char *name = variable->name, *value = variable->value;
    size_t name_len = strnlen(name, ENVIRONMENT_MAX_BYTES + 1);
    size_t value_len = strnlen(value, ENVIRONMENT_MAX_BYTES + 1);

    if (name_len + value_len > ENVIRONMENT_MAX_BYTES - *used_bytes)
        return error_say(err, EINVAL, "the environment's names and values have more than %d bytes",
                         ENVIRONMENT_MAX_BYTES);
    *used_bytes += name_len + value_len;
    if (name_len < 2 || strspn(name, LETTERS) == 0 || strspn(name, LETTERS DIGITS "_") != name_len)
        return error_say(err, EINVAL,
                         "the environment variable '%s' is not of a letter and then letters, "
                         "digits and underscores, two at least",
                         shown(name).text);
    if (is_reserved_variable(name))
        return error_say(err, EINVAL, "the environment variable '%s' is reserved", name);
    if (!utf8_check(value, value_len, NULL))
        return error_say(err, EINVAL, "the environment variable '%s' is not valid UTF-8", name);
    return 0;
}

static int check_environment(const struct function_settings *settings, struct error *err)
{
    size_t used_bytes = 0;
    int r = 0;

    for (size_t i = 0; r == 0 && i < settings->n_environment; i++)
        r = check_variable(&settings->environment[i], &used_bytes, err);
    return r;
}

static const char *text_or_empty(const char *text)
{
    return text ? text : "";
}

static int check_texts(const struct registry *registry, const struct function_settings *s,
                       struct error *err)
{
    int r = 0;

    if (s->members & SETS_RUNTIME)
        r = check_runtime(registry, text_or_empty(s->runtime), err);
    if (r == 0 && (s->members & SETS_HANDLER))
        r = check_handler(text_or_empty(s->handler), err);
    if (r == 0 && (s->members & SETS_ROLE))
        r = check_role(text_or_empty(s->role), err);
    if (r == 0 && (s->members & SETS_DESCRIPTION))
        r = check_text("the description", text_or_empty(s->description), 0, DESCRIPTION_MAX, err);
    if (r == 0 && (s->members & SETS_DEAD_LETTER) && text_or_empty(s->dead_letter)[0])
        r = target_check(s->dead_letter, err);
    return r;
}

static int check_numbers(const struct function_settings *s, struct error *err)
{
    int r = 0;

    if (s->members & SETS_TIMEOUT)
        r = check_range("Timeout", s->timeout_s, 1, TIMEOUT_MAX_S, err);
    if (r == 0 && (s->members & SETS_MEMORY))
        r = check_range("MemorySize", s->memory_mib, MEMORY_LEAST_MIB, MEMORY_MAX_MIB, err);
    if (r == 0 && (s->members & SETS_TMP))
        r = check_range("EphemeralStorage", s->tmp_mib, TMP_LEAST_MIB, MEMORY_MAX_MIB, err);
    if (r == 0 && (s->members & SETS_TRACING))
        r = check_range("TracingConfig.Mode", s->tracing, TRACING_PASS_THROUGH, TRACING_ACTIVE,
                        err);
    return r;
}

int check_settings(const struct registry *registry, const struct function_settings *settings,
                   bool is_new, struct error *err)
{
    if (is_new && !(settings->members & SETS_RUNTIME))
        return error_say(err, EINVAL, "Runtime is required");
    if (is_new && !(settings->members & SETS_HANDLER))
        return error_say(err, EINVAL, "Handler is required");
    int r = check_texts(registry, settings, err);
    if (r == 0)
        r = check_numbers(settings, err);
    if (r == 0 && (settings->members & SETS_ENVIRONMENT))
        r = check_environment(settings, err);
    return r;
}

int check_tag(const struct text_pair *tag, struct error *err)
{
    int r = check_text("a tag's key", tag->name, 1, TAG_NAME_MAX, err);

    return r < 0 ? r : check_text("a tag's value", tag->value, 0, TAG_VALUE_MAX, err);
}

/* --- targets -------------------------------------------------------------------------------------
 */

/* arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>] */
static bool is_function_arn(const char *at)
{
    static const char start[] = "arn:aws:lambda:";
    char name[FUNCTION_NAME_MAX + 1];
    enum qualifier_kind kind;
    struct error ignored;
    uint32_t number;

    if (strncmp(at, start, strlen(start)) != 0)
        return false;
    at += strlen(start);
    size_t len = strspn(at, LETTERS DIGITS "-");
    if (len == 0 || at[len] != ':')
        return false;
    at += len + 1;
    if (strspn(at, DIGITS) != ACCOUNT_ID_BYTES - 1 ||
        strncmp(at + ACCOUNT_ID_BYTES - 1, ":function:", 10) != 0)
        return false;
    at += ACCOUNT_ID_BYTES - 1 + 10;
    len = strcspn(at, ":");
    if (len == 0 || len > FUNCTION_NAME_MAX)
        return false;
    memcpy(name, at, len);
    name[len] = '\0';
    if (check_name("", name, &ignored) < 0)
        return false;
    return at[len] == '\0' ||
           (at[len + 1] && check_qualifier(at + len + 1, &kind, &number, &ignored) == 0);
}

int target_check(const char *target, struct error *err)
{
    static const char arn[] = "arn:";
    enum delivery_target_kind kind;

    if (strnlen(target, TARGET_BYTES) == TARGET_BYTES)
        return error_say(err, EINVAL, "a destination has more than %d bytes", TARGET_BYTES - 1);
    if (strncmp(target, arn, strlen(arn)) != 0)
        return delivery_target_check(target, &kind, err);
    return is_function_arn(target) ? 0
                                   : error_say(err, EINVAL,
                                               "the destination '%s' is not the ARN of a function "
                                               "(no other service's is one here)",
                                               shown(target).text);
}
