/*
 * What a client sent, taken in the form that Lambda's reference gives it, or refused with the name
 * of what is wrong. Ranges and patterns of settings are the registry's to check: here are types.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "host/json_check.h"

#define NAME_PATTERN                                                                               \
    "(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}(-gov)?-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?"      \
    "([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?"

int api_read_reference(struct api_turn *turn, const char *text, struct api_target *ret_target)
{
    struct function_reference *reference = &ret_target->reference;

    if (function_reference_read(text, reference) < 0)
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.200s' at 'functionName' failed to "
                        "satisfy constraint: Member must satisfy regular expression pattern: %s "
                        "and have a name of at most %d characters",
                        text, NAME_PATTERN, FUNCTION_NAME_MAX);
    /* Another's function is one that is not there. */
    if (reference->account_id[0] && strcmp(reference->account_id, turn->account_id) != 0)
        return api_fail(turn, API_NOT_FOUND, "Function not found: %.300s", text);
    ret_target->key = (struct function_key){turn->tenant, reference->name, NULL};
    return 0;
}

int api_read_target(struct api_turn *turn, enum api_qualifier qualifier,
                    struct api_target *ret_target)
{
    const char *asked = http_query_find(&turn->query, "Qualifier");
    struct function_reference *reference = &ret_target->reference;
    int r = api_read_reference(turn, turn->match.variables[0], ret_target);

    if (r < 0)
        return r;
    if (qualifier == API_QUALIFIER_NONE) {
        if (reference->qualifier[0] && strcmp(reference->qualifier, "$LATEST") != 0)
            return api_fail(turn, API_INVALID_PARAMETER,
                            "FunctionName: this operation takes no version or alias, and '%s' is "
                            "one",
                            reference->qualifier);
        return 0;
    }
    if (asked && !qualifier_is_valid(asked))
        return api_fail(turn, API_VALIDATION,
                        "1 validation error detected: Value '%.200s' at 'qualifier' failed to "
                        "satisfy constraint: Member must satisfy regular expression pattern: "
                        "(|[a-zA-Z0-9$_-]+)",
                        asked);
    if (asked && reference->qualifier[0] && strcmp(asked, reference->qualifier) != 0)
        return api_fail(turn, API_INVALID_PARAMETER,
                        "Qualifier: '%s' is not the one that FunctionName has, '%s'", asked,
                        reference->qualifier);
    if (asked)
        memcpy(reference->qualifier, asked, strlen(asked) + 1);
    if (qualifier == API_QUALIFIER_REQUIRED && !reference->qualifier[0])
        return api_fail(turn, API_INVALID_PARAMETER, "Qualifier: it is required");
    ret_target->key.qualifier = reference->qualifier[0] ? reference->qualifier : NULL;
    return 0;
}

int api_read_object(struct api_turn *turn, json_t **ret_object)
{
    const struct http_request *request = turn->request;
    json_error_t error;
    struct error err;
    json_t *object;

    if (request->body_bytes > 0 &&
        json_check_small(request->body, request->body_bytes, &err) == -E2BIG)
        return api_fail(turn, API_INVALID_CONTENT, "Could not parse request body into json: %s",
                        err.text);
    if (request->body_bytes == 0)
        object = json_object();
    else
        object = json_loadb((const char *)request->body, request->body_bytes,
                            JSON_REJECT_DUPLICATES, &error);
    if (!object && request->body_bytes == 0)
        return api_fail(turn, API_SERVICE, "out of memory");
    if (!object)
        return api_fail(turn, API_INVALID_CONTENT,
                        "Could not parse request body into json: %s (line %d, column %d)",
                        error.text, error.line, error.column);
    if (!json_is_object(object)) {
        json_decref(object);
        return api_fail(turn, API_INVALID_CONTENT,
                        "Could not parse request body into json: it must be an object");
    }
    if (api_check_shape(turn, object) < 0) {
        json_decref(object);
        return -1;
    }
    *ret_object = object;
    return 0;
}

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",    [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean",  [JSON_NULL] = "null",
    };

    return names[json_typeof(value)];
}

static int wrong_type(struct api_turn *turn, const char *member, const char *wanted,
                      const json_t *value)
{
    return api_fail(turn, API_INVALID_PARAMETER, "%s: must be %s and is %s", member, wanted,
                    type_name(value));
}

int api_take_text(struct api_turn *turn, const json_t *object, const char *member,
                  const char **ret_text)
{
    const json_t *value = json_object_get(object, member);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_string(value))
        return wrong_type(turn, member, "a string", value);
    *ret_text = json_string_value(value); /* without zeros: jansson refuses \u0000 */
    return 1;
}

int api_take_integer(struct api_turn *turn, const json_t *object, const char *member,
                     int64_t *ret_value)
{
    const json_t *value = json_object_get(object, member);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_integer(value))
        return wrong_type(turn, member, "a whole number", value);
    *ret_value = json_integer_value(value);
    return 1;
}

int api_take_boolean(struct api_turn *turn, const json_t *object, const char *member,
                     bool *ret_value)
{
    const json_t *value = json_object_get(object, member);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_boolean(value))
        return wrong_type(turn, member, "a boolean", value);
    *ret_value = json_is_true(value);
    return 1;
}

int api_take_object(struct api_turn *turn, const json_t *object, const char *member,
                    const json_t **ret_object)
{
    const json_t *value = json_object_get(object, member);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_object(value))
        return wrong_type(turn, member, "an object", value);
    *ret_object = value;
    return 1;
}

int api_take_pairs(struct api_turn *turn, const json_t *object, const char *member,
                   struct text_pair **ret_pairs, size_t *ret_n)
{
    json_t *value = json_object_get(object, member), *each;
    const char *name;
    size_t n = 0;

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_object(value))
        return wrong_type(turn, member, "an object", value);
    struct text_pair *pairs = calloc(json_object_size(value) + 1, sizeof(*pairs));
    if (!pairs)
        return api_fail(turn, API_SERVICE, "out of memory");
    json_object_foreach(value, name, each)
    {
        if (!json_is_string(each)) {
            free(pairs);
            return api_fail(turn, API_INVALID_PARAMETER, "%s: '%.128s' must be a string and is %s",
                            member, name, type_name(each));
        }
        pairs[n++] = (struct text_pair){name, json_string_value(each)};
    }
    *ret_pairs = pairs;
    *ret_n = n;
    return 1;
}

int api_require(struct api_turn *turn, const void *value, const char *member)
{
    if (value)
        return 0;
    return api_fail(turn, API_VALIDATION,
                    "1 validation error detected: Value null at '%s' failed to satisfy constraint: "
                    "Member must not be null",
                    member);
}

int api_read_page(struct api_turn *turn, const char **ret_marker, int64_t *ret_max_items)
{
    const char *marker = http_query_find(&turn->query, "Marker");
    const char *items = http_query_find(&turn->query, "MaxItems");
    int64_t value = 0;

    if (items) {
        char *end = NULL;

        errno = 0;
        value = strtoll(items, &end, 10);
        if (errno || end == items || *end || value < 1 || value > 10000)
            return api_fail(turn, API_VALIDATION,
                            "1 validation error detected: Value '%.40s' at 'maxItems' failed to "
                            "satisfy constraint: Member must have value between 1 and 10000",
                            items);
    }
    *ret_marker = marker && *marker ? marker : NULL;
    *ret_max_items = value;
    return 0;
}
