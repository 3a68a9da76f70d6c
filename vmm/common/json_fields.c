/* Checked fields of JSON objects (jansson): see json_fields.h. */
#include "common/json_fields.h"

#include <string.h>

bool json_take_text(const json_t *object, const char *field, char *to, size_t size)
{
    const json_t *value = json_object_get(object, field);
    const char *text = json_string_value(value);
    size_t len = text ? strlen(text) : size;

    if (len >= size || json_string_length(value) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    memcpy(to, text, len + 1);
    return true;
}

bool json_take_number(const json_t *object, const char *field, int64_t max, int64_t *ret_value)
{
    const json_t *value = json_object_get(object, field);

    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > max)
        return false;
    *ret_value = json_integer_value(value);
    return true;
}
