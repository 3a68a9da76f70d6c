/*
 * Recipes through libcyaml: see image_recipe.h. A recipe is the administrator's own file and is run
 * with his rights, so the checks here find mistakes; they are no defence.
 */
#include "images/image_recipe.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "images/image_manifest.h"

enum { RECIPE_MAX_BYTES = 256 * 1024 };

/* --- schema ---------------------------------------------------------------------------------- */

static const cyaml_schema_value_t text_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 4096),
};

static const cyaml_schema_field_t link_fields[] = {
    CYAML_FIELD_STRING_PTR("path", CYAML_FLAG_POINTER, struct recipe_link, path, 2, 4096),
    CYAML_FIELD_STRING_PTR("target", CYAML_FLAG_POINTER, struct recipe_link, target, 1, 4096),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t link_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct recipe_link, link_fields),
};

static const cyaml_schema_field_t file_fields[] = {
    CYAML_FIELD_STRING_PTR("source", CYAML_FLAG_POINTER, struct recipe_file, source, 1, 4096),
    CYAML_FIELD_STRING_PTR("path", CYAML_FLAG_POINTER, struct recipe_file, path, 2, 4096),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t file_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct recipe_file, file_fields),
};

static const cyaml_schema_field_t python_fields[] = {
    CYAML_FIELD_STRING_PTR("interpreter", CYAML_FLAG_POINTER, struct recipe_python, interpreter, 2,
                           4096),
    CYAML_FIELD_SEQUENCE_COUNT("directories", CYAML_FLAG_POINTER, struct recipe_python, directories,
                               n_directories, &text_entry, 1, 64),
    CYAML_FIELD_END,
};

#define OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)

static const cyaml_schema_field_t recipe_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct recipe, name, 1, IMAGE_NAME_MAX),
    CYAML_FIELD_STRING_PTR("runtime", OPTIONAL, struct recipe, runtime, 1, 31),
    CYAML_FIELD_STRING_PTR("suite", CYAML_FLAG_POINTER, struct recipe, suite, 1, 64),
    CYAML_FIELD_SEQUENCE_COUNT("packages", CYAML_FLAG_POINTER, struct recipe, packages, n_packages,
                               &text_entry, 1, 1024),
    CYAML_FIELD_SEQUENCE_COUNT("delete", OPTIONAL, struct recipe, delete, n_delete, &text_entry, 0,
                               1024),
    CYAML_FIELD_SEQUENCE_COUNT("keep", OPTIONAL, struct recipe, keep, n_keep, &text_entry, 0, 1024),
    CYAML_FIELD_SEQUENCE_COUNT("links", OPTIONAL, struct recipe, links, n_links, &link_entry, 0,
                               1024),
    CYAML_FIELD_SEQUENCE_COUNT("files", OPTIONAL, struct recipe, files, n_files, &file_entry, 0,
                               1024),
    CYAML_FIELD_MAPPING_PTR("compile_python", OPTIONAL, struct recipe, compile_python,
                            python_fields),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t recipe_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct recipe, recipe_fields),
};

/* --- messages -------------------------------------------------------------------------------- */

/* What libcyaml logs about one load, on one line. */
struct log {
    char text[400];
};

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
    if (strcmp(text, "Backtrace:") == 0)
        return;
    size_t used = strlen(log->text);
    snprintf(log->text + used, sizeof(log->text) - used, "%s%s", used ? ", " : "", text);
}

static cyaml_config_t load_config(struct log *log)
{
    return (cyaml_config_t){
        .log_fn = log_line, .log_ctx = log, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
}

/* --- checks that a schema cannot express ----------------------------------------------------- */

static int wrong(const char *path, const char *field, const char *value, const char *need,
                 struct error *err)
{
    return error_say(err, EINVAL, "recipe '%s': %s '%s' %s", path, field, value, need);
}

static bool is_image_path(const char *path)
{
    size_t len = strlen(path);

    return path[0] == '/' && len > 1 && !strstr(path, "/../") && !strstr(path, "//") &&
           !(len >= 3 && strcmp(path + len - 3, "/..") == 0);
}

static bool is_package(const char *name)
{
    return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789+.-") == strlen(name) &&
           name[0] != '-' && name[0] != '+' && name[0] != '.';
}

static int check_paths(const char *path, const struct recipe *recipe, struct error *err)
{
    static const char need[] = "must be an absolute path in the image without '..'";

    for (unsigned i = 0; i < recipe->n_links; i++)
        if (!is_image_path(recipe->links[i].path))
            return wrong(path, "link", recipe->links[i].path, need, err);
    for (unsigned i = 0; i < recipe->n_files; i++)
        if (!is_image_path(recipe->files[i].path))
            return wrong(path, "file", recipe->files[i].path, need, err);
    const struct recipe_python *python = recipe->compile_python;
    if (python && !is_image_path(python->interpreter))
        return wrong(path, "interpreter", python->interpreter, need, err);
    for (unsigned i = 0; python && i < python->n_directories; i++)
        if (!is_image_path(python->directories[i]))
            return wrong(path, "directory", python->directories[i], need, err);
    return 0;
}

static int check(const char *path, const struct recipe *recipe, struct error *err)
{
    if (!image_name_is_valid(recipe->name))
        return wrong(path, "name", recipe->name, "must match [a-z0-9][a-z0-9._-]*", err);
    if (recipe->runtime && !image_name_is_valid(recipe->runtime))
        return wrong(path, "runtime", recipe->runtime, "must match [a-z0-9][a-z0-9._-]*", err);
    if (!is_package(recipe->suite))
        return wrong(path, "suite", recipe->suite, "is not a Debian suite", err);
    for (unsigned i = 0; i < recipe->n_packages; i++)
        if (!is_package(recipe->packages[i]))
            return wrong(path, "package", recipe->packages[i], "is not a Debian package name", err);
    for (unsigned i = 0; i < recipe->n_delete; i++)
        if (recipe->delete[i][0] != '/')
            return wrong(path, "delete", recipe->delete[i], "must start with '/'", err);
    return check_paths(path, recipe, err);
}

int recipe_load(const char *path, struct recipe **ret_recipe, struct error *err)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0;
    struct recipe *recipe = NULL;
    struct log log = {0};
    cyaml_config_t config = load_config(&log);
    int r = fd_read_file(path, RECIPE_MAX_BYTES, &data, &len, err);

    if (r < 0)
        return r;
    cyaml_err_t e = cyaml_load_data(data, len, &config, &recipe_schema, (void **)&recipe, NULL);
    if (e != CYAML_OK)
        return error_say(err, EINVAL, "recipe '%s': %s", path,
                         log.text[0] ? log.text : cyaml_strerror(e));
    if (!recipe) /* libcyaml's answer to an empty document */
        return error_say(err, EINVAL, "recipe '%s' is empty", path);
    r = check(path, recipe, err);
    if (r < 0) {
        recipe_free(recipe);
        return r;
    }
    *ret_recipe = recipe;
    return 0;
}

void recipe_free(struct recipe *recipe)
{
    struct log log = {0};
    cyaml_config_t config = load_config(&log);

    if (recipe)
        cyaml_free(&config, &recipe_schema, recipe, 0);
}
