/*
 * YAML files through libcyaml, with messages of one line: "FILE:LINE: field: what is wrong".
 * Trust: the administrator's own files; the checks find mistakes. Threads: any.
 * (libyaml exports yaml_free itself, hence the longer names.)
 */
#ifndef MAYFLY_COMMON_YAML_LOAD_H
#define MAYFLY_COMMON_YAML_LOAD_H

#include <cyaml/cyaml.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

enum { YAML_MAX_BYTES = 1 << 20 };

struct yaml_file {
    const char *path; /* borrowed: for messages */
    uint8_t *data;    /* owned: yaml_file_done() */
    size_t len_bytes;
};

/*
 * yaml_value_load - the file at @path as @schema says; *ret_value is owned: yaml_value_free() with
 * the same schema, which is that of a pointer. *ret_file is for yaml_wrong(). Returns 0, -EINVAL
 * for what does not fit the schema (or an empty file), or why it cannot be read.
 */
int yaml_value_load(const char *path, const cyaml_schema_value_t *schema, void **ret_value,
                    struct yaml_file *ret_file, struct error *err);
void yaml_value_free(const cyaml_schema_value_t *schema, void *value);
void yaml_file_done(struct yaml_file *file);

/*
 * yaml_wrong - say what is wrong with the value at @field: names and indices, separated by dots
 * ("tenants.1.name"). Finds its line. Always returns -EINVAL.
 */
int yaml_wrong(const struct yaml_file *file, struct error *err, const char *field,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
