/* Fields of JSON objects that may have been written by anybody: taken only in the form wanted. */
#ifndef MAYFLY_COMMON_JSON_FIELDS_H
#define MAYFLY_COMMON_JSON_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* json_take_text - printable ASCII that fits @size with its terminating 0; else false. */
bool json_take_text(const json_t *object, const char *field, char *to, size_t size);

/* json_take_number - a whole number from 0 to @max; else false. */
bool json_take_number(const json_t *object, const char *field, int64_t max, int64_t *ret_value);

#endif
