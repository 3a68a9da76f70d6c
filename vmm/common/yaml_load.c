/* YAML with good messages: see yaml_load.h. */
#include "yaml_load.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "fd.h"

/* --- finding a field's line ------------------------------------------------------------------ */

/* The node at @field below @node, or the last one on the way that is there. */
static yaml_node_t *walk(yaml_document_t *document, yaml_node_t *node, const char *field)
{
    while (node && *field) {
        size_t len = strcspn(field, ".");
        yaml_node_t *next = NULL;

        if (node->type == YAML_SEQUENCE_NODE) {
            const yaml_node_item_t *items = node->data.sequence.items.start;
            size_t i = strtoul(field, NULL, 10);

            if (i < (size_t)(node->data.sequence.items.top - items))
                next = yaml_document_get_node(document, items[i]);
        } else if (node->type == YAML_MAPPING_NODE) {
            for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
                 pair < node->data.mapping.pairs.top; pair++) {
                const yaml_node_t *key = yaml_document_get_node(document, pair->key);

                if (key && key->type == YAML_SCALAR_NODE && key->data.scalar.length == len &&
                    memcmp(key->data.scalar.value, field, len) == 0)
                    next = yaml_document_get_node(document, pair->value);
            }
        }
        if (!next)
            return node;
        node = next;
        field += len + (field[len] == '.');
    }
    return node;
}

static unsigned line_of(const struct yaml_file *file, const char *field)
{
    yaml_document_t document;
    yaml_parser_t parser;
    unsigned line = 1;

    if (!yaml_parser_initialize(&parser))
        return line;
    yaml_parser_set_input_string(&parser, file->data, file->len_bytes);
    if (yaml_parser_load(&parser, &document)) {
        const yaml_node_t *node = walk(&document, yaml_document_get_root_node(&document), field);

        if (node)
            line = (unsigned)node->start_mark.line + 1;
        yaml_document_delete(&document);
    }
    yaml_parser_delete(&parser);
    return line;
}

/* --- loading --------------------------------------------------------------------------------- */

enum { FIELD_BYTES = 200, NAME_BYTES = 60 };

/* What libcyaml logs: the fault first, then where it is, from the inside out. */
struct log {
    char fault[200];
    char field[FIELD_BYTES]; /* "outer.2.inner" */
    unsigned n_places;
};

static const char missing[] = "Missing required mapping field: ", unexpected[] = "Unexpected key: ";

static bool begins_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static void put_before(struct log *log, const char *name)
{
    char longer[FIELD_BYTES + NAME_BYTES + 2];

    snprintf(longer, sizeof(longer), "%s%s%s", name, log->field[0] ? "." : "", log->field);
    if (strlen(longer) < sizeof(log->field))
        memcpy(log->field, longer, strlen(longer) + 1);
}

/* "in mapping field 'name' (line: 3, column: 5)", "in sequence entry '1' (line: …" */
static void take_place(struct log *log, const char *text)
{
    const char *quote = strchr(text, '\'');
    char name[NAME_BYTES];

    if (!quote)
        return;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(quote + 1, "'"), quote + 1);
    if (begins_with(text, "in sequence")) { /* counted from 1 there, from 0 here */
        unsigned long i = strtoul(quote + 1, NULL, 10);

        if (i == 0)
            return; /* none of them: the sequence as a whole */
        snprintf(name, sizeof(name), "%lu", i - 1);
    }
    /* Where a field is missing, the innermost place is that of the one read last. */
    if (log->n_places++ == 0 && begins_with(log->fault, missing))
        return;
    put_before(log, name);
}

__attribute__((format(printf, 3, 0))) static void log_line(cyaml_log_t level, void *opaque,
                                                           const char *format, va_list args)
{
    struct log *log = opaque;
    char line[200];
    const char *text = line;

    (void)level;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = 0;
    if (strncmp(text, "Load: ", 6) == 0)
        text += 6;
    text += strspn(text, " ");
    if (strncmp(text, "in ", 3) == 0)
        take_place(log, text);
    else if (strncmp(text, "Backtrace", 9) != 0 && !log->fault[0])
        snprintf(log->fault, sizeof(log->fault), "%s", text);
}

/* A key that the schema does not know, or lacks, is the field itself. */
static void name_key(struct log *log)
{
    bool is_missing = begins_with(log->fault, missing);
    char key[NAME_BYTES], outer[FIELD_BYTES];

    if (!is_missing && !begins_with(log->fault, unexpected))
        return;
    snprintf(key, sizeof(key), "%.*s", NAME_BYTES - 1, strrchr(log->fault, ':') + 2);
    memcpy(outer, log->field, sizeof(outer));
    snprintf(log->field, sizeof(log->field), "%s", key);
    if (outer[0])
        put_before(log, outer);
    snprintf(log->fault, sizeof(log->fault), "%s",
             is_missing ? "it is required" : "there is no such field");
}

static cyaml_config_t load_config(struct log *log)
{
    return (cyaml_config_t){
        .log_fn = log_line, .log_ctx = log, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
}

/* A document that is no YAML at all: libyaml's own words, and the line; 0: it is. */
static unsigned find_syntax_error(const struct yaml_file *file, struct log *log)
{
    yaml_parser_t parser;
    yaml_event_t event;
    bool is_wrong = false, has_ended = false;
    unsigned line = 0;

    if (!yaml_parser_initialize(&parser))
        return 0;
    yaml_parser_set_input_string(&parser, file->data, file->len_bytes);
    while (!is_wrong && !has_ended) {
        is_wrong = !yaml_parser_parse(&parser, &event);
        if (!is_wrong) {
            has_ended = event.type == YAML_STREAM_END_EVENT;
            yaml_event_delete(&event);
        }
    }
    if (is_wrong) {
        line = (unsigned)parser.problem_mark.line + 1;
        log->field[0] = '\0';
        snprintf(log->fault, sizeof(log->fault), "%s", parser.problem ? parser.problem : "no YAML");
    }
    yaml_parser_delete(&parser);
    return line;
}

int yaml_value_load(const char *path, const cyaml_schema_value_t *schema, void **ret_value,
                    struct yaml_file *ret_file, struct error *err)
{
    struct yaml_file file = {.path = path};
    struct log log = {.n_places = 0};
    cyaml_config_t config = load_config(&log);
    void *value = NULL;
    int r = fd_read_file(path, YAML_MAX_BYTES, &file.data, &file.len_bytes, err);

    if (r < 0)
        return r;
    cyaml_err_t e = cyaml_load_data(file.data, file.len_bytes, &config, schema, &value, NULL);
    if (e == CYAML_OK && value) {
        *ret_value = value;
        *ret_file = file;
        return 0;
    }
    if (e == CYAML_OK) {
        r = error_say(err, EINVAL, "%s: the file is empty", path);
    } else {
        unsigned line = find_syntax_error(&file, &log);

        name_key(&log);
        r = error_say(err, EINVAL, "%s:%u: %s%s%s", path, line ? line : line_of(&file, log.field),
                      log.field, log.field[0] ? ": " : "",
                      log.fault[0] ? log.fault : cyaml_strerror(e));
    }
    yaml_file_done(&file);
    return r;
}

void yaml_value_free(const cyaml_schema_value_t *schema, void *value)
{
    struct log log = {.n_places = 0};
    cyaml_config_t config = load_config(&log);

    if (value)
        cyaml_free(&config, schema, value, 0);
}

void yaml_file_done(struct yaml_file *file)
{
    free(file->data);
    file->data = NULL;
}

int yaml_wrong(const struct yaml_file *file, struct error *err, const char *field,
               const char *format, ...)
{
    char text[400];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_say(err, EINVAL, "%s:%u: %s: %s", file->path, line_of(file, field), field, text);
}
